"""Runs -> variants over seeds: numbers, tables, files."""

from ignite_act.compare.comparison import Comparison, Estimate, Variant, compare, estimate
from ignite_act.compare.files import write_comparisons
from ignite_act.compare.tables import Table, comparison_tables, markdown, terminal

__all__ = [
    "Comparison",
    "Estimate",
    "Table",
    "Variant",
    "compare",
    "comparison_tables",
    "estimate",
    "markdown",
    "terminal",
    "write_comparisons",
]
