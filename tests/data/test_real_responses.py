"""A real tokenizer and chat template on every response of a real pool. IPR_SMOLLM2 names the model's folder."""

import os

import pytest
from transformers import AutoTokenizer

from implicit_prm.config import TextConfig
from implicit_prm.data.groups import load_groups
from implicit_prm.data.tokenization import Encoder


@pytest.mark.shared
@pytest.mark.parametrize("rule", ["blank_line", "newline"])
def test_every_response_of_a_real_pool_is_covered_by_its_steps(rule, shared_data):
    folder = os.environ.get("IPR_SMOLLM2")
    if not folder:
        pytest.skip("IPR_SMOLLM2 names no folder of SmolLM2-135M-Instruct")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoder = Encoder(tokenizer, TextConfig(steps=rule))
    assert tokenizer.convert_ids_to_tokens(encoder.end_of_turn) == "<|im_end|>"
    for group in load_groups(str(shared_data / "math_train_rollouts16.jsonl.gz")):
        prompt = tokenizer.decode(encoder.prompt_ids(group.prompt))
        assert prompt.endswith(f"<|im_start|>user\n{group.prompt}<|im_end|>\n<|im_start|>assistant\n")
        for text in group.completions:
            response = encoder.response(text)
            assert tokenizer.decode(response.ids) == text + "<|im_end|>"
            assert "".join(text[span.start : span.end] for span in response.spans) == text
            assert sorted(set(response.step_of_token)) == list(range(len(response.spans)))
            for span, step in zip(response.token_spans, response.step_of_token, strict=True):
                inside = response.spans[step]
                assert inside.start <= span.start < inside.end or span.start == len(text)
