"""LoRA adapters: found by folder or hub id, opened on the right base, merged without changing the results."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from implicit_prm import ImplicitPRM, ImplicitPRMError, fit
from implicit_prm.models.loading import open_adapted, open_model
from implicit_prm.models.lora import Adapter
from implicit_prm.models.source import ModelSource
from tests.conftest import tiny_model
from tests.runs import PROBLEM, RESPONSES, adapter, config, loglikelihood, quiet, scores

# Adapters that reach an embedding or the output head; on a tied model those are one matrix.
SHAPES = {
    "linear": {},
    "embeddings": {"target_modules": ["q_proj", "embed_tokens"]},
    "both ends": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    "trained copy of the embeddings": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "trained copy of the head": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
}


@pytest.fixture(
    scope="module", params=[pytest.param(False, id="untied", marks=pytest.mark.slow), pytest.param(True, id="tied")]
)
def base(request, tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("base")
    tiny_model(tokenizer, tie_word_embeddings=request.param).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.filterwarnings("ignore:Model with `tie_word_embeddings")
@pytest.mark.parametrize("shape", SHAPES)
def test_merged_computes_what_the_adapter_does_and_survives_a_save(shape, base, tmp_path):
    name = str(adapter(tmp_path / "adapter", base, **SHAPES[shape]))
    ids = torch.arange(3, 33)[None]
    plain = AutoModelForCausalLM.from_pretrained(base)
    source = ModelSource.resolve(name)
    expected = open_adapted(source)(ids).logits
    assert (expected - plain(ids).logits).abs().max() > 0.05  # it does something
    merged = open_model(source)
    torch.testing.assert_close(merged(ids).logits, expected, atol=1e-4, rtol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(again(ids).logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:Model with `tie_word_embeddings")
@pytest.mark.parametrize("shape", SHAPES)
def test_any_adapter_scores_with_its_base_as_the_reference(shape, base, tmp_path):
    """Also where it changes the output head, which cannot be read with the adapter switched off."""
    name = adapter(tmp_path / "adapter", base, **SHAPES[shape])
    prm = ImplicitPRM.from_pretrained(name, reference="adapter_off", beta=1.0, steps="newline", device="cpu")
    scored = prm.score(PROBLEM, RESPONSES)
    assert [one.reference_logprob for one in scored] == pytest.approx(loglikelihood(base), abs=1e-4)
    merged = open_model(ModelSource.resolve(name))
    merged.save_pretrained(tmp_path / "merged")
    prm.tokenizer.save_pretrained(tmp_path / "merged")
    policy = [one.outcome_reward + one.reference_logprob for one in scored]
    assert policy == pytest.approx(loglikelihood(tmp_path / "merged"), abs=1e-3)


def test_a_hub_adapter_on_a_revision_of_a_hub_base(hub, tmp_path, tiny_folder, other_folder):
    hub(other_folder, "org/base")  # main, and not what the adapter was trained on
    hub(tiny_folder, "org/base", "v1")
    folder = adapter(tmp_path / "adapter", tiny_folder)
    saved = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(
        json.dumps({**saved, "base_model_name_or_path": "org/base", "revision": "v1"})
    )
    hub(folder, "org/adapter")
    assert ModelSource.resolve("org/adapter").adapter == Adapter("org/base", "v1")
    options = {"beta": 1.0, "steps": "newline", "device": "cpu"}
    prm = ImplicitPRM.from_pretrained("org/adapter", reference="adapter_off", **options)
    reference = [one.reference_logprob for one in prm.score(PROBLEM, RESPONSES)]
    assert reference == pytest.approx(loglikelihood(tiny_folder), abs=1e-4)
    second = ImplicitPRM.from_pretrained(str(other_folder), reference="org/adapter", **options)  # merged, as a model
    policy = [one.outcome_reward + one.reference_logprob for one in prm.score(PROBLEM, RESPONSES)]
    assert [s.reference_logprob for s in second.score(PROBLEM, RESPONSES)] == pytest.approx(policy, abs=1e-3)


def test_a_checkpoint_on_the_hub_with_its_start_inside(hub, tmp_path, tiny_folder, rollouts_file):
    start = adapter(tmp_path / "adapter", tiny_folder)
    model = {"lora": {"r": 2}, "reference": "start"}
    fit(config(tmp_path / "run", start, rollouts_file, model_options=model, max_steps=1), quiet)
    hub(tmp_path / "run", "org/prm")
    assert scores("org/prm") == scores(tmp_path / "run")


def test_adapters_that_cannot_be_opened(tmp_path, tiny_folder):
    folder = adapter(tmp_path / "adapter", tiny_folder)
    saved = json.loads((folder / "adapter_config.json").read_text())

    def refused(match, **changes):
        (folder / "adapter_config.json").write_text(json.dumps({**saved, **changes}))
        with pytest.raises(ImplicitPRMError, match=match):
            open_model(ModelSource.resolve(folder))

    refused(
        "the base model of the adapter .*'/no/where': no such folder.*base_model_name_or_path",
        base_model_name_or_path="/no/where",
    )
    refused("'no/where'.* local folder", base_model_name_or_path="no/where")
    refused("names no base model", base_model_name_or_path=None)
    refused("SEQ_CLS adapter", task_type="SEQ_CLS")
    refused("cannot open the adapter", peft_type="NEW_KIND")
    refused("cannot open the adapter", r=2)  # weights of another size
    refused("Found missing adapter keys", target_modules=["q_proj", "embed_tokens"])
    (folder / "adapter_model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    refused("git-lfs pointer")
