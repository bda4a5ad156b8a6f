"""Self-contained HTML pages: runs -> figures and words -> one file that needs nothing else."""

from ignite_act.html.report import write_report

__all__ = ["write_report"]
