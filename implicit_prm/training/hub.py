"""Push a finished checkpoint to the Hugging Face hub: model, metadata and card, without the files of training."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import HfApi, get_token

from implicit_prm.types import ImplicitPRMError

# Optimiser states, pickles, files of trackers and of Hydra, the candidates of ipr-eval, and the lock of the run.
LEFT_OUT = [
    "checkpoint-*",
    "damaged-*",
    "training_args.bin",
    "runs/*",
    "wandb/*",
    ".hydra/*",
    "eval/*",
    "*.log",
    ".lock*",
]


def check_token(repository: str, token: str | None = None) -> None:
    """Check before a run that it can push; raises ImplicitPRMError if no token is given or set."""
    if (token or get_token()) is None:
        raise ImplicitPRMError(
            f"push_to_hub={repository}: not logged in; run `hf auth login`, set HF_TOKEN, or leave push_to_hub out"
        )


def push(
    folder: str | Path,
    repository: str,
    private: bool,
    say: Callable[[str], None] = print,
    token: str | None = None,
) -> None:
    """Upload a checkpoint's folder, creating the repository if it does not exist.

    Args:
        folder: the checkpoint.
        repository: on the hub, as ORG/NAME.
        private: create it as private.
        say: prints where it was pushed to.
        token: access token; None for the one of `hf auth login` or HF_TOKEN.

    Raises:
        ImplicitPRMError: the upload failed. The folder is unchanged, and the message has the command that uploads it.
    """
    api = HfApi(token=token)
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            ignore_patterns=LEFT_OUT,
            commit_message="Upload an implicit process reward model",
        )
    except Exception as error:  # network, access rights, quota: whatever it is, the checkpoint is complete
        first = str(error).strip().split("\n")[0] or type(error).__name__
        options = [*(["--private"] if private else []), *(word for name in LEFT_OUT for word in ("--exclude", name))]
        command = shlex.join(["hf", "upload", repository, str(folder), ".", *options])
        raise ImplicitPRMError(
            f"push_to_hub={repository}: {first}. The checkpoint in {folder} is complete; upload it with\n  {command}"
        ) from error
    say(f"pushed: {getattr(commit, 'repo_url', None) or repository}")
