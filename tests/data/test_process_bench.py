"""ProcessBench rows, in the official columns: from a file, from the hub, and as they should not be."""

import gzip
import json

import datasets
import pytest

from implicit_prm.data import process_bench, readers
from implicit_prm.data.process_bench import COLUMNS, load_process_bench
from implicit_prm.rewards.step_splitting import split_steps
from implicit_prm.types import ImplicitPRMError
from tests.conftest import write_rows

ROWS = [
    {
        "id": "gsm8k-0",
        "generator": "A",
        "problem": "1 + 1?",
        "steps": ["One and one.", "That is 3.\n- so 3", "\\boxed{3}"],
        "final_answer_correct": False,
        "label": 1,
    },
    {
        "id": "gsm8k-1",
        "generator": "B",
        "problem": "2 + 2?",
        "steps": ["\\boxed{4}"],
        "final_answer_correct": True,
        "label": -1,
    },
    {
        "id": "gsm8k-2",
        "generator": "B",
        "problem": "1 + 1? ",
        "steps": ["Hm.", "\\boxed{2}"],
        "final_answer_correct": True,
        "label": 0,
    },
]


def test_a_problem_comes_with_all_of_its_solutions(tmp_path):
    some = [{**row, "my_prm": [0.5] * len(row["steps"])} for row in ROWS]
    first, second = load_process_bench(str(write_rows(tmp_path / "pb.jsonl", some)), "unused")
    assert (first.id, first.prompt, first.extra["ids"]) == ("gsm8k-0", "1 + 1?", ["gsm8k-0", "gsm8k-2"])
    assert first.completions == ["One and one.\n\nThat is 3.\n- so 3\n\n\\boxed{3}", "Hm.\n\n\\boxed{2}"]
    assert first.step_labels == [(True, False, False), (False, False)]
    assert first.correctness == [False, True]
    assert first.finished == [True, True]
    assert first.extra["generators"] == ["A", "B"]
    assert first.extra["my_prm"] == [[0.5] * 3, [0.5] * 2]
    assert (second.id, second.step_labels) == ("gsm8k-1", [(True,)])


@pytest.mark.parametrize("form", ["pb.jsonl.gz", "pb.json", "pb.parquet"])
def test_every_form_of_file_is_read(tmp_path, form):
    path = tmp_path / form
    if form.endswith(".parquet"):
        datasets.Dataset.from_list(ROWS).to_parquet(str(path))
    elif form.endswith(".json"):
        path.write_text(json.dumps(ROWS))  # one array, as in the official repository
    else:
        with gzip.open(path, "wt") as stream:
            stream.writelines(json.dumps(row) + "\n" for row in ROWS)
    assert [group.id for group in load_process_bench(str(path), "unused")] == ["gsm8k-0", "gsm8k-1"]


def test_a_split_comes_from_the_hub_at_its_revision(tmp_path, monkeypatch):
    """Which files a hub id, a revision and a split stand for is tested where they are read (`test_hub.py`)."""
    asked, local = [], write_rows(tmp_path / "rows.jsonl", ROWS)

    def read(*what, **options):
        asked.append((what, options))
        return readers.read_rows(str(local))

    monkeypatch.setattr(process_bench, "read_rows", read)
    assert len(load_process_bench("gsm8k", "Qwen/ProcessBench", "abc")) == 2
    assert asked == [(("Qwen/ProcessBench", "gsm8k", "abc"), {"option": "dataset"})]


def test_a_local_copy_of_the_hub_repository_has_its_splits(tmp_path):
    splits = "".join(f"  - split: {name}\n    path: {name}.json\n" for name in ("gsm8k", "math"))
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files:\n{splits}---\n")
    (tmp_path / "gsm8k.json").write_text(json.dumps(ROWS))
    (tmp_path / "math.json").write_text(json.dumps([{**ROWS[0], "id": "math-0"}]))
    assert [group.id for group in load_process_bench("gsm8k", str(tmp_path))] == ["gsm8k-0", "gsm8k-1"]
    assert [group.id for group in load_process_bench("math", str(tmp_path))] == ["math-0"]
    with pytest.raises(ImplicitPRMError, match="no split 'omnimath'; it has gsm8k, math"):
        load_process_bench("omnimath", str(tmp_path))


def test_without_the_hub_the_way_out_is_a_local_copy():
    with pytest.raises(ImplicitPRMError, match=r"Qwen/ProcessBench.*hub cannot be reached.*set dataset=FOLDER"):
        load_process_bench("math", "Qwen/ProcessBench")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"label": 3}, r"row 1: the label is 3 with 3 steps.*0 to 2, or -1"),
        ({"label": -2}, "row 1: the label is -2"),
        ({"label": None}, "row 1: the label is None"),
        ({"steps": []}, "row 1: steps is"),
        ({"steps": ["a", " ", "c"]}, "row 1: step 1 is ' '"),
        ({"problem": ""}, "row 1: problem is ''"),
        ({"id": "gsm8k-1"}, "row 2: the id gsm8k-1"),
        ({"final_answer_correct": None}, "row 1: final_answer_correct is None"),
    ],
)
def test_a_row_that_cannot_be_right_is_named(tmp_path, change, sentence):
    some = [{**ROWS[0], **change}, *ROWS[1:]]
    with pytest.raises(ImplicitPRMError, match=sentence):
        load_process_bench(str(write_rows(tmp_path / "pb.jsonl", some)), "unused")


@pytest.mark.parametrize("column", COLUMNS)
def test_a_missing_column_is_named(tmp_path, column):
    some = [{name: value for name, value in row.items() if name != column} for row in ROWS]
    with pytest.raises(ImplicitPRMError, match=f"no column {column}; expected id, generator"):
        load_process_bench(str(write_rows(tmp_path / "pb.jsonl", some)), "unused")


def test_a_file_that_is_not_there_is_not_asked_of_the_hub(tmp_path):
    with pytest.raises(ImplicitPRMError, match=r"nowhere\.jsonl: no such file"):
        load_process_bench(str(tmp_path / "nowhere.jsonl"), "unused")


@pytest.mark.shared
@pytest.mark.parametrize(
    ("subset", "solutions", "problems", "erroneous", "hidden"),
    [("gsm8k", 400, 375, 207, 7), ("math", 1000, 955, 594, 94)],
)
def test_the_real_subsets(shared_data, subset, solutions, problems, erroneous, hidden):
    groups = load_process_bench(str(shared_data / f"processbench_{subset}.jsonl.gz"), "unused")
    pairs = [row for group in groups for row in zip(group.step_labels, group.correctness, strict=True)]
    assert (len(groups), len(pairs)) == (problems, solutions)
    assert sum(False in labels for labels, _ in pairs) == erroneous
    assert sum(False in labels and correct for labels, correct in pairs) == hidden
    for group in groups:  # the joined text splits into exactly the labelled steps
        for text, steps in zip(group.completions, group.steps, strict=True):
            spans = split_steps(text, "given", steps)
            assert [text[span.start : span.end].strip() for span in spans] == [step.strip() for step in steps]
