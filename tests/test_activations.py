from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from ignite_act import activations
from ignite_act.activations import (
    ACTIVATIONS,
    check_parameters,
    get_activation,
    make_activation,
    recognised_call,
    recognised_module,
    register_activation,
)
from ignite_act.collect import DeadUnitCollector

NOT_ELEMENTWISE = {"GLU", "MultiheadAttention", "Softmax", "Softmax2d", "Softmin", "LogSoftmax"}
CASES: list[tuple[str, dict[str, float | str]]] = [
    *((name, {}) for name, entry in ACTIVATIONS.items() if entry.pointwise),
    ("leakyrelu", {"negative_slope": 0.1}),
    ("leakyrelu", {"negative_slope": 0.0}),
    ("elu", {"alpha": 0.5}),
    ("elu", {"alpha": 0.0}),
    ("celu", {"alpha": 0.5}),
    ("gelu", {"approximate": "tanh"}),
    ("hardtanh", {"min_val": -0.1, "max_val": 2.3}),
    ("hardtanh", {"min_val": 1.0, "max_val": 2.0}),
    ("hardshrink", {"lambd": 0.1}),
    ("hardshrink", {"lambd": 0.0}),
    ("softshrink", {"lambd": 1.5}),
    ("softshrink", {"lambd": 0.0}),
    ("threshold", {"threshold": 0.1, "value": -20.0}),
    ("threshold", {"threshold": -2.0}),
    ("rrelu", {"lower": 0.0, "upper": 0.0}),
    ("softplus", {"beta": 2.0, "threshold": 5.0}),
    ("prelu", {"init": 0.5}),
]


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry that forgets what a test registers."""
    for table in ("ACTIVATIONS", "_NAMES", "_CALLS", "_MODULES"):
        monkeypatch.setattr(activations, table, dict(getattr(activations, table)))


def derivative(module: nn.Module, z: Tensor) -> Tensor:
    z = z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(module(z).sum(), z)
    return slope


def inside(z: Tensor, intervals: tuple[tuple[float, float], ...]) -> Tensor:
    mask = torch.zeros_like(z, dtype=torch.bool)
    for low, high in intervals:
        mask |= (z >= low) & (z <= high)
    return mask


@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_flat_intervals_are_where_autograd_is_exactly_zero(name: str, parameters: dict[str, float | str]) -> None:
    """The derivative is exactly zero if and only if z lies in the declared flat intervals, boundaries included."""
    flat = get_activation(name).flat_intervals(parameters)
    assert flat is not None
    reach = 4.0 if parameters.get("approximate") == "tanh" else 10.0  # the tanh of GELU's approximation underflows
    z = torch.linspace(-reach, reach, 4001, dtype=torch.float64)
    ends = torch.tensor([end for piece in flat for end in piece if math.isfinite(end)], dtype=torch.float64)
    beside = [torch.nextafter(ends, torch.full_like(ends, side)) for side in (-math.inf, math.inf)]
    z = torch.cat([z, ends, *beside])
    if name == "tanhshrink":
        z = z[z.abs() > 1e-3]  # the derivative is zero at 0 alone: a point, not a piece
    slope = derivative(make_activation(name, **parameters).double(), z)
    assert torch.equal(slope == 0, inside(z, flat))


@pytest.mark.few(12)
@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_saturated_intervals_are_where_the_derivative_is_small(name: str, parameters: dict[str, float | str]) -> None:
    """A value is saturated if and only if |f'| there is below 5 % of its maximum."""
    intervals = get_activation(name).saturated_intervals(parameters)
    module = make_activation(name, **parameters).double().eval()
    z = torch.cat([torch.linspace(-12, 12, 24_001, dtype=torch.float64), torch.tensor([-1e4, -500.0, 500.0, 1e4])])
    slope = derivative(module, z).abs()
    for end in (end for piece in intervals for end in piece):
        slope, z = slope[(z - end).abs() > 1e-4], z[(z - end).abs() > 1e-4]
    expected = slope < 0.05 * slope.max()
    assert torch.equal(inside(z, intervals), expected)


def test_every_elementwise_activation_of_torch_is_registered() -> None:
    """Every element-wise class of torch.nn.modules.activation is recognised by its type, and so is nn.Threshold."""
    names = set(nn.modules.activation.__all__) - NOT_ELEMENTWISE
    missing = {name for name in names if getattr(nn, name) not in activations._MODULES}
    assert not missing
    assert recognised_module(nn.Threshold(0.5, 1.0)) is ACTIVATIONS["threshold"]


@pytest.mark.parametrize("name", [name for name, entry in ACTIVATIONS.items() if entry.functional is not None])
def test_the_functional_form_computes_the_same_as_the_module(name: str) -> None:
    """Functional style and module style are the same function."""
    z = torch.linspace(-4, 4, 101)
    functional = get_activation(name).functional
    assert functional is not None
    assert torch.equal(functional(z), make_activation(name)(z))


@pytest.mark.parametrize(
    ("alias", "name"), [("swish", "silu"), ("Leaky_ReLU", "leakyrelu"), ("logistic", "sigmoid"), ("none", "identity")]
)
def test_aliases_and_spellings_lead_to_one_entry(alias: str, name: str) -> None:
    """Case, underscores, dashes and aliases do not matter."""
    assert get_activation(alias) is ACTIVATIONS[name]


@pytest.mark.parametrize(("wrong", "near"), [("rellu", "relu"), ("sigmoyd", "sigmoid"), ("swsh", "silu")])
def test_an_unknown_name_is_answered_by_near_matches(wrong: str, near: str) -> None:
    """The error says what was given, what is near, and what there is."""
    with pytest.raises(ValueError, match=f"unknown activation '{wrong}': did you mean .*{near}.*all of them"):
        get_activation(wrong)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("relu", {"slope": 0.1}, "no parameter 'slope' .*it has: none"),
        ("leakyrelu", {"slope": 0.1}, "it has: negative_slope=0.01"),
        ("leakyrelu", {"negative_slope": "steep"}, "is a number, got 'steep'"),
        ("gelu", {"approximate": 1.0}, "is a word, got 1.0"),
        ("elu", {"alpha": math.nan}, "must be finite"),
        ("hardtanh", {"min_val": 2.0, "max_val": 1.0}, "refuses"),
    ],
)
def test_wrong_parameters_are_refused(name: str, parameters: dict[str, float | str], message: str) -> None:
    """A parameter that does not exist, is of the wrong kind or out of range gives one clear error."""
    with pytest.raises(ValueError, match=message):
        make_activation(name, **parameters)


def test_parameters_are_names_with_defaults() -> None:
    """An entry knows its parameters; device, dtype and inplace are none."""
    assert get_activation("hardtanh").parameters == {"min_val": -1.0, "max_val": 1.0}
    assert get_activation("relu").parameters == {}
    assert make_activation("leakyrelu", negative_slope=0.3).negative_slope == 0.3
    check_parameters(get_activation("elu"), {"alpha": 2})


def test_worked_values() -> None:
    """The values of section 7 of the design come out to their last digit."""
    assert make_activation("sigmoid")(torch.tensor([0.0118, -0.6906])).tolist() == pytest.approx(
        [0.5029, 0.3339], abs=5e-5
    )
    assert make_activation("leakyrelu", negative_slope=0.1)(torch.tensor(-2.4688)).item() == pytest.approx(
        -0.2469, abs=5e-5
    )
    assert make_activation("tanh")(torch.tensor(2.2377)).item() == pytest.approx(0.9775, abs=5e-5)
    assert make_activation("softmax")(torch.randn(3, 5)).sum(-1).tolist() == pytest.approx([1.0] * 3)


@pytest.mark.usefixtures("registry")
def test_a_registered_class_is_a_site() -> None:
    """A module class registered by decorator is one site in every watched model, judged by its own flat pieces."""

    @register_activation("cap", aliases=("lid",), flat=((1.0, math.inf),), description="stops at 1")
    class Cap(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return -torch.relu(1 - z) + 1

    model = nn.Sequential(nn.Linear(2, 2), Cap())
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.copy_(torch.tensor([5.0, -5.0]))
    with DeadUnitCollector(model) as collector:
        model(torch.randn(3, 2))
        rows = collector.finish()
    assert isinstance(make_activation("LID"), Cap)
    assert get_activation("cap").description == "stops at 1"
    assert {name: row["indices"] for name, row in rows.items()} == {"1": [0]}


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize(
    ("name", "aliases", "message"),
    [("re-lu", (), "taken by 'relu'"), ("new", ("swish",), "taken by 'silu'"), ("a b", (), "letters, digits")],
)
def test_a_taken_or_odd_name_is_refused(name: str, aliases: tuple[str, ...], message: str) -> None:
    """Registering a name twice, or one that cannot be typed, is an error, and nothing is registered."""
    before = list(activations.ACTIVATIONS)
    with pytest.raises(ValueError, match=message):
        register_activation(name, nn.ReLU, aliases=aliases)
    assert list(activations.ACTIVATIONS) == before


def test_identity_and_softmax_are_no_sites() -> None:
    """A placeholder and a function that mixes units are not measured."""
    assert recognised_module(nn.Identity()) is None
    assert recognised_call(torch.nn.functional.softmax) is None
    assert get_activation("softmax").saturated_intervals() == ()


@pytest.mark.parametrize("form", [torch.relu, torch.Tensor.relu_, nn.functional.relu, torch.Tensor.relu])
def test_functions_and_methods_are_recognised(form: object) -> None:
    """The functional form, the torch function and the tensor method are one activation."""
    known = recognised_call(form)  # type: ignore[arg-type]
    assert known is not None
    assert known[0].name == "relu"
