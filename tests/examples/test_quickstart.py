"""The notebook runs from a clean kernel, and says what it promises."""

import ast
import importlib
import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "examples/quickstart.ipynb"


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_committed_without_outputs(notebook):
    assert not [cell for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")]


def test_it_uses_public_names_alone(notebook):
    imported = 0
    for cell in notebook.cells:
        source = cell.source.removeprefix("%matplotlib inline\n") if cell.cell_type == "code" else ""
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("implicit_prm"):
                module = importlib.import_module(node.module)
                for name in node.names:
                    assert not name.name.startswith("_")
                    assert hasattr(module, name.name)
                    imported += 1
            assert not (isinstance(node, ast.Attribute) and node.attr.startswith("_"))
    assert imported > 5


@pytest.mark.slow
def test_it_runs_from_a_clean_kernel(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("IPR_CACHE", str(tmp_path / "cache"))
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    strips = [output.data["text/html"] for output in shown if "text/html" in output.get("data", {})]
    assert sum("◂ lowest" in strip for strip in strips) == 2
    assert any("image/png" in output.get("data", {}) for output in shown)
    printed = "".join(output.text for output in shown if output.output_type == "stream" and output.name == "stdout")
    ranked = [line for line in printed.splitlines() if line.startswith("response ")]
    assert ranked[0].startswith("response 1")
    assert ranked[1].endswith("lowest step: 24 * 4 = 49")
