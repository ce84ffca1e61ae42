"""Statistics of the training data: printed before training and saved with the checkpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from implicit_prm.data.common_template import common_template
from implicit_prm.data.tokenization import EncodedGroup
from implicit_prm.types import Group

_USED = ("prompts", "responses", "pairs")
_ONLY_IF_ANY = ("  repeated", "  both correct and incorrect")


@dataclass
class LengthSummary:
    """Lengths in tokens."""

    median: int
    percentile_95: int
    longest: int

    @classmethod
    def of(cls, lengths: Sequence[int]) -> LengthSummary:
        median, high = np.percentile(lengths, [50, 95], method="higher")
        return cls(int(median), int(high), max(lengths))


@dataclass
class Report:
    """Statistics of a set of graded groups as it was read. `used` is what is left after leaving out `dropped`."""

    prompts: int = 0
    all_correct: int = 0  # prompts without an incorrect response
    all_incorrect: int = 0
    responses: int = 0
    correct: int = 0
    pairs: int = 0  # a correct and an incorrect response to the same prompt
    cut_off: int = 0  # responses that did not end by themselves
    repeated_prompts: int = 0  # groups with the prompt of an earlier group
    repeated_responses: int = 0  # responses equal to an earlier one of their group
    contradictory: int = 0  # texts labelled both correct and incorrect in a group
    prompt_tokens: LengthSummary | None = None
    response_tokens: LengthSummary | None = None
    prompt_template: str | None = None  # what all prompts hold beside the problem, if they are chats
    system_prompt: str | None = None
    dropped: Counter[str] = field(default_factory=Counter)
    used: dict[str, int] = field(default_factory=dict)
    used_tokens: dict[str, int] = field(default_factory=dict)  # of prompts (each counted once) and of responses

    def describe(self, groups: Sequence[Group]) -> None:
        """Count the groups as they were read."""
        self.prompts = len(groups)
        seen: set[str] = set()
        for group in groups:
            correct = sum(map(bool, group.correctness))
            texts = Counter(group.completions)
            verdicts = Counter({(text, bool(c)) for text, c in zip(group.completions, group.correctness, strict=True)})
            self.all_correct += correct == len(group)
            self.all_incorrect += correct == 0
            self.responses += len(group)
            self.correct += correct
            self.pairs += correct * (len(group) - correct)
            self.cut_off += len(group) - sum(group.finished)
            self.repeated_responses += len(group) - len(texts)
            self.contradictory += len(verdicts) - len(texts)
            key = str(group.prompt)
            self.repeated_prompts += key in seen
            seen.add(key)
        template = common_template(group.prompt for group in groups)
        self.prompt_template, self.system_prompt = template or (None, None)

    def measure(self, prompt_tokens: Sequence[int], response_tokens: Sequence[int]) -> None:
        """Summarise the lengths of all prompts and responses, before long responses are left out."""
        self.prompt_tokens, self.response_tokens = LengthSummary.of(prompt_tokens), LengthSummary.of(response_tokens)

    def reset_used(self) -> None:
        """Forget what was counted as used."""
        self.used, self.used_tokens = dict.fromkeys(_USED, 0), {"prompts": 0, "responses": 0}

    def count_used(self, group: EncodedGroup) -> None:
        """Count a group that is used in training."""
        correct, size = sum(group.labels), len(group.labels)
        for name, count in zip(_USED, (1, size, correct * (size - correct)), strict=True):
            self.used[name] += count
        self.used_tokens["prompts"] += len(group.prompt_ids)
        self.used_tokens["responses"] += sum(len(response.ids) for response in group.responses)

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values, for JSON."""
        # dataclasses.asdict breaks a Counter that is not empty (Python 3.11).
        return {**asdict(replace(self, dropped=Counter())), "dropped": dict(+self.dropped)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Report:
        """The report that `as_dict` gave."""
        lengths = {name: LengthSummary(**values[name]) for name in ("prompt_tokens", "response_tokens")}
        return cls(**{**values, **lengths, "dropped": Counter(values["dropped"])})


def table(reports: Mapping[str, Report], needs_pairs: bool = False) -> list[str]:
    """A table for the terminal: one column per set, one line per number, then what was left out and why.

    Args:
        reports: by the name of the set (train, dev).
        needs_pairs: whether the loss uses only prompts with both correct and incorrect responses.
    """
    unused = " (unused by this loss)" if needs_pairs else ""
    some = list(reports.values())
    lines = [
        ("prompts", [f"{r.prompts:,}" for r in some]),
        (f"  all correct{unused}", [_share(r.all_correct, r.prompts) for r in some]),
        (f"  all incorrect{unused}", [_share(r.all_incorrect, r.prompts) for r in some]),
        ("  repeated", [_share(r.repeated_prompts, r.prompts) for r in some]),
        ("responses", [f"{r.responses:,}" for r in some]),
        ("  correct", [_share(r.correct, r.responses) for r in some]),
        ("  cut off", [_share(r.cut_off, r.responses) for r in some]),
        ("  repeated in their prompt", [_share(r.repeated_responses, r.responses) for r in some]),
        ("  both correct and incorrect", [_share(r.contradictory, r.responses) for r in some]),
        ("correct-incorrect pairs", [f"{r.pairs:,}" for r in some]),
        ("tokens: median, 95 %, longest", [""] * len(some)),
        ("  of a prompt", [_lengths(r.prompt_tokens) for r in some]),
        ("  of a response", [_lengths(r.response_tokens) for r in some]),
    ]
    lines = [line for line in lines if line[0] not in _ONLY_IF_ANY or set(line[1]) != {"0"}]
    if reasons := _reasons(some):
        lines += [("left out", [""] * len(some))]
        lines += [(f"  {why}", [f"{r.dropped[why]:,}" for r in some]) for why in reasons]
    if reasons or needs_pairs:
        lines += [("used", [""] * len(some))]
        lines += [(f"  {what}", [f"{r.used.get(what, 0):,}" for r in some]) for what in _USED]
    left = max(len(label) for label, _ in lines)
    widths = [max(len(cells[place]) for _, cells in [("", [*reports]), *lines]) for place in range(len(some))]
    return [
        "  ".join([label.ljust(left), *(cell.rjust(w) for cell, w in zip(cells, widths, strict=True))]).rstrip()
        for label, cells in [("data", [*reports]), *lines]
    ]


def _reasons(reports: Sequence[Report]) -> list[str]:
    return list(dict.fromkeys(why for report in reports for why, count in report.dropped.items() if count))


def _share(part: int, whole: int) -> str:
    return f"{part:,} ({part / whole:.1%})" if part else "0"


def _lengths(lengths: LengthSummary | None) -> str:
    return f"{lengths.median:,}  {lengths.percentile_95:,}  {lengths.longest:,}" if lengths else "-"
