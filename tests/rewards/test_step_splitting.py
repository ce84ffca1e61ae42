"""Steps cover the response exactly, in order, for any text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from implicit_prm.rewards.step_splitting import split_steps, steps_of_tokens
from implicit_prm.types import ImplicitPRMError, StepSpan

TEXTS = st.one_of(
    st.text(),
    st.lists(st.sampled_from(["Step 1:", "Step 22: x", "\n", "\n\n", " ", "\t\n", "a+b", "é😀", "\r\n", "##"])).map(
        "".join
    ),
)


def _texts(text, rule, steps=None):
    return [text[span.start : span.end] for span in split_steps(text, rule, steps)]


@given(text=TEXTS, rule=st.sampled_from(["blank_line", "newline", "step_marker"]))
def test_the_spans_cover_any_text_exactly_in_order(text, rule):
    spans = split_steps(text, rule)
    assert "".join(text[span.start : span.end] for span in spans) == text
    assert all(span.start < span.end for span in spans)
    assert [span.start for span in spans[1:]] == [span.end for span in spans[:-1]]
    if text.strip():
        assert all(text[span.start : span.end].strip() for span in spans), "no step is white space alone"


@given(parts=st.lists(st.text(min_size=1).filter(lambda part: part.strip()), min_size=1))
def test_given_steps_are_found_where_they_stand(parts):
    text = "\n\n".join(parts)
    spans = split_steps(text, "given", parts)
    assert "".join(text[span.start : span.end] for span in spans) == text
    assert len(spans) <= len(parts)


@pytest.mark.parametrize(
    ("rule", "text", "steps"),
    [
        ("newline", "1 + 2 = 3\n3 * 2 = 6\n\\boxed{6}", ["1 + 2 = 3\n", "3 * 2 = 6\n", "\\boxed{6}"]),
        ("newline", "\n\na\nb\n", ["\n\na\n", "b\n"]),
        ("blank_line", "a\nb\n\nc\n \n\nd", ["a\nb\n\n", "c\n \n\n", "d"]),
        ("step_marker", "Step 1: a\nb\nStep 2: c", ["Step 1: a\nb\n", "Step 2: c"]),
        ("step_marker", "Intro.\n\n**Step 1:** a\n## Step 2. b", ["Intro.\n\n", "**Step 1:** a\n", "## Step 2. b"]),
        ("step_marker", "As Step 1: said", ["As Step 1: said"]),
        ("blank_line", "", []),
        ("blank_line", "   ", ["   "]),
    ],
)
def test_rules_by_example(rule, text, steps):
    assert _texts(text, rule) == steps


def test_given_steps_may_repeat_and_differ_in_white_space():
    assert _texts("go\n\ngo  on\ngo", "given", ["go ", "go  on", "go"]) == ["go\n\n", "go  on\n", "go"]


def test_a_given_step_that_is_not_there_is_named():
    with pytest.raises(ImplicitPRMError, match=r"given step 1 \('b'\)"):
        split_steps("a c", "given", ["a", "b"])
    with pytest.raises(ImplicitPRMError, match="column `steps`"):
        split_steps("a c", "given")
    with pytest.raises(ImplicitPRMError, match="unknown step rule 'sentence'"):
        split_steps("a c", "sentence")


def test_tokens_belong_to_the_step_they_start_in():
    spans = [StepSpan(0, 4), StepSpan(4, 5), StepSpan(5, 9)]
    # A token over a boundary (start 3), several tokens on one character (5, 5), the end-of-turn token behind the text.
    assert steps_of_tokens([0, 3, 5, 5, 8, 9], spans) == [0, 0, 2, 2, 2, 2]
