"""What is known of a call: the site, the module around it, and who wants to know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from ignite_act.activations import Activation
from ignite_act.collect.by_hand import Place
from ignite_act.internals import own_buffers, own_parameters


class SiteKey(NamedTuple):
    """Identity of a site within a process: the k-th call of something in one call of a module."""

    module: int  # number of the enclosing module, or of the activation module itself
    module_call: int
    function: str  # "" for an activation module
    call: int


class SiteCall(NamedTuple):
    """One call of an activation function.

    Attributes:
        key: which site it belongs to.
        activation_fn: what is known of the function; None for a hand-written module that was chosen.
        parameters: the function's parameters in this call.
        pre_activation: what entered, None if it has been overwritten since.
        activation: what left.
        unit_dim: axis of the units, negative; None if it is not known.
    """

    key: SiteKey
    activation_fn: Activation | None
    parameters: Mapping[str, Any]
    pre_activation: Tensor | None
    activation: Tensor
    unit_dim: int | None


class SiteObserver(Protocol):
    """What a forward tap calls."""

    def is_open(self) -> bool:
        """Whether what happens now belongs to the window."""

    def wants_forward(self, kind: int) -> bool:
        """Whether a forward of a kind is to be measured (`forward_kind`); asked once per outermost call."""

    def needs_pre_activation(self, activation_fn: Activation) -> bool:
        """Whether the input of the function must survive an in-place call."""

    def chooses_module(self, module: nn.Module, names: list[str]) -> bool:
        """Whether a module that is no known activation is to be measured as one site."""

    def observe(self, call: SiteCall) -> None:
        """Takes one call."""

    def fail(self, key: SiteKey, error: Exception) -> None:
        """Is told that `observe` raised."""

    def note(self, what: str, reason: str) -> None:
        """Is told of something that could not be seen and is no site."""

    def give_up(self, what: str, reason: str) -> None:
        """Notes that watching failed."""


class ModuleInfo(NamedTuple):
    """What is known of a module before it is called."""

    number: int
    """The module's own for ever, which its id is not."""
    kind: type[nn.Module]
    names: list[str]
    activation_fn: Activation | None
    whole_for: frozenset[int]
    """Ids of the observers that measure the module from the outside, as one site."""
    opaque: str
    """Why what happens inside cannot be seen; empty if it can."""
    may_fuse: bool
    """Whether torch has a fused kernel for the module."""


class Frame:
    """A module that is being executed."""

    __slots__ = ("call", "counts", "hidden_from", "info", "module", "owns", "pre_activation", "version")

    def __init__(self, module: nn.Module, info: ModuleInfo, call: int, hidden_from: frozenset[int]) -> None:
        self.module = module
        self.info = info
        self.call = call
        self.counts: dict[str, int] = {}
        self.owns = bool(own_parameters(module) or own_buffers(module))
        self.hidden_from = hidden_from  # ids of the observers for which what is called inside is no site
        self.pre_activation: Tensor | None = None
        self.version = 0


def place_of(frame: Frame) -> Place:
    """Where what is called by hand would be listed."""
    return Place(frame.info.names[0], frame.info.kind.__name__, frame.hidden_from)
