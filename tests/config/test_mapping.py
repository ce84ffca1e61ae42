"""Unknown options, missing options and wrong types are refused by name."""

import pytest

from implicit_prm.config import (
    BestOfNConfig,
    CEConfig,
    DPOConfig,
    KTOConfig,
    NCAConfig,
    PolicyConfig,
    PrefixConfig,
    RolloutConfig,
    SamplingConfig,
    ServerConfig,
    StepsConfig,
    TrainConfig,
    from_mapping,
)
from tests.config.examples import BEST_OF_N, ROLLOUT, SERVER, TRAIN, assert_refused, changed


def test_only_required_options_are_needed():
    config = from_mapping(TrainConfig, TRAIN)
    assert config.model.beta == 0.05
    assert config.model.lora is None
    assert isinstance(config.loss, CEConfig)
    assert config.data.steps == "blank_line"
    assert from_mapping(RolloutConfig, ROLLOUT).sampling == SamplingConfig()
    assert from_mapping(BestOfNConfig, BEST_OF_N).rollout.policy.name == "m"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"output_folder": "x"}, ["output_folder", "output_dir"]),
        ({"model__bta": 0.1}, ["model.bta", "model.beta"]),
        ({"data__max_promts": 3}, ["data.max_promts", "data.max_prompts"]),
        ({"loss__balanse": "none"}, ["loss.balanse", "loss.balance"]),
        ({"model__lora": {"rr": 8, "alpha": 8}}, ["model.lora.rr", "model.lora.r?"]),
        ({"zzz": 1}, ["zzz", "model, data, loss, output_dir"]),
        # Names of other libraries.
        ({"model__torch_dtype": "bfloat16"}, ["model.torch_dtype", "model.dtype"]),
        ({"model__lora": {"rank": 8}}, ["model.lora.rank", "model.lora.r?"]),
        ({"data__dataset": "f"}, ["data.dataset", "data.train"]),
    ],
)
def test_an_unknown_option_is_named_with_the_nearest_one(changes, words):
    assert_refused(TrainConfig, changed(TRAIN, **changes), *words)


@pytest.mark.parametrize(
    ("name", "near"),
    [("responses", "sampling.n"), ("num_return_sequences", "sampling.n"), ("max_tokens", "sampling.max_new_tokens")],
)
def test_an_option_of_sampling_is_found_by_its_synonyms(name, near):
    assert_refused(RolloutConfig, changed(ROLLOUT, sampling={name: 4}), f"sampling.{name}", f"{near}?")


@pytest.mark.parametrize("key", ["model", "data", "loss", "output_dir"])
def test_a_missing_option_is_named(key):
    assert_refused(TrainConfig, {name: value for name, value in TRAIN.items() if name != key}, f"{key}: missing")


def test_a_missing_nested_option_is_named_in_full():
    assert_refused(TrainConfig, changed(TRAIN, model={}), "model.name: missing")
    values = changed(BEST_OF_N, rollout=changed(ROLLOUT, policy={"kind": "transformers"}))
    assert_refused(BestOfNConfig, values, "rollout.policy.name: missing")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model__beta": "1e-4"}, ["model.beta='1e-4'", "a number", "str"]),
        ({"model__beta": True}, ["model.beta=True", "a number", "bool"]),
        ({"model__beta": None}, ["model.beta=None", "a number"]),
        ({"data__max_prompts": True}, ["data.max_prompts=True", "a whole number", "bool"]),
        ({"data__max_prompts": 2.0}, ["data.max_prompts=2.0", "a whole number", "float"]),
        ({"data__max_prompts": "2"}, ["data.max_prompts='2'", "a whole number"]),
        ({"overwrite": 1}, ["overwrite=1", "true or false", "int"]),
        ({"overwrite": "false"}, ["overwrite='false'", "true or false"]),
        ({"output_dir": 7}, ["output_dir=7", "a text"]),
        ({"output_dir": None}, ["output_dir=None", "a text"]),
        ({"model__dtype": "float64"}, ["model.dtype=float64", "auto, float32, bfloat16, float16"]),
        ({"data__steps": "sentence"}, ["data.steps=sentence", "blank_line, newline, step_marker, given"]),
        ({"model": "sandbox"}, ["model='sandbox'", "group"]),
        ({"trainer": [1]}, ["trainer=[1]", "group"]),
        ({"model__lora": 16}, ["model.lora=16", "group"]),
        ({"model__lora": {"r": "16"}}, ["model.lora.r='16'", "a whole number"]),
        ({"model__lora": {"target_modules": 3}}, ["model.lora.target_modules=3", "a text or list[str]"]),
        ({"model__lora": {"target_modules": {"q": 1}}}, ["model.lora.target_modules={'q': 1}", "a text or list[str]"]),
        ({"model__lora": {"target_modules": ["q_proj", 3]}}, ["model.lora.target_modules"]),
    ],
)
def test_a_wrong_type_is_named_with_the_right_one(changes, words):
    assert_refused(TrainConfig, changed(TRAIN, **changes), *words)


@pytest.mark.parametrize("number", [2**63, -(10**400)])
@pytest.mark.parametrize("option", ["n", "temperature"])
def test_a_whole_number_of_too_many_bits_is_refused(option, number):
    assert_refused(SamplingConfig, {option: number}, option)


def test_a_whole_number_is_a_number_and_null_is_none():
    config = from_mapping(TrainConfig, changed(TRAIN, model__beta=1, model__revision=None, data__max_length=512))
    assert config.model.beta == 1.0
    assert type(config.model.beta) is float
    assert config.model.revision is None
    assert config.data.max_length == 512


def test_either_type_of_a_union_is_valid():
    for modules in ("all-linear", ["q_proj", "v_proj"]):
        lora = {"r": 4, "target_modules": modules}
        assert from_mapping(TrainConfig, changed(TRAIN, model__lora=lora)).model.lora.target_modules == modules


def test_trainer_options_are_passed_on_unchanged():
    options = {"learning_rate": "1e-4", "max_steps": 3, "anything": None}
    assert from_mapping(TrainConfig, changed(TRAIN, trainer=options)).trainer == options


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ({"name": "dpo", "pairing": "one_to_one"}, DPOConfig(pairing="one_to_one")),
        ({"name": "nca", "form": "group"}, NCAConfig(form="group")),
        ({"name": "kto", "desirable_weight": 2}, KTOConfig(desirable_weight=2.0)),
        ({"name": "ce", "balance": "prompt"}, CEConfig(balance="prompt")),
        ({"name": "ce", "offset": "group_mean", "balance": "prompt"}, CEConfig("ce", "prompt", "group_mean")),
        ({"name": "prefix", "margin": 0}, PrefixConfig(margin=0.0)),
        ({"name": "steps"}, StepsConfig()),
        ({"name": "ce", "batch_unit": "response"}, CEConfig(batch_unit="response")),
    ],
)
def test_a_loss_is_chosen_by_its_name(loss, expected):
    assert from_mapping(TrainConfig, changed(TRAIN, loss=loss)).loss == expected


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        ({"name": "ce", "pairing": "all"}, ["loss.pairing"]),
        ({"name": "dpo", "balance": "prompt"}, ["loss.balance"]),
        ({"name": "nca", "desirable_weight": 1.0}, ["loss.desirable_weight"]),
        ({"name": "kto", "form": "pair"}, ["loss.form=pair", "unpaired, paired"]),
        ({"name": "ce", "offset": "mean"}, ["loss.offset=mean", "none, group_mean, prompt_accuracy"]),
        ({"name": "steps", "margin": 1.0}, ["loss.margin"]),
        ({"name": "dpo", "batch_unit": "response"}, ["loss.batch_unit"]),
        ({"name": "ipo"}, ["loss.name=ipo", "ce, dpo, kto, nca"]),
        ({}, ["loss.name=None", "ce, dpo, kto, nca"]),
        ("ce", ["loss='ce'", "group"]),
        (None, ["loss=None", "group"]),
        ({"name": ["ce"]}, ["loss.name=['ce']"]),
    ],
)
def test_options_of_another_loss_are_refused(loss, words):
    assert_refused(TrainConfig, changed(TRAIN, loss=loss), *words)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({"kind": "transformers", "name": "m"}, PolicyConfig("m")),
        ({"name": "m", "dtype": "float32"}, PolicyConfig("m", dtype="float32")),
        (SERVER, ServerConfig("http://localhost:8000/v1", "m")),
        ({name: value for name, value in SERVER.items() if name != "kind"}, ServerConfig(SERVER["base_url"], "m")),
        (SERVER | {"extra_body": None}, ServerConfig(SERVER["base_url"], "m", extra_body=None)),
    ],
)
def test_a_policy_is_chosen_by_its_kind(policy, expected):
    """Without a kind, a policy with a base_url is on a server."""
    assert from_mapping(RolloutConfig, changed(ROLLOUT, policy=policy)).policy == expected


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ({"kind": "vllm", "name": "m"}, ["policy.kind=vllm", "server, transformers"]),
        ({"kind": None, "name": "m"}, ["policy.kind=None", "server, transformers"]),
        ({}, ["policy.kind=None", "server, transformers"]),
        ({"kind": "transformers", "name": "m", "base_url": "http://h/v1"}, ["policy.base_url"]),
        (SERVER | {"dtype": "float32"}, ["policy.dtype"]),
        ({"kind": "server", "name": "m"}, ["policy.base_url: missing"]),
        ({"base_url": "http://h/v1"}, ["policy.name: missing"]),
        ({"name": "m", "retries": 2}, ["policy.retries"]),
    ],
)
def test_options_of_another_kind_of_policy_are_refused(policy, words):
    assert_refused(RolloutConfig, changed(ROLLOUT, policy=policy), *words)
