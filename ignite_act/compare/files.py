"""A comparison -> ``comparison.csv``, ``comparison.json`` and ``comparison.md``."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from ignite_act import files
from ignite_act.compare.comparison import Comparison, Estimate, Variant
from ignite_act.compare.tables import comparison_tables, markdown
from ignite_act.errors import UserError


def write_comparisons(comparisons: Sequence[Comparison], directory: Path) -> list[Path]:
    """Writes the three files.

    Raises:
        UserError: if the directory cannot be written.
    """
    contents = {
        "comparison.csv": _csv(comparisons),
        "comparison.json": json.dumps([item.to_dict() for item in comparisons], indent=2, allow_nan=False) + "\n",
        "comparison.md": "\n".join(markdown(comparison_tables(comparison)) for comparison in comparisons),
    }
    try:
        files.make_directory(directory)
        for name, content in contents.items():
            files.write(directory / name, content.encode("utf-8", "replace"))  # see write_page
    except OSError as error:
        raise UserError(f"cannot write {directory}: {error.strerror}") from error
    return [directory / name for name in contents]


def _csv(comparisons: Sequence[Comparison]) -> str:
    """One line a variant; every number of an estimate has a column of its own."""
    rows = [{"data": item.data, **_flat(variant)} for item in comparisons for variant in item.variants]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _plain(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def _plain(value: object) -> object:
    """Words in one line; an apostrophe before those that spreadsheets take for a formula (OWASP, CSV injection)."""
    if not isinstance(value, str):
        return value
    words = " ".join(value.split())
    return f"'{words}" if words.startswith(("=", "+", "-", "@")) else words


def _flat(variant: Variant) -> dict[str, object]:
    row: dict[str, object] = {"variant": variant.name, "verdict": variant.verdict}
    row |= {"runs": len(variant.runs), "learned": variant.learned, "failed": variant.failed, "units": variant.units}
    for name in _ESTIMATES:
        row |= _numbers(name, getattr(variant, name))
    row["stop_reasons"] = "; ".join(f"{count} x {reason}" for reason, count in variant.stop_reasons.items())
    row |= {f"published_{metric}": value for metric, value in variant.published.items()}
    for name in ("gradients", "first_gradients", "dead_neurons"):
        for place, value in getattr(variant, name).items():
            row |= _numbers(f"{name}/{place}", value)
    return row


def _numbers(name: str, value: Estimate | None) -> dict[str, object]:
    return {f"{name}_{part.name}": None if value is None else getattr(value, part.name) for part in fields(Estimate)}


_ESTIMATES = (
    "test_accuracy", "test_loss", "last_accuracy", "last_loss", "difference", "epochs", "best_epoch", "seconds", "dead",
    "gradient_ratio",
)  # fmt: skip
