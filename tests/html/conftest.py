"""Runs, the page of them, and a reader who looks at it in a browser."""

import json
import shutil
import time

import pytest

from ignite_act.config import RunConfig
from ignite_act.experiment import run
from ignite_act.html import write_report
from ignite_act.runs.stored import find_runs


class Reader:
    """Looks at a page in a browser.

    Args:
        browser: Selenium's.
    """

    def __init__(self, browser):
        self.browser = browser
        self.run = browser.execute_script
        self.command = browser.execute_cdp_cmd

    def open(self, path):
        """Opens a page as it is."""
        self.command("Emulation.clearDeviceMetricsOverride", {})
        self.console()
        self.browser.get(path.as_uri())

    def read(self, path):
        """Opens a page with everything drawn, as if it had been scrolled through."""
        self.open(path)
        self.run("panels.forEach(draw)")

    def scroll(self, path):
        """Opens a page and goes through it from top to bottom, until all of it is drawn."""
        self.open(path)
        for plot in self.all(".plot"):
            self.run("arguments[0].scrollIntoView({block: 'center'})", plot)
            self.wait(lambda plot=plot: self.is_drawn(plot))

    def wait(self, condition, seconds=10):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "the page did not get there"
            time.sleep(0.01)

    def all(self, selector):
        return self.browser.find_elements("css selector", selector)

    def one(self, selector):
        return self.browser.find_element("css selector", selector)

    def texts(self, selector):
        return [element.text for element in self.all(selector)]

    def text(self):
        return self.one("body").text

    def click(self, element):
        """Clicks where nothing that sticks to the edges of the window is in the way."""
        self.run("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def unfold(self):
        self.run("for (const details of document.querySelectorAll('details')) details.open = true")

    def console(self):
        """Warnings and errors since the last time."""
        return [entry for entry in self.browser.get_log("browser") if entry["level"] in ("WARNING", "SEVERE")]

    def is_drawn(self, plot):
        return self.run("return arguments[0].querySelectorAll('svg .trace').length > 0", plot)

    def traces(self, title):
        """The traces of the drawings below a heading, by the drawings' own headings."""
        script = """
            const figures = [...document.querySelectorAll("figure")];
            const figure = figures.find((figure) => figure.querySelector("h3").textContent === arguments[0]);
            return [...figure.querySelectorAll(".panel")].map((panel) => [
              panel.querySelector("h4")?.textContent ?? "",
              panel.querySelector(".plot").data.map(({x, y, name, mode}) => ({x, y, name, mode})),
            ]);"""
        return dict(self.run(script, title))

    def line(self, title, panel, name):
        """The line of a variant in a drawing: x -> y."""
        (found,) = (trace for trace in self.traces(title)[panel] if trace["name"] == name)
        return dict(zip(found["x"], found["y"], strict=True))


@pytest.fixture(scope="session")
def reader(browser):
    return Reader(browser)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Three variants with two seeds on the digits, three epochs long."""
    place = tmp_path_factory.mktemp("trained")
    for act in ("relu", "tanh", "leakyrelu:negative_slope=0.1"):
        for seed in (1, 2):
            config = RunConfig(hidden=(16, 8), batch_size=128, lr=0.1, max_epochs=3, act=act, seed=seed, device="cpu")
            run(config, place, quiet=True)
    return place / "digits"


@pytest.fixture(scope="session")
def copied(trained, tmp_path_factory):
    """Makes copies of the runs that can be altered."""

    def copy():
        place = tmp_path_factory.mktemp("copy") / "runs" / "digits"
        shutil.copytree(trained, place, ignore=shutil.ignore_patterns("*.pt", "events.*"))
        return place

    return copy


@pytest.fixture
def runs(copied):
    """A copy of the runs for one test."""
    return copied()


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """Writes the page of the runs below a place."""

    def write(place):
        found, left_out = find_runs([place])
        return write_report(found, tmp_path_factory.mktemp("page") / "report.html", left_out=left_out)

    return write


@pytest.fixture(scope="session")
def page(trained, written):
    """The page of the runs as they are."""
    return written(trained)


@pytest.fixture
def opened(reader, page):
    """A reader who has the page open, all figures drawn."""
    reader.read(page)
    return reader


@pytest.fixture(scope="session")
def epochs():
    """The epochs of a run as its file has them."""
    return lambda run: [json.loads(text) for text in (run / "epochs.jsonl").read_text().splitlines()]


@pytest.fixture(scope="session")
def alter(epochs):
    """Writes the epochs of a run anew, each as a function makes it, and its summary with other values."""

    def change(run, row=None, **summary):
        if row is not None:
            (run / "epochs.jsonl").write_text("".join(json.dumps(row(old)) + "\n" for old in epochs(run)))
        path = run / "summary.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **summary}))

    return change


@pytest.fixture(scope="session")
def fail():
    """Makes a run one that ended with an error before its first epoch did."""

    def change(run):
        path = run / "summary.json"
        kept = {key: json.loads(path.read_text())[key] for key in ("schema", "activation", "seed", "versions")}
        failed = {"stop": "failed", "stop_reason": "the disk is full", "epochs": 0, "seconds": 1.0}
        path.write_text(json.dumps({**kept, **failed}))
        (run / "epochs.jsonl").unlink()

    return change
