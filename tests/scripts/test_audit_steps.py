"""The audit of steps: it finds a first word in the wrong step, and none in real responses."""

import os
from dataclasses import replace
from itertools import pairwise

import pytest
from audit_steps import RULES, misassigned
from transformers import AutoTokenizer

from implicit_prm import sandbox
from implicit_prm.config import TextConfig
from implicit_prm.data.groups import load_groups
from implicit_prm.data.tokenization import Encoder

FILES = ("math500_bon32", "math_train_rollouts16", "gsm8k_multimodel_rollouts", "math_l5_multimodel_rollouts")


def test_a_first_word_in_the_previous_step_is_counted():
    encoder = Encoder(AutoTokenizer.from_pretrained(sandbox.POLICY_PATH), TextConfig(steps="newline"))
    text = "12 + 7 = 19\n19 * 3 = 57\n\\boxed{57}"
    encoded = encoder.response(text)
    assert misassigned(text, encoded) == (2, 0)
    late = [step - (step > before) for before, step in pairwise([0, *encoded.step_of_token])]
    assert misassigned(text, replace(encoded, step_of_token=late)) == (2, 2)


@pytest.mark.shared
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", FILES)
def test_every_step_of_real_responses_owns_its_first_word(name, rule, shared_data):
    """IPR_SMOLLM2 names the model's folder. The first prompts of each file; the script reads all of them."""
    folder = os.environ.get("IPR_SMOLLM2")
    if not folder:
        pytest.skip("IPR_SMOLLM2 names no folder of SmolLM2-135M-Instruct")
    encoder = Encoder(AutoTokenizer.from_pretrained(folder), TextConfig(steps=rule))
    for group in load_groups(str(shared_data / f"{name}.jsonl.gz"), graded=False, limit=5):
        for text in group.completions:
            assert misassigned(text, encoder.response(text))[1] == 0
