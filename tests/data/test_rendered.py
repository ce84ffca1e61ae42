"""Rendered texts of every family of templates are split where the response starts, or refused."""

import pytest

from implicit_prm.data.rendered import split_rendered
from implicit_prm.types import ImplicitPRMError
from tests.data.test_chat_template import ENCODERS, FAMILIES, TOKENIZERS, every_family, without_special_end

PROBLEM, RESPONSE = "What is 1 + 1?", "1 + 1 = 2\n\nIt is 2."
CHAT = [{"role": "user", "content": PROBLEM}]


def rendered(name, chat=CHAT, response=RESPONSE, **kwargs):
    chat = [*chat, {"role": "assistant", "content": response}]
    return TOKENIZERS[name].apply_chat_template(chat, tokenize=False, **FAMILIES[name].kwargs, **kwargs)


def split(name, text, prompt=None):
    found = split_rendered(ENCODERS[name], text, prompt)
    return found.prompt, found.response, found.finished


@every_family
def test_a_prompt_and_what_a_policy_wrote_after_it(name):
    """As OpenRLHF sends it, with the prompt and without; BOS may be missing."""
    prompt = ENCODERS[name].prompt_text(PROBLEM)
    end = FAMILIES[name].end
    assert split(name, f"{prompt}{RESPONSE}{end}", prompt) == (prompt, RESPONSE, True)
    assert split(name, f"{prompt}{RESPONSE}", prompt) == (prompt, RESPONSE, False)
    assert split(name, f"{prompt}{RESPONSE}{end}") == (prompt, RESPONSE, True)
    assert split(name, f"{prompt}{RESPONSE}".removeprefix(FAMILIES[name].bos)) == (prompt, RESPONSE, False)
    assert split(name, f"{prompt}{end}", prompt) == (prompt, "", True)


# Of these, the template writes something other than the generation prompt before a response that it renders.
OTHERS = ("qwen 3", "deepseek r1")


@every_family
def test_a_chat_that_the_template_rendered(name):
    """As verl sends it."""
    if name in OTHERS:
        with pytest.raises(ImplicitPRMError, match="apart"):
            split(name, rendered(name))
        return
    expected = (ENCODERS[name].prompt_text(PROBLEM), RESPONSE, name not in without_special_end)
    assert split(name, rendered(name)) == expected
    assert split(name, rendered(name).removeprefix(FAMILIES[name].bos)) == expected


def test_reasoning_that_the_template_keeps_is_the_responses_own():
    text = f"{ENCODERS['qwen 3'].prompt_text(PROBLEM)}<think>\nOne.\n</think>\n\nIt is 2.<|im_end|>\n"
    assert split("qwen 3", text)[1:] == ("<think>\nOne.\n</think>\n\nIt is 2.", True)


@pytest.mark.parametrize("name", ["llama 3", "qwen 2.5", "gemma"])
def test_the_response_of_a_longer_chat_is_its_last_turn(name):
    turns = [*CHAT, {"role": "assistant", "content": "3"}, {"role": "user", "content": "No."}]
    prompt, response, finished = split(name, rendered(name, turns))
    assert prompt == ENCODERS[name].prompt_text(turns)
    assert (response, finished) == (RESPONSE, True)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("llama 3", text) for text in ("", "It is 2.", f"{PROBLEM}\n{RESPONSE}")),
        ("llama 3", "<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\nIt is 2."),
        ("plain", "USER: What?\nASSISTANT: 3\nUSER: No.\nASSISTANT: 2"),
        ("plain", "What?\nASSISTANT: 2"),
        ("qwen 2.5", "What?<|im_end|>\n<|im_start|>assistant\nIt is 2.<|im_end|>\n"),
    ],
)
def test_an_uncertain_start_is_refused_with_the_way_out(name, text):
    with pytest.raises(ImplicitPRMError, match="apart"):
        split(name, text)


def test_a_text_that_does_not_start_with_its_prompt_is_refused():
    with pytest.raises(ImplicitPRMError, match="does not start"):
        split("llama 3", "another prompt and a response", "a prompt")
