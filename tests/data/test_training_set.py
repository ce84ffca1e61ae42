"""Options to encoded groups: what is read, held out and left out, and that all of it is accounted for."""

from functools import partial

import pytest

from implicit_prm.config import CEConfig, DataConfig, DPOConfig, StepsConfig
from implicit_prm.data.tokenization import Encoder
from implicit_prm.data.training_set import encode, read
from implicit_prm.types import ImplicitPRMError
from tests.conftest import graded_rows, write_rows


@pytest.fixture
def rows():
    return graded_rows(12, 4)


@pytest.fixture
def path(tmp_path, rows):
    return str(write_rows(tmp_path / "rows.jsonl", rows))


def _prompts(graded):
    return [group.prompt for group in graded.groups]


def test_a_dev_set_is_a_source_of_its_own(path, rows, tmp_path):
    other = str(write_rows(tmp_path / "dev.jsonl", rows[:2]))
    train, dev = read(DataConfig(train=path, dev=other), CEConfig(), 0)
    assert (train.source, dev.source) == (path, other)
    assert (train.report.prompts, dev.report.prompts) == (12, 2)
    assert read(DataConfig(train=path), CEConfig(), 0)[1] is None


def test_held_out_prompts_are_not_trained_on_and_drawn_by_the_seed(path, rows):
    train, dev = read(DataConfig(train=path, hold_out_prompts=4), CEConfig(), 0)
    assert (len(train.groups), len(dev.groups)) == (8, 4)
    assert sorted(_prompts(train) + _prompts(dev)) == sorted(row["prompt"] for row in rows)
    draws = {
        tuple(_prompts(read(DataConfig(train=path, hold_out_prompts=4), CEConfig(), seed)[1])) for seed in (0, 0, 1)
    }
    assert len(draws) == 2
    with pytest.raises(ImplicitPRMError, match=r"data.hold_out_prompts=12 leaves none of 12 prompts"):
        read(DataConfig(train=path, hold_out_prompts=12), CEConfig(), 0)


def test_a_limit_of_prompts_is_of_the_file_and_beside_those_held_out(path, rows):
    train, dev = read(DataConfig(train=path, max_prompts=3, hold_out_prompts=2), CEConfig(), 0)
    assert (len(train.groups), len(dev.groups)) == (3, 2)
    assert sorted(_prompts(train) + _prompts(dev)) == sorted(row["prompt"] for row in rows[:5])


def test_the_report_is_of_what_was_read_and_says_what_went(path, rows):
    train, _ = read(DataConfig(train=path), CEConfig(balance="prompt"), 0)
    correct = sum(sum(row["correctness"]) for row in rows)
    assert (train.report.responses, train.report.correct) == (48, correct)
    left = sum(map(len, train.groups))
    assert train.report.dropped == {"responses to balance the labels (loss.balance=prompt)": 48 - left}
    train, _ = read(DataConfig(train=path), DPOConfig(), 0)
    assert (train.report.prompts, train.report.all_correct, len(train.groups)) == (12, 1, 11)


def test_nothing_to_train_on(tmp_path, rows):
    right = [{**row, "correctness": [True] * 4} for row in rows[:5]]
    path = str(write_rows(tmp_path / "right.jsonl", right))
    message = "nothing to train on with loss=dpo: of 5 prompts, 5 have only correct responses and 0 only incorrect"
    with pytest.raises(ImplicitPRMError, match=message):
        read(DataConfig(train=path), DPOConfig(), 0)


@pytest.fixture
def encoder(tokenizer):
    return Encoder(tokenizer, DataConfig(train="f", steps="newline"))


def test_long_responses_stop_the_run_or_are_left_out_and_counted(path, encoder):
    train, _ = read(DataConfig(train=path), CEConfig(), 0)
    whole = encode(train, encoder.group, None, "error")
    assert train.report.used["responses"] == 48
    lengths = sorted(length for group in whole for length in group.lengths)
    limit = lengths[len(lengths) // 2]
    over = sum(length > limit for length in lengths)
    message = (
        rf"{over} of 48 responses are longer than {limit} tokens .* {lengths[-1]} tokens\). Set data.too_long=drop"
    )
    with pytest.raises(ImplicitPRMError, match=message):
        encode(train, encoder.group, limit, "error")
    kept = encode(train, encoder.group, limit, "drop")
    assert sorted(length for group in kept for length in group.lengths) == [n for n in lengths if n <= limit]
    assert train.report.dropped[f"responses over {limit} tokens with the prompt"] == over
    assert train.report.used["responses"] == 48 - over
    assert train.report.response_tokens.longest > limit - len(whole[0].prompt_ids), "lengths are of what was read"
    with pytest.raises(ImplicitPRMError, match="no response fits in 5 tokens"):
        encode(train, encoder.group, 5, "drop")


def test_the_labels_stay_with_their_responses(path, encoder, tokenizer):
    train, _ = read(DataConfig(train=path), CEConfig(), 0)
    label_of = {(g.prompt, text): c for g in train.groups for text, c in zip(g.completions, g.correctness, strict=True)}
    lengths = sorted(length for group in encode(train, encoder.group, None, "error") for length in group.lengths)
    for group in encode(train, encoder.group, lengths[24], "drop"):
        (prompt,) = {g.prompt for g in train.groups if g.id == group.name}
        texts = [tokenizer.decode(response.ids[:-1]) for response in group.responses]
        assert [label_of[prompt, text] for text in texts] == group.labels


def test_pairs_that_were_too_long_are_counted(tmp_path, rows, encoder):
    rows = [{**row, "completions": row["completions"][:2], "correctness": [True, False]} for row in rows[1:5]]
    for row in rows:
        del row["finished"], row["step_labels"]
    rows[0]["completions"][1] += "\n1 + 1 = 2" * 30  # the only incorrect response of the first prompt
    rows[1]["completions"] = [text + "\n1 + 1 = 2" * 30 for text in rows[1]["completions"]]
    train, _ = read(DataConfig(train=str(write_rows(tmp_path / "long.jsonl", rows))), DPOConfig(), 0)
    encode(train, encoder.group, 120, "drop", needs_pairs=True)
    assert train.report.dropped["prompts without a pair that fits"] == 1
    assert train.report.dropped["prompts without a response that fits"] == 1
    assert train.report.used == {"prompts": 2, "responses": 4, "pairs": 2}


def test_step_labels_are_asked_for_by_name_where_they_are_learned_from(tmp_path, path, rows):
    bare = [{key: value for key, value in row.items() if key != "step_labels"} for row in rows]
    bare = str(write_rows(tmp_path / "bare.jsonl", bare))
    read(DataConfig(train=bare), CEConfig(), 0)
    with pytest.raises(ImplicitPRMError, match=r"data\.train=.*bare.jsonl: no step labels, which loss=steps"):
        read(DataConfig(train=bare), StepsConfig(), 0)
    with pytest.raises(ImplicitPRMError, match=r"data\.dev=.*bare.jsonl: no step labels"):
        read(DataConfig(train=path, dev=bare), StepsConfig(), 0)


def test_responses_without_a_step_label_are_left_out_and_counted(tmp_path, rows, encoder):
    rows[0]["step_labels"] = [None, [], *rows[0]["step_labels"][2:]]
    rows[1]["step_labels"] = None
    path = str(write_rows(tmp_path / "some.jsonl", rows))
    train, dev = read(DataConfig(train=path, dev=path), StepsConfig(), 0)
    assert (len(train.groups), sum(map(len, train.groups))) == (11, 12 * 4 - 2 - 4)
    assert train.report.dropped["responses without a step label"] == 6
    assert sum(map(len, dev.groups)) == 48  # measured all the same
    encoded = encode(train, partial(encoder.group, step_labels=True), None, "error")
    assert all(len(r.step_labels) == max(r.step_of_token) + 1 for group in encoded for r in group.responses)
    assert encode(train, encoder.group, None, "error")[0].responses[0].step_labels is None
    assert len(read(DataConfig(train=path), CEConfig(), 0)[0].groups) == 12


def test_ce_held_against_a_groups_mean_needs_both_kinds(path):
    assert len(read(DataConfig(train=path), CEConfig(offset="group_mean"), 0)[0].groups) == 11
    assert len(read(DataConfig(train=path), CEConfig(offset="prompt_accuracy"), 0)[0].groups) == 12
