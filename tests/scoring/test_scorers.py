"""Any scorer as a function of groups: what is passed to it, what it may return, and columns of scores."""

import math

import numpy as np
import pytest

from implicit_prm import ImplicitPRM
from implicit_prm.data.groups import load_groups
from implicit_prm.scoring.scorers import check_lengths, column_scorer, group_scorer
from implicit_prm.types import Group, ImplicitPRMError, StepScores, StepSpan
from tests.conftest import graded_rows, write_rows

GROUP = Group("p7", "1 + 1?", ["a", "bb", "ccc"], [True, False, True], [True, False, True], steps=[["a"], ["b"], ["c"]])


class Minimal:
    """Nothing but the required method."""

    def score(self, problem, responses):
        return [StepScores(text, [], [float(len(text))]) for text in responses]


class Complete:
    """Everything that is optional too; takes texts of up to two characters."""

    limit_tokens = 2

    def score(self, problem, responses, finished, given_steps, max_tokens=None):
        self.got = (responses, finished, given_steps, max_tokens)
        return [StepScores(text, [StepSpan(0, len(text))], [0.5], kind="probability") for text in responses]

    def lengths(self, problem, responses, finished, given_steps=None):
        return [len(text) for text in responses]


def test_a_minimal_scorer_is_enough():
    scores = group_scorer(Minimal())(GROUP)
    assert [(one.response, one.index, one.step_rewards, one.prefix_values) for one in scores] == [
        ("a", 0, [1.0], [1.0]),
        ("bb", 1, [2.0], [2.0]),
        ("ccc", 2, [3.0], [3.0]),
    ]
    check_lengths([GROUP], Minimal())  # nothing to check


def test_optional_parameters_are_passed_where_score_names_them():
    scorer = Complete()
    group_scorer(scorer, max_tokens=9)(GROUP)
    assert scorer.got == (["a", "bb", "ccc"], [True, False, True], [["a"], ["b"], ["c"]], 9)


def test_responses_that_are_too_long_are_refused_or_unscored():
    with pytest.raises(ImplicitPRMError, match=r"p7.*response 2 .*too_long"):
        check_lengths([GROUP], Complete())
    scorer = Complete()
    scores = group_scorer(scorer, too_long="lowest")(GROUP)
    assert scorer.got[0] == ["a", "bb"]
    assert [one.step_rewards for one in scores] == [[0.5], [0.5], []]
    assert scores[2].response == "ccc"


def test_running_sums_are_added_where_they_are_missing():
    scorer = Minimal()
    scorer.score = lambda problem, responses: [StepScores(text, [], [1.0, -3.0]) for text in responses]
    assert group_scorer(scorer)(GROUP)[0].prefix_values == [1.0, -2.0]


def test_numpy_numbers_are_numbers():
    scorer = Minimal()
    scorer.score = lambda problem, responses: [StepScores(text, [], list(np.float32([0.5]))) for text in responses]
    (value,) = group_scorer(scorer)(GROUP)[0].step_rewards
    assert type(value) is float


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (lambda texts: [StepScores(texts[0], [], [1.0])], "p7: .*3 .*got 1"),
        (lambda texts: None, "p7: .*NoneType"),
        (lambda texts: [0.1, 0.2, 0.3], "p7, response 0.*float"),
        (lambda texts: [StepScores(t, [], [math.nan if t == "bb" else 1.0]) for t in texts], "p7, response 1.*nan"),
        (lambda texts: [StepScores(t, [], [math.inf]) for t in texts], "p7, response 0.*inf"),
        (lambda texts: [StepScores(t, [], [1.5], kind="probability") for t in texts], "p7, response 0.*1.5"),
        (lambda texts: [StepScores(t, [], [1.5], kind="logit") for t in texts], "p7, response 0.*logit"),
        (lambda texts: [StepScores(t, [StepSpan(0, 1)], [1.0, 2.0]) for t in texts], "p7, response 0.*spans"),
        (lambda texts: [StepScores(t, [], [1.0], [1.0, 2.0]) for t in texts], "p7, response 0.*prefix_values"),
        (lambda texts: 1 / 0, "p7: Minimal.score.*ZeroDivisionError"),
    ],
)
def test_what_a_scorer_must_not_return_names_the_problem(returned, words):
    scorer = Minimal()
    scorer.score = lambda problem, responses: returned(responses)
    with pytest.raises(ImplicitPRMError, match=words):
        group_scorer(scorer)(GROUP)


def test_options_that_a_scorer_cannot_follow_are_refused():
    with pytest.raises(ImplicitPRMError, match="max_tokens"):
        group_scorer(Minimal(), max_tokens=9)
    with pytest.raises(ImplicitPRMError, match="too_long"):
        group_scorer(Minimal(), too_long="lowest")
    with pytest.raises(ImplicitPRMError, match="object"):
        group_scorer(object())


def test_a_column_of_probabilities(tmp_path):
    rows = graded_rows(1, 2)
    rows[0]["prm"] = [[0.5, 0.25], []]
    (group,) = load_groups(str(write_rows(tmp_path / "c.jsonl", rows)), graded=False)
    first, second = column_scorer("prm", "probability")(group)
    assert (first.step_rewards, first.kind, first.prefix_values) == ([0.5, 0.25], "probability", None)
    assert second.step_rewards == []
    assert column_scorer("prm", "log_ratio")(group)[0].prefix_values == [0.5, 0.75]


def test_one_number_per_response_is_one_step():
    group = Group("p0", "prompt", ["a", "b", "c"], [True, False, True], [True] * 3, extra={"orm": [0.5, 1, None]})
    assert [one.step_rewards for one in column_scorer("orm", "probability")(group)] == [[0.5], [1.0], []]


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("nope", [[0.5], [0.5]], "p0.*nope.*prm"),
        ("prm", [[0.5]], "p0.*2 .*prm.*1"),
        ("prm", 0.5, "p0.*prm.*0.5"),
        ("prm", None, "p0.*prm.*None"),
        ("prm", ["high", [0.5]], "p0, response 0, column prm.*high"),
        ("prm", [["0.5"], [0.5]], "p0, response 0, column prm.*0.5"),
        ("prm", [True, 0.5], "p0, response 0, column prm.*True"),
        ("prm", [[1.5], [0.5]], r"p0, response 0, column prm.*1.5"),
        ("prm", [0.5, 10**400], "p0, response 1, column prm"),
        ("prm", [0.5, -0.1], r"p0, response 1, column prm.*-0.1"),
        ("prm", [[0.5], [float("nan")]], "p0, response 1, column prm.*nan"),
        ("prm", [[0.5, 0.5], [0.5, 0.5]], "p0, response 1, column prm.*2 .*1 .*steps"),
    ],
)
def test_columns_that_cannot_be_read_are_named(column, values, words):
    group = Group(
        "p0", "prompt", ["a b", "b"], [True, False], [True, True], steps=[["a", "b"], ["b"]], extra={"prm": values}
    )
    with pytest.raises(ImplicitPRMError, match=words):
        column_scorer(column, "probability")(group)


def test_a_models_context_is_its_limit(tiny_folder):
    prm = ImplicitPRM.from_pretrained(tiny_folder, reference="none", beta=1.0, steps="newline", device="cpu")
    group = Group(
        "p7", "Modulo 50, left to right: 1 + 2", ["1 + 2 = 3", "1 + 1 = 2\n" * 99], [True, False], [True, True]
    )
    with pytest.raises(ImplicitPRMError, match=r"p7.*response 1"):
        group_scorer(prm, 4)(group)
    fits, long = group_scorer(prm, 4, too_long="lowest")(group)
    assert len(fits.step_rewards) == 1
    assert long.step_rewards == []


def test_given_steps_are_used_with_the_rule_given_only(tiny_folder):
    group = Group("p", "Modulo 50, left to right: 1 + 2", ["1 + 2 = 3"], [True], [True], steps=[["1 + 2", "= 3"]])
    found = []
    for rule in ("given", "newline"):
        prm = ImplicitPRM.from_pretrained(tiny_folder, reference="none", beta=1.0, steps=rule, device="cpu")
        found.append(group_scorer(prm, 4)(group)[0].steps)
    assert [[step.strip() for step in steps] for steps in found] == [["1 + 2", "= 3"], ["1 + 2 = 3"]]
