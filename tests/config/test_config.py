"""Options are refused by name before anything is loaded: unknown, of the wrong type, or unsound together."""

import pytest

from implicit_prm.config import (
    AutoPSVConfig,
    BaselineConfig,
    BestOfNConfig,
    CEConfig,
    DataConfig,
    DPOConfig,
    ExactConfig,
    KTOConfig,
    MathShepherdConfig,
    NCAConfig,
    PolicyConfig,
    PrefixConfig,
    ProcessBenchConfig,
    RolloutConfig,
    SamplingConfig,
    ServerConfig,
    StepsConfig,
    TextConfig,
    TrainConfig,
    from_mapping,
)
from implicit_prm.types import ImplicitPRMError

TRAIN = {
    "model": {"name": "sandbox"},
    "data": {"train": "rollouts.jsonl"},
    "loss": {"name": "ce"},
    "output_dir": "outputs",
}
ROLLOUT = {"policy": {"name": "sandbox"}, "problems": {"name": "sandbox"}, "sampling": {}, "output": "rollouts.jsonl"}
FROM_FILE = {"scores_column": "s", "candidates": "c.jsonl", "checkpoint": None}
EVAL = {"output_dir": "outputs", "rollout": ROLLOUT, "checkpoint": "folder"}


def _with(base, **changes):
    """A copy of `base` with `changes`; a dotted name is written with two underscores."""
    result = {key: dict(value) if isinstance(value, dict) else value for key, value in base.items()}
    for name, value in changes.items():
        place, _, key = name.rpartition("__")
        (result[place] if place else result)[key] = value
    return result


def _refused(cls, values, *words):
    with pytest.raises(ImplicitPRMError) as caught:
        from_mapping(cls, values)
    for word in words:
        assert word in str(caught.value)


def test_the_smallest_of_each_command_is_enough():
    config = from_mapping(TrainConfig, TRAIN)
    assert config.model.beta == 0.05
    assert config.model.lora is None
    assert isinstance(config.loss, CEConfig)
    assert config.data.steps == "blank_line"
    assert from_mapping(RolloutConfig, ROLLOUT).sampling == SamplingConfig()
    assert from_mapping(BestOfNConfig, EVAL).rollout.policy.name == "sandbox"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"output_folder": "x"}, ["output_folder: unknown option", "did you mean output_dir?"]),
        ({"model__bta": 0.1}, ["model.bta: unknown option", "did you mean model.beta?"]),
        ({"data__max_promts": 3}, ["data.max_promts", "did you mean data.max_prompts?"]),
        ({"loss__balanse": "none"}, ["loss.balanse", "did you mean loss.balance?"]),
        ({"model__lora": {"rr": 8, "alpha": 8}}, ["model.lora.rr", "did you mean model.lora.r?"]),
        ({"zzz": 1}, ["zzz: unknown option", "known keys: model, data, loss, output_dir"]),
    ],
)
def test_an_unknown_option_is_named_with_the_nearest_one(changes, words):
    _refused(TrainConfig, _with(TRAIN, **changes), *words)


@pytest.mark.parametrize("key", ["model", "data", "loss", "output_dir"])
def test_a_missing_option_is_named(key):
    _refused(TrainConfig, {name: value for name, value in TRAIN.items() if name != key}, f"{key}: missing")


def test_a_missing_nested_option_is_named_in_full():
    _refused(TrainConfig, _with(TRAIN, model={}), "model.name: missing")
    _refused(BestOfNConfig, _with(EVAL, rollout=_with(ROLLOUT, policy={})), "rollout.policy.name: missing")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model__beta": "1e-4"}, ["model.beta='1e-4'", "expected a number", "got str"]),
        ({"model__beta": True}, ["model.beta=True", "expected a number", "got bool"]),
        ({"model__beta": None}, ["model.beta=None", "expected a number"]),
        ({"data__max_prompts": True}, ["data.max_prompts=True", "expected a whole number", "got bool"]),
        ({"data__max_prompts": 2.0}, ["data.max_prompts=2.0", "expected a whole number", "got float"]),
        ({"data__max_prompts": "2"}, ["data.max_prompts='2'", "expected a whole number"]),
        ({"overwrite": 1}, ["overwrite=1", "expected true or false", "got int"]),
        ({"overwrite": "false"}, ["overwrite='false'", "expected true or false"]),
        ({"output_dir": 7}, ["output_dir=7", "expected a text"]),
        ({"output_dir": None}, ["output_dir=None", "expected a text"]),
        ({"model__dtype": "float64"}, ["model.dtype=float64", "choose one of auto, float32, bfloat16, float16"]),
        ({"data__steps": "sentence"}, ["data.steps=sentence", "blank_line, newline, step_marker, given"]),
        ({"model": "sandbox"}, ["model='sandbox'", "a group of options"]),
        ({"trainer": [1]}, ["trainer=[1]", "a group of options"]),
        ({"model__lora": 16}, ["model.lora=16", "a group of options"]),
        ({"model__lora": {"r": "16"}}, ["model.lora.r='16'", "expected a whole number"]),
        ({"model__lora": {"target_modules": 3}}, ["model.lora.target_modules=3", "a text or list[str]"]),
        ({"model__lora": {"target_modules": {"q": 1}}}, ["model.lora.target_modules={'q': 1}", "a text or list[str]"]),
        ({"model__lora": {"target_modules": ["q_proj", 3]}}, ["model.lora.target_modules"]),
    ],
)
def test_a_wrong_type_is_named_with_the_right_one(changes, words):
    _refused(TrainConfig, _with(TRAIN, **changes), *words)


def test_a_whole_number_is_a_number_and_null_is_none():
    config = from_mapping(TrainConfig, _with(TRAIN, model__beta=1, model__revision=None, data__max_length=512))
    assert config.model.beta == 1.0
    assert type(config.model.beta) is float
    assert config.model.revision is None
    assert config.data.max_length == 512


def test_either_type_of_a_union_is_taken():
    for modules in ("all-linear", ["q_proj", "v_proj"]):
        lora = {"r": 4, "target_modules": modules}
        assert from_mapping(TrainConfig, _with(TRAIN, model__lora=lora)).model.lora.target_modules == modules


def test_trainer_options_pass_through_as_they_are():
    options = {"learning_rate": "1e-4", "max_steps": 3, "anything": None}
    assert from_mapping(TrainConfig, _with(TRAIN, trainer=options)).trainer == options


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
def test_losses_are_told_apart_by_name(loss, expected):
    assert from_mapping(TrainConfig, _with(TRAIN, loss=loss)).loss == expected


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        ({"name": "ce", "pairing": "all"}, ["loss.pairing: unknown option"]),
        ({"name": "dpo", "balance": "prompt"}, ["loss.balance: unknown option"]),
        ({"name": "nca", "desirable_weight": 1.0}, ["loss.desirable_weight: unknown option"]),
        ({"name": "kto", "form": "pair"}, ["loss.form=pair", "unpaired, paired"]),
        ({"name": "ce", "offset": "mean"}, ["loss.offset=mean", "none, group_mean, prompt_accuracy"]),
        ({"name": "dpo", "batch_unit": "response"}, ["loss.batch_unit: unknown option"]),
        ({"name": "kto", "form": "paired", "batch_unit": "response"}, ["loss.batch_unit=response", "loss.form=paired"]),
        ({"name": "ce", "offset": "group_mean", "batch_unit": "response"}, ["loss.batch_unit=response", "loss.offset"]),
        ({"name": "steps", "margin": 1.0}, ["loss.margin: unknown option"]),
        ({"name": "ipo"}, ["loss.name=ipo", "choose one of ce, dpo, kto, nca"]),
        ({}, ["loss.name=None", "choose one of ce, dpo, kto, nca"]),
        ("ce", ["loss='ce'", "a group of options"]),
        (None, ["loss=None", "a group of options"]),
        ({"name": ["ce"]}, ["loss.name=['ce']", "choose one of"]),
    ],
)
def test_another_losses_options_are_refused(loss, words):
    _refused(TrainConfig, _with(TRAIN, loss=loss), *words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss": {"name": "nca", "form": "group", "pairing": "one_to_one"}}, ["loss.pairing", "forms no pairs"]),
        ({"loss": {"name": "kto", "desirable_weight": 0.0}}, ["loss.desirable_weight", "above zero"]),
        ({"loss": {"name": "kto", "undesirable_weight": -1}}, ["loss.undesirable_weight", "above zero"]),
        ({"loss": {"name": "kto"}, "data__max_prompts": 1}, ["loss=kto", "at least two prompts"]),
        ({"loss": {"name": "prefix", "margin": -1}}, ["loss.margin is -1.0"]),
        ({"loss": {"name": "prefix", "margin": float("nan")}}, ["loss.margin is nan"]),
        (
            {"loss": {"name": "ce", "offset": "prompt_accuracy", "balance": "prompt"}},
            ["loss.balance=prompt", "loss.offset=prompt_accuracy shifts nothing"],
        ),
        ({"model__beta": None, "model__reference": "start"}, ["model.beta=None", "model.reference=checkpoint"]),
        ({"model__reference": "checkpoint", "model__reference_revision": "main"}, ["model.reference_revision"]),
        ({"model__beta": 0}, ["model.beta is 0.0"]),
        ({"model__beta": -0.1}, ["model.beta is -0.1"]),
        ({"model__reference_revision": "main"}, ["model.reference_revision", "no second model"]),
        ({"model__reference": "none", "model__reference_revision": "main"}, ["model.reference_revision"]),
        ({"data__prompt_template": "Solve it."}, ["must contain {problem}"]),
        ({"data__train": ""}, ["data.train is empty"]),
        ({"data__dev": "dev.jsonl", "data__hold_out_prompts": 5}, ["data.dev", "data.hold_out_prompts"]),
        ({"trainer": {"output_dir": "x"}}, ["not trainer.output_dir"]),
        ({"trainer": {"eval_strategy": "steps"}}, ["trainer.eval_strategy=steps", "needs a dev set"]),
    ],
)
def test_unsound_combinations_for_training_are_refused(changes, words):
    _refused(TrainConfig, _with(TRAIN, **changes), *words)


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": {"name": "nca", "form": "group", "pairing": "all"}},
        {"loss": {"name": "kto", "form": "paired"}, "data__max_prompts": 1},
        {"model__reference": "other", "model__reference_revision": "main"},
        {"model__reference": "checkpoint", "model__beta": None},
        {"model__reference": "checkpoint"},
        {"loss": {"name": "ce", "offset": "prompt_accuracy", "balance": "dataset"}},
        {"trainer": {"eval_strategy": "steps"}, "data__dev": "dev.jsonl"},
        {"trainer": {"eval_strategy": "steps"}, "data__hold_out_prompts": 5},
        {"trainer": {"eval_strategy": "no"}},
    ],
)
def test_sound_neighbours_of_the_unsound_are_taken(changes):
    from_mapping(TrainConfig, _with(TRAIN, **changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n": 0}, ["sampling.n is 0"]),
        ({"max_new_tokens": 0}, ["sampling.max_new_tokens is 0"]),
        ({"batch_size": -2}, ["sampling.batch_size is -2"]),
        ({"temperature": 0}, ["sampling.temperature", "above 0"]),
        ({"top_p": 0}, ["sampling.top_p"]),
        ({"top_p": 1.5}, ["sampling.top_p is 1.5"]),
    ],
)
def test_unsound_sampling_is_refused(changes, words):
    _refused(RolloutConfig, _with(ROLLOUT, sampling=changes), *words)


SERVER = {"base_url": "http://localhost:8000/v1", "name": "m"}


def test_a_policy_with_a_base_url_is_on_a_server():
    config = from_mapping(RolloutConfig, _with(ROLLOUT, policy=SERVER))
    assert config.policy == ServerConfig(**SERVER)
    assert config.policy.extra_body["top_k"] == 0
    assert from_mapping(RolloutConfig, _with(ROLLOUT, policy=SERVER | {"extra_body": None})).policy.extra_body is None
    assert isinstance(from_mapping(RolloutConfig, ROLLOUT).policy, PolicyConfig)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"policy": SERVER | {"dtype": "float32"}}, ["policy.dtype: unknown option"]),
        ({"policy": {"base_url": "http://localhost:8000/v1"}}, ["policy.name: missing"]),
        ({"policy": {"name": "m", "concurrency": 2}}, ["policy.base_url: missing"]),
        ({"policy": {"name": "m", "dtype": "auto", "retries": 2}}, ["policy.retries: unknown option"]),
        ({"policy": SERVER | {"base_url": "localhost:8000"}}, ["policy.base_url=localhost:8000", "http://"]),
        ({"policy": SERVER | {"base_url": "http://[::1/v1"}}, ["policy.base_url=http://[::1/v1"]),
        ({"policy": SERVER | {"base_url": "http://me:pass@host/v1"}}, ["policy.api_key_env"]),
        ({"policy": SERVER | {"base_url": "http://host/v1?key=1"}}, ["policy.api_key_env"]),
        ({"policy": SERVER | {"concurrency": 0}}, ["policy.concurrency is 0"]),
        ({"policy": SERVER | {"retries": -1}}, ["policy.retries is -1"]),
        ({"policy": SERVER | {"timeout_s": 0}}, ["policy.timeout_s is 0"]),
        ({"policy": SERVER | {"extra_body": {"temperature": 1}}}, ["set sampling.temperature instead"]),
        ({"policy": SERVER | {"extra_body": {"stream": True}}}, ["policy.extra_body.stream"]),
        ({"policy": SERVER, "sampling": {"batch_size": 4}}, ["sampling.batch_size=4", "policy.concurrency"]),
        ({"problems__prompt_template": "Solve it"}, ["problems.prompt_template must contain {problem}"]),
        (
            {"problems__prompt_template": "raw:{problem}", "problems__system_prompt": "Hm"},
            ["problems.system_prompt has no place"],
        ),
    ],
)
def test_unsound_rollouts_are_refused(changes, words):
    _refused(RolloutConfig, _with(ROLLOUT, **changes), *words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"checkpoint": None}, ["nothing to score with", "checkpoint=FOLDER", "scores_column=NAME"]),
        ({"scores_column": "s"}, ["scores_column names a column of a file", "candidates=FILE"]),
        ({"scores_column": "s", "candidates": "c.jsonl"}, ["checkpoint is not used when scores come from the file"]),
        (FROM_FILE | {"beta": 0.1}, ["beta is not used"]),
        (
            FROM_FILE | {"steps": "newline"},
            ["steps is not used"],
        ),
        (FROM_FILE | {"over": "prefix"}, ["have no prefix values", "over=step"]),
        (FROM_FILE | {"output_dir": None}, ["output_dir is empty"]),
        ({"max_tokens_per_batch": 0}, ["max_tokens_per_batch is 0"]),
        ({"vote_draws": 0}, ["vote_draws is 0"]),
        ({"bootstrap_resamples": 0}, ["bootstrap_resamples is 0"]),
        ({"aggregate": "median"}, ["aggregate=median", "min, max, last, mean, sum, product"]),
        ({"over": "token_mean"}, ["over=token_mean", "step, step_mean, prefix"]),
        (FROM_FILE | {"over": "step_mean"}, ["a column of scores says nothing of the steps' tokens", "over=step"]),
        (FROM_FILE | {"over": "step_mean", "scores_kind": "log_ratio"}, ["set over=step"]),
        ({"vote_aggregate": "median"}, ["vote_aggregate=median"]),
        ({"vote_scale": 0}, ["vote_scale is 0.0", "above 0"]),
        ({"vote_scale": float("inf")}, ["vote_scale is inf"]),
        ({"vote_scale": 0.02, "aggregate": "product"}, ["vote_scale=0.02", "weights as they are"]),
        (FROM_FILE | {"vote_scale": 0.02}, ["vote_scale=0.02", "weights as they are"]),
    ],
)
def test_unsound_evaluations_are_refused(changes, words):
    _refused(BestOfNConfig, _with(EVAL, **changes), *words)


def test_votes_are_over_what_ranks_or_over_step_rewards():
    config = from_mapping(BestOfNConfig, _with(EVAL, aggregate="last", over="prefix"))
    assert config.votes_over == ("last", "prefix")
    changes = {"aggregate": "last", "over": "prefix", "vote_aggregate": "sum", "vote_scale": 0.02}
    assert from_mapping(BestOfNConfig, _with(EVAL, **changes)).votes_over == ("sum", "step")


def test_scores_from_a_file_may_have_prefix_values_if_they_are_log_ratios():
    changes = FROM_FILE | {"over": "prefix", "scores_kind": "log_ratio"}
    assert from_mapping(BestOfNConfig, _with(EVAL, **changes)).over == "prefix"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"checkpoint": None}, ["nothing to score with"]),
        ({"scores_column": "s"}, ["checkpoint is not used when scores come from the file"]),
        ({"candidates": "c.jsonl"}, ["candidates: unknown option"]),
        ({"aggregate": "min"}, ["aggregate: unknown option"]),
        ({"steps": "newline"}, ["steps: unknown option"]),
        ({"task": "best_of_n"}, ["task=best_of_n", "choose one of processbench"]),
        ({"subsets": []}, ["subsets=[]", "at least one"]),
        ({"subsets": ["gsm8k", "data/gsm8k.json"]}, ["two are called the same (gsm8k, gsm8k)"]),
        ({"threshold": "gsm"}, ["threshold=gsm", "cross_fit, a number, or one of the subsets (gsm8k, math"]),
        ({"threshold": "gsm8k", "subsets": ["gsm8k"]}, ["there is no other", "threshold=cross_fit"]),
        ({"threshold": "0.5"}, ["threshold=0.5", "a number"]),
        ({"threshold": float("nan")}, ["threshold is nan", "finite"]),
        ({"threshold": True}, ["threshold=True"]),
        ({"too_long": "lowest"}, ["too_long=lowest", "error, wrong"]),
        ({"bootstrap_resamples": 0}, ["bootstrap_resamples is 0"]),
        ({"max_problems": 0}, ["max_problems is 0"]),
    ],
)
def test_unsound_processbench_options_are_refused(changes, words):
    _refused(ProcessBenchConfig, {"checkpoint": "folder"} | changes, *words)


def test_a_threshold_is_a_rule_a_subset_or_a_number():
    for threshold in ("cross_fit", "pb_gsm8k", 0, -1.5):
        changes = {"checkpoint": "folder", "subsets": ["data/pb_gsm8k.jsonl.gz", "math"], "threshold": threshold}
        config = from_mapping(ProcessBenchConfig, changes)
        assert config.threshold == threshold
        assert config.sources == {"pb_gsm8k": "data/pb_gsm8k.jsonl.gz", "math": "math"}
    assert config.folder == "folder/processbench"


def test_results_go_into_the_checkpoint_unless_told_otherwise():
    assert from_mapping(BestOfNConfig, EVAL).folder == "outputs"
    assert from_mapping(BestOfNConfig, _with(EVAL, output_dir=None)).folder == "folder/eval"


def test_text_options_are_checked_alone_and_inside_data():
    _refused(TextConfig, {"prompt_template": "{question}"}, "must contain {problem}")
    assert from_mapping(DataConfig, {"train": "x", "prompt_template": "raw:{problem}\n"}).prompt_template[:4] == "raw:"


BASELINE = {"kind": "value_head", "model": {"name": "sandbox"}, "data": {"train": "l.jsonl"}, "output_dir": "outputs"}
LABELS = {"input": "rows.jsonl", "output": "labels.jsonl"}
SHEPHERD = LABELS | {"policy": {"name": "sandbox"}, "sampling": {"n": 8}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "prm"}, ["kind=prm", "orm, value_head, next_token"]),
        ({"model__beta": 0.1}, ["model.beta", "has no log-ratio"]),
        ({"model__reference": "initial"}, ["model.reference:", "has no log-ratio"]),
        ({"model__reference_revision": "main"}, ["model.reference_revision"]),
        ({"model__lora": {"r": 8}}, ["model.lora", "train all of their weights"]),
        ({"model__quantization": "4bit"}, ["model.quantization", "train all of their weights"]),
        ({"kind": "orm", "labels": "hard"}, ["labels=hard", "learns the outcome"]),
        ({"labels": "mean"}, ["labels=mean", "outcome, hard, soft"]),
        ({"tokens": {"separator": "s", "good": "+", "bad": "-"}}, ["tokens", "this is kind=value_head"]),
        ({"kind": "next_token", "tokens": {"separator": "s", "good": "+", "bad": "+"}}, ["both '+'"]),
        ({"kind": "next_token", "tokens": {"separator": "s", "good": "+"}}, ["tokens.bad: missing"]),
        ({"max_tokens_per_batch": 0}, ["max_tokens_per_batch is 0"]),
        ({"trainer": {"output_dir": "x"}}, ["not trainer.output_dir"]),
        ({"trainer": {"eval_strategy": "steps"}}, ["trainer.eval_strategy=steps", "needs a dev set"]),
        ({"loss": {"name": "ce"}}, ["loss: unknown option"]),
    ],
)
def test_unsound_baselines_are_refused(changes, words):
    _refused(BaselineConfig, _with(BASELINE, **changes), *words)


def test_what_a_baseline_learns_by_default():
    for kind, labels, expected in (
        ("orm", None, "outcome"),
        ("value_head", None, "hard"),
        ("next_token", None, "hard"),
        ("value_head", "outcome", "outcome"),
        ("next_token", "soft", "soft"),
    ):
        assert from_mapping(BaselineConfig, _with(BASELINE, kind=kind, labels=labels)).targets == expected


@pytest.mark.parametrize(
    ("cls", "values", "words"),
    [
        (MathShepherdConfig, SHEPHERD | {"policy": SERVER}, ["policy.base_url", "a response that is begun"]),
        (MathShepherdConfig, SHEPHERD | {"problems_at_once": 0}, ["problems_at_once is 0"]),
        (MathShepherdConfig, SHEPHERD | {"prompt_template": "x"}, ["must contain {problem}"]),
        (MathShepherdConfig, SHEPHERD | {"input": ""}, ["input is empty"]),
        (MathShepherdConfig, SHEPHERD | {"verifier": "v"}, ["verifier: unknown option"]),
        (AutoPSVConfig, LABELS, ["verifier: missing"]),
        (AutoPSVConfig, LABELS | {"verifier": "v", "threshold": 0.5}, ["threshold is 0.5", "at most 0"]),
        (AutoPSVConfig, LABELS | {"verifier": "v", "threshold": -1.0}, ["threshold is -1.0"]),
        (AutoPSVConfig, LABELS | {"verifier": "v", "steps": "newline"}, ["steps: unknown option"]),
        (ExactConfig, LABELS | {"max_prompts": 0}, ["max_prompts is 0"]),
        (ExactConfig, {"input": "rows.jsonl"}, ["output: missing"]),
    ],
)
def test_unsound_labelling_is_refused(cls, values, words):
    _refused(cls, values, *words)
