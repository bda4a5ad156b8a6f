"""Training diagnostics for PyTorch-Ignite: gradients, activations and dead neurons of every layer, every epoch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ignite_act.activations import register_activation as register_activation
    from ignite_act.handlers import ActivationStats as ActivationStats
    from ignite_act.handlers import DeadNeurons as DeadNeurons
    from ignite_act.handlers import Diagnostics as Diagnostics
    from ignite_act.handlers import GradientStats as GradientStats
    from ignite_act.handlers import TerminateOnFinding as TerminateOnFinding
    from ignite_act.recorder import EpochRecorder as EpochRecorder
    from ignite_act.report import EpochReport as EpochReport
    from ignite_act.report import Finding as Finding

_HOMES = {
    "ActivationStats": "ignite_act.handlers",
    "DeadNeurons": "ignite_act.handlers",
    "Diagnostics": "ignite_act.handlers",
    "EpochRecorder": "ignite_act.recorder",
    "EpochReport": "ignite_act.report",
    "Finding": "ignite_act.report",
    "GradientStats": "ignite_act.handlers",
    "TerminateOnFinding": "ignite_act.handlers",
    "register_activation": "ignite_act.activations",
}

__all__ = [
    "ActivationStats",
    "DeadNeurons",
    "Diagnostics",
    "EpochRecorder",
    "EpochReport",
    "Finding",
    "GradientStats",
    "TerminateOnFinding",
    "register_activation",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Imports a public name on first use, so that the command line answers before torch is loaded."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
