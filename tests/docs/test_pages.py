"""The documentation speaks of things that exist."""

import re

import pytest
import yaml

from tests.docs.pages import DOCS, PAGES, ROOT, blocks, name

README = ROOT / "README.md"
# What a how-to page tells its reader to write.
NEW = {"configs/loss/hinge.yaml", "configs/problems/aime24.yaml"}


def test_the_readme_is_at_most_150_lines():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


def test_the_readmes_tree_names_what_is_there():
    """A line is a file or folder, indented below its folder, and a comment that may name some of its files."""
    (tree,) = [text for text in blocks(README, "text") if text.startswith("implicit_prm/")]
    folder, found = "", []
    for indent, path, comment in re.findall(r"^( *)(\S+) *(.*)$", tree, flags=re.MULTILINE):
        folder = folder if indent else path
        path = folder + path if indent else path
        assert (ROOT / path).is_dir() == path.endswith("/"), path
        assert (ROOT / path).exists(), path
        for file in re.findall(r"\w+\.py|\w+/", comment):
            assert file == "implicit_prm/" or (ROOT / path / file).exists(), path + file
        found.append(path)
    rooms = {f"implicit_prm/{room.parent.name}/" for room in (ROOT / "implicit_prm").glob("*/__init__.py")}
    assert rooms <= set(found)


def _entries(nav):
    for entry in nav:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            yield from [value] if isinstance(value, str) else _entries(value)


def test_every_page_is_in_the_navigation():
    nav = list(_entries(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    assert sorted(nav) == sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))


def test_every_room_has_an_api_page():
    rooms = {room.parent.name for room in (ROOT / "implicit_prm").glob("*/__init__.py")} - {"cli"}
    text = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "api").glob("*.md"))
    assert {found for found in rooms if f"::: implicit_prm.{found}" in text} == rooms


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_paths_in_code_marks_exist(page):
    """`implicit_prm/...`, `tests/...`, `configs/...` and `scripts/...`; a word in capitals stands for any name."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for path in re.findall(r"`((?:implicit_prm|tests|configs|scripts|docs|examples)/[^`\s]*)`", text):
        if path not in NEW and not re.search(r"[A-Z*<]{3}|<", path.removesuffix("README.md")):
            assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_scripts_and_modules_in_commands_exist(page):
    for command in blocks(page, "bash"):
        for script in re.findall(r"\bpython (\S+\.py)", command):
            assert (ROOT / script).exists(), script
        for module in re.findall(r"-m (implicit_prm\.\S+)", command):
            assert (ROOT / f"{module.replace('.', '/')}.py").exists(), module
        for target in re.findall(r"^make ([\w-]+)", command, flags=re.MULTILINE):
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE), target


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_images_exist_and_show_on_pypi(page):
    for target in re.findall(r"!\[[^]]*]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        raw = "https://raw.githubusercontent.com/implicit-prm/implicit-prm/main/"
        assert page != README or target.startswith(raw)
        path = ROOT / target.removeprefix(raw) if target.startswith(raw) else page.parent / target
        assert path.exists(), target


@pytest.mark.parametrize("page", [README, ROOT / "CONTRIBUTING.md"], ids=name)
def test_links_into_the_repository_exist(page):
    """mkdocs checks the links of docs/."""
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"https://github.com/implicit-prm/implicit-prm/blob/main/([^)#\s]+)", text):
        assert (ROOT / target).exists(), target
    for target in re.findall(r"]\((?!https?:)([^)#\s]+)", text):
        assert (page.parent / target).exists(), target
        assert page != README, "PyPI shows the README, where relative links lead nowhere"
