"""How many tokens a run passes through its models, and in what pieces: counted in the data, or as stated."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from implicit_prm.config import EstimateConfig, LossConfig, TrainConfig
from implicit_prm.data import training_set
from implicit_prm.data.data_report import Report
from implicit_prm.data.tokenization import Encoder
from implicit_prm.models import loading
from implicit_prm.models.shared_prompt import pieces
from implicit_prm.types import ImplicitPRMError

_SAMPLE = 1000
# Stated lengths are means; responses to a prompt are spread evenly over this share of it.
_SPREAD = (0.6, 1.4)


@dataclass(frozen=True)
class Tokens:
    """Tokens that pass through a model with their padding, those that are read, and pairs that attention multiplies."""

    padded: float = 0.0
    read: float = 0.0
    pairs: float = 0.0

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.padded + other.padded, self.read + other.read, self.pairs + other.pairs)

    def __mul__(self, factor: float) -> Tokens:
        return Tokens(self.padded * factor, self.read * factor, self.pairs * factor)


@dataclass(frozen=True)
class Piece:
    """`rows` rows of `width` tokens, `read` of which have their log-probability read, behind `prompt` shared ones."""

    prompt: int
    rows: int
    width: int
    read: int

    @property
    def tokens(self) -> Tokens:
        return Tokens(self.rows * self.width, self.read, self.rows * self.width * (self.width / 2 + self.prompt))

    def __str__(self) -> str:
        return f"{self.rows} x {self.width}" + (f" behind {self.prompt}" if self.prompt else "")


@dataclass(frozen=True)
class Lengths:
    """A prompt's tokens and those of its responses."""

    prompt: int
    responses: Sequence[int]

    def pieces(self, max_tokens: int, shared: bool) -> list[Piece]:
        """What is run at once, as `group_logprobs` cuts it: rows of responses, or of prompt and response."""
        behind = self.prompt - 1 if shared else 0
        in_a_row = 0 if shared else self.prompt
        cut = pieces(self.responses, max_tokens, 1 if shared else self.prompt)
        found = [[self.responses[place] for place in places] for places in cut]
        return [Piece(behind, len(some), max(some) + in_a_row, sum(some)) for some in found]

    def pass_through(self, max_tokens: int, shared: bool) -> Tokens:
        """One pass over prompt and responses; a shared prompt is run once."""
        total = Tokens(self.prompt - 1, 0, (self.prompt - 1) ** 2 / 2) if shared else Tokens()
        return sum((piece.tokens for piece in self.pieces(max_tokens, shared)), total)


@dataclass(frozen=True)
class Workload:
    """One epoch, as means over prompts.

    Args:
        source: where the lengths come from, in words.
        responses: of a prompt.
        trained: what passes forward and backward.
        repeated: what passes the policy without gradient too: for a group in several pieces whose loss looks at all of
            it, all but the first piece, and for KTO's baseline.
        asked: what the reference reads, once in a run.
        typical, longest: the middle and the largest of the prompts' largest pieces.
    """

    source: str
    prompts: int
    responses: float
    trained: Tokens
    repeated: Tokens
    asked: Tokens
    typical: Piece
    longest: Piece


@dataclass(frozen=True)
class Way:
    """How groups are run: at most so many tokens at once, the prompt shared unless checkpointing forbids it.

    `whole` runs every group in one piece of plain rows, as training does under DeepSpeed.
    """

    max_tokens: int
    checkpointing: bool
    loss: LossConfig
    whole: bool = False

    @property
    def shared(self) -> bool:
        return not self.checkpointing and not self.whole

    def pieces(self, one: Lengths) -> list[Piece]:
        """What the policy runs at once."""
        return one.pieces(sys.maxsize if self.whole else self.max_tokens, self.shared)

    def trained(self, one: Lengths) -> Tokens:
        """What passes forward and backward."""
        return one.pass_through(sys.maxsize if self.whole else self.max_tokens, self.shared)

    def repeated(self, one: Lengths) -> Tokens:
        """What passes the policy without gradient before, or beside, the pass that has one."""
        total = Tokens()
        if not self.loss.by_response:
            total += sum((piece.tokens for piece in self.pieces(one)[1:]), Tokens())
        if self.loss.name == "kto":
            total += one.pass_through(self.max_tokens, self.shared)
        return total

    def asked(self, one: Lengths) -> Tokens:
        """What the reference is asked; unpaired KTO asks it about as many mismatched responses too."""
        twice = self.loss.name == "kto" and not self.loss.needs_pairs
        return one.pass_through(self.max_tokens, shared=True) * (2 if twice else 1)

    def largest(self, one: Lengths) -> Piece:
        return max(self.pieces(one), key=_size)


def workload(config: TrainConfig, limit: int | None, way: Way, seed: int, say: Callable[[str], None]) -> Workload:
    """The run's tokens: of the data if it is a local file and the tokenizer can be opened, else as `estimate.*` states.

    Args:
        limit: the longest prompt + response in tokens.

    Raises:
        ImplicitPRMError: data that training would refuse as well.
    """
    assert config.estimate is not None
    if not Path(config.data.train).exists():
        say(f"data.train={config.data.train} is not a local file or folder: lengths are as estimate.* states them")
        return stated(config.estimate, limit, way)
    try:
        tokenizer = loading.open_tokenizer(config.model)
    except ImplicitPRMError as error:
        say(f"{error}; without the tokenizer, lengths are as estimate.* states them")
        return stated(config.estimate, limit, way)
    train, _ = training_set.read(config.data, config.loss, seed)
    groups = train.groups
    sample = random.Random(seed).sample(groups, min(_SAMPLE, len(groups)))
    part = replace(train, groups=sample, report=Report())
    part.report.describe(sample)
    encoder = Encoder(tokenizer, config.data)
    encoded = training_set.encode(part, encoder.group, limit, config.data.too_long, config.loss.needs_pairs)
    for reason, count in part.report.dropped.items():
        if count:
            say(f"left out: {count} {reason}")
    lengths = [Lengths(len(g.prompt_ids), [len(response.ids) for response in g.responses]) for g in encoded]
    source = f"{config.data.train}, all prompts counted"
    if len(sample) < len(groups):
        source = f"{config.data.train}, {len(sample):,} of {len(groups):,} prompts counted, drawn at random"
    return of_lengths(lengths, round(len(groups) * len(encoded) / len(sample)), way, source)


def of_lengths(lengths: Sequence[Lengths], prompts: int, way: Way, source: str) -> Workload:
    """What prompts of these lengths make, `prompts` of them in all."""
    each = 1 / len(lengths)
    largest = sorted(map(way.largest, lengths), key=_size)
    return Workload(
        source=source,
        prompts=prompts,
        responses=sum(len(one.responses) for one in lengths) * each,
        trained=sum(map(way.trained, lengths), Tokens()) * each,
        repeated=sum(map(way.repeated, lengths), Tokens()) * each,
        asked=sum(map(way.asked, lengths), Tokens()) * each,
        typical=largest[len(largest) // 2],
        longest=largest[-1],
    )


def stated(estimate: EstimateConfig, limit: int | None, way: Way) -> Workload:
    """Prompts of the stated mean lengths; the longest piece is one of responses that are all as long as stated."""
    prompt, low, high = estimate.prompt_tokens, *_SPREAD
    longest = estimate.longest_tokens if limit is None else min(limit, estimate.longest_tokens)
    room = max(1, longest - prompt)
    places = [(place + 0.5) / estimate.responses for place in range(estimate.responses)]
    responses = [min(room, round(estimate.response_tokens * (low + (high - low) * place))) for place in places]
    source = f"as stated, {prompt} + {estimate.response_tokens} tokens in the mean, {longest} at most"
    load = of_lengths([Lengths(prompt, responses)], estimate.prompts, way, source)
    return replace(load, longest=way.largest(Lengths(prompt, [room] * estimate.responses)))


def _size(piece: Piece) -> int:
    return piece.rows * piece.width
