"""Short runs of explicit reward models on the CPU."""

from shutil import copytree

import torch

from implicit_prm.config import BaselineConfig, from_mapping
from implicit_prm.models import loading
from implicit_prm.models.source import ModelSource
from tests.conftest import graded_rows, write_rows

KINDS = ["orm", "value_head", "next_token"]
PROBLEM = "Modulo 50, left to right: 10 + 1 * 3 + 4"
# With the tokens 1, 0 (good, bad), 10 and all separators in them; of different lengths.
RESPONSES = [
    "10 + 1 = 11\n11 * 3 = 33\n33 + 4 = 37\n\\boxed{37}",
    "10 + 1 = 0\n0 * 3 = 1\n\\boxed{1}",
    "10 + 1 = 11",
]


def quiet(*_):
    pass


def labelled_file(path, problems=12, responses=4, source="exact", **changes):
    """Graded rows whose step labels say who made them."""
    rows = [row | {"step_label_source": source} | changes for row in graded_rows(problems, responses)]
    return write_rows(path, rows)


def with_random_head(folder, model):
    """A copy of a model with a value head that gives other numbers than zero."""
    copytree(model, folder)
    opened = loading.open_model(ModelSource.resolve(model), head="new_value")
    torch.nn.init.normal_(opened.score.weight, generator=torch.Generator().manual_seed(0))
    opened.save_pretrained(folder)
    return folder


def baseline(folder, model, rollouts, kind, data=None, model_options=None, **changes):
    trainer = {
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "max_steps": 3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    options = {
        "kind": kind,
        "model": {"name": str(model), **(model_options or {})},
        "data": {"train": str(rollouts), "steps": "newline", **(data or {})},
        "output_dir": str(folder),
        **changes,
    }
    options["trainer"] = trainer | changes.get("trainer", {})
    return from_mapping(BaselineConfig, options)
