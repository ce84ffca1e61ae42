"""One tokenisation for sampling, training and scoring: prompts, ends of turns and steps, on several tokenizers."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import ByT5Tokenizer, LlamaConfig, PreTrainedConfig, PreTrainedTokenizerFast

from implicit_prm.config import TextConfig
from implicit_prm.data.tokenization import Encoder, context_length
from implicit_prm.types import Group, ImplicitPRMError, StepSpan

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% elif m['role'] == 'assistant' %} {{ m['content'] }}{{ eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles') }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "<start_of_turn>{{ role }}\n{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
PLAIN = (  # nothing special behind the answer
    "{% for m in messages %}{{ m['role'] | upper }}: {{ m['content'] | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)
# Template, what it makes of the problem " 1 + 2 ? ", and the token that ends a turn.
TEMPLATES = {
    "chatml": (CHATML, "<|im_start|>user\n 1 + 2 ? <|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"),
    "llama": (
        LLAMA,
        "<s><|start_header_id|>user<|end_header_id|>\n\n1 + 2 ?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|eot_id|>",
    ),
    "mistral": (MISTRAL, "<s>[INST]  1 + 2 ?  [/INST]", "</s>"),
    "gemma": (GEMMA, "<s><start_of_turn>user\n1 + 2 ?<end_of_turn>\n<start_of_turn>model\n", "<end_of_turn>"),
    "plain": (PLAIN, "USER: 1 + 2 ?\nASSISTANT: ", "</s>"),
}
CONTROLS = ["<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
CONTROLS += ["<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]"]
SPECIAL = ["<pad>", "<unk>", "<s>", "</s>", *CONTROLS]
LINES = ["user system assistant model", "what is 1 + 2 ?", "1 + 2 = 3 .\n\nso it ends in 3", "USER: ASSISTANT:"] * 3
RESPONSE = "1 + 2 = 3 .\n\nso it ends in 3"


# As Llama 3 and Qwen split: line ends stay together, and with the full stop before them.
SPLIT = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _byte_bpe(trim_offsets=False):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    if trim_offsets:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=SPECIAL, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([*LINES, "a.\n\nb.\n\nc.\n\n"], trainer)
    return tokenizer


def _wordlevel():
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s+"), "isolated")
    tokenizer.train_from_iterator(LINES, trainers.WordLevelTrainer(special_tokens=SPECIAL))
    return tokenizer


def _words_without_white_space():
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(LINES, trainers.WordLevelTrainer(special_tokens=SPECIAL))
    return tokenizer


def _unigram():
    """A prefix space that is in no text, and a normaliser that makes several characters of one."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=80, special_tokens=SPECIAL, unk_token="<unk>")
    tokenizer.train_from_iterator(LINES, trainer)
    return tokenizer


BUILDERS = {
    "byte bpe": _byte_bpe,
    "byte bpe, trimmed": lambda: _byte_bpe(trim_offsets=True),
    "words": _wordlevel,
    "words without white space": _words_without_white_space,
    "unigram": _unigram,
}
BACKENDS = {name: build() for name, build in BUILDERS.items()}
every_backend = pytest.mark.parametrize("backend", BACKENDS)
every_template = pytest.mark.parametrize("template", TEMPLATES)


def _tokenizer(backend="byte bpe", template=CHATML, bos_by_itself=False, **options):
    options = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"} | options
    raw = Tokenizer.from_str(BACKENDS[backend].to_str())
    if bos_by_itself:
        bos = ("<s>", raw.token_to_id("<s>"))
        raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[bos])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, extra_special_tokens=CONTROLS, **options)
    tokenizer.chat_template = template
    return tokenizer


def _encoder(backend="byte bpe", template=CHATML, tokenizer=None, **text):
    return Encoder(_tokenizer(backend, template) if tokenizer is None else tokenizer, TextConfig(**text))


def _plain_ids(encoder, text):
    return encoder.tokenizer(text, add_special_tokens=False)["input_ids"]


@every_backend
@every_template
def test_prompt_and_response_are_what_the_template_says(backend, template):
    source, prompt, end = TEMPLATES[template]
    encoder = _encoder(backend, source)
    assert encoder.prompt_text(" 1 + 2 ? ") == prompt
    assert encoder.prompt_ids(" 1 + 2 ? ") == _plain_ids(encoder, prompt)
    assert encoder.tokenizer.convert_ids_to_tokens(encoder.end_of_turn) == end
    assert encoder.response(RESPONSE).ids == [*_plain_ids(encoder, RESPONSE), encoder.end_of_turn]


@pytest.mark.parametrize("backend", ["byte bpe", "byte bpe, trimmed", "words"])
@pytest.mark.parametrize("template", ["chatml", "llama", "gemma"])
def test_prompt_and_response_together_are_the_rendered_chat(backend, template):
    """Where a template puts nothing between prompt and answer, both ways to the token ids meet."""
    encoder = _encoder(backend, TEMPLATES[template][0])
    chat = [{"role": "user", "content": "1 + 2 ?"}, {"role": "assistant", "content": RESPONSE}]
    whole = _plain_ids(encoder, encoder.tokenizer.apply_chat_template(chat, tokenize=False))
    ours = encoder.prompt_ids("1 + 2 ?") + encoder.response(RESPONSE).ids
    assert whole[: len(ours)] == ours
    assert encoder.end_of_turn not in whole[len(ours) :]


@every_template
def test_a_template_that_strips_contents_does_not_strip_the_response(template):
    encoder = _encoder(template=TEMPLATES[template][0])
    ids = encoder.response(" 3 \n").ids
    assert encoder.tokenizer.decode(ids[:-1]) == " 3 \n"


@every_backend
def test_a_response_that_was_cut_off_gets_no_end_of_turn(backend):
    encoder = _encoder(backend)
    finished, cut = encoder.response(RESPONSE), encoder.response(RESPONSE, finished=False)
    assert finished.ids == [*cut.ids, encoder.end_of_turn]
    assert encoder.end_of_turn not in cut.ids
    assert finished.step_of_token == [*cut.step_of_token, cut.step_of_token[-1]]
    assert finished.token_spans == [*cut.token_spans, StepSpan(len(RESPONSE), len(RESPONSE))]
    assert (encoder.length(RESPONSE), encoder.length(RESPONSE, finished=False)) == (len(finished.ids), len(cut.ids))


def _texts(response, text):
    return [text[span.start : span.end] for span in response.token_spans]


def test_steps_reach_the_tokens():
    encoder = _encoder("words", steps="blank_line")
    response = encoder.response("1 + 2\n\nso it")
    assert _texts(response, "1 + 2\n\nso it") == ["1", " ", "+", " ", "2", "\n\n", "so", " ", "it", ""]
    assert response.step_of_token == [0, 0, 0, 0, 0, 0, 1, 1, 1, 1]
    assert response.spans == [StepSpan(0, 7), StepSpan(7, 12)]


def test_separators_end_their_step_also_inside_a_token():
    text = "a.\n\nb.\n\nc"
    response = _encoder("byte bpe").response(text)
    assert _texts(response, text) == ["a", ".\n\n", "b", ".\n\n", "c", ""]
    assert response.step_of_token == [0, 0, 1, 1, 2, 2]


def test_a_token_over_a_boundary_stays_in_the_step_it_starts_in():
    response = _encoder("byte bpe", steps="given").response("so it", given=["s", "o it"])
    assert _texts(response, "so it") == ["so", " it", ""]
    assert response.step_of_token == [0, 1, 1]


PIECES = [
    "\n",
    "\n\n",
    " ",
    "\t",
    "é",
    "e\u0301",
    "😀",
    "👩‍👩‍👧",
    "ﬁ",
    "½",
    "\u2028",
    "\ufeff",
    "\x00",
    "1 + 2",
    "Step 2:",
    "so it",
]
TEXTS = st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join))
ENCODERS = {
    (backend, rule): _encoder(backend, steps=rule)
    for backend in BACKENDS
    for rule in ("blank_line", "newline", "step_marker")
}


@settings(deadline=None)  # loading a tokenizer's tables takes the first example long
@given(text=TEXTS, finished=st.booleans(), key=st.sampled_from(sorted(ENCODERS)))
def test_any_text_is_covered_by_steps_and_every_token_belongs_to_one(text, finished, key):
    encoded = ENCODERS[key].response(text, finished)
    assert len(encoded.ids) == len(encoded.step_of_token) == len(encoded.token_spans)
    assert "".join(text[span.start : span.end] for span in encoded.spans) == text
    assert encoded.step_of_token == sorted(encoded.step_of_token)
    assert all(0 <= step < max(len(encoded.spans), 1) for step in encoded.step_of_token)
    assert all(0 <= span.start <= span.end <= len(text) for span in encoded.token_spans)
    if text:
        for step, span in zip(encoded.step_of_token, encoded.token_spans, strict=True):
            assert encoded.spans[step].start <= span.start
            assert span.start < encoded.spans[step].end or span.start == len(text)


@settings(deadline=None)
@given(text=TEXTS, finished=st.booleans())
def test_byte_tokens_spell_the_response(text, finished):
    encoder = ENCODERS["byte bpe", "newline"]
    ids = encoder.response(text, finished).ids
    assert encoder.tokenizer.decode(ids[:-1] if finished else ids, clean_up_tokenization_spaces=False) == text


def test_a_system_prompt_stands_in_front():
    encoder = _encoder(system_prompt="Be brief.")
    assert encoder.build_prompt("q") == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "q"}]
    assert encoder.prompt_text("q") == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_chat_passes_through_untouched():
    encoder = _encoder(system_prompt="Be brief.", prompt_template="Solve: {problem}")
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "?"}, {"role": "user", "content": "r"}]
    assert encoder.prompt_text(chat) == (
        "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n?<|im_end|>\n<|im_start|>user\nr<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("system_prompt", [None, "Be brief."])
@pytest.mark.parametrize("prompt_template", ["{problem}", "Solve: {problem}\n"])
def test_prompts_that_rollouts_wrote_are_read_as_they_were_sampled(system_prompt, prompt_template):
    """Rollouts write `build_prompt(problem)`: training on them needs no template, and a chat is not wrapped twice."""
    sampler = _encoder(system_prompt=system_prompt, prompt_template=prompt_template)
    written = sampler.build_prompt("what is 1 + 2 ?")
    assert _encoder().prompt_ids(written) == sampler.prompt_ids("what is 1 + 2 ?")
    if system_prompt is not None:
        assert sampler.prompt_ids(written) == sampler.prompt_ids("what is 1 + 2 ?")


@pytest.mark.parametrize("problem", ["{x} and {problem} and {", "{{ 7 * 7 }}{% if x %}", "\\frac{1}{2} {0}", "%s $x"])
def test_braces_in_problems_survive(problem):
    encoder = _encoder(prompt_template="Solve {problem} now, {really}")
    assert encoder.build_prompt(problem) == [{"role": "user", "content": f"Solve {problem} now, {{really}}"}]
    assert f"Solve {problem} now" in encoder.prompt_text(problem)


def test_raw_templates_are_plain_text():
    tokenizer = _tokenizer(template=None, bos_by_itself=True)
    encoder = _encoder(tokenizer=tokenizer, prompt_template="raw:Q: {problem}\nA: ")
    assert encoder.prompt_text("q") == "Q: q\nA: "
    bos = tokenizer.bos_token_id
    assert encoder.prompt_ids("q") == [bos, *_plain_ids(encoder, "Q: q\nA: ")], "special tokens are added, once"
    assert bos not in encoder.response("3").ids
    assert encoder.end_of_turn == tokenizer.eos_token_id
    with pytest.raises(ImplicitPRMError, match="a chat prompt cannot be used with a raw: prompt_template"):
        encoder.prompt_ids([{"role": "user", "content": "q"}])


def test_a_chat_templates_own_first_token_is_not_doubled():
    encoder = _encoder(tokenizer=_tokenizer(template=LLAMA, bos_by_itself=True))
    ids = encoder.prompt_ids("q")
    assert ids.count(encoder.tokenizer.bos_token_id) == 1
    assert ids[0] == encoder.tokenizer.bos_token_id


def test_a_raw_template_needs_no_chat_template_and_ignores_one():
    encoder = _encoder(prompt_template="raw:{problem}")
    assert encoder.prompt_text("q") == "q"
    assert (
        encoder.end_of_turn == encoder.tokenizer.eos_token_id != encoder.tokenizer.convert_tokens_to_ids("<|im_end|>")
    )


def _refused(match, **options):
    with pytest.raises(ImplicitPRMError, match=match):
        _encoder(**options)


def test_a_slow_tokenizer_is_refused():
    _refused(r"ByT5Tokenizer: .*fast tokenizer", tokenizer=ByT5Tokenizer())


def test_a_tokenizer_without_chat_template_is_refused():
    _refused("no chat template. Use the instruct version.*'raw:'", template=None)


def test_a_tokenizer_without_any_end_is_refused():
    raw = {"prompt_template": "raw:{problem}"}
    _refused("no token ends a response; set tokenizer.eos_token", tokenizer=_tokenizer(eos_token=None), **raw)
    _refused("no token ends a response", tokenizer=_tokenizer(template=PLAIN, eos_token=None))
    ends = _encoder(tokenizer=_tokenizer(eos_token=None)).end_of_turn
    assert ends == _tokenizer().convert_tokens_to_ids("<|im_end|>"), "the template's own end is enough"


def test_a_template_that_refuses_the_chat_is_a_sentence():
    _refused(
        r"does not take a chat of system, user \(Only user and assistant roles\).*prompt_template",
        template=MISTRAL,
        system_prompt="Be brief.",
    )
    encoder = _encoder(template=MISTRAL)
    with pytest.raises(ImplicitPRMError, match="does not take a chat of tool"):
        encoder.prompt_ids([{"role": "tool", "content": "q"}])


def _group(**changes):
    values = {"completions": ["1\n\n2", "3"], "correctness": [True, False], "finished": [True, False]} | changes
    return Group("g7", "q", **values)


def test_a_group_is_encoded_with_its_labels():
    encoder = _encoder()
    encoded = encoder.group(_group())
    assert (encoded.name, encoded.labels) == ("g7", [True, False])
    assert list(encoded.prompt_ids) == encoder.prompt_ids("q")
    single = [encoder.response("1\n\n2"), encoder.response("3", finished=False)]
    assert [list(kept.ids) for kept in encoded.responses] == [response.ids for response in single]
    assert [list(kept.step_of_token) for kept in encoded.responses] == [r.step_of_token for r in single]
    assert encoded.lengths == [len(encoded.prompt_ids) + len(response.ids) for response in encoded.responses]


def test_given_steps_are_used_only_by_their_rule():
    group = _group(steps=[["1", "2"], ["3"]], completions=["1 2", "3"])
    assert [max(r.step_of_token) + 1 for r in _encoder(steps="given").group(group).responses] == [2, 1]
    assert [max(r.step_of_token) + 1 for r in _encoder(steps="newline").group(group).responses] == [1, 1]


def test_a_response_that_cannot_be_encoded_is_named():
    with pytest.raises(ImplicitPRMError, match=r"g7, response 1: given step 0 \('4'\)"):
        _encoder(steps="given").group(_group(steps=[["1", "2"], ["4"]]))
    with pytest.raises(ImplicitPRMError, match=r"g7, response 0: .*'given'.*`steps`"):
        _encoder(steps="given").group(_group())
    with pytest.raises(ImplicitPRMError, match="g7, response 1: the response is empty and was cut off; remove it"):
        _encoder().group(_group(completions=["1", ""]))


def _step_labels(labels, **changes):
    found = _encoder().group(_group(step_labels=labels, **changes), step_labels=True).responses
    return [[None if math.isnan(label) else label for label in response.step_labels] for response in found]


def test_step_labels_come_along_where_they_are_asked_for():
    assert _step_labels([[True, 0.25], [0]]) == [[1.0, 0.25], [0.0]]
    assert _step_labels([None, [True]]) == [[None, None], [1.0]]  # nobody labelled the response
    assert _step_labels([[None, False], [True]]) == [[None, 0.0], [1.0]]  # or the step
    assert _step_labels(None) == [[None, None], [None]]
    assert _encoder().group(_group(step_labels=[[True], None])).responses[0].step_labels is None  # not asked for


def test_a_step_that_owns_no_token_has_nothing_to_learn():
    group = _group(completions=["3", "so it"], steps=[["3"], ["s", "o", "it"]], step_labels=[[True], [True] * 3])
    cut_off = _encoder(steps="given").group(group, step_labels=True).responses[1]
    assert list(cut_off.step_of_token) == [0, 2]  # "so" holds the first two steps
    assert [math.isnan(label) for label in cut_off.step_labels] == [False, True, False]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[True], [True]], r"g7, response 0: 1 step labels but 2 steps.*data\.steps"),
        ([[True] * 2, [True] * 3], "g7, response 1: 3 step labels but 1 steps"),
    ],
)
def test_step_labels_that_do_not_fit_are_named(labels, message):
    with pytest.raises(ImplicitPRMError, match=message):
        _step_labels(labels)


def test_the_template_hash_knows_everything_that_makes_a_prompt():
    encoders = [
        _encoder(),
        _encoder(template=LLAMA),
        _encoder(prompt_template="Solve: {problem}"),
        _encoder(system_prompt="Be brief."),
    ]
    assert len({encoder.template_hash for encoder in encoders}) == len(encoders)
    assert _encoder(steps="newline").template_hash == _encoder().template_hash


def test_the_context_is_the_smaller_of_the_models_and_the_users():
    config = LlamaConfig(max_position_embeddings=64)
    assert context_length(config, None) == 64
    assert context_length(config, 32) == 32
    assert context_length(config, 128) == 64
    assert context_length(PreTrainedConfig(), 32) == 32
    assert context_length(PreTrainedConfig(), None) is None
