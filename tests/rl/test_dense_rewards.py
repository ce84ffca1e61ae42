"""Dense rewards of a batch: what scorers and PRMs are told of it."""

import warnings
from dataclasses import replace
from types import SimpleNamespace

import pytest
from accelerate import Accelerator

from implicit_prm import ImplicitPRM, ImplicitPRMError, StepScores
from implicit_prm.rewards.step_splitting import split_steps
from implicit_prm.rl import PrimeConfig
from implicit_prm.rl.dense_rewards import DenseRewards
from implicit_prm.rl.rollouts import Rollout, RolloutBatch
from tests.conftest import tiny_model
from tests.rl.grpo import options
from tests.runs import PROBLEM, RESPONSES

CHAT = [{"role": "user", "content": PROBLEM}]


def dense(prm, tokenizer, policy, folder):
    return DenseRewards(prm, PrimeConfig(**options(folder)), Accelerator(cpu=True), tokenizer, lambda: policy)


def test_a_response_may_end_in_any_of_the_models_end_tokens(tokenizer, tmp_path):
    told = []

    class Scorer:
        def score(self, problem, responses, finished):
            told.extend(finished)
            spans = [split_steps(text, "newline") for text in responses]
            return [StepScores(text, some, [0.0] * len(some)) for text, some in zip(responses, spans, strict=True)]

    other, word = tokenizer.pad_token_id, tokenizer("1")["input_ids"][0]
    policy = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=[tokenizer.eos_token_id, other]))
    rollouts = [Rollout(CHAT, [word], [word, last]) for last in (tokenizer.eos_token_id, other, word)]
    dense(Scorer(), tokenizer, policy, tmp_path)(RolloutBatch(rollouts), None)
    assert told == [True, True, False]


def test_labels_of_another_step_rule_are_refused(tiny_folder, tokenizer, tmp_path):
    """Also where the PRM has fewer steps: its first step is not the first line."""
    prm = ImplicitPRM.from_pretrained(tiny_folder, "none", 0.5, steps="blank_line", device="cpu")
    ids = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False)
    batch = RolloutBatch([Rollout(CHAT, ids, prm.encoder.response(RESPONSES[0]).ids)])
    lines = RESPONSES[0].count("\n") + 1
    scored = DenseRewards(
        prm,
        PrimeConfig(**options(tmp_path)),
        Accelerator(cpu=True),
        tokenizer,
        lambda: tiny_model(tokenizer),
        lambda prompt, text: [True] * lines,
    )
    assert lines > 1
    with pytest.raises(ImplicitPRMError, match=f"{lines} step labels but 1 steps"):
        scored(batch, None)


@pytest.mark.parametrize("loss", ["ce", "dpo"])
def test_a_critic_whose_rewards_are_no_log_odds_warns(loss, tiny_folder, tokenizer, tmp_path):
    prm = ImplicitPRM.from_pretrained(tiny_folder, "none", 0.5, device="cpu")
    prm.metadata = replace(prm.metadata, loss={"name": loss})
    args = PrimeConfig(**options(tmp_path), credit="value")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        DenseRewards(prm, args, Accelerator(cpu=True), tokenizer, lambda: tiny_model(tokenizer))
    assert [loss in str(one.message) for one in caught] == [True] * (loss == "dpo")


def test_a_prm_that_was_trained_with_another_template_warns(tiny_folder, tokenizer, tmp_path):
    prm = ImplicitPRM.from_pretrained(tiny_folder, "none", 0.5, prompt_template="Solve: {problem}", device="cpu")
    prm.metadata = replace(prm.metadata, template_hash=prm.encoder.template_hash)
    ids = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False)
    batch = RolloutBatch([Rollout(CHAT, ids, prm.encoder.response(RESPONSES[0]).ids)])
    with pytest.warns(UserWarning, match="Solve"):
        dense(prm, tokenizer, tiny_model(tokenizer), tmp_path)(batch, None)
