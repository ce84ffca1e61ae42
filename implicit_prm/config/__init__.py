"""Options of every command as typed dataclasses.

A default is written once, in the dataclass; the YAML files under `configs/` repeat it with a comment, and a test
compares the two. `from_mapping` builds a dataclass from plain dicts and refuses unknown keys and wrong types; its
`validate` refuses combinations that cannot work. Both happen before any model is loaded.
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
from implicit_prm.config.checkpoint import CheckpointConfig
from implicit_prm.config.estimation import EstimateConfig
from implicit_prm.config.evaluation import (
    CROSS_FIT,
    Aggregate,
    BestOfNConfig,
    Hard2VerifyConfig,
    Over,
    PRMBenchConfig,
    ProcessBenchConfig,
    RerankConfig,
    RewriteName,
    ScorerConfig,
    ShiftConfig,
    StepBenchmarkConfig,
)
from implicit_prm.config.grading import Extraction, GradingConfig
from implicit_prm.config.mapping import convert, from_mapping
from implicit_prm.config.models import (
    Dtype,
    LanguageModelConfig,
    LoraConfig,
    MergeConfig,
    ModelConfig,
    Quantization,
    StepRule,
    TextConfig,
)
from implicit_prm.config.rl import ExactRewards, ImplicitRewards, NoRewards, RLConfig
from implicit_prm.config.rollouts import PolicyConfig, ProblemsConfig, RolloutConfig, SamplingConfig, ServerConfig
from implicit_prm.config.scoring import ScoreConfig
from implicit_prm.config.search import (
    BeamConfig,
    BestOfNSearchConfig,
    CheckpointGuide,
    DVTSConfig,
    ExactGuide,
    ParticlesConfig,
    RebaseConfig,
    SearchConfig,
    TokensConfig,
)
from implicit_prm.config.serving import ServeConfig
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
    "BeamConfig",
    "BestOfNConfig",
    "BestOfNSearchConfig",
    "CEConfig",
    "CacheConfig",
    "CheckpointConfig",
    "CheckpointGuide",
    "DPOConfig",
    "DVTSConfig",
    "DataConfig",
    "Dtype",
    "EstimateConfig",
    "ExactConfig",
    "ExactGuide",
    "ExactRewards",
    "Extraction",
    "GradingConfig",
    "Hard2VerifyConfig",
    "ImplicitRewards",
    "KTOConfig",
    "LabelConfig",
    "LabelUse",
    "LanguageModelConfig",
    "LoraConfig",
    "LossConfig",
    "MathShepherdConfig",
    "MergeConfig",
    "ModelConfig",
    "NCAConfig",
    "NoRewards",
    "Over",
    "PRMBenchConfig",
    "ParticlesConfig",
    "PolicyConfig",
    "PrefixConfig",
    "ProblemsConfig",
    "ProcessBenchConfig",
    "Quantization",
    "RLConfig",
    "RebaseConfig",
    "RerankConfig",
    "RewriteName",
    "RolloutConfig",
    "SamplingConfig",
    "ScoreConfig",
    "ScorerConfig",
    "SearchConfig",
    "ServeConfig",
    "ServerConfig",
    "ShiftConfig",
    "StepBenchmarkConfig",
    "StepRule",
    "StepTokens",
    "StepsConfig",
    "TextConfig",
    "TokensConfig",
    "TrainConfig",
    "convert",
    "from_mapping",
]
