"""The findings in the files of a run."""

import json
import math

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ignite_act import experiment
from ignite_act.config import RunConfig
from ignite_act.experiment import run
from ignite_act.report import Finding
from ignite_act.runs.stored import read_run
from ignite_act.sinks import ConsoleSink, read_reports, words

DEEP = {"hidden": (16,) * 8, "act": "sigmoid", "batch_size": 128, "lr": 0.01, "max_epochs": 5, "patience": 0}


@pytest.fixture(scope="module")
def stuck(tmp_path_factory):
    """A finished run of a deep stack of sigmoids, which never learns; tests only look at it."""
    return run(RunConfig(**DEEP), tmp_path_factory.mktemp("runs"), quiet=True)


def identities(findings):
    return [(finding.kind, finding.layer, finding.severity) for finding in findings]


def lines(directory):
    """The lines of epochs.jsonl, but for what depends on the clock."""
    rows = map(json.loads, (directory / "epochs.jsonl").read_text(encoding="utf-8").splitlines())
    return [{key: value for key, value in row.items() if key != "cost"} for row in rows]


def log(directory):
    """train.log without the times."""
    text = (directory / "train.log").read_text(encoding="utf-8")
    return [line.partition(" INFO ")[2] for line in text.splitlines()]


def test_the_summary_has_the_findings(stuck):
    """summary.json holds what stands at the end, the cause first, and what only the end could say."""
    stored = json.loads((stuck.directory / "summary.json").read_text(encoding="utf-8"))
    assert stored["findings"] == stuck.summary["findings"]
    findings = tuple(map(Finding.from_dict, stored["findings"]))
    assert findings == tuple(read_run(stuck.directory).findings)
    assert identities(findings)[0] == ("vanishing_gradient", "layers.0", "error")
    assert ("plateau", None, "warning") in identities(findings)
    assert {finding.since_epoch for finding in findings} == {1}
    assert all(finding.harm and finding.advice and finding.source for finding in findings)


def test_every_epoch_has_its_findings(stuck):
    """A line of epochs.jsonl holds what was found at the end of that epoch, with its numbers."""
    reports = read_reports(stuck.directory / "epochs.jsonl")
    assert len(reports) == 5
    for report in reports:
        severity = "error" if report.epoch > 1 else "warning"  # one epoch may be a warm-up
        assert ("vanishing_gradient", "layers.0", severity) in identities(report.findings)
        assert "plateau" not in [finding.kind for finding in report.findings]
        value = report.findings[0].evidence["value"]
        assert 0 < value < 1e-3
        assert value == report.signal["layers.0"]["backward"] / report.signal["layers.16"]["backward"]


def test_the_log_tells_of_the_findings_once(stuck):
    """train.log has the headline, harm and advice below the epoch in which each appears, those of the end last."""
    told = log(stuck.directory)
    epochs = {int(line.split("/")[0].split()[1]): number for number, line in enumerate(told) if "epoch " in line[:6]}
    for finding in map(Finding.from_dict, stuck.summary["findings"]):
        begin = f"  {finding.severity.upper()}{f' {finding.layer}' if finding.layer else ''}: {words.title(finding)}"
        (at,) = (number for number, line in enumerate(told) if line.startswith(begin))
        assert told[at + 1 : at + 2 + len(finding.advice)] == [f"    {line}" for line in words.consequences(finding)]
        if finding.kind == "plateau":
            assert at > epochs[5]
        else:
            assert epochs[2] < at < epochs[3]  # as an error; in the first epoch it was a warning


def test_tensorboard_has_the_findings(stuck):
    """The list is written when it changes: in the first epochs, and with what the end brought."""
    events = EventAccumulator(str(stuck.directory), size_guidance={"tensors": 0})
    events.Reload()
    texts = [
        (event.step, event.tensor_proto.string_val[0].decode()) for event in events.Tensors("findings/text_summary")
    ]
    assert [step for step, _ in texts] == [1, 2, 5]
    title = words.title(Finding.from_dict(stuck.summary["findings"][-1]))
    assert [title in text for _, text in texts] == [False, False, True]


def test_a_healthy_run_has_no_warning(tmp_path):
    """A network that learns has none, in no file."""
    config = RunConfig(hidden=(32,), batch_size=64, lr=0.1, max_epochs=5)
    result = run(config, tmp_path, quiet=True)
    found = [Finding.from_dict(item) for item in result.summary["findings"]]
    found += [finding for report in read_reports(result.directory / "epochs.jsonl") for finding in report.findings]
    assert [finding for finding in found if finding.severity != "info"] == []
    assert not any("WARNING" in line or "ERROR" in line for line in log(result.directory))


def test_without_diagnostics_there_are_none(tmp_path):
    """With the diagnostics off, nothing is looked for, and the files say so."""
    result = run(RunConfig(**{**DEEP, "diagnostics": False, "max_epochs": 3}), tmp_path, quiet=True)
    assert result.summary["findings"] == []
    assert [row["findings"] for row in lines(result.directory)] == [[], [], []]


@pytest.mark.parametrize("first", [1, 3])
def test_resume_has_the_same_findings(stuck, tmp_path, first):
    """Some epochs and a resume have the findings of one go in every file, bit for bit."""
    run(RunConfig(**{**DEEP, "max_epochs": first}), tmp_path, quiet=True)
    resumed = run(RunConfig(**DEEP), tmp_path, resume=True, quiet=True)
    assert resumed.summary["findings"] == stuck.summary["findings"]
    assert lines(resumed.directory) == lines(stuck.directory)


class Killed(BaseException):
    """What a signal does to a run."""


def die(*_, **__):
    raise Killed


def kill_in_end(patch):
    """Dies when the last checkpoint is written and the end has not been judged."""
    patch.setattr(experiment.Diagnostics, "end", die)


def kill_in_sink_at_end(patch):
    """Dies while the findings of the end are told."""
    patch.setattr(ConsoleSink, "end", die)


def kill_in_summary(patch):
    """Dies before summary.json is written."""
    patch.setattr(experiment._Run, "_summary", die)


@pytest.mark.few(1)
@pytest.mark.parametrize("kill", [kill_in_end, kill_in_sink_at_end, kill_in_summary])
def test_a_run_killed_after_its_last_epoch(stuck, tmp_path, kill):
    """Resumed, it has the findings of the end, which was never judged, as if it had not been killed."""
    with pytest.MonkeyPatch.context() as patch:
        kill(patch)
        with pytest.raises(Killed):
            run(RunConfig(**DEEP), tmp_path, quiet=True)
    resumed = run(RunConfig(**DEEP), tmp_path, resume=True, quiet=True)
    assert resumed.summary["findings"] == stuck.summary["findings"]
    assert lines(resumed.directory) == lines(stuck.directory)


def test_the_checkpoint_with_the_journal_is_plain(stuck):
    """last.pt holds the findings as plain types: it loads without executing anything."""
    state = torch.load(stuck.directory / "checkpoints/last.pt", weights_only=True)["diagnostics"]["journal"]
    assert [report["epoch"] for report in state["reports"]] == [1, 2, 3, 4, 5]
    assert state["standing"][0]["kind"] == "vanishing_gradient"
    json.dumps(state, allow_nan=False)


def test_a_run_that_becomes_nan(tmp_path):
    """A run that ends in NaN has the finding that names where it began; the file stays plain JSON."""
    config = RunConfig(hidden=(16, 16), batch_size=128, lr=1e30, max_epochs=5)
    result = run(config, tmp_path, quiet=True)
    assert result.summary["stop"] == "nonfinite"
    first = Finding.from_dict(result.summary["findings"][0])
    assert (first.severity, first.since_epoch) == ("error", 1)
    kinds = {item["kind"] for item in result.summary["findings"]}
    assert "nonfinite" in kinds
    (found,) = (item for item in result.summary["findings"] if item["kind"] == "nonfinite")
    assert found["evidence"]["iteration"] in (2, 3)
    assert not math.isnan(found["evidence"]["value"])
