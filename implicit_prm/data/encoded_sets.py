"""The sets of a run as token ids: encoded in memory, or once for all runs and processes of a machine and kept on disk.

    FOLDER/<identity>/sets.json          what the sets depend on, their reports, and the digests of their files
    FOLDER/<identity>/<set>.arrow        the groups (`encoded_file`)

`sets.json` is written last, so that a folder without it is incomplete. Two runs that encode the same sets at the same
time write the same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from implicit_prm.data.data_report import Report
from implicit_prm.data.encoded_file import EncodedFile, write_groups
from implicit_prm.data.encoding import default_processes, encoded_groups
from implicit_prm.data.groups import fingerprint
from implicit_prm.data.tokenization import EncodedGroup
from implicit_prm.data.training_set import GradedSets, UnreadSets, usable
from implicit_prm.types import Group, ImplicitPRMError
from implicit_prm.utils.caches import Stored, cache_folder
from implicit_prm.utils.distributed import processes
from implicit_prm.utils.io import file_digest, write_json

Say = Callable[[str], None]

# Smaller sources take seconds to encode, and leave no files behind.
KEPT_FROM_BYTES = 20_000_000
_SETS = "sets.json"


@dataclass(frozen=True)
class Encoding:
    """How groups become token ids, and which of them a run uses.

    Args:
        encode_group: the `group` method of an `Encoder` or a `Layout`.
        identity: what it depends on.
        limit_tokens: of prompt and response together.
        too_long: what to do with longer responses: error or drop.
        needs_pairs: leave out prompts of the training set without a correct and an incorrect response.
        step_labels: they are trained on, and count in the fingerprint.
        check: raises ImplicitPRMError for groups that the run refuses.
    """

    encode_group: Callable[[Group], EncodedGroup]
    identity: str
    limit_tokens: int | None
    too_long: str
    needs_pairs: bool
    step_labels: bool
    check: Callable[[GradedSets], Any] = lambda _: None


@dataclass(frozen=True)
class EncodedSet:
    """The training or the dev set as token ids, without its texts.

    Args:
        source: where it is from.
        split: of that source.
        groups: in memory, or in a file.
        report: its statistics.
        fingerprint: of its content.
        step_label_source: who made its step labels; None for ground truth or several.
    """

    source: str
    split: str
    groups: Sequence[EncodedGroup]
    report: Report
    fingerprint: str
    step_label_source: str | None


EncodedSets = Mapping[str, EncodedSet]


def encode_sets(
    sets: UnreadSets,
    encoding: Encoding,
    *,
    folder: str | None = None,
    num_proc: int | None = None,
    first: bool = True,
    local_first: bool = True,
    say: Say = print,
) -> EncodedSets:
    """The sets as token ids. Those of a large source are encoded by one process of each machine and kept on disk.

    Args:
        sets: what to read.
        encoding: how to encode it.
        folder: where encoded sets are kept; None encodes in memory.
        num_proc: processes that encode a large source; by default one for each CPU core.
        first: whether this process shows progress.
        local_first: whether this is the process of its machine that encodes.
        say: prints a line.

    Raises:
        ImplicitPRMError: sources that cannot be read, or that the run cannot be trained on.
    """
    if folder is None or sets.identity is None or sets.size_bytes < KEPT_FROM_BYTES:
        return _encode(sets.read(), encoding, lambda name, groups: list(groups), num_proc or 1, first)
    rest = [encoding.limit_tokens, encoding.too_long, encoding.needs_pairs, encoding.step_labels]
    identity = {**sets.identity, "encoding": encoding.identity, "use": rest}
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    kept = Path(cache_folder("data") if folder == "default" else folder) / name
    with processes() as team:
        if local_first and not _is_whole(kept):
            say(f"encoding the data in {num_proc or default_processes()} processes; kept in {kept}")
            _write(kept, identity, sets, encoding, num_proc or default_processes(), first)
        team.gather(None)
    return _open(kept, sets)


def _encode(
    graded_sets: GradedSets,
    encoding: Encoding,
    keep: Callable[[str, Iterator[EncodedGroup]], Sequence[EncodedGroup]],
    num_proc: int,
    shown: bool,
) -> EncodedSets:
    """Encode all sets. `keep` gets the name and the groups of each."""
    encoding.check(graded_sets)
    found = {}
    for name, graded in graded_sets.items():
        train = name == "train"
        encoded = encoded_groups(graded.groups, encoding.encode_group, num_proc, shown and train)
        needs_pairs = encoding.needs_pairs and train
        groups = keep(name, usable(encoded, graded, encoding.limit_tokens, encoding.too_long, needs_pairs))
        labellers = {group.step_label_source for group in graded.groups}
        found[name] = EncodedSet(
            graded.source,
            graded.split,
            groups,
            graded.report,
            fingerprint(graded.groups, encoding.step_labels),
            labellers.pop() if len(labellers) == 1 else None,
        )
    return found


def _write(
    kept: Path, identity: Mapping[str, Any], sets: UnreadSets, encoding: Encoding, num_proc: int, shown: bool
) -> None:
    def keep(name: str, groups: Iterator[EncodedGroup]) -> Sequence[EncodedGroup]:
        write_groups(kept / f"{name}.arrow", groups)
        return EncodedFile(kept / f"{name}.arrow")

    try:
        encoded = _encode(sets.read(), encoding, keep, num_proc, shown)
    except ImplicitPRMError:
        with contextlib.suppress(OSError):
            kept.rmdir()  # if it is empty
        raise
    described = {
        name: {
            "source": one.source,
            "sha256": file_digest(kept / f"{name}.arrow"),
            "report": one.report.as_dict(),
            "fingerprint": one.fingerprint,
            "step_label_source": one.step_label_source,
        }
        for name, one in encoded.items()
    }
    write_json(kept / _SETS, {"identity": identity, "sets": described})


def _is_whole(kept: Path) -> bool:
    """Whether the folder holds encoded sets as they were written."""
    try:
        whole = all(file_digest(kept / f"{name}.arrow") == one["sha256"] for name, one in _described(kept).items())
    except FileNotFoundError:
        return False
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):  # the description is damaged
        whole = False
    if not whole:
        warnings.warn(f"{kept}: damaged; the data are encoded again", stacklevel=4)
    return whole


def _open(kept: Path, sets: UnreadSets) -> EncodedSets:
    return {
        name: EncodedSet(
            *sets.sources[name],
            EncodedFile(kept / f"{name}.arrow"),
            Report.from_dict(one["report"]),
            one["fingerprint"],
            one["step_label_source"],
        )
        for name, one in _described(kept).items()
    }


def _described(kept: Path) -> dict[str, Any]:
    return dict(json.loads((kept / _SETS).read_text(encoding="utf-8"))["sets"])


def stored(root: str | Path | None = None) -> list[Stored]:
    """List the encoded sets that are kept on disk."""
    found = []
    for folder in sorted(path for path in Path(root or cache_folder("data")).glob("*") if path.is_dir()):
        files = [path.stat() for path in folder.iterdir()]
        size, used = sum(file.st_size for file in files), max((file.st_mtime for file in files), default=0.0)
        sources, content = {}, "incomplete"
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            described = _described(folder)
            sources = {name: one["source"] for name, one in described.items()}
            totals = [
                sum(one["report"]["used"][what] for one in described.values()) for what in ("prompts", "responses")
            ]
            content = f"{totals[0]:,} prompts, {totals[1]:,} responses"
        found.append(Stored(folder, sources, content, size, used))
    return found


def write_report(path: str | Path, sets: EncodedSets) -> None:
    """The reports as JSON, by the name of the set."""
    write_json(path, {name: {"source": s.source, "split": s.split, **s.report.as_dict()} for name, s in sets.items()})
