"""Find the data files of a split, in a folder or on the hub, with messages that say what to do if there are none."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from implicit_prm.types import ImplicitPRMError

_HUB_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<ending>\..+)")
_TIMEOUT_SECONDS = 10.0
_BLOCK_BYTES = 2**20  # read ahead over the network


class DataFile(NamedTuple):
    """A data file: its name for messages, and its path, which may be on the hub (`hf://...`)."""

    name: str
    path: str

    def open(self) -> BinaryIO:
        if self.path.startswith("hf://"):
            from huggingface_hub import HfFileSystem

            return cast(BinaryIO, HfFileSystem().open(self.path, "rb", block_size=_BLOCK_BYTES))
        return Path(self.path).open("rb")


def folder_files(folder: Path, name: str, split: str, subset: str | None) -> list[DataFile]:
    """The files of a split of a local folder, found by the hub's rules (`configs` in README.md, or the file names).

    Raises:
        ImplicitPRMError: an unfinished download, no data files, or no such split.
    """
    import datasets

    _check_whole(folder, name)
    try:
        if subset is not None and subset not in datasets.get_dataset_config_names(str(folder)):
            # A copy without its README.md, or the folder of one subset alone.
            folder, subset = folder / subset if (folder / subset).is_dir() else folder, None
        builder = datasets.load_dataset_builder(str(folder), subset)
    except Exception as error:  # datasets raises many types; all of them mean that the folder cannot be read
        raise ImplicitPRMError(_not_a_dataset(name, error)) from error
    return _split_files(builder, name, split, str(folder))


def hub_files(
    dataset: str, split: str, subset: str | None, revision: str | None, download: bool, option: str | None
) -> list[DataFile]:
    """The files of a split of a hub dataset: downloaded into the hub cache, or their addresses.

    If the hub cannot be reached (one request, 10 seconds), the cached files of the revision are used.

    Args:
        dataset: the id of the dataset.
        split: the split.
        subset: the configuration, if the dataset has several.
        revision: a commit, branch or tag.
        download: download the files; otherwise they are read over the network.
        option: the option that takes a local copy, for messages.

    Raises:
        ImplicitPRMError: no such dataset, revision or split; a dataset that needs a token; or neither hub nor cache.
    """
    if not _HUB_ID.fullmatch(dataset) or re.search(r"\.(jsonl?|parquet|csv)(\.gz)?$", dataset):
        raise ImplicitPRMError(f"{dataset}: no such file or folder")
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    copy = _how_to_copy(dataset, revision, option)
    try:
        info = HfApi().dataset_info(dataset, revision=revision, timeout=_TIMEOUT_SECONDS)
        if info.gated:
            HfApi().auth_check(dataset, repo_type="dataset")
    except HfHubHTTPError as error:
        raise ImplicitPRMError(_refused(dataset, revision, error, copy)) from error
    except Exception as error:  # no network, a timeout, offline mode: each HTTP library has its own types
        try:
            folder = snapshot_download(dataset, repo_type="dataset", revision=revision, local_files_only=True)
        except FileNotFoundError as missing:
            raise ImplicitPRMError(
                f"{dataset}: no such file or folder, not in the hub cache, and the hub cannot be reached "
                f"({_first_line(error)}). {copy}"
            ) from missing
        return folder_files(Path(folder), dataset, split, subset)
    try:
        if download:
            # By the name of the revision, so that the cache knows it without network access.
            folder = snapshot_download(dataset, repo_type="dataset", revision=revision)
            return folder_files(Path(folder), dataset, split, subset)
        import datasets

        builder = datasets.load_dataset_builder(dataset, subset, revision=info.sha)
    except ImplicitPRMError:
        raise
    except HfHubHTTPError as error:
        raise ImplicitPRMError(_refused(dataset, revision, error, copy)) from error
    except OSError as error:
        raise ImplicitPRMError(
            f"{dataset}: the download stopped ({_first_line(error)}); the same command resumes it. {copy}"
        ) from error
    except Exception as error:
        raise ImplicitPRMError(_not_a_dataset(dataset, error)) from error
    return _split_files(builder, dataset, split, f"hf://datasets/{dataset}@{info.sha}")


def _how_to_copy(dataset: str, revision: str | None, option: str | None) -> str:
    """How to make a local copy, for messages."""
    pinned = f" --revision {revision}" if revision else ""
    return (
        f"`hf download {dataset} --repo-type dataset{pinned} --local-dir FOLDER` makes a local copy on a machine with "
        f"network access; then {f'set {option}=FOLDER' if option else 'give FOLDER instead of the id'}"
    )


def _split_files(builder: Any, name: str, split: str, root: str) -> list[DataFile]:
    files = builder.config.data_files
    if split not in files:
        raise ImplicitPRMError(f"{name}: no split {split!r}; it has {', '.join(map(str, files))}")
    root = root if root.startswith("hf://") else f"{Path(root).resolve()}"
    return [DataFile(f"{name}/{path.removeprefix(root).lstrip('/')}", path) for path in map(str, files[split])]


def _check_whole(folder: Path, name: str) -> None:
    """Refuse an unfinished download: `datasets` would silently read the files that are there."""
    again = "the download is not finished; run the same `hf download` again (it resumes), or copy the folder again"
    shards: dict[tuple[str, str, str], set[int]] = defaultdict(set)
    for path in folder.rglob("*"):
        if path.name.endswith(".incomplete"):
            raise ImplicitPRMError(f"{name}: {path.relative_to(folder)} is there; {again}")
        if path.is_symlink() and not path.exists():
            raise ImplicitPRMError(f"{name}: {path.relative_to(folder)} is a link to a missing file; {again}")
        shard = _SHARD.fullmatch(str(path.relative_to(folder)))
        if shard and ".cache" not in path.relative_to(folder).parts:
            shards[shard["stem"], shard["count"], shard["ending"]].add(int(shard["number"]))
    for (stem, count, ending), numbers in sorted(shards.items()):
        missing = sorted(set(range(int(count))) - numbers)
        if missing:
            first = f"{stem}-{missing[0]:05d}-of-{count}{ending}"
            raise ImplicitPRMError(
                f"{name}: {first} is missing ({len(numbers)} of {int(count)} files are there); {again}"
            )


def _refused(dataset: str, revision: str | None, error: Exception, copy: str) -> str:
    """The message for an HTTP error of the hub, with the way out."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    token = "set HF_TOKEN, or log in with `hf auth login`"
    if isinstance(error, GatedRepoError):
        page = f"{constants.ENDPOINT}/datasets/{dataset}"
        return f"{dataset}: a gated dataset. Ask for access at {page}, then {token}"
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"{dataset}: no such file or folder, and no such dataset on the hub, or a private one. Check the name; "
            f"for a private dataset, {token}"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{dataset}: no revision {revision!r} on the hub; give a commit, branch or tag, or leave it out"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return f"{dataset}: access denied by the hub ({_first_line(error)}); {token}"
    return f"{dataset}: the hub failed ({_first_line(error)}); try again later. Or: {copy}"


def _not_a_dataset(name: str, error: Exception) -> str:
    cause = _first_line(error.__cause__ or error)
    if type(error).__name__ == "EmptyDatasetError":
        return f"{name}: no data files there (JSON lines, parquet or CSV)"
    if cause.startswith("Config name is missing"):
        listed = re.search(r"available configs: (\[.*\])", str(error))
        names = f" ({listed[1]})" if listed else ""
        return f"{name}: has several configurations{names}; download it and give the folder or file of one of them"
    return f"{name}: cannot be read as a dataset ({type(error).__name__}: {cause})"


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
