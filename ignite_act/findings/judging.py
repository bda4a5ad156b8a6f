"""Reports -> findings, the cause before its consequences."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from ignite_act.findings.history import History
from ignite_act.findings.kinds import KINDS
from ignite_act.findings.rules import RULES
from ignite_act.findings.thresholds import Thresholds
from ignite_act.guard import Owner, guarded
from ignite_act.report import EpochReport, Finding

logger = logging.getLogger(__name__)

_FAR = 30.0
"""First loss over that of a constant from which on it explains all that comes later."""
_AT_ONCE = "from the beginning"
_ORDER = {kind: place for place, kind in enumerate(KINDS)}


def judge(
    reports: Sequence[EpochReport],
    *,
    thresholds: Thresholds | None = None,
    ended: bool = False,
    owner: Owner | None = None,
) -> tuple[Finding, ...]:
    """What is wrong at the end of some reports.

    Args:
        reports: of one run, in the order of their epochs; some in between may be missing.
        thresholds: what counts as a finding.
        ended: whether the run is over: some findings can only be made then.
        owner: told of rules that fail; the others go on.

    Returns:
        The findings, the cause before its consequences, what does no harm last. Empty without reports.
    """
    if not reports:
        return ()
    thresholds, owner = thresholds or Thresholds(), owner or _Nobody()
    found = _apply(["nonfinite"], History(reports, thresholds, ended), owner)
    sound = _before_nan(reports, found)
    if sound:
        others = [kind for kind in RULES if kind != "nonfinite"]
        found += _apply(others, History(sound, thresholds, ended and len(sound) == len(reports)), owner)
    return in_order(found)


def in_order(found: Sequence[Finding]) -> tuple[Finding, ...]:
    """Those that do harm first, the cause before its consequences."""
    kept = _without_repetitions(found)
    return tuple(sorted(kept, key=lambda finding: _rank(finding, kept)))


def _apply(kinds: Iterable[str], history: History, owner: Owner) -> list[Finding]:
    found: list[Finding] = []
    for kind in kinds:
        with guarded(owner, f"the rule for {kind}"):
            found += list(RULES[kind](history))
    return found


def _before_nan(reports: Sequence[EpochReport], found: Sequence[Finding]) -> Sequence[EpochReport]:
    """The reports with numbers from before a NaN that lasts: nothing is concluded from those after it."""
    lasting = next((finding for finding in found if finding.severity == "error"), None)
    if lasting is None:
        return reports
    kept = [report for report in reports if report.epoch <= lasting.since_epoch]
    begin = kept[-2].iteration + 1 if len(kept) > 1 else 1
    return kept[:-1] if lasting.evidence["iteration"] <= begin else kept


_failed: set[str] = set()


class _Nobody:
    """Answers for rules that are applied to stored reports."""

    def give_up(self, what: str, reason: str) -> None:
        """Logs it once."""
        if what not in _failed:
            _failed.add(what)
            logger.warning("%s failed: %s", what, reason)


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


def _rank(finding: Finding, found: Sequence[Finding]) -> tuple[bool, float, int]:
    """What sorts findings: those that do harm first, causes before consequences.

    Args:
        finding: one of them.
        found: all of them.
    """
    steps = next((other for other in found if other.kind == "update_too_large"), None)
    saturated = any(other.kind == "saturated_units" and other.evidence["when"] == _AT_ONCE for other in found)
    place = float(_ORDER[finding.kind])
    killed = steps is not None and finding.since_epoch >= steps.since_epoch
    if finding.kind == "dead_units" and finding.evidence["value"] == 1 and not killed:  # nothing behind it can work
        place = _ORDER["weight_collapse"] + 0.5
    if finding.kind == "dead_units" and finding.evidence["value"] <= Thresholds.dead_warning:  # worth knowing
        place = len(_ORDER)
    if finding.kind == "no_nonlinearity" and finding.severity == "info":
        place = len(_ORDER)
    if finding.kind == "no_gradient" and (finding.evidence["value"] == 0.0 or finding.evidence.get("aside")):
        place = _ORDER["constant_output"] + 0.5  # something multiplies it by 0, or it stands aside
    if finding.kind == "constant_output" and finding.evidence["value"] == 0.0:  # exactly: no rounding of small numbers
        place = _ORDER["vanishing_gradient"] - 0.5
    fall, limit = finding.evidence.get("steepest_fall", 1.0), finding.evidence["threshold"]
    if finding.kind == "vanishing_gradient" and fall < limit:  # at once: what is constant passes nothing back
        place = _ORDER["constant_output"] + 0.5
    if finding.kind == "over_regularised" and finding.layer is not None:  # a dropout that leaves nothing
        place = _ORDER["exploding"] - 0.5
    if finding.kind == "oscillation" and finding.evidence.get("sorted"):
        place = _ORDER["loss_rising"] + 0.6
    if finding.kind == "labels_mismatch" and finding.evidence.get("all_alike"):
        place = _ORDER["loss_rising"] + 0.5
    if finding.kind == "loss_rising" and steps is not None and finding.severity == "warning":
        place = _ORDER["update_too_large"] + 0.5  # that a wild training goes astray is no wonder
    if finding.kind == "exploding":
        when = finding.evidence["when"]
        if when == "during training" or (when == "on the way back" and steps is not None):
            place = _ORDER["update_too_large"] + 0.5
        elif when == "on the way back" and saturated:
            place = _ORDER["saturated_units"] + 0.5
    if finding.kind == "initial_loss" and steps is not None and finding.evidence["value"] < _FAR:
        place = _ORDER["update_too_large"] + 0.5
    return finding.severity == "info", place, finding.since_epoch
