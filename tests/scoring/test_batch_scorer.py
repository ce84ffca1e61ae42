"""Batches of rows: as `datasets` and Ray pass them, in any of the row formats."""

import pickle

import numpy as np
import pytest
from datasets import Dataset

from implicit_prm import ImplicitPRM, ImplicitPRMError, StepScores
from implicit_prm.scoring import BatchScorer
from tests.conftest import graded_rows

ROWS = graded_rows(4, 3)
FLAT = [
    {"prompt": row["prompt"], "completion": text, "finished": place != 1}
    for row in ROWS
    for place, text in enumerate(row["completions"])
]


class Lengths:
    """Scores every line by its length, and counts its calls."""

    def __init__(self):
        self.calls = 0

    def score(self, problem, responses, finished):
        self.calls += 1
        return [
            StepScores(text, [], [float(len(line)) - done for line in text.split("\n")])
            for text, done in zip(responses, finished, strict=True)
        ]


def _expected(row):
    return [[len(line) - 1 for line in text.split("\n")] for text in row["completions"]]


def _batch(rows):
    return {name: [row[name] for row in rows] for name in rows[0]}


def test_grouped_rows_and_rows_of_one_response():
    scorer = Lengths()
    batch = BatchScorer(scorer)(_batch(ROWS))
    assert batch["step_rewards"] == [_expected(row) for row in ROWS]
    assert batch["prompt"] == [row["prompt"] for row in ROWS]
    flat = BatchScorer(scorer)(_batch(FLAT))["step_rewards"]
    assert flat[0] == _expected(ROWS[0])[0]
    assert flat[1] == [value + 1 for value in _expected(ROWS[0])[1]]  # it was cut off
    assert scorer.calls == 8  # one for each prompt, in both formats


def test_rows_in_any_order_keep_their_scores():
    shuffled = [FLAT[place] for place in np.random.default_rng(0).permutation(len(FLAT))]
    scored = BatchScorer(Lengths())(_batch(shuffled))["step_rewards"]
    assert scored == [BatchScorer(Lengths())(_batch([row]))["step_rewards"][0] for row in shuffled]


def test_numpy_batches():
    batch = _batch(ROWS)
    nested = np.empty(len(ROWS), dtype=object)
    nested[:] = [np.array(texts, dtype=object) for texts in batch["completions"]]
    arrays = {"prompt": np.array(batch["prompt"], dtype=object), "completions": nested}
    assert BatchScorer(Lengths())(arrays)["step_rewards"] == [_expected(row) for row in ROWS]


def test_datasets_map_and_pickling(tiny_folder):
    options = {"reference": "none", "beta": 1.0, "steps": "newline", "device": "cpu"}
    scorer = BatchScorer(tiny_folder, **options)
    scored = Dataset.from_list(ROWS).map(scorer, batched=True, batch_size=3)
    prm = ImplicitPRM.from_pretrained(tiny_folder, **options)
    for row, source in zip(scored, ROWS, strict=True):
        assert row["step_rewards"] == [one.step_rewards for one in prm.score(source["prompt"], source["completions"])]
    pickled = pickle.dumps(scorer)
    assert len(pickled) < 2000  # not the weights
    assert pickle.loads(pickled)(_batch(ROWS)) == scorer(_batch(ROWS))


def test_the_pickle_changes_with_the_checkpoint(tiny_folder, other_folder, tmp_path):
    folder = tmp_path / "model"
    folder.symlink_to(tiny_folder)
    first = pickle.dumps(BatchScorer(folder, reference="none", beta=1.0, device="cpu"))
    folder.unlink()
    folder.symlink_to(other_folder)
    assert pickle.dumps(BatchScorer(folder, reference="none", beta=1.0, device="cpu")) != first


def test_too_long_responses(tiny_folder):
    rows = [{"prompt": "1 + 1", "completions": ["1 + 1 = 2", "1 + 1 = 2\n" * 60]}]
    options = {"reference": "none", "beta": 1.0, "device": "cpu"}
    with pytest.raises(ImplicitPRMError, match="256"):
        BatchScorer(tiny_folder, **options)(_batch(rows))
    scored = BatchScorer(tiny_folder, too_long="lowest", **options)(_batch(rows))["step_rewards"][0]
    assert [len(one) > 0 for one in scored] == [True, False]


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ({"prompt": ["?"], "chosen": ["1"], "rejected": ["2"]}, "chosen"),
        ({"prompt": ["?"], "completion": ["1"], "step_rewards": [[1.0]]}, "step_rewards"),
        ({"prompt": ["?", ""], "completion": ["1", "2"]}, "row 2 of the batch"),
        ({"text": ["?"]}, "text"),
    ],
)
def test_invalid_batches_are_refused(batch, words):
    with pytest.raises(ImplicitPRMError, match=words):
        BatchScorer(Lengths())(batch)


def test_options_are_for_checkpoints():
    with pytest.raises(ImplicitPRMError, match="beta"):
        BatchScorer(Lengths(), beta=1.0)
