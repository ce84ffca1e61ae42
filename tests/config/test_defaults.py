"""Every option's default is written in its dataclass, and every YAML file that stands for the defaults repeats it."""

import functools
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from trl import GRPOConfig

from implicit_prm import config as options
from implicit_prm.cli.eval import TASKS
from implicit_prm.cli.label import METHODS
from implicit_prm.rl import PrimeConfig
from implicit_prm.training.arguments import training_arguments
from implicit_prm.training.prm_config import ImplicitPRMConfig

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# The files of a command that stand for the defaults; the others are recipes.
DEFAULTS = {
    "train": ["model=hub", "data=rollouts", "trainer=default"],
    "baseline": ["model=hub", "data=rollouts", "trainer=default"],
    "rollout": ["policy=hub", "problems=file", "sampling=default"],
    "label": ["policy=hub", "sampling=default"],
    "eval": [],
    "score": [],
    "cache": [],
    "merge": [],
    "search": ["policy=hub", "problems=file", "sampling=default", "guide=checkpoint"],
    "rl": ["policy=hub", "problems=file", "prm=checkpoint", "grpo=default", "arm=frozen"],
    "serve": [],
}
LOSSES = {
    "ce": options.CEConfig,
    "dpo": options.DPOConfig,
    "kto": options.KTOConfig,
    "nca": options.NCAConfig,
    "prefix": options.PrefixConfig,
    "steps": options.StepsConfig,
}
REQUIRED = "required"


@functools.cache
def composed(command, *overrides):
    """The composed options of a command, interpolations kept."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return OmegaConf.to_container(compose(command, [*overrides]), resolve=False)


def default(spec):
    if spec.default_factory is not MISSING:
        value = spec.default_factory()
        return asdict(value) if is_dataclass(value) else value
    return REQUIRED if spec.default is MISSING else spec.default


def differing(cls, values):
    """{option: value in the YAML} for every option that a dataclass has a default for, and the YAML another value."""
    defaults = {spec.name: default(spec) for spec in fields(cls)}
    assert set(values) <= set(defaults), "the YAML has an option that the dataclass lacks"
    return {
        name: values.get(name, "missing")
        for name, value in defaults.items()
        if value != REQUIRED and (name not in values or values[name] != value or type(values[name]) is not type(value))
    }


def test_the_groups_of_losses_tasks_and_methods_are_the_files():
    for group, names in (("loss", LOSSES), ("task", TASKS), ("method", METHODS)):
        assert sorted(names) == sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))
    assert sorted(DEFAULTS) == sorted(path.stem for path in CONFIGS.glob("*.yaml"))


@pytest.mark.parametrize(
    ("command", "cls", "overrides", "recipe"),
    [
        # `trainer` holds the names of transformers.TrainingArguments; without a machine there is no estimate.
        ("train", options.TrainConfig, [], {"trainer", "estimate"}),
        ("baseline", options.BaselineConfig, [], {"trainer"}),
        ("rollout", options.RolloutConfig, [], set()),
        ("cache", options.CacheConfig, [], set()),
        ("merge", options.MergeConfig, [], set()),
        ("serve", options.ServeConfig, [], set()),
        ("score", options.ScoreConfig, [], set()),
        # It evaluates, and `grpo` holds the names of PrimeConfig.
        ("rl", options.RLConfig, [], {"dev_split", "dev_limit", "grpo"}),
        # In Python, the guide may be an object.
        ("search", options.SearchConfig, [], {"guide"}),
        # As it stands, it labels the sandbox, with one step per line.
        ("label", options.MathShepherdConfig, [], {"steps"}),
    ],
)
def test_the_options_of_a_command(command, cls, overrides, recipe):
    assert set(differing(cls, composed(command, *DEFAULTS[command], *overrides))) == recipe


@pytest.mark.parametrize("method", ["autopsv", "exact"])
def test_the_options_of_a_labelling_method(method):
    assert not differing(METHODS[method], composed("label", f"method={method}"))


# Without candidates, the command samples them from the sandbox.
@pytest.mark.parametrize(
    ("task", "recipe"),
    [
        ("best_of_n", {"rollout"}),
        ("processbench", set()),
        ("shift", {"rollout"}),
        ("prmbench", set()),
        ("hard2verify", set()),
    ],
)
def test_the_options_of_a_task(task, recipe):
    assert set(differing(TASKS[task][0], composed("eval", f"task={task}"))) == recipe


@pytest.mark.parametrize("loss", list(LOSSES))
def test_the_options_of_a_loss(loss):
    assert not differing(LOSSES[loss], composed("train", *DEFAULTS["train"], f"loss={loss}")["loss"])


@pytest.mark.parametrize(
    ("command", "group", "name", "cls", "recipe"),
    [
        ("train", "model", "hub", options.ModelConfig, set()),
        ("baseline", "model", "hub", options.BackboneConfig, set()),
        ("train", "model", "sandbox", options.ModelConfig, {"beta"}),
        ("train", "data", "rollouts", options.DataConfig, set()),
        ("train", "data", "sandbox", options.DataConfig, {"hold_out_prompts", "steps"}),
        ("train", "data", "ultrainteract", options.DataConfig, {"steps"}),
        ("train", "estimate", "here", options.EstimateConfig, set()),
        ("rl", "prm", "checkpoint", options.ImplicitRewards, set()),
        ("rl", "prm", "sandbox", options.ImplicitRewards, set()),
        ("rl", "prm", "exact", options.ExactRewards, set()),
        ("rl", "prm", "none", options.NoRewards, set()),
        ("search", "algorithm", "best_of_n", options.BestOfNSearchConfig, set()),
        ("search", "algorithm", "beam", options.BeamConfig, set()),
        ("search", "algorithm", "dvts", options.DVTSConfig, set()),
        ("search", "algorithm", "rebase", options.RebaseConfig, set()),
        ("search", "algorithm", "particles", options.ParticlesConfig, set()),
        ("search", "algorithm", "tokens", options.TokensConfig, set()),
        ("search", "algorithm", "policy", options.TokensConfig, {"weight"}),
        ("search", "guide", "checkpoint", options.CheckpointGuide, set()),
        ("search", "guide", "sandbox", options.CheckpointGuide, set()),
        ("search", "guide", "exact", options.ExactGuide, set()),
        ("rollout", "policy", "hub", options.PolicyConfig, set()),
        ("rollout", "policy", "server", options.ServerConfig, set()),
        ("rollout", "policy", "sandbox", options.PolicyConfig, {"dtype"}),
        ("rollout", "sampling", "default", options.SamplingConfig, set()),
        ("rollout", "sampling", "sandbox", options.SamplingConfig, {"max_new_tokens", "batch_size"}),
        ("rollout", "problems", "gsm8k", options.ProblemsConfig, set()),
        ("rollout", "problems", "math", options.ProblemsConfig, set()),
        ("rollout", "problems", "math500", options.ProblemsConfig, {"split"}),
        # A file or folder is named in `name`, and the sandbox has no copy: `path` does not exist for them.
        ("rollout", "problems", "file", options.ProblemsConfig, {"path"}),
        ("rollout", "problems", "sandbox", options.ProblemsConfig, {"limit", "path", "prompt_template", "revision"}),
    ],
)
def test_the_options_of_a_group(command, group, name, cls, recipe):
    """`recipe`: the options that the file is there to change."""
    tree = composed(command, *DEFAULTS[command], f"{group}={name}", *(["loss=ce"] if command == "train" else []))
    assert set(differing(cls, tree[group])) == recipe


@pytest.mark.parametrize("name", ["8xa100_80gb", "8xh100_80gb", "a100_80gb", "rtx4090_24gb"])
def test_a_machine_only_describes_itself(name):
    changed = differing(options.EstimateConfig, composed("train", f"estimate={name}")["estimate"])
    sharded = {"processes", "sharding"} if name.startswith("8x") else set()
    assert set(changed) == {"memory_gb", "tflops"} | sharded


def test_text_options_have_one_default_wherever_they_appear():
    expected = {spec.name: default(spec) for spec in fields(options.TextConfig)}
    for cls in (options.DataConfig, options.MathShepherdConfig):
        defaults = {spec.name: default(spec) for spec in fields(cls)}
        assert {name: defaults[name] for name in expected} == expected


def test_options_made_in_python_and_by_the_command_are_equal():
    """A training run, rollouts and an evaluation with nothing but what is required."""
    required = {"model": {"name": "m"}, "data": {"train": "f"}, "loss": {"name": "dpo"}, "output_dir": "o"}
    tree = composed("train", *DEFAULTS["train"], "model.name=m", "data.train=f", "loss=dpo", "output_dir=o")
    in_python = options.from_mapping(options.TrainConfig, required)
    assert options.from_mapping(options.TrainConfig, tree | {"trainer": {}}) == in_python

    required = {"policy": {"name": "m"}, "problems": {"name": "p"}, "sampling": {}, "output": "o"}
    tree = composed("rollout", *DEFAULTS["rollout"], "policy.name=m", "problems.name=p", "output=o")
    assert options.from_mapping(options.RolloutConfig, tree) == options.from_mapping(options.RolloutConfig, required)
    assert options.RolloutConfig(
        options.PolicyConfig("m"), options.ProblemsConfig("p"), options.SamplingConfig(), "o"
    ) == options.from_mapping(options.RolloutConfig, tree)


@pytest.mark.parametrize("name", ["default", "sandbox"])
def test_the_files_of_grpo_have_the_defaults_of_process_rewards(name):
    """They repeat every option that PrimeConfig adds to TRL's GRPOConfig."""
    values = composed("rl", *DEFAULTS["rl"], f"grpo={name}")["grpo"]
    ours = {spec.name: spec.default for spec in fields(PrimeConfig)} | {"scale_rewards": "none"}
    added = set(ours) - {spec.name for spec in fields(GRPOConfig)} | {"scale_rewards"}
    rest = {"outcome_reward"}  # ipr-rl has one reward function
    assert {key: values[key] for key in added - rest} == {key: ours[key] for key in added - rest}


def test_the_trainer_in_python_has_the_values_of_the_default_file(tmp_path):
    values = composed("train", *DEFAULTS["train"])["trainer"]
    in_python = ImplicitPRMConfig(output_dir=str(tmp_path), use_cpu=True)
    config = options.from_mapping(
        options.TrainConfig,
        {"model": {"name": "m"}, "data": {"train": "f"}, "loss": {"name": "ce"}, "output_dir": str(tmp_path)}
        | {"trainer": values | {"use_cpu": True}},
    )
    by_command = training_arguments(config)
    for name in values:
        if hasattr(by_command, name):  # transformers renames gradient_checkpointing
            assert getattr(in_python, name) == getattr(by_command, name), name
