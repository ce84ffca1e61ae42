"""Is this score to be trusted here? Length, the tokens that carry the reward, and where the candidates came from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from implicit_prm.config import BestOfNConfig
from implicit_prm.evaluation.best_of_n.curves import aggregated, best_of, intervals, ranked
from implicit_prm.evaluation.best_of_n.length import length_effects, lengths_of, without_length
from implicit_prm.evaluation.best_of_n.length_matched import length_matched
from implicit_prm.evaluation.best_of_n.reference_test import reference_test
from implicit_prm.evaluation.best_of_n.token_rewards import token_rewards
from implicit_prm.evaluation.best_of_n.within_problem import Rankings, within_problem_auroc
from implicit_prm.evaluation.selection import Candidates
from implicit_prm.types import StepScores


def diagnostics(
    config: BestOfNConfig,
    candidates: Sequence[Candidates],
    scores: Sequence[Sequence[StepScores]],
    ranked_by: Rankings,
    beta: float | None,
    size: int,
) -> dict[str, Any]:
    """The entries of metrics.json that say what a score depends on besides the correctness of the response.

    Args:
        config: how to rank and to resample.
        candidates: of every problem.
        scores: of every problem, one per response.
        ranked_by: name -> of every problem, [K] scores.
        beta: of an implicit PRM with a reference; None for other scorers.
        size: the N of best-of-N.
    """
    resampling = (config.bootstrap_resamples, config.seed)
    lengths, unit = lengths_of(scores)
    chosen = aggregated(scores, config.aggregate, config.over)
    plain = best_of(candidates, chosen, [size], config.ties)
    adjusted = best_of(candidates, without_length(candidates, chosen, lengths), [size], config.ties)
    return {
        "length": {
            "unit": unit,
            "shortest": within_problem_auroc(candidates, {"": [-one for one in lengths]}, *resampling)[""],
            "scores": length_effects(candidates, ranked_by, lengths, *resampling),
            "adjusted": intervals(adjusted, [size], config)[str(size)],
            "adjusted_difference": intervals(adjusted, [size], config, plain)[str(size)],
            "matched": length_matched(candidates, ranked(candidates, chosen, config.ties), lengths, *resampling),
        },
        "token_rewards": token_rewards(candidates, scores, *resampling),
        "reference_test": [] if beta is None else reference_test(scores, beta, *resampling),
    }
