"""The end of a step is seen with the token that ends it."""

import pytest

from implicit_prm.rewards.step_splitting import split_steps
from implicit_prm.search.step_ends import StepEnds, step_end


class Tokenizer:
    """Each token is a text of its own."""

    texts = ("a", " b", "\n", ".\n\n", "\n\n", " ")

    def __len__(self):
        return len(self.texts)

    def decode(self, ids):
        return "".join(self.texts[token] for token in ids)

    def batch_decode(self, rows):
        return list(map(self.decode, rows))


@pytest.mark.parametrize(
    ("rule", "ids", "expected"),
    [
        ("newline", [0, 2], True),
        ("newline", [0, 1], False),
        ("newline", [2], False),  # white space before the step
        ("newline", [2, 0, 2], True),
        ("newline", [0, 3], True),
        ("blank_line", [0, 2], False),
        ("blank_line", [0, 2, 0, 2], False),
        ("blank_line", [0, 2, 2], True),
        ("blank_line", [0, 2, 5, 2], True),  # a line of blanks is blank
        ("blank_line", [0, 3], True),
        ("blank_line", [4], False),
        ("blank_line", [4, 0, 2, 1, 4], True),
    ],
)
def test_rules(rule, ids, expected):
    ends = StepEnds(Tokenizer(), rule)
    assert ends.reached(ids, 0) is expected
    assert ends.reached([0, 3, *ids], 2) is expected  # only the step itself counts


@pytest.mark.parametrize("rule", ["newline", "blank_line"])
@pytest.mark.parametrize("blank", ["\n\n", "\n \n", "\n   \n", "\n\t\n", "\n\r\n"])
def test_a_text_is_cut_where_it_is_split(rule, blank):
    text = f"\n 1 + 1{blank}= 2{blank}3"
    ends = [step_end(text, rule)]
    ends.append(ends[0] + step_end(text[ends[0] :], rule))
    assert step_end(text[ends[1] :], rule) is None
    starts = [span.start for span in split_steps(text, rule)[1:]]
    assert [text[end:].lstrip() for end in ends] == [text[start:].lstrip() for start in starts]


def test_chunks_have_so_many_tokens():
    ends = StepEnds(Tokenizer(), "newline", chunk_tokens=3)
    assert [ends.reached([2] * length, 1) for length in (2, 3, 4)] == [False, False, True]
