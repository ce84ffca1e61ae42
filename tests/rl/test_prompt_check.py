"""A trained PRM warns of prompts that are not as its template makes them, and of no others."""

import warnings

import pytest

from implicit_prm import ImplicitPRM
from implicit_prm.config import TextConfig
from implicit_prm.models.checkpoint import CheckpointMetadata
from implicit_prm.rl.prompt_check import PromptCheck
from tests.conftest import tiny_model

PROBLEM = "1 + 2"


def user(text):
    return [{"role": "user", "content": text}]


def prm(tokenizer, trained=True, **text):
    metadata = CheckpointMetadata(0.5, "none", text=TextConfig(**text), template_hash="0" if trained else None)
    return ImplicitPRM(tiny_model(tokenizer), tokenizer, None, metadata)


def ids(tokenizer, prompt):
    """Tokens of a prompt as TRL makes them: a chat through the chat template, a text as it is."""
    if isinstance(prompt, str):
        return tokenizer(prompt)["input_ids"]
    return tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)


AGAIN = "{problem} is what? {problem}"
FINE = [
    ({}, user(PROBLEM)),
    ({}, [*user("a"), {"role": "assistant", "content": "b"}, *user("c")]),
    ({"prompt_template": "Solve {problem} now"}, user("Solve 1 + 2 now")),
    ({"prompt_template": AGAIN}, user(AGAIN.replace("{problem}", PROBLEM))),
    ({"prompt_template": "raw:Q: {problem} A:"}, "Q: 1 + 2 A:"),
]
OTHER = [
    ({}, PROBLEM),
    ({"prompt_template": "Solve {problem} now"}, user(PROBLEM)),
    ({"prompt_template": "Solve {problem} now"}, user("Solve 1 + 2")),
    ({"prompt_template": AGAIN}, user("1 + 2 is what? 1 + 3")),
    ({"prompt_template": "raw:Q: {problem} A:"}, PROBLEM),
    ({"prompt_template": "raw:{problem}"}, user(PROBLEM)),
]


@pytest.mark.parametrize(("text", "prompt"), FINE)
def test_prompts_of_the_training(text, prompt, tokenizer):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PromptCheck(prm(tokenizer, **text))(prompt, ids(tokenizer, prompt))


@pytest.mark.parametrize(("text", "prompt"), OTHER)
def test_other_prompts(text, prompt, tokenizer):
    check = PromptCheck(prm(tokenizer, **text))
    with pytest.warns(UserWarning, match="prompt template"):
        check(prompt, ids(tokenizer, prompt))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(prompt, ids(tokenizer, prompt))  # once
        PromptCheck(prm(tokenizer, trained=False, **text))(prompt, ids(tokenizer, prompt))
