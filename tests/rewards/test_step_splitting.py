"""Steps cover the response exactly, in order, for any text; each owns the token of its first word."""

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from implicit_prm.rewards.step_splitting import RULES, split_steps, steps_of_tokens
from implicit_prm.rewards.unsplittable import unsplittable_blocks
from implicit_prm.types import ImplicitPRMError, StepSpan

LINE_RULES = [rule for rule in RULES if rule != "given"]
PIECES = ["Step 1:", "Step 22: x", "\n", "\n\n", " ", "\t\n", "a+b", "é😀", "\r\n", "##", "\u2028", "\u3000", "\n  b"]
PIECES += ["$$", "\n```\n", "\n```py\n", "\\[", "\\]", "\\begin{align}", "\\end{align}"]
TEXTS = st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join))


def _texts(text, rule, steps=None):
    return [text[span.start : span.end] for span in split_steps(text, rule, steps)]


def _check_spans(text, spans):
    assert "".join(text[span.start : span.end] for span in spans) == text
    assert all(span.start < span.end for span in spans)
    assert [span.start for span in spans[1:]] == [span.end for span in spans[:-1]]
    if text.strip():
        assert all(text[span.start : span.end].strip() for span in spans), "a step of nothing but white space"
    for before, after in itertools.pairwise(spans):
        indented_by = text[after.start : after.end].partition(text[after.start : after.end].strip())[0]
        assert "\n" not in indented_by, "the line breaks before a step belong to the previous one"
        last = text[before.start : before.end]
        assert last == last.rstrip() or "\n" in last[len(last.rstrip()) :], "the indentation belongs to the next step"


@given(text=TEXTS, rule=st.sampled_from(LINE_RULES))
def test_the_spans_cover_any_text_exactly_in_order(text, rule):
    spans = split_steps(text, rule)
    _check_spans(text, spans)
    for start, end in unsplittable_blocks(text):
        assert not any(start < span.start < end for span in spans), "no step starts inside a block"


@given(
    parts=st.lists(st.text(min_size=1).filter(lambda part: part.strip()), min_size=1),
    gap=st.sampled_from(["\n\n", "\n", " ", "", "\n \t", "\u2028 "]),
)
def test_given_steps_are_found_where_they_stand(parts, gap):
    text = gap.join(parts)
    spans = split_steps(text, "given", parts)
    _check_spans(text, spans)
    assert len(spans) == len(parts)
    assert all(part.strip() in text[span.start : span.end] for part, span in zip(parts, spans, strict=True))


@pytest.mark.parametrize(
    ("rule", "text", "steps"),
    [
        ("newline", "1 + 2 = 3\n3 * 2 = 6\n\\boxed{6}", ["1 + 2 = 3\n", "3 * 2 = 6\n", "\\boxed{6}"]),
        ("newline", "\n\na\nb\n", ["\n\na\n", "b\n"]),
        ("newline", "a:\n  1. b\n\n  \tc", ["a:\n", "  1. b\n\n", "  \tc"]),
        ("newline", "a\r\n  b\r\n", ["a\r\n", "  b\r\n"]),
        ("blank_line", "a\nb\n\nc\n \n\nd", ["a\nb\n\n", "c\n \n\n", "d"]),
        ("blank_line", "a\n\n   b\n  \n  c", ["a\n\n", "   b\n  \n", "  c"]),
        ("step_marker", "Step 1: a\nb\nStep 2: c", ["Step 1: a\nb\n", "Step 2: c"]),
        ("step_marker", "Intro.\n\n**Step 1:** a\n## Step 2. b", ["Intro.\n\n", "**Step 1:** a\n", "## Step 2. b"]),
        ("step_marker", "  Step 1: a\n  Step 2: b", ["  Step 1: a\n", "  Step 2: b"]),
        ("step_marker", "As Step 1: said", ["As Step 1: said"]),
        ("blank_line", "", []),
        ("blank_line", "   ", ["   "]),
        ("newline", " \n\n ", [" \n\n "]),
    ],
)
def test_rules_by_example(rule, text, steps):
    assert _texts(text, rule) == steps


BLOCKS = [
    "$$\nx\n\n= 1\n$$",
    "\\[\nx\n\n= 1\n\\]",
    "```python\ny\n\nz\n```",
    "\\begin{align*}\nx\n\n= 1\n\\end{align*}",
    "```\na\n\nStep 2: in a string\n```",
]


@pytest.mark.parametrize("rule", ["blank_line", "newline"])
@pytest.mark.parametrize("block", BLOCKS)
def test_code_and_display_math_are_not_split_inside(rule, block):
    steps = ["We have\n\n", f"{block}\n\n", "so it is 1.\n\n", f"  {block}\n\n", "  The end"]
    assert _texts("".join(steps), rule) == steps


def test_a_step_marker_inside_code_is_none():
    assert len(_texts(f"Step 1: a\n{BLOCKS[-1]}\nStep 2: b", "step_marker")) == 2


@pytest.mark.parametrize("opening", ["$$", "\\[", "```python", "\\begin{align}"])
def test_an_unclosed_block_does_not_swallow_the_rest(opening):
    steps = [f"{opening}\nx = 1\n\n", "so it is 1.\n\n", "The end"]
    assert _texts("".join(steps), "blank_line") == steps


def test_given_steps_may_repeat_and_differ_in_white_space():
    assert _texts("go\n\ngo  on\ngo", "given", ["go ", "go  on", "go"]) == ["go\n\n", "go  on\n", "go"]


def test_given_steps_begin_with_the_white_space_of_their_line():
    assert _texts("a. b\n  c d", "given", ["a.", "b", "c", "d"]) == ["a.", " b\n", "  c", " d"]


def test_a_given_step_that_is_not_there_is_named():
    with pytest.raises(ImplicitPRMError, match=r"given step 1 \('b'\)"):
        split_steps("a c", "given", ["a", "b"])
    with pytest.raises(ImplicitPRMError, match="`steps`"):
        split_steps("a c", "given")
    with pytest.raises(ImplicitPRMError, match="'sentence'"):
        split_steps("a c", "sentence")


@pytest.mark.parametrize("rule", LINE_RULES)
@pytest.mark.parametrize(
    "text",
    [
        " " * 40_000,
        "\n" * 40_000,
        "\n" + " " * 40_000 + "x",
        "Step " + " " * 40_000,
        "Step " + "1" * 40_000,
        "#" * 40_000 + " " * 40_000 + "x",
        "$$\n" * 20_000,
        "```\n" * 20_000,
        "\\[\n" * 20_000,
    ],
)
def test_splitting_takes_linear_time(rule, text):
    start = time.process_time()
    split_steps(text, rule)
    assert time.process_time() - start < 2  # quadratic time is minutes


def test_tokens_belong_to_the_step_they_start_in():
    text, spans = "abc\nd\nefg", [StepSpan(0, 4), StepSpan(4, 6), StepSpan(6, 9)]
    # A separator within a token, several tokens of one character, the end-of-turn token.
    offsets = [(0, 2), (2, 4), (4, 6), (6, 7), (6, 7), (7, 9), (9, 9)]
    assert steps_of_tokens(text, offsets, spans) == [0, 0, 1, 2, 2, 2, 2]


@pytest.mark.parametrize(
    ("offsets", "steps"),
    [
        ([(0, 2), (2, 4), (4, 8)], [0, 0, 1]),  # " The" starts with the indentation
        ([(0, 2), (2, 8)], [0, 1]),  # so does a token that also holds the line breaks
        ([(0, 1), (1, 8)], [0, 1]),  # and one that reaches back to the previous step's last word
        ([(0, 8)], [0]),  # a token that holds both steps' first words
        ([(0, 4), (4, 5), (5, 8)], [0, 1, 1]),  # the indentation is a token of its own
    ],
)
def test_a_step_owns_the_token_that_holds_its_first_word(offsets, steps):
    text = "a.\n\n The"
    assert steps_of_tokens(text, offsets, split_steps(text, "blank_line")) == steps


@given(text=TEXTS, rule=st.sampled_from(LINE_RULES), cuts=st.lists(st.integers(0, 200)))
def test_any_tokens_are_assigned_in_order_and_hold_the_first_words(text, rule, cuts):
    """Whatever the tokens are, also ones that reach over steps."""
    bounds = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    offsets = list(itertools.pairwise(bounds))
    spans = split_steps(text, rule)
    steps = steps_of_tokens(text, offsets, spans)
    assert steps == sorted(steps)
    first_words = [span.end - len(text[span.start : span.end].lstrip()) for span in spans]
    for step, word in enumerate(first_words):
        for (start, end), owner in zip(offsets, steps, strict=True):
            if start <= word < end and sum(start <= other < end for other in first_words) == 1:
                assert owner == step
