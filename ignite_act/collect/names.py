"""Qualified names of modules and parameters as a user knows them, and selection by them."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable

from torch import nn

from ignite_act.internals import compiled_module, own_parameters

_WRAPPER_PARTS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}

Pattern = str | type[nn.Module]
Patterns = Pattern | Iterable[Pattern] | None
"""What selects sites or layers: a qualified name, a glob, a module type, or several of them; None for all."""


def unwrap(model: nn.Module) -> nn.Module:
    """The user's own module below wrappers of data parallelism and ``torch.compile``."""
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif (compiled := compiled_module(model)) is not None:
            model = compiled
        else:
            return model


def clean(name: str) -> str:
    """A qualified name without the parts that wrappers add."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPER_PARTS)


def module_names(model: nn.Module) -> dict[nn.Module, list[str]]:
    """Every module with all the names under which it is registered, in the order of registration."""
    names: dict[nn.Module, dict[str, None]] = {}  # one module may have a thousand names
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, {})[clean(name)] = None
    return {module: list(known) for module, known in names.items()}


def parameter_names(model: nn.Module) -> dict[int, list[tuple[str, type[nn.Module]]]]:
    """Every parameter, by its id, with all its names and the types of the modules that own it, wrappers' parts in."""
    names: dict[int, list[tuple[str, type[nn.Module]]]] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        for name, parameter in own_parameters(module).items():
            if parameter is not None:
                names.setdefault(id(parameter), []).append((f"{prefix}.{name}" if prefix else name, type(module)))
    return names


def as_patterns(patterns: Patterns, argument: str) -> tuple[Pattern, ...] | None:
    """The patterns as a tuple.

    Raises:
        TypeError: if one is neither a string nor a module type.
    """
    if patterns is None:
        return None
    several = (patterns,) if isinstance(patterns, (str, type)) else tuple(patterns)
    for pattern in several:
        if not isinstance(pattern, str) and not (isinstance(pattern, type) and issubclass(pattern, nn.Module)):
            raise TypeError(f"{argument} takes names, globs or module types, got {pattern!r}")
    return several


def is_glob(pattern: Pattern) -> bool:
    """Whether a pattern is a string with wildcards."""
    return isinstance(pattern, str) and any(character in pattern for character in "*?[")


def matches(pattern: Pattern, name: str, kind: type | None) -> bool:
    """Whether a pattern selects a name or the module type behind it."""
    if isinstance(pattern, str):
        return name == pattern or (is_glob(pattern) and fnmatch.fnmatchcase(name, pattern))
    return kind is not None and issubclass(kind, pattern)
