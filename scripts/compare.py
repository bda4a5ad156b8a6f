"""The comparison: ``python scripts/compare.py runs`` is ``ignite-act compare runs``."""

from ignite_act.cli import compare_runs

if __name__ == "__main__":
    compare_runs(prog_name="compare.py")
