"""Tables in the exam half of the real part of the zoo: counts, quantiles, survival, several tasks, experts."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from ignite.engine import Engine
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from zoo.base import Case, Run
from zoo.real_base import Shuffled, faulty, fit, healthy, mean_over, measured

Tensors = tuple[Tensor, ...]


def layers(*widths: int, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers with activations between them."""
    modules: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        modules += [nn.Linear(inputs, outputs), act()]
    return nn.Sequential(*modules[:-1])


def table(seed: int, n: int, columns: int = 8) -> tuple[Tensor, Tensor, torch.Generator]:
    """Columns of normal numbers, a curved function of some of these, and what more is drawn from."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(n, columns, generator=random)
    return x, torch.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2].tanh() + 0.5 * x[:, 3].abs() - 0.4, random


def counts(seed: int, n: int) -> Tensors:
    """Columns, how long one has waited, and how often something rare has happened."""
    x, signal, random = table(seed, n)
    waited = 0.2 + torch.rand(n, generator=random)
    return x, waited, torch.poisson(waited * (0.9 * signal - 1.0).exp(), generator=random)


def poisson(seed: int, mistake: str = "") -> Run:
    """Rare counts whose rate is learnt as a logarithm, with dropout."""
    parts = [counts(2 * seed, 1600), counts(2 * seed + 1, 400)]
    offset = 300.0 if mistake == "years" else 0.0
    training, validation = (
        Shuffled(x + offset, waited, count, size=size, seed=seed)
        for (x, waited, count), size in zip(parts, (64, 100), strict=True)
    )
    model = nn.Sequential(
        nn.Linear(8, 64),
        nn.ReLU(),
        nn.Dropout(0.95 if mistake == "dropout" else 0.1),
        nn.Linear(64, 32),
        nn.ReLU(),
        nn.Linear(32, 1),
    )
    if mistake == "relu_rate":
        model.append(nn.ReLU())
    optimizer = AdamW(model.parameters(), lr=4e-3)

    def rare_loss(model: nn.Module, batch: Tensors) -> Tensor:
        """Minus the logarithm of the chance of counts, but for a constant."""
        x, waited, count = batch
        rate = model(x)
        if mistake != "columns":
            rate = rate.squeeze(1)
        return F.poisson_nll_loss(rate + waited.log(), count)

    return fit(model, optimizer, rare_loss, training, validation=validation)


def quantiles(seed: int, mistake: str = "") -> Run:
    """Three quantiles of a noisy number, with batch norm and momentum."""
    parts = []
    for index, n in enumerate((512, 320)):
        x, signal, random = table(2 * seed + index, n)
        parts.append((x, (2 * signal + (0.2 + x[:, 4].sigmoid()) * torch.randn(n, generator=random))[:, None]))
    if mistake == "price_units":
        parts = [(x, 2e4 * y + 2e5) for x, y in parts]
    size = 2 if mistake == "batch_of_two" else 32
    training = Shuffled(*parts[0], size=size, seed=seed)
    validation = Shuffled(*parts[1], size=80, seed=seed, shuffle=False)
    act: type[nn.Module] = nn.Identity if mistake == "identity" else nn.ReLU
    model = nn.Sequential(
        nn.Linear(8, 48), nn.BatchNorm1d(48), act(), nn.Linear(48, 48), nn.BatchNorm1d(48), act(), nn.Linear(48, 3)
    )
    optimizer = SGD(model.parameters(), lr=1e-6 if mistake == "small_rate" else 0.1, momentum=0.9)
    levels = torch.tensor([0.1, 0.5, 0.9])

    def pinball(model: nn.Module, batch: Tensors) -> Tensor:
        """The loss whose smallest value is at the quantiles."""
        x, y = batch
        over = y - model(x)
        return torch.maximum(levels * over, (levels - 1) * over).mean()

    scale = 2e4 if mistake == "price_units" else 1.0
    return fit(
        model,
        optimizer,
        pinball,
        training,
        validation=validation,
        schedule=CosineAnnealingLR(optimizer, 6 * len(training)),
        score=lambda: -mean_over(model, pinball, validation) / scale,
    )


def lifetimes(seed: int, n: int) -> Tensors:
    """Columns, times, and whether these are known or only that it lasted longer."""
    x, signal, random = table(seed, n)
    time = -torch.rand(n, generator=random).log() / (1.5 * signal).exp()
    until = 2.5 * torch.rand(n, generator=random)
    return x, torch.minimum(time, until), (time <= until).float()


def survival_loss(model: nn.Module, batch: Tensors, mistake: str = "") -> Tensor:
    """The partial likelihood of Cox: each who dies, among all who lived as long."""
    x, time, died = batch
    order = time.argsort(descending=True)
    risk = model(x).squeeze(1)
    if mistake != "unsorted_risk":
        risk = risk[order]
    return -((risk - risk.logcumsumexp(0)) * died[order]).sum() / died.sum().clamp(min=1)


def concordance(model: nn.Module, batch: Tensors) -> Tensor:
    """The share of pairs in which who dies earlier had the higher risk."""
    x, time, died = batch
    risk = model(x).squeeze(1)
    pairs = (time[:, None] < time) & (died[:, None] > 0)
    return ((risk[:, None] > risk).float() + 0.5 * (risk[:, None] == risk))[pairs].mean()


def survival(seed: int, mistake: str = "") -> Run:
    """Risks of dying, compared within a batch."""
    training = Shuffled(*lifetimes(2 * seed, 1280), size=64, seed=seed)
    validation = Shuffled(*lifetimes(2 * seed + 1, 400), size=100, seed=seed, shuffle=False)
    acts: dict[str, type[nn.Module]] = {"deep_sigmoid": nn.Sigmoid, "identity": nn.Identity}
    model = layers(8, 48, 48, 48, 48, 48, 48, 1, act=acts.get(mistake, nn.GELU))
    if mistake == "softmax":
        model.append(nn.Softmax(1))
    optimizer = Adam(model.parameters(), lr=2e-3)
    return fit(
        model,
        optimizer,
        partial(survival_loss, mistake=mistake),
        training,
        validation=validation,
        score=lambda: mean_over(model, concordance, validation),
    )


class Tasks(nn.Module):
    """A body with a head for a number and one for a class, and how uncertain each task is."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU())
        self.number, self.kind = nn.Linear(64, 1), nn.Linear(64, 3)
        self.uncertain = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The number and the logits of the class."""
        x = self.body(x)
        return self.number(x).squeeze(1), self.kind(x)


def tasks(seed: int, mistake: str = "") -> Run:
    """A number and a class at once, weighted by learnt uncertainties; the loss falls below zero."""
    parts = []
    for index, n in enumerate((960, 240)):
        x, signal, random = table(2 * seed + index, n)
        kind = (x[:, 5] + x[:, 0].sin() > 0).long() + (x[:, 6] > 0.5).long()
        parts.append([x, 0.2 * signal + 0.02 * torch.randn(n, generator=random), kind])
    training = Shuffled(*parts[0], size=32, seed=seed)
    validation = Shuffled(*parts[1], size=80, seed=seed, shuffle=False)
    model = Tasks()
    optimizer = Adam(model.parameters(), lr=0.3 if mistake == "large_rate" else 4e-3)

    def both(model: nn.Module, batch: Tensors) -> Tensor:
        """Both losses, each less where its task is uncertain."""
        x, number, kind = batch
        found, logits = model(x)
        losses = torch.stack([F.mse_loss(found, number), F.cross_entropy(logits, kind)])
        uncertain = model.get_parameter("uncertain")
        return ((-uncertain).exp() * losses + 0.5 * uncertain).sum()

    def step(engine: Engine, batch: Tensors) -> dict[str, float]:
        """A step for both tasks."""
        model.train()
        if mistake != "kept_gradients":
            optimizer.zero_grad()
        loss = both(model, batch)
        if mistake == "sign":
            (-loss).backward()
        else:
            loss.backward()
        optimizer.step()
        return {"loss": loss.item()}

    def right(model: nn.Module, batch: Tensors) -> Tensor:
        """The share of classes that are right, less the error of the numbers in units of their spread."""
        found, logits = model(batch[0])
        return (logits.argmax(1) == batch[2]).float().mean() - F.mse_loss(found, batch[1]).sqrt().clamp(max=10) / 0.2

    return Run(
        model,
        Engine(step),
        training,
        measured(model, both),
        validation,
        optimizer,
        lambda: mean_over(model, right, validation),
    )


class Experts(nn.Module):
    """Linear models of which the best two for a row are asked."""

    def __init__(self, inputs: int, count: int = 6) -> None:
        super().__init__()
        self.router = nn.Linear(inputs, count)
        self.experts = nn.ModuleList([nn.Linear(inputs, 1) for _ in range(count)])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the chosen experts say, and how uneven the work is shared."""
        chances = self.router(x).softmax(-1)
        chosen, which = chances.topk(2, -1)
        chosen = chosen / chosen.sum(-1, keepdim=True)
        out = torch.zeros(len(x))
        for index, expert in enumerate(self.experts):
            rows, place = (which == index).nonzero(as_tuple=True)
            if len(rows):
                out = out.index_add(0, rows, expert(x[rows]).squeeze(1) * chosen[rows, place])
        share = F.one_hot(which, len(self.experts)).float().mean((0, 1))
        return out, len(self.experts) * (share * chances.mean(0)).sum()


def experts(seed: int, mistake: str = "") -> Run:
    """A mixture of experts for a number that follows another rule in each of six regions."""
    known = torch.Generator().manual_seed(17)
    centres, rules = 3 * torch.randn(6, 5, generator=known), torch.randn(6, 5, generator=known)
    parts = []
    for index, n in enumerate((1280, 320)):
        random = torch.Generator().manual_seed(2 * seed + index)
        region = torch.randint(6, (n,), generator=random)
        x = centres[region] + torch.randn(n, 5, generator=random)
        parts.append((x, ((x - centres[region]) * rules[region]).sum(1) + 2 * rules[region, 0]))
    training = Shuffled(*parts[0], size=32, seed=seed)
    validation = Shuffled(*parts[1], size=80, seed=seed, shuffle=False)
    model = Experts(5)
    if mistake == "router_bias":
        with torch.no_grad():
            model.router.bias[0] += 60.0
    optimizer = Adam(model.parameters(), lr=2e-2)

    def shared_loss(model: nn.Module, batch: Tensors) -> Tensor:
        """The mean square of the error, and a little for uneven shares."""
        found, uneven = model(batch[0])
        return F.mse_loss(found, batch[1]) + 0.01 * uneven

    return fit(model, optimizer, shared_loss, training, validation=validation)


CASES: tuple[Case, ...] = (
    healthy("x_poisson", poisson),
    faulty("x_poisson", "years", "input_scale", partial(poisson, mistake="years"), "initial_loss", "exploding"),
    faulty("x_poisson", "dropout", "over_regularised", partial(poisson, mistake="dropout"), "plateau"),
    faulty(
        "x_poisson",
        "relu_rate",
        "output_activation",
        partial(poisson, mistake="relu_rate"),
        "dead_units",
        "constant_output",
        "no_gradient",
    ),
    faulty(
        "x_poisson", "columns", "labels_mismatch", partial(poisson, mistake="columns"), "plateau", "constant_output"
    ),
    healthy("x_quantiles", quantiles, epochs=6),
    faulty("x_quantiles", "identity", "no_nonlinearity", partial(quantiles, mistake="identity"), epochs=6),
    faulty("x_quantiles", "small_rate", "update_too_small", partial(quantiles, mistake="small_rate"), epochs=6),
    faulty(
        "x_quantiles",
        "price_units",
        "initial_loss",
        partial(quantiles, mistake="price_units"),
        "update_too_small",
        epochs=6,
    ),
    faulty(
        "x_quantiles",
        "batch_of_two",
        "oscillation",
        partial(quantiles, mistake="batch_of_two"),
        "update_too_large",
        epochs=6,
    ),
    healthy("x_survival", survival),
    faulty("x_survival", "unsorted_risk", "labels_mismatch", partial(survival, mistake="unsorted_risk"), "plateau"),
    faulty(
        "x_survival", "deep_sigmoid", "vanishing_gradient", partial(survival, mistake="deep_sigmoid"), "constant_output"
    ),
    faulty("x_survival", "identity", "no_nonlinearity", partial(survival, mistake="identity")),
    faulty(
        "x_survival",
        "softmax",
        "constant_output",
        partial(survival, mistake="softmax"),
        "no_gradient",
        "output_activation",
    ),
    healthy("x_tasks", tasks),
    faulty("x_tasks", "large_rate", "update_too_large", partial(tasks, mistake="large_rate"), "exploding"),
    faulty("x_tasks", "kept_gradients", "uncleared_gradient", partial(tasks, mistake="kept_gradients")),
    faulty("x_tasks", "sign", "loss_rising", partial(tasks, mistake="sign"), "exploding", "nonfinite"),
    healthy("x_experts", experts),
    faulty(
        "x_experts",
        "router_bias",
        "dead_units",
        partial(experts, mistake="router_bias"),
        "no_gradient",
        "saturated_units",
        layers=("router", "experts.*"),
    ),
)
