"""A comparison -> tables of words."""

import html
import io
import re

import pytest
from markdown_it import MarkdownIt
from rich.console import Console
from rich.text import Text
from scipy import stats

from ignite_act.activations import ACTIVATIONS
from ignite_act.compare import Table, compare, comparison_tables, markdown, terminal
from ignite_act.compare.tables import (
    _Name,
    dead_table,
    gradients_table,
    losses_table,
    published_table,
    scores_table,
    training_table,
)
from ignite_act.runs.stored import find_runs

BLIND = {"dead": (), "gradients": ()}
SCORES, PUBLISHED = "mean ± half of the 95 % interval", "published numbers beside all of our runs"
TRAINING = "training, and inside the network at its end"
LOSSES = "losses, and validation scores after the last epoch"
GRADIENTS = "mean absolute gradient in the last epoch, median over the seeds"
DEAD = "dead neurons over all training samples, with the best weights, mean over the seeds"


def only(runs):
    """The only comparison."""
    (comparison,) = compare(runs)
    return comparison


def shown(renderable, width):
    """What a terminal of a width shows."""
    text = io.StringIO()
    Console(file=text, width=width).print(renderable)
    return text.getvalue()


# What the tables say


def test_scores(study):
    """The scores are mean ± half of the interval, the deviation, the paired difference to the best, and the verdict."""
    runs = study(
        {"relu": [0.9, 0.91, 0.92], "tanh": [0.88, 0.89, 0.895], "sigmoid": [0.1] * 3, "elu": [0.8, 0.1, None]}
    )
    table = scores_table(only(runs))
    assert table.title == f"digits: 3 seeds, {SCORES} (not corrected for comparing 4 variants)"
    assert table.headings == ("activation", "test accuracy", "std", "difference to best", "learned", "verdict")
    assert table.rows == (
        ("relu", "91.00 ± 2.48 %", "1.00", "-", "3/3", "best"),
        ("tanh", "88.83 ± 1.90 %", "0.76", "-2.17 ± 0.72", "3/3", "worse"),
        ("elu", "80.00 %", "-", "-10.00", "1/3", "learned with some seeds"),
        ("sigmoid", "10.00 %", "0.00", "-", "0/3", "did not start to learn"),
    )


@pytest.mark.parametrize(
    ("accuracies", "title", "headings"),
    [
        ({"relu": [0.5]}, "one seed", []),
        ({"relu": [0.5, 0.6]}, f"2 seeds, {SCORES}", ["std", "learned"]),
        ({"relu": [0.5], "tanh": [0.4]}, "one seed", ["difference to best", "verdict"]),
        ({"relu": [0.5], "tanh": [None]}, "one seed", ["difference to best", "learned", "verdict"]),
        (
            {"relu": [0.5], "tanh": [0.4, 0.3, 0.2]},
            f"1 to 3 seeds, {SCORES}",
            ["std", "difference to best", "learned", "verdict"],
        ),
    ],
)
def test_columns_of_the_scores(study, accuracies, title, headings):
    """Columns that would say nothing are left out: a deviation of one seed, a difference with one variant."""
    table = scores_table(only(study(accuracies)))
    assert table.title == f"digits: {title}"
    assert list(table.headings) == ["activation", "test accuracy", *headings]
    assert all(len(row) == len(table.headings) for row in table.rows)


def test_scores_of_what_failed(study):
    """What failed has dashes, not numbers."""
    assert scores_table(only(study({"relu": [None], "tanh": [0.5]}))).rows == (
        ("tanh", "50.00 %", "-", "1/1", "best"),
        ("relu", "-", "-", "0/1", "failed"),
    )


def test_training(made):
    """Lengths are mean ± half of the interval, ratios medians, dead neurons means; reasons are counted."""
    runs = [
        made(seed=1, summary={"epochs": 10, "seconds": 1.0, "stop": "early_stopping"}),
        made(seed=2, summary={"epochs": 12, "seconds": 2.0, "stop": "nonfinite", "stop_reason": "the loss"}),
        made(seed=3, summary={"epochs": 14, "seconds": 3.0}, gradients=(3.0, 1.0), dead=((0, 16), (1, 8))),
        made(seed=4, error="OSError: no space"),
        made("tanh", seed=1, dead=(), gradients=(), summary={"seconds": 99.5}),
    ]
    table = training_table(only(runs))
    assert (table.title, table.headings) == (
        TRAINING,
        ("activation", "epochs", "std", "time (s)", "std", "gradient first/last", "dead neurons", "stopped"),
    )
    stopped = "1 x early stopping, 1 x non-finite loss, 1 x all epochs, 1 x OSError: no space"
    assert set(table.rows) == {
        ("relu", "12 ± 5", "2.0", "2.0 ± 2.5", "1.0", "0.5", "2.33/24", stopped),
        ("tanh", "5, best 3", "-", "100", "-", "-", "-", "all epochs"),
    }


def test_losses(made):
    """Losses have three decimals, or three digits where they are large; what failed has none."""
    runs = [
        made(seed=1, summary={"test": {"accuracy": 0.5, "loss": 0.25}, "last": {"accuracy": 0.5, "loss": 1.0}}),
        made(seed=2, summary={"test": {"accuracy": 0.5, "loss": 0.75}, "last": {"accuracy": 0.7, "loss": 2.0}}),
        made(
            "tanh", seed=1, summary={"test": {"accuracy": 0.4, "loss": 1234.5}, "last": {"accuracy": 0.4, "loss": None}}
        ),
        made("elu", seed=1, error="OSError: no"),
    ]
    half = stats.t.ppf(0.975, 1) * 0.5 / 2**0.5 / 2**0.5
    assert losses_table(only(runs)) == Table(
        LOSSES,
        ("activation", "test loss", "loss after the last epoch", "accuracy after the last epoch"),
        (
            ("relu", f"0.500 ± {half:.3f}", f"1.500 ± {2 * half:.3f}", f"60.00 ± {40 * half:.2f} %"),
            ("tanh", "1.23e+03", "-", "40.00 %"),
            ("elu", "-", "-", "-"),
        ),
    )


def test_a_single_run(made):
    """A single run has everything in one row: its score, its best epoch, its length and its inside."""
    (table,) = comparison_tables(only([made()]))
    assert dict(zip(table.headings, table.rows[0], strict=True)) == {
        "activation": "relu", "test accuracy": "50.00 %", "epochs": "5, best 3", "time (s)": "1.5",
        "gradient first/last": "0.5", "dead neurons": "3/24", "stopped": "all epochs",
    }  # fmt: skip


def test_published(study):
    """A published number stands beside the mean and range of all of our runs and how many of them lie below it."""
    published = {"test_accuracy": 0.1, "test_loss": 0.3, "dead": 3}
    runs = study({"sigmoid": [0.1, 0.85, 0.05, None], "tanh": [None]}, published=published)
    table = published_table(only(runs))
    assert table.title == PUBLISHED
    assert table.headings == ("activation", "quantity", "published", "ours, mean", "ours, range", "our runs below it")
    assert table.rows == (
        ("sigmoid", "test accuracy", "10.00 %", "33.33 %", "5.00 % to 85.00 %", "1 of 3"),
        ("sigmoid", "test loss", "0.3", "0.25", "0.25 to 0.25", "3 of 3"),
        ("sigmoid", "dead neurons", "3", "3", "3 to 3", "0 of 3"),
    )
    (run,) = study({"relu": [0.5]}, published={"last_accuracy": 0.8, "last_loss": 0.5})
    assert published_table(only([run])).rows == (
        ("relu", "accuracy after the last epoch", "80.00 %", "75.00 %", "75.00 %", "1 of 1"),
        ("relu", "loss after the last epoch", "0.5", "0.5", "0.5", "0 of 1"),
    )


def test_layers_and_sites(made):
    """Each layer has the median of its gradient and each site its mean dead neurons; what a network lacks is a dash."""
    runs = [
        made(seed=1, accuracy=0.9, gradients=(1e-5, 0.5), dead=((1, 16),)),
        made(seed=2, accuracy=0.9, gradients=(2e-5, 0.25), dead=((2, 16),)),
        made(seed=3, accuracy=0.9, gradients=(9e-5, None), dead=((2, 16),)),
        made("tanh", seed=1, gradients=(None, 0.1, 0.2), dead=((0, 16), (0, 8))),
        made("elu", seed=1, error="OSError: no"),
    ]
    gradients, dead = gradients_table(only(runs)), dead_table(only(runs))
    assert gradients == Table(
        GRADIENTS,
        ("activation", "layers.0", "layers.2", "layers.4"),
        (("relu", "2e-05", "0.375", "-"), ("tanh", "-", "0.1", "0.2"), ("elu", "-", "-", "-")),
    )
    assert dead == Table(
        DEAD,
        ("activation", "layers.1", "layers.3"),
        (("relu", "1.67", "-"), ("tanh", "0", "0"), ("elu", "-", "-")),
    )


def test_first_gradients(trained):
    """Real runs have a table of the first epoch's gradients before that of the last."""
    comparison = only(find_runs([trained])[0])
    tables = {table.title: table for table in comparison_tables(comparison)}
    first, last = list(tables)[-3:-1]
    assert (first, last) == (GRADIENTS.replace("last", "first"), GRADIENTS)
    for variant, row in zip(comparison.variants, tables[first].rows, strict=True):
        assert row == (variant.name, *(f"{value.median:.3g}" for value in variant.first_gradients.values()))


@pytest.mark.parametrize(
    ("runs", "titles"),
    [
        ([{}], ["digits: one seed"]),
        ([{"published": {"dead": 1}}], ["digits: one seed", PUBLISHED]),
        ([{}, {"seed": 43}], [f"digits: 2 seeds, {SCORES}", LOSSES, TRAINING, GRADIENTS, DEAD]),
        ([{}, {"act": "tanh"}], ["digits: one seed", LOSSES, TRAINING, GRADIENTS, DEAD]),
        ([BLIND, {"act": "tanh", **BLIND}], ["digits: one seed", LOSSES, TRAINING]),
        ([{"error": "x"}, {"error": "x", "act": "tanh"}], ["digits: one seed", LOSSES, TRAINING]),
    ],
)
def test_tables(made, runs, titles):
    """A comparison has the tables that say something: no published numbers, no layers of a single run, none empty."""
    assert [table.title for table in comparison_tables(only([made(**run) for run in runs]))] == titles


# Markdown

HOSTILE = [
    "a|b", "a\\|b", "a\\", "a\nb", "a\r\nb", "a\tb", "a\u2028b", "| --- |", "# a", "- a", "é±≤", "&lt;", "`code`",
    "<script>alert(1)</script>", "in <module>", "Foo.__init__()", "leakyrelu-negative_slope=0.1", "_a_ __b__",
    "**b** *c*", "~~a~~", "[x](http://y.z)", "![x](y)",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown(text):
    """Whatever a cell says, Markdown shows it literally, in one line, and the table keeps its columns."""
    table = Table(text, ("activation", text), ((text, "1"), ("2", text), (text, text)))
    page = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(markdown([table, table]))
    literal = html.escape(" ".join(text.split()), quote=False)
    cells = re.findall(r"<t[hd]>(.*?)</t[hd]>", page.replace("&quot;", '"'))
    assert cells == ["activation", literal, literal, "1", "2", literal, literal, literal] * 2
    assert page.count("<table>") == 2
    assert page.count(f"<p><strong>{literal}</strong></p>") == 2


def test_markdown_of_a_comparison(study):
    """The Markdown is exactly the tables."""
    text = markdown(comparison_tables(only(study({"relu": [0.5], "leakyrelu:negative_slope=0.1": [0.25]}))))
    assert text.startswith(
        "**digits: one seed**\n\n"
        "| activation | test accuracy | difference to best | verdict |\n"
        "| --- | --- | --- | --- |\n"
        "| relu | 50.00 % | - | best |\n"
        "| leakyrelu-negative_slope=0.1 | 25.00 % | -25.00 | not told apart |\n\n"
        f"**{LOSSES}**\n"
    )
    assert text.endswith("|\n")


# The terminal


@pytest.mark.parametrize(
    ("name", "width", "lines"),
    [
        ("relu", 10, ["relu"]),
        ("leakyrelu-negative_slope=0.1", 28, ["leakyrelu-negative_slope=0.1"]),
        ("leakyrelu-negative_slope=0.1", 27, ["leakyrelu-negative_", "slope=0.1"]),
        ("leakyrelu-negative_slope=0.1", 12, ["leakyrelu-", "negative_", "slope=0.1"]),
        ("hardtanh-max_val=2.5-min_val=-2", 14, ["hardtanh-max_", "val=2.5-min_", "val=-2"]),
        ("relu, hidden=512-256-256-128", 16, ["relu, ", "hidden=512-256-", "256-128"]),
        ("relu, lr=1e-05", 8, ["relu, ", "lr=1e-05"]),
        ("relu, lr=1e-05", 5, ["relu,", "lr=1e", "-05"]),
        ("gelu-approximate=tanh (/tmp/runs)", 18, ["gelu-approximate=", "tanh (/tmp/runs)"]),
        ("hardsigmoid", 6, ["hardsi", "gmoid"]),
        ("a b c", 3, ["a b", "c"]),
        ("\u5e73-\u5e73\u65b9\u65b9", 7, ["\u5e73-", "\u5e73\u65b9\u65b9"]),
        ("\u5e73\u65b9-\u5e73\u65b9", 5, ["\u5e73\u65b9-", "\u5e73\u65b9"]),
        ("", 5, [""]),
    ],
)
def test_where_a_name_is_broken(name, width, lines):
    """A name that does not fit goes on in the next line between words or numbers, within them only where it must."""
    assert [line.rstrip() for line in shown(_Name(name), width).splitlines()] == [line.rstrip() for line in lines]


@pytest.mark.parametrize("seeds", [1, 2, 3, 10])
@pytest.mark.parametrize(("width", "names"), [
    (80, [name for name, entry in ACTIVATIONS.items() if entry.pointwise]),
    (80, ["relu", "leakyrelu:negative_slope=0.1"]),
    (100, ["relu", "leakyrelu:negative_slope=0.1", "hardtanh:min_val=-2,max_val=2.5"]),
])  # fmt: skip
def test_tables_in_the_terminal(study, width, names, seeds):
    """Tables fit: no number, no word of a name and no heading is broken, and nothing is left out."""
    first = [0.9 + 0.07 * (seed % 2) for seed in range(seeds)]
    accuracies = {name: [value / row for value in first] for row, name in enumerate(names, start=1)}
    accuracies["sigmoid"] = [0.1] * seeds
    settings = {"published": {"last_accuracy": 0.97, "test_accuracy": 0.8862, "dead": 123}}
    layers = {"gradients": (1.234e-5,) * 5, "dead": ((10, 512), (0, 256), (9, 256), (128, 128))}
    tables = comparison_tables(only(study(accuracies, **layers, **settings)))
    assert len(tables) == 6
    for table in tables:
        text = shown(terminal(table), width)
        assert max(map(len, text.splitlines())) <= width
        words = {word for row in table.rows for word in re.split(r"[-_=]", row[0])}
        for word in words | {word for heading in table.headings for word in heading.split()}:
            assert re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text.replace("_", " ")), f"{word} is broken"
        for cell in {cell for row in table.rows for cell in row[1:] if re.match(r"[-+]?\d+(\.\d+)?( |$)", cell)}:
            assert cell in text, f"{cell} is broken"


def test_the_terminal_shows_what_the_table_says(study):
    """In a wide terminal every row is a line, with markup as plain words."""
    (table, *_) = comparison_tables(only(study({"relu": [0.5, 0.75], "tanh": [0.25, 0.5]})))
    table = Table("[bold]title", table.headings, (*table.rows, ("[red]x[/red]", "", "", "", "", ":smile:")))
    lines = shown(terminal(table), 200).splitlines()
    assert lines[0].startswith("[bold]title")
    found = [re.split(r"\s{2,}", line.strip()) for line in lines]
    for row in table.rows:
        assert [cell for cell in row if cell] in found
    assert isinstance(terminal(table).renderables[0], Text)
