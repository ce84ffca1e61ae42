"""A training run that is killed (SIGKILL) when a file is half written: `killed_run.py KIND FOLDER MODEL ROWS`."""

import os
import signal
import sys
from pathlib import Path

import torch
from transformers import PreTrainedModel
from transformers.trainer_callback import TrainerState

from implicit_prm import fit
from tests.runs import RESUMABLE, config, quiet

# Who writes the file that is cut in half, its name, and the folder it lies in.
KINDS = {
    "weights": (PreTrainedModel, "save_pretrained", "model.safetensors", "checkpoint-4"),
    "optimizer": (torch, "save", "optimizer.pt", "checkpoint-4"),
    "state": (TrainerState, "save_to_json", "trainer_state.json", "checkpoint-4"),
    "finished": (PreTrainedModel, "save_pretrained", "model.safetensors", "finished"),
}


def cut_after(owner, name, file, place):
    """Let `owner.name` write FOLDER/`place`/`file`, take half of it away, and die at once."""
    original = getattr(owner, name)

    def writes(*arguments, **options):
        original(*arguments, **options)
        for path in (Path(one) for one in arguments if isinstance(one, str | Path)):
            target = path if path.name == file else path / file
            if target.parent.name == place and target.is_file():
                os.truncate(target, target.stat().st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, writes)


if __name__ == "__main__":
    kind, (folder, model, rows) = sys.argv[1], map(Path, sys.argv[2:])
    cut_after(*KINDS[kind])
    fit(config(folder, model, rows, **RESUMABLE), quiet)
