"""Graphs and recommendations in the exam half of the real part of the zoo."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adagrad, Adam

from zoo.base import Case, Run
from zoo.real_base import Shuffled, faulty, fit, healthy, mean_over

Tensors = tuple[Tensor, ...]


class GraphAttention(nn.Module):
    """A node's new features: an average over its neighbours with learnt weights."""

    def __init__(self, inputs: int, outputs: int, heads: int) -> None:
        super().__init__()
        self.project = nn.Linear(inputs, heads * outputs, bias=False)
        self.source, self.target = (nn.Parameter(0.3 * torch.randn(heads, outputs)) for _ in range(2))
        self.heads, self.dropout = heads, nn.Dropout(0.3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """The heads' features side by side, `(nodes, heads * outputs)`."""
        h = self.project(self.dropout(x)).unflatten(1, (self.heads, -1))
        logits = F.leaky_relu((h * self.source).sum(-1)[None] + (h * self.target).sum(-1)[:, None], 0.2)
        weights = logits.masked_fill(~edges[..., None], float("-inf")).softmax(1)
        return torch.einsum("ijh,jhf->ihf", self.dropout(weights), h).flatten(1)


class GraphNet(nn.Module):
    """Two layers of attention over a graph."""

    def __init__(self, inputs: int, classes: int, edges: Tensor) -> None:
        super().__init__()
        self.first, self.second = GraphAttention(inputs, 8, 4), GraphAttention(32, classes, 1)
        self.between: nn.Module = nn.ELU()
        self.register_buffer("edges", edges)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of every node's class."""
        edges = self.edges
        assert isinstance(edges, Tensor)
        return self.second(self.between(self.first(x, edges)), edges)


def citations(seed: int, nodes: int = 200, classes: int = 4) -> Tensors:
    """Features, edges and classes of nodes that mostly know their own kind."""
    random = torch.Generator().manual_seed(seed)
    kind = torch.randint(classes, (nodes,), generator=random)
    chance = torch.where(kind[:, None] == kind, 0.08, 0.01)
    edges = torch.rand(nodes, nodes, generator=random) < chance
    features = F.one_hot(kind, 24).float()[:, torch.randperm(24, generator=random)]
    features = features + 0.7 * torch.randn(nodes, 24, generator=random)
    return features, edges | edges.T | torch.eye(nodes, dtype=torch.bool), kind


def nodes(seed: int, mistake: str = "") -> Run:
    """Classes of the nodes of a graph of which a fifth is known, always the whole graph at once."""
    features, edges, kind = citations(seed)
    known, asked = torch.arange(200) < 48, torch.arange(200) >= 100
    truth = kind
    if mistake == "sorted_labels":
        kind = kind[torch.randperm(200, generator=torch.Generator().manual_seed(seed))]
    if mistake == "raw_counts":
        features = 3e3 * features
    model = GraphNet(24, 4, edges)
    if mistake == "softmax":
        model.between = nn.Softmax(-1)
    if mistake == "dropout":
        model.first.dropout.p = model.second.dropout.p = 0.95
    decay = 0.5 if mistake == "decay" else 5e-4
    optimizer = Adam(model.parameters(), lr=1e-2, weight_decay=decay)

    def masked_loss(model: nn.Module, mask: Tensor) -> Tensor:
        """The cross-entropy at some nodes."""
        return F.cross_entropy(model(features)[mask], kind[mask])

    def masked_accuracy(model: nn.Module, mask: Tensor, wanted: Tensor = kind) -> Tensor:
        """The share of some nodes that are right."""
        return (model(features)[mask].argmax(1) == wanted[mask]).float().mean()

    return fit(
        model,
        optimizer,
        masked_loss,
        [known] * 15,
        validation=[asked],
        accuracy_of=masked_accuracy,
        score=lambda: mean_over(model, partial(masked_accuracy, wanted=truth), [asked]),
    )


class Embeddings(nn.Module):
    """A vector for each node; whether two are linked is a question of their product."""

    def __init__(self, nodes: int, width: int = 16) -> None:
        super().__init__()
        self.vectors, self.bias = nn.Embedding(nodes, width), nn.Parameter(torch.zeros(()))
        nn.init.normal_(self.vectors.weight, std=0.3)

    def forward(self, pairs: Tensor) -> Tensor:
        """Logits of pairs, `(pairs, 2)`."""
        return self.vectors(pairs).prod(1).sum(1) + self.bias


def links(seed: int, mistake: str = "") -> Run:
    """Links of a graph told from pairs that are drawn, four of these for each link."""
    random = torch.Generator().manual_seed(seed)
    group = torch.randint(6, (120,), generator=random)
    chance = torch.where(group[:, None] == group, 0.5, 0.02)
    edges = (torch.rand(120, 120, generator=random) < chance).triu(1).nonzero()
    edges = edges[torch.randperm(len(edges), generator=random)][:800]
    training = Shuffled(edges[:640], size=32, seed=seed)
    drawn = torch.randint(120, (160 * 4, 2), generator=random)
    validation = [(edges[640:], drawn)]
    model = Embeddings(120)
    if mistake == "zero_vectors":
        nn.init.zeros_(model.vectors.weight)
    optimizer = Adam(model.parameters(), lr=2e-2)

    def link_loss(model: nn.Module, batch: Tensors) -> Tensor:
        """The loss on links and on pairs that are drawn now, unless they come along."""
        known = batch[0]
        other = batch[1] if len(batch) > 1 else torch.randint(120, (4 * len(known), 2), generator=random)
        logits = model(torch.cat([known, other]))
        if mistake == "sigmoid":
            logits = logits.sigmoid()
        wanted = torch.cat([torch.ones(len(known)), torch.zeros(len(other))])
        return F.binary_cross_entropy_with_logits(logits, wanted, pos_weight=torch.tensor(4.0))

    return fit(
        model,
        optimizer,
        link_loss,
        training,
        validation=validation,
        score=lambda: -mean_over(model, link_loss, validation),
    )


class TwoTowers(nn.Module):
    """A tower for users and one for things, with vectors of the same space."""

    def __init__(self, users: int, things: int, features: int, listed: bool = False) -> None:
        super().__init__()
        self.user = nn.Sequential(nn.Embedding(users, 16), nn.Linear(16, 16))
        nn.init.normal_(self.user.get_parameter("0.weight"), std=0.3)
        layers: list[nn.Module] = [nn.Linear(features, 32), nn.ReLU(), nn.Linear(32, 16)]
        self.thing = layers if listed else nn.ModuleList(layers)

    def vectors(self, features: Tensor) -> Tensor:
        """The vectors of things."""
        for layer in self.thing:
            features = layer(features)
        return features

    def forward(self, user: Tensor, features: Tensor) -> Tensor:
        """How much users like things."""
        return (self.user(user) * self.vectors(features)).sum(-1)


def recommender(seed: int, mistake: str = "") -> Run:
    """Two towers that rank what a user has taken above what is drawn, judged by the loss of Bayesian ranking."""
    random = torch.Generator().manual_seed(seed)
    tastes, traits = torch.randn(40, 6, generator=random), torch.randn(300, 6, generator=random)
    features = torch.cat([traits.tanh(), torch.randn(300, 6, generator=random)], 1)
    liked = (tastes @ traits.T + 0.3 * torch.randn(40, 300, generator=random) > 1.2).nonzero()
    liked = liked[torch.randperm(len(liked), generator=random)]
    other = torch.randint(300, (len(liked),), generator=random)
    rows = torch.cat([liked, other[:, None]], 1)
    if mistake == "other_users":
        rows[:-200, 0] = rows[:-200, 0][torch.randperm(len(rows) - 200, generator=random)]
    training = Shuffled(rows[:-200], size=96, seed=seed)
    validation = Shuffled(rows[-200:], size=100, seed=seed, shuffle=False)
    model = TwoTowers(40, 300, 12, listed=mistake == "plain_list")
    optimizer = Adagrad(model.parameters(), lr=0.05)

    def gap(model: nn.Module, batch: Tensors) -> Tensor:
        """How far what was taken lies above what was drawn."""
        user, taken, drawn = batch[0].unbind(1)
        known = features[taken].detach()
        return model(user, known) - model(user, features[drawn])

    def ranking_loss(model: nn.Module, batch: Tensors) -> Tensor:
        """Minus the logarithm of the chance of the right order."""
        return -F.logsigmoid(gap(model, batch)).mean()

    def ranked(model: nn.Module, batch: Tensors) -> Tensor:
        """The share of pairs in the right order."""
        return (gap(model, batch) > 0).float().mean()

    return fit(model, optimizer, ranking_loss, training, validation=validation, accuracy_of=ranked)


CASES: tuple[Case, ...] = (
    healthy("x_nodes", nodes),
    faulty("x_nodes", "sorted_labels", "labels_mismatch", partial(nodes, mistake="sorted_labels"), "overfitting"),
    faulty("x_nodes", "raw_counts", "input_scale", partial(nodes, mistake="raw_counts"), "initial_loss", "exploding"),
    faulty("x_nodes", "softmax", "hidden_softmax", partial(nodes, mistake="softmax"), layers=("between",)),
    faulty("x_nodes", "dropout", "over_regularised", partial(nodes, mistake="dropout"), "plateau"),
    faulty(
        "x_nodes", "decay", "weight_collapse", partial(nodes, mistake="decay"), "over_regularised", "constant_output"
    ),
    healthy("x_links", links, epochs=6),
    faulty("x_links", "sigmoid", "output_probabilities", partial(links, mistake="sigmoid"), epochs=6),
    faulty(
        "x_links",
        "zero_vectors",
        "no_gradient",
        partial(links, mistake="zero_vectors"),
        "symmetry",
        "constant_output",
        layers=("vectors",),
        epochs=6,
    ),
    healthy("x_recommender", recommender, epochs=6),
    faulty("x_recommender", "plain_list", "never_updated", partial(recommender, mistake="plain_list"), epochs=6),
    faulty(
        "x_recommender",
        "other_users",
        "labels_mismatch",
        partial(recommender, mistake="other_users"),
        "overfitting",
        epochs=6,
    ),
)
