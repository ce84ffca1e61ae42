"""Sample N responses to every problem, grade them, write them as they come, and go on after an interruption."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from transformers import GenerationConfig, set_seed

from implicit_prm import backbone
from implicit_prm.config import RolloutConfig, SamplingConfig, TextConfig, from_mapping
from implicit_prm.data.files import JsonLines, write_json
from implicit_prm.data.grading import Grader
from implicit_prm.data.problems import load_problems, step_checker
from implicit_prm.data.tokens import Encoder
from implicit_prm.records import ImplicitPRMError, Problem, Prompt

Sampled = tuple[str, bool]  # a response's text, and whether it ended by itself


def rollout(config: RolloutConfig, say: Callable[[str], None] = print) -> Path:
    """Write one grouped row per problem to `config.output` (JSON lines), in the order of the problems.

    The column `prompt` holds the prompt as it was sampled from, its template applied, so training on the file needs
    none. Problems are sampled in fixed batches, each with its own seed, so an interrupted and resumed run writes what
    an uninterrupted one would. `<output>.meta.json` records how the file was made; other settings are then refused.

    Returns:
        The path of the file.

    Raises:
        ImplicitPRMError: a bad source or model, other settings than the file was started with, or a full disk.
    """
    config = from_mapping(RolloutConfig, asdict(config))  # a config made in Python is checked like one from YAML
    problems = load_problems(config.problems, say)
    output = JsonLines(config.output)
    _check_provenance(config, output)
    done = {row["id"] for row in output.rows()}
    if all(problem.id in done for problem in problems):
        say(f"{config.output}: all {len(problems)} problems are there already")
        return output.path
    if done:
        say(f"{config.output}: going on behind {len(done)} problems")

    tokenizer = backbone.open_tokenizer(config.policy)
    source = config.problems
    encoder = Encoder(tokenizer, TextConfig(prompt_template=source.prompt_template, system_prompt=source.system_prompt))
    model: Any = backbone.open_model(config.policy).to(backbone.best_device())  # type: ignore[arg-type]
    checker = step_checker(source.name)
    size = config.sampling.batch_size
    with Grader() as grader, Progress() as progress:
        task = progress.add_task("sampling", total=len(problems))
        for start in range(0, len(problems), size):
            batch = problems[start : start + size]
            if any(problem.id not in done for problem in batch):
                sampled = sample(model, encoder, [p.text for p in batch], config.sampling, config.sampling.seed + start)
                for problem, responses in zip(batch, sampled, strict=True):
                    if problem.id not in done:
                        output.append(_row(problem, encoder.turn(problem.text), responses, grader, checker))
            progress.advance(task, len(batch))
    return output.path


@torch.inference_mode()
def sample(
    model: Any, encoder: Encoder, problems: Sequence[str], sampling: SamplingConfig, seed: int
) -> list[list[Sampled]]:
    """`sampling.n` responses to each problem, with transformers' generation, in one batch.

    Nothing but temperature and top-p shapes the distribution: the model's own generation defaults (top-k, repetition
    penalty) would make the responses ones that the reference does not assign its log-probabilities to.
    """
    tokenizer = encoder.tokenizer
    prompts = [encoder.prompt_ids(problem) for problem in problems]
    width = max(map(len, prompts))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else encoder.end_of_turn
    input_ids = torch.tensor([[pad] * (width - len(ids)) + ids for ids in prompts], device=model.device)
    attention = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts], device=model.device)
    ends = {encoder.end_of_turn, tokenizer.eos_token_id} - {None}
    set_seed(seed)
    generated = model.generate(
        input_ids=input_ids,
        attention_mask=attention,
        generation_config=GenerationConfig(
            do_sample=True,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=0,
            max_new_tokens=sampling.max_new_tokens,
            num_return_sequences=sampling.n,
            pad_token_id=pad,
            eos_token_id=sorted(ends),
        ),
    )
    rows = generated[:, width:].tolist()
    texts = [_text(row, ends, tokenizer) for row in rows]
    return [texts[start : start + sampling.n] for start in range(0, len(texts), sampling.n)]


def _text(ids: list[int], ends: set[int], tokenizer: Any) -> Sampled:
    """A row of generated ids up to its end-of-turn token, as text; unfinished where there is none."""
    stop = next((place for place, token in enumerate(ids) if token in ends), None)
    return tokenizer.decode(ids[:stop], skip_special_tokens=True, clean_up_tokenization_spaces=False), stop is not None


def _row(
    problem: Problem,
    prompt: Prompt,
    responses: Sequence[Sampled],
    grader: Grader,
    checker: Callable[[str, str], list[bool]] | None,
) -> dict[str, Any]:
    texts = [text for text, _ in responses]
    verdicts = [grader.grade(text, problem.answer) for text in texts]
    row: dict[str, Any] = {
        "id": problem.id,
        "prompt": prompt,
        "answer": problem.answer,
        "completions": texts,
        "correctness": [verdict.correct for verdict in verdicts],
        "verdicts": [verdict.status for verdict in verdicts],
        "finished": [finished for _, finished in responses],
    }
    if checker is not None:
        row["step_labels"] = [checker(problem.text, text) for text in texts]
    return row


def _check_provenance(config: RolloutConfig, output: JsonLines) -> None:
    """Record beside a new file how it is made; refuse to go on with an old one that was made otherwise."""
    path = output.path.with_name(output.path.name + ".meta.json")
    made = asdict(config)
    del made["output"], made["problems"]["limit"]  # a longer run of the same kind goes on in the same file
    if not output.rows():
        write_json(path, made)
        return
    if not path.exists():
        raise ImplicitPRMError(
            f"{output.path} is there, but not {path.name}, which says how it was made; give another output"
        )
    before = json.loads(path.read_text(encoding="utf-8"))
    for name, value in made.items():
        if before.get(name) != value:
            raise ImplicitPRMError(
                f"{output.path} was made with {name}={before.get(name)}, now it is {value}; give another output, or "
                "delete the file to start over"
            )
