"""The command line: parses and calls; what it calls is imported only then, so that ``--help`` is quick."""

from __future__ import annotations

import functools
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click

from ignite_act import __version__
from ignite_act.config import PER_DATA, StudyConfig, load_study
from ignite_act.errors import UserError

OUTPUT_DIR = Path("runs")


class OneLineErrors(click.Command):
    """A command whose errors are one line each, also those of click."""

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Runs the command; in standalone mode it ends with an exit code."""
        try:
            code: Any = super().main(*args, standalone_mode=False, **extra)  # type: ignore[call-overload]
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            code = error.exit_code
        except click.ClickException as error:
            click.echo(f"error: {' '.join(error.format_message().split())}", err=True)
            code = error.exit_code
        if not standalone_mode:
            return code
        sys.exit(code if isinstance(code, int) else 0)


class Commands(OneLineErrors, click.Group):
    """A group of such commands."""


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ignite-act")
def main() -> None:
    """Trains networks with one or more activation functions and shows what happens inside them."""


def one_line_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """Shows a user's error as one line and ends with exit code 2; Ctrl-C ends with 130."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except UserError as error:
            click.echo(f"error: {' '.join(str(error).split())}", err=True)
            sys.exit(2)
        except KeyboardInterrupt:
            click.echo("interrupted: the same command with --resume goes on after the last finished epoch", err=True)
            sys.exit(130)

    return wrapped


def study_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """An option for every field of `StudyConfig`."""
    for name, field in reversed(StudyConfig.model_fields.items()):
        if name != "published":  # for files only
            command = _option(name, field)(command)
    return command


def _option(name: str, field: Any) -> Callable[..., Any]:
    flag = f"--{name.replace('_', '-')}"
    help_text = f"{field.description}  [default: {_default(name, field)}]"
    if field.annotation is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", name, default=None, help=help_text)
    kinds = [kind for kind in (field.annotation, *get_args(field.annotation)) if kind in (int, float)]
    if get_origin(field.annotation) is Literal:
        return click.option(flag, name, type=click.Choice(get_args(field.annotation)), help=help_text)
    metavar = {"act": "NAME", "hidden": "N,N,...", "data_root": "DIR"}.get(name)
    return click.option(
        flag, name, type=kinds[0] if kinds else str, multiple=name == "act", metavar=metavar, help=help_text
    )


def _default(name: str, field: Any) -> str:
    """The default in words; where it depends on the data, the one of each data set."""
    per_data = {data: values[name] for data, values in PER_DATA.items() if name in values}
    if len(set(per_data.values())) > 1:
        return ", ".join(f"{value} for {data}" for data, value in per_data.items())
    if name == "hidden":
        return "512,256,256,128; 5,5,5,5 for circles; 32,64 for a cnn"
    default = field.default
    if isinstance(default, tuple):
        return ",".join(default)
    if isinstance(default, bool):
        return "on" if default else "off"
    return "none" if default is None else str(default)


@main.command(cls=OneLineErrors)
@study_options
@click.option("--config", "config_path", type=click.Path(path_type=Path), help="YAML file; options override it.")
@click.option(
    "--output-dir", type=click.Path(file_okay=False), default=str(OUTPUT_DIR), show_default=True,
    help="where the run directories go",
)  # fmt: skip
@click.option("--resume", is_flag=True, help="go on with interrupted runs; finished ones are kept")
@click.option("--overwrite", is_flag=True, help="start over where a run exists")
@click.option("-q", "--quiet", is_flag=True, help="no progress, no tables")
@one_line_errors
def run(config_path: Path | None, output_dir: str, resume: bool, overwrite: bool, quiet: bool, **options: Any) -> None:
    """Trains one network per activation function, with diagnostics, and compares them.

    Example: ignite-act run --act relu --act leakyrelu:negative_slope=0.1
    """
    if resume and overwrite:
        raise UserError("--resume goes on and --overwrite starts over: choose one")
    if not output_dir:
        raise UserError("--output-dir is empty; a dot means the current directory")
    given = {name: value for name, value in options.items() if value is not None and value != ()}
    study = load_study(config_path, given)

    from rich.console import Console

    from ignite_act import experiment, run_files, variants
    from ignite_act.compare import compare, comparison_tables, terminal
    from ignite_act.sinks import tables

    runs = variants.expand_study(study)
    for config in runs:  # all of them before the first is started
        directory = run_files.run_directory(config, Path(output_dir))
        run_files.check_run_directory(config, directory, resume=resume, overwrite=overwrite)
    console = Console(quiet=quiet, highlight=False)
    results = []
    for number, config in enumerate(runs, start=1):
        name = variants.activation_slug(config.act)
        console.print(f"[{number}/{len(runs)}] {name} on {config.data}, seed {config.seed}", markup=False)
        results.append(experiment.run(config, Path(output_dir), resume=resume, overwrite=overwrite, quiet=quiet))
    for result in results:
        name = result.summary["activation"]
        if result.summary["gradients"]:
            console.print(tables.layers_table(f"{name}: gradients, last epoch", result.summary["gradients"]))
        if result.summary["activations"]:
            title = f"{name}: activations of the best weights, all training samples"
            console.print(tables.sites_table(title, result.summary["activations"], result.summary["dead_neurons"]))
    (comparison,) = compare(run_files.read_run(result.directory) for result in results)
    for table in comparison_tables(comparison):
        console.print(terminal(table))
    for result in results:
        console.print(f"run directory  {result.directory}", markup=False, soft_wrap=True)
    if study.diagnostics:
        costs = sorted({f"{result.summary['cost']:.0%}" for result in results}, key=lambda cost: int(cost[:-1]))
        console.print(f"diagnostics    took {' to '.join(dict.fromkeys((costs[0], costs[-1])))} of the training time")
    console.print(f"look inside    {_tensorboard_command(Path(output_dir))}", markup=False, soft_wrap=True)


def _tensorboard_command(log_dir: Path) -> str:
    """What to type to see the runs, with the path of the program unless its environment is the active one."""
    program = Path(sys.executable).with_name("tensorboard")
    if not program.exists():
        return f"pip install tensorboard && tensorboard --logdir {shlex.quote(str(log_dir))}"
    active = os.environ.get("VIRTUAL_ENV") == sys.prefix
    near = program.relative_to(Path.cwd()) if program.is_relative_to(Path.cwd()) else program
    return f"{'tensorboard' if active else shlex.quote(str(near))} --logdir {shlex.quote(str(log_dir))}"


@main.command()
@one_line_errors
def activations() -> None:
    """Lists the activation functions, where they are flat and where they saturate."""
    from rich.console import Console

    from ignite_act.activations import ACTIVATIONS
    from ignite_act.sinks import tables

    rows = [
        {
            "name": entry.name,
            "aliases": entry.aliases,
            "parameters": entry.parameters,
            "flat": entry.flat_intervals() if entry.pointwise else None,
            "saturated": entry.saturated_intervals() if entry.pointwise else None,
            "description": entry.description,
        }
        for entry in ACTIVATIONS.values()
    ]
    Console(highlight=False).print(tables.activations_table(rows))


if __name__ == "__main__":
    main()
