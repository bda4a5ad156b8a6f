"""Graphs, sets and small changes to trained nets in the blind part of the zoo."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from zoo.base import Case, Run
from zoo.real_base import Shuffled, faulty, fit, healthy

Tensors = tuple[Tensor, ...]


class GraphConv(nn.Module):
    """Mixes what neighbours know."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor, links: Tensor) -> Tensor:
        """What nodes know next."""
        return links @ self.linear(x)


class GCN(nn.Module):
    """Graph convolutions, with an activation and dropout between them."""

    def __init__(self, *widths: int, act: nn.Module, dropout: float) -> None:
        super().__init__()
        self.convs = nn.ModuleList([GraphConv(*pair) for pair in pairwise(widths)])
        self.act, self.dropout = act, nn.Dropout(dropout)

    def forward(self, x: Tensor, links: Tensor) -> Tensor:
        """Logits of the nodes."""
        for conv in self.convs[:-1]:
            x = self.act(conv(self.dropout(x), links))
        return self.convs[-1](self.dropout(x), links)


class Graph:
    """Papers of four fields that mostly cite their own, with words that tell a little."""

    def __init__(self, seed: int, nodes: int = 240) -> None:
        random = torch.Generator().manual_seed(seed)
        self.fields = torch.randint(4, (nodes,), generator=random)
        alike = self.fields[:, None] == self.fields
        linked = torch.rand(nodes, nodes, generator=random) < torch.where(alike, 0.08, 0.012)
        links = ((linked | linked.T).float() + torch.eye(nodes)).clamp(max=1)
        degree = links.sum(1).rsqrt()
        self.links = degree[:, None] * links * degree
        words = torch.randn(4, 24, generator=torch.Generator().manual_seed(9))
        self.x = 0.5 * words[self.fields] + torch.randn(nodes, 24, generator=random)
        order = torch.randperm(nodes, generator=random)
        self.training, self.validation = order[:100], order[100:]


def gcn(seed: int, mistake: str = "") -> Run:
    """Fields of papers, of which some are known: the whole graph in each step, and all steps in a single epoch."""
    graph = Graph(seed)
    acts: dict[str, nn.Module] = {"softmax": nn.Softmax(1), "deep_sigmoid": nn.Sigmoid()}
    hidden = [32] * (9 if mistake == "deep_sigmoid" else 2)
    model = GCN(24, *hidden, 4, act=acts.get(mistake, nn.ReLU()), dropout=0.95 if mistake == "keep" else 0.5)
    optimizer = AdamW(model.parameters(), lr=1e-2, weight_decay=5e-2)

    def papers(model: nn.Module, batch: Tensor) -> Tensor:
        """Cross-entropy of the papers."""
        logits = model(graph.x, graph.links)[batch]
        return F.cross_entropy(logits, graph.fields[batch])

    def right(model: nn.Module, batch: Tensor) -> Tensor:
        """The share of papers that are right."""
        return (model(graph.x, graph.links)[batch].argmax(1) == graph.fields[batch]).float().mean()

    return fit(
        model,
        optimizer,
        papers,
        [graph.training] * 100,
        validation=[graph.validation],
        accuracy_of=right,
    )


class DeepSet(nn.Module):
    """What can be said of a set, whatever its order."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            [nn.Sequential(nn.Linear(inputs, 48), nn.LayerNorm(48), nn.ReLU()) for inputs in (3, 48, 48)]
        )
        self.head = nn.Sequential(nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 4))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the set's kind."""
        for block in self.blocks:
            x = block(x)
        return self.head(x.amax(1))


def shapes(seed: int, n: int) -> Tensors:
    """Clouds of points on a sphere, a cube, a cylinder or a cross, each turned about an axis."""
    random = torch.Generator().manual_seed(seed)
    x, kind = torch.randn(n, 32, 3, generator=random), torch.randint(4, (n,), generator=random)
    ball = F.normalize(x, dim=-1)
    cube = x / x.abs().amax(-1, keepdim=True)
    tube = torch.cat([F.normalize(x[..., :2], dim=-1), x[..., 2:].clamp(-1, 1)], -1)
    cross = x.clamp(-1, 1) * F.one_hot(x.abs().argmax(-1), 3)
    x = torch.stack([ball, 0.8 * cube, 0.9 * tube, 1.1 * cross])[kind, torch.arange(n)]
    return x + 0.08 * torch.randn(n, 32, 3, generator=random), kind


def deep_sets(seed: int, mistake: str = "") -> Run:
    """Kinds of clouds by SGD with momentum along a cosine."""
    x, kind = shapes(2 * seed, 1024)
    if mistake == "sorted":
        order = kind.argsort()
        x, kind = x[order], kind[order]
    training = Shuffled(x, kind, size=32, seed=seed, shuffle=mistake != "sorted")
    validation = Shuffled(*shapes(2 * seed + 1, 400), size=200, seed=seed, shuffle=False)
    model = DeepSet()
    if mistake == "prior_bias":
        for module in model.head:  # meant for the last layer only, so that all classes are rare at first
            if isinstance(module, nn.Linear):
                nn.init.constant_(module.bias, -4.6)
    optimizer = SGD(model.parameters(), lr=0.02, momentum=0.9)

    def kinds(model: nn.Module, batch: Tensors) -> Tensor:
        """Cross-entropy."""
        return F.cross_entropy(model(batch[0]), batch[1])

    def right(model: nn.Module, batch: Tensors) -> Tensor:
        """The share of clouds that are right."""
        return (model(batch[0]).argmax(1) == batch[1]).float().mean()

    return fit(
        model,
        optimizer,
        kinds,
        training,
        validation=validation,
        accuracy_of=right,
        schedule=CosineAnnealingLR(optimizer, 6 * len(training)),
    )


class LoRA(nn.Module):
    """A linear layer that stays as it is, and a small change to it."""

    def __init__(self, base: nn.Linear, rank: int, zero: bool) -> None:
        super().__init__()
        self.base = base
        self.lora_down = nn.Linear(base.in_features, rank, bias=False)
        self.lora_up = nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.lora_up.weight)
        if zero:
            nn.init.zeros_(self.lora_down.weight)

    def forward(self, x: Tensor) -> Tensor:
        """The layer and its change."""
        return self.base(x) + 2 * self.lora_up(self.lora_down(x))


class Net(nn.Module):
    """A body, a new head, and the old one, which nobody asks any more."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(10, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU())
        self.old_head, self.head = nn.Linear(64, 3), nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the new classes."""
        return self.head(self.body(x))


def measurements(seed: int, n: int, turned: bool) -> Tensors:
    """Columns and a class; in another laboratory other columns matter."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 10, generator=random)
    a, b = (x[:, 5], x[:, 6]) if turned else (x[:, 0], x[:, 1])
    c = x[:, 7] if turned else x[:, 2]
    return x, ((a * b).tanh() + 0.7 * c > 0.3).long() + ((a.square() - b.square() + c) > 0.8).long()


def adapter(seed: int, mistake: str = "") -> Run:
    """A net trained before for other classes, frozen but for small changes of low rank and a new head."""
    net = Net(3)
    before, ready = Shuffled(*measurements(100 + seed, 2048, False), size=128, seed=seed), Adam(net.parameters(), 1e-2)
    for _ in range(6):
        for x, y in before:
            ready.zero_grad()
            F.cross_entropy(net.old_head(net.body(x)), y).backward()
            ready.step()
    net.zero_grad()
    net.body.requires_grad_(False)
    for index in (0, 2):
        base = net.body[index]
        assert isinstance(base, nn.Linear)
        net.body[index] = LoRA(base, 6, mistake == "both_zero")
    words = ("adapter", "head") if mistake == "other_name" else ("lora", "head")
    chosen = [value for name, value in net.named_parameters() if any(word in name for word in words)]
    optimizer = AdamW(chosen, lr=1e-2, weight_decay=1e-2)
    training = Shuffled(*measurements(2 * seed, 1280, True), size=64, seed=seed)
    validation = Shuffled(*measurements(2 * seed + 1, 600, True), size=200, seed=seed, shuffle=False)

    def classes(model: nn.Module, batch: Tensors) -> Tensor:
        """Cross-entropy."""
        return F.cross_entropy(model(batch[0]), batch[1])

    def right(model: nn.Module, batch: Tensors) -> Tensor:
        """The share of rows that are right."""
        return (model(batch[0]).argmax(1) == batch[1]).float().mean()

    return fit(net, optimizer, classes, training, validation=validation, accuracy_of=right)


CASES: tuple[Case, ...] = (
    healthy("b_gcn", gcn, epochs=1),
    faulty(
        "b_gcn",
        "softmax",
        "hidden_softmax",
        partial(gcn, mistake="softmax"),
        epochs=1,
        layers=("act", "convs.[01]", "convs.[01].linear"),
    ),
    faulty(
        "b_gcn",
        "deep_sigmoid",
        "vanishing_gradient",
        partial(gcn, mistake="deep_sigmoid"),
        "constant_output",
        epochs=1,
    ),
    faulty("b_gcn", "keep", "over_regularised", partial(gcn, mistake="keep"), epochs=1, layers=("dropout",)),
    healthy("b_deep_sets", deep_sets, epochs=6),
    faulty(
        "b_deep_sets",
        "sorted",
        "oscillation",
        partial(deep_sets, mistake="sorted"),
        "constant_output",
        "dead_units",
        "labels_mismatch",
        epochs=6,
    ),
    faulty(
        "b_deep_sets",
        "prior_bias",
        "dead_units",
        partial(deep_sets, mistake="prior_bias"),
        "constant_output",
        "no_gradient",
        epochs=6,
        layers=("head.0", "head.1"),
    ),
    healthy("b_adapter", adapter, epochs=6),
    faulty(
        "b_adapter",
        "both_zero",
        "no_gradient",
        partial(adapter, mistake="both_zero"),
        "symmetry",
        epochs=6,
        layers=("body.*.lora_up", "body.*.lora_down"),
    ),
    faulty(
        "b_adapter",
        "other_name",
        "never_updated",
        partial(adapter, mistake="other_name"),
        epochs=6,
        layers=("body.*.lora_up", "body.*.lora_down"),
    ),
)
