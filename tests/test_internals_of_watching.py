"""Canaries: each fails when a new torch changes something private that watching a training relies on."""

from __future__ import annotations

import math
import re
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from ignite.engine import Engine, Events
from torch import Tensor, nn, overrides
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.modules import module as torch_module
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
    register_module_full_backward_hook,
)
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from ignite_act import internals
from ignite_act.internals import (
    BATCH_NORM,
    DROPOUT,
    NN_FUNCTIONS,
    arguments_of,
    attention_of,
    backward_number,
    backward_roots,
    compiled_frames,
    compiled_module,
    compiles_itself,
    firing_engines,
    global_hooks,
    has_step_pre_hooks,
    is_being_called,
    is_compiling,
    is_nested_call,
    is_nested_step,
    is_operator,
    is_plain,
    is_recomputing,
    is_recording,
    norm_of_each,
    number_of,
    operators,
    own_buffers,
    own_parameters,
    register_forward_hook,
    register_forward_pre_hook,
    remove_function_mode,
    saved_tensor,
    shape_of,
    step_pre_hooks_after,
    version,
    without_functions,
)

FILES = ("test_internals.py", "test_internals_of_watching.py", "test_lightning.py")
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


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_modules_of_torchscript_are_asked_like_others() -> None:
    """They keep their children, parameters and buffers in objects that are no dictionaries."""
    scripted = torch.jit.script(nn.Sequential(nn.BatchNorm1d(2), nn.ReLU()))
    assert compiled_module(scripted) is None
    assert not compiles_itself(scripted)
    assert not list(own_parameters(scripted).items())
    assert [name for name, _ in own_parameters(scripted[0]).items()] == ["weight", "bias"]
    assert len(list(own_buffers(scripted[0]).values())) == 3


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


def test_operators_have_overloads_and_named_arguments() -> None:
    """An operator is found by its name with its overloads, whose arguments are named."""
    packet, *overloads = operators("gelu")
    assert packet is torch.ops.aten.gelu
    assert torch.ops.aten.gelu.default in overloads
    assert all(map(is_operator, overloads))
    assert not is_operator(packet)
    assert not is_operator(torch.relu)
    assert arguments_of(packet) == arguments_of(torch.ops.aten.gelu.default) == ("self", "approximate")
    assert operators("no_such_operator") == ()
    assert NN_FUNCTIONS.gelu is F.gelu


@pytest.mark.parametrize("order", [1.0, 2.0, math.inf])
def test_norms_of_several_tensors(order: float) -> None:
    """They are those of the tensors one by one, in the type that was asked for."""
    tensors = [PLAIN, PLAIN.neg()[:1], torch.tensor(3.0), torch.tensor([math.nan, 1.0])]
    for tensor, norm in zip(tensors, norm_of_each(tensors, order, torch.float64), strict=True):
        expected = torch.linalg.vector_norm(tensor.flatten(), order, dtype=torch.float64)
        torch.testing.assert_close(norm, expected, equal_nan=True)


def test_nodes_of_a_graph_tell_their_order_their_shape_and_what_they_saved() -> None:
    """Nodes are numbered as they are made."""
    x = PLAIN.clone().requires_grad_()
    first, second = x.exp(), x.softmax(1)
    assert number_of(first.grad_fn) < number_of(second.grad_fn)
    assert shape_of(second.grad_fn) == (3, 2)
    assert shape_of(None) == ()
    saved = saved_tensor(first.grad_fn, "result")
    assert saved is not None
    assert torch.equal(saved, first)
    assert saved_tensor(first.grad_fn, "nothing") is None


def test_weights_of_attention_are_read_off_the_graph() -> None:
    """Those of torch's own attention, by whatever kernel, are the softmax of the scores."""
    query, key = (
        torch.randn(1, 2, 5, 4, generator=torch.Generator().manual_seed(n), requires_grad=True) for n in (0, 1)
    )
    expected = (query @ key.mT / 2).softmax(-1)
    for mixed in (F.scaled_dot_product_attention(query, key, key).grad_fn, expected.grad_fn):
        found = attention_of(mixed)
        assert found is not None
        torch.testing.assert_close(found, expected.detach())
    assert attention_of((query + key).grad_fn) is None


def test_what_a_module_owns_and_what_it_is() -> None:
    """Its own parameters and buffers, without its children's; the classes that its kind derives from."""
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Dropout1d())
    assert not own_parameters(model)
    assert list(own_parameters(model[0])) == ["weight", "bias"]
    assert list(own_buffers(model[0])) == ["running_mean", "running_var", "num_batches_tracked"]
    assert [isinstance(part, BATCH_NORM) for part in model] == [True, False]
    assert [isinstance(part, DROPOUT) for part in model] == [False, True]
    for kind in (nn.BatchNorm1d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.LazyBatchNorm2d):
        assert issubclass(kind, BATCH_NORM)
    for kind in (nn.Dropout, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout):
        assert issubclass(kind, DROPOUT)
    assert is_plain(PLAIN)
    assert not is_plain(PLAIN.to("meta"))


def test_calls_of_a_module_inside_itself_are_known() -> None:
    """A module that calls itself is inside itself at the inner call, and not at the outer one."""
    nested = []

    class Twice(nn.Module):
        def forward(self, x: Tensor, more: bool = True) -> Tensor:
            return self(x, more=False) if more else x

    model = Twice()
    handle = model.register_forward_pre_hook(lambda module, args: nested.append(is_nested_call(module)))
    model(PLAIN)
    handle.remove()
    assert nested == [False, True]


def test_steps_inside_steps_of_one_optimizer_are_known() -> None:
    """``super().step()`` runs inside the step of the class that calls it."""
    nested = []

    class Own(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            return super().step(closure)

    for kind in (torch.optim.SGD, Own):
        optimizer = kind([nn.Parameter(PLAIN.clone())], lr=0.1)
        optimizer.register_step_pre_hook(lambda own, args, kwargs: nested.append(is_nested_step(own)))
        optimizer.step()
    assert nested == [False, False, True]


def test_all_global_hooks_are_listed() -> None:
    """Hooks of all modules, before and after forward and backward, and of all optimizers, before and after steps."""
    before = global_hooks()
    handles = [
        register_module_forward_pre_hook(print),
        register_module_forward_hook(repr),
        register_module_full_backward_hook(len),
        register_optimizer_step_pre_hook(id),
        register_optimizer_step_post_hook(hash),
    ]
    assert {print, repr, len, id, hash} <= set(global_hooks())
    for handle in handles:
        handle.remove()
    assert global_hooks() == before


def test_engines_that_run_handlers_are_known() -> None:
    """The innermost first, and only while handlers run."""
    found = []
    outer, inner = (
        Engine(lambda engine, batch: found.append(list(firing_engines()))),
        Engine(lambda engine, batch: None),
    )
    inner.add_event_handler(Events.STARTED, lambda: found.append(list(firing_engines())))
    outer.add_event_handler(Events.EPOCH_COMPLETED, lambda: inner.run([0]))
    outer.run([0])
    assert found == [[], [inner, outer]]


def test_every_name_has_a_canary() -> None:
    """Each function and each constant of the file stands in a test of this file or another."""
    source = Path(internals.__file__).read_text(encoding="utf-8")
    names = set(re.findall(r"^(?:def ([a-z]\w+)|([A-Z]\w+) =)", source, re.MULTILINE))
    here = Path(__file__).parent
    tests = "".join((here / name).read_text(encoding="utf-8") for name in FILES)
    used = set(re.findall(r"\w+", tests))
    assert len(names) > 40
    assert not {name for pair in names for name in pair if name} - used
