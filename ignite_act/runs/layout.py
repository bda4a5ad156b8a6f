"""Names and places of the files of a run."""

from __future__ import annotations

import re
from pathlib import Path

from ignite_act.config import RunConfig
from ignite_act.files import whose_temporary
from ignite_act.variants import activation_slug

CONFIG, SUMMARY, REPORTS, PAGE, LOG = "config.yaml", "summary.json", "epochs.jsonl", "report.html", "train.log"
CHECKPOINTS = "checkpoints"
BEST, LAST, PREVIOUS, DAMAGED = "best.pt", "last.pt", "previous.pt", "damaged.pt"
LOCK = ".lock"
INTENT = ".intent.json"
"""Present while one run replaces another; see `directory.Intent`."""

_HIDDEN = {LOCK, INTENT}
_NAMES = {CONFIG, SUMMARY, REPORTS, PAGE, LOG, "comparison.csv", "comparison.json", "comparison.md",
          *(f"{CHECKPOINTS}/{name}" for name in (BEST, LAST, PREVIOUS, DAMAGED))}  # fmt: skip
_EVENTS = re.compile(r"events\.out\.tfevents\.[^/]+")


def run_directory(config: RunConfig, output_dir: Path) -> Path:
    """``<output_dir>/<data>/<activation>/seed-<n>``."""
    return output_dir / config.data / activation_slug(config.act) / f"seed-{config.seed}"


def is_own(name: str) -> bool:
    """Whether a run gives this name, relative to its directory, to a file.

    >>> is_own("summary.json"), is_own("checkpoints/mine.pt"), is_own("checkpoints/.last.pt.0123456789abcdef.tmp")
    (True, False, True)
    """
    folder, slash, last = name.rpartition("/")
    meant = whose_temporary(last)
    name = f"{folder}{slash}{meant}" if meant is not None else name
    return name in _NAMES or name in _HIDDEN or _EVENTS.fullmatch(name) is not None
