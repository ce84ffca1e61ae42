"""A run of PrimeTrainer on given responses, in any number of processes. Writes what it logs and all weights.

python -m tests.rl.fixed_rollouts OUTPUT PRM REFERENCE PER_DEVICE_BATCH_SIZE
"""

import json
import sys
from pathlib import Path

import torch
from datasets import Dataset

from implicit_prm import ImplicitPRM, sandbox
from implicit_prm.rl import PrimeConfig, PrimeTrainer
from tests.conftest import graded_rows
from tests.rl.grpo import accuracy, options

K = 4  # responses to a prompt


def rollouts(given, tokenizer):
    """TRL's rollout_func: the k-th response to a prompt, for the k-th of its rows in all processes together."""

    def sample(prompts, trainer):
        first = trainer.accelerator.process_index * len(prompts)
        sampled = {"prompt_ids": [], "completion_ids": [], "logprobs": None}
        for place, prompt in enumerate(prompts, first):
            text = given[prompt[0]["content"]][place % K]
            chat = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
            sampled["prompt_ids"].append(tokenizer(chat, add_special_tokens=False)["input_ids"])
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            sampled["completion_ids"].append([*ids, tokenizer.eos_token_id])
        return sampled

    return sample


def main(output, folder, reference, batch_size):
    prm = ImplicitPRM.from_pretrained(folder, reference=reference, beta=0.5, steps="newline", device="cpu")
    data = graded_rows(8, K)
    rows = [{"prompt": [{"role": "user", "content": row["prompt"]}], "answer": row["answer"]} for row in data]
    changes = {
        **{"per_device_train_batch_size": int(batch_size), "max_steps": 3, "process_scale": "batch_std"},
        **{"prm_update": "after", "prm_loss": "prefix", "prm_offset": "prompt_accuracy", "prm_class_weight": "rare"},
        **{"prm_reference": "behaviour", "prm_learning_rate": 1e-3, "whiten": True},
    }
    trainer = PrimeTrainer(
        str(sandbox.POLICY_PATH),
        accuracy,
        PrimeConfig(**options(output, **changes)),
        train_dataset=Dataset.from_list(rows),
        prm=prm,
        rollout_func=rollouts({row["prompt"]: row["completions"] for row in data}, prm.tokenizer),
    )
    trainer.train()
    if trainer.accelerator.is_main_process:
        policy = trainer.accelerator.unwrap_model(trainer.model)
        torch.save([policy.state_dict(), prm.policy.state_dict()], Path(output) / "weights.pt")
        (Path(output) / "log.json").write_text(json.dumps([row for row in trainer.state.log_history if "loss" in row]))


if __name__ == "__main__":
    main(*sys.argv[1:])
