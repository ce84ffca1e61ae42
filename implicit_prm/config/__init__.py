"""The options of every command as typed dataclasses; the YAML files under `configs/` give their values and comments.

`from_mapping` builds one from plain dicts and refuses unknown keys and wrong types by name; `validate` refuses
combinations that cannot work. Both happen before any model is loaded.
"""

from implicit_prm.config.baselines import (
    AutoPSVConfig,
    BackboneConfig,
    BaselineConfig,
    BaselineKind,
    ExactConfig,
    LabelConfig,
    LabelUse,
    MathShepherdConfig,
    StepTokens,
)
from implicit_prm.config.cache import CacheConfig
from implicit_prm.config.estimation import EstimateConfig
from implicit_prm.config.evaluation import CROSS_FIT, Aggregate, BestOfNConfig, ProcessBenchConfig, ScorerConfig
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
from implicit_prm.config.rollouts import ProblemsConfig, RolloutConfig, SamplingConfig, ServerConfig
from implicit_prm.config.training import (
    CEConfig,
    DataConfig,
    DPOConfig,
    KTOConfig,
    LossConfig,
    NCAConfig,
    PrefixConfig,
    StepsConfig,
    TrainConfig,
)

__all__ = [
    "CROSS_FIT",
    "Aggregate",
    "AutoPSVConfig",
    "BackboneConfig",
    "BaselineConfig",
    "BaselineKind",
    "BestOfNConfig",
    "CEConfig",
    "CacheConfig",
    "DPOConfig",
    "DataConfig",
    "Dtype",
    "EstimateConfig",
    "ExactConfig",
    "KTOConfig",
    "LabelConfig",
    "LabelUse",
    "LoraConfig",
    "LossConfig",
    "MathShepherdConfig",
    "MergeConfig",
    "ModelConfig",
    "NCAConfig",
    "PolicyConfig",
    "PrefixConfig",
    "ProblemsConfig",
    "ProcessBenchConfig",
    "Quantization",
    "RolloutConfig",
    "SamplingConfig",
    "ScorerConfig",
    "ServerConfig",
    "StepRule",
    "StepTokens",
    "StepsConfig",
    "TextConfig",
    "TrainConfig",
    "convert",
    "from_mapping",
]
