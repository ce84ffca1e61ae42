"""The named sets in the columns and files that they have on the hub, and the real files of them."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from implicit_prm.config import ProblemsConfig
from implicit_prm.data.groups import load_groups
from implicit_prm.data.problems import SOURCES, load_problems
from implicit_prm.types import ImplicitPRMError
from tests.conftest import write_rows

MATH = [
    {"problem": "1+1?", "level": "Level 1", "type": "Algebra", "solution": "So $1+1=\\boxed{2}$."},
    {"problem": "Half?", "level": "Level 5", "type": "Number Theory", "solution": "It is $\\boxed{\\frac{1}{2}}$."},
]
MATH500 = [
    {
        "problem": "1+1?",
        "solution": "So $\\boxed{9}$.",
        "answer": "2",
        "subject": "Algebra",
        "level": 1,
        "unique_id": "test/algebra/1.json",
    },
]
GSM8K = [{"question": "1+1?", "answer": "It is <<1+1=2>>2.\n#### 2"}]
OFFICIAL = [
    {
        "prompt": f"What is {n}+1?",
        "reference": str(n + 1),
        "dataset": "gsm8k",
        "completions": [f"Step 1: Add.\n\nStep 2: The answer is {n + 1}", f"Step 1: Guess.\n\nThe answer is {n}"],
        "correctness": [True, False],
        "steps": [["Step 1: Add.", f"Step 2: The answer is {n + 1}"], ["Step 1: Guess.", f"The answer is {n}"]],
    }
    for n in range(4)
]


def _card(folder, *configs):
    """A README.md that names the files of each configuration, as the hub writes it."""
    lines = ["---", "license: mit", "configs:"]
    for name, splits in configs:
        lines += [f"- config_name: {name}", "  data_files:"]
        for split, path in splits.items():
            lines += [f"  - split: {split}", f"    path: {path}"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text("\n".join([*lines, "---", "# A set", ""]))
    return folder


def _parquet(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.fixture
def math(tmp_path):
    splits = {"train": "data/train-*", "test": "data/test-*"}
    folder = _card(tmp_path / "math", ("default", splits), ("algebra", {k: f"algebra/{k}-*" for k in splits}))
    _parquet(folder / "data/train-00000-of-00001.parquet", MATH)
    _parquet(folder / "data/test-00000-of-00001.parquet", MATH[1:])
    for split in splits:
        _parquet(folder / f"algebra/{split}-00000-of-00001.parquet", MATH[:1])
    return folder


@pytest.fixture
def math500(tmp_path):
    folder = tmp_path / "math500"
    folder.mkdir()
    (folder / "README.md").write_text("---\ntask_categories:\n- text-generation\n---\n# MATH-500\n")
    write_rows(folder / "test.jsonl", MATH500)
    return folder


@pytest.fixture
def gsm8k(tmp_path):
    names = ("main", "socratic")
    configs = [(name, {split: f"{name}/{split}-*" for split in ("train", "test")}) for name in names]
    folder = _card(tmp_path / "gsm8k", *configs)
    for name in names:
        for split in ("train", "test"):
            rows = [{**row, "question": f"{row['question']} ({name}, {split})"} for row in GSM8K]
            _parquet(folder / name / f"{split}-00000-of-00001.parquet", rows)
    return folder


@pytest.fixture
def official(tmp_path):
    folder = _card(tmp_path / "rollouts", ("default", {"train": "data/train-*"}))
    for shard in range(2):
        _parquet(folder / f"data/train-0000{shard}-of-00002.parquet", OFFICIAL[shard * 2 : shard * 2 + 2])
    return folder


def _problems(name, path, split):
    return [(problem.text, problem.answer) for problem in load_problems(ProblemsConfig(name, split, path=str(path)))]


def test_math(math):
    assert _problems("math", math, "train") == [("1+1?", "2"), ("Half?", "\\frac{1}{2}")]
    assert _problems("math", math, "test") == [("Half?", "\\frac{1}{2}")]
    assert _problems("math", math / "data/test-00000-of-00001.parquet", "train") == [("Half?", "\\frac{1}{2}")]


def test_math500(math500):
    (problem,) = load_problems(ProblemsConfig("math500", "test", path=str(math500)))
    assert (problem.id, problem.text, problem.answer) == ("test/algebra/1.json", "1+1?", "2")
    with pytest.raises(ImplicitPRMError, match=r"no split 'train'; it has test"):
        _problems("math500", math500, "train")


def test_gsm8k(gsm8k):
    assert _problems("gsm8k", gsm8k, "train") == [("1+1? (main, train)", "2")]
    assert _problems("gsm8k", gsm8k, "test") == [("1+1? (main, test)", "2")]
    assert _problems("gsm8k", gsm8k / "socratic", "test") == [("1+1? (socratic, test)", "2")]
    (gsm8k / "README.md").unlink()
    assert _problems("gsm8k", gsm8k, "test") == [("1+1? (main, test)", "2")]


def test_the_ids_are_the_same_wherever_it_is_read_from(gsm8k):
    folders = (gsm8k, gsm8k / "main", gsm8k / "main/test-00000-of-00001.parquet")
    ids = {load_problems(ProblemsConfig("gsm8k", "test", path=str(path)))[0].id for path in folders}
    assert ids == {"gsm8k-test-00000"}


def test_every_named_set_is_pinned():
    assert all(len(source.revision) == 40 for source in SOURCES.values())


def test_the_official_rollouts(official):
    groups = load_groups(str(official))
    assert [group.prompt for group in groups] == [row["prompt"] for row in OFFICIAL]
    assert [group.answer for group in groups] == ["1", "2", "3", "4"], "their reference"
    assert groups[3].completions == OFFICIAL[3]["completions"]
    assert groups[3].correctness == [True, False]
    assert groups[3].steps == OFFICIAL[3]["steps"]
    assert groups[3].extra == {"dataset": "gsm8k"}
    assert load_groups(str(official), limit=3) == groups[:3]
    (official / "README.md").unlink()
    assert load_groups(str(official)) == groups


def _message(role, content):
    return {"role": role, "content": content}


PREFERENCE = [("1+1?", "2", "3"), ("2+2?", "4", "5")]
TRL = {
    "preference": [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in PREFERENCE],
    "unpaired": [{"prompt": p, "completion": text, "label": text == c} for p, c, r in PREFERENCE for text in (c, r)],
}
CHATS = {
    "preference": [
        {
            "prompt": [_message("user", p)],
            "chosen": [_message("assistant", c)],
            "rejected": [_message("assistant", r)],
        }
        for p, c, r in PREFERENCE
    ],
    "implicit prompt": [
        {
            "chosen": [_message("user", p), _message("assistant", c)],
            "rejected": [_message("user", p), _message("assistant", r)],
            "score_chosen": 8.0,
            "score_rejected": 3.0,
        }
        for p, c, r in PREFERENCE
    ],
    "unpaired": [
        {"prompt": [_message("user", p)], "completion": [_message("assistant", text)], "label": text == c}
        for p, c, r in PREFERENCE
        for text in (c, r)
    ],
}


@pytest.mark.parametrize("chats", [False, True], ids=["texts", "chats"])
@pytest.mark.parametrize("kind", ["parquet", "jsonl", "jsonl.gz", "folder"])
def test_trls_forms(tmp_path, kind, chats):
    for name, rows in (CHATS if chats else TRL).items():
        path = tmp_path / f"{name}.{kind}"
        if kind == "folder":
            _parquet(path / "data/train-00000-of-00001.parquet", rows)
        elif kind == "parquet":
            _parquet(path, rows)
        else:
            text = "".join(json.dumps(row) + "\n" for row in rows).encode()
            path.write_bytes(gzip.compress(text) if kind.endswith("gz") else text)
        groups = load_groups(str(path))
        assert [group.prompt for group in groups] == [[_message("user", p)] if chats else p for p, _, _ in PREFERENCE]
        assert [group.completions for group in groups] == [["2", "3"], ["4", "5"]]
        assert [group.correctness for group in groups] == [[True, False]] * 2


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "file", "count"),
    [
        ("math", "math_train", 7498),
        ("math500", "math500", 500),
        ("gsm8k", "gsm8k_train", 7473),
        ("gsm8k", "gsm8k_test", 1319),
    ],
)
def test_the_real_problems(shared_data, name, file, count):
    said = []
    problems = load_problems(ProblemsConfig(name, path=str(shared_data / f"{file}.jsonl.gz")), said.append)
    assert len(problems) == count
    assert len(said) == (name == "math")
    own = load_problems(ProblemsConfig(str(shared_data / f"{file}.jsonl.gz")), said.append)
    answers = {problem.text: problem.answer for problem in own}
    different = [problem for problem in problems if answers[problem.text] != problem.answer]
    # The column `answer` of MATH holds the last box alone, where a solution boxes a list one by one.
    assert all(problem.answer.endswith(f", {answers[problem.text]}") for problem in different)
    assert len(different) == (12 if name == "math" else 0)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("file", "prompts", "size", "accuracy"),
    [("math_train_rollouts16", 128, 16, None), ("math500_bon32", 500, 32, 0.744)],
)
def test_the_real_rollouts(shared_data, file, prompts, size, accuracy):
    groups = load_groups(str(shared_data / f"{file}.jsonl.gz"))
    assert {len(group) for group in groups} == {size}
    assert len(groups) == len({group.id for group in groups}) == prompts
    assert all(group.answer for group in groups)
    if accuracy is not None:
        correct = sum(sum(group.correctness) for group in groups)
        assert correct / (prompts * size) == pytest.approx(accuracy, abs=5e-4)
