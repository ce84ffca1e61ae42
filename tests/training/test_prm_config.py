"""The trainer's arguments: the command's defaults, JSON, and the command line of a script."""

import json
from pathlib import Path

import pytest
import yaml
from transformers import HfArgumentParser

from implicit_prm import ImplicitPRMConfig
from implicit_prm.config import KTOConfig, TextConfig

YAML = Path(__file__).resolve().parents[2] / "configs" / "trainer" / "default.yaml"


def test_the_defaults_are_those_of_ipr_train(tmp_path):
    args = ImplicitPRMConfig(str(tmp_path))
    for name, value in yaml.safe_load(YAML.read_text(encoding="utf-8")).items():
        found = getattr(args, name)
        assert (getattr(found, "value", found) or "none") == (value or "none"), name
    assert args.text == TextConfig()


def test_loss_and_its_options_make_a_loss_config(tmp_path):
    args = ImplicitPRMConfig(str(tmp_path), loss="kto", loss_kwargs={"desirable_weight": 2.0})
    assert args.loss_config == KTOConfig(desirable_weight=2.0)


def test_the_command_line_and_json_of_a_script(tmp_path):
    line = ["--output_dir", str(tmp_path), "--loss", "kto", "--loss_kwargs", '{"desirable_weight": 2.0}', "--use_cpu"]
    line += ["--template_kwargs", '{"enable_thinking": false}']
    (args,) = HfArgumentParser(ImplicitPRMConfig).parse_args_into_dataclasses(line)
    assert args.loss_config == KTOConfig(desirable_weight=2.0)
    assert args.text.template_kwargs == {"enable_thinking": False}
    saved = json.loads(args.to_json_string())
    assert (saved["loss"], saved["loss_kwargs"], saved["beta"]) == ("kto", {"desirable_weight": 2.0}, 0.05)


@pytest.mark.parametrize("options", [{"torch_compile": True}, {"torch_compile_backend": "eager"}])
def test_compiling_is_left_to_the_trainer(options, tmp_path):
    """transformers would compile the whole model."""
    args = ImplicitPRMConfig(str(tmp_path), **options)
    assert args.compile_options == {"mode": None, "backend": options.get("torch_compile_backend", "inductor")}
    assert not args.torch_compile
