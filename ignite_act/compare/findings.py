"""What was found in the runs of a comparison, the seeds of a variant together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ignite_act.compare.comparison import Comparison, Variant
from ignite_act.compare.tables import Table
from ignite_act.errors import one_line
from ignite_act.report import Finding
from ignite_act.sinks import words

Key = TypeVar("Key")


@dataclass(frozen=True)
class SharedFinding:
    """The same finding (kind and layer) in one or more runs of a variant.

    Attributes:
        variant: whose runs they are.
        findings: seed -> the finding of that run, in the order of the seeds; all of them stand, or all were cleared.
    """

    variant: Variant
    findings: Mapping[int, Finding]

    @property
    def worst(self) -> Finding:
        """The one to show: the most severe, of the first seed that has it."""
        return max(self.findings.values(), key=lambda finding: words.rank(finding.severity))

    @property
    def is_standing(self) -> bool:
        """Whether it was there when the runs ended."""
        return words.is_standing(self.worst)

    @property
    def seeds(self) -> str:
        """In which runs: ``3 of 5 seeds (42, 43, 45)``; ``seed 42`` if there is only one run."""
        names = ", ".join(map(str, self.findings))
        runs = len(self.variant.runs)
        return f"seed {names}" if runs == 1 else f"{len(self.findings)} of {runs} seeds ({names})"

    @property
    def since(self) -> str:
        """The first epoch that shows it, over the runs: ``3``, ``3 to 5``."""
        return _range(finding.since_epoch for finding in self.findings.values())

    @property
    def over(self) -> str:
        """The epoch in which it was cleared, over the runs; empty while it stands."""
        return _range(item.cleared_epoch for item in self.findings.values() if item.cleared_epoch is not None)


def shared_findings(comparison: Comparison) -> list[SharedFinding]:
    """Variant by variant, in each the cause before its consequences; then in the same order those that were cleared.

    The variant with the worst finding comes first, among equals the order is that of the comparison.
    """
    variants = sorted(map(_of_variant, comparison.variants), key=_severity, reverse=True)
    return sorted((item for variant in variants for item in variant), key=lambda item: not item.is_standing)


def findings_table(comparison: Comparison) -> Table:
    """A line for each finding of a variant."""
    rows = tuple(
        (
            item.variant.name,
            ", ".join(map(str, item.findings)),
            item.worst.severity,
            words.title(item.worst),
            "-" if item.worst.layer is None else one_line(item.worst.layer),
            item.since + (f", over in {item.over}" if item.over else ""),
        )
        for item in shared_findings(comparison)
    )
    headings = ("activation", "seeds", "severity", "what", "layer", "since epoch")
    return Table(f"{comparison.data}: findings", headings, rows)


def _of_variant(variant: Variant) -> list[SharedFinding]:
    found = {
        int(run.config["seed"]): {(words.is_standing(item), *words.identity(item)): item for item in run.findings}
        for run in variant.runs
    }
    return [
        SharedFinding(variant, {seed: own[key] for seed, own in found.items() if key in own})
        for key in _merged([list(own) for own in found.values()])
    ]


def _severity(shared: Iterable[SharedFinding]) -> int:
    return max((words.rank(item.worst.severity) for item in shared if item.is_standing), default=-1)


def _merged(orders: Iterable[Sequence[Key]]) -> list[Key]:
    """One order of all: what an order does not share with those before it stands before its own next one that is."""
    merged: list[Key] = []
    for order in orders:
        place = len(merged)
        for key in reversed(order):
            if key in merged:
                place = merged.index(key)
            else:
                merged.insert(place, key)
    return merged


def _range(epochs: Iterable[int]) -> str:
    ordered = sorted(set(epochs))
    return " to ".join(map(str, dict.fromkeys((ordered[0], ordered[-1])))) if ordered else ""
