"""Render a template as a self-contained page: style, script and figures are embedded, and nothing is loaded."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from implicit_prm.evaluation.formatting import band, decimals, percent
from implicit_prm.utils.io import atomic_write

_TEMPLATES = Path(__file__).parent / "templates"
# Responses are untrusted text: everything is escaped.
_ENVIRONMENT = Environment(
    loader=FileSystemLoader(_TEMPLATES),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters.update(percent=percent, band=band, decimals=decimals)


def write_page(path: Path, template: str, **content: Any) -> None:
    """Fill in one of the `templates` and write it, atomically. Texts of `content` are escaped."""
    script, style = ((_TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.js", "page.css"))
    # The browser runs this script only and loads nothing, whatever a response contains.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    page = _ENVIRONMENT.get_template(template).render(
        policy=policy, script=Markup(script), style=Markup(style), **content
    )
    with atomic_write(path) as stream:
        stream.write(page.encode("utf-8", errors="replace"))  # responses may hold lone surrogates
