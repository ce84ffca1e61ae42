"""The options of every command as typed dataclasses; the YAML files under `configs/` give their values and comments.

`from_mapping` builds one from plain dicts and refuses unknown keys and wrong types by name; `validate` refuses
combinations that cannot work. Both happen before any model is loaded.
"""

from implicit_prm.config.evaluation import Aggregate, EvalConfig
from implicit_prm.config.mapping import convert, from_mapping
from implicit_prm.config.models import (
    Dtype,
    LoraConfig,
    MergeConfig,
    ModelConfig,
    PolicyConfig,
    Quantization,
    StepRule,
    TextConfig,
)
from implicit_prm.config.rollouts import ProblemsConfig, RolloutConfig, SamplingConfig
from implicit_prm.config.training import CEConfig, DataConfig, DPOConfig, KTOConfig, LossConfig, NCAConfig, TrainConfig

__all__ = [
    "Aggregate",
    "CEConfig",
    "DPOConfig",
    "DataConfig",
    "Dtype",
    "EvalConfig",
    "KTOConfig",
    "LoraConfig",
    "LossConfig",
    "MergeConfig",
    "ModelConfig",
    "NCAConfig",
    "PolicyConfig",
    "ProblemsConfig",
    "Quantization",
    "RolloutConfig",
    "SamplingConfig",
    "StepRule",
    "TextConfig",
    "TrainConfig",
    "convert",
    "from_mapping",
]
