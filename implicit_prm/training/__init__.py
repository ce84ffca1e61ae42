"""Training: transformers' Trainer over prompts with all of their responses, or over single responses.

Use `ImplicitPRMTrainer` with `ImplicitPRMConfig` from Python; `ipr-train` calls `run.fit`. Both prepare the model
and the data, and run `LogRatioTrainer`.
"""

from implicit_prm.training.batches import GroupDataset, GroupSampler, TrainingGroup
from implicit_prm.training.group_trainer import GroupTrainer
from implicit_prm.training.log_ratio_trainer import LogRatioTrainer
from implicit_prm.training.metrics import JsonLog, dev_metrics
from implicit_prm.training.prm_config import ImplicitPRMConfig
from implicit_prm.training.prm_trainer import ImplicitPRMTrainer

__all__ = [
    "GroupDataset",
    "GroupSampler",
    "GroupTrainer",
    "ImplicitPRMConfig",
    "ImplicitPRMTrainer",
    "JsonLog",
    "LogRatioTrainer",
    "TrainingGroup",
    "dev_metrics",
]
