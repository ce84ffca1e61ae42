"""RewardModel: its scores are those of plain transformers at the trained positions, whatever the batch."""

from shutil import copytree

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, AutoTokenizer

from implicit_prm.baselines import RewardModel
from implicit_prm.baselines.run import fit
from implicit_prm.config import StepTokens, TextConfig
from implicit_prm.data.groups import load_groups
from implicit_prm.models.checkpoint import BaselineMetadata
from implicit_prm.rewards.implicit_reward import AGGREGATES, aggregate
from implicit_prm.types import ImplicitPRMError, Scorer, StepSpan
from tests.baselines.runs import KINDS, PROBLEM, RESPONSES, baseline, labelled_file, quiet, with_random_head
from tests.conftest import tiny_model


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def checkpoint(kind, tmp_path_factory, tiny_folder):
    folder = tmp_path_factory.mktemp(kind)
    rollouts = labelled_file(folder / "rows.jsonl")
    trainer = {"max_steps": 20, "learning_rate": 1e-2}
    fit(baseline(folder / "model", tiny_folder, rollouts, kind, trainer=trainer), quiet)
    return folder / "model"


@pytest.fixture(scope="module")
def model(checkpoint):
    return RewardModel.from_pretrained(checkpoint, device="cpu")


def test_it_is_a_scorer_that_gives_a_probability_for_each_step(model, kind):
    assert isinstance(model, Scorer)
    scores = model.score(PROBLEM, RESPONSES)
    assert [len(one.step_rewards) for one in scores] == ([1, 1, 1] if kind == "orm" else [4, 3, 1])
    for place, (one, text) in enumerate(zip(scores, RESPONSES, strict=True)):
        assert (one.kind, one.index, one.prefix_values, "".join(one.steps)) == ("probability", place, None, text)
        assert all(0 < value < 1 for value in one.step_rewards)
    assert len({round(value, 4) for one in scores for value in one.step_rewards}) > 2


@torch.no_grad()
def _by_hand(folder, kind, text):
    """Scores of one response by plain transformers: no batch, no mask, every position."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": PROBLEM}], add_generation_prompt=True)[
        "input_ids"
    ]
    steps = text.splitlines(keepends=True)
    ids, read = list(prompt), []
    for number, step in enumerate(steps):
        ids += tokenizer(step, add_special_tokens=False)["input_ids"]
        ids += [tokenizer.convert_tokens_to_ids("<|end|>")] * (number == len(steps) - 1)
        ids += [tokenizer.convert_tokens_to_ids("<|system|>")] * (kind == "next_token")
        read.append(len(ids) - 1)
    if kind == "next_token":
        logits = AutoModelForCausalLM.from_pretrained(folder)(torch.tensor([ids])).logits[0, read]
        return logits[:, tokenizer.convert_tokens_to_ids(["1", "0"])].softmax(-1)[:, 0].tolist()
    logits = AutoModelForTokenClassification.from_pretrained(folder)(torch.tensor([ids])).logits[0, :, 0]
    return logits[read[-1:] if kind == "orm" else read].sigmoid().tolist()


def test_scores_equal_those_of_plain_transformers(model, checkpoint, kind):
    """Nothing is masked out of attention, verdict tokens included, and every step is read at its own end."""
    for text, one in zip(RESPONSES, model.score(PROBLEM, RESPONSES), strict=True):
        assert one.step_rewards == pytest.approx(_by_hand(checkpoint, kind, text), abs=1e-5)


def test_training_and_scoring_read_the_same_positions(kind, tmp_path, tiny_folder):
    """The loss before the first update is that of the initial model's own scores."""
    rollouts = labelled_file(tmp_path / "rows.jsonl", problems=2, responses=3)
    start = tiny_folder if kind == "next_token" else with_random_head(tmp_path / "start", tiny_folder)
    still = {"learning_rate": 0.0, "max_steps": 1}
    metrics = fit(baseline(tmp_path / "run", start, rollouts, kind, trainer=still), quiet)
    model = RewardModel.from_pretrained(tmp_path / "run", device="cpu")
    values, targets = [], []
    for group in load_groups(str(rollouts)):
        for place, one in enumerate(model.score(group.prompt, group.completions)):
            values += one.step_rewards
            targets += [group.correctness[place]] if kind == "orm" else group.step_labels[place]
    expected = F.binary_cross_entropy(torch.tensor(values), torch.tensor(targets, dtype=torch.float32))
    assert metrics["train_loss"] == pytest.approx(expected.item(), abs=1e-5)
    assert len(set(targets)) == 2
    assert len(set(values)) > 2


class _Spy:
    """Records the arguments of a model's calls."""

    def __init__(self, model):
        self.seen = []
        model.register_forward_pre_hook(lambda _, args, inputs: self.seen.append(inputs), with_kwargs=True)


def test_the_attention_mask_is_zero_on_padding_only(model):
    """Whatever the ids: verdict tokens, separators and the padding's id in a text are attended to."""
    spy = _Spy(model.model)
    model.score(PROBLEM, [*RESPONSES, "<pad>0<|end|>1"])
    (seen,) = spy.seen
    lengths = model.lengths(PROBLEM, [*RESPONSES, "<pad>0<|end|>1"], [True] * 4)
    width = max(lengths)
    order = sorted(range(4), key=lambda place: lengths[place], reverse=True)
    expected = [[1] * lengths[place] + [0] * (width - lengths[place]) for place in order]
    assert seen["attention_mask"].tolist() == expected
    inside = seen["input_ids"][seen["attention_mask"].bool()].tolist()
    assert set(model.tokenizer.convert_tokens_to_ids(["1", "0", "<pad>", "<|end|>"])) <= set(inside)


@pytest.mark.parametrize("max_tokens", [1, 80, 10_000])
def test_scores_do_not_depend_on_the_batch(model, max_tokens):
    together = model.score(PROBLEM, RESPONSES, max_tokens=max_tokens)
    for text, one in zip(RESPONSES, together, strict=True):
        assert one.step_rewards == pytest.approx(model.score(PROBLEM, [text])[0].step_rewards, abs=1e-5)


def test_every_aggregate_of_an_outcome_score_is_that_score(tmp_path, tokenizer):
    model = _untrained(tokenizer, "orm")
    one, empty = model.score(PROBLEM, [RESPONSES[0], ""])
    assert one.spans == [StepSpan(0, len(RESPONSES[0]))]
    assert {aggregate(one, how) for how in AGGREGATES} == {one.step_rewards[0]}
    assert (empty.step_rewards, aggregate(empty)) == ([], -float("inf"))


def test_a_truncated_response_gets_no_end_of_turn(model):
    ended, cut = (model.score(PROBLEM, RESPONSES[:1], finished=[done])[0] for done in (True, False))
    assert ended.step_rewards[:-1] == pytest.approx(cut.step_rewards[:-1], abs=1e-6)
    assert ended.step_rewards[-1] != pytest.approx(cut.step_rewards[-1], abs=1e-6)


def test_lengths_count_separators_and_are_limited_by_the_context(model, kind):
    prompt = len(model.encoder.prompt_ids(PROBLEM))
    plain = [prompt + len(model.encoder.response(text).ids) for text in RESPONSES]
    extra = [4, 3, 1] if kind == "next_token" else [0, 0, 0]
    assert model.lengths(PROBLEM, RESPONSES, [True] * 3) == [a + b for a, b in zip(plain, extra, strict=True)]
    with pytest.raises(ImplicitPRMError, match=r"response 1 .* 256"):
        model.score(PROBLEM, [RESPONSES[0], "1 + 1 = 2\n" * 60])


def test_max_length_limits_scoring_below_the_context(checkpoint):
    short = RewardModel.from_pretrained(checkpoint, max_length=20, device="cpu")
    assert short.limit_tokens == 20
    with pytest.raises(ImplicitPRMError, match="max_length"):
        short.score(PROBLEM, RESPONSES[:1])


def test_the_step_rule_can_be_overridden(checkpoint, kind):
    model = RewardModel.from_pretrained(checkpoint, steps="given", device="cpu")
    given = [["10 + 1", "= 11"]]
    (one,) = model.score(PROBLEM, RESPONSES[2:], given_steps=given)
    assert one.steps == ([RESPONSES[2]] if kind == "orm" else ["10 + 1", " = 11"])


def test_a_folder_without_valid_metadata_is_refused(tiny_folder, checkpoint, tmp_path):
    with pytest.raises(ImplicitPRMError, match=r"has no baseline\.json"):
        RewardModel.from_pretrained(tiny_folder)
    (tmp_path / "baseline.json").write_text("{")
    with pytest.raises(ImplicitPRMError, match=r"baseline\.json"):
        RewardModel.from_pretrained(tmp_path)
    (tmp_path / "baseline.json").write_text('{"kind": "prm", "labels": "hard"}')
    with pytest.raises(ImplicitPRMError, match=r"baseline\.json: kind=prm"):
        RewardModel.from_pretrained(tmp_path)


def test_a_plain_model_is_not_scored_with_a_random_head(tmp_path, tiny_folder):
    copytree(tiny_folder, tmp_path / "m")
    BaselineMetadata("orm", "outcome").write(tmp_path / "m")
    with pytest.raises(ImplicitPRMError, match=r"no weights for score\.bias"):
        RewardModel.from_pretrained(tmp_path / "m")


def _untrained(tokenizer, kind):
    tokens = StepTokens("<|system|>", "1", "0") if kind == "next_token" else None
    settings = BaselineMetadata(kind, "outcome", tokens=tokens, text=TextConfig(steps="newline"))
    causal = tiny_model(tokenizer)
    if kind == "next_token":
        return RewardModel(causal, tokenizer, settings)
    torch.manual_seed(1)
    config = causal.config
    config.num_labels = 1
    return RewardModel(AutoModelForTokenClassification.from_config(config).eval(), tokenizer, settings)
