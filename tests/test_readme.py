"""The README is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"


def test_code_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The README's Python blocks run one after the other and print what they say."""
    from ignite_act import activations

    monkeypatch.chdir(tmp_path)
    for registry in ("ACTIVATIONS", "_NAMES", "_MODULES"):
        monkeypatch.setattr(activations, registry, dict(getattr(activations, registry)))
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) >= 4
    namespace: dict[str, object] = {"__name__": "readme"}
    for block in blocks:
        exec(compile(block, str(README), "exec"), namespace)
    printed = capsys.readouterr().out
    assert "'conv': " in printed
    assert "'relu#2': " in printed
    text = README.read_text(encoding="utf-8")
    shown = text[text.index("epoch 2 | gradient") :].split("```")[0].split()
    assert " ".join(shown) in " ".join(printed.split())
    assert (tmp_path / "epochs.jsonl").read_text(encoding="utf-8").count("\n") == 2
    assert (tmp_path / "runs" / "digits" / "squareplus" / "seed-42" / "summary.json").is_file()


def test_pictures_exist() -> None:
    """Every picture that the README shows is in the repository."""
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README.read_text(encoding="utf-8"))
    assert pictures
    for picture in pictures:
        assert (README.parent / picture).is_file(), picture
