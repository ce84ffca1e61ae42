"""The options of every command as typed dataclasses; the YAML files under `configs/` give their values and comments.

`from_mapping` builds one from plain dicts and refuses unknown keys and wrong types by name; `validate` refuses
combinations that cannot work. Both happen before any model is loaded.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from implicit_prm.records import ImplicitPRMError

T = TypeVar("T")
StepRule = Literal["blank_line", "newline", "step_marker", "given"]
Aggregate = Literal["min", "max", "last", "mean", "sum", "product"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]


def _at_least(config: Any, minimum: float, *keys: str, where: str = "") -> None:
    """Refuse options below `minimum` (and NaN); None means not set."""
    for key in keys:
        value = getattr(config, key)
        if value is not None and not value >= minimum:
            raise ImplicitPRMError(f"{where}{key} is {value}; it must be at least {minimum}")


@dataclass
class DPOConfig:
    name: Literal["dpo"] = "dpo"
    pairing: Literal["all", "one_to_one"] = "all"

    needs_pairs = True


@dataclass
class NCAConfig:
    name: Literal["nca"] = "nca"
    form: Literal["pair", "group"] = "pair"
    pairing: Literal["all", "one_to_one"] = "all"

    needs_pairs = True

    def validate(self) -> None:
        if self.form == "group" and self.pairing != "all":
            raise ImplicitPRMError(
                "loss.pairing has no meaning for loss.form=group, which forms no pairs; leave it out"
            )


@dataclass
class KTOConfig:
    name: Literal["kto"] = "kto"
    form: Literal["unpaired", "paired"] = "unpaired"
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0

    @property
    def needs_pairs(self) -> bool:
        return self.form == "paired"

    def validate(self) -> None:
        for key in ("desirable_weight", "undesirable_weight"):
            if getattr(self, key) <= 0:
                raise ImplicitPRMError(f"loss.{key} is {getattr(self, key)}; it must be above zero")


@dataclass
class CEConfig:
    name: Literal["ce"] = "ce"
    balance: Literal["none", "dataset", "prompt"] = "none"

    needs_pairs = False


LossConfig = DPOConfig | NCAConfig | KTOConfig | CEConfig


@dataclass
class LoraConfig:
    r: int = 16
    alpha: int = 32
    dropout: float = 0.0
    target_modules: str | list[str] = "all-linear"

    def validate(self) -> None:
        _at_least(self, 1, "r", "alpha", where="model.lora.")


@dataclass
class PolicyConfig:
    """Which language model to open, and how."""

    name: str
    revision: str | None = None
    dtype: Dtype = "float32"
    attn_implementation: str | None = None
    trust_remote_code: bool = False


@dataclass
class ModelConfig(PolicyConfig):
    """The model that becomes the reward: where it starts, what it is compared with, and beta."""

    beta: float = 0.05
    reference: str = "initial"
    reference_revision: str | None = None
    lora: LoraConfig | None = None

    def validate(self) -> None:
        if not self.beta > 0:
            raise ImplicitPRMError(f"model.beta is {self.beta}; the reward is beta x log-ratio and needs beta above 0")
        if self.reference_revision and self.reference in ("initial", "none"):
            raise ImplicitPRMError(
                f"model.reference_revision={self.reference_revision} is set but model.reference={self.reference} opens "
                "no second model; name one in model.reference, or drop the revision"
            )


@dataclass
class TextConfig:
    """How a problem becomes a prompt and a response becomes steps; travels with the checkpoint."""

    steps: StepRule = "blank_line"
    prompt_template: str = "{problem}"
    system_prompt: str | None = None
    max_length: int | None = None

    def validate(self) -> None:
        _at_least(self, 1, "max_length")
        if "{problem}" not in self.prompt_template:
            raise ImplicitPRMError("prompt_template must contain {problem}, where the problem's text goes")


@dataclass
class DataConfig(TextConfig):
    """Graded responses to train on."""

    train: str = ""
    train_split: str = "train"
    dev: str | None = None
    dev_split: str = "train"
    revision: str | None = None
    hold_out_prompts: int = 0
    max_prompts: int | None = None
    max_responses: int | None = None
    too_long: Literal["error", "drop"] = "error"

    def validate(self) -> None:
        super().validate()
        _at_least(self, 1, "max_prompts", "max_responses", where="data.")
        _at_least(self, 0, "hold_out_prompts", where="data.")
        if not self.train:
            raise ImplicitPRMError("data.train is empty; name a file of graded responses (ipr-rollout writes one)")
        if self.dev and self.hold_out_prompts:
            raise ImplicitPRMError("data.dev and data.hold_out_prompts both name a dev set; keep one of them")


@dataclass
class TrainConfig:
    model: ModelConfig
    data: DataConfig
    loss: LossConfig
    output_dir: str
    trainer: dict[str, Any] = field(default_factory=dict)
    overwrite: bool = False

    def validate(self) -> None:
        if self.trainer.get("output_dir"):
            raise ImplicitPRMError("set output_dir at the top level, not trainer.output_dir")
        wants_eval = str(self.trainer.get("eval_strategy", "no")) != "no"
        if wants_eval and not (self.data.dev or self.data.hold_out_prompts):
            raise ImplicitPRMError(
                f"trainer.eval_strategy={self.trainer['eval_strategy']} needs a dev set; give data.dev=FILE or "
                "data.hold_out_prompts=50, or set trainer.eval_strategy=no"
            )
        if self.loss.name == "kto" and self.loss.form == "unpaired" and self.data.max_prompts == 1:
            raise ImplicitPRMError("loss=kto needs at least two prompts: its KL is estimated on mismatched pairs")


@dataclass
class ProblemsConfig:
    """Problems with known answers to sample responses for."""

    name: str
    split: str = "test"
    revision: str | None = None
    limit: int | None = None
    prompt_template: str = "{problem}"
    system_prompt: str | None = None

    def validate(self) -> None:
        _at_least(self, 1, "limit", where="problems.")


@dataclass
class SamplingConfig:
    n: int = 8
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 1024
    batch_size: int = 8
    seed: int = 0

    def validate(self) -> None:
        _at_least(self, 1, "n", "max_new_tokens", "batch_size", where="sampling.")
        if self.temperature <= 0:
            raise ImplicitPRMError(
                f"sampling.temperature is {self.temperature}; it must be above 0: n equal responses teach nothing"
            )
        if not 0 < self.top_p <= 1:
            raise ImplicitPRMError(f"sampling.top_p is {self.top_p}; it must be in (0, 1]")


@dataclass
class RolloutConfig:
    policy: PolicyConfig
    problems: ProblemsConfig
    sampling: SamplingConfig
    output: str


@dataclass
class EvalConfig:
    rollout: RolloutConfig
    output_dir: str | None = None
    checkpoint: str | None = None
    candidates: str | None = None
    scores_column: str | None = None
    scores_kind: Literal["probability", "log_ratio"] = "probability"
    reference: str | None = None
    beta: float | None = None
    revision: str | None = None
    dtype: Dtype = "float32"
    trust_remote_code: bool = False
    steps: StepRule | None = None
    prompt_template: str | None = None
    aggregate: Aggregate = "min"
    over: Literal["step", "prefix"] = "step"
    batch_size: int = 16
    max_problems: int | None = None
    max_responses: int | None = None
    too_long: Literal["error", "lowest"] = "error"
    unanswered: Literal["as_scored", "lowest"] = "as_scored"
    ties: Literal["first", "shared"] = "first"
    vote_draws: int = 1000
    bootstrap_resamples: int = 10_000
    seed: int = 0

    @property
    def folder(self) -> str:
        """Where the results go: `output_dir`, or the folder eval inside the checkpoint."""
        return self.output_dir or f"{self.checkpoint}/eval"

    def validate(self) -> None:
        if self.scores_column is None and self.checkpoint is None:
            raise ImplicitPRMError(
                "nothing to score with: give checkpoint=FOLDER (what ipr-train wrote), or scores_column=NAME to "
                "evaluate step scores that are already in the candidates"
            )
        if self.scores_column is not None:
            if self.candidates is None:
                raise ImplicitPRMError("scores_column names a column of a file; give candidates=FILE too")
            for key in ("checkpoint", "reference", "beta", "steps", "prompt_template"):
                if getattr(self, key) is not None:
                    raise ImplicitPRMError(
                        f"{key} is not used when scores come from the file; drop it or scores_column"
                    )
            if self.over == "prefix" and self.scores_kind == "probability":
                raise ImplicitPRMError("scores that are probabilities have no prefix values; set over=step")
        if self.output_dir is None and self.checkpoint is None:
            raise ImplicitPRMError(
                "output_dir is empty; name the folder for metrics.json, scores.parquet and the figure"
            )
        if self.beta is not None and not self.beta > 0:
            raise ImplicitPRMError(f"beta is {self.beta}; it must be above 0, or the ranking is reversed")
        _at_least(self, 1, "batch_size", "vote_draws", "bootstrap_resamples", "max_problems", "max_responses")


def from_mapping(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Build dataclass `cls` from nested dicts, strictly.

    Raises:
        ImplicitPRMError: an unknown key (with the nearest known one), a missing key, a wrong type, or whatever
            `validate` of the class or of a nested one finds unsound. The message starts with the key's full name.
    """
    hints = get_type_hints(cls)
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {where}{near[0]}?" if near else f"known keys: {', '.join(known)}"
            raise ImplicitPRMError(f"{where}{key}: unknown option; {hint}")
    built = {}
    for name, spec in known.items():
        if name in values:
            built[name] = convert(hints[name], values[name], f"{where}{name}")
        elif spec.default is MISSING and spec.default_factory is MISSING:
            raise ImplicitPRMError(f"{where}{name}: missing; it has no default and must be given")
    result = cls(**built)
    if hasattr(result, "validate"):
        result.validate()
    return result


def convert(hint: Any, value: Any, where: str) -> Any:
    """`value` as the type that `hint` names; raises ImplicitPRMError that starts with `where` if it is another."""
    if hint is Any:
        return value
    origin, options = get_origin(hint), get_args(hint)
    if origin is Literal:
        if value not in options:
            raise ImplicitPRMError(f"{where}={value}: choose one of {', '.join(map(str, options))}")
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(options, value, where)
    if is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ImplicitPRMError(f"{where}={value!r}: expected a group of options, not a single value")
        return from_mapping(hint, value, f"{where}.")  # type: ignore[arg-type]
    if origin is list:
        if not isinstance(value, list):
            raise ImplicitPRMError(f"{where}={value!r}: expected a list")
        return [convert(options[0], item, f"{where}[{place}]") for place, item in enumerate(value)]
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ImplicitPRMError(f"{where}={value!r}: expected a group of options, not a single value")
        return dict(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ImplicitPRMError(f"{where}={value!r}: expected {_name(hint)}, got {type(value).__name__}")
    return value


def _convert_union(options: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in options:
        return None
    candidates = [option for option in options if option is not type(None)]
    if len(candidates) == 1:
        return convert(candidates[0], value, where)
    if all(map(is_dataclass, candidates)):  # the losses: told apart by their name
        if not isinstance(value, Mapping):
            raise ImplicitPRMError(f"{where}={value!r}: expected a group of options, not a single value")
        by_name: dict[str, Any] = {option().name: option for option in candidates}
        name = value.get("name")
        if not isinstance(name, str) or name not in by_name:
            raise ImplicitPRMError(f"{where}.name={name}: choose one of {', '.join(sorted(by_name))}")
        return from_mapping(by_name[name], value, f"{where}.")
    for option in candidates:
        try:
            return convert(option, value, where)
        except ImplicitPRMError:
            continue
    raise ImplicitPRMError(f"{where}={value!r}: expected {' or '.join(_name(option) for option in candidates)}")


def _name(hint: Any) -> str:
    return {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}.get(hint, str(hint))
