"""The pages of the documentation, and the Python in them."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]

_FENCE = re.compile(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def name(page):
    return page.relative_to(ROOT).as_posix()


def blocks(page, language):
    """The fenced blocks of a language, as they stand."""
    return [text for _, found, text in _FENCE.findall(page.read_text(encoding="utf-8")) if found == language]
