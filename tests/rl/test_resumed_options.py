"""A run is resumed with the options that it began with; what does not change its steps may differ."""

import json
from dataclasses import asdict, replace

import pytest

from implicit_prm import ImplicitPRMError
from implicit_prm.config import ImplicitRewards, PolicyConfig, ProblemsConfig, RLConfig
from implicit_prm.rl.resumed_options import check_resumed_options


def config(folder, **grpo):
    return RLConfig(
        PolicyConfig("sandbox", dtype="float32"),
        ProblemsConfig("sandbox"),
        ImplicitRewards("outputs/ce"),
        str(folder),
        grpo={"seed": 1, "learning_rate": 1e-4, "max_steps": 2, **grpo},
    )


@pytest.fixture
def checkpoint(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"command": None, "config": asdict(config(tmp_path))}))
    return tmp_path / "checkpoint-1"


@pytest.mark.parametrize(
    "grpo",
    [{"max_steps": 4, "save_steps": 1, "resume_from_checkpoint": True}, {"eval_strategy": "no", "logging_steps": 5}],
)
def test_a_longer_run_that_is_watched_in_another_way(grpo, checkpoint, tmp_path):
    check_resumed_options(checkpoint, replace(config(tmp_path, **grpo), dev_limit=7))


@pytest.mark.parametrize(
    ("grpo", "named"), [({"learning_rate": 2e-4}, r"grpo\.learning_rate=0\.0002.*0\.0001"), ({"credit": "min"}, "min")]
)
def test_another_option_is_refused_with_both_values(grpo, named, checkpoint, tmp_path):
    with pytest.raises(ImplicitPRMError, match=named):
        check_resumed_options(checkpoint, config(tmp_path, **grpo))


def test_an_option_that_is_missing_or_of_another_part_is_refused(checkpoint, tmp_path):
    without = config(tmp_path)
    del without.grpo["seed"]
    for changed, named in (
        (without, r"grpo\.seed"),
        (replace(config(tmp_path), prm=ImplicitRewards("outputs/dpo")), r"prm\.checkpoint=outputs/dpo"),
    ):
        with pytest.raises(ImplicitPRMError, match=named):
            check_resumed_options(checkpoint, changed)


def test_a_checkpoint_of_another_program_has_no_options_to_compare(tmp_path):
    check_resumed_options(tmp_path / "checkpoint-1", config(tmp_path))
