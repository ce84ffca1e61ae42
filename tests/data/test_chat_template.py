"""Chat templates of the structure of the published ones: rendered prompts, ended responses, thinking, ends of turn.

Each template is minimal: what stands before and after the turns is as the model's authors have it.
"""

import json
import warnings
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from implicit_prm.config import TextConfig
from implicit_prm.data.chat_template import ChatTemplate
from implicit_prm.data.groups import load_groups
from implicit_prm.data.tokenization import Encoder
from implicit_prm.types import Group, ImplicitPRMError
from tests.conftest import SHARED

LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
QWEN25 = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are Qwen.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN3 = (  # an answer without reasoning gets an empty one; enable_thinking=false asks for it
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' and loop.last %}"
    "<think>\n\n</think>\n\n{% endif %}{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
DEEPSEEK_R1 = (  # reasoning of earlier turns is cut off, and the response starts inside of it
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}<｜User｜>{{ m['content'] }}"
    "{% else %}<｜Assistant｜>{{ m['content'].split('</think>')[-1] }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜><think>\n{% endif %}"
)
GLM4 = (  # a turn ends where the next one starts
    "[gMASK]<sop>{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
PLAIN = (
    "{% for m in messages %}{{ m['role'] | upper }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)


@dataclass(frozen=True)
class Family:
    """A template, its special tokens, the token that ends a turn, and the tokens that tokenizers put in front."""

    template: str
    special: list[str]
    end: str
    bos: str = "<s>"
    eos: str = "</s>"
    kwargs: dict = field(default_factory=dict)
    prefix: tuple[str, ...] = ()


FAMILIES = {
    "llama 3": Family(
        LLAMA3,
        ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        "<|eot_id|>",
        "<|begin_of_text|>",
        "<|end_of_text|>",
        prefix=("<|begin_of_text|>",),
    ),
    "qwen 2.5": Family(QWEN25, ["<|im_start|>", "<|im_end|>"], "<|im_end|>", eos="<|endoftext|>"),
    "qwen 3": Family(QWEN3, ["<|im_start|>", "<|im_end|>"], "<|im_end|>", eos="<|endoftext|>"),
    "qwen 3 without thinking": Family(
        QWEN3, ["<|im_start|>", "<|im_end|>"], "<|im_end|>", eos="<|endoftext|>", kwargs={"enable_thinking": False}
    ),
    "gemma": Family(GEMMA, ["<start_of_turn>", "<end_of_turn>"], "<end_of_turn>", "<bos>", "<eos>", prefix=("<bos>",)),
    "mistral": Family(MISTRAL, ["[INST]", "[/INST]"], "</s>", prefix=("<s>",)),
    "mistral without control tokens": Family(MISTRAL, [], "</s>", prefix=("<s>",)),
    "deepseek r1": Family(
        DEEPSEEK_R1,
        ["<｜User｜>", "<｜Assistant｜>"],
        "<｜end▁of▁sentence｜>",
        "<｜begin▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
        prefix=("<｜begin▁of▁sentence｜>",),
    ),
    "glm 4": Family(
        GLM4,
        ["[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<|system|>"],
        "<|endoftext|>",
        eos="<|endoftext|>",
        prefix=("[gMASK]", "<sop>"),
    ),
    "plain": Family(PLAIN, [], "</s>", prefix=("<s>",)),
}
every_family = pytest.mark.parametrize("name", FAMILIES)
without_special_end = ("glm 4", "plain")


def _tokenizer(name):
    family = FAMILIES[name]
    backend = Tokenizer(models.BPE(unk_token=None))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\n| ?[^\s]+|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    special = list(dict.fromkeys([family.bos, family.eos, *family.special]))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        ["What is 1 + 1?"], trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet)
    )
    if family.prefix:
        ids = [(token, backend.token_to_id(token)) for token in family.prefix]
        backend.post_processor = processors.TemplateProcessing(
            single=" ".join([*(f"{token}:0" for token in family.prefix), "$A:0"]), special_tokens=ids
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=family.bos, eos_token=family.eos, extra_special_tokens=family.special
    )
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = family.template
    return tokenizer


TOKENIZERS = {name: _tokenizer(name) for name in FAMILIES}


def _encoder(name, **text):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Encoder(TOKENIZERS[name], TextConfig(template_kwargs=FAMILIES[name].kwargs or None, **text))


def _rendered(name, problem="What is 1 + 1?"):
    chat = [{"role": "user", "content": problem}]
    return TOKENIZERS[name].apply_chat_template(
        chat, tokenize=False, add_generation_prompt=True, **FAMILIES[name].kwargs
    )


@every_family
def test_the_end_of_turn_is_what_the_template_writes_or_the_eos(name):
    assert TOKENIZERS[name].convert_ids_to_tokens(_encoder(name).end_of_turn) == FAMILIES[name].end


@every_family
def test_a_template_without_an_end_of_turn_says_so(name):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Encoder(TOKENIZERS[name], TextConfig(template_kwargs=FAMILIES[name].kwargs or None))
    says_so = [str(one.message) for one in caught if "no special token after a response" in str(one.message)]
    assert len(says_so) == (name in without_special_end)


@every_family
@pytest.mark.parametrize("strip", [str, str.strip, str.rstrip])
def test_a_rendered_prompt_is_not_rendered_again(name, strip):
    """Also where white space at its ends was stripped, or a BOS token that TRL cuts off."""
    encoder, text = _encoder(name), strip(_rendered(name))
    expected = encoder.prompt_ids("What is 1 + 1?")
    with pytest.warns(UserWarning, match="rendered"):
        assert encoder.prompt_ids(text) == expected
    assert encoder.prompt_ids(text.removeprefix(FAMILIES[name].bos)) == expected
    bos = TOKENIZERS[name].bos_token_id
    assert expected.count(bos) == (FAMILIES[name].template.startswith("{{ bos_token }}"))


@every_family
def test_a_rendered_prompt_is_no_problem_for_the_prompt_template(name):
    """A checkpoint's own template is in a prompt that was rendered with it."""
    encoder = _encoder(name, prompt_template="Solve {problem} now.")
    rendered = encoder.prompt_text("1 + 1?")
    assert "Solve 1 + 1? now." in rendered
    with pytest.warns(UserWarning, match="rendered"):
        assert encoder.prompt_text(rendered) == rendered


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in ("plain", "mistral without control tokens")])
def test_a_prompt_that_is_rendered_in_part_is_refused_with_the_way_out(name):
    """Without the generation prompt, or with a user's message that is a rendered prompt."""
    encoder, rendered = _encoder(name), _rendered(name)
    part = rendered.removesuffix(encoder.template.generation_prompt)
    part = part if any(token in part for token in FAMILIES[name].special) else f"{rendered} and then"
    with pytest.raises(ImplicitPRMError, match=r"raw:\{problem\}"):
        encoder.prompt_ids(part)
    with pytest.raises(ImplicitPRMError, match="user message"):
        encoder.prompt_ids([{"role": "user", "content": rendered}])


@pytest.mark.parametrize("name", ["llama 3", "gemma", "mistral", "deepseek r1", "plain"])
def test_a_prompt_that_another_models_template_rendered_is_refused(name):
    with pytest.raises(ImplicitPRMError, match=r"another model.*raw:\{problem\}"):
        _encoder(name).prompt_ids("<|im_start|>user\nWhat is 1 + 1?<|im_end|>\n<|im_start|>assistant\n")


@every_family
@pytest.mark.parametrize(
    "problem",
    ["Is 1 < 2 and 3 > 2?", "Let |x|<1 and <x|y>.", "user: what?", "ASSISTANT", "<b>1</b>", "[1] + [2]", "$|a|>|b|$"],
)
def test_bare_problems_are_rendered(name, problem):
    encoder = _encoder(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert encoder.prompt_text(problem) == _rendered(name, problem)


ENCODERS = {name: _encoder(name) for name in FAMILIES}


@settings(deadline=None)
@given(problem=st.text(min_size=1).filter(str.strip), name=st.sampled_from(sorted(FAMILIES)))
def test_any_rendered_prompt_is_used_as_it_is(problem, name):
    encoder = ENCODERS[name]
    rendered = encoder.prompt_text(problem)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert encoder.prompt_text(rendered) == rendered


@every_family
def test_a_response_that_ends_in_its_end_of_turn_gets_no_second_one(name):
    encoder = _encoder(name)
    end = FAMILIES[name].end
    plain = encoder.response("It is 2.")
    for text in (f"It is 2.{end}", f"It is 2.{end}\n", f"It is 2.{end} {end}"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ended = encoder.response(text)
        assert ended.ids == plain.ids
        assert "".join(text[span.start : span.end] for span in ended.spans) == text
        assert len(ended.ids) == len(ended.offsets) == len(ended.step_of_token)
        assert encoder.length(text) == len(ended.ids)
    with pytest.warns(UserWarning, match="not added again"):
        _encoder(name).response(f"It is 2.{end}")


@every_family
def test_special_tokens_within_a_response_do_not_end_it(name):
    encoder = _encoder(name)
    ids = encoder.response(f"a{FAMILIES[name].end}b").ids
    assert ids.count(encoder.end_of_turn) == 2
    assert ids[-1] == encoder.end_of_turn


@every_family
def test_plain_text_gets_the_tokenizers_first_tokens_once(name):
    tokenizer = TOKENIZERS[name]
    encoder = Encoder(tokenizer, TextConfig(prompt_template="raw:{problem}"))
    first = [tokenizer.convert_tokens_to_ids(token) for token in FAMILIES[name].prefix]
    bare = encoder.prompt_ids("Q: 1 + 1?\nA:")
    assert bare[: len(first)] == first
    assert encoder.prompt_ids("".join(FAMILIES[name].prefix) + "Q: 1 + 1?\nA:") == bare
    rendered = encoder.prompt_ids(_rendered(name))
    if first:
        assert rendered[: len(first)] == first
        assert not any(rendered[place : place + len(first)] == first for place in range(1, len(rendered)))


def test_a_response_does_not_repeat_the_opening_of_the_generation_prompt():
    encoder = _encoder("deepseek r1")
    prompt, text = encoder.prompt_ids("1 + 1?"), "One and one.\n</think>\n\nIt is 2."
    expected = encoder.response(text).ids
    think = encoder.tokenizer.convert_tokens_to_ids("<think>")
    assert prompt.count(think) == 1
    with pytest.warns(UserWarning, match="<think>"):
        opened = encoder.response(f"<think>\n{text}")
    assert opened.ids == expected
    whole = f"<think>\n{text}"
    assert "".join(whole[span.start : span.end] for span in opened.spans) == whole
    assert [whole[start:end] for start, end in opened.offsets[:1]] == [text[: opened.offsets[0][1] - len("<think>\n")]]
    assert encoder.response(f"<think>{text}").ids == expected  # the line break is the prompt's
    assert encoder.length(whole) == len(expected)


@pytest.mark.parametrize("name", ["qwen 2.5", "qwen 3", "llama 3"])
def test_a_response_keeps_its_thinking_where_the_prompt_opens_none(name):
    encoder = _encoder(name)
    assert encoder.tokenizer.decode(encoder.response("<think>\nHm.\n</think>\n\n2", finished=False).ids).startswith(
        "<think>"
    )


def test_an_empty_thought_in_the_prompt_is_no_opening_of_a_full_one():
    encoder = _encoder("qwen 3 without thinking")
    assert encoder.response("<think>\nHm.\n</think>\n\n2").offsets[0][0] == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert encoder.response("<think>\n\n</think>\n\n2").ids == encoder.response("2").ids


@pytest.mark.parametrize(
    "template", ["{{ 1 / 0 }}", "{{ messages.x.y }}", "{% for", "{{ messages[0]['content'] }}\ud800"]
)
def test_a_template_that_cannot_be_rendered_is_refused(template):
    tokenizer = _tokenizer("qwen 2.5")
    tokenizer.chat_template = template
    with pytest.raises(ImplicitPRMError, match="chat template"):
        Encoder(tokenizer, TextConfig())


def test_template_kwargs_reach_the_template_and_its_hash():
    tokenizer = TOKENIZERS["qwen 3"]
    plain, same, off = (
        Encoder(tokenizer, TextConfig(template_kwargs=kwargs)) for kwargs in (None, {}, {"enable_thinking": False})
    )
    assert not plain.prompt_text("q").endswith("</think>\n\n")
    assert off.prompt_text("q").endswith("<think>\n\n</think>\n\n")
    assert plain.template_hash == same.template_hash != off.template_hash
    assert json.dumps(off.text.template_kwargs)


@pytest.mark.parametrize("name", ["enable_thinkin", "add_generation_prompt", "messages", "tokenize"])
def test_a_variable_that_the_template_does_not_have_is_refused(name):
    with pytest.raises(ImplicitPRMError, match=rf"template_kwargs\.{name}"):
        ChatTemplate(TOKENIZERS["qwen 3"], {name: False})
    with pytest.raises(ImplicitPRMError, match="template_kwargs"):
        TextConfig(prompt_template="raw:{problem}", template_kwargs={"enable_thinking": False}).validate()


def _made_up_tokenizer():
    """The special tokens of ../shared/cases/rendered_prompts.jsonl."""
    special = ["<|bos|>", "<|hdr|>", "<|eot|>", "<|pad|>"]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator([], trainers.BpeTrainer(special_tokens=special, initial_alphabet=alphabet))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|bos|>",
        eos_token="<|eot|>",
        pad_token="<|pad|>",
        extra_special_tokens=["<|hdr|>"],
    )
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}<|hdr|>{{ m['role'] }}\n{{ m['content'] }}<|eot|>{% endfor %}"
        "{% if add_generation_prompt %}<|hdr|>assistant\n{% endif %}"
    )
    return tokenizer


@pytest.mark.shared
def test_the_shared_cases_are_read_as_if_they_were_not_rendered(shared_data):
    tokenizer = _made_up_tokenizer()
    rendered, bare = (Encoder(tokenizer, TextConfig()) for _ in range(2))
    for group in load_groups(str(SHARED / "cases" / "rendered_prompts.jsonl")):
        problem = group.prompt.split("user\n")[1].split("<|eot|>")[0]
        texts = [text.removesuffix("<|eot|>") for text in group.completions]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = rendered.group(group)
        expected = bare.group(Group("g", problem, texts, group.correctness, group.finished))
        assert (list(found.prompt_ids), [list(one.ids) for one in found.responses]) == (
            list(expected.prompt_ids),
            [list(one.ids) for one in expected.responses],
        )
