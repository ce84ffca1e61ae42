"""Final answers as strings: where a response states one, and a normal form in which trivially equal ones coincide."""

from __future__ import annotations

import re

# One left-to-right pass: a box, an escaped character (which opens and closes nothing), or a brace. A doubled backslash
# before `boxed` is what JSON escaping leaves behind.
_BOX_TOKEN = re.compile(r"(?P<box>\\\\?(?:boxed|fbox)(?![a-zA-Z])\s*)(?P<brace>\{?)|\\.|[{}]", re.DOTALL)
_UNBRACED = re.compile(r"(?:[^$\n\\}]|\\[^)\]\n])*")
_LIMIT_UNBRACED = 100  # characters; without it a text of nothing but `\boxed` would take quadratic time

_NUMBER = r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?"
_NUMBER_LINE = re.compile(rf"\$?{_NUMBER}%?")
_FORMULA = r"\\\((.+?)\\\)|\\\[(.+?)\\\]|(?<!\\)\$([^$]+)(?<!\\)\$"
_LEADING_FORMULA = re.compile(rf"\$?(?:{_FORMULA})", re.DOTALL)
_FORMULA_OR_NUMBER = re.compile(rf"{_FORMULA}|({_NUMBER})", re.DOTALL)

_PHRASE = re.compile(r"\banswer\b\W{0,4}(?:is|:)[\s:*]*", re.IGNORECASE)
_SENTENCE_END = re.compile(r"\n|\.(?=[\s*]|$)")
_CONCLUSION = re.compile(r"\b(?:therefore|thus|hence|so|in conclusion|finally)\b", re.IGNORECASE)
_LIMIT_CONCLUSION = 1000  # characters at the end of the text that a concluding sentence is looked for in

_NORMAL_FORM = (
    (re.compile(r",\\!\s*"), ","),  # TeX's thousands: 11,\! 111
    (re.compile(r"(?<!\\)(?:\$|\\[()!,;:]|\\(?:left|right)(?![a-zA-Z])\.?)"), ""),
    (re.compile(r"\\[dt]frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"(?<!\\)\\\s"), " "),
    (re.compile(r"\s+"), " "),
    (re.compile(r" ?([][(){}+=^_/<>|-]) ?"), r"\1"),
    (re.compile(r" ?, ?(?!\d{3}(?!\d))"), ","),  # "1, 234" is two numbers, "1,234" is one
)


def extract_answer(text: str) -> str | None:
    r"""The final answer that a response states, or None. Takes linear time.

    The first of these that is there:

    1. the content of the last balanced `\boxed{...}` or `\fbox{...}` that is not empty (`\boxed 7` counts too);
    2. what follows the last `####`, if it is the last line or a bare number (elsewhere four hashes are a heading);
    3. the formula, or else the rest of the sentence, after the last "answer is" or "answer:";
    4. the last formula or number of a concluding sentence ("Therefore, the area is $12$.") that ends the text. A text
       that was cut off in mid-sentence has none.
    """
    for find in (_boxed, _after_hashes, _after_phrase, _concluded):
        if answer := find(text):
            return answer
    return None


def normalise(answer: str) -> str:
    r"""An answer without what means nothing: spacing, `\left`, `\dfrac` for `\frac`, dollar signs, a final full stop.

    Answers with equal normal forms are equal; of others nothing is known yet. Takes linear time.
    """
    for pattern, replacement in _NORMAL_FORM:
        answer = pattern.sub(replacement, answer)
    return answer.strip().removesuffix(".").rstrip()


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
    start = _last_end(_PHRASE, text)
    if start is None:
        return ""
    if formula := _LEADING_FORMULA.match(text, start):
        return _content(formula)
    sentence_end = _SENTENCE_END.search(text, start)
    return text[start : sentence_end.start() if sentence_end else None].strip(" *\t\r")


def _concluded(text: str) -> str:
    text = text.rstrip()
    if not text.endswith((".", "!", "$", r"\)", r"\]", "*")):
        return ""
    tail = text[-_LIMIT_CONCLUSION:]
    start = _last_end(_CONCLUSION, tail)
    answer = ""
    if start is not None:
        for match in _FORMULA_OR_NUMBER.finditer(tail, start):
            answer = _content(match)
    return answer


def _last_end(pattern: re.Pattern[str], text: str) -> int | None:
    end = None
    for match in pattern.finditer(text):
        end = match.end()
    return end


def _content(formula: re.Match[str]) -> str:
    return next(group for group in formula.groups() if group).strip()
