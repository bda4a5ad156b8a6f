"""The files of a run: what is found, read back, and written when a run fails."""

import errno
import json
import logging

import pytest
import yaml

from ignite_act import experiment, files
from ignite_act.config import RunConfig
from ignite_act.errors import UserError
from ignite_act.experiment import run
from ignite_act.runs.directory import BusyError, OccupiedError, begin, locked, record_failure
from ignite_act.runs.layout import run_directory
from ignite_act.runs.stored import epochs_done, find_runs, first_report, is_finished, read_run

LEAST = {
    "schema": 2, "activation": "relu", "epochs": 1, "stop": "all_epochs", "stop_reason": "all 1 epochs done",
    "best_epoch": 1, "seconds": 1.0, "test": {"accuracy": 0.5, "loss": 1.0}, "last": {"accuracy": 0.5, "loss": 1.0},
    "gradients": {}, "activations": {}, "dead_neurons": {},
}  # fmt: skip
"""The least that the summary of a run that ended holds."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of two epochs; tests only look at it."""
    config = RunConfig(hidden=(16,), batch_size=128, lr=0.05, max_epochs=2)
    return run(config, tmp_path_factory.mktemp("runs"), quiet=True).directory


@pytest.fixture
def ended(tmp_path):
    """Makes the directory of a run that ended, with the least that is read back, and returns it."""

    def make(place, summary=None, **settings):
        directory = tmp_path / place
        begin(directory, RunConfig(**settings))
        content = {**LEAST, **(summary or {})}
        (directory / "summary.json").write_text(json.dumps(content), encoding="utf-8")
        return directory

    return make


def names(found):
    """The last two parts of the directories."""
    return ["/".join(item.directory.parts[-2:]) for item in found[0]]


# Reading a run


def test_first_report(finished, tmp_path):
    """The first report is that of the first epoch; without one that can be read there is none."""
    stored = read_run(finished)
    assert stored.first_report() == stored.reports()[0]
    assert stored.first_report().epoch == 1
    for content in ("", "{}\n", '{"schema": 1, "epo', "[]\n", "nonsense\n"):
        (tmp_path / "epochs.jsonl").write_text(content, encoding="utf-8")
        assert first_report(tmp_path) is None
    assert first_report(tmp_path / "nowhere") is None


def test_read_run(finished, tmp_path):
    """A run that ended is read back: its settings in plain types, versions, the summary, and the reports on request."""
    stored = read_run(finished)
    assert stored.directory == finished
    assert stored.config == RunConfig(hidden=(16,), batch_size=128, lr=0.05, max_epochs=2).model_dump(mode="json")
    assert stored.config["hidden"] == [16]
    assert stored.summary == json.loads((finished / "summary.json").read_text(encoding="utf-8"))
    assert {"python", "torch", "ignite-act"} <= set(stored.versions)
    assert [report.epoch for report in stored.reports()] == [1, 2]
    assert not stored.failed


def test_findings_of_a_run(ended, make_finding):
    """The findings of the summary are read back as they were; a summary that has no word of them has none."""
    findings = [make_finding(), make_finding("plateau", "error", None, cleared_epoch=5)]
    summary = {"findings": [finding.to_dict() for finding in findings]}
    assert read_run(ended("relu/seed-1", summary, seed=1)).findings == findings
    assert read_run(ended("relu/seed-2", seed=2)).findings == []


@pytest.mark.parametrize("change", [{"severity": "fatal"}, {"evidence": 5}, {"kind": ["x"]}, {"since_epoch": "late"}])
def test_findings_that_nobody_can_show(ended, make_finding, change):
    """A run whose findings are of another kind than this program writes is refused in one line."""
    directory = ended("relu/seed-1", {"findings": [{**make_finding().to_dict(), **change}]})
    with pytest.raises(UserError, match=r"summary\.json cannot be read: there is no finding that this version knows: "):
        read_run(directory)


def test_settings_of_an_older_program(ended):
    """A setting that did not exist when the run was made has its default."""
    directory = ended("relu/seed-42", lr=0.125)
    saved = yaml.safe_load((directory / "config.yaml").read_text(encoding="utf-8"))
    del saved["config"]["published"], saved["config"]["amp"]
    (directory / "config.yaml").write_text(yaml.safe_dump(saved), encoding="utf-8")
    assert read_run(directory).config == RunConfig(lr=0.125).model_dump(mode="json")


UNREADABLE = {
    "no summary": ("summary.json", None, "holds an unfinished run"),
    "half a summary": ("summary.json", b'{"schema": 2, ', "summary.json cannot be read"),
    "an empty summary": ("summary.json", b"", "summary.json cannot be read"),
    "a list": ("summary.json", b"[]", "summary.json cannot be read"),
    "another version": ("summary.json", b'{"schema": 1}', "version 1, this program reads 2"),
    "findings are words": ("summary.json", b'{"schema": 2, "findings": ["dead"]}', "summary.json cannot be read"),
    "half a finding": ("summary.json", b'{"schema": 2, "findings": [{"kind": "dead"}]}', "summary.json cannot be read"),
    "not text": ("summary.json", b"\xff\xfe", "summary.json cannot be read"),
    "no settings": ("config.yaml", b"", "config.yaml cannot be read"),
    "broken settings": ("config.yaml", b"config: [", "config.yaml cannot be read"),
    "settings are a number": ("config.yaml", b"config: 5\nversions: {}", "config.yaml cannot be read"),
    "no versions": ("config.yaml", b"config: {}", "config.yaml cannot be read"),
    "versions are a list": ("config.yaml", b"config: {}\nversions: []", "config.yaml cannot be read"),
    "unknown setting": ("config.yaml", b"config: {nosuch: 1}\nversions: {}", "config.yaml cannot be read"),
    "wrong setting": ("config.yaml", b"config: {lr: -1}\nversions: {}", "config.yaml cannot be read"),
    "settings are not text": ("config.yaml", b"\xff\xfe", "config.yaml cannot be read"),
}


@pytest.mark.parametrize(("name", "content", "message"), UNREADABLE.values(), ids=UNREADABLE)
def test_unreadable_run(ended, name, content, message):
    """A run that has not ended or is damaged is refused in one line that says where; among others it is left out."""
    good, bad = ended("relu/seed-1", seed=1), ended("relu/seed-2", seed=2)
    (bad / name).unlink()
    if content is not None:
        (bad / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_run(bad)
    assert message in str(caught.value)
    assert str(bad) in str(caught.value)
    assert "\n" not in str(caught.value)
    runs, left_out = find_runs([good.parent])
    assert [item.directory for item in runs] == [good]
    assert left_out == {bad: str(caught.value)}


def test_settings_are_not_executed(ended, tmp_path):
    """Reading a run executes nothing that its files hold."""
    directory = ended("relu/seed-1")
    code = f"config: {{}}\nversions: {{made: !!python/object/apply:os.mkdir ['{tmp_path}/made']}}\n"
    (directory / "config.yaml").write_text(code, encoding="utf-8")
    with pytest.raises(UserError, match=r"config\.yaml cannot be read"):
        read_run(directory)
    assert not (tmp_path / "made").exists()


# Finding runs


def test_natural_order(ended, tmp_path):
    """Runs come in the order of their paths, numbers by their value."""
    for place in ("tanh/seed-1", "relu/seed-10", "relu/seed-9", "relu/seed-100", "elu/seed-042"):
        ended(f"runs/{place}")
    assert names(find_runs([tmp_path])) == [
        "elu/seed-042", "relu/seed-9", "relu/seed-10", "relu/seed-100", "tanh/seed-1",
    ]  # fmt: skip


def test_every_run_once(ended, tmp_path, monkeypatch):
    """A run is found once, however many of the places lead to it: itself, above it, relative, or a link."""
    first, second = ended("runs/relu/seed-1"), ended("runs/tanh/seed-1")
    (tmp_path / "link").symlink_to(tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    places = [first, tmp_path / "runs", tmp_path, tmp_path / "link", first.relative_to(tmp_path), first.parent]
    for found in (places, places[::-1]):
        assert sorted(item.directory.resolve() for item in find_runs(found)[0]) == [first, second]
    assert names(find_runs([tmp_path / "link"])) == ["relu/seed-1", "tanh/seed-1"]


@pytest.mark.parametrize("place", ["empty", "file", "nosuch"])
def test_nothing_there(tmp_path, place):
    """Where no run is, none is found."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x", encoding="utf-8")
    assert find_runs([tmp_path / place]) == ([], {})
    assert find_runs([]) == ([], {})


# Failures


class NoSpaceError(Exception):
    """An error of a run."""


def failure(message="no space left\nsecond line"):
    """An error that was raised."""
    try:
        raise NoSpaceError(message)
    except NoSpaceError as error:
        return error


def test_record_failure(tmp_path, tiny):
    """An error becomes the result of a run: its first line in the summary, its traceback in the log, nothing else."""
    config = tiny(act="leakyrelu:negative_slope=0.1", seed=7)
    before = list(logging.getLogger("ignite_act").handlers)
    directory = run_directory(config, tmp_path / "new")
    assert record_failure(directory, config, failure()) == directory
    stored = read_run(directory)
    assert stored.failed
    assert stored.config == config.model_dump(mode="json")
    assert {key: stored.summary[key] for key in ("activation", "seed", "epochs", "stop", "stop_reason")} == {
        "activation": "leakyrelu-negative_slope=0.1", "seed": 7, "epochs": 0, "stop": "failed",
        "stop_reason": "NoSpaceError: no space left",
    }  # fmt: skip
    log = (directory / "train.log").read_text(encoding="utf-8")
    assert "Traceback" in log
    assert "raise NoSpaceError(message)" in log
    assert "second line" in log
    assert sorted(path.name for path in directory.iterdir()) == [
        ".lock",
        "checkpoints", "config.yaml", "summary.json", "train.log",
    ]  # fmt: skip
    assert logging.getLogger("ignite_act").handlers == before
    assert stored.reports() == []


def test_failure_without_a_message(tmp_path, tiny):
    """An error that says nothing is known by its kind."""
    directory = record_failure(tmp_path / "x", tiny(), failure(""))
    assert read_run(directory).summary["stop_reason"] == "NoSpaceError: NoSpaceError"


def test_failure_of_a_run_under_way(tmp_path, tiny, monkeypatch):
    """A run that fails keeps what it had, counts as unfinished, and is resumed to the result it would have had."""
    config = tiny(max_epochs=3)
    straight = run(config, tmp_path / "straight", quiet=True)
    decide = experiment._Run._decide

    def fail(self, engine):
        if engine.state.epoch == 3:
            raise NoSpaceError
        decide(self, engine)

    with monkeypatch.context() as patch:
        patch.setattr(experiment._Run, "_decide", fail)
        with pytest.raises(NoSpaceError):
            run(config, tmp_path / "failed", quiet=True)
    directory = record_failure(run_directory(config, tmp_path / "failed"), config, failure())
    assert (read_run(directory).summary["epochs"], epochs_done(directory)) == (3, 3)
    assert not is_finished(directory, config)
    resumed = run(config, tmp_path / "failed", resume=True, quiet=True)
    different = {key for key in straight.summary if resumed.summary[key] != straight.summary[key]}
    assert different <= {"seconds", "cost"}
    assert not read_run(directory).failed


def test_failure_over_a_finished_run(tmp_path, tiny):
    """A failure never takes the place of a result: not of this run's, nor of another's that has come in between."""
    config = tiny(max_epochs=1)
    directory = run(config, tmp_path, quiet=True).directory
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    with pytest.raises(OccupiedError, match=r"holds a finished run, which was kept; the new one failed: no space left"):
        record_failure(directory, config, failure())
    with pytest.raises(OccupiedError, match=r"was run with other settings \(lr "):
        record_failure(directory, tiny(max_epochs=1, lr=0.5), failure())
    with locked(directory), pytest.raises(BusyError):
        record_failure(directory, config, failure())
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("content", [b"garbage\nmore\n", b"[]\n[]\n", b"\xff\xfe\n"])
def test_failure_with_damaged_reports(tmp_path, tiny, content):
    """Reports that cannot be read do not keep a failure from being recorded."""
    begin(tmp_path / "x", tiny())
    (tmp_path / "x" / "epochs.jsonl").write_bytes(content)
    assert read_run(record_failure(tmp_path / "x", tiny(), failure())).summary["epochs"] == 0


@pytest.mark.parametrize("place", ["file", "file/below", "x" * 300])
def test_failure_that_cannot_be_written(tmp_path, tiny, place):
    """A place that cannot be written is refused with the system's reason, and no handler of the log is left behind."""
    (tmp_path / "file").write_text("x", encoding="utf-8")
    before = list(logging.getLogger("ignite_act").handlers)
    with pytest.raises(UserError, match=r"cannot write .*: (Not a directory|File exists|File name too long)"):
        record_failure(tmp_path / place, tiny(), failure())
    assert logging.getLogger("ignite_act").handlers == before


def test_failure_without_a_log(tmp_path, tiny, caplog, monkeypatch):
    """Where the log cannot be written, the failure is recorded all the same, and that is said."""

    def refuse(path, **how):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    begin(tmp_path, tiny())
    monkeypatch.setattr(files, "appending", refuse)
    assert read_run(record_failure(tmp_path, tiny(), failure())).failed
    assert "train.log cannot be written: Permission denied" in caplog.text


# Epochs that are done


@pytest.mark.parametrize(
    ("content", "epochs"), [(b"", 0), (b"{}\n", 1), (b"{}\n{}\n{}\n", 3), (b"{}\n{", 1), (b"\xff\n\n", 2)]
)
def test_epochs_done(tmp_path, content, epochs):
    """The epochs that are done are the lines that are whole, whatever they hold."""
    (tmp_path / "epochs.jsonl").write_bytes(content)
    assert epochs_done(tmp_path) == epochs


def test_epochs_done_of_a_run(finished, tmp_path):
    """A run of two epochs has done two; none are done where there is no file, or something else is."""
    assert epochs_done(finished) == 2
    assert epochs_done(tmp_path) == epochs_done(tmp_path / "nosuch") == 0
    (tmp_path / "epochs.jsonl").mkdir()
    assert epochs_done(tmp_path) == 0
