"""Inspected networks -> a file of numbers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from ignite_act import files
from ignite_act.errors import UserError, first_line
from ignite_act.inspection.subjects import InspectedNetwork

SCHEMA = 1
"""Version of what `write_json` writes."""


def write_json(networks: Iterable[InspectedNetwork], path: Path) -> None:
    """Writes the numbers of all networks.

    Raises:
        UserError: if the file cannot be written.
    """
    content = {"schema": SCHEMA, "networks": [network.to_dict() for network in networks]}
    try:
        files.make_directory(path.parent)
        files.write(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def check_targets(paths: Iterable[Path]) -> None:
    """Refuses files that could not be written, before work is done for them.

    Raises:
        UserError: if one lies where nothing can be made, or is named twice.
    """
    seen: set[Path] = set()
    for path in paths:
        try:
            nearest = next(folder for folder in path.absolute().parents if folder.exists())
        except (OSError, ValueError) as error:
            raise UserError(f"cannot write {path}: {first_line(error)}") from error
        if not nearest.is_dir() or not os.access(nearest, os.W_OK):
            raise UserError(f"cannot write {path}: nothing can be made in {nearest}")
        if path.absolute() in seen:
            raise UserError(f"{path} is named for two outputs")
        seen.add(path.absolute())
