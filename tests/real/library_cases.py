"""The models in the style of known libraries, as cases."""

from __future__ import annotations

import importlib
import pkgutil

from real import models
from real.case import Case

CASES: tuple[Case, ...] = tuple(
    importlib.import_module(f"real.models.{module.name}").CASE for module in pkgutil.iter_modules(models.__path__)
)
