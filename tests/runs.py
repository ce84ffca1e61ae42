"""A short training run on the CPU, and what it leaves behind."""

import json

from transformers import AutoModelForCausalLM

from implicit_prm.config import TrainConfig, from_mapping

LOSSES = {
    "dpo": {"name": "dpo"},
    "dpo one to one": {"name": "dpo", "pairing": "one_to_one"},
    "nca": {"name": "nca"},
    "nca group": {"name": "nca", "form": "group"},
    "kto": {"name": "kto"},
    "kto paired": {"name": "kto", "form": "paired"},
    "ce": {"name": "ce"},
}


def config(folder, model, rollouts, loss="ce", data=None, model_options=None, **trainer):
    defaults = {
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "max_steps": 3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return from_mapping(
        TrainConfig,
        {
            "model": {"name": str(model), "beta": 0.5, **(model_options or {})},
            "data": {"train": str(rollouts), "steps": "newline", **(data or {})},
            "loss": LOSSES[loss],
            "output_dir": str(folder),
            "trainer": defaults | trainer,
        },
    )


def quiet(*_):
    pass


def log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()
