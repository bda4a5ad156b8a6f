"""What people's models return, and what their loops do with it: the output that is judged is the one the loss reads."""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam

from ignite_act import EpochRecorder
from ignite_act.report import EpochReport

Loop = Callable[["Returns", Tensor, Tensor], Tensor]
OF_OUTPUTS = {"output_probabilities", "output_activation", "uncleared_gradient", "no_gradient", "loss_rising"}
TRUTH = torch.randn(8, 3, generator=torch.Generator().manual_seed(7))


@dataclasses.dataclass
class Data:
    loss: Tensor | None
    logits: Tensor
    hidden_states: tuple[Tensor, ...] = ()


class Named(NamedTuple):
    features: Tensor
    logits: Tensor


@dataclasses.dataclass
class ModelOutput(collections.OrderedDict):  # type: ignore[type-arg]
    """As that of Hugging Face: a dataclass that is a dictionary of what is not None."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Any = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if (value := getattr(self, field.name)) is not None:
                self[field.name] = value


class Attributes:
    """A class of a library that only has attributes."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


class Returns(nn.Module):
    """A trunk that ends with a ReLU, three heads, and what is made of them."""

    def __init__(self, make: Callable[[Any, Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(8, 16), nn.ReLU())
        self.first, self.second, self.third = nn.Linear(16, 3), nn.Linear(16, 1), nn.Linear(16, 3)
        self.make = make

    def forward(self, x: Tensor, y: Tensor) -> Any:
        return self.make(self, self.trunk(x), y)


def ce(model: Returns, h: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    logits = model.first(h)
    return F.cross_entropy(logits, y), logits


def seeded(make: Callable[[], Any]) -> Any:
    torch.manual_seed(0)
    return make()


def data(n: int = 16) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(x, (x @ TRUTH).argmax(1)) for x in torch.randn(n, 32, 8, generator=generator)]


def watched(model: nn.Module, step: Callable[[Tensor, Tensor], Any], batches: list[Any] | None = None) -> EpochReport:
    with EpochRecorder(model) as recorder:
        for x, y in data() if batches is None else batches:
            loss = step(x, y)
            if loss is not None:
                recorder.record_loss(loss)
        return recorder.finish()


def trained(model: nn.Module, loss_of: Callable[[Tensor, Tensor], Tensor], *others: nn.Module) -> EpochReport:
    """A plain loop with one optimizer over the model and the modules that come after it."""
    optimizer = Adam([p for part in (model, *others) for p in part.parameters() if p.requires_grad], 3e-3)

    def step(x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(x, y)
        loss.backward()
        optimizer.step()
        return loss

    return watched(model, step)


def kinds(report: EpochReport, among: set[str] = OF_OUTPUTS) -> set[str]:
    return {f.kind for f in report.findings if f.kind in among and f.severity != "info"}


def unseen(report: EpochReport, name: str = "output") -> dict[str, str]:
    return dict(report.coverage.get(name, {}).get("unseen", {}))


RETURNS: dict[str, tuple[Callable[[Any, Tensor, Tensor], Any], Callable[[Any], Tensor | None], str]] = {
    "loss first in a dict": (lambda m, h, y: dict(zip(("loss", "logits"), ce(m, h, y), strict=True)),
                             lambda o: o["loss"], "logits"),
    "loss first in a tuple": (ce, lambda o: o[0], "1"),
    "dataclass": (lambda m, h, y: Data(*ce(m, h, y), (h,)), lambda o: o.loss, "logits"),
    "dataclass without loss": (lambda m, h, y: Data(None, m.first(h), (h,)), lambda o: None, "logits"),
    "ModelOutput": (lambda m, h, y: ModelOutput(*ce(m, h, y)), lambda o: o.loss, "logits"),
    "ModelOutput with a cache": (lambda m, h, y: ModelOutput(*ce(m, h, y), ((h, h * 2),)), lambda o: o["loss"],
                                 "logits"),
    "attributes": (lambda m, h, y: Attributes(hidden=h, logits=m.first(h)), lambda o: None, "logits"),
    "named tuple": (lambda m, h, y: Named(h, m.first(h)), lambda o: None, "logits"),
    "features, logits": (lambda m, h, y: (h, m.first(h)), lambda o: F.cross_entropy, "1"),
    "logits, features": (lambda m, h, y: (m.first(h), h), lambda o: F.cross_entropy, "0"),
    "hidden states": (lambda m, h, y: {"hidden": (h, h + 1, h * 2), "logits": m.first(h)}, lambda o: None, "logits"),
    "nested": (lambda m, h, y: {"aux": [h, {"logits": m.first(h)}]}, lambda o: None, "aux.1.logits"),
    "distribution": (lambda m, h, y: torch.distributions.Categorical(logits=m.first(h)), lambda o: None, "logits"),
}  # fmt: skip


def logits_of(output: Any) -> Any:
    if isinstance(output, dict):
        return output["aux"][1]["logits"] if "aux" in output else output["logits"]
    if isinstance(output, tuple) and not hasattr(output, "logits"):
        return next(z for z in output if z.ndim == 2 and z.shape[1] == 3)
    return output.logits


@pytest.mark.parametrize("name", RETURNS)
def test_the_output_that_the_loss_reads_is_judged(name: str) -> None:
    """Wherever the logits stand, they are the output: their units, their loss, no head beside them, no finding."""
    make, loss_in, place = RETURNS[name]
    model = seeded(lambda: Returns(make))

    def loss_of(x: Tensor, y: Tensor) -> Tensor:
        output = model(x, y)
        own = loss_in(output)
        return own if isinstance(own, Tensor) else F.cross_entropy(logits_of(output), y)

    report = trained(model, loss_of)
    row = report.output
    assert (row["place"], row["units"], row["loss_applies"], row["heads"]) == (place, 3, "softmax", {})
    assert not kinds(report)
    assert not unseen(report)


def two_losses(output: Any, y: Tensor) -> Tensor:
    return F.cross_entropy(output[0], y) + F.mse_loss(output[1][:, 0], y.float())


HEADS: dict[str, tuple[Callable[[Any, Tensor, Tensor], Any], Callable[[Any, Tensor], Tensor], set[str], str]] = {
    "two": (lambda m, h, y: (m.first(h), m.second(h)), two_losses, {"1"}, "0"),
    "two, the other first": (lambda m, h, y: (m.second(h), m.first(h)), lambda o, y: two_losses(o[::-1], y), {"0"},
                             "1"),
    "three": (lambda m, h, y: (m.first(h), m.second(h), m.third(h)),
              lambda o, y: two_losses(o, y) + F.cross_entropy(o[2], y.flip(0)), {"1", "2"}, "0"),
    "segmentation": (lambda m, h, y: {"out": m.first(h).reshape(32, 3, 1, 1).expand(-1, -1, 2, 2),
                                      "aux": m.third(h).reshape(32, 3, 1, 1).expand(-1, -1, 2, 2)},
                     lambda o, y: sum((w * F.cross_entropy(z, y[:, None, None].expand(-1, 2, 2))
                                       for z, w in ((o["out"], 1), (o["aux"], 0.5))), torch.zeros(())), {"aux"}, "out"),
    "deep supervision": (lambda m, h, y: [m.first(h), m.third(h), m.first(h * 0.5)],
                         lambda o, y: torch.stack([F.cross_entropy(z, y) for z in o]).sum(), {"1", "2"}, "0"),
    "regularised": (lambda m, h, y: (m.first(h), m.second(h)),
                    lambda o, y: two_losses(o, y), {"1"}, "0"),
}  # fmt: skip


@pytest.mark.few(4)
@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("separate", [False, True])
def test_every_head_is_followed(name: str, separate: bool) -> None:
    """Each output that a loss reads has its row; the one whose loss is best known comes first; gradients are clear."""
    make, loss_of, others, place = HEADS[name]
    model = seeded(lambda: Returns(make))
    optimizer = Adam(model.parameters(), 3e-3)

    def step(x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model(x, y), y) + 1e-4 * sum(p.square().sum() for p in model.parameters())
        if separate:  # two backward calls on one graph
            (0.5 * loss).backward(retain_graph=True)
            (0.5 * loss).backward()
        else:
            loss.backward()
        optimizer.step()
        return loss

    report = watched(model, step)
    row = report.output
    assert (row["place"], row["loss_applies"], set(row["heads"])) == (place, "softmax", others)
    assert not kinds(report)
    assert all(own["uncleared"] == 0 for own in report.updates.values())


@pytest.mark.parametrize("place", ["0", "1", "2"])
def test_a_head_with_a_softmax_too_many_is_named(place: str) -> None:
    """Of three heads, one is already a probability: the finding is there whichever it is."""

    def make(m: Any, h: Tensor, y: Tensor) -> list[Tensor]:
        return [z.softmax(1) if str(i) == place else z for i, z in enumerate((m.first(h), m.third(h), m.first(-h)))]

    model = seeded(lambda: Returns(make))
    report = trained(model, lambda x, y: torch.stack([F.cross_entropy(z, y) for z in model(x, y)]).sum())
    assert kinds(report) == {"output_probabilities"}


def test_separate_backward_calls_of_policy_and_value() -> None:
    """Two losses, two backward calls, one or two optimizers: both heads are read, nothing is left uncleared."""
    for shared in (True, False):
        model = seeded(lambda: Returns(lambda m, h, y: (m.first(h), m.second(h))))
        second = list(model.second.parameters())
        first = [p for p in model.parameters() if all(p is not own for own in second)]
        optimizers = [SGD(model.parameters(), 0.05)] if shared else [SGD(first, 0.05), SGD(second, 0.05)]

        def step(x: Tensor, y: Tensor, model: Any = model, optimizers: Any = optimizers) -> Tensor:
            logits, value = model(x, y)
            for own in optimizers:
                own.zero_grad()
            policy = F.cross_entropy(logits, y)
            policy.backward(retain_graph=True)
            F.mse_loss(value[:, 0], x[:, 0]).backward()
            for own in optimizers:
                own.step()
            return policy

        report = watched(model, step)
        assert (report.output["place"], set(report.output["heads"])) == ("0", {"1"})
        assert report.output["backwards"] == report.output["heads"]["1"]["backwards"]
        assert not kinds(report)
        assert all(row["uncleared"] == 0 for row in report.updates.values())
        assert all(report.updates[name]["cleared"] > 0 for name in ("trunk.0", "first", "second"))


def test_losses_alone_are_no_output() -> None:
    """A detector in training returns a dictionary of losses: nothing is judged, and the coverage says so."""
    model = seeded(
        lambda: Returns(lambda m, h, y: {"box": F.mse_loss(m.second(h)[:, 0], y.float()), "class": ce(m, h, y)[0]})
    )
    report = trained(model, lambda x, y: sum(model(x, y).values(), torch.zeros(())))
    assert not report.output
    assert "returns only its loss" in unseen(report)["output"]
    assert not kinds(report)


def test_one_output_that_two_losses_read() -> None:
    """Cross-entropy with a penalty on the logits, together and by two backward calls, is one output without a head."""
    for separate in (False, True):
        model = seeded(lambda: nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)))
        optimizer = SGD(model.parameters(), 0.05)

        def step(x: Tensor, y: Tensor, model: Any = model, optimizer: Any = optimizer, separate: Any = separate) -> Any:
            optimizer.zero_grad()
            z = model(x)
            loss, penalty = F.cross_entropy(z, y), 1e-9 * z.square().mean()
            if separate:
                loss.backward(retain_graph=True)
                penalty.backward()
            else:
                (loss + penalty).backward()
            optimizer.step()
            return loss

        report = watched(model, step)
        assert (report.output["place"], report.output["units"], report.output["heads"]) == ("", 3, {})
        assert not kinds(report)


def test_gradients_by_torch_autograd_grad() -> None:
    """A loop that asks for the gradients and writes them itself is read like one that calls backward."""
    model = seeded(lambda: Returns(lambda m, h, y: (h, m.first(h))))
    for part in (model.second, model.third):
        part.requires_grad_(False)
    own = [p for p in model.parameters() if p.requires_grad]
    optimizer = SGD(own, 0.05)

    def step(x: Tensor, y: Tensor) -> Tensor:
        loss = F.cross_entropy(model(x, y)[1], y)
        for p, g in zip(own, torch.autograd.grad(loss, own), strict=True):
            p.grad = g
        optimizer.step()
        return loss

    report = watched(model, step)
    row = report.output
    assert (row["place"], row["loss_applies"], row["backwards"]) == ("1", "softmax", 4)
    assert not kinds(report)


def test_a_critic_with_a_gradient_penalty() -> None:
    """The gradient of the critic's output to its input is a backward as well, and the output keeps its place."""
    critic = seeded(lambda: nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1)))
    optimizer = Adam(critic.parameters(), 1e-3)

    def step(x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        mixed = (x * 0.5).requires_grad_()
        (slope,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
        loss = critic(x.flip(0) + 1).mean() - critic(x).mean() + 10 * (slope.norm(dim=1) - 1).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    report = watched(critic, step)
    assert (report.output["place"], report.output["units"], report.output["heads"]) == ("", 1, {})
    assert report.output["loss_applies"] == "unknown"
    assert not kinds(report)


def test_wrappers_do_not_matter() -> None:
    """Watched from inside or from outside of modules without weights, the output is the same."""

    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, *inputs: Any, **more: Any) -> Any:
            return self.module(*inputs, **more)

    rows = []
    for depth, inside in itertools.product((0, 1, 2), (False, True)):
        inner = seeded(lambda: nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3), nn.Softmax(1)))
        outer: nn.Module = inner
        for _ in range(depth):
            outer = Wrapper(outer)
        report = trained(inner if inside else outer, lambda x, y, outer=outer: F.cross_entropy(outer(x), y))
        assert kinds(report) == {"output_probabilities"}
        rows.append({name: value for name, value in report.output.items() if name != "producer"})
    assert all(row == rows[0] for row in rows)
