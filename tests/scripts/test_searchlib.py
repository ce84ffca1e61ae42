"""The table of searches beside best-of-N, from made-up candidates."""

from __future__ import annotations

import json

import pytest
from searchlib.results import RULES, BestOfN, Table, judged
from transformers import AutoTokenizer

from implicit_prm import sandbox

# Two problems: the guide prefers the right response to the first, and the wrong one to the second.
LABELS = [[False, True, False, False], [True, False, True, True]]
SCORES = [[[-2.0], [1.0, 0.5], [-1.0], [-3.0]], [[-1.0], [2.0], [-1.5], [-2.0]]]


@pytest.fixture
def candidates(tmp_path):
    rows = [
        {
            "id": str(place),
            "prompt": "1 + 1",
            "completions": [f"\\boxed{{{'2' if label else 3 + slot}}}" for slot, label in enumerate(labels)],
            "correctness": labels,
            "guide_scores": scores,
            "guide_kind": "log_ratio",
            "generator_tokens": 50,
            "guide_tokens": 50 if place else None,
        }
        for place, (labels, scores) in enumerate(zip(LABELS, SCORES, strict=True))
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_tokens_and_accuracies_of_all_responses_together(candidates):
    result = judged(candidates, 2)
    assert list(result.tokens) == [50, 100]
    assert {rule: list(result.accuracy[rule][:, 0]) for rule in RULES} == {
        "best by guide": [1, 0],
        "weighted vote": [1, 0],
        "majority vote": [0.25, 1],
        "a random one": [0.25, 0.75],
    }


def test_best_of_n_pays_for_the_prompt_once_and_is_compared_at_equal_cost(candidates):
    tokenizer = AutoTokenizer.from_pretrained(sandbox.POLICY_PATH)
    plain = BestOfN(candidates, 2, 4, tokenizer)
    assert plain.tokens(4) == 75
    assert plain.tokens(1) > 75 / 4
    assert plain.tokens(2) - plain.tokens(1) == pytest.approx(plain.tokens(4) - plain.tokens(3))
    assert [plain.at_cost(tokens) for tokens in (0, plain.tokens(2), 74, 74.5, 1000)] == [1, 2, 3, 4, 4]
    three = BestOfN(candidates, 2, 4, tokenizer, models=3)
    prompt = len(
        tokenizer.apply_chat_template([{"role": "user", "content": "1 + 1"}], add_generation_prompt=True)["input_ids"]
    )
    assert three.tokens(4) == 75
    assert three.tokens(1) - plain.tokens(1) == pytest.approx(prompt * 3 / 4)
    table = Table(plain)
    table.add("beam", "branch=2", 4, judged(candidates, 2))
    assert table.records[0]["equal_n"] == 4
    assert table.records[0]["difference"]["value"] == 0
