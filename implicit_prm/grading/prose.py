r"""Values in sentences: what "Therefore, the 7 boxes hold 12 kg (3 + 9)." says the answer is.

Responses that were not asked for a `\boxed{}` end in such sentences. What is read here is a guess, if a good one;
docs/grading.md has how often it is right.
"""

from __future__ import annotations

import re
from fractions import Fraction

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
    r"(?:\w+ly|about|around|just|also|thus|therefore|then|indeed|now|still|worth|equal to|equivalent to|as|us|"
    r"a total of)\b"
)
_SAYS = re.compile(
    r"(?:[=≈]|\b(?:is|are|was|were|be|remains?|equals?|giv(?:es?|ing)|yield(?:s|ing)?|leav(?:es?|ing)(?: \w+ with)?|"
    r"get|total(?:s|l?ing)|result(?:s|ing) in|(?:comes?|simplifies|rounds?) to)\b|\bmore precisely\b,?)"
    rf"(?:\s*\b{_HEDGE})*[\s:*\"'`]*",
    re.IGNORECASE,
)
# What follows a value that is only the beginning of an expression: "14 days * $12", "700 minus 280".
_GOES_ON = re.compile(
    r"(?:[ -][a-z/]+){0,3} ?(?:[-+*/×÷·] ?[\d$(\\]|\b(?:minus|plus|divided|multiplied|times (?:the|a|as|\d))\b)"
)
# "If a ticket costs $5, ...", and "... to save $80.": what else has a number in a sentence that concludes in one.
_INTRODUCTION = re.compile(
    r"(?:(?P<condition>\b(?:if|when|since|because|given|as)\b)|^\W*(?:(?:therefore|thus|hence|so|finally|then|and),? )*"
    r"(?:after|before|with|in|by|to|from|during|over|on|[a-z]+ing)\b)(?:[^,]|,(?=\d))*,(?!\d)",
    re.IGNORECASE,
)
_CLAUSE = re.compile(r"\b(?:that|which|who|whose|where|when|if|because|since|to|for|before|after)\b")
# "... is 6 when x = 4", "there are 9 pairs that are ...": what comes now is not the answer.
_QUALIFIES = re.compile(
    r"(?!\W*(?:and|so|but)\b).*\b(?:when|where|if|since|because|whose|for which|such that|that (?:is|are))\b", re.DOTALL
)
_EMPHASIS = re.compile(r"\*\*([^*\n]+)\*\*")
# Without a colon, which ends a heading: "**Two more than Ann:** ..."
_EMPHASISED = re.compile(rf"({VALUE.pattern}|(?i:{'|'.join(NUMBER_WORDS)})\b){UNIT_WORDS}[^\w:]*", re.DOTALL)
# A bracket is a remark unless it is a tuple, part of an expression, or follows a verb that says what it is.
_REMARK = re.compile(
    rf"({_FORMULA})|(?<!\bis)(?<!\bare)(?<!\bbe)(?<!\bequals)(?<!\bto)(?<!\band)(?<!\bor)(?<![=≈,]) "
    rf"\((?:[^()]*[a-zA-Z]{{2}}[^()]*|[^(),]*)\)(?!{_OPERATOR}[\w(]| ?=)",
    re.DOTALL,
)
_AND = re.compile(r"(?:,?\s+(?:and|or)|,)\s+")
_NEXT_EQUATION = re.compile(r"([a-zA-Z]) ?= ?")
_CONCLUSION = re.compile(r"\b(?:therefore|thus|hence|so|conclusion|finally)\b", re.IGNORECASE)
NO_TITLE = r"(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bDr)"  # before a full stop
_SENTENCE_START = re.compile(rf"{NO_TITLE}[.!?][*)]*\s+(?=[A-Z*])|\n\s*")
_ENDS = (".", "!", "$", r"\)", r"\]", "*")
_CUT_OFF_EQUATION = re.compile(rf"[=≈]\s*\**({_EXPRESSION}){UNIT_WORDS}$")

LIMIT = 1000  # characters at the end of a text that are read


def closing_value(text: str) -> str:
    r"""The value in a text's last words, "" if there is none.

    A formula on the last line, by itself or ending the main clause with its "="; or what the last sentence states. A
    text that was cut off in mid-sentence has none, unless it ends in "= 12" or "= 12 apples", as lists often do.
    """
    tail = text.rstrip()[-LIMIT:]
    if not tail.endswith(_ENDS):
        equation = _CUT_OFF_EQUATION.search(tail.rpartition("\n")[2])
        return equation[1].strip() if equation else ""
    for formula in FORMULA.finditer(tail):
        if re.fullmatch(rf"{UNIT_WORDS}[\s.*]*", tail[formula.end() :]):
            before = last_sentence(tail[: formula.start()])
            concludes = before.rstrip().endswith(":") or not _is_qualified(before)
            if not before.strip() or ("=" in formula[0] and concludes):
                return content(formula[0])
    sentence = last_sentence(tail)
    return stated_value(sentence, concluding=bool(_CONCLUSION.search(sentence)))


def last_sentence(text: str) -> str:
    """What follows the last full stop or line break within a text."""
    start = 0
    for found in _SENTENCE_START.finditer(text):
        start = found.end()
    return text[start:]


def stated_value(sentence: str, concluding: bool = True) -> str:
    """The value that a sentence says something is, "" if that is not clear. Takes linear time up to `LIMIT` characters.

    In this order: a value in bold; the one after the last "is", "gives" or "=" that a value follows; if the sentence
    is `concluding`, the only one of its main clause. "3, 4 and 5" are one value. Remarks in brackets do not count.
    """
    sentence = _REMARK.sub(lambda remark: remark[1] or "", sentence[-LIMIT:])
    for emphasis in reversed(list(_EMPHASIS.finditer(sentence))):
        if value := _EMPHASISED.fullmatch(emphasis[1].strip()):
            return content(value[1])
    words = _words(sentence)
    start = _main_clause(sentence, words)
    stated, end = "", start
    for says in _SAYS.finditer(words, start):
        if stated and _qualifies(words[end : says.start()]):
            break
        if says.start() >= end and (value := VALUE.match(sentence, says.end())):
            variable = sentence[: says.start()].rstrip()[-1:] if says[0].startswith("=") else ""
            listed, end = _listed(sentence, value, variable)
            stated = "" if _GOES_ON.match(sentence, end) else listed
    if stated or not concluding:
        return stated
    return _only_value(sentence, words, start)


def content(value: str) -> str:
    """A formula without its delimiters; a plain value as it is."""
    for opening, closing in ((r"\(", r"\)"), (r"\[", r"\]"), ("$$", "$$"), ("$", "$")):
        if value.startswith(opening) and value.endswith(closing) and len(value) > len(opening):
            return value[len(opening) : -len(closing)].strip()
    return value.strip()


def _words(sentence: str) -> str:
    """The sentence with its formulas blanked out: an "=" in them says nothing outside."""
    return FORMULA.sub(lambda formula: "\0" * len(formula[0]), sentence)


def _main_clause(sentence: str, words: str) -> int:
    """Where the main clause starts: behind "If a ticket costs $5,", unless a value is before that, or none behind."""
    start = 0
    for introduction in _INTRODUCTION.finditer(words):
        if VALUE.search(sentence, start, introduction.start()) or not VALUE.search(sentence, introduction.end()):
            break
        if not introduction["condition"] and _SAYS.search(introduction[0]):  # "Solving it gives x = 5, so ..."
            break
        start = introduction.end()
    return start


def _qualifies(words: str) -> bool:
    """Does what follows these words qualify what was stated before them? A comma ends such a clause."""
    return bool(_QUALIFIES.match(re.split(r",(?!\d)", words)[-1]))


def _is_qualified(before: str) -> bool:
    """Does what follows in the sentence qualify a value in its main clause?"""
    words = _words(before)
    value = VALUE.search(before, _main_clause(before, words))
    return value is not None and _qualifies(words[value.end() :])


def _only_value(sentence: str, words: str, start: int) -> str:
    value = VALUE.search(sentence, start)
    if value is None:
        return ""
    stated, end = _listed(sentence, value)
    if end > value.end() and not re.search(r"\b(?:and|or)\b", words[value.end() : end]):
        return ""  # "for $5, 12 people come"
    clause = _CLAUSE.search(words, end)
    others = list(VALUE.finditer(sentence, end, clause.start() if clause else len(sentence)))
    clear = all(content(other[0]) == stated for other in others)
    if others and re.search(r"[^,] (?:and|or)\b", words[end : others[-1].start()]):
        clear = False  # "12 positive and 12 negative integers"
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
        if joint[0].strip(" ,") == "or" and _is_percentage(more[0], values[-1]):
            values.pop()  # "0.12, or 12%" is one value
        values.append(content(more[0]))
        joints.append(joint[0].strip())
        end = more.end()
    if equations and set(joints) == {","}:
        values = values[-1:]
    return ", ".join(values), end


def _is_percentage(percentage: str, of: str) -> bool:
    number = re.fullmatch(r"([\d.]+) ?\\?%", content(percentage))
    if number is None or not re.fullmatch(r"[\d./]+", of):
        return False
    try:
        return Fraction(number[1]) == 100 * Fraction(of)
    except (ValueError, ZeroDivisionError):
        return False
