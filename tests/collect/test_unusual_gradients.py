"""Gradients of unusual tensors are measured or listed; they take no other layer with them and never raise."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, stack_module_state, vmap
from torch.optim import SGD, Optimizer

from ignite_act.collect import GradientCollector

pytestmark = pytest.mark.usefixtures("loops")


class Quantised(Tensor):
    """Whole numbers and a scale that stand for a weight, as torchao has them: few operations are known."""

    codes: Tensor
    scale: Tensor
    known = frozenset({"detach", "clone", "_to_copy", "alias", "empty_like"})

    @staticmethod
    def __new__(cls, codes: Tensor, scale: Tensor) -> Quantised:
        return Tensor._make_wrapper_subclass(cls, codes.shape, dtype=scale.dtype, device=codes.device)

    def __init__(self, codes: Tensor, scale: Tensor) -> None:
        self.codes, self.scale = codes, scale

    def __repr__(self, **options: Any) -> str:
        return "Quantised()"

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if name in cls.known:
            return cls(args[0].codes.clone(), args[0].scale.clone())
        raise NotImplementedError(f"{name} is not\nimplemented for {cls.__name__} " + "and so on " * 100)


class Idle(Optimizer):
    """Steps that leave the weights alone: gradients of any type will do."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        pass


def measured(odd: nn.Parameter, *gradients: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """Rows and coverage of a model with a usual layer and an unusual one, one step for each of its gradients."""
    model = nn.ModuleDict({"odd": nn.Module(), "plain": nn.Linear(4, 4, bias=False)})
    model["odd"].weight = odd
    optimizer = Idle(model.parameters(), {})
    with GradientCollector(model) as collector:
        for step, gradient in enumerate(gradients):
            model["plain"].weight.grad = torch.full((4, 4), 2.0 + step)
            odd.grad = gradient
            optimizer.step()
        rows = collector.finish()
    assert (rows["plain"]["mean_abs"], rows["plain"]["steps"]) == ((len(gradients) + 3) / 2, len(gradients))
    return rows, dict(collector.coverage.unseen)


NUMBERS = torch.tensor([[1.0, -3.0], [0.0, 4.0]])


@pytest.mark.parametrize(
    "kind",
    ["float8_e4m3fn", "float8_e5m2", "bfloat16", "float16", "float64", "complex64", "coo", "csr", "subclass"],
)
def test_gradients_of_many_kinds_are_measured(kind: str) -> None:
    """Narrow, wide, complex and sparse gradients, and those of harmless subclasses, count with their values."""
    if kind in ("coo", "csr"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls CSR beta
            gradient = NUMBERS.to_sparse() if kind == "coo" else NUMBERS.to_sparse_csr()
        weight = gradient if kind == "csr" else NUMBERS
    elif kind == "subclass":
        gradient, weight = NUMBERS.as_subclass(type("Own", (Tensor,), {})), NUMBERS
    else:
        gradient = weight = NUMBERS.to(getattr(torch, kind))
    odd = nn.Parameter(weight.clone())
    rows, unseen = measured(odd, gradient, gradient)
    assert (rows["odd"]["mean_abs"], rows["odd"]["max_abs"], rows["odd"]["steps"]) == (2.0, 4.0, 2)
    assert unseen == {}


def test_a_nan_in_a_narrow_gradient_is_seen() -> None:
    """A float8 NaN counts as any other."""
    broken = torch.tensor([[math.nan, 1.0]]).to(torch.float8_e5m2)
    rows, _ = measured(nn.Parameter(torch.ones(1, 2).to(torch.float8_e5m2)), broken)
    assert (rows["odd"]["nonfinite"], rows["odd"]["steps"]) == (1, 1)


def test_gradients_without_values_are_listed() -> None:
    """On the meta device, or fake, there is nothing to read."""
    with FakeTensorMode():
        fake = nn.Parameter(torch.ones(2, 2)), torch.ones(2, 2)
    for odd, gradient in ((nn.Parameter(NUMBERS.to("meta")), NUMBERS.to("meta")), fake):
        rows, unseen = measured(odd, gradient, gradient)
        assert list(rows) == ["plain"]
        assert unseen == {"odd": "its gradient has no values: it is on the meta device, or a stand-in for a tensor"}


def test_a_gradient_that_fails_takes_no_other_layer_with_it() -> None:
    """The layer is listed with one short line, however long the message is, and the others are measured."""
    odd = Quantised(torch.ones(4, 4, dtype=torch.int8), torch.tensor(0.5))
    rows, unseen = measured(nn.Parameter(odd), odd, odd, odd)
    assert list(rows) == ["plain"]
    assert set(unseen) == {"odd", "some steps"}
    assert unseen["odd"].startswith("reading its gradient failed: NotImplementedError: ")
    assert all("\n" not in reason and len(reason) <= 160 for reason in unseen.values())


def test_a_gradient_that_fails_later_keeps_its_row() -> None:
    """What was read before the failure stays, and the coverage says that steps are missing."""
    odd = Quantised(torch.ones(2, 2, dtype=torch.int8), torch.tensor(0.5))
    rows, unseen = measured(nn.Parameter(NUMBERS.clone()), NUMBERS, odd, NUMBERS)
    assert (rows["odd"]["mean_abs"], rows["odd"]["steps"]) == (2.0, 1)
    assert list(unseen) == ["some steps"]


def test_a_failure_is_over_with_its_window() -> None:
    """In the next window the layer is tried again."""
    model = nn.Linear(2, 2, bias=False)
    optimizer = Idle(model.parameters(), {})
    with GradientCollector(model) as collector:
        model.weight.grad = Quantised(torch.ones(2, 2, dtype=torch.int8), torch.tensor(0.5))
        optimizer.step()
        assert collector.finish() == {}
        model.weight.grad = NUMBERS
        optimizer.step()
        assert collector.finish()["weight"]["mean_abs"] == 2.0
    assert collector.coverage.unseen == {}


def test_quantised_weights_are_frozen_ones() -> None:
    """A layer whose weight is kept in few bits has no gradient, and the one trained beside it is measured (LoRA)."""
    odd = nn.Parameter(Quantised(torch.ones(4, 4, dtype=torch.int8), torch.tensor(0.5)), requires_grad=False)
    rows, unseen = measured(odd, None, None)
    assert list(rows) == ["plain"]
    assert unseen == {"odd": "it is frozen (requires_grad is False)"}


def test_the_shell_of_an_ensemble_is_listed() -> None:
    """Parameters on the meta device that stand for stacked ones have no values, with the reason."""
    torch.manual_seed(0)
    members = [nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)) for _ in range(3)]
    parameters, _ = stack_module_state(members)
    shell = copy.deepcopy(members[0]).to("meta")
    optimizer = SGD(parameters.values(), 0.1)
    with GradientCollector(shell) as collector:
        for _ in range(3):
            optimizer.zero_grad()
            stacked = vmap(lambda p, x: functional_call(shell, p, (x,)), (0, None))(parameters, torch.randn(8, 4))
            stacked.square().mean().backward()
            optimizer.step()
        assert collector.finish() == {}
    reason = "it has no values: it is on the meta device, or a stand-in for a tensor"
    assert collector.coverage.unseen == dict.fromkeys(["0", "2"], reason)
