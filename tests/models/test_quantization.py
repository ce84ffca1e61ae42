"""QLoRA: refused where it cannot work; trained for real where bitsandbytes is installed (it runs on the CPU, too)."""

import importlib.util
import math

import pytest

from implicit_prm import ImplicitPRM, ImplicitPRMError, fit
from implicit_prm.config import MergeConfig
from implicit_prm.training.merge import merge
from tests.conftest import tiny_model
from tests.runs import config, log, quiet, scores

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes: pip install -e '.[qlora]'"
)
LORA = {"lora": {"r": 4, "alpha": 8}}


def test_quantization_without_an_adapter_is_refused(tmp_path, tiny_folder, rollouts_file):
    with pytest.raises(ImplicitPRMError, match=r"model\.quantization=4bit.*model\.lora"):
        config(tmp_path / "run", tiny_folder, rollouts_file, model_options={"quantization": "4bit"})
    with pytest.raises(ImplicitPRMError, match=r"model\.quantization=8bit.*4bit"):
        config(tmp_path / "run", tiny_folder, rollouts_file, model_options={"quantization": "8bit", **LORA})
    with pytest.raises(ImplicitPRMError, match=r"quantization=4bit: .*tiny"):
        ImplicitPRM.from_pretrained(tiny_folder, reference="none", beta=1.0, quantization="4bit")


def test_without_bitsandbytes_the_message_names_the_extra(tmp_path, tiny_folder, rollouts_file, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    run = config(tmp_path / "run", tiny_folder, rollouts_file, model_options={"quantization": "4bit", **LORA})
    with pytest.raises(ImplicitPRMError, match=r"needs bitsandbytes: pip install 'implicit-prm\[qlora\]'"):
        fit(run, quiet)


@pytest.fixture
def larger(tmp_path, tokenizer):
    """Wide enough that blocks of 64 weights, the unit of 4-bit rounding, do not mix rows."""
    tiny_model(tokenizer, hidden_size=64, intermediate_size=128).save_pretrained(tmp_path / "larger")
    tokenizer.save_pretrained(tmp_path / "larger")
    return tmp_path / "larger"


@needs_bitsandbytes
@pytest.mark.slow
def test_qlora_trains_against_the_same_rounded_base(tmp_path, larger, rollouts_file):
    model = {**LORA, "quantization": "4bit"}
    options = {"model_options": model, "save_strategy": "steps", "save_steps": 2, "max_steps": 4, "learning_rate": 5e-3}
    fit(config(tmp_path / "run", larger, rollouts_file, **options), quiet)
    losses = [row["loss"] for row in log(tmp_path / "run") if "loss" in row]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)  # the same rounding on both sides of the ratio
    prm = ImplicitPRM.from_pretrained(tmp_path / "run", device="cpu")
    base = prm.policy.get_base_model()
    assert base.is_quantized
    assert type(base.lm_head).__name__ == "Linear"  # the head is read in full precision
    rounded, plain = scores(tmp_path / "run"), scores(tmp_path / "run", quantization="none")
    assert rounded[1] != pytest.approx(plain[1], abs=1e-3)
    named = {**options, "resume_from_checkpoint": str(tmp_path / "run" / "checkpoint-2")}
    fit(config(tmp_path / "again", larger, rollouts_file, **named), quiet)
    assert [row["loss"] for row in log(tmp_path / "again") if "loss" in row] == pytest.approx(losses[2:], abs=1e-5)
    merge(MergeConfig(str(tmp_path / "run"), str(tmp_path / "merged")), quiet)
    assert scores(tmp_path / "merged")[0] == pytest.approx(plain[0], abs=1e-4)


@needs_bitsandbytes
@pytest.mark.slow
def test_a_named_reference_is_rounded_like_the_policy(tmp_path, larger, rollouts_file):
    model = {**LORA, "quantization": "4bit", "reference": str(larger)}
    fit(config(tmp_path / "run", larger, rollouts_file, model_options=model), quiet)
    assert log(tmp_path / "run")[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
