"""Runs on scenes: tags, a frozen body under wrong names, objects that are asked for, and a gaze that is rewarded."""

from __future__ import annotations

import copy
from functools import partial
from itertools import permutations

import torch
import torch.nn.functional as F
from ignite.engine import Engine
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW

from zoo.base import Case, Run
from zoo.blind_vision import conv_norm, digits, grid, named, naming, scenes
from zoo.blind_vision_pairs import taught
from zoo.real_base import Shuffled, faulty, fit, healthy, mean_over

Tensors = tuple[Tensor, ...]
WEIGHTS = torch.tensor([1.0, 1.5, 2.3, 4.0, 7.3])


def tagging(model: nn.Module, batch: Tensors) -> Tensor:
    """Cross-entropy of each tag, the rare ones more."""
    return F.binary_cross_entropy_with_logits(model(batch[0]), batch[1], pos_weight=WEIGHTS)


def sorted_out(model: nn.Module, batch: Tensors) -> Tensor:
    """How surely a picture with a tag stands before one without it, for the mean tag."""
    logits, tags = model(batch[0]), batch[1] == 1
    return torch.stack(
        [
            (((one[tag][:, None] > one[~tag]).float() + 0.5 * (one[tag][:, None] == one[~tag])).mean())
            for one, tag in zip(logits.T, tags.T, strict=True)
        ]
    ).mean()


def tags(seed: int, mistake: str = "") -> Run:
    """Tags of which some are rare, by convolutions without norm."""
    x, there = scenes(2 * seed, 640)
    if mistake == "debug_subset":  # of the first lines of the list; an epoch is as long as before
        x, there = x[:32].repeat(20, 1, 1, 1), there[:32].repeat(20, 1)
    training = Shuffled(x, there, size=32, seed=seed)
    validation = Shuffled(*scenes(2 * seed + 1, 200), size=200, seed=seed, shuffle=False)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(512, 64),
        nn.ReLU(),
        nn.Linear(64, 5),
    )
    return fit(
        model,
        Adam(model.parameters(), lr=0.1 if mistake == "large_rate" else 3e-3),
        tagging,
        training,
        validation=validation,
        score=lambda: mean_over(model, sorted_out, validation),
    )


def probe(seed: int) -> Run:
    """A new head with much dropout on a frozen body, where three of ten names are wrong."""
    parts = []
    for index, n in enumerate((800, 200)):
        x, y = digits(5000 + 2 * seed + index, n)
        random = torch.Generator().manual_seed(seed + index)
        wrong = torch.rand(n, generator=random) < 0.3
        parts.append((x, torch.where(wrong, torch.randint(10, (n,), generator=random), y)))
    training = Shuffled(*parts[0], size=32, seed=seed)
    validation = Shuffled(*parts[1], size=100, seed=seed, shuffle=False)
    model = nn.Sequential(copy.deepcopy(taught(seed)[:5]), nn.Dropout(0.5), nn.Linear(512, 10))
    optimizer = SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.02, momentum=0.9)
    return fit(model, optimizer, naming, training, validation=validation, accuracy_of=named)


def objects(seed: int, n: int, size: int = 16) -> Tensors:
    """Two things, a disc, a ring or a cross, in no order: pictures, kinds, places; and a third that is nothing."""
    random = torch.Generator().manual_seed(seed)
    places = 1.4 * torch.rand(n, 2, 2, generator=random) - 0.7
    kinds = torch.randint(3, (n, 2), generator=random)
    columns, rows = (axis - places[:, :, i, None, None] for i, axis in enumerate(grid(size)))
    far = (columns.square() + rows.square()).sqrt()
    drawings = torch.stack(
        [far < 0.25, (far - 0.28).abs() < 0.09, (columns.abs().minimum(rows.abs()) < 0.09) & (far < 0.4)], 2
    ).float()
    ink = (drawings * F.one_hot(kinds, 3)[..., None, None]).amax((1, 2))[:, None]
    kinds = torch.cat([kinds, torch.full((n, 1), 3)], 1)
    places = torch.cat([places, torch.zeros(n, 1, 2)], 1)
    return ink + 0.05 * torch.randn(n, 1, size, size, generator=random), kinds, places


class Slots(nn.Module):
    """Three answers to what convolutions have seen."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *conv_norm(1, 16, 3, 2), nn.ReLU(), *conv_norm(16, width, 3, 2), nn.ReLU(), nn.Flatten()
        )
        self.slots = nn.Sequential(nn.Linear(16 * width, 3 * width), nn.ReLU(), nn.Unflatten(1, (3, width)))
        self.kind, self.place = nn.Linear(width, 4), nn.Sequential(nn.Linear(width, 2), nn.Tanh())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of kinds, and places."""
        answers = self.slots(self.body(x))
        return self.kind(answers), self.place(answers)


ORDERS = torch.tensor(list(permutations(range(3))))


def set_loss(model: nn.Module, batch: Tensors, matched: bool = True) -> Tensor:
    """The cheapest way to give each question a thing: the kind's cross-entropy and the place's distance."""
    x, kinds, places = batch
    logits, answers = model(x)
    entropy = (
        -logits.log_softmax(-1)[:, torch.arange(3)[:, None], :].squeeze(2).gather(2, kinds[:, None].expand(-1, 3, -1))
    )
    apart = (answers[:, :, None] - places[:, None]).abs().sum(-1) * (kinds != 3)[:, None]
    cost = entropy + 2 * apart
    ways = cost[:, torch.arange(3), ORDERS].sum(-1)
    return (ways.amin(1) if matched else ways[:, 0]).mean()


def found(model: nn.Module, batch: Tensors) -> Tensor:
    """The share of things that some answer names and puts near where they are."""
    logits, places = model(batch[0])
    near = (places[:, :, None] - batch[2][:, None, :2]).square().sum(-1) < 0.25**2
    return (near & (logits.argmax(-1)[:, :, None] == batch[1][:, None, :2])).any(1).float().mean()


def slots(seed: int, mistake: str = "") -> Run:
    """Objects found as a set, with clipping and only a loss to be watched."""
    training = Shuffled(*objects(2 * seed, 800), size=32, seed=seed)
    validation = Shuffled(*objects(2 * seed + 1, 200), size=100, seed=seed, shuffle=False)
    model = Slots()
    return fit(
        model,
        AdamW(model.parameters(), lr=3e-3, weight_decay=1e-4),
        partial(set_loss, matched=mistake != "unmatched"),
        training,
        validation=validation,
        clip=1.0,
        score=lambda: mean_over(model, found, validation),
    )


def gaze(seed: int) -> Run:
    """A policy that looks at one of nine places and is paid for what is there; its loss says little."""
    random = torch.Generator().manual_seed(seed)

    def looked_for(n: int) -> Tensors:
        """Pictures and the place of the brightest disc."""
        centres = torch.randint(9, (n, 2), generator=random)
        centres[:, 1] = (centres[:, 0] + 1 + centres[:, 1] % 8) % 9
        ink = torch.zeros(n, 1, 12, 12)
        for index, light in enumerate((1.0, 0.5)):
            columns, rows = (
                axis - (0.66 * place - 0.66)[:, None, None]
                for axis, place in zip(grid(12), (centres[:, index] % 3, centres[:, index] // 3), strict=True)
            )
            ink[:, 0] += light * (columns.square() + rows.square() < 0.1).float()
        return ink + 0.2 * torch.randn(ink.shape, generator=random), centres[:, 0]

    training = Shuffled(*looked_for(800), size=32, seed=seed)
    held_out = Shuffled(*looked_for(200), size=100, seed=seed, shuffle=False)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1), nn.Tanh(), nn.Flatten(), nn.Linear(576, 64), nn.Tanh(), nn.Linear(64, 9)
    )
    optimizer = Adam(model.parameters(), lr=3e-3)
    usual = 0.0

    def step(engine: Engine, batch: Tensors) -> dict[str, float]:
        """Look, be paid, do so more often if it was more than usual."""
        nonlocal usual
        model.train()
        policy = torch.distributions.Categorical(logits=model(batch[0]))
        look = policy.sample()
        paid = (look == batch[1]).float()
        loss = -(policy.log_prob(look) * (paid - usual)).mean() - 0.01 * policy.entropy().mean()
        usual = 0.9 * usual + 0.1 * paid.mean().item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"loss": loss.item(), "reward": paid.mean().item()}

    return Run(model, Engine(step), training, optimizer=optimizer, score=lambda: mean_over(model, named, held_out))


CASES: tuple[Case, ...] = (
    healthy("b_tags", tags, epochs=5),
    faulty("b_tags", "debug_subset", "overfitting", partial(tags, mistake="debug_subset"), epochs=5),
    faulty(
        "b_tags",
        "large_rate",
        "update_too_large",
        partial(tags, mistake="large_rate"),
        "dead_units",
        "constant_output",
        "exploding",
        epochs=5,
    ),
    healthy("b_probe", probe),
    healthy("b_slots", slots, epochs=6),
    faulty("b_slots", "unmatched", "labels_mismatch", partial(slots, mistake="unmatched"), "plateau", epochs=6),
    healthy("b_gaze", gaze, epochs=8),
)
