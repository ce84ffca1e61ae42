"""Time scoring a search: a session, which runs the new tokens of every step, and rescoring the whole responses.

    python scripts/bench_session.py                                    # 200 tokens, then 10 steps of 50 for 8 beams
    python scripts/bench_session.py --beams 4 --steps 20 --lengths 200 25
    python scripts/bench_session.py --model random --beams 4 --steps 3 # seconds, to see that it works

Every step extends all beams by a step of 0.6 to 1.4 times the mean length; the best quarter of them is then continued,
each by four beams. What is selected is fixed beforehand, so that all variants score the same tokens. Their token
rewards are compared first; a difference above the tolerance stops the run.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from benchlib import options, ours, work
from benchlib.cost import Cost, after_prompt, shared, unpadded
from benchlib.official import Models
from benchlib.report import Report, Variant
from benchlib.run import compare, main
from rich.console import Console
from transformers import PreTrainedTokenizerBase

from implicit_prm import ImplicitPRM, ImplicitPRMError
from implicit_prm.costs.operations import Tokens
from implicit_prm.costs.shapes import shape_of

# Largest difference between the rewards of a token, in nats. Half precision is reported but not checked.
TOLERANCE = {"float32": 1e-3}
SESSION, GIVEN = "ours, session", "ours, session, reference given"
Rewards = list[list[float]]  # of the tokens of each extension, step by step


@dataclass(frozen=True)
class Extension:
    """A step of the search: the beam that each new one continues, its new tokens, and the tokens of the response."""

    parents: list[int]
    new: list[list[int]]
    whole: list[list[int]]

    @property
    def lengths(self) -> list[int]:
        return [len(ids) for ids in self.whole]


@dataclass(frozen=True)
class Search:
    """The extensions of a search over the responses to one problem."""

    problem: str
    prompt_ids: list[int]
    extensions: list[Extension]

    @property
    def response_tokens(self) -> int:
        """Tokens that the search generates."""
        return sum(len(ids) for extension in self.extensions for ids in extension.new)

    def __str__(self) -> str:
        beams = len(self.extensions[0].new)
        mean = self.response_tokens / beams / len(self.extensions)
        return (
            f"a prompt of {len(self.prompt_ids)} tokens, {len(self.extensions)} steps of {beams} beams, "
            f"{mean:.0f} tokens each on average"
        )


def generate(tokenizer: PreTrainedTokenizerBase, chosen: argparse.Namespace) -> Search:
    """A search whose steps are generated text, and whose selection is random."""
    made = work.generate(tokenizer, chosen.lengths, 1, chosen.beams * chosen.steps, chosen.seed)
    group, rng = made.encoded[0], random.Random(chosen.seed)
    texts = iter([list(response.ids[:-1]) for response in group.responses])  # without the end of turn
    whole, extensions = [list[int]()], []
    for _ in range(chosen.steps):
        kept = rng.sample(range(len(whole)), max(1, len(whole) // 4))
        parents = [kept[beam * len(kept) // chosen.beams] for beam in range(chosen.beams)]
        new = [next(texts) for _ in parents]
        whole = [whole[parent] + ids for parent, ids in zip(parents, new, strict=True)]
        extensions.append(Extension(parents, new, whole))
    return Search(made.groups[0].prompt, list(group.prompt_ids), extensions)


def rescored(prm: ImplicitPRM, search: Search, how: ours.Ablation) -> Rewards:
    """Score the whole responses at every step."""
    found = []
    with ours.ablated(how):
        for step in search.extensions:
            rewards = prm.token_rewards(search.prompt_ids, step.whole)
            found += [one[-len(new) :].tolist() for one, new in zip(rewards, step.new, strict=True)]
    return found


def in_session(prm: ImplicitPRM, search: Search, known: list[Rewards] | None, counted: list[int]) -> Rewards:
    """Score the new tokens of every step; `counted` gets the number of tokens that the models ran."""
    session, found = prm.open(search.problem), []
    for place, step in enumerate(search.extensions):
        steps = session.extend(step.new, step.parents, None if known is None else known[place])
        found += [one.token_rewards for one in steps]
    counted[:] = [session.tokens]
    return found


def reference_logprobs(prm: ImplicitPRM, search: Search) -> list[Rewards]:
    """What a generator that is the reference knows: log-probabilities of the new tokens of every step."""
    found = []
    for step in search.extensions:
        known = prm.reference_logprobs(search.prompt_ids, step.whole) or []
        found.append([one[-len(new) :].tolist() for one, new in zip(known, step.new, strict=True)])
    return found


def variants(
    prm: ImplicitPRM, models: Models, search: Search, counted: dict[str, list[int]]
) -> dict[str, Callable[[], Variant]]:
    """Name to a function that makes the variant; rescoring first."""
    prompt = len(search.prompt_ids)
    forward = partial(Cost.forward, shape_of(models.policy))
    together = forward(sum((shared(prompt, step.lengths) for step in search.extensions), Tokens()))
    rows = [(prompt, length) for step in search.extensions for length in step.lengths]
    new = Tokens.rows(1, prompt)
    for step in search.extensions:
        for ids, length in zip(step.new, step.lengths, strict=True):
            new += after_prompt(prompt + length - len(ids), [len(ids)])
    once = forward(new)

    def session(known: list[Rewards] | None) -> Variant:
        name, passes = (SESSION, 2) if known is None else (GIVEN, 1)
        counted[name] = []
        return Variant(partial(in_session, prm, search, known, counted[name]), once * passes, passes * once.flops)

    def rescoring(how: ours.Ablation, cost: Cost) -> Variant:
        return Variant(partial(rescored, prm, search, how), cost * 2, 2 * once.flops)

    return {
        "rescoring": lambda: rescoring(ours.Ablation(), together),
        "rescoring, prompt not shared": lambda: rescoring(ours.Ablation(shared=False), forward(unpadded(rows))),
        SESSION: lambda: session(None),
        GIVEN: lambda: session(reference_logprobs(prm, search)),
    }


def agreement(dtype: str) -> Callable[[str, Variant], dict[str, float]]:
    """A function that compares the token rewards of a variant with those of the first, in nats."""
    expected: Rewards = []

    def check(name: str, variant: Variant) -> dict[str, float]:
        found = variant.work()
        if not expected:
            expected.extend(found)
            return {}
        worst = max(
            abs(one - other)
            for row, others in zip(found, expected, strict=True)
            for one, other in zip(row, others, strict=True)
        )
        if not worst <= TOLERANCE.get(dtype, float("inf")):
            raise ImplicitPRMError(f"{name}: a token's reward is {worst:.1e} nats off; nothing was timed")
        return {"nats off": worst}

    return check


def cases(chosen: argparse.Namespace, console: Console) -> Iterator[Report]:
    """One report."""
    models, tokenizer = options.open_models(chosen)
    prm = ImplicitPRM(models.policy, tokenizer, models.reference, ours.metadata(models))
    search = generate(tokenizer, chosen)
    counted: dict[str, list[int]] = {}
    title = options.title(chosen, f"Scoring {chosen.steps} steps of {chosen.beams} beams")
    made = compare(title, variants(prm, models, search, counted), agreement(chosen.dtype), search, chosen, console)
    scored = 2 * sum(len(search.prompt_ids) + sum(step.lengths) for step in search.extensions)
    made.extra["scorer tokens of rescoring"] = f"{scored:,}"
    for name, tokens in counted.items():
        made.extra[f"scorer tokens of {name}"] = f"{tokens[0]:,} ({scored / tokens[0]:.1f} times fewer)"
    yield made


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_models(made)
    made.add_argument(
        "--lengths",
        type=options.positive,
        nargs=2,
        metavar=("PROMPT", "STEP"),
        default=(200, 50),
        help="tokens of the prompt and mean tokens of a step (default: 200 50)",
    )
    made.add_argument("--beams", type=options.positive, default=8, help="(default: 8)")
    made.add_argument("--steps", type=options.positive, default=10, help="(default: 10)")
    options.add_measuring(made, rounds=5)
    made.set_defaults(data=None, beta=1.0)  # rewards in nats
    return made


if __name__ == "__main__":
    main(cases, options.parse(parser()))
