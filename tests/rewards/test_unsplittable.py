"""Code blocks and display math that no step rule splits, and unclosed ones, which do not count."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from implicit_prm.rewards.unsplittable import unsplittable_blocks

PIECES = [
    "```",
    "```python\n",
    "\n",
    "\n\n",
    "$$",
    "$",
    "\\[",
    "\\]",
    "\\\\[2pt]",
    "\\begin{align}",
    "\\end{align}",
    "x",
]


def _blocks(text):
    return [text[start:end] for start, end in unsplittable_blocks(text)]


@pytest.mark.parametrize(
    "block",
    [
        "```\na\n\nb\n```",
        "```python\na\n\nb\n```",
        "````\n```\n\n````",
        "   ```\n   a\n\n   ```",
        "$$\nx\n\n= 1\n$$",
        "$$ x = 1 $$",
        "\\[\nx\n\n= 1\n\\]",
        "\\begin{align*}\na\n\nb\n\\end{align*}",
        "\\begin{equation}\na\n\nb\n\\end{equation}",
    ],
)
def test_a_closed_block_is_found_between_paragraphs(block):
    assert _blocks(f"before\n\n{block}\n\nafter") == [block]
    assert _blocks(f"before\n\n{block}\n\nbetween\n\n{block}") == [block, block]


@pytest.mark.parametrize("opening", ["```python", "```", "$$", "\\[", "\\begin{align}"])
def test_an_unclosed_block_is_none(opening):
    assert _blocks(f"before\n\n{opening}\na\n\nb\n\nc") == []


@pytest.mark.parametrize(
    ("opening", "block"),
    [
        ("```python", "```python\na\n\nb\n```"),
        ("$$", "$$\nx\n$$"),
        ("$$", "$$ x $$"),
        ("\\[", "\\[\nx\n\\]"),
        ("\\begin{align}", "\\begin{align}\nx\n\\end{align}"),
    ],
)
def test_an_unclosed_block_does_not_reach_into_the_next_one(opening, block):
    """Neither before nor after the blocks that are closed."""
    assert _blocks(f"{opening} a\n\nb, and a long sentence\n\n{block}\n\nc\n\n{block}\n\nd") == [block, block]
    assert _blocks(f"{block}\n\nc\n\n{block}\n\nb, and a long sentence\n\n{opening} a\n\nd") == [block, block]


def test_delimiters_in_code_and_behind_a_backslash_mean_nothing():
    code = "```\nprice = '$$'\n\\[\n```"
    assert _blocks(f"a $$ b\n\n{code}\n\nc $$ d\n\n\\]") == [code]
    assert _blocks("\\begin{cases}a \\\\[2pt]\n\nb\\end{cases} \\]") == []
    assert _blocks("it costs \\$$5\n\nand $$ x") == []


def test_an_environment_inside_dollars_leaves_the_outer_block_whole():
    text = "$$\n\\begin{aligned}\na\n\nb\n\\end{aligned}\n\nc\n$$"
    assert _blocks(text) == [text]
    assert text.replace("aligned", "align") in _blocks(text.replace("aligned", "align"))


@given(st.lists(st.sampled_from(PIECES)).map("".join))
def test_blocks_lie_in_the_text_and_start_and_end_with_their_delimiters(text):
    blocks = unsplittable_blocks(text)
    assert blocks == sorted(blocks)
    for start, end in blocks:
        block = text[start:end].strip()
        assert 0 <= start < end <= len(text)
        assert block.startswith(("```", "$$", "\\[", "\\begin"))
        assert block.endswith(("```", "$$", "\\]", "}"))
