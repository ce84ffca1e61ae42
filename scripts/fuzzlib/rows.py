"""Mutated rows in every format: read, encoded for training and scored from a column, as the commands do."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from fuzzlib.values import damaged, json_lines, mutated
from implicit_prm import sandbox
from implicit_prm.baselines.layouts import Layout
from implicit_prm.config import CEConfig, DataConfig, ProblemsConfig, StepsConfig, TextConfig
from implicit_prm.data import training_set
from implicit_prm.data.groups import load_groups
from implicit_prm.data.problems import load_problems
from implicit_prm.data.process_bench import load_process_bench
from implicit_prm.data.tokenization import Encoder
from implicit_prm.models.loading import open_tokenizer
from implicit_prm.models.source import ModelSource
from implicit_prm.sandbox.world import true_solution
from implicit_prm.scoring.scorers import column_scorer

RULES = ("blank_line", "newline", "step_marker", "given")


def formats() -> dict[str, list[dict[str, Any]]]:
    """Valid rows in each format that is read."""
    problems = sandbox.problems("train", 3)
    right = [true_solution(problem) for problem in problems]
    wrong = [solution.replace("=", "= 1") for solution in right]
    chats = [[{"role": "user", "content": problem.text}] for problem in problems]
    pairs = list(zip(problems, right, wrong, strict=True))
    return {
        "grouped": [
            {
                **{
                    "id": p.id,
                    "prompt": p.text,
                    "answer": p.answer,
                    "completions": [r, w],
                    "correctness": [True, False],
                },
                **{"finished": [True, False], "steps": [r.split("\n"), w.split("\n")], "scores": [[0.1, 0.2], [0.3]]},
                "step_labels": [[True] * len(r.split("\n")), [False] * len(w.split("\n"))],
            }
            for p, r, w in pairs
        ],
        "objects": [
            {"problem": p.text, "responses": [{"text": r, "score": 0.5}, {"text": w, "score": 0.1}], "correct": [1, 0]}
            for p, r, w in pairs
        ],
        "unpaired": [
            {"prompt": c, "completion": [{"role": "assistant", "content": t}], "label": t is r}
            for c, r, w in zip(chats, right, wrong, strict=True)
            for t in (r, w)
        ],
        "paired": [{"prompt": p.text, "chosen": r, "rejected": w, "score_chosen": 1.0} for p, r, w in pairs],
        "problems": [{"problem": p.text, "solution": rf"so \boxed{{{p.answer}}}"} for p in problems],
        "process_bench": [
            {
                **{"id": p.id, "generator": "x", "problem": p.text, "steps": w.split("\n")},
                **{"final_answer_correct": False, "label": 0},
            }
            for p, r, w in pairs
        ],
    }


def open_case(folder: Path) -> Callable[[Random], None]:
    """A function that feeds one mutated set of rows, in memory or as a file."""
    valid = formats()
    tokenizer = open_tokenizer(ModelSource.resolve("sandbox"))
    encoders = {rule: Encoder(tokenizer, TextConfig(steps=rule)) for rule in RULES}  # type: ignore[arg-type]

    def case(rng: Random) -> None:
        kind = rng.choice(list(valid))
        rows = mutated(valid[kind], rng)
        path = folder / f"rows.{rng.choice(('jsonl', 'jsonl', 'json', 'csv'))}"
        whole = (json.dumps(rows) if path.suffix == ".json" else json_lines(rows)).encode()
        path.write_bytes(damaged(whole, rng) if rng.random() < 0.2 else whole)
        source: Any = rows if isinstance(rows, list) and rng.random() < 0.4 else str(path)
        if kind == "problems":
            load_problems(ProblemsConfig(str(path)), lambda _: None)
        elif kind == "process_bench":
            load_process_bench(str(path), "none")
        else:
            _train_and_score(source, encoders[rng.choice((*RULES, *RULES[:3]))], rng)

    return case


def _train_and_score(source: Any, encoder: Encoder, rng: Random) -> None:
    groups = load_groups(source, graded=rng.random() < 0.7)
    pickle.dumps(groups)  # as processes exchange them
    for name in {"scores", "score"} & groups[0].extra.keys() if groups else ():
        for group in groups:
            column_scorer(name, rng.choice(("probability", "log_ratio")))(group)
    loss = rng.choice((CEConfig(), CEConfig(), CEConfig(balance="prompt"), StepsConfig()))
    train, _ = (
        training_set.from_rows(source, None, loss, 0)
        if not isinstance(source, str)
        else training_set.read(DataConfig(train=source, max_responses=rng.choice((None, 1))), loss, 0)
    )
    layout = Layout(encoder, "value_head", None, rng.choice(("outcome", "outcome", "outcome", "hard", "soft")))
    encode = rng.choice((lambda group: encoder.group(group, loss.needs_step_labels), layout.group))
    training_set.encode(train, encode, rng.choice((None, 60)), rng.choice(("error", "drop")))
