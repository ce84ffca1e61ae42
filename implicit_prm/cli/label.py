"""`ipr-label`: label the steps of graded responses."""

from __future__ import annotations

from omegaconf import DictConfig

from implicit_prm.cli.command import command, run
from implicit_prm.config import AutoPSVConfig, ExactConfig, LabelConfig, MathShepherdConfig

# By the Hydra group `method`.
METHODS: dict[str, type[LabelConfig]] = {
    "math_shepherd": MathShepherdConfig,
    "autopsv": AutoPSVConfig,
    "exact": ExactConfig,
}


def _label(config: LabelConfig) -> None:
    from implicit_prm.baselines.labels.run import label

    label(config)


@command("label")
def main(tree: DictConfig) -> None:
    run("ipr-label", METHODS[tree.method], tree, _label)


if __name__ == "__main__":
    main()
