"""A toy that can be enumerated: a response is three steps, each "a" or "b", under a reference and a policy."""

import itertools
import math

from implicit_prm.search.protocols import Prefix
from implicit_prm.search.transformers_generation import SlotNumbers
from implicit_prm.types import StepScores

STEPS = 3
BETA = 0.5
RESPONSES = ["".join(f"{step}\n" for step in steps) for steps in itertools.product("ab", repeat=STEPS)]


def reference(prefix):
    """Probability of the step "a" after a prefix."""
    return 0.5 + 0.1 * (prefix.count("a") - prefix.count("b"))


def policy(prefix):
    return 0.75 if prefix.endswith("a\n") else 0.4


def probability(response, model):
    """Of a whole response under one of the two models."""
    prefixes = itertools.accumulate(response.splitlines(keepends=True), initial="")
    steps = response.split()
    return math.prod(model(p) if step == "a" else 1 - model(p) for p, step in zip(prefixes, steps, strict=False))


class ToyGeneration:
    """Samples steps from the reference, one random number for each."""

    guide_tokens = 0

    def __init__(self, n, seed):
        self.numbers, self.prefixes, self.tokens = SlotNumbers(seed, n, STEPS), [Prefix()], 0

    def extend(self, parents):
        kept = [self.prefixes[parent] for parent in parents]
        self.prefixes = [one if one.done else self._longer(one, slot) for slot, one in enumerate(kept)]
        return self.prefixes

    def _longer(self, prefix, slot):
        self.tokens += 1
        step = "a" if self.numbers.take([slot])[0] < reference(prefix.text) else "b"
        text = f"{prefix.text}{step}\n"
        return Prefix(text, finished=text.count("\n") == STEPS)


class ToyGuide:
    """Scores prefixes with a function of their text that returns the values of its steps."""

    tokens = 0

    def __init__(self, steps):
        self.steps = steps

    def score(self, prefixes, parents):
        return [StepScores(one.text, [], self.steps(one.text)) for one in prefixes]


def implicit(text):
    """Step rewards of the implicit PRM: beta times the log-ratio of policy and reference."""
    found, prefix = [], ""
    for step in text.split():
        p, r = policy(prefix), reference(prefix)
        found.append(BETA * math.log(p / r if step == "a" else (1 - p) / (1 - r)))
        prefix += f"{step}\n"
    return found


def constant(text):
    return [0.5] * text.count("\n")


def exact(text):
    """A step is right if it is "a"."""
    return [float(step == "a") for step in text.split()]
