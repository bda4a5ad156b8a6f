"""The GPU check, as far as a CPU can show it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "gpu_check.sh"


@pytest.fixture(scope="module")
def check() -> ModuleType:
    """The program below the shell script."""
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT.with_suffix(".py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_check"] = module
    spec.loader.exec_module(module)
    return module


def shell(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the script."""
    return subprocess.run(
        ["bash", str(SCRIPT), *words], capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )


@pytest.mark.parametrize("section", ["environment", "mlp", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_sections(check: ModuleType, section: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every section prints a Markdown table with a row for each way of watching."""
    assert check.main([section, "--device", "cpu", "--small"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("\n## ")
    rows = [line for line in printed.splitlines() if line.startswith("| ")]
    if section == "environment":
        assert any(torch.__version__ in row for row in rows)
    else:
        assert [row.split(" | ")[0][2:] for row in rows[2:]] == list(check.WATCHERS)
        assert all(float(row.split(" | ")[1]) > 0 for row in rows[2:])


def test_waits_are_found_and_named(check: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler whose step asks the device for a number is found, with the line; one that does not is not."""

    class Curious(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.mean().item() > 1e9:
                raise AssertionError
            return x[:, x[0] == x[0]]

    training = check.mlp(check.Place(torch.device("cpu"), 10.0, small=True))
    place = check.Place(torch.device("cpu"), 10.0, small=True)
    for model, expected in ((training.model, set()), (nn.Sequential(Curious(), training.model), {"item", "index"})):
        training.model = model
        found: Counter[str] = Counter()
        check.window(training, check.WATCHERS["DeadNeurons"], 5, lambda found=found: check.noting_waits(place, found))
        assert {line.split(":")[0] for line in found} >= expected
        assert bool(found) == bool(expected)
        assert all("test_gpu_check.py" in line for line in found if line.startswith("index"))


def test_waits_on_a_gpu_are_read_off_its_warnings(check: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's debug mode warns; each warning counts, also a repeated one, and the mode is switched off again."""
    modes: list[Any] = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    found: Counter[str] = Counter()
    with check.noting_waits(check.Place(torch.device("cuda"), 1.0, small=True), found):
        for _ in range(3):
            warnings.warn("called a synchronizing CUDA operation", UserWarning, stacklevel=1)
        for word in ("something else", "Synchronization debug mode does not yet detect all synchronizing operations"):
            warnings.warn(word, UserWarning, stacklevel=1)
    assert sum(found.values()) == 3
    assert all("test_gpu_check.py" in line for line in found)
    assert modes == ["warn", "default"]


def test_operations_are_counted_without_views(check: ModuleType) -> None:
    """An operation that returns a view of its input is none."""
    x = torch.ones(4, 4)
    with check.Operations() as mode:
        (x.view(2, 8).T + 1).relu_()
    assert mode.count == 2


def test_no_gpu(check: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU it says so."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert check.main(["environment"]) == 1
    assert "There is no CUDA device" in capsys.readouterr().out


@pytest.fixture
def interpreter(tmp_path: Path) -> str:
    """Stands for Python: one section fails, one hangs, the others print a line."""
    program = tmp_path / "python"
    program.write_text(
        "#!/usr/bin/env bash\ncase $2 in\nwaits) echo oh dear >&2; exit 3 ;;\nmlp) exec sleep 100 ;;\n"
        '*) echo "section $2 ${*:3}" ;;\nesac\n'
    )
    program.chmod(0o755)
    return str(program)


@pytest.mark.slow
def test_sections_fail_one_by_one(interpreter: str, tmp_path: Path) -> None:
    """A section that fails, and one that has no time left, do not end the others; the report has all of it."""
    done = shell("--small", PYTHON=interpreter, OUT=str(tmp_path / "out"), LIMIT="6", SECTIONS="tests waits mlp gpt2")
    assert done.returncode == 1
    assert "section tests --seconds 4 --small" in done.stdout
    assert "oh dear" in done.stdout
    assert "It ran out of its" in done.stdout
    assert "Left out: no time left." in done.stdout
    assert done.stdout.rstrip().endswith("Not right: waits mlp gpt2.")
    assert (tmp_path / "out" / "gpu.md").read_text() == done.stdout
    assert "environment" not in done.stdout


def test_all_right(interpreter: str) -> None:
    """Its exit status is 0 only where every section's is."""
    done = shell(PYTHON=interpreter, SECTIONS="environment tests resnet50 gpt2")
    assert done.returncode == 0
    assert done.stdout.rstrip().endswith("Not right: nothing.")


def test_wheels_wants_a_folder() -> None:
    """Without a folder for the wheels it says how it is used."""
    done = shell("wheels")
    assert done.returncode == 2
    assert "usage:" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_everything_on_a_cpu(tmp_path: Path) -> None:
    """The whole script runs without a GPU."""
    done = shell("--device", "cpu", "--small", PYTHON=sys.executable, OUT=str(tmp_path))
    assert [line for line in done.stdout.splitlines() if line.startswith("## ")] == [
        "## Environment",
        "## The same statistics as on the CPU in float64",
        "## Steps that wait for the device",
        "## Cost on the MLP",
        "## Cost on ResNet-50",
        "## Cost on a model of GPT-2's size",
    ]
    assert "Traceback" not in done.stdout
    assert (tmp_path / "gpu.md").read_text() == done.stdout
