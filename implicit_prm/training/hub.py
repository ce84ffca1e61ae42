"""A finished checkpoint to the Hugging Face hub: model, settings and card, nothing that only training needs."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import HfApi, get_token

from implicit_prm.types import ImplicitPRMError

# Optimizer states, a pickle, trackers' files, Hydra's, and the candidates that ipr-eval may have put there.
LEFT_OUT = ["checkpoint-*", "damaged-*", "training_args.bin", "runs/*", "wandb/*", ".hydra/*", "eval/*", "*.log"]


def check_token(repository: str) -> None:
    """Refuse to start a run whose push is bound to fail; raises ImplicitPRMError where no token is set."""
    if get_token() is None:
        raise ImplicitPRMError(
            f"push_to_hub={repository}: not logged in; run `hf auth login`, set HF_TOKEN, or leave push_to_hub out"
        )


def push(folder: str | Path, repository: str, private: bool, say: Callable[[str], None] = print) -> None:
    """Upload a checkpoint's folder; the repository is made if it is not there.

    Raises:
        ImplicitPRMError: it failed. The folder is as it was, and the message has the command that uploads it.
    """
    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            ignore_patterns=LEFT_OUT,
            commit_message="Upload an implicit process reward model",
        )
    except Exception as error:  # no network, no rights, no space: many kinds, and none may cost the checkpoint
        first = str(error).strip().split("\n")[0] or type(error).__name__
        options = [*(["--private"] if private else []), *(word for name in LEFT_OUT for word in ("--exclude", name))]
        command = shlex.join(["hf", "upload", repository, str(folder), ".", *options])
        raise ImplicitPRMError(
            f"push_to_hub={repository}: {first}. The checkpoint in {folder} is whole; upload it with\n  {command}"
        ) from error
    say(f"pushed: {getattr(commit, 'repo_url', None) or repository}")
