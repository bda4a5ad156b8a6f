"""Channels of a convolution on their way through functions that move, split, merge or drop axes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ignite_act.collect import ActivationCollector, DeadUnitCollector

IMAGES = torch.randn(6, 3, 10, 12, generator=torch.Generator().manual_seed(0))
Way = Callable[["Net", Tensor], Tensor]


class Net(nn.Module):
    """A convolution with three dead channels of eight, the others alive everywhere; a way; a ReLU."""

    def __init__(self, way: Way, channels: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, channels, 3, padding=1)
        self.up = nn.Linear(channels, 6)
        self.mix = nn.Parameter(torch.rand(5, channels))
        self.graph = nn.Parameter(torch.eye(12))
        self.way = way
        with torch.no_grad():
            self.conv.bias.copy_(torch.where(torch.arange(channels) < 3, -100.0, 100.0))  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.way(self, self.conv(x)))


def measure(way: Way, x: Tensor = IMAGES, **options: int) -> tuple[int, int] | str:
    """Dead units and units, or why they are not known."""
    model = Net(way, **options)
    with DeadUnitCollector(model) as collector:
        model(x)
        rows = collector.finish()
    return (rows["relu"]["dead"], rows["relu"]["units"]) if rows else collector.coverage.unseen["relu"]


def windows(self: Net, z: Tensor, back: bool = False) -> Tensor:
    """As in Swin: into windows of 2 x 2, and back."""
    n, c, h, w = z.shape
    z = z.permute(0, 2, 3, 1).view(n, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).contiguous()
    if not back:
        return z.view(-1, 4, c)
    z = z.view(-1, 4, c).view(n, h // 2, w // 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5)
    return z.reshape(n, h, w, c).permute(0, 3, 1, 2)


def fill(self: Net, z: Tensor, last: bool = False) -> Tensor:
    """Copies into a larger tensor, on a new second or last axis."""
    y = z.new_zeros(*z.shape, 2) if last else z.new_zeros(6, 2, *z.shape[1:])
    for number in range(2):
        y[(..., number) if last else (slice(None), number)] = z
    return y


def normalise_groups(self: Net, z: Tensor) -> Tensor:
    groups = z.reshape(6, 2, -1)
    return (groups + 0 * groups.mean(-1, keepdim=True)).view(z.shape)


STAY: dict[str, Way] = {
    "view of frames": lambda self, z: z.view(2, 3, *z.shape[1:]),
    "unflatten": lambda self, z: z.unflatten(0, (2, 3)),
    "unflatten and flatten": lambda self, z: z.unflatten(0, (2, 3)).flatten(0, 1),
    "view_as": lambda self, z: z.view_as(torch.empty(2, 3, 8, 120)),
    "z[0]": lambda self, z: z[0],
    "z[None, 1:3]": lambda self, z: z[None, 1:3],
    "z[..., 0, None]": lambda self, z: z[..., 0, None],
    "z[:, None, :, ::2, 1]": lambda self, z: z[:, None, :, ::2, 1],
    "rows by a mask": lambda self, z: z[torch.tensor([True, False, True, False, True, True])],
    "rows by numbers": lambda self, z: z[torch.tensor([1, 0, 3])],
    "rows by a list": lambda self, z: z[[1, 0, 3]],
    "rows by a matrix": lambda self, z: z[torch.tensor([[1, 0], [3, 2]])],
    "channels by numbers": lambda self, z: z[:, torch.arange(8).flip(0)],
    "positions by numbers": lambda self, z: z[:, :, torch.arange(3), torch.arange(3)],
    "rows and positions by numbers": lambda self, z: z[torch.arange(6), :, torch.arange(6), torch.arange(6)],
    "positions by a mask": lambda self, z: z[:, :, torch.ones(10, 12).bool()],
    "pixels by a mask": lambda self, z: z.permute(0, 2, 3, 1)[torch.ones(6, 10, 12).bool()],
    "narrow": lambda self, z: z.narrow(0, 0, 1),
    "select": lambda self, z: z.select(2, 1),
    "split": lambda self, z: z.split(2)[1],
    "chunk": lambda self, z: z.chunk(2, dim=2)[0],
    "unbind": lambda self, z: z.unbind(0)[2],
    "a loop over the batch": lambda self, z: torch.stack(list(z)),
    "stack": lambda self, z: torch.stack([z, z], 1),
    "stack at the end": lambda self, z: torch.stack((z, z), dim=-1),
    "cat of batches": lambda self, z: torch.cat([z, z]),
    "squeeze of one image": lambda self, z: z[:1].squeeze(0),
    "patches by rearranging": lambda self, z: (
        z.reshape(6, 8, 5, 2, 6, 2).permute(0, 2, 4, 3, 5, 1).reshape(6, 30, 4, 8)
    ),
    "a shuffle of groups": lambda self, z: z.view(6, 2, 4, 10, 12).transpose(1, 2).reshape(6, 8, 10, 12),
    "channel_shuffle": lambda self, z: torch.channel_shuffle(z, 2),
    "movedim": lambda self, z: z.movedim(1, -1),
    "swapaxes": lambda self, z: z.swapaxes(0, 1),
    "transpose_": lambda self, z: z.clone().transpose_(1, 3),
    "unsqueeze_": lambda self, z: z.clone().unsqueeze_(1),
    "mT": lambda self, z: z.flatten(2).mT,
    "T": lambda self, z: z.mean((2, 3)).T,
    "patches of a ViT with a token": lambda self, z: torch.cat([z.new_zeros(6, 1, 8) - 200, z.flatten(2).mT], 1),
    "windows": windows,
    "windows and back": lambda self, z: windows(self, z, back=True),
    "expand": lambda self, z: z[None].expand(2, -1, -1, -1, -1),
    "repeat": lambda self, z: z.repeat(2, 1, 1, 1, 1),
    "unfold": lambda self, z: z.unfold(3, 2, 2),
    "diagonal": lambda self, z: z.diagonal(dim1=2, dim2=3),
    "global pooling": lambda self, z: F.adaptive_avg_pool2d(z, 1).squeeze(),
    "global pooling of one image": lambda self, z: F.adaptive_avg_pool2d(z[:1], 1).squeeze(),
    "global pooling, flattened": lambda self, z: F.adaptive_avg_pool2d(z, 1).view(6, -1),
    "a mean with kept axes": lambda self, z: z.mean((2, 3), keepdim=True),
    "a mean over the batch": lambda self, z: z.mean(0),
    "a sum by keywords": lambda self, z: torch.sum(input=z, dim=(2, 3)),
    "the largest of a row": lambda self, z: z.max(-1)[0],
    "a gate of channels": lambda self, z: z * torch.sigmoid(z.mean((2, 3))).view(6, 8, 1, 1) + z,
    "a mask of positions": lambda self, z: z * torch.sigmoid(z.mean(1, keepdim=True)) + z,
    "einsum that reorders": lambda self, z: torch.einsum("nchw->nhwc", z),
    "einsum that sums": lambda self, z: torch.einsum("nchw,hwk->nck", [z, torch.ones(10, 12, 3)]),
    "einsum with a graph": lambda self, z: torch.einsum("nchw,wv->nchv", z, self.graph),
    "a product with a constant": lambda self, z: z @ torch.eye(12),
    "attention over positions": lambda self, z: z.flatten(2) @ torch.softmax(z.flatten(2).mT @ z.flatten(2), -1),
    "interpolation": lambda self, z: F.interpolate(F.pad(z, (1, 1, 1, 1), mode="replicate"), scale_factor=2),
    "a copy": lambda self, z: torch.empty(6, 8, 10, 12).copy_(z),
    "an assignment": fill,
    "an assignment at the end": lambda self, z: fill(self, z, last=True),
    "a norm over groups by hand": normalise_groups,
}


@pytest.mark.few(60)
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("way", STAY)
def test_channels_stay_units(way: str, memory: torch.memory_format) -> None:
    """A channel is a unit wherever its axis goes, in either format of the memory."""
    if memory is torch.channels_last and way in ("view_as",):
        pytest.skip("torch refuses that view")
    assert measure(STAY[way], IMAGES.to(memory_format=memory)) == (3, 8)  # type: ignore[call-overload]


OTHERS: dict[str, tuple[Way, tuple[int, int]]] = {
    "cat of channels": (lambda self, z: torch.cat([z, z], 1), (6, 16)),
    "tile": (lambda self, z: z.tile(2, 1, 1), (6, 16)),
    "half of the channels": (lambda self, z: z[:, :4], (3, 4)),
    "chunks of channels": (lambda self, z: z.chunk(2, 1)[1], (0, 4)),
    "every second channel": (lambda self, z: z[:, ::2], (2, 4)),
    "one channel on its axis": (lambda self, z: z[:, :1], (1, 1)),
    "pixel_unshuffle": (lambda self, z: F.pixel_unshuffle(z, 2), (12, 32)),
    "pixel_shuffle": (lambda self, z: F.pixel_shuffle(z, 2), (0, 2)),
    "flattened features": (lambda self, z: z.flatten(1), (360, 960)),
    "a 1 x 1 convolution by einsum": (lambda self, z: torch.einsum("nchw,dc->ndhw", -z, self.mix), (5, 5)),
    "a weight on the left": (lambda self, z: -self.mix @ z.flatten(2), (5, 5)),
    "a weight made of another": (lambda self, z: (-2 * self.mix) @ z.flatten(2), (5, 5)),
    "a weight on the right": (lambda self, z: -z.permute(0, 2, 3, 1) @ self.mix.t(), (5, 5)),
    "a linear layer on channels": (lambda self, z: self.up(z.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) + 1e4, (0, 6)),
    "heads of a linear layer": (lambda self, z: self.up(z.flatten(2).mT).view(6, 120, 2, 3) + 1e4, (0, 3)),
}


@pytest.mark.parametrize("way", OTHERS)
def test_other_units_are_counted_where_they_are(way: str) -> None:
    """Parts of the channels, several sets of them, and the units of a weight are counted on their own axis."""
    function, expected = OTHERS[way]
    assert measure(function) == expected


UNKNOWN: dict[str, Way] = {
    "the largest channel": lambda self, z: z.max(1)[0],
    "the mean channel": lambda self, z: z.mean(1, keepdim=True),
    "one channel": lambda self, z: z[:, 0],
    "one channel for each sample": lambda self, z: z[torch.arange(6), torch.arange(6)],
    "groups of channels": lambda self, z: z.view(6, 2, 4, 10, 12),
    "groups of the last axis": lambda self, z: z.permute(0, 2, 3, 1).reshape(6, 10, 12, 2, 4),
    "channels in the batch": lambda self, z: z.reshape(48, 1, 10, 12),
    "columns of patches": lambda self, z: F.unfold(z, 3),
    "selected numbers": lambda self, z: z[z > -1e9],
    "positions in channels": lambda self, z: z.reshape(6, 8, 5, 2, 6, 2).permute(0, 1, 3, 5, 2, 4).reshape(6, 32, 5, 6),
    "channels in positions": lambda self, z: (
        z.reshape(6, 2, 2, 2, 10, 12).permute(0, 1, 4, 2, 5, 3).reshape(6, 2, 20, 24)
    ),
    "attention over channels": lambda self, z: z.flatten(2) @ z.flatten(2).mT,
    "a map of attention": lambda self, z: z.flatten(2).mT @ z.flatten(2),
    "two layouts at once": lambda self, z: z[:, :, :8, :8] + z[:, :, :8, :8].mT.transpose(1, 3),
}


@pytest.mark.parametrize("way", UNKNOWN)
def test_an_axis_that_is_lost_is_said(way: str) -> None:
    """Without a single axis of channels dead units are listed, and the distribution is measured all the same."""
    reason = measure(UNKNOWN[way])
    assert reason == "its units' axis is not known: the channels were split or mixed with other axes; give unit_dim"
    model = Net(UNKNOWN[way])
    with ActivationCollector(model) as distributions, DeadUnitCollector(model, unit_dim=-1) as chosen:
        y = model(IMAGES)
        row = distributions.finish()["relu"]
        assert chosen.finish()["relu"]["units"] == y.shape[-1]
    assert (row["count"], row["units"], row["saturated_units"]) == (y.numel(), 0, 0)
    assert row["mean"] == pytest.approx(y.double().mean().item())


@pytest.mark.parametrize(
    ("way", "shape"),
    [
        (lambda self, z: z, (6, 1, 10, 12)),
        (lambda self, z: z.flatten(2), (6, 1, 120)),
        (lambda self, z: z.permute(0, 2, 3, 1), (6, 10, 12, 1)),
        (lambda self, z: z.view(2, 3, 1, 10, 12), (2, 3, 1, 10, 12)),
        (lambda self, z: z.mean((2, 3)), (6, 1)),
    ],
)
def test_one_channel_is_one_unit(way: Way, shape: tuple[int, ...]) -> None:
    """An axis of length one is followed, too."""
    assert measure(way, channels=1) == (1, 1)


@pytest.mark.parametrize("size", [1, 8])
def test_axes_of_one_length_are_told_apart(size: int) -> None:
    """Batch, channels, height and width may be equal, or 1: nothing is guessed from sizes."""
    x = torch.randn(size, 3, size, size, generator=torch.Generator().manual_seed(0))
    for way in (
        lambda self, z: z.permute(2, 3, 1, 0),
        lambda self, z: z.transpose(0, 1),
        lambda self, z: z.unsqueeze(1).transpose(2, 3).flatten(0, 1),
        lambda self, z: z.reshape(z.shape[0], z.shape[1], -1).mT.unsqueeze(2),
        lambda self, z: z.flatten(2)[..., None].transpose(1, -1),
    ):
        assert measure(way, x) == (3, 8)


def test_an_image_without_a_batch() -> None:
    """One image is a sample; its channels are on the first axis."""
    assert measure(lambda self, z: z.unsqueeze(0).flatten(2).mT, IMAGES[0]) == (3, 8)


def test_features_of_linear_layers_stay_on_the_last_axis() -> None:
    """Without a convolution the rule of the last axis holds, whatever is reshaped."""
    model = nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (2, 3)), nn.ReLU(), nn.Flatten(), nn.ReLU())
    with DeadUnitCollector(model) as collector:
        model(torch.randn(5, 4))
        assert [row["units"] for row in collector.finish().values()] == [3, 6]


def test_what_is_computed_out_of_sight_keeps_the_layout_of_its_input() -> None:
    """A module between a convolution and a ReLU that nobody can look into hands the channels on by its shape."""

    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return torch.from_numpy(2 * x.detach().numpy())

        @staticmethod
        def backward(ctx: object, *grad: Tensor) -> Tensor:
            return 2 * grad[0]

    class Outside(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Twice.apply(x)  # type: ignore[no-any-return, no-untyped-call]

    model = nn.Sequential(nn.Conv2d(3, 8, 3), Outside(), nn.ReLU())
    with DeadUnitCollector(model) as collector:
        model(IMAGES)
        assert collector.finish()["2"]["units"] == 8


def test_moves_are_remembered_and_right_for_every_shape() -> None:
    """One model may see images of several sizes; each is followed by its own shape."""
    model = Net(lambda self, z: z.view(2, -1, *z.shape[1:]).flatten(3).transpose(2, 3))
    with DeadUnitCollector(model) as collector:
        for height, batch in ((10, 6), (8, 4), (10, 6), (12, 2)):
            model(torch.randn(batch, 3, height, 12))
        assert (lambda row: (row["dead"], row["units"]))(collector.finish()["relu"]) == (3, 8)
