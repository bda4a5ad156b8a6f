"""The experiment: ``python scripts/run.py --act leakyrelu`` is ``ignite-act run --act leakyrelu``."""

from ignite_act.cli import run

if __name__ == "__main__":
    run(prog_name="run.py")
