from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import ignite_act

PACKAGE = Path(ignite_act.__file__).parent
LEVELS = [
    {"errors", "files", "names"},
    {"activations", "data", "config", "guard", "launcher", "terminal", "testing"},
    {"processes"},
    {"models", "stats"},
    {"report", "variants"},
    {"findings"},
    {"collect", "sinks"},
    {"recorder"},
    {"engines", "handlers", "lightning", "runs"},
    {"check", "compare", "experiment"},
    {"inspection", "sweep"},
    {"html", "progress"},
    {"cli"},
]
LEVEL = {name: number for number, names in enumerate(LEVELS) for name in names}
LEAVES = {"activations", "config", "data", "errors", "models", "names", "testing"}
ALLOWED_OF_LEAVES = {"activations", "errors", "files", "names"}
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent != PACKAGE or not path.stem.startswith("__")]


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever the statement stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_downwards_only(path: Path) -> None:
    """stats <- report <- findings <- collect, sinks <- engines, handlers <- experiment <- compare <- cli."""
    own = part(path)
    assert own in LEVEL, f"{own} has no place in the order of imports yet"
    for module in imported(path):
        if not module.startswith("ignite_act."):
            continue
        other = module.split(".")[1]
        if other == "__version__" or other == own:
            continue
        assert LEVEL[other] < LEVEL[own], f"{path.name} imports {module}"
        if own in LEAVES:
            assert other in ALLOWED_OF_LEAVES, f"{own} is a leaf, but imports {module}"


@pytest.mark.parametrize(
    ("where", "forbidden"),
    [
        ("stats", ("ignite.", "torch.nn.modules", "tensorboardX")),
        ("sinks", ("ignite.", "torch.nn")),
        ("report.py", ("ignite.", "torch")),
        ("collect", ("ignite.", "tensorboardX")),
        ("recorder.py", ("ignite.", "tensorboardX")),
    ],
)
def test_parts_stay_free_of_what_is_not_theirs(where: str, forbidden: tuple[str, ...]) -> None:
    """Statistics know no Ignite, outputs no networks, reports no torch, collectors no outputs."""
    for path in FILES:
        if path.relative_to(PACKAGE).parts[0] == where:
            assert not [module for module in imported(path) if module.startswith(forbidden)], path


@pytest.mark.parametrize("name", ignite_act.__all__)
def test_public_names_exist(name: str) -> None:
    """Every public name can be imported from the package and is listed by dir()."""
    assert getattr(ignite_act, name).__module__.startswith("ignite_act.")
    assert name in dir(ignite_act)


def test_an_unknown_name_is_an_attribute_error() -> None:
    """The package answers for a wrong name as any module does."""
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = ignite_act.Nothing
