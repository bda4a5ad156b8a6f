"""What a search for activations by hand knows of a value."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import Tensor


class HandFinding:
    """A call that is an activation by hand if its value goes on into a layer."""

    __slots__ = ("at_the_end", "hidden_from", "is_void", "name", "reason", "weak")

    def __init__(
        self, name: str, reason: str, hidden_from: frozenset[int], *, weak: bool = False, at_the_end: bool = True
    ) -> None:
        self.name = name
        self.reason = reason
        self.hidden_from = hidden_from
        self.weak = weak  # a power that is summed up is a norm
        self.at_the_end = at_the_end  # whether it is one, too, if the model returns it
        self.is_void = False


class Trace(NamedTuple):
    """What is known of a tensor.

    Attributes:
        hidden: whether it comes from a layer.
        origin: the same for a value, its multiples and its masks.
        form: ``"mask"`` of the origin; ``"part"``, an exponential or absolute value of it; ``"sum"``, 1 + such a part.
        mixed: whether several values of layers were combined, or an activation function was called.
        close: whether only functions of single elements were called since the last finding.
        findings: since the last layer.
        is_zero: a constant 0.
    """

    hidden: bool = False
    origin: object = None
    form: str = ""
    mixed: bool = False
    close: bool = False
    findings: tuple[HandFinding, ...] = ()
    is_zero: bool = False


NOTHING = Trace()


def joined(traces: Iterable[Trace]) -> Trace:
    """A new value, made of others."""
    hidden = [trace for trace in traces if trace.hidden]
    if not hidden:
        return NOTHING
    findings = tuple(dict.fromkeys(own for trace in hidden for own in trace.findings))
    mixed = any(trace.mixed for trace in hidden) or len({id(trace.origin) for trace in hidden}) > 1
    return Trace(True, object(), mixed=mixed, findings=findings)


def kind_of_clamp(low: Any, high: Any, mixed: bool) -> tuple[str, bool]:
    """What a clamp is, and whether it is one as the last function of a model, too; boxes and guards are none.

    >>> kind_of_clamp(0, None, False), kind_of_clamp(-1, 1, False), kind_of_clamp(0, 640, False)
    (('a clamp at 0', True), ('a clamp', False), ('', False))
    """
    ends = [own for own in (low, high) if own is not None]
    if not all(isinstance(own, (int, float)) for own in ends) or low is None:
        return "", False
    if low == 0 and (high is None or 1 < high <= 20):
        return "a clamp at 0", True
    if high is not None and not mixed and 0 < high <= 6 and low in (0, -high):
        return "a clamp", False
    return "", False


def memory_of(tensor: Tensor) -> object:
    """The same for tensors that share their memory; sparse ones and those of function transforms have none."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):
        return object()
