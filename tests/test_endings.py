"""However a command ends: a line that can be read, and an exit code that does not say that all is well."""

from __future__ import annotations

import ast
import errno
import gzip
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import ignite_act
from ignite_act import data, files
from ignite_act.cli import _ending, main
from ignite_act.errors import UserError, error_line, first_line, foreign, quoted
from ignite_act.launcher import another_speaks

PACKAGE = Path(ignite_act.__file__).parent
TITLE = "\x1b]0;x\x07"
"""Sets the title of a terminal."""
TINY = ["run", "--hidden", "4", "--max-epochs", "1", "--batch-size", "256"]
RAISES = {
    "exit": "sys.exit(0)",
    "SystemExit": "raise SystemExit",
    "GeneratorExit": "raise GeneratorExit",
    "StopIteration": "raise StopIteration",
    "own": "raise Own",
}
NET = """
import sys
import torch
class Own(BaseException):
    def __str__(self):
        sys.exit(0)
class Net(torch.nn.Module):
    def __init__(self):
        {init}
        super().__init__()
        self.fc, self.steps = torch.nn.Linear(64, 10), 0
    def forward(self, x):
        {first}
        self.steps += self.training
        if self.steps == 5:
            {later}
            x = Backward.apply(x.requires_grad_())
        return self.fc(x.flatten(1))
    def modules(self):
        {modules}
        return super().modules()
    def named_parameters(self, *args, **kwargs):
        {named_parameters}
        return super().named_parameters(*args, **kwargs)
    def state_dict(self, *args, **kwargs):
        {state_dict}
        return super().state_dict(*args, **kwargs)
    def train(self, mode=True):
        {train}
        return super().train(mode)
class Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()
    @staticmethod
    def backward(ctx, gradient):
        {backward}
        return gradient
def samples():
    {samples}
def __getattr__(name):
    {attribute}
{imported}
"""
METHODS = ("modules", "named_parameters", "state_dict", "train")
PLACES = ("imported", "attribute", "init", "samples", "first", "later", "backward", *METHODS)


def program(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "ignite_act", *map(str, arguments)]


def command(*arguments: object, environment: Mapping[str, str] = os.environ, **options: object) -> tuple[int, str]:
    """The exit code and standard error of the command in a process of its own."""
    path = os.pathsep.join([str(PACKAGE.parent), environment.get("PYTHONPATH", "")])
    done = subprocess.run(
        program(*arguments), capture_output=True, text=True, timeout=120, check=False,
        env={**environment, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}, **options,  # type: ignore[call-overload]
    )  # fmt: skip
    return done.returncode, done.stderr


def shell(line: str, *arguments: object, cwd: Path) -> int:
    """The exit code of the command with redirections or limits of the shell."""
    path = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))  # "" is the directory
    words = ["bash", "-c", line, *program(*arguments)]
    return subprocess.run(words, timeout=120, check=False, cwd=cwd, env={**os.environ, "PYTHONPATH": path}).returncode


def assert_one_line(error: str) -> None:
    assert (error.startswith("error: "), error.count("\n")) == (True, 1), error
    assert error.rstrip("\n").isprintable()


# Code of the user's


@pytest.fixture
def checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], click.testing.Result]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def check(place: str, statement: str) -> click.testing.Result:
        holes = dict.fromkeys(PLACES, "pass") | {"attribute": "raise AttributeError(name)", place: statement}
        Path("net.py").write_text(NET.format(**holes), encoding="utf-8")
        target = "net.py:Nett" if place == "attribute" else "net.py:Net"
        own = ["--data", "net.py:samples"] if place == "samples" else []
        return CliRunner().invoke(main, ["check", target, *own, "--steps", "8", "--fail-on", "error"])

    return check


@pytest.mark.parametrize("statement", RAISES.values(), ids=RAISES)
@pytest.mark.parametrize("place", PLACES)
def test_nothing_of_the_users_ends_a_check_well(
    checked: Callable[[str, str], click.testing.Result], place: str, statement: str
) -> None:
    """Whatever user code raises is one line and exit code 2, or 1 for an error of a later step; never 0."""
    done = checked(place, statement)
    failed_step = place in ("later", "backward") and statement == RAISES["StopIteration"]
    assert done.exit_code == (1 if failed_step else 2), done.output
    assert_one_line(done.stderr)


@pytest.mark.parametrize("place", PLACES)
def test_ctrl_c_in_code_of_the_users(checked: Callable[[str, str], click.testing.Result], place: str) -> None:
    """Ctrl-C stays an interrupt, wherever it is pressed."""
    assert checked(place, "raise KeyboardInterrupt").exit_code == 130


def test_an_import_that_exits(tmp_path: Path) -> None:
    """The real command does not end with the exit code of the user's module."""
    (tmp_path / "net.py").write_text("import sys\nsys.exit(0)\n", encoding="utf-8")
    code, error = command("check", "net:Net", cwd=tmp_path)
    assert code == 2
    assert_one_line(error)


def test_foreign_code() -> None:
    """A refusal of ours passes as it is, Ctrl-C as well; an error that cannot say what it is gives its kind."""

    class MuteError(Exception):
        def __str__(self) -> str:
            raise SystemExit(0)

    refusal = UserError("too long")
    with pytest.raises(UserError) as caught, foreign("this failed"):
        raise refusal
    assert caught.value is refusal
    with pytest.raises(UserError), foreign("this failed"):
        raise MuteError
    with pytest.raises(KeyboardInterrupt), foreign("this failed"):
        raise KeyboardInterrupt
    assert first_line(MuteError()) == "MuteError"


# Surroundings


@pytest.mark.few(1)
@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-"])
def test_closed_streams(tmp_path: Path, closed: str) -> None:
    """A daemon without standard streams trains, and no file of the run takes their place."""
    assert shell(f'"$0" "$@" {closed}', *TINY, cwd=tmp_path) == 0
    (log,) = tmp_path.rglob("train.log")
    assert all(" INFO " in line for line in log.read_text(encoding="utf-8").splitlines())
    assert list(tmp_path.rglob("summary.json"))


def test_no_file_takes_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    """What a library writes to a closed stream goes nowhere, and not into the next file that is opened."""
    program = """
import os
from ignite_act.cli import main
try:
    main(["activations"])
finally:
    with open("mine", "w") as file:
        file.write(str([os.fstat(number).st_rdev == os.stat(os.devnull).st_rdev for number in range(3)]))
"""
    subprocess.run(["sh", "-c", '"$0" -c "$1" <&- >&- 2>&-', sys.executable, program], cwd=tmp_path, check=True)
    assert (tmp_path / "mine").read_text(encoding="utf-8") == "[True, True, True]"


@pytest.mark.slow
def test_closed_streams_of_an_error(tmp_path: Path) -> None:
    """An error that nobody can read keeps its exit code."""
    assert shell('"$0" "$@" <&- >&- 2>&-', "run", "--act", "nosuch", cwd=tmp_path) == 2


@pytest.mark.parametrize("arguments", [["activations"], TINY, ["check", "net:Net"]], ids=["list", "run", "check"])
def test_a_directory_that_was_deleted(tmp_path: Path, arguments: list[str]) -> None:
    """Where the current directory is gone, one line says so."""
    (tmp_path / "gone").mkdir()
    code = shell('rmdir ../gone; "$0" "$@" 2>../error >../output', *arguments, cwd=tmp_path / "gone")
    assert code == 2
    assert_one_line((tmp_path / "error").read_text(encoding="utf-8"))
    assert (tmp_path / "output").read_text(encoding="utf-8") == ""


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE"])
@pytest.mark.parametrize("value", ["x", "", "-1", "٣"])
def test_an_environment_that_torchrun_has_not_made(tmp_path: Path, name: str, value: str) -> None:
    """A rank or a number of processes that is no number is refused in one line."""
    environment = {"TORCHELASTIC_RUN_ID": "1", "RANK": "0", "WORLD_SIZE": "2", name: value}
    done = CliRunner(env=environment).invoke(main, [*TINY, "--output-dir", str(tmp_path / "runs")])
    assert done.exit_code == 2
    assert_one_line(done.stderr)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("limit", "more"), [(6, []), (8, ["--act", "tanh", "--act", "elu", "--jobs", "2"]), (20, ["--nproc-per-node", "2"])]
)
def test_too_few_handles(tmp_path: Path, limit: int, more: list[str]) -> None:
    """Where no more files may be opened, one line says so, and nobody waits for minutes."""
    assert shell(f'ulimit -n {limit}; exec "$0" "$@" 2>error', *TINY, *more, cwd=tmp_path) == 2
    line = (tmp_path / "error").read_text(encoding="utf-8")
    assert_one_line(line)
    assert "ulimit -n" in line


def test_handles_are_known_by_any_cause() -> None:
    """A lack of handles is seen behind other errors, also those that go round in a circle; other errors are ours."""
    first, second = OSError(errno.EMFILE, "no"), RuntimeError("no")
    second.__cause__, first.__context__ = first, second
    ending = _ending(second, resumable=False)
    assert ending is not None
    assert ending.code == 2
    first.errno = errno.ENOENT
    assert _ending(second, resumable=False) is None


@pytest.mark.parametrize("environment", [{}, {"WORLD_SIZE": "2"}, {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "1"}])
def test_a_process_that_is_alone_says_what_is_wrong(environment: dict[str, str]) -> None:
    """A rank in the environment silences no error of a process that torchrun has not started among others."""
    done = CliRunner(env={"RANK": "1", **environment}).invoke(main, ["run", "--act", "nosuch"])
    assert done.exit_code == 2
    assert_one_line(done.stderr)


def test_one_of_several_processes_says_what_is_wrong() -> None:
    """Of several processes of torchrun, the first one shows the error of all."""
    for rank, lines in (("0", 1), ("1", 0)):
        environment = {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "2", "RANK": rank}
        done = CliRunner(env=environment).invoke(main, ["run", "--act", "nosuch"])
        assert (done.exit_code, done.stderr.count("\n")) == (2, lines)
    assert not another_speaks()


# What is shown


@pytest.mark.parametrize("name", ["cli", "check", "data", "processes", "progress", "launcher"])
def test_one_place_prints(name: str) -> None:
    """Text reaches the terminal through `echo` and `SafeConsole` only."""
    tree = ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    raw = {"print", "Console", "click.secho", "sys.stdout.write", "sys.stderr.write", "tqdm.write"}
    assert not called & (raw | {"click.echo", "error.show"})


@pytest.mark.parametrize("where", ["output", "place", "page", "data root"])
def test_names_cannot_command_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """A directory's name with a control sequence is shown spelt out."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "DEBIAN_FASHION_MNIST", tmp_path / "none")
    (tmp_path / TITLE).mkdir()
    arguments = {
        "output": [*TINY, "--output-dir", TITLE],
        "place": ["report", TITLE],
        "page": ["activations", "--plot", f"{TITLE}/page.html"],
        "data root": ["inspect", "--data", "fashionmnist", "--data-root", TITLE],
    }[where]
    if where == "data root":
        os.mkfifo(tmp_path / TITLE / "FashionMNIST")
    done = CliRunner().invoke(main, arguments)
    assert not {"\x1b", "\x07"} & set(done.output)
    assert "\\x1b]0;x" in done.output


@pytest.mark.slow
def test_warnings_cannot_command_the_terminal(tmp_path: Path) -> None:
    """What is logged where nobody has set up logging is made printable, too."""
    code = f"import logging; logging.getLogger('ignite_act').warning({TITLE!r})"
    (tmp_path / "net.py").write_text(code, encoding="utf-8")
    _, error = command("check", "net.py:Net", cwd=tmp_path)
    assert error.splitlines()[0] == "\\x1b]0;x\\x07"


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--act", "VERY"],
        ["run", "--act", "relu:VERY=1"],
        ["run", "--act", "relu:a=VERY"],
        ["run", "--lr", "VERY"],
        ["run", "--VERY"],
        ["run", "--data", "VERY"],
        ["inspect", "VERY", "--act", "relu"],
        ["check", "VERY"],
        ["VERY"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("filling", ["x", "x "])
def test_long_input_is_cut(arguments: list[str], filling: str) -> None:
    """An error shows a part of what is very long."""
    done = CliRunner().invoke(main, [word.replace("VERY", 50_000 * filling) for word in arguments])
    assert done.exit_code == 2
    assert_one_line(done.stderr)
    assert len(done.stderr) < 2_100


def test_cut_lines() -> None:
    """What is short stays as it is; a long word keeps its begin and its end, a long line its begin."""
    assert error_line("no such file: a b") == "no such file: a b"
    assert error_line(f"<{9999 * 'x'}> is no number").endswith("x> is no number")
    assert len(error_line(9999 * "x ")) <= 2000
    assert (quoted("relu"), len(quoted(9999 * "x"))) == ("'relu'", 80)


# FashionMNIST


def sparse(path: Path, size: int, packed: bool) -> None:
    """A file of zeros, which takes no room."""
    if not packed:
        with path.open("wb") as file:
            file.truncate(size)
        return
    with gzip.open(f"{path}.gz", "wb", compresslevel=1) as bomb:
        for _ in range(size >> 20):
            bomb.write(bytes(1 << 20))


@pytest.mark.parametrize("name", data._FASHION_FILES)
@pytest.mark.parametrize("packed", [False, True])
def test_bombs(tmp_path: Path, name: str, packed: bool) -> None:
    """A file that is longer than it can be, packed or not, is refused once the known size is reached."""
    size = data._FASHION_FILES[name]
    sparse(tmp_path / name, 60 << 20 if packed else 1 << 30, packed)
    target = tmp_path / "copy"
    with pytest.raises(ValueError, match=name):
        data._copy(tmp_path / name, target)
    assert not target.exists() or target.stat().st_size <= size


@pytest.mark.parametrize("folder", ["", "raw", "FashionMNIST/raw"])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_pipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, ending: str) -> None:
    """Pipes in the place of the files are not waited for."""
    monkeypatch.setattr(data, "DEBIAN_FASHION_MNIST", tmp_path / "none")

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network in tests")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", refuse)
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for name in data._FASHION_FILES:
        os.mkfifo(tmp_path / folder / f"{name}{ending}")
    with pytest.raises(UserError):
        data.load_data("fashionmnist", tmp_path)
    with pytest.raises(OSError, match="not a regular file"), files.reading(tmp_path / folder / f"{name}{ending}"):
        pass
