"""``python -m ignite_act``."""

from ignite_act.cli import main

main(prog_name="ignite-act")
