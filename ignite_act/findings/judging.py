"""Reports -> findings, the cause before its consequences."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from ignite_act.findings.history import History
from ignite_act.findings.order import in_order
from ignite_act.findings.rules import RULES
from ignite_act.findings.thresholds import Thresholds
from ignite_act.guard import Owner, guarded
from ignite_act.report import EpochReport, Finding

logger = logging.getLogger(__name__)


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
    history = History(reports, thresholds, ended)
    found = _apply(["nonfinite"], history, owner)
    sound = _before_nan(reports, found)
    if sound:
        if sound is not reports:
            history = History(sound, thresholds, ended and len(sound) == len(reports))
        found += _apply([kind for kind in RULES if kind != "nonfinite"], history, owner)
    return in_order(found)


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
