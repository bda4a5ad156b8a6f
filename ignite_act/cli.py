"""The command line: parses and calls; what it calls is imported only then, so that ``--help`` is quick."""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import logging
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args, get_origin

import click

from ignite_act import __version__
from ignite_act.config import LARGEST_SEED, PER_DATA, StudyConfig, load_study
from ignite_act.errors import LostProcessError, UserError, echo, error_line
from ignite_act.files import NO_HANDLES
from ignite_act.launcher import another_speaks, launched_by_torchrun
from ignite_act.report import Severity

if TYPE_CHECKING:
    from rich.console import Console

    from ignite_act.compare import Comparison
    from ignite_act.config import RunConfig
    from ignite_act.inspection import InspectedNetwork
    from ignite_act.runs.stored import StoredRun

OUTPUT_DIR = Path("runs")
FOUND = 3
"""Exit code for findings that the user said should fail."""
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG}
_HANDLES = 16
"""More files than are open at once while torch is imported and a run is written."""
_NAMED = 5
"""So many findings are named in a line."""


class OutputFile(click.Path):
    """A file to be written; no directory, and an empty name, which would mean the current one, is none either."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path."""
        if value == "":
            self.fail("the name of the file is empty", param, ctx)
        return super().convert(value, param, ctx)


class OneLineErrors(click.Command):
    """A command whose errors are one line each, also those of click."""

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Runs the command; in standalone mode it ends with an exit code."""
        if standalone_mode:
            _prepare_streams()
        try:
            code: Any = super().main(*args, standalone_mode=False, **extra)  # type: ignore[call-overload]
        except click.exceptions.NoArgsIsHelpError as error:
            echo(error.format_message(), err=True)
            code = error.exit_code
        except click.ClickException as error:
            echo(f"error: {error_line(error.format_message())}", err=True)
            code = error.exit_code
        if not standalone_mode:
            return code
        raise SystemExit(code if isinstance(code, int) else 0)


def _prepare_streams() -> None:
    """Makes the streams of this process safe to write to, and what is logged where nobody listens safe to read."""
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        _spell_out(stream)
    logging.lastResort = _Echo(logging.WARNING)


def _open_closed_streams() -> None:
    """Gives streams that were closed before the start to nobody, so that no file of a run gets their numbers."""
    with contextlib.suppress(OSError):
        while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(number, True)
        os.close(number)
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - for as long as the process lives


def _spell_out(stream: Any) -> None:
    """Lets a stream spell out what its encoding has no characters for (names of files, say), instead of failing."""
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")


class _Echo(logging.Handler):
    """Shows warnings on standard error, as logging does by itself, but made printable."""

    def emit(self, record: logging.LogRecord) -> None:
        """Shows one."""
        echo(self.format(record), err=True)


class Commands(OneLineErrors, click.Group):
    """A group of such commands."""


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ignite-act")
def main() -> None:
    """Trains networks with one or more activation functions and shows what happens inside them."""


def one_line_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """Shows a user's error as one line and ends with exit code 2; Ctrl-C ends with 130, SIGTERM with 143."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            with _terminable():
                _check_surroundings()
                return command(*args, **kwargs)
        except (Exception, KeyboardInterrupt) as error:
            ending = _ending(error, resumable="resume" in kwargs)
            if ending is None:
                raise
            together = "processes" in kwargs  # only such a command knows of the others
            if not (together and isinstance(error, UserError) and another_speaks()):
                echo(ending.line, err=True)
            raise SystemExit(ending.code) from error

    return wrapped


class _Ending(NamedTuple):
    """What a command says at its early end, and its exit code."""

    line: str
    code: int


def _ending(error: BaseException, *, resumable: bool) -> _Ending | None:
    """How an error ends a command; None for a mistake of ours, whose traceback is wanted."""
    if isinstance(error, UserError):
        return _Ending(f"error: {error_line(error)}", 2)
    if isinstance(error, LostProcessError):
        return _Ending(f"error: {error_line(error)}", 1)
    if isinstance(error, KeyboardInterrupt):
        hint = ": the same command with --resume goes on after the last finished epoch" if resumable else ""
        number = signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT
        return _Ending(f"{error_line(error) or 'interrupted'}{hint}", 128 + number)
    if _lacks_handles(error):
        return _Ending("error: too many files are open: raise the limit of this process (ulimit -n) and try again", 2)
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        sys.stdout = io.StringIO()  # what is left in the buffer cannot be written either
        what = f"{error.filename} cannot be written" if error.filename else "the output cannot be written"
        return _Ending(f"error: {error_line(what)}: {error.strerror}", 2)
    return None


def _lacks_handles(error: BaseException) -> bool:
    """Whether no more files may be opened."""
    return any(isinstance(cause, OSError) and cause.errno in NO_HANDLES for cause in _causes(error))


def _causes(error: BaseException) -> list[BaseException]:
    """An error and what led to it."""
    causes: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in causes:
        causes.append(following)
        following = following.__cause__ or following.__context__
    return causes


def _check_surroundings() -> None:
    """Refuses to start where libraries would end the process without a word, or with words of their own.

    Raises:
        UserError: if the current directory was deleted, or cannot be reached.
        OSError: if so few files may be opened that not even torch can be imported.
    """
    try:
        Path.cwd()
    except OSError as error:
        raise UserError(f"the current directory cannot be used ({error.strerror}): change into another one") from error
    with contextlib.ExitStack() as opened:
        for _ in range(_HANDLES):
            opened.enter_context(Path(os.devnull).open("rb"))


class Terminated(KeyboardInterrupt):
    """SIGTERM, as what Ctrl-C raises: everything that cleans up for the one does so for the other."""


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Raises `Terminated` on SIGTERM, unless the program that called us has plans of its own for it."""

    def terminate(number: int, frame: object) -> None:
        raise Terminated("terminated")

    mine = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if mine:
        signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        if mine:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


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


fail_on_option = click.option(
    "--fail-on", type=click.Choice(get_args(Severity)[::-1]),
    help=f"end with exit code {FOUND} if a run ends with a finding of this severity or a worse one",
)  # fmt: skip


@main.command(cls=OneLineErrors)
@study_options
@click.option("--config", "config_path", type=click.Path(path_type=Path), help="YAML file; options override it.")
@click.option(
    "--output-dir", type=click.Path(file_okay=False), default=str(OUTPUT_DIR), show_default=True,
    help="where the run directories go",
)  # fmt: skip
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="train so many runs side by side")
@click.option(
    "--nproc-per-node",
    "processes",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    help="train each run in so many processes of this machine, each on its share of every batch",
)
@click.option(
    "--backend",
    type=click.Choice(["gloo", "nccl", "mpi"]),
    help="how several processes talk  [default: nccl on GPUs, else gloo]",
)
@click.option("--cluster", metavar="ADDRESS", help="train on the Dask cluster whose scheduler is there (tcp://...)")
@click.option("--resume", is_flag=True, help="go on with interrupted runs; finished ones are kept")
@click.option("--overwrite", is_flag=True, help="start over where a run exists")
@fail_on_option
@click.option("-q", "--quiet", is_flag=True, help="no progress, no tables")
@one_line_errors
def run(
    config_path: Path | None,
    output_dir: str,
    jobs: int,
    processes: int,
    backend: str | None,
    cluster: str | None,
    resume: bool,
    overwrite: bool,
    fail_on: Severity | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Trains one network per activation function and seed, with diagnostics, and compares them.

    Several runs make a sweep: the same command again keeps what is finished and goes on with the rest.

    \b
    Exit codes: 0 all is well, 1 a run failed, 2 the input is wrong, 3 a run
    ended with a finding that --fail-on names, 130 interrupted, 143 terminated.

    \b
    Examples:
      ignite-act run --act relu --act leakyrelu:negative_slope=0.1
      ignite-act run --act all --seeds 5 --jobs 2
      ignite-act run --act relu --nproc-per-node 2
      torchrun --nproc-per-node 2 -m ignite_act run --act relu
    """
    if resume and overwrite:
        raise UserError("--resume goes on and --overwrite starts over: choose one")
    if cluster is not None and jobs > 1:
        raise UserError("--jobs is for this machine, a cluster has its own workers: choose one")
    if processes > 1 and (jobs > 1 or cluster is not None):
        raise UserError("--nproc-per-node trains one run after the other, each in several processes: without --jobs "
                        "and --cluster")  # fmt: skip
    if not output_dir:
        raise UserError("--output-dir is empty; a dot means the current directory")
    given = {name: value for name, value in options.items() if value is not None and value != ()}
    study = load_study(config_path, given)
    if fail_on is not None and not study.diagnostics:
        raise UserError("--fail-on needs the findings of the diagnostics, which are switched off: choose one")

    from ignite_act import experiment, variants
    from ignite_act.processes import default_backend, is_first, launch, leave, together
    from ignite_act.runs.layout import run_directory
    from ignite_act.runs.stored import read_run
    from ignite_act.terminal import SafeConsole

    configs, place = variants.expand_study(study), Path(output_dir)
    experiment.check_shares(configs[0].batch_size, processes)  # before they are started
    console = SafeConsole(quiet=quiet)
    backend = backend or default_backend()
    if len(configs) == 1 and cluster is None:
        train = functools.partial(experiment.run, configs[0], place, resume=resume, overwrite=overwrite, quiet=quiet)
        if launched_by_torchrun():
            with together(backend):
                train()
                others = not is_first()
            if others:
                leave()
        elif processes > 1:
            launch(train, processes=processes, backend=backend)
        else:
            train()
        results = run_directory(configs[0], place)
        runs = [read_run(results)]
        _show_inside(console, runs[0])
    elif launched_by_torchrun():
        raise UserError("torchrun trains a single run: for several take --nproc-per-node instead")
    else:
        how = {"jobs": jobs, "cluster": cluster, "processes": processes, "backend": backend}
        runs = _sweep(console, configs, place, how, overwrite=overwrite)
        results = place / study.data
    _show_comparisons(console, runs, results)
    console.print(f"run directory  {results}", markup=False, soft_wrap=True)
    _show_findings_count(console, runs, diagnostics=study.diagnostics)
    if study.diagnostics:
        costs = sorted(run.summary["cost"] for run in runs if not run.failed)
        shown = dict.fromkeys(f"{cost:.0%}" for cost in (costs[:1] + costs[-1:]))
        console.print(f"diagnostics    took {' to '.join(shown) or '?'} of the training time")
    console.print(f"look inside    {_tensorboard_command(place)}", markup=False, soft_wrap=True)
    failed = sum(run.failed for run in runs)
    if failed:
        echo(f"{failed} of {len(runs)} runs failed: the reasons are in their summary.json and train.log", err=True)
        raise SystemExit(1)
    if fail_on is not None and (named := _named_findings(runs, fail_on)):
        echo(f"--fail-on {fail_on}: {named}", err=True)
        raise SystemExit(FOUND)
    if launched_by_torchrun():
        leave()


def _sweep(
    console: Console, configs: list[RunConfig], place: Path, how: Mapping[str, Any], *, overwrite: bool
) -> list[StoredRun]:
    """Trains what is missing under one display and returns all runs, in the order of their configurations."""
    from ignite_act import sweep
    from ignite_act.progress import SweepProgress
    from ignite_act.runs.stored import read_run

    plan = sweep.plan(configs, place, resume=not overwrite, overwrite=overwrite, check_data=how["cluster"] is None)
    if plan.kept:
        console.print(f"kept {len(plan.kept)} of {len(configs)} runs, which are finished")
    with SweepProgress(plan, console) as progress:
        for run in plan.run(**how):
            progress.show(run)
    return [read_run(plan.directory(config)) for config in configs]


def _show_inside(console: Console, run: StoredRun) -> None:
    """The layers, the activations and the findings of one run."""
    from ignite_act.sinks import tables

    summary = run.summary
    name = summary["activation"]
    if summary["gradients"]:
        console.print(tables.layers_table(f"{name}: gradients, last epoch", summary["gradients"]))
    if summary["activations"]:
        title = f"{name}: activations of the best weights, all training samples"
        console.print(tables.sites_table(title, summary["activations"], summary["dead_neurons"]))
    if run.findings:
        console.print(tables.findings_table(run.findings, f"{name}: findings"))


def _show_findings_count(console: Console, runs: Sequence[StoredRun], *, diagnostics: bool) -> None:
    """How many findings there are; nothing if nothing was looked for."""
    from ignite_act.sinks import words

    findings = [finding for run in runs for finding in run.findings]
    if findings or diagnostics:
        console.print(f"findings       {words.counted(findings)}")


def _named_findings(runs: Sequence[StoredRun], severity: Severity) -> str:
    """The standing findings of a severity or a worse one, in short; empty if there are none."""
    from ignite_act.sinks import words

    named = [
        f"{run.summary['activation']} seed {run.config['seed']} {words.subject(finding)} ({finding.severity})"
        for run in runs
        for finding in words.at_least(severity, run.findings)
    ]
    more = f"; and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
    return "; ".join(named[:_NAMED]) + more


def _show_comparisons(console: Console, runs: Sequence[StoredRun], directory: Path) -> None:
    """The tables of the variants, and the files that show more."""
    from ignite_act.compare import compare, write_comparisons
    from ignite_act.html import write_report

    comparisons = compare(runs)
    _show_tables(console, comparisons, findings=len(runs) > 1)
    if len(runs) > 1:
        *_, written = write_comparisons(comparisons, directory)
        console.print(f"comparison     {written} (also .csv, .json)", markup=False, soft_wrap=True)
    page = write_report(runs, directory / "report.html")
    console.print(f"page           {page}", markup=False, soft_wrap=True)


def _show_tables(console: Console, comparisons: Sequence[Comparison], *, findings: bool = True) -> None:
    """The variants in numbers, then what was found in them."""
    from ignite_act.compare import comparison_tables, findings_table, terminal

    for comparison in comparisons:
        for table in comparison_tables(comparison):
            console.print(terminal(table))
        found = findings_table(comparison)
        if findings and found.rows:
            console.print(terminal(found))


def places_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """Directories that hold runs."""
    kind = click.Path(exists=True, file_okay=False, path_type=Path)
    return click.argument("places", type=kind, nargs=-1, required=True)(command)


@main.command("compare")
@places_argument
@click.option(
    "--output-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="where the files go  [default: the runs' common directory]",
)
@one_line_errors
def compare_runs(places: tuple[Path, ...], output_dir: Path | None) -> None:
    """Compares variants over seeds: prints tables, writes comparison.csv, .json and .md.

    PLACES are run directories, or directories above them: ignite-act compare runs/digits
    """
    from ignite_act.compare import compare, write_comparisons
    from ignite_act.terminal import SafeConsole

    console = SafeConsole()
    runs, _ = _stored_runs(places)
    comparisons = compare(runs)
    _show_tables(console, comparisons)
    *_, written = write_comparisons(comparisons, output_dir or _common(places))
    console.print(f"comparison     {written} (also .csv, .json)", markup=False, soft_wrap=True)


@main.command()
@places_argument
@click.option(
    "--output",
    type=OutputFile(),
    help="the file  [default: report.html in the runs' common directory]",
)
@one_line_errors
def report(places: tuple[Path, ...], output: Path | None) -> None:
    """Writes one HTML page that shows the runs and needs no server and no network.

    PLACES are run directories, or directories above them: ignite-act report runs/digits
    """
    from ignite_act.html import write_report

    runs, left_out = _stored_runs(places)
    page = write_report(runs, output or _common(places) / "report.html", left_out=left_out)
    echo(f"page           {page}")


def _stored_runs(places: tuple[Path, ...]) -> tuple[list[StoredRun], dict[Path, str]]:
    from ignite_act.runs.stored import find_runs

    runs, left_out = find_runs(places)
    for reason in left_out.values():
        echo(f"left out: {error_line(reason)}", err=True)
    if not runs:
        raise UserError(f"there is no finished run in {', '.join(map(str, places))}")
    return runs, left_out


def _common(places: tuple[Path, ...]) -> Path:
    return places[0] if len(places) == 1 else Path(os.path.commonpath([place.absolute() for place in places]))


def _tensorboard_command(log_dir: Path) -> str:
    """What to type to see the runs, with the path of the program unless its environment is the active one."""
    program = Path(sys.executable).with_name("tensorboard")
    if not program.exists():
        return f"pip install tensorboard && tensorboard --logdir {shlex.quote(str(log_dir))}"
    active = os.environ.get("VIRTUAL_ENV") == sys.prefix
    near = program.relative_to(Path.cwd()) if program.is_relative_to(Path.cwd()) else program
    return f"{'tensorboard' if active else shlex.quote(str(near))} --logdir {shlex.quote(str(log_dir))}"


def network_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which networks a study begins with."""
    for name in ("seed", "style", "act", "hidden", "model", "data_root", "data"):
        command = _option(name, StudyConfig.model_fields[name])(command)
    kind = click.Path(path_type=Path)
    return click.option("--config", "config_path", type=kind, help="YAML file; options override it.")(command)


@main.command()
@click.argument("places", metavar="[PLACE]...", type=click.Path(path_type=Path), nargs=-1)
@network_options
@click.option(
    "--gradient-batch", type=click.IntRange(1), default=256, show_default=True, help="samples for the gradients"
)
@click.option(
    "--activation-batch", type=click.IntRange(1), default=1024, show_default=True, help="samples for the activations"
)
@click.option("--whole", is_flag=True, help="take all training samples for both; dead neurons always are over all")
@click.option("--output", metavar="FILE.html", type=OutputFile(), help="write a page, too")
@click.option("--json", "numbers", metavar="FILE", type=OutputFile(), help="write the numbers, too")
@one_line_errors
def inspect(
    places: tuple[Path, ...],
    config_path: Path | None,
    gradient_batch: int,
    activation_batch: int,
    whole: bool,
    output: Path | None,
    numbers: Path | None,
    **options: Any,
) -> None:
    """Shows what networks look like inside: gradients of the layers, activations, dead neurons.

    A PLACE is a run directory (or one above some), which shows the fresh network and the best one, or a checkpoint in
    a run directory. Without a place, the options describe fresh networks, as a run would begin with them.

    The gradients are those of the first training batch in training mode; activations (of the first training samples)
    and dead neurons (over all of them) those of evaluation mode.

    \b
    Examples:
      ignite-act inspect --data fashionmnist --act relu --act tanh
      ignite-act inspect runs/digits/relu/seed-42 --output relu.html
    """
    given = {name: value for name, value in options.items() if value is not None and value != ()}
    superfluous = [*(["config"] if config_path else []), *(name for name in given if name != "data_root")]
    if places and superfluous:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in superfluous)
        raise UserError(f"{places[0]} brings its own network: leave out {flags}")
    study = load_study(config_path, given)

    from ignite_act import inspection

    inspection.check_targets(path for path in (output, numbers) if path is not None)
    subjects = inspection.stored_subjects(places, study.data_root) if places else inspection.fresh_subjects(study)
    logging.getLogger("ignite_act.collect").addHandler(logging.NullHandler())  # it is said once more by the coverage
    networks = inspection.inspect_subjects(
        subjects, gradient_batch=gradient_batch, activation_batch=activation_batch, whole=whole
    )
    if numbers is not None:
        inspection.write_json(networks, numbers)
    if output is not None:
        from ignite_act.html.inspection import write_inspection

        write_inspection(networks, output)
    _show_networks(networks)
    for label, path in (("page", output), ("numbers", numbers)):
        if path is not None:
            echo(f"{label:<14} {path}")


def _show_networks(networks: Sequence[InspectedNetwork]) -> None:
    """The tables of inspected networks, and what was not measured in them."""
    from ignite_act import inspection
    from ignite_act.terminal import SafeConsole

    console = SafeConsole()
    marks = inspection.ASCII if console.options.ascii_only else inspection.BLOCKS
    for table in inspection.inspection_tables(networks, marks):
        console.print(inspection.terminal(table))
    for line in (inspection.SHAPE, *inspection.unseen(networks)):
        console.print(line, markup=False)


@main.command()
@click.argument("target", metavar="MODULE:NAME")
@click.option("--data", default="digits", show_default=True, help="digits, circles, fashionmnist, or MODULE:NAME")
@click.option("--data-root", type=click.Path(path_type=Path), help="where fashionmnist lies or is downloaded to")
@click.option("--optimizer", type=click.Choice(["adam", "adamw", "sgd"]), default="adam", show_default=True)
@click.option("--lr", type=click.FloatRange(0, min_open=True), default=1e-3, show_default=True, help="learning rate")
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True, help="samples in a step")
@click.option(
    "--steps",
    type=click.IntRange(1),
    default=300,
    show_default=True,
    help="training steps to make, rounded up to whole windows",
)
@click.option(
    "--seed", type=click.IntRange(0, LARGEST_SEED), default=42, show_default=True, help="of weights and batches"
)
@fail_on_option
@one_line_errors
def check(
    target: str,
    data: str,
    data_root: Path | None,
    optimizer: str,
    lr: float,
    batch_size: int,
    steps: int,
    seed: int,
    fail_on: Severity | None,
) -> None:
    """Judges a model of your own: trains it for some steps and says what is wrong, where, and what to try.

    MODULE:NAME is a torch.nn.Module, or a function without arguments that makes one; MODULE is imported from the
    current directory, or is the path of a file. The model takes inputs (N, ...) and gives one logit a class. With
    --data MODULE:NAME the samples are yours, too: a function that returns two tensors, inputs and targets.

    \b
    Exit codes: 0 all is well, 1 a step failed, 2 the input is wrong or your code
    asked to exit, 3 the check ended with a finding that --fail-on names.

    \b
    Examples:
      ignite-act check my_module:build_model --data digits
      ignite-act check nets/small.py:Net --data nets/data.py:load --lr 0.01 --fail-on error
    """
    from ignite_act.check import check, load_model, load_own_data, windows
    from ignite_act.sinks import ConsoleSink, tables, words
    from ignite_act.terminal import SafeConsole

    samples = load_own_data(data, data_root)
    model = load_model(target, seed)
    count, length = windows(steps)
    echo(f"{target} on {samples.name}: {count * length} steps of {batch_size}, {optimizer} {lr:g}, in {count} windows")
    sink = ConsoleSink(echo, unit="window")
    for said in ("ignite_act.collect", "ignite.engine"):  # once more: by the coverage, and as the error
        logging.getLogger(said).addHandler(logging.NullHandler())
    checked = check(
        model, samples, optimizer=optimizer, lr=lr, batch_size=batch_size, steps=steps, seed=seed, sinks=[sink]
    )
    console = SafeConsole()
    if checked.findings:
        console.print(tables.findings_table(checked.findings, "findings"))
    echo(f"findings       {words.counted(checked.findings)}")
    if checked.error:
        echo(f"error: {error_line(checked.error)}", err=True)
        raise SystemExit(1)
    worst = words.at_least(fail_on, checked.findings) if fail_on is not None else []
    if worst:
        echo(f"--fail-on {fail_on}: {'; '.join(map(words.subject, worst[:_NAMED]))}", err=True)
        raise SystemExit(FOUND)


@main.command()
@click.option(
    "--plot", "page", metavar="[FILE.html]", type=OutputFile(), is_flag=False, flag_value="activations.html",
    help="write a page with their curves instead; without a name activations.html",
)  # fmt: skip
@one_line_errors
def activations(page: Path | None) -> None:
    """Lists the activation functions, where they are flat and where they saturate."""
    if page is not None:
        from ignite_act.html.activations import write_activations

        echo(f"page           {write_activations(page)}")
        return
    from ignite_act.activations import ACTIVATIONS
    from ignite_act.sinks import tables
    from ignite_act.terminal import SafeConsole

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
    SafeConsole().print(tables.activations_table(rows))


@main.command("findings")
@one_line_errors
def list_findings() -> None:
    """Lists the kinds of findings: what each says, what it needs, and how often it was right."""
    from ignite_act.findings.measured import measurement
    from ignite_act.sinks import tables
    from ignite_act.terminal import SafeConsole

    measured = measurement()
    console = SafeConsole()
    console.print(tables.kinds_table(measured))
    console.print(f"counted by {measured.command}, {measured.when}")


if __name__ == "__main__":
    main()
