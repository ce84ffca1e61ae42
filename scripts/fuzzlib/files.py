"""Damaged files: checkpoints, adapters, rows, records, scores and cached log-probabilities."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, LlamaForTokenClassification

from fuzzlib.rows import formats
from fuzzlib.values import damaged, json_lines, mutated
from implicit_prm import ImplicitPRM, sandbox
from implicit_prm.baselines.reward_model import RewardModel
from implicit_prm.data.groups import load_groups
from implicit_prm.models.checkpoint import ADAPTER_OFF, BaselineMetadata, CheckpointMetadata
from implicit_prm.models.reference_cache import ReferenceCache, stored
from implicit_prm.rollouts.provenance import Provenance
from implicit_prm.scoring.scorers import column_scorer
from implicit_prm.scoring.store import score_all
from implicit_prm.training import model_card, resume
from implicit_prm.utils.io import JsonLines


def open_checkpoints(folder: Path) -> Callable[[Random], None]:
    """A checkpoint with full weights or an adapter, one file of which is damaged: opened and scored with."""
    checkpoints = _checkpoints(folder / "whole")

    def case(rng: Random) -> None:
        whole = rng.choice(checkpoints)
        copy = folder / "checkpoint"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(whole, copy)
        path = rng.choice(sorted(copy.iterdir()))
        _damage(path, rng)
        resume.find_problem(copy)
        model_card.Run.read(copy)
        if whole.name == "orm":
            RewardModel.from_pretrained(copy, device="cpu").score("1 + 1", ["2"])
        else:
            ImplicitPRM.from_pretrained(copy, device="cpu").score("1 + 1", ["2"])

    return case


def _checkpoints(folder: Path) -> list[Path]:
    """A full model, an adapter and an outcome reward model, each of a few kilobytes."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(sandbox.POLICY_PATH)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **sizes)
    full, lora, orm = folder / "full", folder / "lora", folder / "orm"
    LlamaForCausalLM(config).save_pretrained(full)
    LlamaForTokenClassification(LlamaConfig(**{**config.to_dict(), "num_labels": 1})).save_pretrained(orm)
    adapter = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear")
    get_peft_model(LlamaForCausalLM.from_pretrained(full), adapter).save_pretrained(lora)
    for one in (full, lora, orm):
        tokenizer.save_pretrained(one)
    CheckpointMetadata(1.0, "none").write(full)
    CheckpointMetadata(1.0, ADAPTER_OFF, base=str(full)).write(lora)
    BaselineMetadata("orm", "outcome").write(orm)
    model_card.Run("ipr-train", {"a": 1}, {}).write(full)
    (full / "trainer_state.json").write_text(json.dumps({"global_step": 1}))
    return [full, lora, orm]


def _damage(path: Path, rng: Random) -> None:
    if path.suffix == ".json" and rng.random() < 0.6:
        path.write_text(json.dumps(mutated(json.loads(path.read_text(encoding="utf-8")), rng)))
    elif rng.random() < 0.05:
        path.unlink()
    else:
        path.write_bytes(damaged(path.read_bytes(), rng))


def open_records(folder: Path) -> Callable[[Random], None]:
    """Rollouts with their record, score tables and cached reference values, damaged: read as a resumed run does."""
    rows = formats()["grouped"]
    groups = load_groups(rows)
    score = column_scorer("scores", "probability")
    with contextlib.redirect_stdout(io.StringIO()):
        expected = score_all(groups, score, folder, "key")
    logprobs = np.zeros(3, dtype=np.float32)

    def rollouts(rng: Random) -> None:
        output = folder / "rollouts.jsonl"
        _write(output, json_lines(mutated(rows, rng) if rng.random() < 0.5 else rows).encode(), rng)
        _write(Path(f"{output}.meta.json"), json.dumps({"settings": {"a": 1}, "runs": []}).encode(), rng)
        record = Provenance(output)
        record.check({"a": 1})
        JsonLines(output).rows()
        JsonLines(output).append({"id": "new"})
        load_groups(str(output), graded=False)

    def scores(rng: Random) -> None:
        path = folder / "scores.parquet"
        path.unlink(missing_ok=True)
        score_all(groups, score, folder, "key")
        path.write_bytes(damaged(path.read_bytes(), rng))
        assert score_all(groups, score, folder, "key") == expected

    def cache(rng: Random) -> None:
        shutil.rmtree(folder / "cache", ignore_errors=True)
        cache = ReferenceCache({"model": "x"}, folder / "cache")
        cache.add(b"k" * 16, logprobs)
        cache.flush()
        _damage(rng.choice(sorted(cache.folder.iterdir())), rng)
        found = ReferenceCache({"model": "x"}, folder / "cache").get(b"k" * 16, 3)
        assert found is None or found.tolist() == logprobs.tolist()
        stored(folder / "cache")

    def case(rng: Random) -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # progress
            rng.choice((rollouts, rollouts, scores, cache))(rng)

    return case


def _write(path: Path, whole: bytes, rng: Random) -> None:
    path.write_bytes(damaged(whole, rng) if rng.random() < 0.5 else whole)
