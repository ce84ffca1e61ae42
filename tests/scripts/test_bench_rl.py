"""scripts/bench_rl.py on a tiny random model: all variants sample the same responses. Timings are not checked."""

import bench_rl
import pytest
import torch

from implicit_prm.models import shared_prompt
from tests.conftest import tiny_model

SMALL = ["--model", "random", "--lengths", "12", "6", "--prompts", "2", "--responses", "2", "--steps", "1"]


def test_variants_take_steps_on_the_same_responses():
    chosen = bench_rl.parser().parse_args([*SMALL, "--rounds", "1"])
    bench = bench_rl.Bench(chosen)
    tokens = {}
    for name in (bench_rl.OUTCOMES, "updated PRM, prompt not shared"):
        wall, cpu, tokens[name] = bench.seconds(bench_rl.VARIANTS[name], seed=3)
        assert min(wall, cpu) > 0
    assert len(set(tokens.values())) == 1


def test_the_prompt_is_not_shared_in_the_ablation(tokenizer):
    model, prompt = tiny_model(tokenizer), torch.arange(5).tolist()
    with bench_rl.not_shared():
        assert isinstance(shared_prompt.open_prompt(model, prompt), shared_prompt.PlainRows)
    assert isinstance(shared_prompt.open_prompt(model, prompt), shared_prompt.SharedPrompt)


def test_ratios_are_taken_within_a_round():
    table = bench_rl.table({bench_rl.OUTCOMES: [(1.0, 1.0), (2.0, 2.0)], "frozen PRM": [(1.5, 1.5), (2.0, 2.0)]})
    assert "| frozen PRM | 1.75 | 1.75 | 1.25 [1.00, 1.50] |" in table


def test_unknown_variants_are_refused(capsys):
    with pytest.raises(SystemExit):
        bench_rl.parser().parse_args(["--variants", "fast"])
    assert "fast" in capsys.readouterr().err
