"""Expected accuracy of selecting one of n candidates: best-of-n, votes, pass@k.

Every function takes one problem and returns an expectation over all subsets of n of its K candidates, not over the
first n: it uses all candidates and does not depend on their order. Inputs are vectors of length K: `scores`
(higher is better), `correct`, and `classes` (candidates with equal answers share a class, -1 is no answer).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from implicit_prm.types import ImplicitPRMError

VOTE_TOLERANCE = 1e-9  # relative: sums of the same weights in another order are tied
_CHUNK_CELLS = 2_000_000  # elements of the largest array that one chunk of draws may take


@dataclass(frozen=True)
class Candidates:
    """What selection needs to know of one problem's K candidates.

    Attributes:
        correct: [K] whether each is correct.
        classes: [K] candidates with equal answers share a class; -1 is no answer.
        valid: [K] false for candidates that must not be picked.
    """

    correct: NDArray[np.bool_]
    classes: NDArray[np.int64]
    valid: NDArray[np.bool_]


def sizes(candidates: int) -> list[int]:
    """The subset sizes to report for K candidates: 1, 2, 4, ... below K, and K itself."""
    if candidates < 1:
        raise ImplicitPRMError(f"expected at least one candidate, got {candidates}")
    return [1 << i for i in range((candidates - 1).bit_length())] + [candidates]


def mean_accuracy(correct: ArrayLike) -> float:
    """Share of correct candidates: the accuracy of random choice."""
    return float(_as_bool(correct).mean())


def pass_at_k(correct: ArrayLike, k: int) -> float:
    """Probability that at least one of k candidates is correct: 1 - C(K - c, k) / C(K, k), eq. 1 of arXiv 2107.03374.

    Args:
        correct: [K] booleans, c of them true.
        k: subset size, 1 to K.
    """
    right = _as_bool(correct)
    _check_size(k, len(right))
    return 1.0 - math.comb(len(right) - int(right.sum()), k) / math.comb(len(right), k)


def best_of_n(scores: ArrayLike, correct: ArrayLike, n: int) -> float:
    """Expected accuracy of the highest-scored of n candidates, in closed form.

    Candidates with equal scores share their wins evenly. With `below` candidates under a tie of t, the tie wins with
    probability [C(below + t, n) - C(below, n)] / C(K, n).

    Args:
        scores: [K] floats. -inf marks candidates that must not be chosen: one of them wins only if all n are -inf.
        correct: [K] booleans.
        n: subset size, 1 to K.

    Raises:
        ImplicitPRMError: if the lengths differ, a score is NaN or +inf, or n is out of range.
    """
    right = _as_bool(correct)
    values = _vector(scores, "scores", len(right))
    if np.isnan(values).any() or np.isposinf(values).any():
        raise ImplicitPRMError("expected scores that are finite or -inf (never chosen), got NaN or +inf")
    _check_size(n, len(right))
    order = np.argsort(values, kind="stable")
    _, tie = np.unique(values, return_inverse=True)
    wins = np.bincount(tie[order], weights=_win_probabilities(len(right), n))
    return float(wins @ (np.bincount(tie, weights=right) / np.bincount(tie)))


def votes(
    weights: ArrayLike | None,
    correct: ArrayLike,
    classes: ArrayLike,
    sizes: Sequence[int],
    draws: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Expected accuracy of the (weighted) majority vote of n candidates, for each n of `sizes`.

    Exact for n = 1 and n = K; otherwise the mean over `draws` random orders of the candidates. The prefixes of an
    order are the subsets, so all sizes use the same draws. The class with the most weight wins; classes within a
    relative 1e-9 of it are tied and share evenly. The accuracy of a class is the mean correctness of its members among
    all K. Candidates without an answer do not vote; a subset without votes, or without weight, counts as wrong.

    Args:
        weights: [K] finite floats >= 0, or None for one vote each (arXiv 2203.11171).
        correct: [K] booleans.
        classes: [K] integers >= -1.
        sizes: subset sizes, each 1 to K.
        draws: random orders, at least 1.
        rng: source of the random orders.

    Returns:
        [len(sizes)] accuracies.

    Raises:
        ImplicitPRMError: if the lengths differ, a weight is negative, infinite or NaN, a class is below -1, or a size
            or `draws` is out of range.
    """
    right = _as_bool(correct)
    total = len(right)
    labels = _answer_classes(classes, total)
    weight = np.ones(total) if weights is None else _weights(weights, total)
    for n in sizes:
        _check_size(n, total)
    if draws < 1:
        raise ImplicitPRMError(f"expected draws of at least 1, got {draws}")

    # Candidates without an answer get a class of their own with zero weight, so that it cannot win.
    _, label = np.unique(labels, return_inverse=True)
    weight = np.where(labels < 0, 0.0, weight)
    worth = np.bincount(label, weights=right) / np.bincount(label)

    (everyone,) = _tallies(np.arange(total)[None], [total], label, weight)
    accuracy = {
        1: float(np.where(weight > 0, worth[label], 0.0).mean()),
        total: float(_winners_worth(everyone, worth)[0]),
    }
    sampled = sorted(set(sizes) - accuracy.keys())
    if sampled:
        accuracy.update(_sampled_accuracy(sampled, label, weight, worth, draws, rng))
    return np.array([accuracy[n] for n in sizes], dtype=np.float64)


def _sampled_accuracy(
    sizes: list[int],
    label: NDArray[np.int64],
    weight: NDArray[np.float64],
    worth: NDArray[np.float64],
    draws: int,
    rng: np.random.Generator,
) -> dict[int, float]:
    """Size -> mean accuracy of the vote over random orders of the candidates; `worth` is the accuracy of each class."""
    total = len(label)
    sums = np.zeros(len(sizes))
    chunk = max(1, _CHUNK_CELLS // max(total, len(worth)))
    for start in range(0, draws, chunk):
        count = min(chunk, draws - start)
        orders = rng.permuted(np.tile(np.arange(total), (count, 1)), axis=1)
        sums += [_winners_worth(tally, worth).sum() for tally in _tallies(orders, sizes, label, weight)]
    return dict(zip(sizes, (sums / draws).tolist(), strict=True))


def _win_probabilities(total: int, n: int) -> NDArray[np.float64]:
    """[K] probability that the i-th lowest of K is the highest of n, C(i - 1, n - 1) / C(K, n), from the top down."""
    rank = np.arange(total, 1, -1)
    descending = np.concatenate([[n / total], np.maximum(rank - n, 0) / (rank - 1)])
    return np.cumprod(descending)[::-1]


def _tallies(
    orders: NDArray[np.int64], prefixes: list[int], label: NDArray[np.int64], weight: NDArray[np.float64]
) -> list[NDArray[np.float64]]:
    """For each prefix length, [draws, classes] weight of each class among the first candidates of each order."""
    draws, classes = len(orders), int(label.max()) + 1
    row = np.arange(draws)[:, None] * classes
    tally = np.zeros(draws * classes)
    tallies = []
    for start, end in zip([0, *prefixes], prefixes, strict=False):
        members = orders[:, start:end]
        cells = (row + label[members]).ravel()
        tally = tally + np.bincount(cells, weights=weight[members].ravel(), minlength=draws * classes)
        tallies.append(tally.reshape(draws, classes))
    return tallies


def _winners_worth(tally: NDArray[np.float64], worth: NDArray[np.float64]) -> NDArray[np.float64]:
    """[draws] mean accuracy of the classes with the most weight; 0 without any weight."""
    most = tally.max(axis=1, keepdims=True)
    tied = (tally >= most * (1 - VOTE_TOLERANCE)) & (most > 0)
    return (tied @ worth) / np.maximum(tied.sum(axis=1), 1)


def _check_size(n: int, total: int) -> None:
    if not 1 <= n <= total:
        raise ImplicitPRMError(f"a subset of {n} cannot be drawn from {total} candidates; choose 1 to {total}")


def _vector(values: ArrayLike, name: str, length: int) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (length,):
        raise ImplicitPRMError(f"expected {length} {name}, one per candidate like correct, got shape {array.shape}")
    return array


def _weights(weights: ArrayLike, length: int) -> NDArray[np.float64]:
    array = _vector(weights, "weights", length)
    if not ((array >= 0).all() and np.isfinite(array.sum())):
        raise ImplicitPRMError("expected weights that are finite and not negative; exponentiate log-rewards")
    return array


def _answer_classes(classes: ArrayLike, length: int) -> NDArray[np.int64]:
    array = np.asarray(classes)
    if array.shape != (length,) or not np.issubdtype(array.dtype, np.integer) or array.min() < -1:
        raise ImplicitPRMError(f"expected {length} integer classes >= -1 (-1 is a candidate without an answer)")
    return array.astype(np.int64)


def _as_bool(correct: ArrayLike) -> NDArray[np.bool_]:
    array = np.asarray(correct)
    if array.ndim != 1 or not len(array) or not np.isin(array, (0, 1)).all():
        raise ImplicitPRMError("expected correct to hold true or false for each candidate, at least one")
    return array.astype(bool)
