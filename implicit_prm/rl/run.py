"""One run of reinforcement learning, from options to a trained policy."""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Callable, Container
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from datasets import Dataset

from implicit_prm.config import ExactRewards, ImplicitRewards, ProblemsConfig, RLConfig, from_mapping
from implicit_prm.data.chat_template import as_chat
from implicit_prm.data.problems import load_problems
from implicit_prm.data.tokenization import build_prompt
from implicit_prm.grading import Grader, GraderPool
from implicit_prm.models import loading
from implicit_prm.models.implicit_prm import ImplicitPRM
from implicit_prm.models.source import ModelSource
from implicit_prm.rl.prime_config import PrimeConfig
from implicit_prm.rl.prime_trainer import PRM_FOLDER, PrimeTrainer
from implicit_prm.rl.resumed_options import RUN_FILE, check_resumed_options, has_same_dev_set
from implicit_prm.rl.reward_function import RewardFunction, completion_text
from implicit_prm.rl.rollouts import end_tokens
from implicit_prm.scoring.exact_steps import ExactSteps
from implicit_prm.training.arguments import log_offline_without_wandb_key
from implicit_prm.training.metrics import JsonLog, final_evaluation
from implicit_prm.training.resume import find_checkpoint
from implicit_prm.types import ImplicitPRMError, Problem, Prompt, Scorer
from implicit_prm.utils.distributed import spoken_once
from implicit_prm.utils.io import JsonLines, write_json
from implicit_prm.utils.lock import locked
from implicit_prm.utils.secrets import without_secrets

METRICS_FILE, PAGE_FILE = "rl_metrics.json", "report.html"

Say = Callable[[str], None]


def train_policy(config: RLConfig, say: Say = print, command: str | None = None) -> dict[str, float]:
    """Train a policy with process rewards and save it in `config.output_dir`.

    Beside the policy it writes `log.jsonl`, `run.json` with the options, `rl_metrics.json`, `report.html` with curves,
    and in the folder `prm` a PRM that was updated. A run resumes with `grpo.resume_from_checkpoint=true`.

    Args:
        config: the options.
        say: prints a line of progress.
        command: the command line that started the run, for run.json.

    Returns:
        The final metrics: training loss and seconds, and with `dev_split` those of the dev problems.

    Raises:
        ImplicitPRMError: invalid options, problems or models, or other options than the run that is resumed had. Before
            the first step.
    """
    config = from_mapping(RLConfig, asdict(config))  # validate a config made in Python like one from YAML
    with locked(config.output_dir, inside=True):
        return _train_policy(config, spoken_once(say), command)


def _train_policy(config: RLConfig, say: Say, command: str | None) -> dict[str, float]:
    arguments = prime_arguments(config)
    folder = Path(config.output_dir)
    if config.overwrite:
        _refuse_to_delete_inputs(config)
    checkpoint = find_checkpoint(config, arguments, say, lambda _: None, "grpo.resume_from_checkpoint")
    same_dev_set = True
    if checkpoint is not None:
        check_resumed_options(Path(checkpoint), config)
        same_dev_set = has_same_dev_set(Path(checkpoint), config)
    elif config.overwrite:
        _clear(folder, arguments)
    if arguments.process_index == 0:
        write_json(folder / RUN_FILE, without_secrets({"command": command, "config": asdict(config)}))
    with GraderPool(config.grading) as graders:
        trainer = _make_trainer(config, arguments, graders, say)
        log_offline_without_wandb_key(arguments, say)
        metrics = dict(trainer.train(resume_from_checkpoint=checkpoint).metrics)
        if config.dev_split is not None:
            metrics |= final_evaluation(trainer, "eval_reward", same_dev_set)
    trainer.save_model()
    if trainer.is_world_process_zero():
        write_json(folder / METRICS_FILE, metrics)
        _write_page(config, arguments)
    return metrics


def _refuse_to_delete_inputs(config: RLConfig) -> None:
    """Refuse `overwrite=true` where the run starts from what it would delete; before anything is deleted."""
    folder = Path(config.output_dir).resolve()
    for option, given in (("policy.name", config.policy.name), ("prm.checkpoint", _prm_checkpoint(config))):
        path = None if given is None else Path(given).resolve()
        if path is None or not path.exists() or not path.is_relative_to(folder):
            continue
        first = next(iter(path.relative_to(folder).parts), PRM_FOLDER)  # or the folder itself
        if first == PRM_FOLDER or first.startswith("checkpoint-"):
            raise ImplicitPRMError(f"{option}={given}: overwrite=true deletes it; copy it to another folder first")


def _prm_checkpoint(config: RLConfig) -> str | None:
    return config.prm.checkpoint if isinstance(config.prm, ImplicitRewards) else None


def _clear(folder: Path, arguments: PrimeConfig) -> None:
    """Delete what an earlier run has left beside its policy, so that it is not mistaken for a part of this run."""
    if arguments.process_index == 0:
        shutil.rmtree(folder / PRM_FOLDER, ignore_errors=True)
        for name in (METRICS_FILE, PAGE_FILE):
            (folder / name).unlink(missing_ok=True)


def _write_page(config: RLConfig, arguments: PrimeConfig) -> None:
    from implicit_prm.rl import page  # matplotlib is slow to load

    folder = Path(config.output_dir)
    options = without_secrets(asdict(config))
    options |= {f"grpo.{name}": value for name, value in options.pop("grpo").items()}
    generations = (arguments.steps_per_generation or 1) * arguments.num_iterations  # batches for one generation
    responses = (arguments.generation_batch_size or 0) * arguments.gradient_accumulation_steps // generations
    page.write(folder / PAGE_FILE, list(JsonLines(folder / "log.jsonl").rows()), options, folder.name, responses)


def _make_trainer(config: RLConfig, arguments: PrimeConfig, graders: GraderPool, say: Say) -> PrimeTrainer:
    problems = {"train": load_problems(config.problems, say)}
    if config.dev_split is not None:
        dev = replace(config.problems, split=config.dev_split, limit=config.dev_limit)
        problems["dev"] = load_problems(dev, say)
    sets = {name: _dataset(found, config.problems) for name, found in problems.items()}
    source = ModelSource.of(config.policy)
    policy = loading.open_model(source, config.policy.dtype, config.policy.attn_implementation)
    tokenizer = loading.open_tokenizer(source)
    steps = None
    if config.problems.name == "sandbox":
        steps = ExactSteps({_key(p, config.problems): p.text for found in problems.values() for p in found})
    prm = _open_prm(config, steps, source)
    return PrimeTrainer(
        policy,
        correctness(graders, end_tokens(policy, tokenizer)),
        arguments,
        prm=prm,
        step_checker=None if steps is None or prm is None else steps.check,
        train_dataset=sets["train"],
        eval_dataset=sets.get("dev"),
        processing_class=tokenizer,
        peft_config=None if config.lora is None else _peft_config(config),
        callbacks=[JsonLog(Path(config.output_dir) / "log.jsonl")],
    )


def prime_arguments(config: RLConfig) -> PrimeConfig:
    """`config.grpo` as PrimeConfig, which defines and checks most options.

    Raises:
        ImplicitPRMError: an unknown option, or a combination that is refused.
    """
    known = {f.name for f in fields(PrimeConfig)}
    for key in config.grpo:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean grpo.{near[0]}?" if near else "see PrimeConfig and trl.GRPOConfig for the names"
            raise ImplicitPRMError(f"grpo.{key}: unknown option; {hint}")
    options = dict(config.grpo)
    for key in ("gradient_checkpointing", "gradient_checkpointing_kwargs"):  # their names before transformers 5.23
        renamed = key.replace("gradient", "activation")
        if renamed in known and key in options:
            options.setdefault(renamed, options.pop(key))
    if config.problems.template_kwargs:
        options.setdefault("chat_template_kwargs", config.problems.template_kwargs)
    try:
        return PrimeConfig(output_dir=config.output_dir, **options)
    except ImplicitPRMError as error:
        raise ImplicitPRMError(f"grpo.{error}") from None
    except (ValueError, TypeError, ImportError, RuntimeError) as error:
        raise ImplicitPRMError(f"grpo: {str(error).strip()}") from error


def correctness(graders: GraderPool, ends: Container[int]) -> RewardFunction:
    """A reward function that grades final answers: 1 for a correct one, else 0.

    Args:
        graders: compare the answers.
        ends: tokens that end a response; what a response that was cut off happens to end in is no answer.

    Returns:
        A function with TRL's keywords; the dataset has a column `answer`.
    """

    def grade(grader: Grader, row: tuple[str, str, bool]) -> float:
        return float(grader.grade(*row).correct)

    def correct(completions: Any, completion_ids: Any, answer: Any, **_: Any) -> list[float | None]:
        texts = map(completion_text, completions)
        finished = [bool(ids) and ids[-1] in ends for ids in completion_ids]
        return list(graders.map(grade, list(zip(texts, answer, finished, strict=True))))

    return correct


def _prompt(problem: Problem, config: ProblemsConfig) -> Prompt:
    """What TRL's dataset holds: a chat, or with a raw: template the text."""
    prompt = build_prompt(problem.text, config.text)
    return prompt if config.prompt_template.startswith("raw:") else as_chat(prompt)


def _key(problem: Problem, config: ProblemsConfig) -> str:
    prompt = _prompt(problem, config)
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def _dataset(problems: list[Problem], config: ProblemsConfig) -> Dataset:
    rows = [{"id": one.id, "prompt": _prompt(one, config), "answer": one.answer} for one in problems]
    return Dataset.from_list(rows)


def _open_prm(config: RLConfig, steps: ExactSteps | None, policy: ModelSource) -> ImplicitPRM | Scorer | None:
    if isinstance(config.prm, ExactRewards):
        return steps
    if not isinstance(config.prm, ImplicitRewards):
        return None
    options = {name: value for name, value in asdict(config.prm).items() if name not in ("kind", "checkpoint")}
    return ImplicitPRM.from_pretrained(
        config.prm.checkpoint, **options, trust_remote_code=policy.trust_remote_code, device="cpu"
    )


def _peft_config(config: RLConfig) -> Any:
    from peft import LoraConfig

    assert config.lora is not None
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora.r,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=config.lora.target_modules,
    )
