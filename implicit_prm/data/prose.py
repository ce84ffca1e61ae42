r"""Values in sentences: what "Therefore, the 7 boxes hold 12 kg (3 + 9)." says the answer is.

Responses that were not asked for a `\boxed{}` end in such sentences. What is read here is a guess, if a good one;
docs/grading.md has how often it is right.
"""

from __future__ import annotations

import re

# A dollar sign opens a formula as in Pandoc, so that "from $20 to $30" has none: no space inside, or one at both ends.
_DOLLARS = r"(?<![\\$])\$(?:(?![ $])[^$]*?(?<![\\\s])\$(?![\d$])|(?= )[^$]*(?<= )\$)"
_FORMULA = rf"\\\(.+?\\\)|\\\[.+?\\\]|\$\$[^$]+\$\$|{_DOLLARS}"
FUNCTIONS = r"(?:sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt|max|min|gcd|lcm|deg|mod|pi)\b"
_LETTER = r"(?<![a-zA-Z'])[a-zA-Z](?![a-zA-Z'])"
_ROOT = r"(?:√(?:\d+|[a-z]\b)|(?:√|sqrt ?)\([^()]*\))"
_BRACKET = rf"[(\[](?:[^()\[\]a-zA-Z]|{_LETTER})+[)\]]"
# Not the beginning of a longer number, nor 10th, 8-point, 2:00, 2x.
_NUMBER = (
    r"(?<![\w.])(?<!\d:)-?(?:\\?[$€£] ?-?)?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?: ?\\?%)?"
    r"(?!\d|[.,:]\d|(?:st|nd|rd|th|[a-zA-Z])\b|-[a-zA-Z])"
)
_ATOM = rf"(?:-?\d*(?:{_ROOT}|π)|-?\d+[a-zA-Z](?![\w'-])|{_NUMBER}|-?{_BRACKET})"
_OPERATOR = r" ?(?:\\?[*]|[-+/^×÷·−]) ?"
_EXPRESSION = (
    rf"(?<![-+*/^])(?<![-+*/^×÷·−] )(?:{_ATOM}|{_LETTER}(?={_OPERATOR}[\w(√]))"
    rf"(?:{_OPERATOR}(?:{_ATOM}|-?\d*{_LETTER}))*(?!{_OPERATOR}[\w(]|[\^_{{(]|\\[a-zA-Z]| ?(?i:{FUNCTIONS}))"
)
FORMULA = re.compile(_FORMULA, re.DOTALL)
VALUE = re.compile(rf"{_FORMULA}|{_EXPRESSION}", re.DOTALL)
NUMBER_WORDS = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
)
_UNIT_WORD = r"(?!(?:and|or|is|are|was|were)\b)[a-zA-Z²³°][a-zA-Z²³°/.-]*"
UNIT_WORDS = rf"(?:[ -]?{_UNIT_WORD}(?: {_UNIT_WORD})*)?"

_HEDGE = (
    r"(?:\w+ly|about|around|just|also|thus|therefore|then|indeed|now|still|equal to|equivalent to|as|us|a total of)\b"
)
_SAYS = re.compile(
    r"(?:[=≈]|\b(?:is|are|was|were|be|remains?|equals?|gives?|yields?|leaves?|get|(?:comes?|simplifies|rounds?) to)\b)"
    rf"(?:\s*\b{_HEDGE})*[\s:*\"'`]*",
    re.IGNORECASE,
)
# What follows a value that is only the beginning of an expression: "14 days * $12", "700 minus 280".
_GOES_ON = re.compile(
    r"(?:[ -][a-z/]+){0,3} ?(?:[-+*/×÷·] ?[\d$(\\]|\b(?:minus|plus|divided|multiplied|times (?:the|a|as|\d))\b)"
)
# "If a ticket costs $5, ...", and "... to save $80.": what else has a number in a sentence that concludes in one.
_CONDITION = re.compile(r"\b(?:if|when|since|because|given|as)\b[^,]*,", re.IGNORECASE)
_CLAUSE = re.compile(r"\b(?:that|which|who|whose|where|when|if|because|since|to|for|before|after)\b")
_EMPHASIS = re.compile(r"\*\*([^*\n]+)\*\*")
_EMPHASISED = re.compile(rf"({VALUE.pattern}|(?i:{'|'.join(NUMBER_WORDS)})\b){UNIT_WORDS}\W*", re.DOTALL)
# A bracket is a remark unless it is a tuple, part of an expression, or follows a verb that says what it is.
_REMARK = re.compile(
    rf"({_FORMULA})|(?<!\bis)(?<!\bare)(?<!\bbe)(?<!\bequals)(?<!\bto)(?<!\band)(?<!\bor)(?<![=≈,]) "
    rf"\((?:[^()]*[a-zA-Z]{{2}}[^()]*|[^(),]*)\)(?!{_OPERATOR}[\w(]| ?=)",
    re.DOTALL,
)
_AND = re.compile(r"(?:,?\s+(?:and|or)|,)\s+")
_NEXT_EQUATION = re.compile(r"([a-zA-Z]) ?= ?")
_CONCLUSION = re.compile(r"\b(?:therefore|thus|hence|so|conclusion|finally)\b", re.IGNORECASE)
_SENTENCE_START = re.compile(r"[.!?][*)]*\s+(?=[A-Z*])|\n\s*")
_ENDS = (".", "!", "$", r"\)", r"\]", "*")
_CUT_OFF_EQUATION = re.compile(rf"[=≈]\s*\**({_EXPRESSION}){UNIT_WORDS}$")

LIMIT = 1000  # characters at the end of a text that are read


def closing_value(text: str) -> str:
    r"""The value in a text's last words, "" if there is none.

    A formula on the last line, by itself or ending the sentence with its "="; or what the last sentence states. A text
    that was cut off in mid-sentence has none, unless it ends in "= 12" or "= 12 apples", as lists often do.
    """
    tail = text.rstrip()[-LIMIT:]
    if not tail.endswith(_ENDS):
        equation = _CUT_OFF_EQUATION.search(tail.rpartition("\n")[2])
        return equation[1].strip() if equation else ""
    for formula in FORMULA.finditer(tail):
        alone = not tail[: formula.start()].rpartition("\n")[2].strip()
        if (alone or "=" in formula[0]) and re.fullmatch(rf"{UNIT_WORDS}[\s.*]*", tail[formula.end() :]):
            return content(formula[0])
    sentence = tail
    for start in _SENTENCE_START.finditer(tail):
        sentence = tail[start.end() :]
    return stated_value(sentence, concluding=bool(_CONCLUSION.search(sentence)))


def stated_value(sentence: str, concluding: bool = True) -> str:
    """The value that a sentence says something is, "" if that is not clear. Takes linear time up to `LIMIT` characters.

    In this order: a value in bold; the one after the last "is", "gives" or "=" that a value follows; if the sentence
    is `concluding`, the only one of its main clause. "3, 4 and 5" are one value. Remarks in brackets do not count.
    """
    sentence = _REMARK.sub(lambda remark: remark[1] or "", sentence[-LIMIT:])
    for emphasis in reversed(list(_EMPHASIS.finditer(sentence))):
        if value := _EMPHASISED.fullmatch(emphasis[1].strip()):
            return content(value[1])
    words = FORMULA.sub(lambda formula: "\0" * len(formula[0]), sentence)  # an "=" in a formula says nothing outside
    stated, end = "", 0
    for says in _SAYS.finditer(words):
        if says.start() >= end and (value := VALUE.match(sentence, says.end())):
            variable = sentence[: says.start()].rstrip()[-1:] if says[0].startswith("=") else ""
            listed, end = _listed(sentence, value, variable)
            stated = "" if _GOES_ON.match(sentence, end) else listed
    if stated or not concluding:
        return stated
    return _only_value(sentence, words)


def content(value: str) -> str:
    """A formula without its delimiters; a plain value as it is."""
    for opening, closing in ((r"\(", r"\)"), (r"\[", r"\]"), ("$$", "$$"), ("$", "$")):
        if value.startswith(opening) and value.endswith(closing) and len(value) > len(opening):
            return value[len(opening) : -len(closing)].strip()
    return value.strip()


def _only_value(sentence: str, words: str) -> str:
    condition = _CONDITION.search(words)
    value = VALUE.search(sentence, condition.end() if condition else 0)
    if value is None:
        return ""
    stated, end = _listed(sentence, value)
    if end > value.end() and not re.search(r"\b(?:and|or)\b", words[value.end() : end]):
        return ""  # "for $5, 12 people come"
    clause = _CLAUSE.search(words, end)
    others = VALUE.finditer(sentence, end, clause.start() if clause else len(sentence))
    clear = all(content(other[0]) == stated for other in others)
    return stated if clear and not re.fullmatch("[a-zA-Z]", stated) else ""


def _listed(sentence: str, value: re.Match[str], variable: str = "") -> tuple[str, int]:
    """A value with those that a comma, "and" or "or" adds to it, and where they end.

    Of a `variable`, "x = 1 or x = 2" are two; "2x = 8, x = 4" and "x = 1 and y = 2" are not two values of one thing.
    """
    values, end = [content(value[0])], value.end()
    joints, equations = [], False
    while joint := _AND.match(sentence, end):
        start = joint.end()
        if (equation := _NEXT_EQUATION.match(sentence, start)) and equation[1] == variable:
            start, equations = equation.end(), True
        if not (more := VALUE.match(sentence, start)):
            break
        values.append(content(more[0]))
        joints.append(joint[0].strip())
        end = more.end()
    if equations and set(joints) == {","}:
        values = values[-1:]
    return ", ".join(values), end
