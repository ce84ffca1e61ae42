import math
import random

import pytest

from implicit_prm.grading import Grader
from implicit_prm.grading.grouping import group_answers
from implicit_prm.grading.latex import normalise
from tests.grading.test_magnitudes import FORMS


def pairwise(answers, equal):
    """Each answer joins the first class whose first member it equals; every class is compared."""
    class_of, first_of_class = {}, []
    for answer in answers:
        number = next((k for k, first in enumerate(first_of_class) if equal(first, answer)), len(first_of_class))
        class_of[answer] = number
        if number == len(first_of_class):
            first_of_class.append(answer)
    return class_of


@pytest.fixture(scope="module")
def grader():
    with Grader() as grader:
        yield grader


@pytest.mark.parametrize("seed", range(4))
def test_grouping_equals_pairwise_grouping(grader, seed):
    rng = random.Random(seed)
    kinds = rng.sample(FORMS, 8)
    answers = [normalise(answer) for forms in kinds for answer in rng.sample(forms, min(3, len(forms)))]
    rng.shuffle(answers)
    answers = list(dict.fromkeys(answers))
    expected = pairwise(answers, grader._either_equal)
    assert grader.answer_classes(answers) == [expected[answer] for answer in answers]


@pytest.mark.slow
def test_grouping_of_all_forms_equals_pairwise_grouping(grader):
    for seed in range(3):
        answers = list(dict.fromkeys(normalise(answer) for forms in FORMS for answer in forms))
        random.Random(seed).shuffle(answers)
        expected = pairwise(answers, grader._either_equal)
        assert grader.answer_classes(answers) == [expected[answer] for answer in answers]


@pytest.mark.parametrize("seed", range(20))
def test_any_magnitudes_within_the_tolerance_are_compared(seed):
    rng = random.Random(seed)
    value_of = {}
    for number in range(60):
        exact = rng.choice([0.0, 1.0, 1.0002, 7.3, 1e-9, 1e12])
        value_of[f"a{number}"] = exact * (1 + rng.uniform(-4e-5, 4e-5))

    def equal(one, other):
        return abs(value_of[one] - value_of[other]) <= 8e-5 * max(value_of[one], value_of[other])

    def log_magnitude(answer):
        return None if answer.endswith("3") else math.log(value_of[answer]) if value_of[answer] else -math.inf

    assert group_answers(value_of, log_magnitude, equal) == pairwise(value_of, equal)


def test_only_answers_of_about_the_same_size_are_compared():
    compared = []
    answers = [rf"\sqrt{{{k}}}" for k in range(2, 258)]
    size = {answer: math.log(k) / 2 for k, answer in enumerate(answers, 2)}
    classes = group_answers(answers, size.__getitem__, lambda one, other: compared.append(one))
    assert list(classes.values()) == list(range(256))
    assert len(compared) < 256


def test_an_answer_that_cannot_be_compared_is_equal_to_its_own_text_only():
    answers = ["endless", r"\text{endless}", "5"]
    classes = group_answers(answers, lambda answer: None if answer == "5" else math.nan, lambda *_: True)
    assert classes == {"endless": 0, r"\text{endless}": 0, "5": 1}
