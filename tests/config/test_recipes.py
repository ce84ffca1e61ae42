"""The recipes of configs/experiment against the paper's setting, and the files that accelerate reads."""

import copy
import functools
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from implicit_prm.config import CEConfig, DPOConfig, TrainConfig, from_mapping
from implicit_prm.training.arguments import step_line, training_arguments

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
EXPERIMENTS = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))
ACCELERATE = sorted((CONFIGS / "accelerate").glob("*.yaml"))


@functools.cache
def _tree(*overrides):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return OmegaConf.to_container(compose("train", [*overrides]), resolve=True)


def composed(*overrides):
    return from_mapping(TrainConfig, copy.deepcopy(_tree(*overrides)))


def on_the_cpu(config):
    """The trainer's options as transformers takes them, on a machine without bfloat16."""
    options = {name: value for name, value in config.trainer.items() if name != "bf16"}
    config.trainer = options | {"use_cpu": True}
    return training_arguments(config)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_is_a_run_that_transformers_takes(name):
    config = composed(f"experiment={name}", "data.train=rollouts.jsonl", "data.steps=newline")
    assert config.output_dir == f"outputs/{name}" or config.output_dir == f"outputs/{name.rsplit('_', 1)[0]}_ce"
    assert config.data.train == "rollouts.jsonl"  # the command line wins over the recipe
    on_the_cpu(config)


@pytest.mark.parametrize(("name", "loss"), [("llama31_8b_dpo", DPOConfig("dpo", "all")), ("llama31_8b_ce", CEConfig())])
def test_the_papers_setting_one_by_one(name, loss):
    config = composed(f"experiment={name}")
    assert config.loss == loss
    model, data, trainer = config.model, config.data, config.trainer
    assert model.name == "meta-llama/Llama-3.1-8B-Instruct"
    assert model.reference == "initial"
    assert model.beta == 0.05
    assert model.lora is None
    assert model.dtype == "float32"  # master weights; bf16 computes
    assert data.train == "Windy0822/ultrainteract_math_rollout"
    assert data.steps == "step_marker"
    assert data.max_length == 8192
    assert data.max_responses is None  # all eight
    assert trainer["bf16"] is True
    arguments = on_the_cpu(config)
    assert arguments.learning_rate == 5e-7
    assert arguments.num_train_epochs == 1
    assert arguments.max_steps == -1
    assert arguments.lr_scheduler_type == "cosine_with_min_lr"
    assert arguments.lr_scheduler_kwargs == {"min_lr_rate": 0.1}
    assert arguments.get_warmup_steps(1000) == 30
    assert arguments.optim == "adamw_torch"
    assert (arguments.adam_beta1, arguments.adam_beta2) == (0.9, 0.95)
    assert arguments.weight_decay == 0
    assert arguments.max_grad_norm == 1
    assert arguments.gradient_checkpointing
    assert arguments.seed == 42
    line = step_line(arguments, 8, 8)
    assert line.startswith("an optimiser step: 8 prompts x 8 responses = 64 responses (processes 8,")


@pytest.mark.parametrize("name", ["qwen25_7b_lora_24gb", "smollm2_135m_math"])
def test_the_adapters_step_is_the_papers_on_one_process(name):
    config = composed(f"experiment={name}", "data.train=f")
    assert config.model.lora is not None
    assert config.loss == CEConfig()
    assert "= 64 responses (processes 1," in step_line(on_the_cpu(config), 1, 8)
    assert isinstance(composed(f"experiment={name}", "data.train=f", "loss=dpo").loss, DPOConfig)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_values_for_a_loss_hold_in_an_experiment_too(name):
    alone, recipe = f"experiment={name}", composed(f"experiment={name}", "data.train=f")
    kto = composed(alone, "data.train=f", "loss=kto")
    assert kto.trainer["per_device_train_batch_size"] == 8 * recipe.trainer["per_device_train_batch_size"]
    assert composed(alone, "data.train=f", "loss=prefix").model.beta == 10
    steps = composed(alone, "data.train=f", "loss=steps").model
    assert (steps.beta, steps.reference) == (None, "checkpoint")
    assert composed(alone, "data.train=f", "loss=kto", "model.beta=0.3").model.beta == 0.3


@pytest.mark.parametrize(
    ("arm", "kind", "checkpoint"),
    [("outcome", "none", None), ("prime", "implicit", "Qwen/Qwen2.5-0.5B-Instruct"), ("value", "implicit", "FOLDER")],
)
def test_an_arm_chooses_the_prm_of_an_experiment_with_rl(arm, kind, checkpoint):
    given = ["prm.checkpoint=FOLDER"] if arm == "value" else []
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("rl", ["experiment/rl=qwen25_05b_gsm8k", f"arm={arm}", *given])
    assert config.prm.kind == kind
    assert config.prm.get("checkpoint") == checkpoint
    assert config.policy.name == "Qwen/Qwen2.5-0.5B-Instruct"


def test_half_precision_weights_are_for_frozen_ones():
    for name in EXPERIMENTS:
        model = composed(f"experiment={name}", "data.train=f").model
        assert model.dtype == "float32" or model.lora is not None


@pytest.mark.parametrize("path", ACCELERATE, ids=lambda path: path.stem)
def test_accelerate_takes_its_files(path):
    config = load_config_from_file(str(path))
    assert config.mixed_precision == "no"  # trainer.bf16 decides
    expected = {
        "single": (DistributedType.NO, 1),
        "ddp": (DistributedType.MULTI_GPU, 8),
        "ddp_cpu": (DistributedType.MULTI_GPU, 2),
        "fsdp2": (DistributedType.FSDP, 8),
        "deepspeed_zero3": (DistributedType.DEEPSPEED, 8),
    }
    assert (config.distributed_type, config.num_processes) == expected[path.stem]
    assert config.use_cpu == (path.stem == "ddp_cpu")
    if path.stem == "fsdp2":
        # transformers writes a model only from a full state dict, and the reference is asked before sharding.
        assert config.fsdp_config["fsdp_version"] == 2
        assert config.fsdp_config["fsdp_state_dict_type"] == "FULL_STATE_DICT"
        assert config.fsdp_config["fsdp_cpu_ram_efficient_loading"] is False
    if path.stem == "deepspeed_zero3":
        assert config.deepspeed_config["zero_stage"] == 3
        assert config.deepspeed_config["zero3_init_flag"] is False
        assert config.deepspeed_config["zero3_save_16bit_model"] is True


def test_every_machine_of_an_estimate_is_a_whole_one():
    machines = sorted(path.stem for path in (CONFIGS / "estimate").glob("*.yaml"))
    assert len(machines) == 5
    for name in machines:
        one = composed(f"estimate={name}", "output_dir=o").estimate
        assert one.machine
        assert (one.tflops is None) == (one.memory_gb is None) == (name == "here")
        assert one.processes == (8 if name.startswith("8x") else 1)


@pytest.mark.slow
def test_the_cpu_file_starts_two_processes(tmp_path):
    script = tmp_path / "rank.py"
    script.write_text("import os\nprint('rank', os.environ['RANK'], 'of', os.environ['WORLD_SIZE'])\n")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    command = [*launch, str(CONFIGS / "accelerate" / "ddp_cpu.yaml"), str(script)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert sorted(result.stdout.splitlines()) == ["rank 0 of 2", "rank 1 of 2"]
