"""What a way to a reward model cost, in floating-point operations, from the tokens of the runs themselves.

    ledger = Ledger()
    ledger.rollouts("outputs/sandbox/train.jsonl")
    ledger.labels("outputs/sandbox/shepherd.jsonl")
    ledger.training("outputs/sandbox/value_head")
    ledger.scoring("outputs/sandbox/value_head", "outputs/sandbox/value_head/eval/candidates.jsonl")
    for row in ledger.rows(): print(row)
    ledger.total(), ledger.total(rollouts=False)

Counted, with the formulas of `estimation.costs`: 2 FLOPs per backbone weight and token of a forward pass, attention,
the output head where a vocabulary's logits are formed, three forward passes for a trained token (four for the head's),
the reference's one pass over an implicit PRM's data, gradient checkpointing. A prompt counts once for all of its
responses where it is computed once (implicit PRMs) or could be (sampling), and with each response where it is not
(explicit reward models).

Left out: padding and rows that wait for others to end, KTO's baseline and the second pass of a group in pieces, the
optimiser, evaluation during training, grading, and an explicit model's head of one number. Attention is that of prompts
and responses of mean length.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from implicit_prm.baselines.checkpoint import BaselineSettings
from implicit_prm.baselines.layouts import Layout
from implicit_prm.config import LoraConfig, ModelConfig, PolicyConfig, TextConfig
from implicit_prm.costs.operations import forward_flops, training_flops
from implicit_prm.costs.shapes import Shape, open_shape
from implicit_prm.costs.workload import Tokens
from implicit_prm.data.groups import load_groups
from implicit_prm.data.tokenization import Encoder
from implicit_prm.models import loading
from implicit_prm.models.checkpoint import BASELINE_FILE, NONE, Settings
from implicit_prm.training.model_card import RUN_FILE
from implicit_prm.types import Group, ImplicitPRMError, TokenCounts

Stage = Literal["rollouts", "labels", "training", "scoring"]


@dataclass(frozen=True)
class Item:
    """A run's share: what passed through a model in one pass, how often, and the operations of all passes."""

    stage: Stage
    what: str
    tokens: TokenCounts
    passes: float
    flops: float


@dataclass
class Ledger:
    """Runs that together make and use a reward model, read from what their commands left."""

    items: list[Item] = field(default_factory=list)

    def rollouts(self, path: str | Path, tokenizer: str | None = None) -> None:
        """The sampling of a file of `ipr-rollout`. `tokenizer` is needed where the policy was a server's.

        Raises:
            ImplicitPRMError: no `<path>.meta.json`, or a policy whose tokenizer or configuration cannot be opened.
        """
        settings = _json(Path(f"{path}.meta.json"))["settings"]
        name = tokenizer or settings["policy"]["name"]
        policy = PolicyConfig(name, settings["policy"].get("revision") if tokenizer is None else None)
        prompt = settings["prompt"]
        text = TextConfig(prompt_template=prompt["template"], system_prompt=prompt["system_prompt"])
        encoder = Encoder(loading.open_tokenizer(policy), text)
        counts = count(load_groups(str(path), graded=False), encoder)
        self._add("rollouts", f"sampling {path}", counts, sampling_flops(_shape(policy), counts))

    def labels(self, path: str | Path) -> None:
        """The step labels of a file of `ipr-label`: completions, or a verifier's pass. Its training is `training`."""
        settings = _json(Path(f"{path}.meta.json"))["settings"]
        rows = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
        counts = sum((TokenCounts(**row["step_label_tokens"]) for row in rows), TokenCounts())
        what = f"{settings['method']} labels of {path}"
        if settings["method"] == "math_shepherd":
            shape = _shape(PolicyConfig(settings["policy"]["name"], settings["policy"]["revision"]))
            self._add("labels", what, counts, sampling_flops(shape, counts))
        elif settings["method"] == "autopsv":
            shape = _shape(PolicyConfig(settings["verifier"], settings["verifier_revision"]))
            self._add("labels", what, counts, sum(forward_flops(shape, tokens_of(counts, read=False))))
        else:
            self._add("labels", what, counts, 0.0)

    def training(self, folder: str | Path) -> None:
        """A run of `ipr-train` or `ipr-baseline`: its policy, and once the reference where there is one.

        Raises:
            ImplicitPRMError: the folder lacks what the run writes, or a LoRA adapter's base cannot be found.
        """
        folder = Path(folder)
        report = _json(folder / "data_report.json")["train"]
        used, tokens = report["used"], report["used_tokens"]
        counts = TokenCounts(used["prompts"], used["responses"], tokens["prompts"], tokens["responses"])
        epochs = _json(folder / "train_metrics.json")["epoch"]
        if (folder / BASELINE_FILE).exists():
            kind = BaselineSettings.read(folder).kind
            counts, shape = with_each_response(counts), _shape(PolicyConfig(str(folder)))
            flops = training_flops(shape, _checkpointing(folder), tokens_of(counts, read=False))
            self._add("training", f"{kind} in {folder}", counts, epochs * flops, epochs)
            return
        settings = Settings.read(folder)
        shape = _shape(PolicyConfig(str(folder)), settings)
        checkpointing = _checkpointing(folder)
        trained = with_each_response(counts) if checkpointing else counts
        flops = epochs * training_flops(shape, checkpointing, tokens_of(trained))
        self._add("training", f"{settings.loss.get('name')} in {folder}", trained, flops, epochs)
        if settings.reference != NONE:
            asked = sum(forward_flops(shape, tokens_of(counts)))
            self._add("training", f"the reference of {folder}, asked once", counts, asked)

    def scoring(self, checkpoint: str | Path, candidates: str | Path) -> None:
        """The scoring of a file of candidates by a checkpoint: of `ipr-eval`, or by `score`.

        An implicit PRM reads each twice, itself and with its reference.
        """
        folder, groups = Path(checkpoint), load_groups(str(candidates), graded=False)
        what = f"{candidates} by {checkpoint}"
        if (folder / BASELINE_FILE).exists():
            baseline = BaselineSettings.read(folder)
            encoder = Encoder(loading.open_tokenizer(PolicyConfig(str(folder))), baseline.text)
            counts = with_each_response(count(groups, Layout(encoder, baseline.kind, baseline.tokens)))
            flops = sum(forward_flops(_shape(PolicyConfig(str(folder))), tokens_of(counts, read=False)))
            self._add("scoring", what, counts, flops)
            return
        settings = Settings.read(folder)
        shape, name = _shape(PolicyConfig(str(folder)), settings), settings.base or str(folder)
        counts = count(groups, Encoder(loading.open_tokenizer(PolicyConfig(name)), settings.text))
        passes = 1 if settings.reference == NONE else 2
        once = sum(forward_flops(shape, tokens_of(counts)))
        self._add("scoring", what, counts, passes * once, passes)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each run: stage, what, tokens of one pass, passes, FLOPs."""
        return [
            {"stage": item.stage, "what": item.what, **asdict(item.tokens), "passes": item.passes, "flops": item.flops}
            for item in self.items
        ]

    def total(self, rollouts: bool = True) -> float:
        """FLOPs of all runs; without `rollouts`, of what comes after the responses are there, as the paper counts."""
        return sum(item.flops for item in self.items if rollouts or item.stage != "rollouts")

    def _add(self, stage: Stage, what: str, tokens: TokenCounts, flops: float, passes: float = 1) -> None:
        self.items.append(Item(stage, what, tokens, passes, flops))


def count(groups: Iterable[Group], encoder: Encoder | Layout) -> TokenCounts:
    """Tokens of prompts, once each, and of responses."""
    total = TokenCounts()
    for group in groups:
        given: Sequence[list[str] | None] = group.steps or [None] * len(group)
        texts = zip(group.completions, group.finished, given, strict=True)
        lengths = [len(encoder.response(text, finished, steps).ids) for text, finished, steps in texts]
        total += TokenCounts(1, len(group), len(encoder.prompt_ids(group.prompt)), sum(lengths))
    return total


def tokens_of(counts: TokenCounts, read: bool = True) -> Tokens:
    """One pass over prompts and the responses behind them; with `read`, logits are formed at the responses' tokens."""
    prompt = counts.prompt_tokens / max(counts.prompts, 1)
    response = counts.response_tokens / max(counts.responses, 1)
    pairs = counts.prompts * prompt**2 / 2 + counts.responses * (prompt * response + response**2 / 2)
    return Tokens(counts.prompt_tokens + counts.response_tokens, counts.response_tokens if read else 0.0, pairs)


def with_each_response(counts: TokenCounts) -> TokenCounts:
    """The prompt before every response, as plain rows have it."""
    prompt = counts.prompt_tokens / max(counts.prompts, 1)
    return TokenCounts(counts.responses, counts.responses, round(counts.responses * prompt), counts.response_tokens)


def sampling_flops(shape: Shape, counts: TokenCounts) -> float:
    """Prompts are read once, and every token of a response is a forward pass of its own against what is before it."""
    return sum(forward_flops(shape, tokens_of(counts)))


def _shape(policy: PolicyConfig, settings: Settings | None = None) -> Shape:
    """The shape of a model, from its configuration alone; of an adapter and the base that its settings name."""
    config = ModelConfig(policy.name, policy.revision)
    if settings is not None and settings.base is not None:
        lora = None if settings.lora is None else LoraConfig(**settings.lora)
        config = ModelConfig(settings.base, settings.base_revision, lora=lora)
    return open_shape(config)[0]


def _checkpointing(folder: Path) -> bool:
    """Was gradient checkpointing on?"""
    return bool(_json(folder / RUN_FILE)["config"]["trainer"].get("gradient_checkpointing"))


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not JSON ({error})"
        raise ImplicitPRMError(f"{path}: {reason}; the ledger reads what the run wrote there") from None
