"""`--help` of every command, read from its YAML files."""

import subprocess
import sys
import time
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from implicit_prm.cli.command import configs
from implicit_prm.cli.help import file_comments, header, help_text

COMMANDS = sorted(path.stem for path in Path(configs()).glob("*.yaml"))
GROUPS = {
    "train": ["loss", "model", "data", "trainer", "experiment", "estimate"],
    "baseline": ["model", "data", "trainer"],
    "rollout": ["policy", "problems", "sampling"],
    "label": ["method", "policy", "sampling"],
    "eval": ["task"],
    "score": [],
    "cache": [],
    "merge": [],
    "rl": ["policy", "problems", "prm", "grpo", "arm", "experiment/rl"],
    "serve": [],
    "search": ["algorithm", "guide", "policy", "problems", "sampling"],
}


def groups_of(text):
    lines = text.splitlines()
    start = next((place for place, line in enumerate(lines) if line.startswith("Groups")), None)
    if start is None:
        return []
    block = lines[start + 1 : lines.index("", start)]
    return [line.split()[0] for line in block if not line.startswith("    ")]


def test_every_console_script_is_a_command():
    scripts = [one.name for one in entry_points(group="console_scripts") if one.name.startswith("ipr-")]
    assert sorted(scripts) == [f"ipr-{name}" for name in COMMANDS] == sorted(f"ipr-{name}" for name in GROUPS)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command(command):
    text = help_text(Path(configs()), command, [])
    lines = text.splitlines()
    assert lines[0].startswith(f"ipr-{command}: ")
    assert [line.split()[0] for line in lines[3:6]] == [f"ipr-{command}"] * 3
    assert sorted(groups_of(text)) == sorted(GROUPS[command])
    assert "hydra." not in text.partition("Options")[2].replace("hydra-help", "")


def test_the_help_shows_the_options_that_are_chosen():
    text = help_text(Path(configs()), "train", ["loss=kto", "model=hub"])
    assert "loss.desirable_weight=1.0" in text
    assert "kto*" in text
    assert "model.name=???" in text
    assert "loss.balance" not in text


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_is_quick_and_loads_no_torch(command, tmp_path):
    code = (
        f"import sys; sys.argv = ['ipr-{command}', '--help']\n"
        f"from implicit_prm.cli.{command} import main; main(); print('torch' in sys.modules)"
    )
    started = time.perf_counter()
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"ipr-{command}: ")
    assert result.stdout.splitlines()[-1] == "False"
    assert time.perf_counter() - started < 5  # 0.5 s on an idle machine
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "path", sorted(Path(configs()).rglob("*.yaml")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_every_option_has_a_comment(path):
    if path.parent.name == "accelerate":
        assert path.read_text().startswith("#")
        return
    assert header(path)[0]
    sections = ("defaults", "hydra", "rollout", "model", "trainer", "loss", "data", "estimate", "grpo", "prm", "policy")
    for name, comment in file_comments(path, "").items():
        first = name.split(".")[0]
        assert comment or first in ("defaults", "hydra") or name in sections or first == "rollout", name
