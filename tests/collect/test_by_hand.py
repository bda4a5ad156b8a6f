"""Activation functions that no table of functions can name, and what only looks like one."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ignite_act.collect import ActivationCollector, DeadUnitCollector

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # TorchScript is on its way out

    @torch.jit.script
    def scripted_gelu(x):  # type: ignore[no-untyped-def]
        return 0.5 * x * (1.0 + torch.tanh(0.79788456 * (x + 0.044715 * x * x * x)))


Form = Callable[["Between", Tensor], Tensor]
X = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))


class Between(nn.Module):
    """One form between two layers, or behind the last one."""

    def __init__(self, form: Form, *, last: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.other, self.second = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.scale = nn.Parameter(torch.rand(8))
        self.form, self.last = form, last

    def forward(self, x: Tensor) -> Tensor:
        x = self.form(self, self.first(x))
        return x if self.last else self.second(x)


def look(model: nn.Module, x: Tensor = X, **options: Any) -> tuple[list[str], dict[str, str]]:
    """The sites of one forward, and what the coverage lists besides."""
    with DeadUnitCollector(model, **options) as collector:
        model(x)
        sites = list(collector.finish())
    unseen = {name: reason for name, reason in collector.coverage.unseen.items() if "no activation f" not in reason}
    return sites, unseen


class ClampFunction(torch.autograd.Function):
    """A ReLU with a backward of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Tensor:
        return grad[0]


class SwishFunction(torch.autograd.Function):
    """Swish that keeps nothing for its backward, as in EfficientNet."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Tensor:
        return grad[0]


def set_to_zero(module: nn.Module, x: Tensor) -> Tensor:
    x = x.clone()
    x[x < 0] = 0.0
    return x


ANYWHERE: dict[str, Form] = {
    "where": lambda self, x: torch.where(x > 0, x, 0.0),
    "where, a method": lambda self, x: x.where(x > 0, torch.zeros_like(x)),
    "where, the other way round": lambda self, x: torch.where(torch.lt(x, 0), 0.1 * x, x),
    "an ELU": lambda self, x: torch.where(x > 0, x, torch.exp(x) - 1),
    "masked_fill": lambda self, x: x.masked_fill(x < 0, 0),
    "an assignment": set_to_zero,
    "maximum": lambda self, x: torch.maximum(x, torch.zeros_like(x)),
    "maximum with a multiple": lambda self, x: torch.maximum(x, 0.1 * x),
    "minimum": lambda self, x: torch.minimum(x, torch.tensor(0.0)),
    "a mask": lambda self, x: x * (x > 0),
    "a mask of floats": lambda self, x: (x > 0).to(x.dtype) * x,
    "a GELU": lambda self, x: 0.5 * x * (1 + torch.erf(x / 2**0.5)),
    "a GELU with ndtr": lambda self, x: x * torch.special.ndtr(x),
    "a sine": lambda self, x: torch.sin(30 * x),
    "a snake": lambda self, x: x + torch.sin(self.scale * x) ** 2 / self.scale,
    "a clamp": lambda self, x: torch.clip(x, 0),
    "a hard swish": lambda self, x: x * torch.clamp(x + 3, 0, 6) / 6,
    "a swish": lambda self, x: x / (1 + torch.exp(-x)),
    "a sigmoid": lambda self, x: torch.reciprocal(torch.exp(-x) + 1),
    "a tanh": lambda self, x: (torch.exp(x) - torch.exp(-x)) / (torch.exp(x) + torch.exp(-x)),
    "a softplus": lambda self, x: torch.log(1 + torch.exp(x)),
    "a softplus with log1p": lambda self, x: torch.log1p(torch.exp(x)),
    "a softsign": lambda self, x: x / (1 + x.abs()),
    "a bell": lambda self, x: torch.exp(-(x**2)),
    "an arc tangent": lambda self, x: torch.atan(x),
    "TorchScript": lambda self, x: scripted_gelu(x),
    "a function of autograd's": lambda self, x: ClampFunction.apply(x),
    "an operator": lambda self, x: torch.ops.aten.clamp_min(x, 0),
    "torch's reference": lambda self, x: torch._refs.nn.functional.relu(x),  # type: ignore[attr-defined]
    "a gate": lambda self, x: F.glu(torch.cat([x, x], -1), -1),
}
BETWEEN: dict[str, Form] = {
    "a clamp at 1": lambda self, x: x.clamp(-1, 1),
    "a square": lambda self, x: x.square(),
    "a product with itself": lambda self, x: x * x,
    "half of the value and its size": lambda self, x: (x + x.abs()) / 2,
    "before a norm": lambda self, x: F.layer_norm(torch.where(x > 0, x, 0.0), (8,), self.scale),
    "before a pooling": lambda self, x: torch.where(x > 0, x, 0.0).unsqueeze(-1).mean(-1),
    "before a matrix product": lambda self, x: torch.where(x > 0, x, 0.0) @ (self.scale * torch.eye(8)),
}


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("form", [*ANYWHERE, *BETWEEN])
def test_an_activation_by_hand_is_listed(form: str, gradients: bool) -> None:
    """What bends a layer's output on its way to the next one, and is no known function, is in the coverage."""
    with torch.set_grad_enabled(gradients):
        sites, unseen = look(Between({**ANYWHERE, **BETWEEN}[form]))
    assert sites == []
    assert len(unseen) == 1
    assert all("\n" not in reason and len(reason) < 160 for reason in unseen.values())


@pytest.mark.parametrize("form", ANYWHERE)
def test_an_activation_by_hand_at_the_end_is_listed(form: str) -> None:
    """What the model returns is listed, too, where it cannot well be a box, a probability or a variance."""
    assert len(look(Between(ANYWHERE[form], last=True))[1]) == 1


def normalise(self: Between, x: Tensor) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    return self.scale * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)


def keep_loss(self: Between, x: Tensor) -> Tensor:
    d = (x - self.other(x)).abs()
    self.loss = torch.where(d < 1, 0.5 * d**2, d - 0.5).mean() - 0.5 * (1 + x - x**2 - x.exp()).sum()
    return x


def sample(self: Between, x: Tensor, low: float = -10.0, high: float = 10.0) -> Tensor:
    return x + torch.exp(0.5 * self.other(x).clamp(low, high)) * torch.randn_like(x)


def attend(self: Between, x: Tensor) -> Tensor:
    scores = (x @ x.T).masked_fill(torch.ones(16, 16).triu(1).bool(), -1e9)
    weights = torch.exp(scores - scores.max(-1, keepdim=True).values)
    return weights / weights.sum(-1, keepdim=True) @ x


NONE: dict[str, Form] = {
    "nothing": lambda self, x: x,
    "a division by the norm": lambda self, x: x / x.norm(dim=-1, keepdim=True).clamp(min=1e-6),
    "a layer norm by hand": normalise,
    "a batch norm by hand": lambda self, x: (x - x.mean(0)) / (((x - x.mean(0)) ** 2).mean(0) + 1e-5).sqrt(),
    "a softmax by hand": attend,
    "Sinkhorn's normalisation": lambda self, x: x.exp() / x.exp().sum(0) / x.exp().sum(1, keepdim=True),
    "a loss inside": keep_loss,
    "a sample": sample,
    "a sample with other limits": lambda self, x: sample(self, x, -20.0, 2.0),
    "a sample of a distribution": lambda self, x: torch.distributions.Normal(x, self.other(x).exp()).rsample(),
    "a flow": lambda self, x: x * torch.exp(self.scale * self.other(x)) + x,
    "a temperature": lambda self, x: x * self.scale.exp().clamp(max=100) * torch.where(self.scale > 0, self.scale, 0.0),
    "positions": lambda self, x: x + torch.sin(torch.arange(8.0)) + torch.cos(torch.arange(8.0)).clamp(min=0),
    "encoded coordinates": lambda self, x: torch.cat([torch.sin(x[:, :4]), torch.cos(x[:, 4:])], -1),
    "boxes inside an image": lambda self, x: x.clamp(0, 640),
    "an intersection of boxes": lambda self, x: x * ((x[:, :4] - x[:, 4:]).clamp(min=0).prod(-1, keepdim=True) > 0.5),
    "numbers that half precision holds": lambda self, x: x.clamp(-65000, 65000),
    "a guarded logarithm": lambda self, x: torch.log(x.clamp(min=1e-6)) + torch.log(x.clamp(min=0) + 1e-6),
    "a guard against NaN": lambda self, x: torch.where(torch.isnan(x), 0.0, x),
    "the largest of a row": lambda self, x: x.masked_fill(x < x.topk(2, -1).values[:, -1:], -1e9),
    "counts": lambda self, x: x * (x > 0).float().sum(-1, keepdim=True).clamp(min=0),
    "the lowest number": lambda self, x: torch.max(x, torch.tensor(torch.finfo(x.dtype).min)),
    "a dropout by hand": lambda self, x: x * (torch.rand_like(x) > 0.1) / 0.9,
    "a distance": lambda self, x: (x - self.other(x)).abs() + ((x - self.other(x)) ** 2).sum(-1, keepdim=True),
    "a factorisation machine": lambda self, x: x.sum(-1, keepdim=True) ** 2 - (x**2).sum(-1, keepdim=True) + x,
    "a gate of two layers": lambda self, x: x * self.other(x) + self.other(x),
    "coordinates of a grid": lambda self, x: F.grid_sample(
        torch.ones(16, 8, 4, 4), x[:, :2].clamp(-1, 1).view(-1, 1, 1, 2), align_corners=False
    ).flatten(1),
    "a quantisation": lambda self, x: x + (torch.round(x * 16).clamp(-128, 127) / 16 - x).detach(),
    "a checkpoint": lambda self, x: torch.utils.checkpoint.checkpoint(
        self.other, x, use_reentrant=torch.is_grad_enabled()
    ),
    "a low rank": lambda self, x: x @ (self.scale[:, None] @ self.scale[None]),
    "a pooling of powers": lambda self, x: x.clamp(min=1e-6).pow(self.scale).unsqueeze(-1).mean(-1).pow(1 / self.scale),
}


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("form", NONE)
def test_what_is_no_activation_is_not_listed(form: str, gradients: bool, last: bool) -> None:
    """Norms, guards, boxes, counts, positions, losses and samples are no forgotten activation and no site."""
    with torch.set_grad_enabled(gradients):
        assert look(Between(NONE[form], last=last)) == ([], {})


MEASURED: dict[str, tuple[Form, str]] = {
    "a swish": (lambda self, x: x * torch.sigmoid(x), "sigmoid"),
    "a GELU": (lambda self, x: 0.5 * x * (1 + torch.tanh(0.8 * (x + 0.0447 * x**3))), "tanh"),
    "a squared ReLU": (lambda self, x: F.relu(x).square(), "relu"),
    "a swish of autograd's": (lambda self, x: SwishFunction.apply(x), "sigmoid"),
    "a clamped tanh": (lambda self, x: torch.tanh(x).clamp(-1, 1), "tanh"),
    "a clamped probability": (lambda self, x: torch.sigmoid(x).clamp(0, 1), "sigmoid"),
}


@pytest.mark.parametrize("form", MEASURED)
def test_what_is_made_of_a_site_is_measured_and_not_listed_besides(form: str) -> None:
    """A gate, a square or a guard around a known function is that function's site."""
    function, name = MEASURED[form]
    assert look(Between(function)) == ([name], {})


OPERATORS: dict[str, tuple[Callable[[Tensor], Tensor], str, Callable[[Tensor], Tensor]]] = {
    "aten.relu": (torch.ops.aten.relu, "relu", F.relu),
    "aten.relu.default": (torch.ops.aten.relu.default, "relu", F.relu),
    "aten.relu_": (lambda x: torch.ops.aten.relu_(x.clone()), "relu", F.relu),
    "aten.leaky_relu": (lambda x: torch.ops.aten.leaky_relu(x, 0.0), "leaky_relu", lambda x: F.leaky_relu(x, 0.0)),
    "aten.elu": (lambda x: torch.ops.aten.elu(x, 1.0), "elu", F.elu),
    "aten.hardtanh": (lambda x: torch.ops.aten.hardtanh(x, -0.1, 0.1), "hardtanh", lambda x: F.hardtanh(x, -0.1, 0.1)),
    "aten, named": (lambda x: torch.ops.aten.hardtanh(self=x, min_val=-0.1), "hardtanh", lambda x: F.hardtanh(x, -0.1)),
    "_nn.silu": (torch._C._nn.silu, "silu", F.silu),
    "_nn.gelu": (torch._C._nn.gelu, "gelu", F.gelu),
    "_nn.hardtanh_": (lambda x: torch._C._nn.hardtanh_(x.clone(), -1, 1), "hardtanh", F.hardtanh),
    "_nn.relu6": (torch._C._nn.relu6, "relu6", F.relu6),
    "special.expit": (torch.special.expit, "special_expit", torch.sigmoid),
    "_VF.tanh": (torch._VF.tanh, "tanh", torch.tanh),  # type: ignore[attr-defined]
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_are_the_sites_of_their_functions(name: str) -> None:
    """What torch calls below its functions is one and the same activation, with the same numbers."""
    function, label, same = OPERATORS[name]
    rows = []
    for form in (function, same):
        model = Between(lambda self, x, form=form: form(x))  # type: ignore[misc]
        with ActivationCollector(model) as collector:
            model(X)
            rows.append(collector.finish())
    assert list(rows[0]) == [label]
    ours, theirs = ({key: str(value) for key, value in row.items()} for own in rows for row in own.values())
    assert ours == theirs


OF_PARAMETERS: dict[str, Form] = {
    "a temperature": lambda self, x: x * torch.sigmoid(self.scale),
    "a variance": lambda self, x: x / F.softplus(self.scale + 1e-3),
    "an expanded gate": lambda self, x: x * torch.tanh(self.scale.expand(16, -1)),
    "a scale and constants": lambda self, x: x * torch.sigmoid(self.scale * torch.arange(8) + torch.zeros(8)),
    "another module's": lambda self, x: x @ torch.relu(self.other.weight),
    "a product of parameters": lambda self, x: x @ torch.tanh(self.scale[:, None] @ self.scale[None]),
    "a chain": lambda self, x: x * torch.sigmoid(F.softplus(self.scale)),
}


@pytest.mark.parametrize("form", OF_PARAMETERS)
def test_a_function_of_a_parameter_is_no_site(form: str) -> None:
    """What is the same for every sample is neither measured nor listed, and what follows it keeps its name."""
    function = OF_PARAMETERS[form]
    assert look(Between(lambda self, x: torch.sigmoid(function(self, x)))) == (["sigmoid"], {})


@pytest.mark.parametrize(
    "form",
    [
        lambda self, x: torch.sigmoid(x * self.scale),
        lambda self, x: torch.sigmoid(self.scale * torch.randn_like(x)),
        lambda self, x: torch.sigmoid(self.other(self.scale)) * x,
        lambda self, x: torch.sigmoid(torch.cat([x, self.scale[None]])),
        lambda self, x: torch.sigmoid(torch.zeros_like(x).copy_(x) * self.scale),
    ],
    ids=["scaled", "random", "through a layer", "joined", "copied"],
)
def test_a_function_of_samples_or_of_a_layer_stays_a_site(form: Form) -> None:
    """A parameter among the factors makes a value no constant."""
    assert look(Between(form))[0] == ["sigmoid"]


def test_an_activation_module_that_is_called_for_a_parameter() -> None:
    """A parametrisation of a weight is no site, and not said to be uncalled."""
    layer = nn.utils.parametrize.register_parametrization  # type: ignore[attr-defined]
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    layer(model[0], "weight", nn.Softplus())
    assert look(model) == (["1"], {})


def test_parameters_of_a_functional_call_are_parameters() -> None:
    """Plain tensors that stand in for parameters are none of the samples."""
    model = Between(lambda self, x: torch.relu(x * torch.sigmoid(self.scale)))
    weights = {name: own.detach().clone().requires_grad_() for name, own in model.named_parameters()}
    with DeadUnitCollector(model) as collector:
        torch.func.functional_call(model, weights, (X,))
        assert list(collector.finish()) == ["relu"]


def test_a_parameter_that_is_the_input_is_a_sample() -> None:
    """An image that is optimised is what the model is called for."""
    assert look(nn.Sequential(nn.Tanh()), nn.Parameter(X)) == (["0"], {})


def test_a_chosen_module_is_not_listed() -> None:
    """Measured from the outside, nothing is left to say of what it does inside."""

    class Act(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.where(x > 0, x, 0.0)

    model = nn.Sequential(nn.Linear(8, 8), Act(), nn.Linear(8, 8))
    assert look(model) == ([], {"1.where": look(model)[1]["1.where"]})
    assert look(model, sites=[Act]) == (["1"], {})


@pytest.mark.parametrize("inside", [torch.jit.script, lambda module: torch.compile(module, backend="eager")])
def test_a_module_that_is_compiled_is_listed_once(inside: Any) -> None:
    """What is known to be opaque is not listed a second time for its output."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Sequential(nn.Linear(8, 8), inside(nn.Sequential(nn.ReLU())), nn.Linear(8, 8))
        model(X)
        listed = list(look(model)[1])
    assert listed[0] == "1"
    assert all(name.startswith("1") for name in listed)


def test_it_is_said_in_every_window_and_late_forwards_are_searched() -> None:
    """Another window says it again; a branch that is taken first in the fourth forward is found."""
    calls: list[int] = []

    def late(self: Between, x: Tensor) -> Tensor:
        calls.append(1)
        return torch.where(x > 0, x, 0.0) if len(calls) % 4 == 0 else torch.relu(x)

    model = Between(late)
    with DeadUnitCollector(model) as collector:
        for _ in range(2):
            for _ in range(4):
                model(X)
            assert list(collector.finish()) == ["relu"]
            assert list(collector.coverage.unseen) == ["where"]


@pytest.mark.parametrize("form", [*ANYWHERE, *BETWEEN, *NONE, *OF_PARAMETERS])
def test_the_search_changes_nothing(form: str) -> None:
    """Outputs, gradients and random numbers are bit-identical with and without it."""
    results = []
    for watched in (False, False, False, True):  # TorchScript computes otherwise in its first calls
        model = Between({**ANYWHERE, **BETWEEN, **NONE, **OF_PARAMETERS}[form])
        torch.manual_seed(1)
        collector = DeadUnitCollector(model)
        if watched:
            collector.start()
        y = model(X)
        y.sum().backward()
        collector.stop()
        results.append([y, torch.rand(1), *(own.grad for own in model.parameters() if own.grad is not None)])
    *_, plain, seen = results
    torch.testing.assert_close(seen, plain, rtol=0, atol=0, equal_nan=True)


def sparse(self: Between, x: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sparse tensors are in beta
        return torch.sparse.mm(torch.eye(16).to_sparse_csr(), x) + torch.eye(16).to_sparse() @ x


STRANGE: dict[str, Form] = {
    "sparse": sparse,
    "vmap": lambda self, x: torch.vmap(lambda row: torch.where(row > 0, row, 0.0) * torch.sin(row))(x),
    "grad": lambda self, x: x + torch.func.grad(lambda v: torch.where(v > 0, v, 0.0).sum())(x.detach()),
    "complex": lambda self, x: torch.fft.ifft(torch.fft.fft(x).abs() * torch.fft.fft(x)).real,
    "double": lambda self, x: torch.where(x.double() > 0, x.double(), 0.0).float(),
    "nested": lambda self, x: torch.cat([part.clamp(min=0) for part in x.unbind()]).view(16, 8),
    "a named result": lambda self, x: torch.where(x > 0, x, 0.0).sort(-1).values,
    "an out argument": lambda self, x: torch.clamp(x.detach(), min=0, out=torch.empty(16, 8)),
    "numpy": lambda self, x: torch.from_numpy(x.detach().numpy().clip(0)),
    "an empty batch": lambda self, x: torch.where(x[:0] > 0, x[:0], 0.0),
}


@pytest.mark.parametrize("form", STRANGE)
def test_strange_tensors_do_not_disturb_the_search(form: str) -> None:
    """Sparse tensors, function transforms, complex numbers and foreign memory are gone through without an error."""
    model, plain = Between(STRANGE[form]), Between(STRANGE[form])
    with DeadUnitCollector(model) as collector:
        assert torch.equal(model(X), plain(X))
        collector.finish()


@pytest.mark.parametrize("bends", [True, False])
def test_a_scripted_function_is_listed_if_it_bends(bends: bool) -> None:
    """Without a graph of autograd's it is the function's own code that says whether it can be an activation."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        name = "scripted_gelu" if bends else "scripted_scale"
        function = scripted_gelu if bends else torch.jit.script(scripted_scale)
    with torch.no_grad():
        assert list(look(Between(lambda self, x: function(x)))[1]) == [name] * bends


def scripted_scale(x):  # type: ignore[no-untyped-def]
    return 2.0 * x + 1.0
