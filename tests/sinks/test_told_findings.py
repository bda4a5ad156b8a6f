"""Findings in the outputs of every epoch, read back where there is a file."""

from __future__ import annotations

import html
import io
import json
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import markdown
import pytest
import tensorboardX
from markdown_it import MarkdownIt
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from ignite_act.report import EpochReport, Finding
from ignite_act.sinks import ConsoleSink, JsonLinesSink, TensorBoardSink, read_reports, words
from ignite_act.sinks.tables import findings_table
from ignite_act.sinks.tensorboard import findings_markdown, write_by

Make = Callable[..., Finding]
Epochs = list[list[Finding]]

HOSTILE = [
    "<img src=x onerror=alert(1)>", "</li></ul><script>alert(1)</script>", "[click](javascript:alert(1))",
    "![x](http://x.org/y.png)", "**bold** __strong__ *i* _i_", "`code` ~~gone~~", "&lt;b&gt; &#60;", r"back\slash \*",
    "# no heading", "| a | b |", "<http://x.org>", "[ref]: http://x.org", "1. one", "- item", "+ item", "_a_ $x$ [^1]",
]  # fmt: skip


def report(epoch: int, findings: Iterable[Finding] = ()) -> EpochReport:
    return EpochReport(epoch, 10 * epoch, findings=tuple(findings))


def reports(epochs: Epochs) -> list[EpochReport]:
    return [report(epoch, findings) for epoch, findings in enumerate(epochs, 1)]


# JSON lines


def test_findings_survive_the_file(make_finding: Make, tmp_path: Path) -> None:
    """What was found is read back as it was, non-finite numbers and cleared findings included."""
    sink = JsonLinesSink(tmp_path / "epochs.jsonl")
    evidence = {"quantity": "loss", "value": math.inf, "threshold": [1e-5, 0.05], "iteration": 7, "known": False}
    written = reports([[], [make_finding(evidence=evidence), make_finding("plateau", "info", None)],
                       [make_finding(cleared_epoch=3)]])  # fmt: skip
    for item in written:
        sink.write(item)
    assert read_reports(sink.path) == written
    lines = sink.path.read_text().splitlines()
    assert [len(json.loads(line)["findings"]) for line in lines] == [0, 2, 1]


# The console


def said(epochs: Epochs) -> dict[int, list[str]]:
    """Epoch -> what the console says below the line of the epoch."""
    lines: list[str] = []
    sink = ConsoleSink(lines.append)
    found: dict[int, list[str]] = {}
    for item in reports(epochs):
        lines.clear()
        sink.write(item)
        assert lines[0] == f"epoch {item.epoch}"
        found[item.epoch] = lines[1:]
    return found


def test_the_console_tells_of_a_finding_once(make_finding: Make) -> None:
    """In the epoch in which it appears: headline, harm and advice, indented; in later epochs nothing."""
    finding = make_finding()
    block = [
        "  WARNING layers.1: dead neurons, since epoch 2 (share of dead units is 0.625, threshold 0.5)",
        "    no harm yet",
        "    try: lower the learning rate",
        "    try: take leakyrelu",
    ]
    other = make_finding(layer="layers.3")
    lines = said([[], [finding], [make_finding(evidence={"value": 0.9})], [finding, other]])
    assert lines == {1: [], 2: block, 3: [], 4: [block[0].replace("layers.1", "layers.3"), *block[1:]]}


def test_the_console_tells_again_what_got_worse(make_finding: Make) -> None:
    """A finding whose severity rises is told again; one that gets better and worse again is not."""
    info, warning, error = (make_finding(severity=severity) for severity in ("info", "warning", "error"))
    lines = said([[info], [warning], [info], [warning], [error], [error]])
    assert [found[0].split()[0] if found else "" for found in lines.values()] == [
        "INFO", "WARNING", "", "", "ERROR", "",
    ]  # fmt: skip


def test_the_console_says_what_is_over(make_finding: Make) -> None:
    """A cleared finding has one line in its epoch, after the new ones; if it comes back, it is told again."""
    standing, other = make_finding(), make_finding("plateau", layer=None)
    over = make_finding(cleared_epoch=2)
    lines = said([[standing], [other, over], [other, over], [standing]])
    assert lines[2][0].startswith("  WARNING: the network never did better than a constant")
    assert lines[2][-1] == "  cleared in epoch 2: layers.1: dead neurons"
    assert lines[3] == []
    assert lines[4] == lines[1] != []


def test_the_console_tells_what_the_end_brought(make_finding: Make) -> None:
    """When the run is over, the findings that are new then are told, and nothing else once more."""
    lines: list[str] = []
    sink = ConsoleSink(lines.append)
    known, over, new = (
        make_finding(),
        make_finding("exploding", cleared_epoch=1),
        make_finding("plateau", "error", None),
    )
    sink.write(report(1, [known, over]))
    lines.clear()
    sink.end(report(1, [known, new, over]))
    assert lines[0].startswith("  ERROR: the network never did better than a constant")
    assert len(lines) == 4
    sink.end(report(1, [known, new, over]))
    assert len(lines) == 4


# TensorBoard


def texts(path: Path) -> dict[int, str]:
    """Step -> the text of the findings, as TensorBoard's text plugin finds it."""
    events = EventAccumulator(str(path), size_guidance={"tensors": 0})
    events.Reload()
    (tag,) = events.PluginTagToContent("text")
    assert tag == "findings/text_summary"
    return {event.step: event.tensor_proto.string_val[0].decode() for event in events.Tensors(tag)}


Write = Callable[[Path, list[EpochReport]], None]


def by_sink(path: Path, reports: list[EpochReport]) -> None:
    sink = TensorBoardSink(path)
    for item in reports:
        sink.write(item)
    sink.close()


def by_torch(path: Path, reports: list[EpochReport]) -> None:
    with SummaryWriter(path) as writer:
        for item in reports:
            write_by(writer, item)


def by_tensorboardx(path: Path, reports: list[EpochReport]) -> None:
    with tensorboardX.SummaryWriter(str(path)) as writer:
        for item in reports:
            write_by(writer, item)


@pytest.mark.parametrize("write", [by_sink, by_torch, by_tensorboardx])
def test_tensorboard_has_the_findings_when_they_change(write: Write, make_finding: Make, tmp_path: Path) -> None:
    """The list is written at the epochs in which a finding appears, changes its severity or is cleared."""
    warning, error, other = make_finding(), make_finding(severity="error"), make_finding("plateau", "info", None)
    over = make_finding(cleared_epoch=6)
    epochs = [[], [warning], [make_finding(evidence={})], [error, other], [error, other], [other, over], [other, over]]
    write(tmp_path, reports(epochs))
    found = texts(tmp_path)
    assert list(found) == [2, 4, 6]
    assert found[2].splitlines() == [
        "- **WARNING** layers.1: dead neurons, since epoch 2 (share of dead units is 0.625, threshold 0.5)",
        "    - no harm yet",
        "    - try: lower the learning rate",
        "    - try: take leakyrelu",
    ]
    assert [line.split(",")[0] for line in found[6].splitlines() if line.startswith("- ")] == [
        "- **INFO:** the network never did better than a constant",
        "- cleared in epoch 6: layers.1: dead neurons",
    ]


def test_two_writers_do_not_know_of_each_other(make_finding: Make, tmp_path: Path) -> None:
    """What one writer was given is written by another, too."""
    with SummaryWriter(tmp_path / "one") as one, SummaryWriter(tmp_path / "two") as two:
        for writer in (one, two):
            write_by(writer, report(1, [make_finding()]))
    assert list(texts(tmp_path / "one")) == list(texts(tmp_path / "two")) == [1]


def test_a_resumed_run_says_what_was_cleared(make_finding: Make, tmp_path: Path) -> None:
    """A sink that begins when a finding is cleared says so; nothing found is no text."""
    by_sink(tmp_path, [report(4), report(5, [make_finding(cleared_epoch=5)]), report(6)])
    assert texts(tmp_path) == {5: "- cleared in epoch 5: layers.1: dead neurons"}


def test_findings_that_are_gone_leave_an_empty_list(make_finding: Make, tmp_path: Path) -> None:
    """If a report says no more of a finding, the text does not either."""
    by_sink(tmp_path, reports([[make_finding()], []]))
    assert texts(tmp_path)[2] == "- no findings"


def test_tensorboard_has_what_the_end_brought(make_finding: Make, tmp_path: Path) -> None:
    """When the run is over, the list is written again if there is something new in it."""
    for name, last in (("same", []), ("more", [make_finding("plateau", "error", None)])):
        sink = TensorBoardSink(tmp_path / name)
        over = make_finding(cleared_epoch=1)
        sink.write(report(1, [over]))
        sink.end(report(1, [*last, over]))
        sink.close()
        events = EventAccumulator(str(tmp_path / name), size_guidance={"tensors": 0})
        events.Reload()
        assert len(events.Tensors("findings/text_summary")) == 1 + len(last)
        assert ("never did better" in texts(tmp_path / name)[1]) == bool(last)


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("render", [markdown.markdown, MarkdownIt().enable(["table", "strikethrough"]).render])
def test_names_stay_text_in_markdown(render: Callable[[str], str], make_finding: Make, text: str) -> None:
    """In any place and any dialect, names with HTML or Markdown are shown as they are in a plain list."""
    evidence = {"quantity": text, "value": text, "threshold": text}
    finding = make_finding(text, layer=text, harm=text, advice=(text, text), evidence=evidence)
    over = make_finding(layer=text, cleared_epoch=1)
    source = findings_markdown(report(1, [finding, over]))
    shown = render(source)
    assert set(re.findall(r"<([^>]*)>", shown)) <= {"ul", "/ul", "li", "/li", "strong", "/strong", "p", "/p"}
    assert (shown.count("<li>"), shown.count("<strong>")) == (5, 1)
    lines = [html.unescape(line).strip() for line in re.sub(r"<[^>]*>", "", shown).splitlines()]
    expected = [words.headline(finding), *words.consequences(finding), words.cleared(over)]
    assert [line for line in lines if line] == expected


# The terminal


def shown(findings: list[Finding], width: int) -> str:
    text = io.StringIO()
    Console(file=text, width=width).print(findings_table(findings))
    return text.getvalue()


def test_the_table_of_a_run(make_finding: Make) -> None:
    """A line has severity, layer, what, since when, quantity, value and threshold, and what to try."""
    text = shown([make_finding(), make_finding("plateau", "info", None, 4, evidence={}, cleared_epoch=9)], 150)
    rows = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
    dead = rows.index(["warning", "layers.1", "dead neurons", "2", "share of dead units", "lower the learning rate"])
    assert rows[dead + 1] == ["0.625 / 0.5", "take leakyrelu"]
    title = "the network never did better than a constant"
    assert rows[dead + 2][:4] == ["info", "-", title, "4, over in 9"]


@pytest.mark.parametrize("width", [60, 80, 110])
def test_the_table_fits_the_terminal(make_finding: Make, width: int) -> None:
    """Long names are folded, markup and escape sequences in them are text, nothing is lost."""
    layer = "encoder.blocks.11.attention.projection[red].\x1b[1mdense_with_a_long_name"
    text = shown([make_finding("vanishing_gradient", "error", layer, advice=("say " * 30,))], width)
    assert max(map(len, text.splitlines())) <= width
    assert "\x1b" not in text
    assert text.count("say") == 30
