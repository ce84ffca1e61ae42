"""ipr-rl: every arm is a config that runs on the sandbox, resumes, and leaves what it should behind."""

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from safetensors.torch import load_file

from implicit_prm import ImplicitPRM, ImplicitPRMError, fit
from implicit_prm.config import GradingConfig, RLConfig, from_mapping
from implicit_prm.grading import GraderPool
from implicit_prm.rl.prime_trainer import PrimeTrainer
from implicit_prm.rl.run import correctness, prime_arguments, train_policy
from tests.conftest import graded_rows, write_rows
from tests.runs import config as training
from tests.runs import log, quiet

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
ARMS = sorted(path.stem for path in (CONFIGS / "arm").glob("*.yaml"))
SMALL = [
    *("problems.limit=8", "dev_limit=2", "grpo.per_device_train_batch_size=8", "grpo.num_generations=4"),
    *("grpo.max_steps=2", "grpo.save_steps=1", "grpo.eval_steps=2", "grpo.per_device_eval_batch_size=8"),
    *("+grpo.use_cpu=true", "+grpo.disable_tqdm=true"),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prm")
    rows = write_rows(folder / "rows.jsonl", graded_rows(8, 4))
    fit(training(folder / "ce", "sandbox", rows, max_steps=2), quiet)
    return folder / "ce"


def composed(output, *overrides):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        tree = compose("rl", [f"output_dir={output}", *SMALL, *overrides])
    return from_mapping(RLConfig, OmegaConf.to_container(tree, resolve=True))


def arm(output, name, checkpoint, *overrides):
    prm = [f"prm.checkpoint={checkpoint}"] if name in ("frozen", "shuffled", "ipvrm", "value") else []
    return composed(output, f"arm={name}", *prm, *overrides)


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_is_a_run(name, tmp_path, checkpoint):
    config = arm(tmp_path, name, checkpoint, "+grpo.hub_token=s3same")
    if name in ("exact", "ipvrm"):  # the others differ in options that other tests cover
        metrics = train_policy(config, quiet)
        assert 0 <= metrics["eval_rewards/correct/mean"] <= 1
        assert [row["step"] for row in log(tmp_path) if "loss" in row] == [1, 2]
        assert json.loads((tmp_path / "rl_metrics.json").read_text()) == metrics
        assert json.loads((tmp_path / "run.json").read_text())["config"]["prm"]["kind"] == config.prm.kind
        assert "Accuracy" in (tmp_path / "report.html").read_text(encoding="utf-8")
        assert (tmp_path / "prm").exists() == (name == "ipvrm")
        assert not [one for one in tmp_path.rglob("*") if one.is_file() and b"s3same" in one.read_bytes()]
    else:
        prime_arguments(config)


@pytest.mark.slow  # test_prime_trainer.py resumes the trainer
def test_resumed_equals_uninterrupted(tmp_path, checkpoint):
    rest = ["grpo.eval_strategy=no"]  # a run ends with an evaluation, which draws random numbers
    whole = arm(tmp_path / "whole", "value", checkpoint, *rest)
    train_policy(whole, quiet)
    with pytest.raises(ImplicitPRMError, match=r"grpo\.resume_from_checkpoint=true"):
        train_policy(whole, quiet)
    first = tmp_path / "resumed" / "checkpoint-1"
    train_policy(arm(tmp_path / "resumed", "value", checkpoint, "grpo.max_steps=1", *rest), quiet)
    assert first.is_dir()
    train_policy(arm(tmp_path / "resumed", "value", checkpoint, "grpo.resume_from_checkpoint=true", *rest), quiet)
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("resumed", "whole"))
    assert all((ours[name] - weight).abs().max() < 1e-6 for name, weight in theirs.items())
    assert [row["step"] for row in log(tmp_path / "resumed") if "loss" in row] == [1, 2]


def test_a_finished_run_that_is_resumed_changes_nothing(tmp_path, monkeypatch):
    """But it evaluates other dev problems, if there are any."""
    options = ["arm=outcome", "grpo.max_steps=1"]  # of four in the epoch
    first = train_policy(composed(tmp_path, *options), quiet)
    weights = (tmp_path / "model.safetensors").read_bytes()
    evaluated = []
    evaluate = PrimeTrainer.evaluate
    monkeypatch.setattr(PrimeTrainer, "evaluate", lambda self: evaluated.append(self) or evaluate(self))
    resume = [*options, "grpo.resume_from_checkpoint=true"]
    again = train_policy(composed(tmp_path, *resume), quiet)
    assert not evaluated
    assert (tmp_path / "model.safetensors").read_bytes() == weights
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-1"]
    assert {name: again[name] for name in again if "eval" in name} == {n: first[n] for n in first if "eval" in n}
    assert "train_loss" not in again
    assert [row["step"] for row in log(tmp_path) if "loss" in row] == [1]
    train_policy(composed(tmp_path, *resume, "dev_limit=3"), quiet)
    assert len(evaluated) == 1


def test_overwriting_deletes_the_prm_of_the_earlier_run(tmp_path):
    (tmp_path / "prm").mkdir()
    (tmp_path / "prm" / "implicit_prm.json").write_text("{}")
    (tmp_path / "model.safetensors").touch()
    options = ["overwrite=true", "grpo.max_steps=1", "grpo.eval_strategy=no", "dev_split=null"]
    with pytest.raises(ImplicitPRMError, match=r"prm\.checkpoint"):
        train_policy(composed(tmp_path, "arm=value", f"prm.checkpoint={tmp_path / 'prm'}", *options), quiet)
    with pytest.raises(ImplicitPRMError, match=r"policy\.name"):
        train_policy(composed(tmp_path, "arm=outcome", f"policy.name={tmp_path}", *options), quiet)
    assert (tmp_path / "prm").exists()
    assert (tmp_path / "model.safetensors").exists()  # refused before anything is deleted
    train_policy(composed(tmp_path, "arm=outcome", *options), quiet)
    assert not (tmp_path / "prm").exists()


@pytest.mark.slow
def test_the_prm_that_learned_can_be_opened(tmp_path, checkpoint):
    train_policy(arm(tmp_path, "prime", checkpoint, "grpo.max_steps=1", "lora={r:4,alpha:8}"), quiet)
    prm = ImplicitPRM.from_pretrained(tmp_path / "prm", device="cpu")
    assert prm.metadata.beta == 0.05
    assert (tmp_path / "adapter_model.safetensors").exists()


def test_the_recipe_for_a_real_model_is_a_run(tmp_path):
    config = composed(tmp_path, "experiment/rl=qwen25_05b_gsm8k", "prm.checkpoint=folder", "grpo.bf16=false")
    assert prime_arguments(config).num_generations == 4
    assert config.policy.name == "Qwen/Qwen2.5-0.5B-Instruct"


def test_grading_as_a_reward():
    texts = ["so \\boxed{0.5}", "the sum is 7", "the sum is 7", ""]
    ids = [[5, 2], [5, 2], [5, 7], []]
    with GraderPool(GradingConfig(workers=1, cache=None)) as graders:
        found = correctness(graders, {2})(completions=texts, completion_ids=ids, answer=["1/2", "7", "7", "7"])
    assert found == [1.0, 1.0, 0.0, 0.0]  # the third was cut off


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["+grpo.proces_coef=1"], r"grpo\.process_coef"),
        (["+grpo.loss_type=vespo"], r"grpo\.loss_type=vespo"),
        (["dev_split=null"], r"grpo\.eval_strategy=steps"),
        (["policy.dtype=bfloat16"], r"policy\.dtype=bfloat16"),
        (["problems=gsm8k", "arm=exact"], r"problems\.name=gsm8k"),
        (["+grpo.output_dir=x"], r"grpo\.output_dir"),
    ],
)
def test_what_cannot_work_is_refused_by_name(overrides, named, tmp_path):
    with pytest.raises(ImplicitPRMError, match=named):
        prime_arguments(composed(tmp_path, *overrides))
