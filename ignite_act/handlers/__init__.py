"""Thin Ignite glue: collectors bound to the events of an engine."""

from ignite_act.handlers.diagnostics import Diagnostics
from ignite_act.handlers.stats import ActivationStats, DeadNeurons, GradientStats
from ignite_act.handlers.terminate import TerminateOnFinding

__all__ = ["ActivationStats", "DeadNeurons", "Diagnostics", "GradientStats", "TerminateOnFinding"]
