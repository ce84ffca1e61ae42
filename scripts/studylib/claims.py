"""The paper's claims: for each, the cells to show and the differences between cells that decide it.

A verdict depends on the 95 % intervals alone. A claim of a gain holds if the interval lies above zero, and does not
hold if it lies below zero. A claim of no loss, or of no gain, has a margin, since no experiment shows exact equality:
the paper's "no difference" is 0.3 points of best-of-N.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from implicit_prm.evaluation.statistics import Interval
from studylib.cells import RESPONSES, SHARES
from studylib.measures import BEST, VOTE, Measure

MARGIN = 0.02
Verdict = Literal["holds", "does not hold", "undecided"]
Read = Callable[[str], Mapping[str, Measure] | None]  # the measures of a cell; None if the study lacks it


@dataclass(frozen=True)
class Comparison:
    """A claim about the difference of two cells.

    Args:
        a: the first cell.
        b: the second cell.
        expected: `a` is better than `b` (`more`), not worse (`not_less`), or not better (`not_more`); the last two by
            a margin.
        of_a: the measure of `a`.
        of_b: the measure of `b`.
    """

    a: str
    b: str
    expected: Literal["more", "not_less", "not_more"] = "more"
    of_a: str = BEST
    of_b: str = BEST

    def difference(self, read: Read) -> Interval | None:
        """The difference with its 95 % interval; None if one of the cells is not in the study."""
        first, second = read(self.a), read(self.b)
        if first is None or second is None or self.of_a not in first or self.of_b not in second:
            return None
        return (first[self.of_a] - second[self.of_b]).interval()

    def verdict(self, difference: Interval) -> Verdict:
        """Whether the interval of the difference supports the claim."""
        low, high = difference.low, difference.high
        if self.expected == "not_more":
            low, high = -high, -low
        if low > 0 if self.expected == "more" else low > -MARGIN:
            return "holds"
        return "does not hold" if high < 0 else "undecided"


@dataclass(frozen=True)
class Claim:
    """A claim of the paper and its section of the report.

    Args:
        title: heading of the section.
        says: the claim in a sentence.
        paper: the paper's own figures.
        rows: the cells of the table.
        tests: the differences that decide.
        figure: which figure of `figures.py` to draw.
    """

    title: str
    says: str
    paper: str
    rows: tuple[str, ...]
    tests: tuple[Comparison, ...]
    figure: str | None = None


def overall(verdicts: list[Verdict]) -> Verdict | Literal["holds in part"]:
    """The verdict of a claim with several tests."""
    kinds = set(verdicts)
    if len(kinds) == 1:
        return verdicts[0]
    if "holds" in kinds:
        return "holds in part"
    return "does not hold" if "does not hold" in kinds else "undecided"


def _against(*rivals: str) -> tuple[Comparison, ...]:
    return tuple(Comparison(loss, rival) for rival in rivals for loss in ("ce", "dpo"))


def _steps(names: tuple[str, ...]) -> tuple[Comparison, ...]:
    """Compare the last cell with the first, and each with the one before it."""
    return (Comparison(names[-1], names[0]), *(Comparison(b, a) for a, b in pairwise(names)))


_CE_K, _DPO_K = (tuple(f"{loss}_k{k}" for k in RESPONSES) for loss in ("ce", "dpo"))
_CE_P, _DPO_P = (tuple(f"{loss}_p{share}" for share in SHARES) for loss in ("ce", "dpo"))

CLAIMS = (
    Claim(
        "Implicit PRMs beat explicit ones on the same responses",
        "Trained on the same responses, implicit PRMs rerank better than Math-Shepherd's and AutoPSV's step labels.",
        "Mean best-of-N (their Table 1): DPO 50.4, NCA 49.4, CE 48.4, KTO 45.7; Math-Shepherd 47.8, AutoPSV "
        "45.7; outcome reward models of others 46.6 to 46.9.",
        ("ce", "dpo", "nca", "kto", "ms_hard", "ms_soft", "ms_next", "autopsv", "verifier", "orm", "exact"),
        _against("ms_hard", "ms_soft", "ms_next", "autopsv", "orm"),
        "scorers",
    ),
    Claim(
        "More responses to a prompt help",
        "At a fixed number of prompts, more responses to each make a better model; DPO needs more of them than "
        "cross-entropy.",
        "Best-of-64 on the 8 B generator: CE with 1/2/4/8 responses 51.2/51.6/53.6/53.0, DPO with 2/4/8 "
        "49.8/51.2/57.0.",
        (*_CE_K, "ce", *_DPO_K[1:], "dpo"),
        (*_steps((*_CE_K, "ce")), *_steps((*_DPO_K[1:], "dpo"))),
        "responses",
    ),
    Claim(
        "Cross-entropy works with one response to a prompt",
        "One response to a prompt, so no pair at all, still makes a model that is better than a random pick.",
        "CE with one response: 15.0, 51.2 and 67.4 against 9.6, 44.6 and 63.2 for a random pick on their three "
        "generators.",
        ("ce_k1", "ce"),
        (Comparison("ce_k1", "ce", of_b="random"), Comparison("ce_k1", "ce", of_b="majority")),
    ),
    Claim(
        "More prompts help",
        "At a fixed number of responses, more prompts make a better model.",
        "Best-of-64 on the 8 B generator with 25/50/75/100 % of the prompts: DPO 50.0/53.4/53.6/57.0, CE "
        "48.4/51.4/54.4/53.0.",
        (*_CE_P, "ce", *_DPO_P, "dpo"),
        (*_steps((*_CE_P, "ce")), *_steps((*_DPO_P, "dpo"))),
        "prompts",
    ),
    Claim(
        "Step labels on top add nothing",
        "A second stage on step labels does not improve an implicit PRM.",
        "Mean best-of-N of DPO 50.4, with a second stage on step labels 50.1.",
        ("ce", "ce_steps", "dpo", "dpo_steps"),
        (Comparison("ce_steps", "ce", "not_more"), Comparison("dpo_steps", "dpo", "not_more")),
    ),
    Claim(
        "The reference can be left out",
        "Training, scoring or both without a reference cost no accuracy.",
        "Mean best-of-N of DPO: trained and scored with it 50.4; only trained 50.6; only scored 50.2; neither "
        "50.3. The untrained policy's log-likelihood alone 45.8.",
        ("dpo", "dpo_ref_none", "dpo_none_ref", "dpo_none_none", "likelihood"),
        tuple(Comparison(name, "dpo", "not_less") for name in ("dpo_ref_none", "dpo_none_ref", "dpo_none_none")),
    ),
    Claim(
        "Majority vote and the PRM add up",
        "Votes weighted by the PRM are better than best-of-N by the PRM, and than the plain vote.",
        "Mean over N, best-of-N and weighted vote: KTO 45.7 and 50.4, NCA 49.4 and 51.8, DPO 50.4 and 51.5, CE "
        "48.4 and 51.9; the plain vote 49.1.",
        ("ce", "dpo", "nca", "kto"),
        tuple(
            Comparison(loss, loss, of_a=VOTE, of_b=other)
            for other in (BEST, "majority")
            for loss in ("ce", "dpo", "nca", "kto")
        ),
        "votes",
    ),
)

# Options beyond the paper, compared with the default; no claim is tested.
VARIANTS = (
    Comparison("ce_group_mean", "ce"),
    Comparison("ce_accuracy", "ce"),
    Comparison("prefix", "ce"),
    Comparison("ce_step_mean", "ce"),
    Comparison("ce_prefix", "ce"),
    Comparison("ce_vote_raw", "ce", of_a=VOTE, of_b=VOTE),
)
