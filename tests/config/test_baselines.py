"""Explicit reward models and step labels."""

import pytest

from implicit_prm.config import (
    AutoPSVConfig,
    BaselineConfig,
    ExactConfig,
    MathShepherdConfig,
    TextConfig,
    from_mapping,
)
from tests.config.examples import BASELINE, LABEL, MATH_SHEPHERD, SERVER, assert_refused, changed


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "prm"}, ["kind=prm", "orm, value_head, next_token"]),
        ({"model__beta": 0.1}, ["model.beta"]),
        ({"model__reference": "initial"}, ["model.reference "]),
        ({"model__reference_revision": "main"}, ["model.reference_revision"]),
        ({"model__lora": {"r": 0}}, ["model.lora.r"]),
        ({"kind": "next_token", "model__lora": {"r": 8}}, ["model.lora", "tokens"]),
        ({"model__quantization": "4bit"}, ["model.quantization"]),
        ({"kind": "orm", "labels": "hard"}, ["labels=hard", "kind=orm"]),
        ({"labels": "mean"}, ["labels=mean", "outcome, hard, soft"]),
        ({"tokens": {"separator": "s", "good": "+", "bad": "-"}}, ["tokens", "kind=value_head"]),
        ({"kind": "next_token", "tokens": {"separator": "s", "good": "+", "bad": "+"}}, ["tokens.good", "'+'"]),
        ({"kind": "next_token", "tokens": {"separator": "s", "good": "+"}}, ["tokens.bad: missing"]),
        ({"max_tokens_per_batch": 0}, ["max_tokens_per_batch is 0"]),
        ({"trainer": {"output_dir": "x"}}, ["trainer.output_dir"]),
        ({"trainer": {"eval_strategy": "steps"}}, ["trainer.eval_strategy=steps", "data.dev"]),
        ({"loss": {"name": "ce"}}, ["loss"]),
    ],
)
def test_invalid_baselines_are_refused(changes, words):
    assert_refused(BaselineConfig, changed(BASELINE, **changes), *words)


@pytest.mark.parametrize(
    ("kind", "labels", "expected"),
    [
        ("orm", None, "outcome"),
        ("value_head", None, "hard"),
        ("next_token", None, "hard"),
        ("value_head", "outcome", "outcome"),
        ("next_token", "soft", "soft"),
    ],
)
def test_the_labels_a_kind_is_trained_on(kind, labels, expected):
    assert from_mapping(BaselineConfig, changed(BASELINE, kind=kind, labels=labels)).targets == expected


@pytest.mark.parametrize(
    ("cls", "values", "words"),
    [
        (MathShepherdConfig, MATH_SHEPHERD | {"policy": SERVER}, ["policy.base_url", "policy=hub"]),
        (MathShepherdConfig, MATH_SHEPHERD | {"problems_at_once": 0}, ["problems_at_once is 0"]),
        (MathShepherdConfig, MATH_SHEPHERD | {"prompt_template": "x"}, ["prompt_template", "{problem}"]),
        (MathShepherdConfig, MATH_SHEPHERD | {"input": ""}, ["input"]),
        (MathShepherdConfig, MATH_SHEPHERD | {"verifier": "v"}, ["verifier"]),
        (AutoPSVConfig, LABEL, ["verifier: missing"]),
        (AutoPSVConfig, LABEL | {"verifier": "v", "threshold": 0.5}, ["threshold is 0.5"]),
        (AutoPSVConfig, LABEL | {"verifier": "v", "threshold": -1.0}, ["threshold is -1.0"]),
        (AutoPSVConfig, LABEL | {"verifier": "v", "steps": "newline"}, ["steps"]),
        (ExactConfig, LABEL | {"max_prompts": 0}, ["max_prompts is 0"]),
        (ExactConfig, {"input": "rows.jsonl"}, ["output: missing"]),
    ],
)
def test_invalid_labelling_is_refused(cls, values, words):
    assert_refused(cls, values, *words)


def test_text_options_of_math_shepherd():
    config = from_mapping(MathShepherdConfig, MATH_SHEPHERD | {"steps": "newline", "system_prompt": "Be brief."})
    assert config.text == TextConfig("newline", "{problem}", "Be brief.")
