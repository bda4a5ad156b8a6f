"""The order of findings: those that do harm first, the cause before its consequences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ignite_act.findings.kinds import KINDS
from ignite_act.findings.thresholds import Thresholds
from ignite_act.report import Finding

_PLACES = {kind: float(place) for place, kind in enumerate(KINDS)}
_LAST = max(_PLACES, key=lambda kind: _PLACES[kind])
_FAR = 30.0
"""First loss over that of a constant from which on it explains all that comes later."""

Found = Mapping[str, Finding]
"""Kind -> the first finding of it."""


class _Move(NamedTuple):
    """A finding that stands elsewhere than its kind.

    Attributes:
        kind: of the finding.
        beside: the kind that it is moved to.
        by: half a place before or behind that kind.
        when: told the finding and what else was found.
    """

    kind: str
    beside: str
    by: float
    when: Callable[[Finding, Found], bool]


_BEFORE, _BEHIND = -0.5, 0.5
_STEPS = "update_too_large"


def _blocks(finding: Finding, found: Found) -> bool:
    """A layer that is wholly dead, and was not killed by steps: nothing behind it can work."""
    steps = found.get(_STEPS)
    return bool(finding.evidence["value"] == 1) and (steps is None or finding.since_epoch < steps.since_epoch)


def _is_thrown(finding: Finding, found: Found) -> bool:
    """What grows while the network trains, or is fed back by steps that are too large."""
    when = finding.evidence["when"]
    return bool(when == "during training" or (when == "on the way back" and _STEPS in found))


def _comes_of_saturation(finding: Finding, found: Found) -> bool:
    saturated = found.get("saturated_units")
    at_once = saturated is not None and saturated.evidence["when"] == "from the beginning"
    return at_once and bool(finding.evidence["when"] == "on the way back")


_MOVES = (
    _Move("dead_units", "weight_collapse", _BEHIND, _blocks),
    _Move("dead_units", _LAST, _BEHIND, lambda own, _: own.evidence["value"] <= Thresholds.dead_warning),
    _Move("no_nonlinearity", _LAST, _BEHIND, lambda own, _: own.severity == "info"),
    # Something multiplies the gradient by 0; the layer stands aside; or that it has none is meant.
    _Move("no_gradient", "constant_output", _BEHIND, lambda own, _: own.evidence["value"] == 0.0),
    _Move("no_gradient", _LAST, _BEHIND, lambda own, _: bool(own.evidence.get("aside"))),
    _Move("no_gradient", _LAST, 1.0, lambda own, _: bool(own.evidence.get("meant"))),
    # What is constant to the last bit passes nothing back; so does what fades between two layers.
    _Move("constant_output", "vanishing_gradient", _BEFORE, lambda own, _: own.evidence["value"] == 0.0),
    _Move("constant_output", "dead_units", _BEFORE, lambda own, _: bool(own.evidence.get("latents"))),
    _Move(
        "vanishing_gradient",
        "constant_output",
        _BEHIND,
        lambda own, _: own.evidence["steepest_fall"] < own.evidence["threshold"],
    ),
    _Move("over_regularised", "exploding", _BEFORE, lambda own, _: own.layer is not None),  # dropout leaves nothing
    _Move("oscillation", "loss_rising", _BEHIND, lambda own, _: bool(own.evidence.get("sorted"))),
    _Move("labels_mismatch", "loss_rising", _BEHIND, lambda own, _: bool(own.evidence.get("all_alike"))),
    # Steps that are too large lead anywhere.
    _Move("loss_rising", _STEPS, _BEHIND, lambda own, found: own.severity == "warning" and _STEPS in found),
    _Move("exploding", _STEPS, _BEHIND, _is_thrown),
    _Move("exploding", "saturated_units", _BEHIND, _comes_of_saturation),
    _Move("initial_loss", _STEPS, _BEHIND, lambda own, found: own.evidence["value"] < _FAR and _STEPS in found),
)


def in_order(found: Sequence[Finding]) -> tuple[Finding, ...]:
    """Those that do harm first, the cause before its consequences; the labels only where nothing else is found."""
    kept = _without_repetitions(found)
    first: dict[str, Finding] = {}
    for finding in kept:
        first.setdefault(finding.kind, finding)
    return tuple(sorted(kept, key=lambda own: (own.severity == "info", _place(own, first), own.since_epoch)))


def _place(finding: Finding, found: Found) -> float:
    moves = (move for move in _MOVES if move.kind == finding.kind and move.when(finding, found))
    move = next(moves, None)
    return _PLACES[finding.kind] if move is None else _PLACES[move.beside] + move.by


def _without_repetitions(found: Sequence[Finding]) -> list[Finding]:
    """Leaves the labels alone where anything else explains that nothing is learned."""
    serious = {finding.kind for finding in found if finding.severity != "info" or _explains(finding)}
    explained = bool(serious - {"labels_mismatch", "plateau"})
    return [
        finding
        for finding in found
        if finding.kind != "labels_mismatch" or not explained or finding.evidence.get("all_alike")
    ]


def _explains(finding: Finding) -> bool:
    """Whether an information says that a part of the network does not learn, or cannot."""
    return finding.kind in ("no_nonlinearity", "never_updated", "symmetry") or (
        finding.kind == "no_gradient" and finding.evidence["value"] in ("None", 0.0)
    )
