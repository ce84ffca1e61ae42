"""Step scores against step labels, by hand."""

from dataclasses import replace

import pytest

from implicit_prm.evaluation.step_errors import step_metrics
from implicit_prm.types import Group, ImplicitPRMError, StepScores


def _step_scores(rewards):
    return StepScores("x", [], rewards, rewards)


def test_step_measures_by_hand():
    """Right steps: 1, 2 | 3 of response one; wrong: -1. Response two is right: 0.5. Response three misleads."""
    labels = [[True, True, False, False], [True], [True, False]]
    scores = [[_step_scores([1.0, 2.0, -1.0, -5.0]), _step_scores([0.5]), _step_scores([0.0, 0.25])]]
    group = Group("p", "?", ["a", "b", "c"], [False, True, False], [True] * 3, step_labels=labels)
    metrics = step_metrics([group], scores)
    assert (metrics["right_steps"], metrics["first_wrong_steps"]) == (4, 2)
    # Right 1, 2, 0.5, 0 against wrong -1 and 0.25: of 8 comparisons only 0 < 0.25 is lost.
    assert metrics["auroc"]["value"] == pytest.approx(7 / 8)
    assert metrics["first_error_found"]["value"] == 0.0  # -5 after the first error is lower; 0 before it is lower
    with pytest.raises(ImplicitPRMError, match=r"4 step labels .*1 steps"):
        step_metrics([group], [[_step_scores([1.0])] * 3])


def test_estimated_step_labels_measure_nothing_and_unclear_ones_are_refused():
    """A label of 0.25 is neither right nor wrong; read as "not false", it would count as right."""
    scores = [[_step_scores([1.0, -1.0])]]
    group = Group("p", "?", ["a"], [False], [True], step_labels=[[1.0, 0.0]])
    assert step_metrics([group], scores)["first_wrong_steps"] == 1
    assert step_metrics([replace(group, step_label_source="exact")], scores)["first_wrong_steps"] == 1
    for source in ("math_shepherd", "autopsv"):
        assert step_metrics([replace(group, step_label_source=source)], scores) == {}
    assert step_metrics([replace(group, step_labels=[None])], scores) == {}
    for label in (0.25, None):
        with pytest.raises(ImplicitPRMError, match=f"problem p, response 0.*{label}"):
            step_metrics([replace(group, step_labels=[[label, 0.0]])], scores)


def test_a_labelled_response_that_was_not_scored_is_left_out():
    """Too long for the model, or null in a column."""
    group = Group("p", "?", ["a", "b"], [False, True], [True] * 2, step_labels=[[True, False], [True]])
    metrics = step_metrics([group], [[_step_scores([1.0, -1.0]), _step_scores([])]])
    assert (metrics["right_steps"], metrics["first_wrong_steps"]) == (1, 1)
