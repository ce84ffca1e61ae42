import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from implicit_prm.grading import Grader
from implicit_prm.grading.extraction import closing_text, find_answer, is_sentence
from implicit_prm.grading.latex import normalise, plain_text, repair


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"so \boxed{42}.", "42"),
        (r"\boxed{1} and then \boxed{ 2 }", "2"),
        (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
        (r"\fbox{7}", "7"),
        (r"$\boxed 7$ is it", "7"),
        (r"$\boxed\frac12$", r"\frac12"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),
        (r"\boxed{\boxed{3}}", "3"),
        (r"{ \boxed{3}", "3"),
        (r"\boxed{3} but then \boxed{4", "3"),
        (r"\boxed{3} but then $\boxed", "3"),
        (r"\boxed{3} or \boxed{}", "3"),
        (r"\\boxed{5}", "5"),
        (r"\boxed{4", None),
        (r"\boxedfoo{4}", None),
        ("16 - 3 = 13\n#### 13", "13"),
        ("#### 1,234\n\nQuestion: another", "1,234"),
        ("#### Solution\nWe think.", None),
        ("The answer is 7. Or is it?", "7"),
        ("The answer is 3.5.", "3.5"),
        ("**Final Answer:** \\(x = 3\\)", "x = 3"),
        ("the answer is:\n\\[\n\\frac12\n\\]", r"\frac12"),
        ("The answer is 1. No: the answer is 2", "2"),
        ("The answer is 1 and $\\boxed{2}$", "2"),
        ("Therefore, the area is $12$ square meters.", None),
        (r"$\boxed{2}$ and $\boxed{3}$", "2, 3"),
        (r"x = \boxed{2} or x = \boxed{3}.", "2, 3"),
        (r"\(\boxed{1}\), \(\boxed{2}\), and \(\boxed{3}\)", "1, 2, 3"),
        (r"\boxed{2}, or \boxed{2}", "2"),
        (r"\boxed{2} and so, after more work, \boxed{3}", "3"),
        (r"\boxed{2}. \boxed{3}", "3"),
        ("", None),
    ],
)
def test_find_answer(text, expected):
    assert find_answer(text)[0] == expected


REPEATED = [
    r"\boxed",
    r"\boxed{",
    r"\boxed{}",
    r"\boxed{1}, ",
    r"\boxed ",
    "{",
    "}",
    "\\",
    " ",
    "\n",
    "####",
    "answer ",
]
REPEATED += [
    "answer is ",
    "answer: ",
    "so ",
    "$",
    r"\(",
    "1,",
    "a\n",
    ", ",
    r"\ ",
    r"\left",
    r",\!",
    '{"answer": ',
    '{"answer": "',
]
REPEATED += ["\x08a", "**", "[", " + 2x", ". ", "\t", "(", "=", "1 1/2 ", r"\text{", "~"]


def seconds(function, text):
    """CPU time, the least of three: a garbage collection may fall into any of them."""
    taken = []
    for _ in range(3):
        start = time.process_time()
        function(text)
        taken.append(time.process_time() - start)
    return min(taken)


@pytest.mark.parametrize("function", [find_answer, closing_text, is_sentence, normalise, plain_text])
@pytest.mark.parametrize("unit", REPEATED)
def test_reading_takes_linear_time(unit, function):
    for before, after in (("", ""), ("so the answer is ", "(."), ("{", "}")):
        short, long = (before + unit * (size // len(unit)) + after for size in (25_000, 100_000))
        allowed = 10 * max(seconds(function, short), 0.005)  # 4 times the length; 10 for noise
        assert seconds(function, long) < allowed


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\dfrac{\pi}{2})"),
        ("$ 5 $", "5."),
        (r"\(5\)", "5"),
        ("67\\", "67"),
        (r"11,\! 111,\! 100", "11,111,100"),
        (r"x\ +\ 1", "x+1"),
    ],
)
def test_normal_form_ignores_what_means_nothing(one, other):
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x! = 6", "x != 6"),
        ("1, 234", "1,234"),
        (r"\leftarrow", "arrow"),
        ("1 2", "12"),
        (r"\$5", "5"),
        (r"5\ (a)", r"5\(a)"),
        ("x.5", "x5"),
    ],
)
def test_normal_form_keeps_what_means_something(one, other):
    assert normalise(one) != normalise(other)


@pytest.mark.parametrize(
    ("text", "expected", "rule"),
    [
        (json.dumps({"reasoning": "so \\boxed{7}?", "answer": "8"}), "8", "field"),
        (json.dumps({"reasoning": "...", "answer": "\\frac{1}{2}"}), r"\frac{1}{2}", "field"),
        (json.dumps({"reasoning": "...", "answer": 8.5}), "8.5", "field"),
        (json.dumps({"answer": r"\boxed{x}"}), "x", "field"),
        (json.dumps({"answer": "Evelyn"}), "Evelyn", "field"),
        ('```json\n{"reasoning": "a \\pi b", "final_answer": "\\pi"}\n```', r"\pi", "phrase"),  # TeX that is no JSON
        *(
            (json.dumps({"answer": given}), given, "field")
            for given in ("3, -3", "2, 2 - √3", "12 or 13", "7(1/6)^2", "5!")
        ),
        *(
            (json.dumps({"answer": given}), given, "field")
            for given in ("4cos^2 x", "2 + sqrt(3)", "5 ft 3 in", "x > 3")
        ),
        (json.dumps({"answer": '`{"first": 12, "second": 8}`'}), None, None),
        ('{"reasoning": "by \\\\boxed{3}", "answer": ""}', "3", "box"),
        ('{"reasoning": "no answer yet, it is 4', None, None),
        ('Fill in this: {"answer": "42"}. We find 6 and $\\boxed{7}$.', "7", "box"),
        ('Thus it is 7. The answer is:\n```json\n{"reasoning": "cut', None, None),
        ('Answer: "answer": "500"', "500", "phrase"),
    ],
)
def test_answers_of_json_objects(text, expected, rule):
    assert find_answer(text) == (expected, rule)


@pytest.fixture(scope="module")
def grader():
    with Grader() as grader:
        yield grader


@pytest.mark.parametrize(
    ("text", "answer", "rule"),
    [
        ("Final Answer: The number of pairs is 4.", "4", "phrase"),
        ("**Answer:** We need **1 box of crackers** for that.", "1", "phrase"),
        ("**Answer:** Ann pays $12.50 in the end.", "12.50", "phrase"),
        ("The answer is 9 (choose 1 of 9).", "9", "phrase"),
        ("The answer is 12 because there are 3 boxes of 4.", "12", "phrase"),
        ("The answer is 12 beakers.", "12", "phrase"),
        ("The answer is simply 36, as we said before.", "36", "phrase"),
        ("Answer: $40 (labour) + $60 (parts) = $100", "100", "phrase"),
        ("Answer: Mr. Lee gets only $5. Good.", "5", "phrase"),
        ("Therefore, the answer is Evelyn.", "Evelyn", "phrase"),
        ("The answer is **October 30**.", "October 30", "phrase"),
        ("The correct answer is 2 + 3i.", "2 + 3i", "phrase"),
        (json.dumps({"answer": "She has 12 left."}), "12", "field"),
        (json.dumps({"answer": "1152 cups of flour."}), "1152", "field"),
        (json.dumps({"answer": "10 * $75 = $750. Without the $500 for the car, he has $250."}), "250", "field"),
        (json.dumps({"answer": "40 (or less)"}), "40", "field"),
        (json.dumps({"answer": "6 rows of red tulips + 3 rows of blue ones = 9 rows"}), "9", "field"),
        ("So x is 4, and our answer is correct.", "4", "end"),
    ],
)
def test_answers_within_a_sentence(grader, text, answer, rule):
    verdict = grader.grade(text, answer)
    assert (verdict.status, verdict.rule) == ("equal", rule)


def test_an_object_without_an_answer_has_none(grader):
    assert grader.grade(json.dumps({"reasoning": "So it is 5.", "answer": ""}), "5").status == "no_answer"


def test_boxed_extraction_reads_boxes_only():
    text = r"so \boxed{3}. #### 4. The answer is 5."
    assert find_answer(text, "boxed") == ("3", "box")
    assert find_answer("#### 4", "boxed") == (None, None)


def test_backslashes_that_a_json_decoder_ate_are_given_back():
    eaten = json.loads(r'"\boxed{\frac{1}{2}} and \times, \right), \theta"')
    assert "\x08" in eaten
    assert repair(eaten) == r"\boxed{\frac{1}{2}} and \times, \right), \theta"
    assert find_answer(eaten)[0] == r"\frac{1}{2}"
    assert repair("a\tb\r\nc\n\tTo") == "a\tb\r\nc\n\tTo"


ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=300)
TEX = st.text(st.sampled_from("\\{}[]()$ =.,*#0123456789abx%\n\0٣½\ud800"), max_size=300)
PIECES = st.lists(
    st.sampled_from(
        ["\\boxed{", "}", "####", "answer is", "$", "\\(", "\\)", " so ", "**", '{"answer": ', '"', "= ", "7", ", "]
    )
).map("".join)
CONTENTS = st.recursive(
    st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=5),
    lambda inner: st.lists(inner, min_size=1, max_size=3).map(lambda parts: "{" + " ".join(parts) + "}"),
)


@settings(max_examples=300, deadline=1000)
@given(st.one_of(ANY_TEXT, TEX, PIECES))
def test_any_text_is_read_without_a_mistake(text):
    answer, rule = find_answer(text)
    assert (answer is None) == (rule is None)
    assert answer != ""
    normalise(text)


@settings(max_examples=200, deadline=1000)
@given(st.one_of(ANY_TEXT, TEX, PIECES).filter(lambda text: not text.lstrip().startswith(("{", "`"))), CONTENTS)
def test_the_last_box_is_the_answer_whatever_stands_before_it(text, content):
    # A backslash at the end would escape that of the box; a comma after an earlier box would make a list of the two.
    before = text.rstrip("\\") + " hence\n"
    assert find_answer(before + rf"\boxed{{{content}}}") == (content, "box")


UNFINISHED = [
    "25 * 4 = 0\n0 * 4 = 0\n0 * 8 = }",
    "x = 12\ny = ",
    "3 + 4 = 7\n10 * 2 = ?",
    "Total: 3 + 4 =",
    "5 * 2 = 10 and 10 * ",
    "We have $x=3$. Hence $y = \\frac{",
    "We have $x=3$. Hence $y = \\frac{1}{2",
    "\\[ x = 3 \\]\nso that\n\\[ y =",
    "$$x = 5$$\n\nThen $y =$",
    "3 + 4 = 7, so \\boxed{}",
    "a = 5\nSo the cost is $",
    "There are 3 + 4 = 7 birds. The total is:",
    "There are 3 + 4 = 7 birds.\n\nAnswer:",
    "7 birds and 5 cats, so in all there are the",
    "3 + 4 = 7\n####",
    "x = 12\nThe rest is ____",
]


@pytest.mark.parametrize("text", UNFINISHED)
def test_an_unfinished_statement_is_not_answered_from_an_earlier_one(text):
    assert closing_text(text) == ""


@pytest.mark.parametrize(
    "text",
    [
        "He paid $12.\n\n---",
        "I hope 12 is what it is.",
        "She is 12 and he is 14.",
        "It is <b>12</b>",
        "It is *12*",
        "**12**",
        "So she walks it 12 times",
        "It is 12. I hope this helps :)",
        "\\[\nx = 12\n\\]",
        "```\n12\n```",
        "x \\in \\{1, 2\\}",
        "f(x) = \\begin{cases} 1 \\\\ 2 \\end{cases}",
    ],
)
def test_a_finished_statement_is_read(text):
    assert closing_text(text) != ""
