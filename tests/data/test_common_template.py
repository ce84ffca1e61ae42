"""The template that is read off chats gives each of them back, or there is none."""

import pytest

from implicit_prm.config import ProblemsConfig, TextConfig
from implicit_prm.data.common_template import common_template
from implicit_prm.data.tokenization import build_prompt

PROBLEMS = ["What is 1 + 2?", "What is 3 + 5?\nExplain.", "Why?"]


@pytest.mark.parametrize(
    ("template", "system"),
    [
        (ProblemsConfig.prompt_template, None),
        (ProblemsConfig.prompt_template, "You are a teacher."),
        ("{problem}", "You are a teacher."),
        ("Solve this:\n{problem}\n\nBe brief.", None),
        ("Question:\n{problem}\nAnswer:", None),
    ],
)
def test_a_template_is_found_again(template, system):
    text = TextConfig(prompt_template=template, system_prompt=system)
    prompts = [build_prompt(problem, text) for problem in PROBLEMS]
    assert common_template(prompts) == (template, system)


def _chats(*contents):
    return [[{"role": "user", "content": content}] for content in contents]


@pytest.mark.parametrize(
    "prompts",
    [
        [],
        PROBLEMS,
        _chats(*PROBLEMS),
        _chats("How many apples?", "How many pears?"),
        _chats("Modulo 50: 1 + 2", "Modulo 50: 1 + 3"),
        _chats("One?\n\nBe brief."),
        _chats("One?\n\nBe brief.", "One?\n\nBe brief."),
        [*_chats("One?\n\nBe brief."), "Two?\n\nBe brief."],
        [
            [*chat, {"role": "assistant", "content": "1"}, *chat]
            for chat in _chats("One?\nBe brief.", "Two?\nBe brief.")
        ],
        [[{"role": "system", "content": problem}, *_chats("Go.")[0]] for problem in PROBLEMS],
        [[{"role": "user", "content": [{"type": "text", "text": problem}]}] for problem in PROBLEMS],
        _chats("One\nwith {problem} in it", "Two\nwith {problem} in it"),
    ],
)
def test_no_template_is_made_up(prompts):
    assert common_template(prompts) is None
