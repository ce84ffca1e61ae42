"""The reward function gives TRL what `rerank` ranks by, and trains a policy."""

import copy
import math
from dataclasses import replace

import pytest
from transformers import AutoModelForTokenClassification
from trl import GRPOConfig, GRPOTrainer

from implicit_prm import ImplicitPRM, ImplicitPRMError, StepScores, sandbox
from implicit_prm.baselines import RewardModel
from implicit_prm.config import TextConfig
from implicit_prm.data.tokenization import Encoder
from implicit_prm.models.checkpoint import BaselineMetadata
from implicit_prm.rl import reward_function
from tests.conftest import tiny_model
from tests.rl.grpo import accuracy, dataset, options
from tests.runs import PROBLEM, RESPONSES

CHAT = [{"role": "user", "content": PROBLEM}]


@pytest.fixture(scope="module")
def prm(tiny_folder, other_folder):
    folders = str(tiny_folder), str(other_folder)
    return ImplicitPRM.from_pretrained(folders[0], reference=folders[1], beta=0.5, steps="newline", device="cpu")


def encoded(prm, texts, finished=True):
    return [one.ids for one in prm.encoder.responses(texts, [finished] * len(texts))]


@pytest.mark.parametrize("over", ["step", "prefix", "step_mean"])
@pytest.mark.parametrize("aggregate", ["min", "sum", "last", "mean"])
def test_the_reward_is_what_rerank_sorts_by(aggregate, over, prm):
    reward = reward_function(prm, aggregate, over, squash="none")
    found = reward(prompts=[CHAT] * 2, completions=RESPONSES, completion_ids=encoded(prm, RESPONSES))
    order = [score.index for score in prm.rerank(PROBLEM, RESPONSES, aggregate, over)]
    assert sorted(range(2), key=found.__getitem__, reverse=True) == order
    squashed = reward_function(prm, aggregate, over)(prompts=[CHAT] * 2, completions=RESPONSES)
    assert squashed == pytest.approx([1 / (1 + math.exp(-value)) for value in found])


def test_a_product_is_a_probability_already(prm):
    found = reward_function(prm, "product")(prompts=[CHAT] * 3, completions=[*RESPONSES, ""])
    steps = [one.step_rewards for one in prm.score(PROBLEM, RESPONSES)]
    expected = [math.prod(1 / (1 + math.exp(-value)) for value in values) for values in steps]
    assert found == pytest.approx([*expected, 0.0])


def test_texts_chats_and_mixed_prompts_come_back_in_order(prm):
    other = "Modulo 50, left to right: 1 + 2 + 3 + 4"
    reward = reward_function(prm)
    chats = [[{"role": "assistant", "content": text}] for text in (*RESPONSES, RESPONSES[0])]
    found = reward(prompts=[CHAT, [{"role": "user", "content": other}], CHAT], completions=chats)
    pairs = [(PROBLEM, RESPONSES[0]), (other, RESPONSES[1]), (PROBLEM, RESPONSES[0])]
    alone = [reward(prompts=[prompt], completions=[text])[0] for prompt, text in pairs]
    assert found == pytest.approx(alone, abs=1e-6)


def test_a_response_that_was_cut_off_is_scored_without_an_end(prm):
    reward = reward_function(prm, "sum", squash="none")
    for finished in (True, False):
        ids = encoded(prm, RESPONSES[:1], finished)
        (found,) = reward(prompts=[CHAT], completions=RESPONSES[:1], completion_ids=ids)
        assert found == pytest.approx(
            prm.score(PROBLEM, RESPONSES[:1], finished=[finished])[0].outcome_reward, abs=1e-5
        )


def test_responses_that_cannot_be_scored_get_the_lowest_reward(prm):
    texts = ["", RESPONSES[0], "1 + 1 = 2\n" * 100]
    assert reward_function(prm)(prompts=[CHAT] * 3, completions=texts)[::2] == [0.0, 0.0]
    found = reward_function(prm, squash="none")(prompts=[CHAT] * 3, completions=texts)
    assert [value is None for value in found] == [True, False, True]


def test_another_scorer_with_probabilities():
    class Checker:
        def score(self, problem, responses):
            right = [list(map(float, sandbox.check_steps(problem[0]["content"], text))) for text in responses]
            pairs = zip(responses, right, strict=True)
            return [StepScores(text, [], values, kind="probability") for text, values in pairs]

    assert reward_function(Checker())(prompts=[CHAT] * 2, completions=RESPONSES) == [1.0, 0.0]


def test_an_explicit_model_is_told_which_responses_were_cut_off(tokenizer):
    told = []

    class Told(RewardModel):
        def score(self, problem, responses, *, finished):
            told.extend(finished)
            return super().score(problem, responses, finished=finished)

    config = tiny_model(tokenizer).config
    config.num_labels = 1
    model = AutoModelForTokenClassification.from_config(config).eval()
    scorer = Told(model, tokenizer, BaselineMetadata("orm", "outcome"))
    ids = [scorer.encoder.response(text, done).ids for text, done in zip(RESPONSES, [True, False], strict=True)]
    reward_function(scorer)(prompts=[CHAT] * 2, completions=RESPONSES, completion_ids=ids)
    assert told == [True, False]


def test_metrics(prm):
    logged = {}
    reward = reward_function(prm, correct=accuracy, name="dense")
    chats = [[{"role": "assistant", "content": text}] for text in RESPONSES]
    found = reward(prompts=[CHAT] * 2, completions=chats, answer=["11", "11"], log_metric=logged.__setitem__)
    assert logged["dense/outcome_auroc"] == float(found[0] > found[1])
    lowest = [min(one.step_rewards) for one in prm.score(PROBLEM, RESPONSES)]
    assert logged["dense/step_min"] == pytest.approx(sum(lowest) / 2, abs=1e-5)
    one_class = {}
    reward(prompts=[CHAT], completions=chats[:1], answer=["11"], log_metric=one_class.__setitem__)
    assert one_class.keys() == {"dense/step_min"}


def test_another_tokenizer_is_refused(prm):
    with pytest.raises(ImplicitPRMError, match="tokenizer"):
        reward_function(prm)(prompts=[CHAT], completions=RESPONSES[:1], completion_ids=[[5, 6, 7]])


def test_prompts_that_are_not_those_of_its_training_give_a_warning(prm):
    """Its prompt template is not applied to chats, and once more to texts that hold it."""
    encoder = Encoder(prm.tokenizer, TextConfig("newline", prompt_template="1 + {problem}"))
    other = copy.copy(prm)
    other.encoder, other.metadata = encoder, replace(prm.metadata, text=encoder.text, template_hash="0")
    for prompt in (CHAT, f"1 + {PROBLEM}"):
        with pytest.warns(UserWarning, match=r"1 \+ \{problem\}"):
            reward_function(other)(prompts=[prompt], completions=RESPONSES[:1])


@pytest.mark.parametrize(
    ("options", "named"), [({"aggregate": "best"}, "best"), ({"over": "token"}, "token"), ({"squash": "tanh"}, "tanh")]
)
def test_unknown_options_are_refused(options, named, prm):
    with pytest.raises(ImplicitPRMError, match=named):
        reward_function(prm, **options)


def test_chats_with_tools_are_refused(prm):
    chat = [{"role": "assistant", "content": "1"}, {"role": "tool", "content": "2"}]
    with pytest.raises(ImplicitPRMError, match="assistant, tool"):
        reward_function(prm)(prompts=[CHAT], completions=[chat])


def test_grpo_trains_with_it(prm, tmp_path, tokenizer):
    trainer = GRPOTrainer(
        str(sandbox.POLICY_PATH),
        reward_funcs=[accuracy, reward_function(prm, correct=accuracy)],
        args=GRPOConfig(**options(tmp_path)),
        train_dataset=dataset(),
    )
    trainer.train()
    logs = [row for row in trainer.state.log_history if "loss" in row]
    assert len(logs) == 2
    for row in logs:
        assert 0 < row["rewards/prm/mean"] < 1
        assert row["prm/step_min"] < 0
        assert math.isfinite(row["grad_norm"])
