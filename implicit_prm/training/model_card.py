"""The model card of a checkpoint: how it was trained, on what, how well it did, and how to use it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.utils import yaml_dump

from implicit_prm.models.checkpoint import ADAPTER_OFF, NONE, CheckpointMetadata
from implicit_prm.types import ImplicitPRMError
from implicit_prm.utils.io import atomic_write, write_json
from implicit_prm.utils.secrets import hide_secrets, without_secrets

RUN_FILE = "run.json"
_TEMPLATE = Path(__file__).with_name("model_card_template.md")
TAGS = ["implicit-prm", "process-reward-model", "reward-model"]


@dataclass
class Run:
    """The run that made a checkpoint, for its card and for run.json.

    Args:
        command: the command line, or None if the run was started from Python.
        config: all options; credentials in it and in the command are hidden.
        data: the lines of the data report of each set, `train` and `dev`.
        metrics: the final metrics; those of the dev set start with `eval_`.
        last_log: the last metrics that were logged during training.
    """

    command: str | None
    config: dict[str, Any]
    data: dict[str, list[str]]
    metrics: dict[str, float] = field(default_factory=dict)
    last_log: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.config = without_secrets(self.config)
        self.command = None if self.command is None else hide_secrets(self.command)

    @classmethod
    def read(cls, folder: Path) -> Run | None:
        """Read a checkpoint's run.json; None if there is none.

        Raises:
            ImplicitPRMError: the file is damaged.
        """
        path = folder / RUN_FILE
        if not path.exists():
            return None
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError, RecursionError) as error:
            raise ImplicitPRMError(f"{path} is damaged ({error}); delete it to continue without") from None

    def write(self, folder: str | Path) -> None:
        """Write run.json into a run's output folder."""
        write_json(Path(folder) / RUN_FILE, asdict(self))


def write(folder: str | Path, metadata: CheckpointMetadata, run: Run, name: str, merged: bool = False) -> None:
    """Write README.md and run.json into a checkpoint's folder. `name` is the id or path that users will open."""
    run.write(folder)
    with atomic_write(Path(folder) / "README.md") as stream:
        stream.write(render(metadata, run, name, merged).encode())


def render(metadata: CheckpointMetadata, run: Run, name: str, merged: bool = False) -> str:
    """The card's text, with its YAML front matter."""
    train = {key: value for key, value in run.metrics.items() if not key.startswith("eval_")}
    train |= {f"{key} (last log)": value for key, value in run.last_log.items()}
    dev = {key.removeprefix("eval_"): value for key, value in run.metrics.items() if key.startswith("eval_")}
    card = ModelCard.from_template(
        _card_data(metadata),
        template_path=str(_TEMPLATE),
        title=Path(name).name,
        example=example(metadata, name),
        facts=_facts(metadata, merged),
        command=run.command,
        data=_data(metadata, run),
        train_metrics=train,
        dev_metrics=dev,
        options=yaml_dump(run.config, sort_keys=False).strip(),
        versions=metadata.versions,
        package_version=version("implicit-prm"),
    )
    return f"{card.content}\n"


def example(metadata: CheckpointMetadata, name: str) -> str:
    """Python code that opens the model and scores two responses."""
    rule = metadata.text.steps
    steps = [["4 * 2 = 8", "3 + 8 = 11"], ["3 + 4 = 7", "7 * 2 = 14"]]
    if rule == "step_marker":
        steps = [[f"Step {number}: {step}" for number, step in enumerate(one, 1)] for one in steps]
    texts = [("\n\n" if rule == "blank_line" else "\n").join(one) for one in steps]
    given = f", given_steps={json.dumps(steps)}" if rule == "given" else ""
    return "\n".join(
        [
            "from implicit_prm import ImplicitPRM",
            "",
            f"prm = ImplicitPRM.from_pretrained({json.dumps(name)})",
            f"responses = {json.dumps(texts)}",
            f'for score in prm.rerank("3 + 4 * 2", responses{given}):',
            "    print(score.index, score.step_rewards)  # best first, by the lowest step",
        ]
    )


def _card_data(metadata: CheckpointMetadata) -> ModelCardData:
    """The front matter. Base models and license are linked only if the hub has them."""
    adapter = metadata.base is not None
    bases = [name for name in (metadata.base, metadata.start) if _on_hub(name)]
    data = ModelCardData(
        base_model=bases[0] if bases else None,
        library_name="peft" if adapter else "transformers",
        tags=TAGS,
    )
    for key, value in _license(metadata.start).items():
        data[key] = value
    if bases:
        data["base_model_relation"] = "adapter" if adapter else "finetune"
    return data


def _license(name: str | None) -> dict[str, str]:
    """The license of the starting model, which also applies to models trained from it; empty if unknown."""
    if name is None or not (_on_hub(name) or Path(name, "README.md").is_file()):
        return {}
    try:
        found = ModelCard.load(name if _on_hub(name) else Path(name, "README.md")).data.to_dict()
    except Exception:  # no card, no network, no access, invalid YAML: the license stays unknown
        return {}
    keys = ("license", "license_name", "license_link")
    return {key: value for key in keys if isinstance(value := found.get(key), str)}


def _facts(metadata: CheckpointMetadata, merged: bool) -> dict[str, str]:
    loss = {key: value for key, value in metadata.loss.items() if key != "name"}
    reference = {ADAPTER_OFF: "the base model (the adapter switched off)", NONE: "none: the score is beta * log pi"}
    facts = {
        "start": _named(metadata.start, metadata.start_revision),
        "loss": f"`{metadata.loss.get('name')}`" + "".join(f", {key} {value}" for key, value in loss.items()),
        "beta": str(metadata.beta),
        "reference": reference.get(metadata.reference) or _named(metadata.reference, metadata.reference_revision),
        "steps": f"`{metadata.text.steps}`",
    }
    if metadata.base is not None:
        facts["base of the adapter"] = _named(metadata.base, metadata.base_revision)
    if metadata.lora is not None:
        facts["LoRA"] = ", ".join(f"{key} {value}" for key, value in metadata.lora.items())
        facts["LoRA"] += "; merged into the base afterwards" if merged else ""
    if metadata.quantization is not None:
        facts["quantization of the base"] = f"{metadata.quantization} (bitsandbytes)"
    return facts


def _data(metadata: CheckpointMetadata, run: Run) -> list[str]:
    options = run.config.get("data", {})
    held_out = f"{options.get('hold_out_prompts')} prompts held out of the same"
    sources = {
        "train": _named(options.get("train"), options.get("revision")),
        "dev": _named(options["dev"], options.get("dev_revision")) if options.get("dev") else held_out,
    }
    lines = [f"{part}: {line}" for part, report in run.data.items() for line in (sources[part], *report)]
    return [*lines, f"fingerprint of the training responses: `{metadata.data_fingerprint}`"]


def _named(name: str | None, revision: str | None) -> str:
    return f"`{name}`" + (f" at `{revision}`" if revision else "")


def _on_hub(name: str | None) -> bool:
    return name is not None and name != "sandbox" and not name.startswith(("/", ".")) and not Path(name).is_absolute()
