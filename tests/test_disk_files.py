"""Files are there whole or not at all, and only one module changes what lies on the disk."""

from __future__ import annotations

import ast
import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

import ignite_act
from ignite_act import files
from ignite_act.files import Kind

PACKAGE = Path(ignite_act.__file__).parent
CHANGING = {"unlink", "rename", "renames", "rmdir", "rmtree", "mkdir", "makedirs", "symlink_to", "hardlink_to",
            "touch", "write_text", "write_bytes", "truncate", "ftruncate",
            "mkstemp", "copyfile", "copytree", "move"}  # fmt: skip
ELSEWHERE = {
    "data.py": {"mkdir", "rmdir"},  # the user's data directory, and a temporary one
    "sinks/json_lines.py": {"truncate"},  # of a file that is open: half a line is taken away
}


def changes(path: Path) -> Iterator[str]:
    """The names of calls in a file that change what lies on the disk, `open` for writing among them."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Attribute):
            name = node.func.attr
            if ast.unparse(node.func.value) == "files":
                continue
        else:
            name = getattr(node.func, "id", "")
        if name in CHANGING:
            yield name
        if name == "replace" and len(node.args) == 1 and not node.keywords:  # a path's; a string's takes two
            yield name
        if name in ("open", "fdopen"):
            modes = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            if any(isinstance(mode, str) and set(mode) & set("wax+") and set(mode) <= set("rwaxbt+") for mode in modes):
                yield name


def test_only_one_module_changes_the_disk() -> None:
    """No other removes, renames or makes a file; what the data and the user's own sink do is listed."""
    found = {str(path.relative_to(PACKAGE)): set(changes(path)) for path in PACKAGE.rglob("*.py")}
    assert {"unlink", "replace", "mkdir", "fdopen"} <= found.pop("files.py")
    found = {name: names - ELSEWHERE.get(name, set()) for name, names in found.items()}
    assert {name: names for name, names in found.items() if names} == {
        "data.py": {"open"},
    }  # fmt: skip


def test_write(tmp_path: Path) -> None:
    """A file is written whole, with the rights that the user's mask leaves, in place of what was there."""
    path = tmp_path / "page.html"
    for content in ("one", b"two\xff"):
        files.write(path, content)
        assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
    assert [item.name for item in tmp_path.iterdir()] == ["page.html"]


def test_a_write_that_fails(tmp_path: Path) -> None:
    """What was there stays, and nothing is left behind."""
    path = tmp_path / "page.html"
    files.write(path, "old")

    def fail() -> None:
        with files.writing(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    with pytest.raises(OSError, match="No such file"):
        files.write(tmp_path / "nowhere" / "page.html", "new")
    assert {item.name: item.read_text(encoding="utf-8") for item in tmp_path.iterdir()} == {"page.html": "old"}


def test_kinds(tmp_path: Path) -> None:
    """What lies at a path is told without following links, and without opening anything."""
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as own:
        own.bind(str(tmp_path / "socket"))
    found = {
        name: files.kind(tmp_path / name) for name in ("file", "link", "pipe", "socket", "none", "file/below", ".")
    }
    assert found == {
        "file": Kind.FILE, "link": Kind.LINK, "pipe": Kind.OTHER, "socket": Kind.OTHER, "none": Kind.NOTHING,
        "file/below": Kind.NOTHING, ".": Kind.DIRECTORY,
    }  # fmt: skip


@pytest.mark.timeout(20)
def test_only_regular_files_are_read(tmp_path: Path) -> None:
    """A pipe and a device are refused where reading them would wait, or would never end; so is too much text."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(OSError, match="not a regular file") as caught:
            files.read_text(path)
        assert caught.value.errno == errno.EINVAL
    with pytest.raises(IsADirectoryError):
        files.read_text(tmp_path)
    (tmp_path / "text").write_text("12345", encoding="utf-8")
    (tmp_path / "link").symlink_to(tmp_path / "text")
    assert files.read_text(tmp_path / "link", largest=5) == "12345"
    with pytest.raises(OSError, match="larger than 0 MB"):
        files.read_text(tmp_path / "text", largest=4)


def test_cut(tmp_path: Path) -> None:
    """A file loses what it has beyond a size; a shorter one, or none, stays; a link is not followed."""
    path = tmp_path / "lines"
    files.cut(path, 3)
    assert not path.exists()
    path.write_bytes(b"12345")
    for size, left in ((9, b"12345"), (3, b"123"), (0, b"")):
        files.cut(path, size)
        assert path.read_bytes() == left
    path.write_bytes(b"12345")
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(OSError, match="symbolic links"):
        files.cut(tmp_path / "link", 1)
    assert path.read_bytes() == b"12345"
