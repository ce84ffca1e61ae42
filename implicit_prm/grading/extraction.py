"""Final answers as strings: where a response states one, and a normal form in which trivially equal ones coincide."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Literal

from implicit_prm.grading.prose import (
    FORMULA,
    FUNCTIONS,
    LIMIT,
    NO_TITLE,
    UNIT_WORDS,
    VALUE,
    closing_value,
    content,
    last_sentence,
    stated_value,
)

Rule = Literal["field", "box", "hashes", "phrase", "closing"]

# One left-to-right pass: a box, an escaped character (which opens and closes nothing), or a brace. A doubled backslash
# before `boxed` is what JSON escaping leaves behind.
_BOX_TOKEN = re.compile(r"(?P<box>\\\\?(?:boxed|fbox)(?![a-zA-Z])\s*)(?P<brace>\{?)|\\.|[{}]", re.DOTALL)
_UNBRACED = re.compile(r"(?:[^$\n\\}]|\\[^)\]\n])*")
_LIMIT_UNBRACED = 100  # characters; without it a text of nothing but `\boxed` would take quadratic time

_NUMBER_LINE = re.compile(r"\$?-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?%?")

# "Long answer:", "student's answer:" and "our answer is correct" speak of other things.
_PHRASE = re.compile(
    r"(?:\b(?:the|final|my|our|correct)\s+|(?:^|[\n.!?*#:>\"'({_])\s*)answer\b\W{0,4}?(?:is|remains|:)"
    r"(?!\s+(?:correct|right|wrong|incorrect)\b)[\s:*`]*",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(rf"\n|{NO_TITLE}\.(?=[\s*]|$)")
# A value, its unit or a remark at most behind it: not the first of several, nor the beginning of a formula.
_LEADING_VALUE = re.compile(
    rf"({VALUE.pattern})"
    rf"(?={UNIT_WORDS}[\s.*`\"]*$|, (?!and\b|or\b)[a-z]{{2,}}\b| \([^()]*[a-z]{{2}}[^()]*\)(?! ?[-+*/×÷=]))",
    re.DOTALL,
)
_WORD = re.compile(rf"(?<![\\a-zA-Z])(?!{FUNCTIONS})[a-zA-Z]{{3,}}")

_JSON_OBJECT = re.compile(r"\s*(?:```(?:json)?\s*)?\{\s*\"")
_JSON_ANSWER = re.compile(r"\"(?:final_)?answer\"\s*:\s*(\"(?:[^\"\\]|\\.)*\"|[^\s\"{\[,}][^\n,}]*)", re.DOTALL)
# What is left of TeX where JSON was decoded that had single backslashes in it: a backspace for the \b of \boxed.
_DAMAGED = re.compile(r"[\x08\x0c](?=[a-zA-Z])|\t(?=(?:ext|extbf|imes|heta|frac)(?![a-zA-Z]))|\r(?=ight(?![a-zA-Z]))")
_DAMAGE = {"\x08": r"\b", "\x0c": r"\f", "\t": r"\t", "\r": r"\r"}

_NORMAL_FORM = (
    (re.compile(r",\\!\s*"), ","),  # TeX's thousands: 11,\! 111
    (re.compile(r"(?<!\\)(?:\$|\\[()!,;:]|\\(?:left|right)(?![a-zA-Z])\.?)"), ""),
    (re.compile(r"\\[dt]frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"(?<!\\)\\\s"), " "),
    (re.compile(r"\s+"), " "),
    (re.compile(r"(?<=[\d)])!="), "! ="),  # of a factorial; x!=6 is an inequality
    (re.compile(r"(?<!!) ?([][(){}+=^_/<>|-]) ?"), r"\1"),
    (re.compile(r" ?, ?(?!\d{3}(?!\d))"), ","),  # "1, 234" is two numbers, "1,234" is one
)


def find_answer(text: str) -> tuple[str, Rule] | tuple[None, None]:
    r"""The final answer that a response states, and the rule that found it. Takes linear time.

    The first of these that is there:

    1. `field`: the last "answer" of a response that is a JSON object;
    2. `box`: the content of the last balanced `\boxed{...}` or `\fbox{...}` that is not empty (`\boxed 7` counts too);
    3. `hashes`: what follows the last `####`, if it is the last line or a bare number (elsewhere they are a heading);
    4. `phrase`: what the rest of the sentence states, after the last "the answer is" or "answer:";
    5. `closing`: the value in which the text ends: "Therefore, the area is $12$.", "24 + 8 = 32 apples." A text that
       was cut off in mid-sentence has none. See `prose.closing_value`.
    """
    text = repair(text)
    for rule, find in _FINDERS.items():
        if answer := find(text):
            return answer, rule
    return None, None


def extract_answer(text: str) -> str | None:
    """The final answer that a response states, or None; `find_answer` says where it is looked for."""
    return find_answer(text)[0]


def repair(text: str) -> str:
    r"""Give TeX commands the backslash back that a JSON decoder took for an escape: backspace + "oxed" is `\boxed`."""
    return _DAMAGED.sub(lambda damaged: _DAMAGE[damaged[0]], text)


def normalise(answer: str) -> str:
    r"""An answer without what means nothing: spacing, `\left`, `\dfrac` for `\frac`, dollar signs, a final full stop.

    Answers with equal normal forms are equal; of others nothing is known yet. Takes linear time.
    """
    answer = repair(answer)
    for pattern, replacement in _NORMAL_FORM:
        answer = pattern.sub(replacement, answer)
    return answer.strip().removesuffix(".").rstrip(" \\")


def _boxed(text: str) -> str:
    start, answer = -1, ""
    openings: list[int | None] = []  # of each open brace: where the content starts, if it is a box's
    for token in _BOX_TOKEN.finditer(text):
        if token["box"] and not token["brace"]:
            content = _UNBRACED.match(text, token.end(), token.end() + _LIMIT_UNBRACED)
            if content and content[0].strip():
                start, answer = token.end(), content[0].strip()
        elif token[0].endswith("{") and (token["box"] or token[0] == "{"):
            openings.append(token.end() if token["box"] else None)
        elif token[0] == "}" and openings:
            opening = openings.pop()
            # Of nested boxes the inner one, which opened last, is the answer.
            if opening is not None and opening > start and (content_text := text[opening : token.start()].strip()):
                start, answer = opening, content_text
    return answer


def _after_hashes(text: str) -> str:
    _, hashes, rest = text.rpartition("####")
    line, _, more = rest.strip().partition("\n")
    line = line.strip()
    return line if hashes and (not more or _NUMBER_LINE.fullmatch(line)) else ""


def _after_phrase(text: str) -> str:
    start = None
    for phrase in _PHRASE.finditer(text):
        start = phrase.end()
    if start is None:
        return ""
    if formula := FORMULA.match(text, start):
        return content(formula[0])
    if text.startswith('"', start):
        return _stated(text[start + 1 :].partition('"')[0])
    sentence_end = _SENTENCE_END.search(text, start)
    return _stated(text[start : sentence_end.start() if sentence_end else None])


def _field(text: str) -> str:
    if not _JSON_OBJECT.match(text):
        return ""
    answer = ""
    for match in _JSON_ANSWER.finditer(text):
        answer = match[1].strip()
    if answer.startswith('"'):
        try:
            answer = json.loads(answer, strict=False)
        except ValueError:  # TeX in it with single backslashes
            answer = answer[1:-1]
    answer = repair(answer).strip()
    return _boxed(answer) or _stated(answer)


def _stated(statement: str) -> str:
    """The value in a statement; the statement itself, if it is no prose or has no clear value."""
    marked = statement.strip()  # with the asterisks that make a value bold
    statement = marked.strip(" *`\t\r\n")
    if statement.startswith(("{", "json")):  # an object that was announced, and never finished
        return ""
    if value := _LEADING_VALUE.match(statement[:LIMIT]):
        return content(value[1])
    if not _WORD.search(statement):
        return statement
    return stated_value(last_sentence(marked)) or stated_value(marked) or statement


_FINDERS: dict[Rule, Callable[[str], str]] = {
    "field": _field,
    "box": _boxed,
    "hashes": _after_hashes,
    "phrase": _after_phrase,
    "closing": closing_value,
}
