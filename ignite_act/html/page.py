"""A template and its data -> one HTML file with everything in it: style, program, plotting library, figures."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from ignite_act import files
from ignite_act.errors import UserError


def write_page(path: Path, template: str, **context: Any) -> Path:
    """Fills a template of the package and writes the page in one step.

    Args:
        path: the file; its directory is made if need be.
        template: name of a template that extends ``base.html``.
        context: what the template names. All of it is escaped.

    Returns:
        The path.

    Raises:
        UserError: if the file cannot be written.
    """
    page = environment().get_template(template).render(**context)
    try:
        files.make_directory(path.parent)
        files.write(path, page.encode("utf-8", "replace"))  # names of files need not be valid Unicode
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    return path


@functools.cache
def environment() -> Environment:
    """The templates. Whatever is filled in is escaped, a name that is not there is an error."""
    made = Environment(
        loader=PackageLoader("ignite_act.html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    made.globals.update(asset=_asset, scripts=_scripts, security_policy=_security_policy)
    return made


def _asset(name: str) -> Markup:
    """A file that stands beside the templates, as it is."""
    loader = environment().loader
    assert loader is not None
    return Markup(loader.get_source(environment(), name)[0])


def _scripts() -> list[Markup]:
    """The programs of a page, in the order in which they run."""
    return [Markup(get_plotlyjs()), _asset("page.js")]


def _security_policy(scripts: Iterable[str]) -> str:
    """What the browser may do: run these scripts and no other, and load nothing from anywhere."""
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:"
