"""Canaries: each fails when a new torch changes something private that watching a training relies on."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn, overrides
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.modules import module as torch_module
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from ignite_act.collect.torch_internals import (
    backward_number,
    backward_roots,
    compiled_frames,
    compiled_module,
    compiles_itself,
    has_step_pre_hooks,
    is_being_called,
    is_compiling,
    is_recomputing,
    is_recording,
    register_forward_hook,
    register_forward_pre_hook,
    remove_function_mode,
    step_pre_hooks_after,
    version,
    without_functions,
)

PLAIN = torch.arange(6.0).reshape(3, 2)


def in_backward(ask: Any, differentiate: Any) -> Any:
    """What a question is answered inside of a backward."""
    answers = []
    x = torch.ones(3, requires_grad=True)
    loss = (2 * x).sum()
    loss.register_hook(lambda gradient: answers.append(ask()))
    differentiate(loss, x)
    return loss, answers


DIFFERENTIATE = {
    "backward": lambda loss, x: loss.backward(),
    "autograd.backward": lambda loss, x: torch.autograd.backward([loss]),
    "grad": lambda loss, x: torch.autograd.grad(loss, x),
    "with a graph": lambda loss, x: torch.autograd.grad(loss, x, create_graph=True),
}


@pytest.mark.parametrize("how", DIFFERENTIATE)
def test_what_backward_was_asked_for(how: str) -> None:
    """The roots of the running backward are its loss, in whatever thread and however it is asked."""
    assert backward_roots() is None
    loss, (roots,) = in_backward(backward_roots, DIFFERENTIATE[how])
    assert len(roots) == 1
    assert roots[0] is loss
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.extend(in_backward(backward_roots, DIFFERENTIATE[how])))
    thread.start()
    thread.join()
    assert found[1][0][0] is found[0]
    assert backward_roots() is None


def test_backwards_have_numbers() -> None:
    """Inside a backward there is a number, another one for each; outside there is none."""
    numbers = [in_backward(backward_number, DIFFERENTIATE["backward"])[1][0] for _ in range(3)]
    assert len(set(numbers)) == 3
    assert -1 not in numbers
    assert backward_number() == -1


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_recomputation_is_one(reentrant: bool) -> None:
    """A checkpoint's first forward is none, the one inside backward is."""
    seen = []

    def forward(x: Tensor) -> Tensor:
        seen.append(is_recomputing())
        return x.sin()

    checkpoint(forward, torch.ones(2, requires_grad=True), use_reentrant=reentrant).sum().backward()
    assert seen == [False, True]


def test_what_is_compiled_is_known() -> None:
    """The module below ``torch.compile``, ``module.compile()`` and the code that was compiled."""
    torch._dynamo.reset()
    module, before = nn.Linear(2, 2), compiled_frames()
    compiled = torch.compile(module, backend="eager")
    assert compiled_module(compiled) is module
    assert compiled_module(module) is None
    assert not compiles_itself(module)
    compiled(torch.ones(1, 2))
    assert compiled_frames() == before + 1
    module.compile(backend="eager")
    assert compiles_itself(module)


@pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated")
def test_recording_is_no_forward() -> None:
    """``torch.compile`` and ``torch.jit.trace`` compile, ``make_fx`` records; otherwise nothing does."""
    seen: list[tuple[bool, bool]] = []

    def note(x: Tensor) -> Tensor:
        seen.append((is_compiling(), is_recording()))
        return x + 1

    def compiled(x: Tensor) -> Tensor:
        return x + 1 if is_compiling() else x - 1

    note(PLAIN)
    torch.jit.trace(note, PLAIN, check_trace=False)
    make_fx(note)(PLAIN)
    assert seen == [(False, False), (True, False), (False, True)]
    torch._dynamo.reset()
    assert torch.equal(torch.compile(compiled, backend="eager")(PLAIN), PLAIN + 1)


def test_hooks_keep_their_numbers() -> None:
    """Registered again, a hook has the number that it had, is called with keywords, and leaves nothing."""
    calls = []

    def before(module: nn.Module, args: Any) -> None:
        calls.append("before")

    def after(module: nn.Module, *rest: Any) -> None:
        calls.append(rest[1] if len(rest) > 2 else "raised")

    tables = (
        torch_module._global_forward_pre_hooks,
        torch_module._global_forward_hooks,
        torch_module._global_forward_hooks_with_kwargs,
        torch_module._global_forward_hooks_always_called,
    )
    numbers = []
    for _ in range(2):
        removers = [register_forward_pre_hook(before), register_forward_hook(after)]
        numbers.append([list(table) for table in tables])
        nn.Identity()(input=1)
        with pytest.raises(TypeError):
            nn.Identity()()
        for remove in removers:
            remove()
            remove()
        assert not any(tables)
    assert numbers[0] == numbers[1]
    assert calls == ["before", {"input": 1}, "before", "raised"] * 2


def test_hooks_of_optimizers() -> None:
    """Hooks of one optimizer, and later ones of all, are seen."""
    optimizer = torch.optim.SGD([nn.Parameter(PLAIN.clone())], lr=0.1)
    assert not has_step_pre_hooks(optimizer)
    optimizer.register_step_pre_hook(lambda *_: None)
    assert has_step_pre_hooks(optimizer)
    own = register_optimizer_step_pre_hook(lambda *_: None)
    assert not step_pre_hooks_after(own.id)
    later = register_optimizer_step_pre_hook(lambda *_: None)
    assert step_pre_hooks_after(own.id)
    later.remove()
    own.remove()


def test_a_method_that_is_running_is_known() -> None:
    """Inside a method of an object, also of one below it, the object is being called."""

    class Asks:
        def ask(self, other: object) -> tuple[bool, bool]:
            return is_being_called(self), is_being_called(other)

    first, second = Asks(), Asks()
    assert first.ask(second) == (True, False)
    assert not is_being_called(first)


def test_versions_count_changes_in_place() -> None:
    """A change in place is counted; tensors of inference mode have no version."""
    tensor = PLAIN.clone()
    before = version(tensor)
    tensor.add_(1)
    assert version(tensor) == before + 1
    with torch.inference_mode():
        assert version(PLAIN.clone()) == -1


class Notes(TorchFunctionMode):
    """Counts the functions that it sees."""

    seen = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen += 1
        return function(*args, **(kwargs or {}))


def test_modes_do_not_see_what_we_do() -> None:
    """Inside the block a function mode sees nothing, after it everything."""
    with Notes() as mode:
        with without_functions():
            torch.add(PLAIN, 1)
        assert mode.seen == 0
        torch.add(PLAIN, 1)
        assert mode.seen == 1


def test_a_mode_is_removed_from_below_others() -> None:
    """The others stay in their order; removing it again does nothing."""
    modes = [Notes(), Notes(), Notes()]
    for mode in modes:
        overrides._push_mode(mode)
    remove_function_mode(modes[1])
    remove_function_mode(modes[1])
    assert overrides._get_current_function_mode_stack() == [modes[0], modes[2]]
    for mode in reversed(modes):
        remove_function_mode(mode)
    assert overrides._get_current_function_mode_stack() == []
