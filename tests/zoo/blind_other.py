"""Tables and recommenders in the blind part of the zoo: clicks, tokens of columns, towers, factors, unequal noise."""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, AdamW
from torch.optim.lr_scheduler import LambdaLR

from zoo.base import Case, Run
from zoo.real_base import Shuffled, faulty, fit, healthy, mean_over

Tensors = tuple[Tensor, ...]
FIELDS, VALUES = 6, 12


class DeepFM(nn.Module):
    """Clicks from categories and numbers: a linear part, pairs of embeddings, and a deep part that share these."""

    def __init__(self, numbers: int = 3, width: int = 8) -> None:
        super().__init__()
        self.first = nn.Embedding(FIELDS * VALUES, 1)
        self.embed = nn.Embedding(FIELDS * VALUES, width)
        nn.init.normal_(self.first.weight, std=0.05)
        nn.init.normal_(self.embed.weight, std=0.05)
        self.numbers = nn.Linear(numbers, 1)
        self.deep = nn.Sequential(
            nn.Linear(FIELDS * width + numbers, 48),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(48, 24),
            nn.ReLU(),
            nn.Linear(24, 1),
        )
        self.register_buffer("offset", torch.arange(FIELDS) * VALUES)

    def forward(self, fields: Tensor, numbers: Tensor) -> Tensor:
        """The logits of a click."""
        fields = fields + self.get_buffer("offset")
        wide = self.first(fields).sum((1, 2)) + self.numbers(numbers).squeeze(1)
        factors = self.embed(fields)
        pairs = 0.5 * (factors.sum(1).square() - factors.square().sum(1)).sum(1)
        deep = self.deep(torch.cat([factors.flatten(1), numbers], 1)).squeeze(1)
        return wide + pairs + deep


def clicks(seed: int, n: int, raw: bool) -> Tensors:
    """Categories, numbers such as how often an advertisement was shown, and the few clicks."""
    known = torch.Generator().manual_seed(5)
    worth, taste = torch.randn(FIELDS, VALUES, generator=known), torch.randn(FIELDS, VALUES, 2, generator=known)
    random = torch.Generator().manual_seed(seed)
    fields = torch.randint(VALUES, (n, FIELDS), generator=random)
    numbers = torch.randn(n, 3, generator=random)
    which = torch.arange(FIELDS)
    latent = taste[which, fields]
    pairs = 0.5 * (latent[:, :3].sum(1) * latent[:, 3:].sum(1)).sum(1) / 3
    logit = 0.9 * worth[which, fields].sum(1) + pairs + 1.2 * numbers[:, 0] - numbers[:, 1] - 3.5
    clicked = (torch.rand(n, generator=random) < logit.sigmoid()).float()
    if raw:
        numbers = (numbers * torch.tensor([0.6, 0.4, 0.5]) + torch.tensor([8.0, 7.0, 9.0])).exp()
    return fields, numbers, clicked


def deepfm(seed: int, mistake: str = "") -> Run:
    """A DeepFM for clicks, of which there are few; the accuracy hardly says anything."""
    raw = mistake == "raw_numbers"
    few = mistake == "few_rows"
    training = Shuffled(*clicks(2 * seed, 256 if few else 3072, raw), size=32 if few else 96, seed=seed)
    validation = Shuffled(*clicks(2 * seed + 1, 800, raw), size=200, seed=seed, shuffle=False)
    model = DeepFM()
    optimizer = Adam(model.parameters(), lr=8e-3, weight_decay=0.25 if mistake == "adam_decay" else 1e-6)

    def click_loss(model: nn.Module, batch: Tensors) -> Tensor:
        """Binary cross-entropy."""
        fields, numbers, clicked = batch
        found = model(fields, numbers)
        if mistake == "sigmoid":
            found = found.sigmoid()
        return F.binary_cross_entropy_with_logits(found, clicked)

    def right(model: nn.Module, batch: Tensors) -> Tensor:
        """The share of rows that are right."""
        return ((model(batch[0], batch[1]) > 0).float() == batch[2]).float().mean()

    return fit(
        model,
        optimizer,
        click_loss,
        training,
        validation=validation,
        accuracy_of=right,
        score=lambda: -min(mean_over(model, click_loss, validation), 10.0),
    )


class Block(nn.Module):
    """A block of a transformer with the norm first and a gated feed-forward net."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend = nn.MultiheadAttention(width, 4, dropout=dropout, batch_first=True)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Attention, then ReGLU."""
        normed = self.before(x)
        x = x + self.dropout(self.attend(normed, normed, normed, need_weights=False)[0])
        value, gate = self.up(self.between(x)).chunk(2, -1)
        return x + self.down(self.dropout(value * gate.relu()))


class FTTransformer(nn.Module):
    """Each column becomes a token; what the first, learnt token has gathered is classified."""

    def __init__(self, columns: int, classes: int, width: int = 32, depth: int = 1) -> None:
        super().__init__()
        bound = width**-0.5
        self.weight = nn.Parameter(torch.empty(columns, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(columns, width).uniform_(-bound, bound))
        self.cls = nn.Parameter(torch.empty(1, 1, width).uniform_(-bound, bound))
        self.blocks = nn.ModuleList([Block(width, 0.1) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = x[:, :, None] * self.weight + self.bias
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, 0]).relu())


def noisy_classes(seed: int, n: int) -> Tensors:
    """Columns and one of three classes, of which a part is drawn by lot."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=random)
    logits = torch.stack([2 * x[:, 0], x[:, 1] + 1.5 * x[:, 2].abs() - 0.8, 1.5 * x[:, 3] - 0.5 * x[:, 0]], 1)
    y = logits.argmax(1)
    lot = torch.rand(n, generator=random) < 0.3
    return x, torch.where(lot, torch.randint(3, (n,), generator=random), y)


def ft_transformer(seed: int, mistake: str = "") -> Run:
    """A transformer over columns with warm-up, cosine, clipping, label smoothing and noisy labels."""
    training = Shuffled(*noisy_classes(2 * seed, 1536), size=64, seed=seed)
    validation = Shuffled(*noisy_classes(2 * seed + 1, 600), size=300, seed=seed, shuffle=False)
    model = FTTransformer(6, 3)
    optimizer = AdamW(model.parameters(), lr=6e-3, weight_decay=1e-2)
    warmup, total = 10_000 if mistake == "paper_warmup" else 24, 6 * len(training)

    def factor(step: int) -> float:
        """Rises in a line, then falls along a cosine."""
        return min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * step / total))

    def smoothed(model: nn.Module, batch: Tensors) -> Tensor:
        """Cross-entropy."""
        return F.cross_entropy(model(batch[0]), batch[1], label_smoothing=0.1)

    def right(model: nn.Module, batch: Tensors) -> Tensor:
        """The share of rows that are right."""
        return (model(batch[0]).argmax(1) == batch[1]).float().mean()

    return fit(
        model,
        optimizer,
        smoothed,
        training,
        validation=validation,
        accuracy_of=right,
        schedule=LambdaLR(optimizer, factor),
        clip=1.0,
    )


class Tower(nn.Module):
    """Turns an id into a direction."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(count, 32)
        self.net = nn.Sequential(nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 8))

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors of length one."""
        return F.normalize(self.net(self.embed(ids)), dim=-1)


class TwoTowers(nn.Module):
    """A tower for users and one for items."""

    def __init__(self, users: int, items: int, blocked: bool = False) -> None:
        super().__init__()
        self.user, self.item = Tower(users), Tower(items)
        self.blocked = blocked

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """How well each user and each item of a batch fit, divided by a temperature."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.blocked):
            found = self.item(items)
        return self.user(users) @ found.T / 0.1


def visits(seed: int, n: int) -> Tensors:
    """Users and what they have looked at, by taste."""
    known = torch.Generator().manual_seed(11)
    tastes = 2.2 * torch.randn(150, 4, generator=known) @ torch.randn(4, 200, generator=known)
    random = torch.Generator().manual_seed(seed)
    users = torch.randint(150, (n,), generator=random)
    return users, torch.multinomial(tastes[users].softmax(1), 1, generator=random).squeeze(1)


def two_towers(seed: int, mistake: str = "") -> Run:
    """Retrieval with the other items of a batch as negatives."""
    users, items = visits(2 * seed, 2560)
    if mistake == "shuffled_items":
        items = items[torch.randperm(len(items), generator=torch.Generator().manual_seed(seed))]
    training = Shuffled(users, items, size=64, seed=seed)
    validation = Shuffled(*visits(2 * seed + 1, 640), size=64, seed=seed, shuffle=False)
    model = TwoTowers(150, 200, mistake == "no_grad")
    optimizer = AdamW(model.parameters(), lr=5e-3, weight_decay=1e-3)

    def contrast(model: nn.Module, batch: Tensors) -> Tensor:
        """Each user's own item among all of the batch."""
        logits = model(*batch)
        return F.cross_entropy(logits, torch.arange(len(logits)))

    return fit(model, optimizer, contrast, training, validation=validation)


class Factors(nn.Module):
    """Ratings from the factors of users and items, with biases."""

    def __init__(self, users: int, items: int, width: int = 8, equal: bool = False) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(users, width), nn.Embedding(items, width)
        self.user_bias, self.item_bias = nn.Embedding(users, 1), nn.Embedding(items, 1)
        for table in (self.users, self.items):
            if equal:
                nn.init.constant_(table.weight, 0.1)
            else:
                nn.init.normal_(table.weight, std=0.1)
        for table in (self.user_bias, self.item_bias):
            nn.init.zeros_(table.weight)
        self.mean = nn.Parameter(torch.tensor(3.0))

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        """How many stars."""
        biases = (self.user_bias(user) + self.item_bias(item)).squeeze(1)
        return (self.users(user) * self.items(item)).sum(1) + biases + self.mean


def ratings(seed: int, n: int) -> Tensors:
    """Who has rated what, and how."""
    known = torch.Generator().manual_seed(3)
    user, item = torch.randn(80, 4, generator=known), torch.randn(60, 4, generator=known)
    random = torch.Generator().manual_seed(seed)
    who, what = torch.randint(80, (n,), generator=random), torch.randint(60, (n,), generator=random)
    noise = 0.25 * torch.randn(n, generator=random)
    return who, what, (3.4 + 0.6 * (user[who] * item[what]).sum(1) + 0.3 * item[what, 0] + noise).clamp(0.5, 6)


def factors(seed: int, mistake: str = "") -> Run:
    """Matrix factorisation."""
    training = Shuffled(*ratings(2 * seed, 3840), size=96, seed=seed)
    validation = Shuffled(*ratings(2 * seed + 1, 800), size=200, seed=seed, shuffle=False)
    model = Factors(80, 60, equal=mistake == "equal_factors")
    optimizer = AdamW(model.parameters(), lr=3e-2, weight_decay=0.02)

    def error(model: nn.Module, batch: Tensors) -> Tensor:
        """The mean square of the error in stars."""
        return F.mse_loss(model(batch[0], batch[1]), batch[2])

    return fit(model, optimizer, error, training, validation=validation)


CASES: tuple[Case, ...] = (
    healthy("b_deepfm", deepfm),
    faulty(
        "b_deepfm",
        "raw_numbers",
        "input_scale",
        partial(deepfm, mistake="raw_numbers"),
        "initial_loss",
        "exploding",
        layers=("numbers", "deep", "deep.0"),
    ),
    faulty("b_deepfm", "sigmoid", "output_probabilities", partial(deepfm, mistake="sigmoid"), "output_activation"),
    faulty(
        "b_deepfm",
        "adam_decay",
        "weight_collapse",
        partial(deepfm, mistake="adam_decay"),
        "over_regularised",
        "constant_output",
        layers=("first", "embed", "deep", "deep.*"),
    ),
    faulty("b_deepfm", "few_rows", "overfitting", partial(deepfm, mistake="few_rows"), epochs=8),
    healthy("b_ft", ft_transformer, epochs=6),
    faulty("b_ft", "paper_warmup", "update_too_small", partial(ft_transformer, mistake="paper_warmup"), epochs=6),
    healthy("b_towers", two_towers, epochs=6),
    faulty("b_towers", "no_grad", "no_gradient", partial(two_towers, mistake="no_grad"), epochs=6, layers=("item*",)),
    faulty(
        "b_towers",
        "shuffled_items",
        "labels_mismatch",
        partial(two_towers, mistake="shuffled_items"),
        "overfitting",
        "plateau",
        epochs=6,
    ),
    healthy("b_factors", factors, epochs=6),
    faulty(
        "b_factors",
        "equal_factors",
        "symmetry",
        partial(factors, mistake="equal_factors"),
        epochs=6,
        layers=("users", "items"),
    ),
)
