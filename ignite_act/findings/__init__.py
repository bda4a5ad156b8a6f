"""Rules: reports of one or more epochs -> what is wrong, where, since when, and what to try.

A rule is a function in `rules` that reads a `History` of plain numbers; its kind stands in `KINDS`, its numbers in
`Thresholds`.
"""

from ignite_act.findings.journal import Journal
from ignite_act.findings.judging import judge
from ignite_act.findings.kinds import KINDS
from ignite_act.findings.thresholds import Thresholds
from ignite_act.report import Finding

__all__ = ["KINDS", "Finding", "Journal", "Thresholds", "judge"]
