from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import ignite_act

PACKAGE = Path(ignite_act.__file__).parent
LEVELS = [
    {"errors", "files", "internals", "names"},
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
ALLOWED_OF_LEAVES = {"activations", "errors", "files", "internals", "names"}
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


PUBLIC = {"_asdict", "_exit", "_fields", "_getframe", "_replace"}  # documented, of named tuples, os and sys


def private_names(source: str) -> set[str]:
    """The private names that a file reads from what it has not defined itself."""
    nodes = list(ast.walk(ast.parse(source)))
    own = {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and (isinstance(node.ctx, ast.Store) or ast.unparse(node.value) == "self")
    }
    own |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    own |= {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))}
    found = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            found |= {*str(node.module).split("."), *(alias.name for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {part for alias in node.names for part in alias.name.split(".")}
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in {"getattr", "hasattr", "setattr"}:
            found |= {str(argument.value) for argument in node.args[1:2] if isinstance(argument, ast.Constant)}
    return {name for name in found - own - PUBLIC if name.startswith("_") and not name.startswith("__")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_private_names_of_others_stand_in_one_file(path: Path) -> None:
    """What torch, Ignite and Lightning keep to themselves is asked for in ``internals.py``, and nowhere else."""
    found = private_names(path.read_text(encoding="utf-8"))
    assert bool(found) == (path.name == "internals.py"), found


@pytest.mark.parametrize(
    "line",
    ["model._modules", "from torch._ops import OpOverload", "from torch.optim.optimizer import _global_hooks",
     "getattr(module, '_orig_mod', None)", "torch._C._nn.gelu", "import torch._dynamo"],
)  # fmt: skip
def test_private_names_are_recognised(line: str) -> None:
    """However they are reached."""
    assert private_names(line)
    assert not private_names("self._own = 1; other._own; os._exit(0); pair._replace(a=1); x.__dict__")
