"""Hostile texts: as responses, answers, prompts and replies of a server; and mutated chat templates."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

from fuzzlib.values import mutated_text, text, value
from implicit_prm import sandbox
from implicit_prm.config import TextConfig, from_mapping
from implicit_prm.data.tokenization import Encoder
from implicit_prm.grading import Grader
from implicit_prm.grading.extraction import find_answer
from implicit_prm.models.loading import open_tokenizer
from implicit_prm.models.source import ModelSource
from implicit_prm.rewards.step_splitting import split_steps, steps_of_tokens
from implicit_prm.rollouts.server_replies import Responses
from implicit_prm.types import StepScores
from implicit_prm.utils.secrets import hide_secrets

RULES = ("blank_line", "newline", "step_marker", "given")
# A comparison is ended after so much CPU time, which is an answer and no fault.
GRADING_LIMIT_S = 0.5


def open_grading(folder: Path) -> Callable[[Random], None]:
    """Extraction, comparison and classes of answers. Most comparisons go to the grader's worker."""
    grader = Grader(limit_s=GRADING_LIMIT_S)

    def case(rng: Random) -> None:
        response, gold = text(rng), rng.choice((text(rng, 6), "5", r"\frac{1}{2}", "(1,2)", "12 cm"))
        find_answer(response, rng.choice(("standard", "boxed")))
        grader.grade(
            rf"{text(rng, 5)}\boxed{{{text(rng, 4)}}}" if rng.random() < 0.4 else response, gold, rng.random() < 0.8
        )
        if rng.random() < 0.2:
            grader.answer_classes([rng.choice((None, gold, text(rng, 4), "0.5")) for _ in range(4)])

    return case


def open_steps(folder: Path) -> Callable[[Random], None]:
    """Steps, tokens and their alignment; the sandbox's checker; colours; what hides credentials in a message."""
    encoder = Encoder(open_tokenizer(ModelSource.resolve("sandbox")), TextConfig())
    problem = sandbox.problems("train", 1)[0]

    def case(rng: Random) -> None:
        response = text(rng).encode("utf-8", "replace").decode()  # readers and servers let no lone surrogate through
        rule = rng.choice(RULES)
        given = rng.choice((response.split("\n"), [text(rng, 3)], []))
        sandbox.check_steps(problem.text, response)
        hide_secrets(response)
        encoded = encoder.response(response, rng.random() < 0.8)
        spans = split_steps(response, rule, given)
        assert "".join(response[span.start : span.end] for span in spans) == response
        assert len(steps_of_tokens(response, encoded.offsets, spans)) == len(encoded.ids)
        score = StepScores(response, spans, [rng.gauss(0, 1) for _ in spans])
        score.heat_strip()._repr_html_()

    return case


def open_replies(folder: Path) -> Callable[[Random], None]:
    """Replies of a server, whose fields may be missing or of any type."""

    def case(rng: Random) -> None:
        reasons = ("stop", "length", "content_filter", None, value(rng))
        choices = [
            SimpleNamespace(message=SimpleNamespace(content=value(rng)), finish_reason=rng.choice(reasons))
            if rng.random() < 0.8
            else value(rng)
            for _ in range(rng.randrange(4))
        ]
        reply: Any = SimpleNamespace(choices=choices, usage=SimpleNamespace(completion_tokens=value(rng)))
        responses = Responses()
        responses.add(reply if rng.random() < 0.9 else value(rng), rng.randrange(1, 4), rng.randrange(1, 100))
        for one in responses.texts:
            one.encode()

    return case


def open_templates(folder: Path) -> Callable[[Random], None]:
    """Mutated chat templates, prompt templates and template variables with hostile prompts."""
    tokenizer = open_tokenizer(ModelSource.resolve("sandbox"))
    original = str(tokenizer.chat_template)

    def case(rng: Random) -> None:
        mine = copy.copy(tokenizer)
        mine.chat_template = rng.choice((original, mutated_text(original, rng), mutated_text(original, rng), text(rng)))
        kwargs = {rng.choice(("messages", "role", "x", text(rng, 2))): value(rng)} if rng.random() < 0.3 else None
        options = {
            "steps": rng.choice(RULES),
            "prompt_template": rng.choice(("{problem}", "raw:{problem}", text(rng) + "{problem}", text(rng))),
            "system_prompt": rng.choice((None, text(rng, 5))),
            "template_kwargs": kwargs,
        }
        options = {
            name: one.encode("utf-8", "replace").decode() if isinstance(one, str) else one
            for name, one in options.items()
        }
        encoder = Encoder(mine, from_mapping(TextConfig, options))
        prompt = text(rng).encode("utf-8", "replace").decode()
        chat = [
            {"role": rng.choice(("user", "system", "assistant", text(rng, 2))), "content": prompt} for _ in range(2)
        ]
        encoder.prompt_ids(rng.choice((prompt, encoder.prompt_text("1 + 1"), chat[:1], chat)))
        encoder.response(rng.choice((encoder.template.opening if encoder.template else "", "")) + prompt)
        encoder.template_hash.encode()

    return case
