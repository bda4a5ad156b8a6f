"""A comparison -> three files."""

import csv
import errno
import json
import math

import pytest

from ignite_act import files
from ignite_act.compare import compare, comparison_tables, markdown, write_comparisons
from ignite_act.errors import UserError
from ignite_act.runs.stored import find_runs

NAMES = ["comparison.csv", "comparison.json", "comparison.md"]
PARTS = ["n", "mean", "std", "low", "high", "minimum", "median", "maximum"]


def rows(path):
    """The rows of a CSV file."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def refuse_constants(name):
    raise AssertionError(f"{name} is not JSON")


def read(path):
    """Strict JSON."""
    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse_constants)


def test_three_files(study, tmp_path):
    """A comparison is written as JSON, Markdown and CSV, into a directory that need not exist."""
    comparisons = compare(study({"relu": [0.5, 0.75], "tanh": [0.1, None]}) + study({"elu": [0.5]}, data="circles"))
    paths = write_comparisons(comparisons, tmp_path / "new" / "place")
    assert paths == [tmp_path / "new" / "place" / name for name in NAMES]
    assert sorted(path.name for path in (tmp_path / "new" / "place").iterdir()) == NAMES
    assert read(paths[1]) == [comparison.to_dict() for comparison in comparisons]
    tables = [table for comparison in comparisons for table in comparison_tables(comparison)]
    assert paths[2].read_text(encoding="utf-8") == markdown(tables)
    assert [row["data"] for row in rows(paths[0])] == ["digits", "digits", "circles"]


def test_csv(study, tmp_path):
    """The CSV has a line a variant, every number of an estimate in full precision; what is not there is empty."""
    runs = study({"relu": [1 / 3, 2 / 3, 0.7], "tanh": [0.1, None, 0.05]}, published={"test_accuracy": 0.6, "dead": 3})
    comparisons = compare(runs)
    path, *_ = write_comparisons(comparisons, tmp_path)
    relu, tanh = rows(path)
    names = [
        "test_accuracy", "test_loss", "last_accuracy", "last_loss", "difference", "epochs", "best_epoch", "seconds",
        "dead",
    ]  # fmt: skip
    for variant, row in zip(comparisons[0].variants, (relu, tanh), strict=True):
        estimates = {name: getattr(variant, name) for name in (*names, "gradient_ratio")}
        estimates |= {f"gradients/{name}": value for name, value in variant.gradients.items()}
        estimates |= {f"dead_neurons/{name}": value for name, value in variant.dead_neurons.items()}
        for name, value in estimates.items():
            mine = [float(row[f"{name}_{part}"]) if row[f"{name}_{part}"] else None for part in PARTS]
            assert mine == [value and getattr(value, part) for part in PARTS], name
    assert {key: relu[key] for key in ("variant", "verdict", "runs", "learned", "failed", "units")} == {
        "variant": "relu", "verdict": "best", "runs": "3", "learned": "3", "failed": "0", "units": "24",
    }  # fmt: skip
    assert (relu["published_test_accuracy"], relu["published_dead"]) == ("0.6", "3.0")
    assert (tanh["verdict"], tanh["learned"], tanh["failed"]) == ("did not start to learn", "0", "1")
    assert tanh["stop_reasons"] == "2 x all 5 epochs done; 1 x OSError: no"
    assert None not in relu


def test_csv_of_different_networks(made, tmp_path):
    """Layers that one network lacks are empty cells, under the same heading for all."""
    runs = [made(gradients=(1.0, 2.0)), made("tanh", gradients=(1.0, 2.0, 3.0)), made("elu", error="OSError: no")]
    path, *_ = write_comparisons(compare(runs), tmp_path)
    content = {row["variant"]: row["gradients/layers.4_mean"] for row in rows(path)}
    assert content == {"relu": "", "tanh": "3.0", "elu": ""}


@pytest.mark.parametrize(
    "text",
    [
        'say "no"',
        "a,b",
        "a;b",
        "a\nb",
        "a\r\nb",
        "a\rb",
        "a\tb",
        "a\u2028b",
        "'",
        "é±≤",
        "",
        " ",
        "NaN",
        "#REF!",
        "a=b",
    ],
    ids=repr,
)
def test_hostile_words_in_the_csv(made, tmp_path, text):
    """Whatever a name or a reason holds, a CSV reader gets its words back, and a variant is one line."""
    runs = [made(summary={"activation": text, "stop_reason": text}), made("tanh")]
    path, *_ = write_comparisons(compare(runs), tmp_path)
    row = next(row for row in rows(path) if row["variant"] != "tanh")
    words = " ".join(text.split())
    assert (row["variant"], row["stop_reasons"]) == (words, f"1 x {words}".strip())
    assert len(path.read_text(encoding="utf-8").splitlines()) == 3


@pytest.mark.parametrize(
    "text", ['=HYPERLINK("http://x")', "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", " =1\n"], ids=repr
)
def test_no_formulas_in_the_csv(made, tmp_path, text):
    """Words that a spreadsheet would compute get an apostrophe in front; numbers stay numbers, negative ones too."""
    runs = [made(accuracy=0.5, summary={"activation": text, "stop_reason": text}), made("tanh", accuracy=0.75)]
    path, *_ = write_comparisons(compare(runs), tmp_path)
    row = next(row for row in rows(path) if row["variant"] != "tanh")
    assert (row["variant"], row["difference_mean"]) == (f"'{text.strip()}", "-0.25")
    for value in (*row, *row.values()):
        assert value == "-0.25" or not value.startswith(("=", "+", "-", "@", "\t", "\r"))


LARGEST, SMALLEST = 3.4e38, 1.4e-45  # of float32
VALUES = [math.nan, math.inf, -math.inf, None, LARGEST, -LARGEST, SMALLEST]


@pytest.mark.parametrize("second", VALUES, ids=str)
@pytest.mark.parametrize("first", VALUES, ids=str)
def test_json_without_nan(made, tmp_path, first, second):
    """Whatever numbers the summaries hold, the JSON is JSON: no NaN, no Infinity."""
    runs = [
        made(
            seed=seed,
            gradients=(value, 1.0, value),
            published={"test_loss": 0.5, "dead": 1},
            dead=((value or 0, 1),),
            summary={"test": {"accuracy": value, "loss": value}, "last": {"accuracy": value, "loss": value}},
        )
        for seed, value in enumerate([first, second])
    ]
    *_, page = write_comparisons(compare([*runs, made("tanh", 0), made("tanh", 1)]), tmp_path)
    (content,) = read(tmp_path / "comparison.json")
    variant = next(item for item in content["variants"] if item["name"] == "relu")
    finite = [value for value in (first, second) if value is not None and math.isfinite(value)]
    assert [row["test_loss"] for row in variant["runs"] if row["test_loss"] is not None] == finite
    assert (variant["test_loss"] or {"n": 0})["n"] == len(finite)
    assert "nan" not in page.read_text(encoding="utf-8").replace("tanh", "")


def test_real_runs(trained, tmp_path):
    """Runs from disk give the same files every time, also where one of them became non-finite."""
    contents = []
    for place in ("first", "second"):
        runs, _ = find_runs([trained])
        contents.append([path.read_bytes() for path in write_comparisons(compare(runs), tmp_path / place)])
    assert contents[0] == contents[1]
    assert [row["learned"] for row in rows(tmp_path / "first" / "comparison.csv")] == ["2", "2", "0"]
    assert {item["name"] for item in read(tmp_path / "first" / "comparison.json")[0]["variants"]} == {
        "relu, lr=0.1", "tanh, lr=0.1", "elu, lr=1e+30",
    }  # fmt: skip


def test_nothing_to_compare(tmp_path):
    """No comparison is three files without content."""
    write_comparisons([], tmp_path)
    assert read(tmp_path / "comparison.json") == []
    assert [(tmp_path / name).read_text(encoding="utf-8").strip() for name in ("comparison.csv", "comparison.md")] == [
        "", "",
    ]  # fmt: skip


@pytest.mark.parametrize("place", ["file", "file/below", "x" * 300, "taken"])
def test_unwritable_place(study, tmp_path, place):
    """A place that cannot be written is refused with the system's reason."""
    (tmp_path / "file").write_text("x", encoding="utf-8")
    (tmp_path / "taken" / "comparison.csv").mkdir(parents=True)
    reasons = r"File exists|Not a directory|File name too long|Is a directory"
    with pytest.raises(UserError, match=rf"cannot write .*({reasons})$"):
        write_comparisons(compare(study({"relu": [0.5]})), tmp_path / place)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "file", "taken", "taken/comparison.csv",
    ]  # fmt: skip


def test_an_old_file_is_whole_until_the_new_one_is(study, tmp_path, monkeypatch):
    """A full disk leaves the files that were there as they were, and nothing half written."""
    before = [path.read_bytes() for path in write_comparisons(compare(study({"relu": [0.5]})), tmp_path)]

    def fill_up(file):
        file.truncate(20)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "sync", fill_up)
    with pytest.raises(UserError, match="No space left on device"):
        write_comparisons(compare(study({"tanh": [0.75]})), tmp_path)
    assert [(tmp_path / name).read_bytes() for name in NAMES] == before
    assert sorted(path.name for path in tmp_path.iterdir()) == NAMES
