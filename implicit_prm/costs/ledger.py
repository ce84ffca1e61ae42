"""FLOPs that a reward model took, from the tokens that its runs recorded.

    ledger = Ledger()
    ledger.rollouts("outputs/sandbox/train.jsonl")
    ledger.labels("outputs/sandbox/shepherd.jsonl")
    ledger.training("outputs/sandbox/value_head")
    ledger.scoring("outputs/sandbox/value_head", "outputs/sandbox/value_head/eval/candidates.jsonl")
    for row in ledger.rows(): print(row)
    ledger.total(), ledger.total(rollouts=False)

FLOPs are those of `costs.operations`. A prompt counts once for all of its responses where it is computed once (implicit
PRMs) or could be (sampling), and once per response otherwise (explicit reward models).

Not included: padding, rows that wait for longer ones, KTO's baseline, the second pass of groups in several pieces, the
optimiser, evaluation during training, grading, and an explicit model's head of one output. Attention is computed for
prompts and responses of mean length.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from implicit_prm.baselines.layouts import Layout
from implicit_prm.config import LanguageModelConfig, LoraConfig, ModelConfig, TextConfig
from implicit_prm.costs.operations import Tokens, forward_flops, training_flops
from implicit_prm.costs.shapes import Shape, open_shape
from implicit_prm.data.groups import load_groups
from implicit_prm.data.tokenization import Encoder
from implicit_prm.data.training_set import REPORT_FILE
from implicit_prm.models import loading
from implicit_prm.models.checkpoint import BASELINE_FILE, NONE, BaselineMetadata, CheckpointMetadata
from implicit_prm.models.source import ModelSource
from implicit_prm.training.model_card import RUN_FILE
from implicit_prm.types import Group, ImplicitPRMError, TokenCounts

Stage = Literal["rollouts", "labels", "training", "scoring"]


@dataclass(frozen=True)
class Item:
    """The costs of one run: the tokens of one pass, the number of passes, and the FLOPs of all of them."""

    stage: Stage
    what: str
    tokens: TokenCounts
    passes: float
    flops: float


@dataclass
class Ledger:
    """The runs that make and use a reward model, read from the files that they wrote."""

    items: list[Item] = field(default_factory=list)

    def rollouts(self, path: str | Path, tokenizer: str | None = None) -> None:
        """Add the sampling of a file that `ipr-rollout` wrote.

        Args:
            path: of the file.
            tokenizer: hub id or folder; needed if a server sampled the responses.

        Raises:
            ImplicitPRMError: `<path>.meta.json` is missing, or the policy's tokenizer or configuration cannot be read.
        """
        settings = _json(Path(f"{path}.meta.json"))["settings"]
        name = tokenizer or settings["policy"]["name"]
        policy = LanguageModelConfig(name, settings["policy"].get("revision") if tokenizer is None else None)
        prompt = settings["prompt"]
        text = TextConfig(
            prompt_template=prompt["template"],
            system_prompt=prompt["system_prompt"],
            template_kwargs=prompt.get("template_kwargs"),
        )
        encoder = Encoder(loading.open_tokenizer(ModelSource.of(policy)), text)
        counts = count(load_groups(str(path), graded=False), encoder)
        self._add("rollouts", f"sampling {path}", counts, forward_flops(_shape(policy), tokens_of(counts)))

    def labels(self, path: str | Path) -> None:
        """Add the labelling of a file that `ipr-label` wrote. A verifier's training is added by `training`."""
        settings = _json(Path(f"{path}.meta.json"))["settings"]
        rows = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
        counts = sum((TokenCounts(**row["step_label_tokens"]) for row in rows), TokenCounts())
        what = f"{settings['method']} labels of {path}"
        if settings["method"] == "math_shepherd":
            shape = _shape(LanguageModelConfig(settings["policy"]["name"], settings["policy"]["revision"]))
            self._add("labels", what, counts, forward_flops(shape, tokens_of(counts)))
        elif settings["method"] == "autopsv":
            shape = _shape(LanguageModelConfig(settings["verifier"], settings["verifier_revision"]))
            self._add("labels", what, counts, forward_flops(shape, tokens_of(counts, read=False)))
        else:
            self._add("labels", what, counts, 0.0)

    def training(self, folder: str | Path) -> None:
        """Add a run of `ipr-train` or `ipr-baseline`: the policy's training, and one pass of the reference if any.

        Raises:
            ImplicitPRMError: the folder lacks a file that the run writes, or a LoRA adapter's base cannot be found.
        """
        folder = Path(folder)
        report = _json(folder / REPORT_FILE)["train"]
        used, tokens = report["used"], report["used_tokens"]
        counts = TokenCounts(used["prompts"], used["responses"], tokens["prompts"], tokens["responses"])
        epochs = _json(folder / "train_metrics.json")["epoch"]
        if (folder / BASELINE_FILE).exists():
            baseline = BaselineMetadata.read(folder)
            # An adapter is merged into the weights at the end, but the base was frozen in training.
            lora = None if baseline.lora is None else LoraConfig(**baseline.lora)
            counts, shape = with_each_response(counts), open_shape(ModelConfig(str(folder), lora=lora))[0]
            flops = training_flops(shape, _checkpointing(folder), tokens_of(counts, read=False))
            self._add("training", f"{baseline.kind} in {folder}", counts, epochs * flops, epochs)
            return
        settings = CheckpointMetadata.read(folder)
        shape = _shape(LanguageModelConfig(str(folder)), settings)
        checkpointing = _checkpointing(folder)
        trained = with_each_response(counts) if checkpointing else counts
        flops = epochs * training_flops(shape, checkpointing, tokens_of(trained))
        self._add("training", f"{settings.loss.get('name')} in {folder}", trained, flops, epochs)
        if settings.reference != NONE:
            self._add("training", f"reference of {folder}", counts, forward_flops(shape, tokens_of(counts)))

    def scoring(self, checkpoint: str | Path, candidates: str | Path) -> None:
        """Add the scoring of a file of candidates by a checkpoint. An implicit PRM also runs its reference."""
        folder, groups = Path(checkpoint), load_groups(str(candidates), graded=False)
        what = f"{candidates} by {checkpoint}"
        if (folder / BASELINE_FILE).exists():
            baseline = BaselineMetadata.read(folder)
            encoder = Encoder(loading.open_tokenizer(ModelSource.resolve(folder)), baseline.text)
            counts = with_each_response(count(groups, Layout(encoder, baseline.kind, baseline.tokens)))
            flops = forward_flops(_shape(LanguageModelConfig(str(folder))), tokens_of(counts, read=False))
            self._add("scoring", what, counts, flops)
            return
        settings = CheckpointMetadata.read(folder)
        shape, name = _shape(LanguageModelConfig(str(folder)), settings), settings.base or str(folder)
        counts = count(groups, Encoder(loading.open_tokenizer(ModelSource.resolve(name)), settings.text))
        passes = 1 if settings.reference == NONE else 2
        self._add("scoring", what, counts, passes * forward_flops(shape, tokens_of(counts)), passes)

    def rows(self) -> list[dict[str, Any]]:
        """One row per run: stage, description, tokens of one pass, number of passes, FLOPs."""
        return [
            {"stage": item.stage, "what": item.what, **asdict(item.tokens), "passes": item.passes, "flops": item.flops}
            for item in self.items
        ]

    def total(self, rollouts: bool = True) -> float:
        """FLOPs of all runs, with or without sampling the responses (the paper counts without)."""
        return sum(item.flops for item in self.items if rollouts or item.stage != "rollouts")

    def _add(self, stage: Stage, what: str, tokens: TokenCounts, flops: float, passes: float = 1) -> None:
        self.items.append(Item(stage, what, tokens, passes, flops))


def count(groups: Iterable[Group], encoder: Encoder | Layout) -> TokenCounts:
    """Tokens of the responses and of their prompts, each prompt counted once."""
    total = TokenCounts()
    for group in groups:
        given: Sequence[list[str] | None] = group.steps or [None] * len(group)
        texts = zip(group.completions, group.finished, given, strict=True)
        lengths = [len(encoder.response(text, finished, steps).ids) for text, finished, steps in texts]
        total += TokenCounts(1, len(group), len(encoder.prompt_ids(group.prompt)), sum(lengths))
    return total


def tokens_of(counts: TokenCounts, read: bool = True) -> Tokens:
    """One pass over prompts and responses of mean length. With `read`, logits are formed at the response tokens."""
    prompt = counts.prompt_tokens / max(counts.prompts, 1)
    response = counts.response_tokens / max(counts.responses, 1)
    read_tokens = counts.response_tokens if read else 0
    return Tokens.rows(counts.prompts, prompt) + Tokens.rows(counts.responses, response, prompt, read_tokens)


def with_each_response(counts: TokenCounts) -> TokenCounts:
    """The counts of plain rows, in which the prompt precedes every response."""
    prompt = counts.prompt_tokens / max(counts.prompts, 1)
    return TokenCounts(counts.responses, counts.responses, round(counts.responses * prompt), counts.response_tokens)


def _shape(policy: LanguageModelConfig, metadata: CheckpointMetadata | None = None) -> Shape:
    """The shape of a model, or of an adapter on the base that its checkpoint metadata names."""
    config = ModelConfig(policy.name, policy.revision)
    if metadata is not None and metadata.base is not None:
        lora = None if metadata.lora is None else LoraConfig(**metadata.lora)
        config = ModelConfig(metadata.base, metadata.base_revision, lora=lora)
    return open_shape(config)[0]


def _checkpointing(folder: Path) -> bool:
    """Did the run use gradient checkpointing?"""
    return bool(_json(folder / RUN_FILE)["config"]["trainer"].get("gradient_checkpointing"))


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not JSON ({error})"
        raise ImplicitPRMError(f"{path}: {reason}; the ledger reads this file of the run") from None
