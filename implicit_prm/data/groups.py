"""Rows of a file or hub dataset to validated groups: one prompt, its responses, their labels.

Three row forms are read (names in `records.py`): grouped, TRL unpaired and TRL paired. A row that cannot be right stops
the run with its number and the way out; rows that are left out on purpose are counted by reason in a `Report`.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from implicit_prm import records
from implicit_prm.records import Group, ImplicitPRMError, Prompt

_BUILDERS = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv"}
_FORMS = (
    "grouped rows (prompt, completions, correctness), TRL unpaired rows (prompt, completion, label) or TRL paired rows "
    "(prompt, chosen, rejected)"
)


@dataclass
class Report:
    """What the data is, and what was left out and why."""

    prompts: int = 0
    responses: int = 0
    correct: int = 0
    prompts_without_pair: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, groups: Sequence[Group]) -> Report:
        responses = sum(map(len, groups))
        correct = sum(sum(map(bool, group.correctness)) for group in groups)
        return cls(len(groups), responses, correct, sum(not is_mixed(group) for group in groups))

    def lines(self, needs_pairs: bool) -> list[str]:
        share = self.correct / self.responses if self.responses else 0.0
        lines = [f"{self.prompts} prompts, {self.responses} responses, {share:.1%} correct"]
        if self.prompts_without_pair:
            fate = ": unused by this loss" if needs_pairs else ""
            lines.append(f"{self.prompts_without_pair} prompts have no correct-incorrect pair{fate}")
        lines += [f"left out: {count} {reason}" for reason, count in sorted(self.dropped.items())]
        return lines


def is_mixed(group: Group) -> bool:
    """Has the group both a correct and an incorrect response?"""
    return len(set(group.correctness)) > 1


def read_rows(
    source: str, split: str = "train", revision: str | None = None, subset: str | None = None
) -> Iterable[dict[str, Any]]:
    """Rows of a local file (JSON lines, parquet, CSV; .gz too), a local dataset folder, or a hub dataset.

    Raises:
        ImplicitPRMError: no such file or dataset, an empty file, or a file that cannot be parsed.
    """
    import datasets  # slow to import, and not needed to score from Python

    path = Path(source)
    try:
        if path.is_file():
            builder = _BUILDERS.get(Path(path.name.removesuffix(".gz")).suffix)
            if builder is None:
                raise ImplicitPRMError(f"{source}: unknown ending; use one of {', '.join(_BUILDERS)} (or .gz of them)")
            if path.stat().st_size == 0:
                raise ImplicitPRMError(f"{source}: the file is empty")
            # Not load_dataset, which calls home even for a local file, and waits where there is no network.
            rows = getattr(datasets.Dataset, f"from_{builder}")(str(path))
        elif (path / "dataset_info.json").exists():
            rows = datasets.load_from_disk(source)
        elif (path / "dataset_dict.json").exists():
            rows = datasets.load_from_disk(source)[split]
        elif path.suffix and not path.exists() and (Path(path.name.removesuffix(".gz")).suffix in _BUILDERS):
            raise ImplicitPRMError(f"{source}: no such file")
        else:
            rows = datasets.load_dataset(source, subset, split=split, revision=revision)
    except ImplicitPRMError:
        raise
    except Exception as error:  # datasets raises many kinds; each of them means that this source cannot be read
        cause = str(error.__cause__ or error).strip().split("\n")[0]
        if "corresponds to no data" in cause:
            raise ImplicitPRMError(f"{source}: the file has no rows") from error
        raise ImplicitPRMError(f"{source}: cannot be read as a dataset ({type(error).__name__}: {cause})") from error
    if len(rows) == 0:
        raise ImplicitPRMError(f"{source}: the file has no rows")
    return rows


def load_groups(source: str, split: str = "train", revision: str | None = None, graded: bool = True) -> list[Group]:
    """All groups of a source, validated. TRL rows of the same prompt become one group, in order of appearance.

    Args:
        source: a local file or folder, or a hub dataset id.
        graded: labels are required (training); otherwise a missing correctness column gives None labels.

    Raises:
        ImplicitPRMError: wrong columns, a row without response, labels that are not boolean; names the row.
    """
    rows = read_rows(source, split, revision)
    columns = set(rows.column_names)  # type: ignore[attr-defined]
    prompt = _column(columns, records.PROMPT)
    if prompt and _column(columns, records.COMPLETIONS) and (_column(columns, records.CORRECTNESS) or not graded):
        return [_grouped(row, columns, f"{source}, row {number}", graded) for number, row in enumerate(rows, 1)]
    if prompt and {"completion", "label"} <= columns:
        flat = [(n, row[prompt], _text(row["completion"]), row["label"]) for n, row in enumerate(rows, 1)]
    elif prompt and {"chosen", "rejected"} <= columns:
        sides = ("chosen", "rejected")
        flat = [(n, row[prompt], _text(row[key]), key == "chosen") for n, row in enumerate(rows, 1) for key in sides]
    else:
        raise ImplicitPRMError(f"{source}: has columns {', '.join(sorted(columns))}; expected {_FORMS}")
    return _gather(flat, source)


def _grouped(row: dict[str, Any], columns: set[str], where: str, graded: bool) -> Group:
    def value(names: tuple[str, ...]) -> Any:
        name = _column(columns, names)
        return row[name] if name else None

    completions = value(records.COMPLETIONS)
    if not completions:
        raise ImplicitPRMError(f"{where}: no response; remove the row or sample it again")
    if not isinstance(completions, list) or not all(isinstance(text, str) for text in completions):
        raise ImplicitPRMError(f"{where}: {_column(columns, records.COMPLETIONS)} must be a list of texts")
    labels = value(records.CORRECTNESS)
    if labels is None and not graded:
        labels = [None] * len(completions)
    identifier, finished = value(records.IDENTIFIER), value(records.FINISHED)
    aligned = {
        "correctness": [_label(label, where) if graded or label is not None else None for label in labels or []],
        "finished": [True] * len(completions) if finished is None else finished,
        "steps": value(records.STEPS),
        "step_labels": value(records.STEP_LABELS),
    }
    for name, values in aligned.items():
        if values is not None and len(values) != len(completions):
            raise ImplicitPRMError(f"{where}: {len(completions)} responses but {len(values)} entries in {name}")
    known = {name for names in vars(records).values() if isinstance(names, tuple) for name in names}
    answer, prompt = value(records.ANSWER), value(records.PROMPT)
    _check_prompt(prompt, where)
    return Group(
        id=_identifier(prompt) if identifier is None else str(identifier),
        prompt=prompt,
        completions=list(completions),
        answer=None if answer is None else str(answer),
        extra={name: row[name] for name in columns - known},
        **aligned,
    )


def _gather(flat: list[tuple[int, Any, Any, Any]], source: str) -> list[Group]:
    """TRL rows to groups. The same response twice in a prompt counts once (a paired set repeats its chosen ones)."""
    prompts: dict[str, Prompt] = {}
    found: dict[str, dict[tuple[str, bool], None]] = {}
    for number, prompt, completion, label in flat:
        where = f"{source}, row {number}"
        _check_prompt(prompt, where)
        if not completion:
            raise ImplicitPRMError(f"{where}: no response; remove the row or sample it again")
        if not isinstance(completion, str):
            raise ImplicitPRMError(f"{where}: the response {completion!r} must be a text")
        key = _identifier(prompt)
        prompts[key] = prompt
        found.setdefault(key, {})[completion, _label(label, where)] = None
    return [
        Group(key, prompts[key], [text for text, _ in pairs], [label for _, label in pairs], [True] * len(pairs))
        for key, pairs in found.items()
    ]


def _label(label: Any, where: str) -> bool:
    if isinstance(label, bool):
        return label
    if label in (0, 1) and isinstance(label, int):
        return bool(label)
    raise ImplicitPRMError(f"{where}: the label {label!r} is not boolean; write true or false")


def _text(completion: Any) -> str:
    """TRL's conversational completions are a list with one assistant message."""
    return completion[-1]["content"] if isinstance(completion, list) and completion else completion


def _check_prompt(prompt: Any, where: str) -> None:
    chat = (
        isinstance(prompt, list)
        and prompt
        and all(isinstance(m, dict) and {"role", "content"} <= set(m) for m in prompt)
    )
    if not chat and not (isinstance(prompt, str) and prompt.strip()):
        raise ImplicitPRMError(f"{where}: the prompt must be a text or a list of {{role, content}} messages")


def _column(columns: set[str], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in columns), None)


def _identifier(prompt: Prompt) -> str:
    return hashlib.sha256(json.dumps(prompt, sort_keys=True).encode()).hexdigest()[:12]


def take_responses(groups: Sequence[Group], limit: int, seed: int = 0) -> list[Group]:
    """`limit` responses of every group, drawn with `seed`: some files list the correct ones first."""
    taken = []
    for group in groups:
        places = range(len(group))
        rng = random.Random(f"{seed} {group.id}")  # not the group's place, so that a subset of groups draws the same
        taken.append(subset(group, sorted(rng.sample(places, limit)) if limit < len(group) else places))
    return taken


def subset(group: Group, keep: Iterable[int]) -> Group:
    """The group with only the responses at the given places."""
    places = list(keep)
    aligned = ("completions", "correctness", "finished", "steps", "step_labels")
    lists: dict[str, Any] = {name: getattr(group, name) for name in aligned}
    taken: dict[str, Any] = {name: [v[place] for place in places] for name, v in lists.items() if v is not None}
    return replace(group, **taken)


def balance(groups: Sequence[Group], how: str, seed: int, report: Report) -> list[Group]:
    """Down-sample the more frequent class, as the paper does: over the whole dataset, or within every prompt.

    A prompt whose responses are all left out disappears. What goes is drawn with `seed` and counted in the report.
    """
    if how == "none":
        return list(groups)
    rng = random.Random(seed)
    if how == "prompt":
        kept = [_balanced_places([(place, bool(c)) for place, c in enumerate(g.correctness)], rng) for g in groups]
    else:
        everything = [((n, place), bool(c)) for n, g in enumerate(groups) for place, c in enumerate(g.correctness)]
        kept = [[] for _ in groups]
        for n, place in _balanced_places(everything, rng):
            kept[n].append(place)
    balanced = [subset(group, sorted(places)) for group, places in zip(groups, kept, strict=True) if places]
    left_out = sum(map(len, groups)) - sum(map(len, balanced))
    report.dropped[f"responses to balance the labels (loss.balance={how})"] += left_out
    return balanced


def _balanced_places(entries: list[tuple[Any, bool]], rng: random.Random) -> list[Any]:
    sides = [[place for place, correct in entries if correct is side] for side in (True, False)]
    size = min(map(len, sides))
    return [place for side in sides for place in rng.sample(side, size)]


def fingerprint(groups: Sequence[Group]) -> str:
    """Content hash of what training reads: prompts, responses, labels, and which were cut off."""
    digest = hashlib.sha256()
    for group in groups:
        read = [group.prompt, group.completions, group.correctness, group.finished]
        digest.update(json.dumps(read).encode())
    return digest.hexdigest()[:16]
