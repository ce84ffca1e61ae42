"""`ipr-label method=math_shepherd|autopsv|exact input=FILE output=FILE`: label the steps of graded responses."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from implicit_prm.cli.command import configs, run
from implicit_prm.config import AutoPSVConfig, ExactConfig, LabelConfig, MathShepherdConfig

# Chosen by the Hydra group `method`, whose files write their own name.
METHODS: dict[str, type[LabelConfig]] = {
    "math_shepherd": MathShepherdConfig,
    "autopsv": AutoPSVConfig,
    "exact": ExactConfig,
}


def _label(config: LabelConfig) -> None:
    from implicit_prm.baselines.labels.run import label

    label(config)


@hydra.main(version_base="1.3", config_path=configs(), config_name="label")
def main(tree: DictConfig) -> None:
    run("ipr-label", METHODS[tree.method], tree, _label)


if __name__ == "__main__":
    main()
