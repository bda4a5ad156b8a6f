"""The wheel, and what importing the package does."""

import configparser
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import entry_points, requires
from pathlib import Path

import pytest

import ignite_act

ROOT = Path(__file__).parents[1]
NOT_SOURCES = (".git", ".venv", "build", "dist", "*.egg-info", "__pycache__", ".*_cache", "docs", "tests")


def python(*arguments, cwd, **environment):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, timeout=300, check=False, env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built from a copy of the tree."""
    place = tmp_path_factory.mktemp("wheel")
    skip = shutil.ignore_patterns(*NOT_SOURCES)
    runs = {str(ROOT): {"runs"}}  # where the README's run goes; the package has a folder of this name, too
    shutil.copytree(ROOT, place / "tree", ignore=lambda place, names: skip(place, names) | runs.get(str(place), set()))
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "-q"]
    python("-m", "pip", "wheel", *options, "-w", place, place / "tree", cwd=place)
    (built,) = place.glob("*.whl")
    return built


def test_wheel_has_the_package_and_nothing_else(wheel):
    """The wheel holds every module of the package, the type marker and the licence, and no tests or scripts."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    sources = (path for pattern in ("*.py", "*.json", "py.typed", "*.html", "*.css", "*.js")
               for path in (ROOT / "ignite_act").rglob(pattern))  # fmt: skip
    inside = {name for name in names if ".dist-info/" not in name}
    assert inside == {str(path.relative_to(ROOT)) for path in sources}
    assert any(name.endswith("/LICENSE") for name in names)
    assert wheel.name == f"ignite_act-{ignite_act.__version__}-py3-none-any.whl"


@pytest.mark.slow
def test_wheel_works_without_the_clone(wheel, tmp_path):
    """Unpacked elsewhere, the wheel trains from another directory, and nothing of the clone is used."""
    unpacked, cwd = tmp_path / "unpacked", tmp_path / "elsewhere"
    cwd.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    code = (
        "import runpy, sys\n"
        "sys.argv = ['ignite-act', 'run', '--max-epochs', '1', '--hidden', '8']\n"
        "try: runpy.run_module('ignite_act', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print('\\n'.join(sorted(m.__file__ for n, m in sys.modules.items() if n.split('.')[0] == 'ignite_act')))"
    )
    done = python("-c", code, cwd=cwd, PYTHONPATH=str(unpacked))
    used = [line for line in done.stdout.splitlines() if line.endswith(".py")]
    assert len(used) > 20
    assert all(Path(line).is_relative_to(unpacked) for line in used)
    assert (cwd / "runs/digits/relu/seed-42/summary.json").exists()
    shown = python("-m", "ignite_act", "--version", cwd=cwd, PYTHONPATH=str(unpacked))
    assert shown.stdout == f"ignite-act, version {ignite_act.__version__}\n"


def test_entry_point(wheel):
    """The wheel declares the command `ignite-act`, and the installed one is the same function."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "ignite-act = ignite_act.cli:main" in archive.read(name).decode().splitlines()
    from ignite_act.cli import main

    (installed,) = entry_points(group="console_scripts", name="ignite-act")
    assert installed.load() is main


def test_metadata(wheel):
    """The metadata names the licence, the Python version and the runtime dependencies."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().splitlines()
    assert {"Requires-Python: >=3.10", "Provides-Extra: dev"} <= set(lines)
    assert any(line in lines for line in ("License-Expression: MIT", "License: MIT"))
    wanted = {"torch", "torchvision", "pytorch-ignite", "tensorboardX", "click", "tqdm", "scikit-learn", "PyYAML",
              "pydantic", "rich"}  # fmt: skip
    declared = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]
    assert wanted <= {line.split(">=")[0].strip() for line in declared if "extra ==" not in line}
    assert requires("ignite-act")


def test_import_is_light_and_silent(tmp_path):
    """Importing the package prints nothing, imports no torch, touches no logger and makes no file."""
    code = (
        "import logging, sys, warnings\n"
        "before = (dict(logging.root.manager.loggerDict), list(logging.root.handlers), list(warnings.filters))\n"
        "import ignite_act, ignite_act.config, ignite_act.cli\n"
        "assert not {'torch', 'ignite', 'numpy', 'sklearn', 'tensorboardX'} & set(sys.modules)\n"
        "assert 'ignite_act' not in logging.root.manager.loggerDict or not logging.getLogger('ignite_act').handlers\n"
        "assert (list(logging.root.handlers), list(warnings.filters)) == before[1:]\n"
    )
    done = python("-B", "-W", "error", "-c", code, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_importing_everything_changes_nothing(tmp_path):
    """No module of the package has a side effect or a warning of its own: environment, torch, logging and signals."""
    code = (
        "import importlib, logging, os, pkgutil, signal, sys, threading, warnings\n"
        "import lightning.pytorch, tensorboardX, torch\n"
        "from torch.nn.modules import module\n"
        "import ignite_act\n"
        "def surroundings():\n"
        "    hooks = [getattr(module, name) for name in dir(module) if name.startswith('_global_')]\n"
        "    return [dict(os.environ), list(sys.path), sys.excepthook, os.getcwd(), threading.active_count(),\n"
        "            logging.root.level, list(logging.root.handlers), logging.getLogger('ignite_act').handlers,\n"
        "            [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],\n"
        "            torch.get_rng_state().tolist(), torch.get_num_threads(), torch.get_default_dtype(),\n"
        "            torch.are_deterministic_algorithms_enabled(), [h for h in hooks if isinstance(h, dict) and h]]\n"
        "before = surroundings()\n"
        "names = [found.name for found in pkgutil.walk_packages(ignite_act.__path__, 'ignite_act.')]\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    for name in names:\n"
        "        if name != 'ignite_act.__main__':\n"
        "            importlib.import_module(name)\n"
        "assert len(names) > 80, names\n"
        "assert surroundings() == before\n"
        "own = os.path.dirname(ignite_act.__file__)\n"
        "print(*(warning for warning in caught if warning.filename.startswith(own)), sep='\\n', end='')\n"
    )
    done = python("-B", "-c", code, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_the_oldest_versions_are_those_that_are_declared():
    """What CI tests with as the oldest is the least that is asked for, of every package."""
    pins = dict(
        line.split("==")
        for line in (ROOT / "tests/oldest.txt").read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    )
    configuration = configparser.ConfigParser()
    configuration.read(ROOT / "setup.cfg")
    extras = dict(configuration["options.extras_require"])
    wanted = [configuration["options"]["install_requires"], *(extras[name] for name in extras if name != "dev")]
    for name, least in (line.split(">=") for lines in wanted for line in lines.split()):
        assert f"{pins[name]}.".startswith(f"{least}."), name


def test_public_names():
    """Every public name of the design can be imported, and nothing else is promised."""
    assert {"GradientStats", "ActivationStats", "DeadNeurons", "Diagnostics"} <= set(ignite_act.__all__)
    for name in ignite_act.__all__:
        assert getattr(ignite_act, name).__module__.startswith("ignite_act.")
    assert set(ignite_act.__all__) <= set(dir(ignite_act))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = ignite_act.nothing
