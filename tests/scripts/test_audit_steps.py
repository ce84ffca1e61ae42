"""scripts/audit_steps.py: it counts first words in the wrong step, and finds none in real responses."""

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


def test_first_words_in_the_previous_step_are_counted():
    encoder = Encoder(AutoTokenizer.from_pretrained(sandbox.POLICY_PATH), TextConfig(steps="newline"))
    text = "12 + 7 = 19\n19 * 3 = 57\n\\boxed{57}"
    encoded = encoder.response(text)
    assert misassigned(text, encoded) == (2, 0)
    late = [step - (step > before) for before, step in pairwise([0, *encoded.step_of_token])]
    assert misassigned(text, replace(encoded, step_of_token=late)) == (2, 2)


@pytest.mark.shared
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", FILES)
def test_steps_of_real_responses_have_their_first_word(name, rule, shared_data):
    """The first prompts of each file. Needs SmolLM2-135M-Instruct in the folder IPR_SMOLLM2."""
    folder = os.environ.get("IPR_SMOLLM2")
    if not folder:
        pytest.skip("IPR_SMOLLM2 is not set")
    encoder = Encoder(AutoTokenizer.from_pretrained(folder), TextConfig(steps=rule))
    for group in load_groups(str(shared_data / f"{name}.jsonl.gz"), graded=False, limit=5):
        for text in group.completions:
            assert misassigned(text, encoder.response(text))[1] == 0
