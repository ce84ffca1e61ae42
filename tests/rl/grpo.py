"""Short runs of TRL's GRPO on the CPU, with the sandbox's policy and an exact outcome reward."""

import re

from datasets import Dataset

from implicit_prm import sandbox


def accuracy(completions, answer, **_):
    """1 for a correct boxed answer, else 0."""
    texts = [completion[0]["content"] for completion in completions]
    boxes = [re.findall(r"\\boxed\{(\d+)\}", text) for text in texts]
    return [float(found[-1:] == [right]) for found, right in zip(boxes, answer, strict=True)]


def dataset(problems=8, split="train"):
    return Dataset.from_list(
        [
            {"prompt": [{"role": "user", "content": problem.text}], "answer": problem.answer}
            for problem in sandbox.problems(split, problems)
        ]
    )


def options(folder, **changes):
    """Arguments of a run: two prompts with four responses each to a step."""
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 40,
        "learning_rate": 1e-4,
        "max_steps": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        **changes,
    }


def prime(folder, reward_funcs=accuracy, prm=None, model=None, step_checker=None, data=None, **changes):
    """A PrimeTrainer of the sandbox's policy, and the advantages of its training batches as they are made."""
    from implicit_prm.rl import PrimeConfig, PrimeTrainer

    seen = []

    class Watched(PrimeTrainer):
        def _generate_and_score_completions(self, inputs):
            output = super()._generate_and_score_completions(inputs)
            seen.append(output)
            return output

    trainer = Watched(
        model or str(sandbox.POLICY_PATH),
        reward_funcs,
        PrimeConfig(**options(folder, **changes)),
        train_dataset=data or dataset(),
        prm=prm,
        step_checker=step_checker,
    )
    return trainer, seen


def rows(output):
    """The prompt's and the response's ids, and the advantages, of each rollout of a batch."""
    columns = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages")
    for prompt, prompt_mask, ids, mask, advantages in zip(*(output[name] for name in columns), strict=True):
        yield prompt[prompt_mask.bool()].tolist(), ids[mask.bool()].tolist(), advantages
