r"""Where a response states its final answer. Everything here takes time linear in the length of the text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Literal

from implicit_prm.config import Extraction
from implicit_prm.grading.latex import repair

Rule = Literal["field", "box", "hashes", "phrase", "end"]

# One left-to-right pass: a box, an escaped character, or a brace. JSON escaping leaves a second backslash.
_BOX = r"\\\\?(?:boxed|fbox)(?![a-zA-Z])\s*"
_FIRST_BOX = re.compile(_BOX)
_BOX_TOKEN = re.compile(rf"(?P<box>{_BOX})(?P<brace>\{{?)|\\.|[{{}}]", re.DOTALL)
_UNBRACED = re.compile(r"(?:[^$\n\\}]|\\[^)\]\n])*")
# What stands between the boxes of one list: "$\boxed{2}$ and $x = \boxed{3}$".
_SPACING = r"(?:\s|\$|\*|\\[()\[\],;]|\\q?quad)*"
_LIST_SEPARATOR = re.compile(
    rf"{_SPACING}(?:[,;]|[,;]?\s*(?:\b(?:and|or)\b|\\text\{{ *(?:and|or) *\}})){_SPACING}(?:[a-zA-Z](?:_\w)?\s*=\s*)?"
)

_NUMBER_LINE = re.compile(r"\$?-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?%?")

# "Long answer:", "the student's answer:" and "our answer is correct" introduce no answer.
_ANSWER_IS = re.compile(
    r"(?<![a-zA-Z])answer\b\W{0,4}?(?:is|remains|:)(?!\s+(?:correct|right|wrong|incorrect)\b)[\s:*`]*", re.IGNORECASE
)
_BEFORE_ANSWER = re.compile(r"(?:\b(?:the|final|my|our|correct)\s+|(?:^|[\n.!?*#:>\"'({_])\s*)$", re.IGNORECASE)
_FORMULA = re.compile(r"\\\((.+?)\\\)|\\\[(.+?)\\\]|\$\$([^$]+)\$\$|\$([^$]+)\$", re.DOTALL)
_SENTENCE_END = re.compile(r"\n|(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bDr)(?<!\bRs)\.(?=[\s*]|$)")
_WORD = re.compile(r"(?<![\\a-zA-Z])(?!(?:sin|cos|tan|cot|sec|csc|log|exp|sqrt|max|min|gcd|lcm)\b)[a-zA-Z]{3,}")
_LEADING_NUMBER = re.compile(
    r"(\\?[$€£]?-?\d[\d,]*(?:\.\d+)?%?)(?:,? (?!and\b|or\b)[a-zA-Z]{2,}| ?\([a-zA-Z][^()]*\)(?! ?[-+*/=×]))"
)

_EMPHASIS = re.compile(r"(?<![\w)\]}])\*\*|\*\*(?![\w(\[{\\])")

# What may stand after the last value of a statement: punctuation, closing brackets and delimiters, a smiley.
_CLOSING = re.compile(r"(?::-?\)|[\s}$?!.…)\]`_\"'”’]|\\[\])]|\\l?dots|(?<!\s)\*)+$")
_RULED_LINE = re.compile(r"\n[ \t]*(?:-{3,}|={3,}|\*{3,}|_{3,}|`{3,})\s*$")
# A statement that ends in one of these has no value: "0 * 8 = ", "The total is:", "$y = \frac{".
_NO_VALUE = re.compile(
    r"(?:[=≈≤≥<+×÷^/(\[{#:]|\s[>*]|(?<!-)-|\\(?:times|cdot|div|approx|equiv|leq?|geq?|pm|boxed|[dt]?frac|sqrt))$"
)
_NO_END = re.compile(
    r"\b(?:is|are|was|were|be|equals?|and|or|the|of|to|by|from|plus|minus)(?:[\s:$*_]|\\[\[(])*$", re.IGNORECASE
)
_RELATION, _BRACE = re.compile(r"[=<>≈≤≥]|\\(?:approx|equiv|leq?|geq?)\b"), re.compile(r"(?<!\\)[{}]")


def find_answer(text: str, extraction: Extraction = "standard") -> tuple[str, Rule] | tuple[None, None]:
    r"""Find the final answer that a response marks as such.

    With `extraction="boxed"`, that is the last `\boxed{}`. With `standard`, the first of these that is present:

    1. `field`: the "answer" or "final_answer" of a response that is a JSON object;
    2. `box`: the last `\boxed{}` or `\fbox{}` that is not empty; those joined by a comma, "and" or "or" are a list;
    3. `hashes`: what follows the last `####`, if it is the last line or a plain number;
    4. `phrase`: what follows the last "the answer is" or "answer:", up to the end of the sentence.

    Returns:
        The answer and the rule that found it, or None twice. `Grader.extract` also reads the end of an unmarked text.
    """
    text = repair(text)
    for rule in _EXTRACTIONS[extraction]:
        if answer := _FINDERS[rule](text):
            return answer, rule
    return None, None


def closing_text(text: str) -> str:
    """The last 300 characters of a text, without Markdown emphasis: where an unmarked answer is looked for.

    Empty if the text ends in a statement without a value: an earlier statement does not answer in its place.
    """
    if text.lstrip().startswith("{"):  # the end of a JSON object says nothing
        return ""
    end = _EMPHASIS.sub("", _RULED_LINE.sub("", repair(text).rstrip()[-300:]))
    return "" if _is_unfinished(end) else end


def _is_unfinished(text: str) -> bool:
    """Does the last statement stop before its value, or within it?"""
    last_line = text.rstrip().rpartition("\n")[2]
    *_, side = _RELATION.split(last_line)  # the right side of an equation
    braces = _BRACE.findall(side) if side != last_line else []
    within = braces.count("{") > braces.count("}")
    return within or bool(_NO_VALUE.search(_CLOSING.sub("", text)) or _NO_END.search(text))


def is_sentence(answer: str) -> bool:
    """Has the answer so many words that it only contains the value, as in "The number of pairs is 4"?"""
    return len(_WORD.findall(answer)) >= 3


def _field(text: str) -> str:
    text = text.strip().removeprefix("```json").removeprefix("```").removesuffix("```").strip()
    if not text.startswith("{"):
        return ""
    try:
        fields = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return ""
    value = fields.get("answer", fields.get("final_answer"))
    answer = repair(str(value)) if isinstance(value, str | int | float) else ""
    return _boxed(answer) or _stated(answer)


def _boxed(text: str) -> str:
    boxes: list[tuple[int, int, str]] = []  # command's start, end, content
    openings: list[tuple[int, int] | None] = []  # of each open brace: start of the box and of its content
    first = _FIRST_BOX.search(text)
    for token in _BOX_TOKEN.finditer(text, first.start() if first else len(text)):
        if token["box"] and not token["brace"]:
            content = _UNBRACED.match(text, token.end(), token.end() + 100)
            if content and content[0].strip():
                boxes.append((token.start(), content.end(), content[0].strip()))
        elif token[0].endswith("{") and (token["box"] or token[0] == "{"):
            openings.append((token.start(), token.end()) if token["box"] else None)
        elif token[0] == "}" and openings and (opening := openings.pop()):
            start, inside = opening
            content_text = text[inside : token.start()].strip() if not boxes or start > boxes[-1][0] else ""
            if content_text:  # of nested boxes, the inner one counts
                boxes.append((start, token.end(), content_text))
    answers: dict[str, None] = {}  # from the last box back to the first of its list
    next_start = len(text)
    for start, end, content_text in reversed(boxes):
        if answers and not (next_start - end <= 50 and _LIST_SEPARATOR.fullmatch(text, end, next_start)):
            break
        answers[content_text] = None
        next_start = start
    return ", ".join(reversed(answers))


def _after_hashes(text: str) -> str:
    _, hashes, rest = text.rpartition("####")
    line, _, more = rest.strip().partition("\n")
    line = line.strip()
    return line if hashes and (not more or _NUMBER_LINE.fullmatch(line)) else ""


def _after_phrase(text: str) -> str:
    start = None
    for phrase in _ANSWER_IS.finditer(text):
        if _BEFORE_ANSWER.search(text[max(0, phrase.start() - 20) : phrase.start()]):
            start = phrase.end()
    if start is None:
        return ""
    if (formula := _FORMULA.match(text, start)) and not _WORD.search(inside := formula[formula.lastindex or 0]):
        return inside.strip()
    if text.startswith('"', start):
        return _stated(text[start + 1 :].partition('"')[0])
    sentence_end = _SENTENCE_END.search(text, start)
    return _stated(text[start : sentence_end.start() if sentence_end else None])


def _stated(statement: str) -> str:
    """A statement without emphasis, or the number that it begins with: "12 because there are 3 boxes of 4"."""
    statement = _EMPHASIS.sub("", statement).strip(" *`\t\r\n")
    if statement.startswith(("{", "json")):  # an announced JSON object that never ended
        return ""
    number = None if "=" in statement else _LEADING_NUMBER.match(statement)
    return number[1] if number and (is_sentence(statement) or "(" in number[0]) else statement


_FINDERS: dict[Rule, Callable[[str], str]] = {
    "field": _field,
    "box": _boxed,
    "hashes": _after_hashes,
    "phrase": _after_phrase,
}
_EXTRACTIONS: dict[Extraction, tuple[Rule, ...]] = {
    "boxed": ("box",),
    "standard": ("field", "box", "hashes", "phrase"),
}
