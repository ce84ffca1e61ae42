"""Range checks of numeric options, and suggestions for option names that do not exist."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection
from typing import Any

from implicit_prm.types import ImplicitPRMError

# Names that users of related libraries try first, and what the option is called here.
_SYNONYMS = {
    "alpha": ("lora_alpha", "loraalpha"),
    "beta": ("kl_coef", "coefficient"),
    "checkpoint": ("model", "model_name", "model_path", "path", "prm"),
    "dev": ("eval", "eval_data", "eval_dataset", "test", "valid", "validation"),
    "dropout": ("lora_dropout",),
    "dtype": ("precision", "torch_dtype"),
    "gradient_accumulation_steps": ("accumulation", "accumulation_steps", "grad_accum", "gradient_accumulation"),
    "input": ("data", "dataset", "file", "rollouts"),
    "learning_rate": ("lr",),
    "limit": ("max_problems", "max_samples", "num_problems"),
    "max_new_tokens": ("length", "max_completion_length", "max_length", "max_tokens"),
    "n": ("completions", "num_generations", "num_responses", "num_return_sequences", "responses", "samples"),
    "name": ("id", "model", "model_id", "model_name", "model_name_or_path", "model_path", "path"),
    "num_train_epochs": ("epochs", "num_epochs"),
    "output": ("file", "out", "output_dir", "output_file", "output_path"),
    "output_dir": ("folder", "out", "output", "output_folder", "output_path", "save_dir"),
    "per_device_train_batch_size": ("batch_size", "bs", "train_batch_size"),
    "prompt_template": ("chat_template", "instruction", "prompt", "template"),
    "r": ("lora_r", "rank"),
    "reference": ("base_model", "ref", "ref_model", "reference_model"),
    "reference_cache": ("cache", "cache_dir", "cache_folder"),
    "system_prompt": ("system", "system_message"),
    "train": ("dataset", "dataset_name", "file", "path", "train_data", "train_dataset", "train_file"),
    "warmup_steps": ("warmup", "warmup_ratio"),
}


def check_range(
    config: Any,
    *keys: str,
    where: str = "",
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> None:
    """Check that options are finite and inside a range. An option that is None is not set, and is not checked.

    Args:
        config: The dataclass that holds the options.
        keys: Names of its fields.
        where: Prefix of the names in the error, such as `model.`.
        at_least: Lowest valid value.
        above: The value must be greater.
        at_most: Highest valid value.
        below: The value must be smaller.

    Raises:
        ImplicitPRMError: An option is outside the range, infinite or NaN.
    """
    bounds = {"at least": at_least, "above": above, "at most": at_most, "below": below}
    expected = " and ".join(f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None)
    for key in keys:
        value = getattr(config, key)
        if value is None:
            continue
        inside = (
            math.isfinite(value)
            and (at_least is None or value >= at_least)
            and (above is None or value > above)
            and (at_most is None or value <= at_most)
            and (below is None or value < below)
        )
        if not inside:
            raise ImplicitPRMError(f"{where}{key} is {value}; it must be {expected or 'finite'}")


def similar_option(name: str, known: Collection[str]) -> str | None:
    """The option that `name` most likely means: a known synonym, else the closest spelling, else None."""
    for option, synonyms in _SYNONYMS.items():
        if option in known and name.lower() in synonyms:
            return option
    return next(iter(difflib.get_close_matches(name, known, n=1)), None)
