"""Step labels are checked once; `StepScores` shows itself in a notebook."""

import json
import math
import pickle

import pytest

from implicit_prm.types import Group, ImplicitPRMError, StepLabels, StepScores, StepSpan

TEXT = "1 < 2\n\n🙂 no"
SPANS = [StepSpan(0, 7), StepSpan(7, 11)]


def _scores(**changes):
    return StepScores(TEXT, SPANS, [0.5, -1.5], [0.5, -1.0], **changes)


def test_a_score_shows_itself_as_a_strip_of_steps():
    strip = _scores(index=3).heat_strip()
    assert (strip.title, strip.texts, strip.values) == ("response 3", ["1 < 2\n\n", "🙂 no"], [0.5, -1.5])
    assert strip.scale.ends == (-1.5, 0.0, 1.5)
    html = _scores(index=3)._repr_html_()
    assert html == strip._repr_html_()
    assert "1 &lt; 2" in html


def test_tokens_on_request_each_character_once():
    """Two tokens that share an emoji, and an end of turn that holds no character."""
    spans = [StepSpan(0, 5), StepSpan(5, 7), StepSpan(7, 8), StepSpan(7, 8), StepSpan(8, 11), StepSpan(11, 11)]
    score = _scores(token_rewards=[0.5, 0.0, -1.0, -0.25, -0.25, 0.0], token_spans=spans)
    strip = score.heat_strip(by="token")
    assert strip.texts == ["1 < 2", "\n\n", "🙂", "", " no", ""]
    assert "".join(strip.texts) == TEXT
    html = strip._repr_html_()
    assert 'title="-1.00"' in html
    assert html.count("text-decoration:underline") == 3
    with pytest.raises(ImplicitPRMError, match="token rewards"):
        _scores().heat_strip(by="token")
    with pytest.raises(ImplicitPRMError, match="by='word'"):
        score.heat_strip(by="word")


def test_strips_can_share_a_scale():
    assert _scores().heat_strip(limit=6.0).scale.ends == (-6.0, 0.0, 6.0)
    with pytest.raises(ImplicitPRMError, match="limit is 0; it must be above 0"):
        _scores().heat_strip(limit=0)


def test_scores_without_spans_are_shown_by_number():
    html = StepScores(TEXT, [], [0.9, 0.2], kind="probability")._repr_html_()
    assert "step 2" in html
    assert "0.200" in html


def test_a_response_without_a_step_says_so():
    assert "no step was scored" in StepScores("", [], [], [])._repr_html_()


@pytest.mark.parametrize(
    ("labels", "first_error", "is_hard"),
    [
        ([True, True], None, True),
        ([True, False, False], 1, True),
        ([0, 1], 0, True),
        ([1.0, 0.25, 0.0], 2, False),
        ([None, False], 1, False),
        ([], None, True),
    ],
)
def test_step_labels_know_their_first_error_and_whether_they_are_hard(labels, first_error, is_hard):
    checked = StepLabels(labels)
    assert (checked.first_error, checked.is_hard) == (first_error, is_hard)
    assert list(checked) == labels
    assert json.dumps(checked) == json.dumps(labels)  # as they were read: fingerprints of data sets rely on it
    assert pickle.loads(pickle.dumps(checked)) == checked


@pytest.mark.parametrize("labels", [["+"], [1.5], [-0.1], [math.nan], [[True]], "yes", 7, True])
def test_step_labels_that_are_none_are_refused(labels):
    with pytest.raises(ImplicitPRMError, match="label"):
        StepLabels(labels)
    with pytest.raises(ImplicitPRMError, match="response 1: "):
        Group("g", "p", ["a", "b"], [True, False], [True, True], step_labels=[[True], labels])


def test_step_labels_must_match_the_steps():
    StepLabels([True, None]).require_steps(2)
    with pytest.raises(ImplicitPRMError, match="2 step labels but 3 steps"):
        StepLabels([True, None]).require_steps(3)


def test_a_group_holds_checked_step_labels():
    group = Group("g", "p", ["a", "b"], [True, False], [True, True], step_labels=[[True, False], None])
    assert group.step_labels == [StepLabels([True, False]), None]
