"""Tables of what else is known of the runs: coverage, settings, versions, places."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from ignite_act.compare import Comparison, Table
from ignite_act.runs.stored import StoredRun


def unseen_table(comparison: Comparison) -> Table:
    """What a diagnostic could not see, and why; the same for all seeds of a variant."""
    rows = {
        (name, diagnostic.replace("_", " "), str(place), str(reason)): None
        for name, run in _named_runs(comparison)
        for diagnostic, coverage in (run.summary.get("coverage") or {}).items()
        for place, reason in coverage.get("unseen", {}).items()
    }
    return Table("Not measured", ("activation", "diagnostic", "where", "reason"), tuple(rows))


def settings_table(comparison: Comparison) -> Table:
    """The settings that all variants share."""
    rows = tuple((name, _word(value)) for name, value in comparison.settings.items())
    return Table("Settings that all runs share", ("setting", "value"), rows)


def versions_table(comparison: Comparison) -> Table:
    """The packages that the runs were made with, all versions that occur."""
    used: dict[str, dict[str, None]] = {}
    for _, run in _named_runs(comparison):
        for package, version in run.versions.items():
            used.setdefault(package, {})[version] = None
    return Table("Versions", ("package", "version"), tuple((name, ", ".join(found)) for name, found in used.items()))


def runs_table(comparison: Comparison) -> Table:
    """Where each run lies and how it ended."""
    rows = tuple(
        (
            name,
            str(run.config["seed"]),
            str(run.summary.get("epochs", "")),
            str(run.summary["stop_reason"]),
            str(run.directory),
        )
        for name, run in _named_runs(comparison)
    )
    return Table("Runs", ("activation", "seed", "epochs", "stopped", "directory"), rows)


def _named_runs(comparison: Comparison) -> Iterable[tuple[str, StoredRun]]:
    return ((variant.name, run) for variant in comparison.variants for run in variant.runs)


def _word(value: Mapping[str, Any] | Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
