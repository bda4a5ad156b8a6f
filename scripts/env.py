"""Runs a command in an environment that has everything: ``python3 scripts/env.py pytest``.

Where a virtual environment is active it is used; where none is, one is made in ``.venv`` (or at ``$IGNITE_ACT_VENV``).
The project is installed into it, and again only after its requirements have changed. Needs nothing but Python.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 10)


def main(command: list[str]) -> int:
    if not command:
        print(f"usage: {Path(sys.argv[0]).name} COMMAND...", file=sys.stderr)
        return 2
    if sys.version_info < OLDEST:
        print(
            f"Python {'.'.join(map(str, OLDEST))} or newer is needed, this is {sys.version.split()[0]}", file=sys.stderr
        )
        return 2
    prefix = environment()
    folder = prefix / ("Scripts" if os.name == "nt" else "bin")
    install(prefix, folder)
    os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(command, check=False).returncode


def environment() -> Path:
    """The active virtual environment, or the project's own, made if it is not there."""
    if sys.prefix != sys.base_prefix:
        return Path(sys.prefix)
    prefix = Path(os.environ.get("IGNITE_ACT_VENV", ROOT / ".venv"))
    if not (prefix / "pyvenv.cfg").exists():
        print(f"making a virtual environment in {prefix}", file=sys.stderr)
        venv.create(prefix, with_pip=True)
    return prefix


def install(prefix: Path, folder: Path) -> None:
    """Installs the project and its development tools unless that has been done for these requirements.

    ``PIP_CONSTRAINT=tests/oldest.txt`` installs the oldest versions that are supported.
    """
    wanted = hashlib.sha256(str(ROOT).encode())
    for name in ("setup.cfg", "pyproject.toml", "tests/oldest.txt"):
        wanted.update((ROOT / name).read_bytes())
    stamp = prefix / "ignite_act.installed"
    if stamp.exists() and stamp.read_text() == wanted.hexdigest():
        return
    print(
        "installing ignite_act and what it needs (torch alone is large: the first time takes minutes)", file=sys.stderr
    )
    pip = [str(folder / "python"), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "--editable", f"{ROOT}[dev]"], check=True)
    stamp.write_text(wanted.hexdigest())


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
    except KeyboardInterrupt:
        sys.exit(130)
