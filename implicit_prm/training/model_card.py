"""The model card of a checkpoint: how it was trained, on what, how well it did, and how to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.utils import yaml_dump

from implicit_prm.models.checkpoint import ADAPTER_OFF, NONE, Settings
from implicit_prm.types import ImplicitPRMError
from implicit_prm.utils.io import atomic_write, write_json

RUN_FILE = "run.json"
TAGS = ["implicit-prm", "process-reward-model", "reward-model"]


@dataclass
class Run:
    """What the card says beyond the settings; kept beside them as run.json."""

    command: str | None
    config: dict[str, Any]
    data: dict[str, list[str]]  # train, dev: what the report said of each
    metrics: dict[str, float] = field(default_factory=dict)
    last_log: dict[str, float] = field(default_factory=dict)  # the trainer's last log before the end

    @classmethod
    def read(cls, folder: Path) -> Run | None:
        """What a checkpoint's run.json says, None where there is none; raises ImplicitPRMError if it is damaged."""
        path = folder / RUN_FILE
        if not path.exists():
            return None
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise ImplicitPRMError(f"{path} is damaged ({error}); delete it to go on without") from None


def write(folder: str | Path, settings: Settings, run: Run, name: str, merged: bool = False) -> None:
    """Write README.md and run.json into a checkpoint's folder. `name` is where a reader will open it from."""
    write_json(Path(folder) / RUN_FILE, asdict(run))
    with atomic_write(Path(folder) / "README.md") as stream:
        stream.write(render(settings, run, name, merged).encode())


def render(settings: Settings, run: Run, name: str, merged: bool = False) -> str:
    """The card's text, its YAML front matter first."""
    sections = [
        f"---\n{_front_matter(settings)}\n---",
        f"# {Path(name).name}",
        "An implicit process reward model: r(y) = beta * log[pi(y|x) / pi_ref(y|x)], trained on whole responses that "
        "are right or wrong. Partial sums of the same log-ratio score every step "
        "([Yuan et al., 2024](https://arxiv.org/abs/2412.01981)). Made with `implicit-prm`.",
        "## Use",
        f"```python\n{example(settings, name)}\n```",
        "## Training",
        _table(_facts(settings, merged)),
        *([f"```bash\n{run.command}\n```"] if run.command else []),
        "## Data",
        _data(settings, run),
        "## Metrics",
        _metrics(run),
        "## All options",
        f"<details>\n\n```yaml\n{yaml_dump(run.config, sort_keys=False).strip()}\n```\n\n</details>",
        "## Versions",
        ", ".join(f"{package} {number}" for package, number in settings.versions.items()),
        "## Citation",
        f"```bibtex\n{_CITATION.replace('VERSION', version('implicit-prm'))}\n```",
    ]
    return "\n\n".join(sections) + "\n"


def example(settings: Settings, name: str) -> str:
    """A few lines of Python that open the model and score two responses."""
    rule = settings.text.steps
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


def _front_matter(settings: Settings) -> str:
    adapter = settings.base is not None
    bases = [one for one in (settings.base, settings.start) if _on_hub(one)]
    data = ModelCardData(
        base_model=bases[0] if bases else None,
        library_name="peft" if adapter else "transformers",
        tags=TAGS,
    )
    for key, value in _license(settings.start).items():
        data[key] = value
    if bases:
        data["base_model_relation"] = "adapter" if adapter else "finetune"
    return data.to_yaml()


def _license(name: str | None) -> dict[str, str]:
    """The starting model's, where its card says: what is trained from it is bound by it."""
    if name is None or not (_on_hub(name) or Path(name, "README.md").is_file()):
        return {}
    try:
        found = ModelCard.load(name if _on_hub(name) else Path(name, "README.md")).data.to_dict()
    except Exception:  # no card, no network, no YAML, no rights: not known, and no reason to stop
        return {}
    keys = ("license", "license_name", "license_link")
    return {key: value for key in keys if isinstance(value := found.get(key), str)}


def _facts(settings: Settings, merged: bool) -> dict[str, str]:
    loss = {key: value for key, value in settings.loss.items() if key != "name"}
    reference = {ADAPTER_OFF: "the base model (the adapter switched off)", NONE: "none: the score is beta * log pi"}
    facts = {
        "start": _named(settings.start, settings.start_revision),
        "loss": f"`{settings.loss.get('name')}`" + "".join(f", {key} {value}" for key, value in loss.items()),
        "beta": str(settings.beta),
        "reference": reference.get(settings.reference) or _named(settings.reference, settings.reference_revision),
        "steps": f"`{settings.text.steps}`",
    }
    if settings.base is not None:
        facts["base of the adapter"] = _named(settings.base, settings.base_revision)
    if settings.lora is not None:
        facts["LoRA"] = ", ".join(f"{key} {value}" for key, value in settings.lora.items())
        facts["LoRA"] += "; merged into the base afterwards" if merged else ""
    if settings.quantization is not None:
        facts["quantization of the base"] = f"{settings.quantization} (bitsandbytes)"
    return facts


def _data(settings: Settings, run: Run) -> str:
    options = run.config.get("data", {})
    held_out = f"{options.get('hold_out_prompts')} prompts held out of the same"
    sources = {
        "train": _named(options.get("train"), options.get("revision")),
        "dev": _named(options["dev"], options.get("revision")) if options.get("dev") else held_out,
    }
    lines = [f"{part}: {line}" for part, found in run.data.items() for line in (sources[part], *found)]
    lines.append(f"fingerprint of the training responses: `{settings.data_fingerprint}`")
    return "\n".join(f"* {line}" for line in lines)


def _metrics(run: Run) -> str:
    train = {key: value for key, value in run.metrics.items() if not key.startswith("eval_")}
    train |= {f"{key} (last log)": value for key, value in run.last_log.items()}
    dev = {key.removeprefix("eval_"): value for key, value in run.metrics.items() if key.startswith("eval_")}
    tables = [_table(train, "training")]
    tables += [_table(dev, "dev")] if dev else ["No dev set was measured."]
    return "\n\n".join(tables)


def _table(rows: Mapping[str, Any], title: str = "") -> str:
    shown = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in rows.items()}
    return "\n".join([f"| {title} | |", "|---|---|", *(f"| {key} | {value} |" for key, value in shown.items())])


def _named(name: str | None, revision: str | None) -> str:
    return f"`{name}`" + (f" at `{revision}`" if revision else "")


def _on_hub(name: str | None) -> bool:
    return name is not None and name != "sandbox" and not name.startswith(("/", ".")) and not Path(name).is_absolute()


_CITATION = r"""@article{yuan2024implicitprm,
  title   = {Free Process Rewards without Process Labels},
  author  = {Yuan, Lifan and Li, Wendi and Chen, Huayu and Cui, Ganqu and Ding, Ning and Zhang, Kaiyan and
             Zhou, Bowen and Liu, Zhiyuan and Peng, Hao},
  journal = {arXiv preprint arXiv:2412.01981},
  year    = {2024}
}

@software{implicit_prm,
  title   = {implicit-prm: process reward models without process labels},
  author  = {{The implicit-prm authors}},
  version = {VERSION},
  license = {Apache-2.0}
}"""
