"""Every `ipr-` command in the documentation composes: its groups, options and values exist."""

import re
import shlex

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from implicit_prm.cli.eval import TASKS
from implicit_prm.cli.label import METHODS
from implicit_prm.config import (
    BaselineConfig,
    CacheConfig,
    MergeConfig,
    RLConfig,
    RolloutConfig,
    ScoreConfig,
    SearchConfig,
    ServeConfig,
    TrainConfig,
    from_mapping,
)
from tests.docs.pages import PAGES, ROOT, blocks, name

CONFIGS = {
    **{
        "train": TrainConfig,
        "rollout": RolloutConfig,
        "baseline": BaselineConfig,
        "cache": CacheConfig,
        "rl": RLConfig,
        "serve": ServeConfig,
        "score": ScoreConfig,
        "search": SearchConfig,
    },
    **{"merge": MergeConfig, **{task: options for task, (options, _) in TASKS.items()}, **METHODS},
}
# Outside of a run Hydra cannot name the output after the groups; and a command in a text may be a part of one.
OUTPUT = {
    **{"train": "output_dir", "rl": "output_dir", "baseline": "output_dir"},
    **{"rollout": "output", "label": "output", "search": "output"},
}
COMMAND = re.compile(r"(?:^ipr-|-m implicit_prm\.cli\.)(\w+)(.*)")


def commands(page):
    """(command, overrides) of the lines of every `bash` block."""
    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            if found := COMMAND.search(line):
                words = shlex.split(found[2], comments=True)
                overrides = [word for word in words if "=" in word]
                partial = not {"...", "…"}.isdisjoint(words) and found[1] == "train" and "trainer=default" not in words
                yield found[1], ["trainer=default", *overrides] if partial else overrides


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_compose(page):
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        for command, overrides in commands(page):
            given = {override.split("=")[0].lstrip("+") for override in overrides}
            overrides += [f"{key}=x" for key in [OUTPUT.get(command)] if key and key not in given]
            if command == "eval" and not given & {"checkpoint", "scores_column"}:
                overrides.append("checkpoint=x")
            tree = compose(command, overrides)
            for key in OmegaConf.missing_keys(tree):
                OmegaConf.update(tree, key, "x")
            kind = {"eval": "task", "label": "method"}.get(command)
            values = OmegaConf.to_container(tree, resolve=True)
            from_mapping(CONFIGS[values[kind] if kind else command], values)
