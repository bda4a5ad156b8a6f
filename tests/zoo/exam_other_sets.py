"""Sets, columns, episodes and functions in the exam half of the real part of the zoo."""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, AdamW, RMSprop
from torch.optim.lr_scheduler import LambdaLR

from zoo.base import Case, Run
from zoo.exam_other_tables import layers, table
from zoo.exam_text_models import Attention
from zoo.real_base import Shuffled, faulty, fit, healthy, mean_over

Tensors = tuple[Tensor, ...]


class Mixed(nn.Module):
    """Attention and layers, each with a norm before it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.layers = Attention(width), layers(width, 2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """The sequence with what the block adds."""
        x = x + self.attention(self.first(x))
        return x + self.layers(self.second(x))


class ColumnTransformer(nn.Module):
    """Each column of a table is a token; a further token is asked for the class."""

    def __init__(self, columns: int, classes: int, width: int = 24, listed: bool = False) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(columns, width)), nn.Parameter(torch.randn(columns, width))
        self.asked = nn.Parameter(torch.randn(width))
        blocks = [Mixed(width) for _ in range(2)]
        self.blocks = blocks if listed else nn.ModuleList(blocks)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the classes."""
        tokens = x[..., None] * self.weight + self.bias
        tokens = torch.cat([self.asked.expand(len(x), 1, -1), tokens], 1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(self.norm(tokens[:, 0]))


def class_loss(model: nn.Module, batch: Tensors) -> Tensor:
    """The cross-entropy of classes."""
    return F.cross_entropy(model(batch[0]), batch[1])


def class_accuracy(model: nn.Module, batch: Tensors) -> Tensor:
    """The share of classes that are right."""
    return (model(batch[0]).argmax(1) == batch[1]).float().mean()


def columns(seed: int, mistake: str = "") -> Run:
    """A transformer over columns, with a warm-up, whose classes are partly noise."""
    parts: list[Tensors] = []
    for index, n in enumerate((640, 320)):
        x, signal, random = table(2 * seed + index, n, 6)
        kind = (signal + 0.3 * torch.randn(n, generator=random) > 0).long()
        parts.append((x, kind.clamp(max=0) if mistake == "one_class" else kind, kind))
    if mistake == "first_rows":
        parts[0] = tuple(values[:32].repeat(20, *[1] * (values.ndim - 1)) for values in parts[0])  # left from a trial
    training = Shuffled(*parts[0], size=32, seed=seed)
    validation = Shuffled(*parts[1], size=64, seed=seed, shuffle=False)
    model = ColumnTransformer(6, 2, listed=mistake == "plain_list")
    optimizer = AdamW(model.parameters(), lr=0.5 if mistake == "large_rate" else 3e-3, weight_decay=0.01)
    schedule = LambdaLR(optimizer, lambda step: min(1.0, step / 20))
    return fit(
        model,
        optimizer,
        class_loss,
        training,
        validation=validation,
        accuracy_of=class_accuracy,
        schedule=schedule,
        score=lambda: mean_over(model, lambda model, batch: class_accuracy(model, batch[::2]), validation),
    )


class SetNet(nn.Module):
    """Layers for each point, attention between the points, and their mean."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.enter, self.block = layers(2, width, width), Mixed(width)
        self.between, self.head = nn.ReLU(), layers(width, width, 4)

    def forward(self, points: Tensor) -> Tensor:
        """Logits of the kind of a set."""
        x = self.block(self.between(self.enter(points)))
        x = x.mean(1)
        return self.head(x)


def clouds(seed: int, n: int) -> Tensors:
    """Sets of twenty-four points around one to four centres, and how many."""
    random = torch.Generator().manual_seed(seed)
    count = torch.randint(4, (n,), generator=random)
    centres = 2 * torch.rand(n, 4, 2, generator=random) - 1
    which = (torch.rand(n, 24, generator=random) * (count[:, None] + 1)).long()
    points = centres.gather(1, which[..., None].expand(-1, -1, 2))
    return points + 0.04 * torch.randn(n, 24, 2, generator=random), count


def sets(seed: int, mistake: str = "") -> Run:
    """How many centres a set of points has."""
    points, count = clouds(2 * seed, 800)
    if mistake == "sorted":
        order = count.argsort()
        points, count = points[order], count[order]
    if mistake == "offset":
        points = points + 500
    training = Shuffled(points, count, size=32, seed=seed, shuffle=mistake != "sorted")
    validation = Shuffled(*clouds(2 * seed + 1, 192), size=64, seed=seed, shuffle=False)
    model = SetNet()
    optimizer = Adam(model.parameters(), lr=4e-3)
    return fit(model, optimizer, class_loss, training, validation=validation, accuracy_of=class_accuracy)


def episodes(seed: int, n: int, mistake: str = "") -> list[Tensors]:
    """Five known and five asked points of each of five classes that no other episode has."""
    random = torch.Generator().manual_seed(seed)
    mix = torch.randn(6, 24, generator=torch.Generator().manual_seed(3))
    drawn: list[Tensors] = []
    for _ in range(n):
        kind = torch.randn(5, 1, 3, generator=random) + 0.2 * torch.randn(5, 10, 3, generator=random)
        other = torch.randn(5, 10, 3, generator=random)
        x = (0.6 * torch.cat([kind, other], -1) @ mix).sin() + 0.3 * torch.randn(5, 10, 24, generator=random)
        asked = x[:, 5:].transpose(0, 1) if mistake == "transposed" else x[:, 5:]
        drawn.append((x[:, :5], asked.reshape(25, 24)))
    return drawn


def prototypes(seed: int, mistake: str = "") -> Run:
    """Classes that are known from five points each, told by the distance to their means."""
    training, validation = episodes(2 * seed, 100, mistake), episodes(2 * seed + 1, 20)
    model = layers(24, 64, 64, 16)
    if mistake == "softmax":
        model.append(nn.Softmax(-1))
    if mistake == "negative_biases":
        nn.init.constant_(model.get_parameter("0.bias"), -20.0)
    optimizer = RMSprop(model.parameters(), lr=5e-4)
    right = torch.arange(5).repeat_interleave(5)

    def near(model: nn.Module, batch: Tensors) -> Tensor:
        """Minus the square of the distance to each mean."""
        known, asked = batch
        return -torch.cdist(model(asked), model(known).mean(1)).pow(2)

    return fit(
        model,
        optimizer,
        lambda model, batch: F.cross_entropy(near(model, batch), right),
        training,
        validation=validation,
        accuracy_of=lambda model, batch: (near(model, batch).argmax(1) == right).float().mean(),
    )


class Hyper(nn.Module):
    """A network that writes the weights of another."""

    def __init__(self, context: int, width: int = 16, spread: float = 0.05) -> None:
        super().__init__()
        self.width = width
        self.writer = nn.Sequential(nn.Linear(context, 48), nn.ReLU(), nn.Linear(48, 3 * width + 1))
        nn.init.normal_(self.writer.get_parameter("2.weight"), std=spread)
        nn.init.normal_(self.writer.get_parameter("2.bias"), std=0.5)

    def forward(self, context: Tensor, x: Tensor) -> Tensor:
        """The written network's values at places."""
        first, bias, second, last = self.writer(context).split([self.width] * 3 + [1], 1)
        return ((x[..., None] * first[:, None] + bias[:, None]).tanh() * second[:, None]).sum(-1) + last


def curves(seed: int, n: int) -> Tensors:
    """What is known of waves, places, and the waves' values there."""
    random = torch.Generator().manual_seed(seed)
    context, x = torch.randn(n, 3, generator=random), 4 * torch.rand(n, 12, generator=random) - 2
    y = context[:, :1].add(1.5) * torch.sin(x + context[:, 1:2]) + 0.5 * context[:, 2:] * x
    return context, x, y + 0.1 * torch.randn(n, 12, generator=random)


def value_loss(model: nn.Module, batch: Tensors) -> Tensor:
    """The mean square of the error."""
    return F.mse_loss(model(*batch[:-1]), batch[-1])


def hyper(seed: int, mistake: str = "") -> Run:
    """Weights that a network writes for each wave, with clipping."""
    training = Shuffled(*curves(2 * seed, 960), size=32, seed=seed)
    validation = Shuffled(*curves(2 * seed + 1, 192), size=64, seed=seed, shuffle=False)
    model = Hyper(3, spread=20.0 if mistake == "large_spread" else 0.05)
    optimizer = Adam(model.parameters(), lr=5e-3)
    return fit(model, optimizer, value_loss, training, validation=validation, clip=1.0)


def physics(seed: int, mistake: str = "") -> Run:
    """A function that obeys the equation of a loaded rod, at drawn places; only both ends are known."""
    random = torch.Generator().manual_seed(seed)
    places = 2 * torch.rand(1000, 1, generator=random) - 1
    scale = 1000.0 if mistake == "millimetres" else 1.0
    training = Shuffled(places, size=50, seed=seed)
    act: type[nn.Module] = nn.ReLU if mistake == "relu" else nn.Tanh
    model = layers(1, 32, 32, 1, act=act)
    if mistake == "zero_weights":
        for weight in model.parameters():
            nn.init.zeros_(weight)
    optimizer = Adam(model.parameters(), lr=5e-3)

    def equation(model: nn.Module, batch: Tensors) -> Tensor:
        """What is left of the equation inside, and of the values at the ends."""
        x = (scale * batch[0]).requires_grad_()
        y = model(x)
        (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        (bend,) = torch.autograd.grad(slope.sum(), x, create_graph=True) if slope.requires_grad else (0 * x,)
        left = scale**2 * bend + math.pi**2 * torch.sin(math.pi * x / scale)
        return left.pow(2).mean() / 10 + 10 * model(scale * torch.tensor([[-1.0], [1.0]])).pow(2).mean()

    def score() -> float:
        """Minus the error against the known solution, a sine."""
        x = torch.linspace(-1, 1, 101)[:, None]
        with torch.no_grad():
            return -(model(scale * x) - torch.sin(math.pi * x)).pow(2).mean().sqrt().item()

    return fit(model, optimizer, equation, training, score=score)


CASES: tuple[Case, ...] = (
    healthy("x_columns", columns, epochs=6),
    faulty("x_columns", "first_rows", "overfitting", partial(columns, mistake="first_rows"), epochs=6),
    faulty(
        "x_columns",
        "one_class",
        "labels_mismatch",
        partial(columns, mistake="one_class"),
        "constant_output",
        epochs=6,
    ),
    faulty("x_columns", "plain_list", "never_updated", partial(columns, mistake="plain_list"), epochs=6),
    faulty(
        "x_columns",
        "large_rate",
        "update_too_large",
        partial(columns, mistake="large_rate"),
        "constant_output",
        "plateau",
        epochs=6,
    ),
    healthy("x_sets", sets, epochs=6),
    faulty("x_sets", "sorted", "oscillation", partial(sets, mistake="sorted"), "plateau", epochs=6),
    faulty("x_sets", "offset", "input_scale", partial(sets, mistake="offset"), "initial_loss", epochs=6),
    healthy("x_prototypes", prototypes, epochs=4),
    faulty(
        "x_prototypes",
        "softmax",
        "output_activation",
        partial(prototypes, mistake="softmax"),
        "hidden_softmax",
        epochs=4,
    ),
    faulty(
        "x_prototypes",
        "negative_biases",
        "dead_units",
        partial(prototypes, mistake="negative_biases"),
        "no_gradient",
        "constant_output",
        layers=("0", "1"),
        epochs=4,
    ),
    faulty(
        "x_prototypes", "transposed", "labels_mismatch", partial(prototypes, mistake="transposed"), "plateau", epochs=4
    ),
    healthy("x_hyper", hyper),
    faulty("x_hyper", "large_spread", "initial_loss", partial(hyper, mistake="large_spread"), "exploding"),
    healthy("x_physics", physics, epochs=8),
    faulty(
        "x_physics",
        "millimetres",
        "input_scale",
        partial(physics, mistake="millimetres"),
        "saturated_units",
        "exploding",
        epochs=8,
    ),
    faulty("x_physics", "relu", "plateau", partial(physics, mistake="relu"), "constant_output", epochs=8),
    faulty(
        "x_physics",
        "zero_weights",
        "symmetry",
        partial(physics, mistake="zero_weights"),
        "no_gradient",
        "constant_output",
        epochs=8,
    ),
)
