"""A short training run on the CPU, and what it leaves behind."""

import json

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from implicit_prm import ImplicitPRM
from implicit_prm.config import TrainConfig, from_mapping

LOSSES = {
    "dpo": {"name": "dpo"},
    "dpo one to one": {"name": "dpo", "pairing": "one_to_one"},
    "nca": {"name": "nca"},
    "nca group": {"name": "nca", "form": "group"},
    "kto": {"name": "kto"},
    "kto by prompt": {"name": "kto", "batch_unit": "prompt"},
    "kto paired": {"name": "kto", "form": "paired"},
    "ce": {"name": "ce"},
    "ce by response": {"name": "ce", "batch_unit": "response"},
    "ce group mean": {"name": "ce", "offset": "group_mean"},
    "ce prompt accuracy": {"name": "ce", "offset": "prompt_accuracy"},
    "prefix": {"name": "prefix"},
    "steps": {"name": "steps"},
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


# Two epochs of 12 prompts with three checkpoints.
RESUMABLE = {
    **{"save_strategy": "steps", "save_steps": 2, "max_steps": 6},
    **{"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
}


def quiet(*_):
    pass


def log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def adapter(folder, base, seed=3, target_modules="all-linear", **options):
    """A LoRA that does something, saved in `folder`: its second factor, zero when new, is random."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=target_modules, **options))
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "lora_embedding_A" in name or "modules_to_save" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    return folder


PROBLEM = "Modulo 50, left to right: 12 + 7 * 3 + 4"
RESPONSES = ["12 + 7 = 19\n19 * 3 = 7\n7 + 4 = 11\n\\boxed{11}", "12 + 7 = 20\n20 * 3 = 10\n\\boxed{14}"]


def scores(folder, **options):
    """Step rewards and reference log-probabilities of two responses, by the checkpoint in `folder`."""
    prm = ImplicitPRM.from_pretrained(folder, device="cpu", **options)
    scored = prm.score(PROBLEM, RESPONSES)
    return [reward for one in scored for reward in one.step_rewards], [one.reference_logprob for one in scored]


def loglikelihood(folder):
    """Of the two responses, by a plain model."""
    prm = ImplicitPRM.from_pretrained(folder, reference="none", beta=1.0, steps="newline", device="cpu")
    return [one.outcome_reward for one in prm.score(PROBLEM, RESPONSES)]
