"""The tokens of a training run and the pieces they run in: counted in the data, or as `estimate.*` states them."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from implicit_prm.config import EstimateConfig, LossConfig, TrainConfig
from implicit_prm.costs.operations import Tokens
from implicit_prm.data import training_set
from implicit_prm.data.data_report import Report
from implicit_prm.data.tokenization import Encoder
from implicit_prm.models import loading
from implicit_prm.models.shared_prompt import pieces
from implicit_prm.models.source import ModelSource
from implicit_prm.types import ImplicitPRMError

_SAMPLE = 1000
# Stated response lengths are means; the responses to a prompt are spread evenly over this range around the mean.
_SPREAD = (0.6, 1.4)


@dataclass(frozen=True)
class Piece:
    """Rows that run together.

    Args:
        prompt: tokens of the shared prompt that the rows attend to; 0 for plain rows.
        rows: number of rows.
        width: tokens of a row, padding included.
        read: tokens whose log-probability is computed.
    """

    prompt: int
    rows: int
    width: int
    read: int

    @property
    def tokens(self) -> Tokens:
        """The tokens of one pass over the rows, without the shared prompt."""
        return Tokens.rows(self.rows, self.width, self.prompt, self.read)

    @property
    def size(self) -> int:
        """Tokens of all rows, padding included."""
        return self.rows * self.width

    def __str__(self) -> str:
        return f"{self.rows} x {self.width}" + (f" after {self.prompt}" if self.prompt else "")


@dataclass(frozen=True)
class Lengths:
    """The number of tokens of a prompt and of each of its responses."""

    prompt: int
    responses: Sequence[int]

    def pieces(self, max_tokens: int, shared: bool) -> list[Piece]:
        """The pieces that training runs: responses alone if a `SharedPrompt` holds the prompt, else with the prompt."""
        shared_tokens = self.prompt - 1 if shared else 0
        row_prompt = 0 if shared else self.prompt
        cut = pieces(self.responses, max_tokens, 1 if shared else self.prompt)
        lengths = [[self.responses[index] for index in indices] for indices in cut]
        return [Piece(shared_tokens, len(rows), max(rows) + row_prompt, sum(rows)) for rows in lengths]

    def forward(self, max_tokens: int, shared: bool) -> Tokens:
        """One pass over prompt and responses. A shared prompt runs once."""
        prompt = Tokens.rows(1, self.prompt - 1) if shared else Tokens()
        return sum((piece.tokens for piece in self.pieces(max_tokens, shared)), prompt)


@dataclass(frozen=True)
class Workload:
    """One epoch, as means over prompts.

    Args:
        source: where the lengths come from, in words.
        prompts: number of prompts.
        responses: mean number of responses to a prompt.
        trained: tokens of the forward and backward pass.
        repeated: tokens of the policy's extra passes without gradient: for a loss over whole groups, all pieces of a
            group but the first; for KTO, its baseline.
        reference: tokens that the reference scores, once in a run.
        typical: the median of the prompts' largest pieces.
        longest: the largest of them.
    """

    source: str
    prompts: int
    responses: float
    trained: Tokens
    repeated: Tokens
    reference: Tokens
    typical: Piece
    longest: Piece


@dataclass(frozen=True)
class Batching:
    """How groups are cut into pieces.

    Args:
        max_tokens: tokens of one piece, padding included.
        checkpointing: gradient checkpointing, under which prompts are not shared.
        loss: some losses look at whole groups.
        whole: run every group in one piece of plain rows, as training under DeepSpeed does.
    """

    max_tokens: int
    checkpointing: bool
    loss: LossConfig
    whole: bool = False

    @property
    def shared(self) -> bool:
        """Is the prompt of a group run once for all responses?"""
        return not self.checkpointing and not self.whole and not self.loss.single_responses

    @property
    def _limit(self) -> int:
        return sys.maxsize if self.whole else self.max_tokens

    def pieces(self, lengths: Lengths) -> list[Piece]:
        """The pieces that the policy runs."""
        return lengths.pieces(self._limit, self.shared)

    def trained(self, lengths: Lengths) -> Tokens:
        """Tokens of the policy's forward and backward pass."""
        return lengths.forward(self._limit, self.shared)

    def repeated(self, lengths: Lengths) -> Tokens:
        """Tokens of the policy's extra passes without gradient; see `Workload`."""
        total = Tokens()
        if not self.loss.by_response:
            total += sum((piece.tokens for piece in self.pieces(lengths)[1:]), Tokens())
        if self.loss.name == "kto":
            total += lengths.forward(self.max_tokens, self.shared)
        return total

    def reference(self, lengths: Lengths) -> Tokens:
        """Tokens that the reference scores. Unpaired KTO adds about as many mismatched responses."""
        passes = 2 if self.loss.name == "kto" and not self.loss.needs_pairs else 1
        return lengths.forward(self.max_tokens, shared=True) * passes

    def largest(self, lengths: Lengths) -> Piece:
        """The piece with the most tokens."""
        return max(self.pieces(lengths), key=lambda piece: piece.size)


def workload(
    config: TrainConfig, limit: int | None, batching: Batching, seed: int, say: Callable[[str], None]
) -> Workload:
    """The run's tokens, counted if the data is a local file and the tokenizer opens, else as `estimate.*` states them.

    Args:
        config: of the run.
        limit: the longest prompt + response in tokens.
        batching: how groups are cut into pieces.
        seed: of the sample of prompts that is counted.
        say: prints a line.

    Raises:
        ImplicitPRMError: data that training would refuse as well.
    """
    assert config.estimate is not None
    if not Path(config.data.train).exists():
        say(f"data.train={config.data.train} is not a local file or folder: using the lengths in estimate.*")
        return stated(config.estimate, limit, batching)
    try:
        tokenizer = loading.open_tokenizer(ModelSource.of(config.model))
    except ImplicitPRMError as error:
        say(f"{error}; without a tokenizer, using the lengths in estimate.*")
        return stated(config.estimate, limit, batching)
    train, _ = training_set.read(config.data, config.loss, seed)
    groups = train.groups
    sample = random.Random(seed).sample(groups, min(_SAMPLE, len(groups)))
    part = replace(train, groups=sample, report=Report())
    part.report.describe(sample)
    encoder = Encoder(tokenizer, config.data.text)
    encoded = training_set.encode(part, encoder.group, limit, config.data.too_long, config.loss.needs_pairs)
    for reason, count in part.report.dropped.items():
        if count:
            say(f"left out: {count} {reason}")
    lengths = [Lengths(len(g.prompt_ids), [len(response.ids) for response in g.responses]) for g in encoded]
    source = f"{config.data.train}, all prompts counted"
    if len(sample) < len(groups):
        source = f"{config.data.train}, a random {len(sample):,} of {len(groups):,} prompts counted"
    return mean_workload(lengths, round(len(groups) * len(encoded) / len(sample)), batching, source)


def mean_workload(lengths: Sequence[Lengths], prompts: int, batching: Batching, source: str) -> Workload:
    """The workload of `prompts` prompts with the mean of these lengths."""
    each = 1 / len(lengths)
    largest = sorted(map(batching.largest, lengths), key=lambda piece: piece.size)
    return Workload(
        source=source,
        prompts=prompts,
        responses=sum(len(one.responses) for one in lengths) * each,
        trained=sum(map(batching.trained, lengths), Tokens()) * each,
        repeated=sum(map(batching.repeated, lengths), Tokens()) * each,
        reference=sum(map(batching.reference, lengths), Tokens()) * each,
        typical=largest[len(largest) // 2],
        longest=largest[-1],
    )


def stated(estimate: EstimateConfig, limit: int | None, batching: Batching) -> Workload:
    """Prompts of the stated mean lengths. In the longest piece, all responses have the stated maximal length."""
    prompt, low, high = estimate.prompt_tokens, *_SPREAD
    longest = estimate.longest_tokens if limit is None else min(limit, estimate.longest_tokens)
    room = max(1, longest - prompt)
    fractions = [(index + 0.5) / estimate.responses for index in range(estimate.responses)]
    responses = [min(room, round(estimate.response_tokens * (low + (high - low) * part))) for part in fractions]
    source = f"as stated: {prompt} + {estimate.response_tokens} tokens on average, at most {longest}"
    load = mean_workload([Lengths(prompt, responses)], estimate.prompts, batching, source)
    return replace(load, longest=batching.largest(Lengths(prompt, [room] * estimate.responses)))
