"""Rows of PRMBench and Hard2Verify as they are published."""

import base64
import hashlib
import itertools
import json
from collections import Counter

import pytest

from implicit_prm.data.step_benchmarks import load_hard2verify, load_prmbench
from implicit_prm.types import ImplicitPRMError
from tests.conftest import write_rows


def prmbench_row(number, errors, steps=3, **changes):
    return {
        "idx": f"circular_{number}",
        "question": "unused",
        "original_question": f"problem {number}?",
        "modified_question": f"problem {number}?",
        "original_process": ["unused"],
        "modified_process": [f"{step}. step {step}" for step in range(1, steps + 1)],
        "modified_steps": errors,
        "error_steps": errors,
        "reason": "unused",
        "classification": "circular",
        **changes,
    }


def hard2verify_row(number, labels, **changes):
    return {
        "unique_id": number,
        "question": f"problem {number}?",
        "model_response_by_step": [f"step {step}" for step in range(len(labels))],
        "human_labels": labels,
        "human_labels_first_error_idx": labels.index(0) if 0 in labels else -1,
        **changes,
    }


def encrypted(row, canary="a canary"):
    """As the authors publish it."""
    key = hashlib.sha256(canary.encode()).digest()

    def hidden(value):
        data = (value if isinstance(value, str) else json.dumps(value)).encode()
        return base64.b64encode(bytes(a ^ b for a, b in zip(data, itertools.cycle(key), strict=False))).decode()

    return {"canary": canary} | {name: value if name == "unique_id" else hidden(value) for name, value in row.items()}


def _load(load, tmp_path, rows):
    dropped = Counter()
    return load(str(write_rows(tmp_path / "rows.jsonl", rows)), "train", None, dropped), dropped


def test_prmbench(tmp_path):
    rows = [
        prmbench_row(1, [2, 9], scores=[0.1, 0.2, 0.3]),  # a number beyond the last step is ignored
        prmbench_row(2, [], idx="multi", modified_question="problem 1?", classification="multi_solutions", scores=[1]),
        prmbench_row(1, [1], scores=[]),
        prmbench_row(3, [1], modified_process=["1. ", "2. b"], scores=[]),
    ]
    (group,), dropped = _load(load_prmbench, tmp_path, rows)
    assert group.prompt == "problem 1?"
    assert group.steps == [["step 1", "step 2", "step 3"]] * 2
    assert [list(labels) for labels in group.step_labels] == [[True, False, True], [True, True, True]]
    assert group.completions[0] == "step 1\n\nstep 2\n\nstep 3"
    assert group.extra["kinds"] == ["circular", "multi_solutions"]
    assert group.extra["problems"] == ["problem 1?", "problem 2?"]  # what the bootstrap draws: the original problem
    assert group.extra["scores"] == [[0.1, 0.2, 0.3], [1]]
    assert dropped == {"solutions with the id of an earlier one": 1, "solutions with a blank step": 1}


def test_classes_share_the_ids_of_prmbench(tmp_path):
    """In the files of the official repository the id is that of the original problem, and a class has it once."""
    rows = [prmbench_row(1, [2], classification=name) for name in ("circular", "deception", "circular")]
    (group,), dropped = _load(load_prmbench, tmp_path, rows)
    assert group.extra["kinds"] == ["circular", "deception"]
    assert dropped == {"solutions with the id of an earlier one": 1}


def test_hard2verify_encrypted_or_not(tmp_path):
    rows = [hard2verify_row(1, [1, 0, 0]), hard2verify_row(2, [1, 1], question="42 naïve π?")]
    plain, _ = _load(load_hard2verify, tmp_path, rows)
    hidden, _ = _load(load_hard2verify, tmp_path, [encrypted(row) for row in rows])
    for groups in (plain, hidden):
        assert [group.prompt for group in groups] == ["problem 1?", "42 naïve π?"]
        assert [list(group.step_labels[0]) for group in groups] == [[True, False, False], [True, True]]
        assert groups[0].completions == ["step 0\n\nstep 1\n\nstep 2"]


@pytest.mark.parametrize(
    ("load", "row", "words"),
    [
        (load_prmbench, {"idx": "a"}, "modified_process"),
        (load_prmbench, prmbench_row(1, [1], modified_question=" "), "row 1: modified_question"),
        (load_prmbench, prmbench_row(1, "1"), "row 1: error_steps"),
        (load_prmbench, prmbench_row(1, [True]), "row 1: error_steps"),
        (load_prmbench, prmbench_row(1, [1], modified_process=[]), "row 1: modified_process"),
        (load_hard2verify, {"question": "?"}, "human_labels"),
        (load_hard2verify, hard2verify_row(1, [1, 2]), "row 1: human_labels"),
        (load_hard2verify, hard2verify_row(1, [1], model_response_by_step=["a", "b"]), "row 1: human_labels.*2"),
        (load_hard2verify, encrypted(hard2verify_row(1, [1])) | {"canary": None}, "row 1: .*canary"),
        (load_hard2verify, encrypted(hard2verify_row(1, [1])) | {"human_labels": "~"}, "row 1: human_labels"),
        (load_hard2verify, encrypted(hard2verify_row(1, [1])) | {"canary": "another"}, "row 1: "),
    ],
)
def test_invalid_rows_are_named(load, row, words, tmp_path):
    with pytest.raises(ImplicitPRMError, match=words):
        _load(load, tmp_path, [row])
