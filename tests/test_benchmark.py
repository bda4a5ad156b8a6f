"""scripts/benchmark.py: the rows of other tools, and the long run."""

import importlib.util
import re
import tempfile
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch.nn.modules import module as torch_module

SCRIPT = Path(__file__).parents[1] / "scripts/benchmark.py"


@pytest.fixture
def benchmark(monkeypatch):
    """The script with one tiny network, whose copies are kept in ``built``."""
    spec = importlib.util.spec_from_file_location("benchmark", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.built = []

    def build():
        script.built.append(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10)))
        return script.built[-1]

    monkeypatch.setitem(script.NETWORKS, "mlp", (build, (16, 4), 2))
    return script


def overhead(script, *options):
    """What the command prints."""
    done = CliRunner().invoke(
        script.main, ["overhead", "--network", "mlp", "--rounds", "1", *options], catch_exceptions=False
    )
    assert done.exit_code == 0
    return done.output


def test_rows_of_other_tools_come_on_request_only(benchmark):
    """Ignite's own handlers are measured with --others, and not without."""
    assert "Ignite" not in overhead(benchmark)
    assert overhead(benchmark, "--others").count("Ignite Grads") == 2


def test_a_tool_that_is_not_installed_is_left_out_and_named(benchmark, monkeypatch):
    """Its row is missing, one line says why, and the rest is measured."""
    monkeypatch.setattr(benchmark, "OTHERS", {"no_such_tool": {"the row of the tool": benchmark.wandb_watch}})
    output = overhead(benchmark, "--others")
    assert output.startswith("left out: No module named 'no_such_tool'\n")
    assert "the row of the tool" not in output
    assert "all three" in output


def test_other_tools_leave_nothing_behind(benchmark, tmp_path, monkeypatch):
    """No file in the working directory or among the temporary ones, no hook on a network, none on all modules."""
    for name in ("here", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    overhead(benchmark, "--others")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["here", "temporary"]
    assert len(benchmark.built) >= len(benchmark.WATCHERS) + 2
    for network in benchmark.built:
        assert not any(part._forward_hooks or part._backward_hooks for part in network.modules())
        assert not any(parameter._backward_hooks for parameter in network.parameters())
    assert not torch_module._global_forward_hooks


@pytest.mark.slow
def test_a_long_run(benchmark):
    """The time of an epoch and the memory are shown along the way, the last hundred epochs included."""
    done = CliRunner().invoke(benchmark.main, ["long", "--epochs", "120"], catch_exceptions=False)
    first, last = done.output.splitlines()
    assert re.fullmatch(r"epochs      1 to    100: [\d.]+ ms, \d+ MB", first)
    assert re.fullmatch(r"epochs     20 to    119: [\d.]+ ms, \d+ MB", last)
