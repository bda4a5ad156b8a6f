"""A watched model that is a part of something larger: what other layers read is hidden, and is no output to judge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import SGD, Adam, Optimizer

from ignite_act import EpochRecorder
from ignite_act.report import EpochReport

TRUTH = torch.randn(8, 3, generator=torch.Generator().manual_seed(7))
OF_OUTPUTS = {"output_probabilities", "output_activation", "uncleared_gradient", "no_gradient", "loss_rising"}


def seeded(make: Callable[[], Any]) -> Any:
    torch.manual_seed(0)
    return make()


def trained(
    model: nn.Module,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    *others: nn.Module,
    optimizers: tuple[Optimizer, ...] = (),
) -> EpochReport:
    """A plain loop with one optimizer, or those that are given, over the model and the modules that come after it."""
    own = [p for part in (model, *others) for p in part.parameters() if p.requires_grad]
    optimizers = optimizers or (Adam(own, 3e-3),)
    generator = torch.Generator().manual_seed(1)
    with EpochRecorder(model) as recorder:
        for x in torch.randn(16, 32, 8, generator=generator):
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss = loss_of(x, (x @ TRUTH).argmax(1))
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
            recorder.record_loss(loss)
        return recorder.finish()


def kinds(report: EpochReport) -> set[str]:
    return {f.kind for f in report.findings if f.kind in OF_OUTPUTS and f.severity != "info"}


def unseen(report: EpochReport) -> dict[str, str]:
    return dict(report.coverage.get("output", {}).get("unseen", {}))


def encoder() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU())


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inside, self.head = nn.MultiheadAttention(16, 2, batch_first=True), nn.Linear(16, 3)

    def forward(self, z: Tensor) -> Tensor:
        z = z.unsqueeze(1)
        return self.head(self.inside(z, z, z)[0][:, 0])


DECODERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(16, 3),
    "frozen": lambda: nn.Linear(16, 3).requires_grad_(False),
    "frozen deep": lambda: nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)).requires_grad_(False),
    "norm first": lambda: nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 3)),
    "frozen convolution": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 16)), nn.Conv1d(1, 2, 3), nn.Flatten(), nn.Linear(28, 3)
    ).requires_grad_(False),
    "recurrent": lambda: nn.Sequential(nn.Unflatten(1, (4, 4)), nn.Flatten(), nn.Linear(16, 3)),
    "attention": Attention,
    "frozen attention": lambda: Attention().requires_grad_(False),
    "dropout first": lambda: nn.Sequential(nn.Dropout(0.2), nn.Linear(16, 3)),
}


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("functional", [False, True])
def test_a_watched_encoder_has_no_output_to_judge(name: str, functional: bool) -> None:
    """What a decoder reads, trained or frozen, called or functional, is a hidden value, and the coverage says so."""
    model = seeded(encoder)
    decoder = DECODERS[name]()

    def decode(z: Tensor) -> Any:
        return functional_call(decoder, dict(decoder.named_parameters()), (z,)) if functional else decoder(z)

    report = trained(model, lambda x, y: F.cross_entropy(decode(model(x)), y), decoder)
    assert report.output["loss_applies"] is None
    assert not kinds(report)
    assert "other layers or products read it" in unseen(report)["output"]


def test_a_decoder_with_its_own_optimizer() -> None:
    """Two optimizers, one for the watched part: the same holds."""
    model, decoder = seeded(encoder), nn.Linear(16, 3)
    own, other = SGD(model.parameters(), 0.05), SGD(decoder.parameters(), 0.05)

    report = trained(model, lambda x, y: F.cross_entropy(decoder(model(x)), y), optimizers=(own, other))
    assert report.output["loss_applies"] is None
    assert not kinds(report)


def contrastive(z: Tensor) -> Tensor:
    similar = (z @ z.T / 4).masked_fill(torch.eye(len(z), dtype=torch.bool), -1e9)
    return F.cross_entropy(similar, torch.arange(len(z)).roll(len(z) // 2))


@pytest.mark.parametrize("how", ["product", "prototypes", "own head", "twice", "matmul", "einsum", "distances"])
def test_features_that_a_product_reads_are_no_logits(how: str) -> None:
    """Features in a product (contrastive, prototypes, a head called by the loop) may end with a ReLU."""
    model = seeded(lambda: nn.ModuleDict({"body": encoder(), "head": nn.Linear(16, 3)}))
    body, prototypes = model["body"], torch.randn(3, 16)
    whole = how == "own head"
    losses: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "product": lambda x, y: contrastive(body(x)),
        "prototypes": lambda x, y: F.cross_entropy(body(x) @ prototypes.T, y),
        "own head": lambda x, y: F.cross_entropy(model["head"](body(x)), y),
        "twice": lambda x, y: F.cross_entropy(body(body(x)[:, :8]) @ prototypes.T, y),
        "matmul": lambda x, y: F.cross_entropy(torch.matmul(prototypes, body(x)[:, :, None])[:, :, 0], y),
        "distances": lambda x, y: F.cross_entropy(-torch.cdist(body(x), prototypes), y),
        "einsum": lambda x, y: F.cross_entropy(torch.einsum("nf,cf->nc", body(x), prototypes), y),
    }
    report = trained(body, losses[how], *([model["head"]] if whole else []))
    assert report.output["loss_applies"] is None
    assert not kinds(report)
    assert "output" in unseen(report)


def test_a_backbone_whose_head_is_called_by_the_loop() -> None:
    """A model that returns features while the loop calls its own last layer: the features are hidden."""

    class Backbone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = encoder(), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x)

    model = seeded(Backbone)
    report = trained(model, lambda x, y: F.cross_entropy(model.head(model(x)), y))
    assert report.output["loss_applies"] is None
    assert not kinds(report)
