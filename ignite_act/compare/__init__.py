"""Runs -> variants over seeds: numbers, tables, files."""

from ignite_act.compare.comparison import Comparison, Estimate, Variant, compare, estimate
from ignite_act.compare.files import write_comparisons
from ignite_act.compare.findings import SharedFinding, findings_table, shared_findings
from ignite_act.compare.tables import Table, comparison_tables, markdown, terminal

__all__ = [
    "Comparison",
    "Estimate",
    "SharedFinding",
    "Table",
    "Variant",
    "compare",
    "comparison_tables",
    "estimate",
    "findings_table",
    "markdown",
    "shared_findings",
    "terminal",
    "write_comparisons",
]
