"""The Python of the README and of the pages below runs, from top to bottom, on the sandbox.

Models are replaced by the sandbox's policy, and runs of RL are made short.

Blocks marked `python` are run; `py` marks those that need a download or an earlier run.
"""

import shutil

import pytest

from implicit_prm import fit, sandbox
from implicit_prm.rewards import losses
from implicit_prm.search import searcher as search
from tests.conftest import graded_rows, write_rows
from tests.docs.pages import DOCS, ROOT, blocks, name
from tests.runs import config, quiet

PAGES = [
    *(ROOT / "README.md", DOCS / "getting-started.md", DOCS / "grading.md"),
    *(DOCS / "guides/trainer.md", DOCS / "guides/evaluation.md", DOCS / "guides/scoring.md", DOCS / "rl.md"),
    DOCS / "search.md",
    *sorted((DOCS / "how-to").glob("*.md")),
]

SMALL = {
    "Qwen/Qwen2.5-0.5B-Instruct": str(sandbox.POLICY_PATH),
    'GRPOConfig("policy", ': 'GRPOConfig("policy", max_steps=1, max_completion_length=8, bf16=False, ',
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """What `make demo` leaves behind, after two steps."""
    folder = tmp_path_factory.mktemp("demo")
    rows = write_rows(folder / "rollouts.jsonl", graded_rows(8, 4))
    problems = [
        {"prompt": [{"role": "user", "content": one.text}], "solution": one.answer}
        for one in sandbox.problems("train", 8)
    ]
    write_rows(folder / "problems.jsonl", problems)
    fit(config(folder / "outputs/sandbox/ce", "sandbox", rows, max_steps=2), quiet)
    return folder


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_snippets_run(page, checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(shutil.copytree(checkpoint, tmp_path / "demo"))
    monkeypatch.setattr(losses, "LOSSES", dict(losses.LOSSES))  # one page adds to it
    monkeypatch.setattr(search, "ALGORITHMS", dict(search.ALGORITHMS))  # as does another
    source = "\n".join(blocks(page, "python"))
    assert source, "no snippet"
    for written, run in SMALL.items():
        source = source.replace(written, run)
    exec(compile(source, page.name, "exec"), {})
