"""Training: transformers' Trainer over prompts with all of their responses."""

from implicit_prm.training.batches import GroupDataset, GroupSampler, TrainingGroup
from implicit_prm.training.group_trainer import GroupTrainer
from implicit_prm.training.metrics import JsonLog, dev_metrics
from implicit_prm.training.trainer import ImplicitPRMTrainer

__all__ = [
    "GroupDataset",
    "GroupSampler",
    "GroupTrainer",
    "ImplicitPRMTrainer",
    "JsonLog",
    "TrainingGroup",
    "dev_metrics",
]
