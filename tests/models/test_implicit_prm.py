"""ImplicitPRM: scores do not depend on batching, survive a save, and LoRA switched off is the base model."""

import json
import math
import shutil
import warnings

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from implicit_prm import ImplicitPRM, ImplicitPRMError, Scorer, aggregate, sandbox
from implicit_prm.config import TextConfig
from implicit_prm.models.checkpoint import ADAPTER_OFF, BaselineMetadata, CheckpointMetadata
from implicit_prm.sandbox.world import true_solution
from tests.conftest import tiny_model

PROBLEM = "Modulo 50, left to right: 12 + 7 * 3 + 4"
RESPONSES = [
    "12 + 7 = 19\n19 * 3 = 7\n7 + 4 = 11\n\\boxed{11}",
    "12 + 7 = 20\n20 * 3 = 10\n10 + 4 = 14\n\\boxed{14}",
    "\\boxed{3}",
]


@pytest.fixture
def prm(tiny_folder, other_folder):
    return ImplicitPRM.from_pretrained(
        other_folder, reference=str(tiny_folder), beta=0.5, steps="newline", device="cpu"
    )


def _lora(tokenizer, folder=None):
    """A LoRA that does something: its second factor, zero when new, is random."""
    torch.manual_seed(3)
    base = AutoModelForCausalLM.from_pretrained(folder).eval() if folder else tiny_model(tokenizer)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def test_the_score_is_beta_times_the_log_ratio_of_the_two_models(prm, tokenizer, tiny_folder, other_folder):
    (score,) = prm.score(PROBLEM, RESPONSES[:1])
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": PROBLEM}], tokenize=False, add_generation_prompt=True
    )
    ids = tokenizer(prompt + RESPONSES[0] + "<|end|>", return_tensors="pt").input_ids
    start = len(tokenizer(prompt).input_ids)
    sums = []
    for folder in (other_folder, tiny_folder):
        logprobs = AutoModelForCausalLM.from_pretrained(folder)(ids).logits.log_softmax(-1)
        sums.append(logprobs[0, :-1].gather(-1, ids[0, 1:, None])[start - 1 :].sum().item())
    assert score.outcome_reward == pytest.approx(0.5 * (sums[0] - sums[1]), abs=1e-4)
    assert score.reference_logprob == pytest.approx(sums[1], abs=1e-4)
    assert len(score.step_rewards) == 4
    assert score.prefix_values[-1] == pytest.approx(sum(score.step_rewards))
    assert sum(score.token_rewards) == pytest.approx(score.outcome_reward, abs=1e-5)


def test_it_is_a_scorer_and_batches_do_not_matter(prm):
    assert isinstance(prm, Scorer)
    together = prm.score(PROBLEM, RESPONSES)
    for place, response in enumerate(RESPONSES):
        (alone,) = prm.score(PROBLEM, [response])
        assert together[place].step_rewards == pytest.approx(alone.step_rewards, abs=1e-5)
        assert together[place].index == place
    assert [s.step_rewards for s in prm.score(PROBLEM, RESPONSES, max_tokens=40)] == [
        pytest.approx(s.step_rewards, abs=1e-5) for s in together
    ]


def test_rerank_puts_the_best_first(prm):
    ranked = prm.rerank(PROBLEM, RESPONSES)
    values = [aggregate(score) for score in ranked]
    assert values == sorted(values, reverse=True)
    assert {score.index for score in ranked} == {0, 1, 2}
    assert [score.response for score in ranked] == [RESPONSES[score.index] for score in ranked]
    by_sum = prm.rerank(PROBLEM, RESPONSES, aggregate="sum")
    assert by_sum[0].outcome_reward == max(score.outcome_reward for score in ranked)


def test_against_itself_every_reward_is_zero(tiny_folder):
    prm = ImplicitPRM.from_pretrained(tiny_folder, reference=str(tiny_folder), beta=1.0, device="cpu")
    assert all(reward == 0.0 for score in prm.score(PROBLEM, RESPONSES) for reward in score.step_rewards)


def test_without_a_reference_the_score_is_the_scaled_log_likelihood(prm, other_folder, tiny_folder):
    none = ImplicitPRM.from_pretrained(other_folder, reference="none", beta=0.5, steps="newline", device="cpu")
    for with_reference, without in zip(prm.score(PROBLEM, RESPONSES), none.score(PROBLEM, RESPONSES), strict=True):
        assert without.reference_logprob is None
        assert without.outcome_reward == pytest.approx(
            with_reference.outcome_reward + 0.5 * with_reference.reference_logprob, abs=1e-4
        )


def test_a_truncated_response_gets_no_end_of_turn(prm):
    whole, cut = (prm.score(PROBLEM, RESPONSES[:1], finished=[done])[0] for done in (True, False))
    assert len(cut.token_rewards) == len(whole.token_rewards) - 1
    assert cut.token_rewards == pytest.approx(whole.token_rewards[:-1], abs=1e-5)


def test_an_empty_response_has_no_step_and_cannot_win(prm):
    empty, *_ = prm.score(PROBLEM, ["", *RESPONSES])
    assert empty.step_rewards == []
    assert aggregate(empty) == -math.inf


def test_a_response_over_the_context_is_named(prm):
    with pytest.raises(ImplicitPRMError, match=r"response 1 is .* limit is 256"):
        prm.score(PROBLEM, [RESPONSES[0], "1 + 1 = 2\n" * 100])


def test_the_length_in_training_does_not_limit_scoring(tmp_path, prm, tiny_folder):
    prm.metadata.max_length = 20
    prm.save_pretrained(tmp_path)
    again = ImplicitPRM.from_pretrained(tmp_path, device="cpu")
    assert again.limit_tokens == 256
    assert again.score(PROBLEM, RESPONSES[:1]) == prm.score(PROBLEM, RESPONSES[:1])
    short = ImplicitPRM.from_pretrained(tmp_path, max_length=20, device="cpu")
    with pytest.raises(ImplicitPRMError, match="limit is 20, max_length"):
        short.score(PROBLEM, RESPONSES[:1])


def test_a_checkpoint_of_version_0_1_opens(tmp_path, prm):
    prm.save_pretrained(tmp_path)
    path = tmp_path / "implicit_prm.json"
    values = json.loads(path.read_text())
    del values["max_length"]
    values["text"]["max_length"] = 20
    path.write_text(json.dumps(values))
    assert ImplicitPRM.from_pretrained(tmp_path, device="cpu").limit_tokens == 256
    assert CheckpointMetadata.read(tmp_path).max_length == 20


def test_template_kwargs_are_overridden_and_saved(tmp_path, tiny_folder):
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    tokenizer.chat_template = "{% if brief %}{{ '1' }}{% endif %}" + tokenizer.chat_template
    tiny_model(tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    options = {"reference": "none", "beta": 1.0, "device": "cpu"}
    plain = ImplicitPRM.from_pretrained(tmp_path, **options)
    brief = ImplicitPRM.from_pretrained(tmp_path, template_kwargs={"brief": True}, **options)
    assert len(brief.encoder.prompt_ids(PROBLEM)) == len(plain.encoder.prompt_ids(PROBLEM)) + 1
    brief.save_pretrained(tmp_path / "saved")
    again = ImplicitPRM.from_pretrained(tmp_path / "saved", device="cpu")
    assert again.encoder.prompt_ids(PROBLEM) == brief.encoder.prompt_ids(PROBLEM)


def test_lora_switched_off_is_the_base_model(tokenizer, tiny_folder):
    policy = _lora(tokenizer)
    metadata = CheckpointMetadata(1.0, ADAPTER_OFF, text=TextConfig(steps="newline"))
    adapted = ImplicitPRM(policy, tokenizer, None, metadata).score(PROBLEM, RESPONSES)
    base = ImplicitPRM.from_pretrained(tiny_folder, reference="none", beta=1.0, steps="newline", device="cpu")
    for ours, plain in zip(adapted, base.score(PROBLEM, RESPONSES), strict=True):
        assert ours.reference_logprob == pytest.approx(plain.outcome_reward, abs=1e-4)
        assert abs(ours.outcome_reward) > 1e-3


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_saved_model_scores_the_same_and_opens_with_plain_transformers(
    kind, tmp_path, prm, tokenizer, tiny_folder, other_folder
):
    if kind == "lora":
        metadata = CheckpointMetadata(0.3, ADAPTER_OFF, base=str(tiny_folder), text=TextConfig(steps="newline"))
        prm = ImplicitPRM(_lora(tokenizer, tiny_folder), tokenizer, None, metadata)
    prm.save_pretrained(tmp_path / "saved")
    again = ImplicitPRM.from_pretrained(tmp_path / "saved", device="cpu")
    assert again.metadata == prm.metadata
    for before, after in zip(prm.score(PROBLEM, RESPONSES), again.score(PROBLEM, RESPONSES), strict=True):
        assert after.step_rewards == pytest.approx(before.step_rewards, abs=1e-6)
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").chat_template
    if kind == "lora":
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_folder), tmp_path / "saved")
    else:
        AutoModelForCausalLM.from_pretrained(tmp_path / "saved")


def test_a_folder_without_metadata_needs_reference_and_beta(tiny_folder):
    with pytest.raises(ImplicitPRMError, match=r"has no implicit_prm\.json"):
        ImplicitPRM.from_pretrained(tiny_folder)
    with pytest.raises(ImplicitPRMError, match="not a LoRA adapter"):
        ImplicitPRM.from_pretrained(tiny_folder, reference=ADAPTER_OFF, beta=1.0)


def test_an_explicit_reward_model_is_refused_by_its_name(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "explicit")
    BaselineMetadata("orm", "outcome").write(folder)
    with pytest.raises(ImplicitPRMError, match="RewardModel"):
        ImplicitPRM.from_pretrained(folder)


@pytest.mark.parametrize("beta", [0.0, -1.0, math.nan, math.inf, 1e308])
def test_a_beta_that_gives_no_rewards_is_refused(beta, tiny_folder):
    with pytest.raises(ImplicitPRMError, match="beta"):
        ImplicitPRM.from_pretrained(tiny_folder, reference="none", beta=beta)


@pytest.mark.parametrize("max_length", [0, -1])
def test_a_max_length_below_one_is_refused(max_length, tiny_folder):
    with pytest.raises(ImplicitPRMError, match="max_length"):
        ImplicitPRM.from_pretrained(tiny_folder, reference="none", beta=1.0, max_length=max_length)


def test_code_of_a_reference_runs_only_if_the_user_names_it(coded_folder, tiny_folder, tmp_path):
    """`trust_remote_code` is for what the user names, not for what the checkpoint's implicit_prm.json names."""
    code, has_run = coded_folder
    ImplicitPRM.from_pretrained(tiny_folder, reference="none", beta=1.0).save_pretrained(tmp_path)
    CheckpointMetadata(1.0, str(code)).write(tmp_path)
    with pytest.raises(ImplicitPRMError, match=f"reference={code}"):
        ImplicitPRM.from_pretrained(tmp_path, trust_remote_code=True)
    with pytest.raises(ImplicitPRMError, match="trust_remote_code"):
        ImplicitPRM.from_pretrained(code, reference="none", beta=1.0)
    assert not has_run()
    prm = ImplicitPRM.from_pretrained(tmp_path, reference=str(code), trust_remote_code=True, device="cpu")
    assert has_run()
    assert prm.score(PROBLEM, RESPONSES[:1])[0].outcome_reward == pytest.approx(0, abs=1e-4)


def test_damaged_metadata_is_named(tmp_path, prm):
    prm.save_pretrained(tmp_path)
    (tmp_path / "implicit_prm.json").write_text('{"beta": "x"')
    with pytest.raises(ImplicitPRMError, match="damaged"):
        ImplicitPRM.from_pretrained(tmp_path)
    (tmp_path / "implicit_prm.json").write_text('{"beta": "x", "reference": "none"}')
    with pytest.raises(ImplicitPRMError, match=r"implicit_prm\.json: beta='x'"):
        ImplicitPRM.from_pretrained(tmp_path)


def test_models_of_different_vocabularies_are_refused(tmp_path, tokenizer, tiny_folder):
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    tokenizer.add_tokens(["extra"])
    tiny_model(tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ImplicitPRMError, match=f"the reference {tiny_folder}"):
        ImplicitPRM.from_pretrained(tmp_path, reference=str(tiny_folder), beta=1.0)


def test_the_sandbox_policy_opens_by_its_name():
    prm = ImplicitPRM.from_pretrained("sandbox", reference="none", beta=1.0, steps="newline", device="cpu")
    problem = sandbox.problems("test", 1)[0]
    right, nonsense = prm.score(problem.text, [true_solution(problem), "+ + = = 3 " * 5])
    assert right.outcome_reward > nonsense.outcome_reward


def test_a_warning_if_rounding_drowns_the_signal(tiny_folder, other_folder):
    """The same model twice has no signal at all; another model's log-ratio is far above the noise."""
    same = ImplicitPRM.from_pretrained(tiny_folder, tiny_folder, 1.0, steps="newline", dtype="bfloat16", device="cpu")
    with pytest.warns(UserWarning, match="bfloat16.*dtype=float32"):
        same.score(PROBLEM, RESPONSES)
    for dtype in ("bfloat16", "float32"):
        far = ImplicitPRM.from_pretrained(tiny_folder, other_folder, 1.0, steps="newline", dtype=dtype, device="cpu")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            far.score(PROBLEM, RESPONSES)


def test_token_rewards_of_ids_are_those_of_their_text(prm):
    prompt = prm.encoder.prompt_ids(PROBLEM)
    ids = [one.ids for one in prm.encoder.responses(RESPONSES)]
    scores = prm.score(PROBLEM, RESPONSES)
    for found, score in zip(prm.token_rewards(prompt, ids), scores, strict=True):
        assert found.tolist() == pytest.approx(score.token_rewards, abs=1e-6)
    known = prm.reference_logprobs(prompt, ids)
    halved = prm.token_rewards(prompt, ids, [values - 1 for values in known])
    assert halved[0].tolist() == pytest.approx([value + 0.5 for value in scores[0].token_rewards], abs=1e-6)
    with pytest.raises(ImplicitPRMError, match="response 1"):
        prm.token_rewards(prompt, [ids[0], ids[0] * 20])
