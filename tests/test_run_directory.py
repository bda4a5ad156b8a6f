"""Nothing of the user's is ever destroyed, and nothing outside a run directory is ever touched."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from run_directories import assert_ended_as

from ignite_act import experiment, files, sweep
from ignite_act.config import RunConfig
from ignite_act.errors import UserError
from ignite_act.experiment import run
from ignite_act.runs.directory import (
    OccupiedError,
    begin,
    check_run_directory,
    locked,
    log_file,
    record_failure,
    recover,
)
from ignite_act.runs.layout import is_own, run_directory
from ignite_act.runs.stored import find_runs, is_ended, read_config, read_run
from ignite_act.sinks import read_reports

HERE = Path(__file__).parent
CONFIG = RunConfig(hidden=(8,), batch_size=256, lr=0.05, max_epochs=3)
OTHER = CONFIG.model_copy(update={"lr": 0.5})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output directory of a finished run of three epochs; tests only copy it."""
    place = tmp_path_factory.mktemp("runs")
    run(CONFIG, place, quiet=True)
    return place


@pytest.fixture
def place(trained: Path, tmp_path: Path) -> Path:
    """An output directory with a finished run of three epochs."""
    return Path(shutil.copytree(trained, tmp_path / "runs"))


@pytest.fixture
def directory(place: Path) -> Path:
    """The finished run."""
    return run_directory(CONFIG, place)


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A directory that nobody has named; the test fails if anything in it changes."""
    other = tmp_path / "outside"
    other.mkdir()
    for name in ("victim.pt", "best.pt", "notes.txt"):
        (other / name).write_text("the user's own", encoding="utf-8")
    before = content(other)
    yield other
    assert content(other) == before


def content(directory: Path) -> dict[str, Any]:
    """Path -> bytes of every file, and where every link leads."""
    return {
        str(path.relative_to(directory)): path.readlink() if path.is_symlink() else path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if (path.is_symlink() or path.is_file()) and path.name != ".lock"
    }


def whole(directory: Path) -> dict[str, Any]:
    """The content, but for what a kill has left half-written: that goes when the next run begins."""
    return {name: data for name, data in content(directory).items() if not name.endswith(".tmp")}


def modes() -> list[Any]:
    """How a run is asked for."""
    return [pytest.param(dict.fromkeys(names, True), id=" ".join(names) or "neither") for names in
            ((), ("resume",), ("overwrite",))]  # fmt: skip


# A finished run of another study


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_sweep_leaves_the_run_of_another_study(tmp_path: Path, jobs: int) -> None:
    """A run that another study has finished since the sweep was planned stays as it is, and can be resumed."""
    mine = [OTHER, OTHER.model_copy(update={"seed": 7})]
    plan = sweep.plan(mine, tmp_path)
    theirs = run(CONFIG, tmp_path, quiet=True).directory
    before = content(theirs)
    with pytest.raises(OccupiedError, match=r"was run with other settings \(lr 0\.05 -> 0\.5\)"):
        list(plan.run(jobs=jobs))
    assert content(theirs) == before
    assert run(CONFIG, tmp_path, resume=True, quiet=True).summary["epochs"] == 3


def test_a_failure_before_the_training_keeps_a_finished_run(
    place: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep that is to train a finished run further, and cannot build its network, leaves what is there."""
    before = content(directory)

    def fail(*_: object) -> None:
        raise MemoryError("no memory")

    monkeypatch.setattr(experiment, "prepare", fail)
    longer = CONFIG.model_copy(update={"max_epochs": 9})
    with pytest.raises(OccupiedError, match="holds a finished run, which was kept; the new one failed: no memory"):
        list(sweep.plan([longer], place, resume=True).run())
    assert content(directory) == before


# Files without the run that they belong to


@pytest.mark.parametrize("how", modes())
@pytest.mark.parametrize("config", ["missing", "a dangling link"])
def test_a_run_without_its_config(
    place: Path, directory: Path, outside: Path, config: str, how: dict[str, bool]
) -> None:
    """Reports and checkpoints without config.yaml are not cleaned away, the user's own never."""
    (directory / "config.yaml").unlink()
    if config != "missing":
        (directory / "config.yaml").symlink_to(outside / "nowhere")
    (directory / "checkpoints" / "mine.pt").write_text("the user's own", encoding="utf-8")
    before = content(directory)
    with pytest.raises(OccupiedError, match=r"config\.yaml|mine\.pt"):
        run(CONFIG, place, quiet=True, **how)
    assert content(directory) == before


def test_starting_over_takes_only_what_a_run_wrote(place: Path, directory: Path) -> None:
    """--overwrite removes an explicit list of files, and refuses a directory that holds any other."""
    (directory / ".hidden").write_text("the user's own", encoding="utf-8")
    (directory / "notes.txt").write_text("the user's own", encoding="utf-8")
    before = content(directory)
    with pytest.raises(OccupiedError, match=r"contains notes\.txt, which no run wrote: move it"):
        run(OTHER, place, overwrite=True, quiet=True)
    assert content(directory) == before
    (directory / "notes.txt").unlink()
    (directory / "config.yaml").unlink()
    run(OTHER, place, overwrite=True, quiet=True)
    assert read_run(directory).config["lr"] == 0.5
    assert (directory / ".hidden").read_text(encoding="utf-8") == "the user's own"
    assert all(is_own(name) or name == ".hidden" for name in content(directory))


# Going on without a state


@pytest.mark.parametrize("ended", [True, False])
def test_no_state_to_go_on_from(place: Path, directory: Path, ended: bool) -> None:
    """--resume never starts over where epochs would be lost: it says what is missing."""
    for name in ("last", "previous"):
        (directory / "checkpoints" / f"{name}.pt").unlink()
    if not ended:
        (directory / "summary.json").unlink()
    before = content(directory)
    with pytest.raises(
        OccupiedError, match=r"cannot be resumed: checkpoints/last\.pt is missing; restore it, or use --overwrite"
    ):
        run(CONFIG.model_copy(update={"max_epochs": 9}), place, resume=True, quiet=True)
    assert content(directory) == before


def test_killed_in_its_first_epoch(place: Path, directory: Path) -> None:
    """A run that had no time to write a state starts over."""
    for name in ("checkpoints/last.pt", "checkpoints/previous.pt", "summary.json"):
        (directory / name).unlink()
    first = (directory / "epochs.jsonl").read_bytes().splitlines(keepends=True)[0]
    (directory / "epochs.jsonl").write_bytes(first)
    assert run(CONFIG, place, resume=True, quiet=True).summary["epochs"] == 3


# Links and special files

OWN = ["config.yaml", "summary.json", "epochs.jsonl", "report.html", "train.log", ".lock", ".intent.json",
       "events.out.tfevents.1.host.1", "checkpoints/best.pt", "checkpoints/last.pt", "checkpoints/previous.pt",
       "checkpoints/damaged.pt", "checkpoints"]  # fmt: skip


def longer() -> RunConfig:
    """The settings of the finished run, with an epoch more to be done."""
    return CONFIG.model_copy(update={"max_epochs": 4})


@pytest.mark.parametrize("how", modes())
@pytest.mark.parametrize("name", OWN)
def test_links_are_not_followed(place: Path, directory: Path, outside: Path, name: str, how: dict[str, bool]) -> None:
    """Where a run would write through a link, to a file or a directory, it is refused, and nothing has changed."""
    path = directory / name
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.symlink_to(outside if name == "checkpoints" else outside / "victim.pt")
    before = content(directory)
    with pytest.raises(UserError, match="is a link|holds a finished run" if not how else "is a link"):
        run(longer(), place, quiet=True, **how)
    assert content(directory) == before


@pytest.mark.parametrize("how", modes())
@pytest.mark.parametrize("part", ["digits", "digits/relu", "digits/relu/seed-42"])
def test_a_linked_place_is_refused(place: Path, outside: Path, part: str, how: dict[str, bool]) -> None:
    """A run directory, or one above it, that leads elsewhere is not written."""
    shutil.rmtree(place / part)
    (place / part).symlink_to(outside)
    with pytest.raises(OccupiedError, match="is a link: replace it"):
        run(CONFIG, place, quiet=True, **how)


def test_an_output_directory_may_be_a_link(place: Path, tmp_path: Path) -> None:
    """Where all runs go is the user's to say."""
    (tmp_path / "link").symlink_to(place)
    assert run(longer(), tmp_path / "link", resume=True, quiet=True).summary["epochs"] == 4


def test_temporary_files_cannot_be_planted(tmp_path: Path, outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A temporary file has a name that nobody knows before, and is made, never opened."""
    names = set()
    for _ in range(5):
        with files.writing(tmp_path / "page.html"):
            names |= {path.name for path in tmp_path.iterdir() if path.suffix == ".tmp"}
    assert len(names) == 5
    monkeypatch.setattr(files.secrets, "token_hex", lambda size: "0" * 16)
    (tmp_path / f".page.html.{'0' * 16}.tmp").symlink_to(outside / "victim.pt")
    with pytest.raises(FileExistsError):
        files.write(tmp_path / "page.html", "new")
    assert (tmp_path / "page.html").read_bytes() == b""


def test_a_linked_page_is_replaced(tmp_path: Path, outside: Path) -> None:
    """What is written in one step takes the place of a link, and not of what it leads to."""
    (tmp_path / "report.html").symlink_to(outside / "victim.pt")
    files.write(tmp_path / "report.html", "new")
    assert not (tmp_path / "report.html").is_symlink()
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == "new"


@pytest.mark.parametrize("how", modes())
@pytest.mark.parametrize("name", [name for name in (*OWN, "comparison.md") if name != "checkpoints"])
def test_directories_in_place_of_files_are_refused(
    place: Path, directory: Path, name: str, how: dict[str, bool]
) -> None:
    """Nothing is written or removed where a directory has the name of one of a run's files."""
    (directory / name).unlink(missing_ok=True)
    (directory / name).mkdir()
    (directory / name / "precious.txt").write_text("the user's own", encoding="utf-8")
    before = content(directory)
    with pytest.raises(UserError, match=r"is a directory|Is a directory"):
        run(longer(), place, quiet=True, **how)
    assert content(directory) == before


@pytest.mark.parametrize("name", ["epochs.jsonl", "checkpoints"])
def test_links_planted_while_a_run_trains_are_not_followed(
    tmp_path: Path, outside: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What takes the place of a file or of the checkpoints in the middle of a run leads nothing out of it."""
    directory = run_directory(CONFIG, tmp_path)
    decide = experiment._Run._decide

    def plant(self: Any, engine: Any) -> None:
        decide(self, engine)
        if engine.state.epoch == 2:
            (directory / name).rename(directory / "moved")
            (directory / name).symlink_to(outside if name == "checkpoints" else outside / "victim.pt")

    monkeypatch.setattr(experiment._Run, "_decide", plant)
    with contextlib.suppress(UserError):
        run(CONFIG, tmp_path, quiet=True)
    assert (directory / name).is_symlink()


def test_a_log_is_not_written_through_a_link(tmp_path: Path, outside: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What the package logs does not go where a link leads that was planted after the directory was looked at."""
    (tmp_path / "train.log").symlink_to(outside / "victim.pt")
    with log_file(tmp_path / "train.log"):
        logging.getLogger("ignite_act.test").warning("something")
    assert "train.log cannot be written" in caplog.text


def test_only_regular_files_are_replaced(tmp_path: Path) -> None:
    """A page that is to be written over a pipe, a directory or a link to a device is refused; they stay."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    (tmp_path / "device").symlink_to(os.devnull)
    (tmp_path / "linked").symlink_to(tmp_path / "pipe")
    before = sorted(path.lstat().st_mode for path in tmp_path.iterdir())
    for path in list(tmp_path.iterdir()):
        with pytest.raises(OSError, match=r"not a regular file|Is a directory"):
            files.write(path, "new")
    assert sorted(path.lstat().st_mode for path in tmp_path.iterdir()) == before


@pytest.mark.timeout(60)
@pytest.mark.parametrize("how", modes())
@pytest.mark.parametrize("name", OWN)
def test_pipes_are_not_waited_for(place: Path, directory: Path, name: str, how: dict[str, bool]) -> None:
    """A named pipe in place of any file, which would block whoever opens it, is refused in one line."""
    path = directory / name
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    os.mkfifo(path)
    with pytest.raises(UserError, match="not a regular file|holds a finished run" if not how else "not a regular file"):
        run(longer(), place, quiet=True, **how)
    for stored in find_runs([place])[0]:
        stored.first_report()
        assert stored.findings is not None
        with contextlib.suppress(UserError):
            stored.reports()


# Deaths


@pytest.fixture(scope="module")
def struck(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[Path, str]]:
    """Kills a piece of work before each of its calls: directory -> the call."""

    def make(work: str, *, unfinished: bool = False) -> dict[Path, str]:
        place = tmp_path_factory.mktemp(work)
        source = shutil.copytree(run_directory(CONFIG, trained), place / "source")
        if unfinished:
            (source / "summary.json").unlink()
        done = subprocess.run([sys.executable, HERE / "striking.py", source, place, work], check=True,
                              capture_output=True, text=True)  # fmt: skip
        return {Path(path): call for path, call in json.loads(done.stdout).items()}

    return make


def test_killed_while_starting_over(trained: Path, struck: Callable[..., dict[Path, str]]) -> None:
    """Killed before any call of --overwrite, a directory holds the old run, whole, or the new one, which goes on."""
    old = content(run_directory(CONFIG, trained))
    seen = set()
    for directory, call in struck("overwrite").items():
        runs, left_out = find_runs([directory])
        if runs:
            assert whole(directory) == old, call
            seen.add("old")
        else:
            assert "holds an unfinished run" in left_out[directory], call
            with pytest.raises(OccupiedError, match="holds an unfinished run of 0 epochs"):
                check_run_directory(CONFIG, directory)
            with locked(directory):
                recover(directory)
                check_run_directory(OTHER, directory, resume=True)
            assert set(whole(directory)) == {"config.yaml"}, call
            assert read_config(directory / "config.yaml")[0] == OTHER
            seen.add("new")
    assert seen == {"old", "new"}


@pytest.mark.slow
def test_killed_while_going_on(trained: Path, struck: Callable[..., dict[Path, str]]) -> None:
    """Killed before any call of --resume, the directory holds the run as it had ended, or as it goes on."""
    source = run_directory(CONFIG, trained)
    old, seen = content(source), set()
    lines = (source / "epochs.jsonl").read_bytes().splitlines(keepends=True)
    for directory, call in struck("resume").items():
        if is_ended(directory):
            assert whole(directory) == old, call
            seen.add("old")
            continue
        with locked(directory):
            recover(directory)
        now = whole(directory)
        assert now.pop("config.yaml") != old["config.yaml"]
        assert now.pop("epochs.jsonl") == b"".join(lines[:2]), call
        assert now.pop("checkpoints/damaged.pt") == old["checkpoints/last.pt"], call
        assert now == {name: data for name, data in old.items() if name in now}, call
        assert {"summary.json", "checkpoints/last.pt"} == {*old} - {*now} - {"config.yaml", "epochs.jsonl"}, call
        seen.add("new")
    assert seen == {"old", "new"}


@pytest.mark.slow
def test_killed_in_a_training_that_goes_on(trained: Path, struck: Callable[..., dict[Path, str]]) -> None:
    """Killed before any call of a whole --resume, the run ends as one that nobody killed, to the bit."""
    place = Path(shutil.copytree(trained, trained.parent / "straight"))
    straight = run(longer(), place, resume=True, quiet=True).directory
    deaths = struck("train")
    assert len(deaths) > 20
    for directory, call in deaths.items():
        if is_ended(directory):
            assert {"summary.json", "epochs.jsonl", "checkpoints/best.pt"} <= set(whole(directory)), call
        run(longer(), directory.parents[2], resume=True, quiet=True)
        assert_ended_as(directory, straight)


@pytest.mark.slow
def test_killed_while_a_failure_is_recorded(struck: Callable[..., dict[Path, str]]) -> None:
    """Killed before any call, a run that failed has failed or has not ended; its state and its reports are there."""
    calls = struck("fail", unfinished=True)
    assert len(calls) > 4
    for directory in calls:
        if is_ended(directory):
            assert read_run(directory).failed
        assert len(read_reports(directory / "epochs.jsonl")) == 3
        assert run(CONFIG, directory.parents[2], resume=True, quiet=True).summary["epochs"] == 3


@pytest.mark.slow
def test_killed_while_a_page_is_written(struck: Callable[..., dict[Path, str]]) -> None:
    """Killed before any call, the old page is there; what is left of the new one goes with the next run."""
    for directory in struck("report"):
        assert not (directory / "report.html").exists()
        run(OTHER, directory.parents[2], overwrite=True, quiet=True)
        assert not list(directory.glob(".*.tmp"))


def test_an_intent_names_only_files_of_a_run(place: Path, directory: Path, outside: Path) -> None:
    """What a file says is to be removed is removed only if it has the name of a run's file."""
    names = ["../../../../outside/victim.pt", str(outside / "victim.pt"), "checkpoints/mine.pt", "config.yaml"]
    (directory / "checkpoints" / "mine.pt").write_text("the user's own", encoding="utf-8")
    config = (directory / "config.yaml").read_text(encoding="utf-8")
    intent = {"config": config, "remove": [*names, "summary.json"], "reports": None, "damaged": False}
    (directory / ".intent.json").write_text(json.dumps(intent), encoding="utf-8")
    with locked(directory):
        recover(directory)
    assert not (directory / "summary.json").exists()
    assert (directory / "checkpoints" / "mine.pt").read_text(encoding="utf-8") == "the user's own"
    assert read_config(directory / "config.yaml")[0] == CONFIG


@pytest.mark.parametrize("linked", ["checkpoints", "digits", "digits/relu/seed-42"])
def test_an_intent_is_not_carried_out_through_a_link(
    place: Path, directory: Path, outside: Path, tmp_path: Path, linked: str
) -> None:
    """An intent beside a link, planted or moved, removes nothing that the link leads to."""
    config = (directory / "config.yaml").read_text(encoding="utf-8")
    intent = {"config": config, "remove": ["checkpoints/best.pt"], "reports": 0, "damaged": True}
    (directory / ".intent.json").write_text(json.dumps(intent), encoding="utf-8")
    if linked == "checkpoints":
        shutil.rmtree(directory / linked)
        (directory / linked).symlink_to(outside)
    else:
        shutil.move(place / linked, tmp_path / "moved")
        (place / linked).symlink_to(tmp_path / "moved")
    before = content(tmp_path)
    for work in (lambda: recover(directory), lambda: record_failure(directory, CONFIG, RuntimeError("no memory"))):
        with pytest.raises(OccupiedError, match="is a link"):
            work()
    assert content(tmp_path) == before


@pytest.mark.parametrize("name", ["config.yaml", "summary.json", "epochs.jsonl", "checkpoints/last.pt"])
def test_too_few_handles_are_no_damage(
    place: Path, directory: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A file that cannot be opened because too many are open is not called damaged, and no state is set aside."""
    before, real = content(directory), os.open

    def open_(path: Any, *rest: Any, **options: Any) -> int:
        if path == directory / name:
            raise OSError(errno.EMFILE, "Too many open files", str(path))
        return real(path, *rest, **options)

    monkeypatch.setattr(files.os, "open", open_)
    with pytest.raises(files.HandlesError):
        run(longer(), place, resume=True, quiet=True)
    assert content(directory) == before


@pytest.mark.parametrize("text", ["", "[]", "{", '{"config": 5}', "[" * 100_000])
def test_an_intent_that_cannot_be_read(place: Path, directory: Path, text: str) -> None:
    """It is refused in one line and nothing is changed; --overwrite starts over."""
    (directory / ".intent.json").write_text(text, encoding="utf-8")
    before = content(directory)
    with pytest.raises(OccupiedError, match=r"intent\.json cannot be read: .*--overwrite starts over"):
        run(longer(), place, resume=True, quiet=True)
    assert content(directory) == before
    assert run(CONFIG, place, overwrite=True, quiet=True).summary["epochs"] == 3
    assert not (directory / ".intent.json").exists()


# States that were changed


def set_to(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    """A change of a state: something deep in it has another value; without one it is gone."""

    def change(state: dict[str, Any]) -> None:
        inner: Any = state
        for key in path[:-1]:
            inner = inner[key]
        if value is MISSING:
            del inner[path[-1]]
        else:
            inner[path[-1]] = value(inner[path[-1]]) if callable(value) else value

    return change


MISSING = object()


def endless() -> list[Any]:
    """A list that takes few bytes in a file, and more than there are atoms when it is written out."""
    value: list[Any] = ["a"]
    for _ in range(80):
        value = [value] * 10
    return value


def not_finite_and_unsaid(state: dict[str, Any]) -> None:
    """Takes the mark away, too, which says whether the weights were finite."""
    state["model"]["layers.0.bias"] /= 0
    del state["run"]["finite"]


WEIGHT = ("model", "layers.0.weight")
CHANGES = {
    **{f"no {name}": set_to(name, value=MISSING) for name in
       ("model", "optimizer", "scaler", "trainer", "early_stopping", "best", "random", "diagnostics")},
    **{f"{name} is {type(value).__name__}": set_to(name, value=value)
       for name in ("model", "optimizer", "trainer", "early_stopping", "best", "random", "diagnostics")
       for value in (None, 5, "x", [])},
    "no epoch": set_to("run", "epoch", value=MISSING),
    "an epoch in words": set_to("run", "epoch", value="two"),
    "a negative epoch": set_to("run", "epoch", value=-2),
    "no seconds": set_to("run", "seconds", value=MISSING),
    "an unknown end": set_to("run", "stop", value="tired"),
    "settings are a number": set_to("run", "settings", value=5),
    "weights that are not finite": set_to(*WEIGHT, value=lambda weight: weight * float("nan")),
    "one weight that is not finite": set_to("model", "layers.0.bias", value=lambda b: b / 0),
    "weights in double precision": set_to(*WEIGHT, value=lambda weight: weight.double()),
    "weights in half precision": set_to(*WEIGHT, value=lambda weight: weight.half()),
    "a weight is a list": set_to(*WEIGHT, value=lambda weight: weight.tolist()),
    "a weight less": set_to(*WEIGHT, value=MISSING),
    "no iteration": set_to("trainer", "iteration", value=MISSING),
    "an iteration in words": set_to("trainer", "iteration", value="12"),
    "patience in words": set_to("early_stopping", "counter", value="12"),
    "random state of another type": set_to("random", "processes", 0, "cpu", value=lambda state: state.float()),
    "half of a random state": set_to("random", "processes", 0, "cpu", value=lambda state: state[:100]),
    "no process": set_to("random", "processes", value=[]),
    "no groups": set_to("optimizer", "param_groups", value=[]),
    "no parameters": set_to("optimizer", "param_groups", 0, "params", value=[]),
    "a rate in words": set_to("optimizer", "param_groups", 0, "lr", value="fast"),
    "an imaginary rate": set_to("optimizer", "param_groups", 0, "lr", value=1j),
    "no rate": set_to("optimizer", "param_groups", 0, "lr", value=float("nan")),
    "another rate": set_to("optimizer", "param_groups", 0, "lr", value=0.5),
    "a rate that is a tensor": set_to("optimizer", "param_groups", 0, "lr", value=torch.ones(3)),
    "another momentum": set_to("optimizer", "param_groups", 0, "momentum", value=5.0),
    "a counter that is no number": set_to("early_stopping", "counter", value=float("nan")),
    "a counter below 0": set_to("early_stopping", "counter", value=-1),
    "a score in words": set_to("early_stopping", "best_score", value="high"),
    "no time": set_to("run", "seconds", value=float("nan")),
    "endless costs": set_to("run", "costs", value=float("inf")),
    "an iteration that is no number": set_to("trainer", "iteration", value=float("nan")),
    "another iteration": set_to("trainer", "iteration", value=3),
    "another epoch": set_to("run", "epoch", value=10**12),
    "a true epoch": set_to("run", "epoch", value=True),
    "a version that is a tensor": set_to("run", "schema", value=torch.ones(3)),
    "a setting that is a tensor": set_to("run", "settings", "lr", value=torch.ones(3)),
    "a version without end": set_to("run", "schema", value=endless()),
    "a setting without end": set_to("run", "settings", "lr", value=endless()),
    "an end without end": set_to("run", "stop", value=endless()),
    "sparse weights": set_to(*WEIGHT, value=lambda weight: weight.to_sparse()),
    "weights without values": set_to(*WEIGHT, value=lambda weight: weight.to("meta")),
    "weights that are not finite, and none says so": not_finite_and_unsaid,
    "sparse momentum": set_to("optimizer", "state", 0, "momentum_buffer", value=lambda m: m.to_sparse()),
    "momentum of another shape": set_to("optimizer", "state", 0, "momentum_buffer", value=torch.zeros(3)),
    "momentum in half precision": set_to("optimizer", "state", 0, "momentum_buffer", value=lambda m: m.half()),
    "momentum is a number": set_to("optimizer", "state", 0, "momentum_buffer", value=5),
    "momentum is missing": set_to("optimizer", "state", 0, value=MISSING),
}  # fmt: skip


@pytest.fixture(scope="module")
def with_momentum(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output directory of a run whose optimizer keeps something."""
    place = tmp_path_factory.mktemp("momentum")
    run(CONFIG.model_copy(update={"momentum": 0.9}), place, quiet=True)
    return place


@pytest.mark.few(12)
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_state_is_refused(
    with_momentum: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    """A state with the right version and another content is refused in one line, and a finished run stays finished."""
    place = shutil.copytree(with_momentum, tmp_path / "runs")
    config = CONFIG.model_copy(update={"momentum": 0.9, "max_epochs": 4})
    directory = run_directory(config, place)
    for name in ("last", "previous"):
        state = torch.load(directory / "checkpoints" / f"{name}.pt", weights_only=True)
        change(state)
        torch.save(state, directory / "checkpoints" / f"{name}.pt")
    before = content(directory)
    with pytest.raises(UserError, match="--overwrite starts over") as caught:
        run(config, place, resume=True, quiet=True)
    assert "\n" not in str(caught.value)
    assert content(directory) == before


# Who writes


def test_record_failure_makes_a_run_that_can_be_resumed(tmp_path: Path) -> None:
    """A run that failed before it began is trained by the next sweep."""
    directory = run_directory(CONFIG, tmp_path)
    record_failure(directory, CONFIG, RuntimeError("no memory"))
    assert run(CONFIG, tmp_path, resume=True, quiet=True).summary["epochs"] == 3


def test_a_new_run_leaves_what_is_beside_it(tmp_path: Path) -> None:
    """A run may begin where the user keeps something: there is nothing to clean."""
    directory = run_directory(CONFIG, tmp_path)
    directory.mkdir(parents=True)
    (directory / "notes.txt").write_text("the user's own", encoding="utf-8")
    with locked(directory):
        check_run_directory(CONFIG, directory)
        begin(directory, CONFIG)
    assert (directory / "notes.txt").read_text(encoding="utf-8") == "the user's own"
