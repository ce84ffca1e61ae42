"""The benchmarks on a tiny random model: agreement checks, tables and files. Timings are not checked."""

import argparse
import io
import json
import sys
from functools import partial

import bench_cpu
import bench_growth
import bench_head
import bench_scoring
import bench_session
import bench_training
import pytest
import torch
from benchlib import measure, options, ours, report, work
from benchlib.cost import Cost, after_prompt, padded, shared, unpadded
from benchlib.run import main
from rich.console import Console

from implicit_prm import ImplicitPRMError
from implicit_prm.costs.shapes import Shape
from tests.conftest import graded_rows, write_rows

SMALL = ["--model", "random", "--lengths", "24", "20", "--rounds", "1", "--threads", "1"]
OURS = "ours, neither cached nor shared"


def scoring(*arguments):
    return options.parse(bench_scoring.parser(), ["--responses", "2", "--rounds", "1", *arguments])


def training(*arguments):
    return options.parse(bench_training.parser(), arguments)


@pytest.fixture
def console(monkeypatch):
    """The scripts' output. The matrix product is not measured, since it is slow."""
    stream = io.StringIO()
    monkeypatch.setattr(measure, "matmul_flops", lambda *_: 1e11)
    monkeypatch.setattr("benchlib.run.Console", lambda **_: Console(file=stream, width=200))
    return stream


def test_scoring_variants_agree_and_are_reported(tmp_path, console):
    arguments = [*SMALL, "--responses", "6", "--json", str(tmp_path / "a.json"), "--markdown", str(tmp_path / "a.md")]
    chosen = scoring(*arguments, "--profile", OURS)
    for _ in range(2):  # the second run replaces the section of the first
        main(bench_scoring.cases, chosen)
    (written,) = json.loads((tmp_path / "a.json").read_text())
    rows = {row["name"]: row for row in written["rows"]}
    assert {"official", "TRL's log-probs", OURS} <= set(rows)
    assert all(row["seconds"] > 0 and row["useful_share"] > 0 for row in rows.values())
    assert 0 < rows[OURS]["agreement"]["nats off"] < 1e-3
    assert float(written["log-ratio of a response"].split()[0]) > 0.01, "policy and reference must differ"
    assert "aten::mm" in written["profiles"][OURS]
    page = (tmp_path / "a.md").read_text()
    assert page.count("## Scoring 6 responses per prompt") == 1
    assert f"| {OURS} |" in page
    assert OURS in console.getvalue()


@pytest.mark.parametrize("loss", ["ce", "dpo"])
def test_training_variants_agree_in_loss_and_gradient(loss, console):
    chosen = training(*SMALL, "--responses", "4", "--loss", loss, "--second-run", "--gradient-checkpointing")
    (made,) = bench_training.cases(chosen, Console(file=console))
    rows = {row.name: row for row in made.rows}
    rivals = {"TRL, reference precomputed", "TRL, reference online"} if loss == "dpo" else set()
    checkpointed = "official, gradient checkpointing"
    assert {"official", OURS, checkpointed, *rivals} <= set(rows)
    for name in {OURS, *rivals}:
        assert 0 <= rows[name].agreement["loss error"] < 1e-4
        assert 0 < rows[name].agreement["gradient error"] < 1e-3
    assert made.rounds.of(checkpointed)


def test_a_session_scores_a_search_as_rescoring_does(tmp_path, console):
    arguments = [*SMALL, "--beams", "5", "--steps", "3", "--seed", "1", "--markdown", str(tmp_path / "a.md")]
    (made,) = bench_session.cases(options.parse(bench_session.parser(), arguments), Console(file=console))
    report.write([made], None, tmp_path / "a.md")
    others = made.rows[1:]
    assert len(others) == 3
    assert all(0 < row.agreement["nats off"] < 1e-3 for row in others)
    assert others[1].predicted > 1.5, "FLOPs"
    assert "times fewer" in made.extra[f"scorer tokens of {bench_session.GIVEN}"]
    assert f"* scorer tokens of {bench_session.SESSION}: " in (tmp_path / "a.md").read_text()


def test_heads_agree_in_values_and_gradients(console):
    chosen = bench_head.parser().parse_args(["--tokens", "40", "--width", "16", "--vocabulary", "300", "--rounds", "1"])
    trained, frozen = bench_head.cases(chosen, Console(file=console))
    for made in (trained, frozen):
        rows = {row.name: row for row in made.rows}
        assert rows["ours"].agreement["value error"] < 1e-5
        assert rows["ours"].agreement["gradient error"] < 1e-5
        assert made.left_out.keys() | rows.keys() == bench_head.HEADS.keys()
    assert frozen.title != trained.title


def test_variant_with_wrong_scores_or_gradients_is_not_timed(monkeypatch, console):
    score, train = ours.score, ours.train

    def shifted(*given):
        run = score(*given)
        return lambda: [ratio + 0.01 for ratio in run()]

    monkeypatch.setattr(ours, "score", shifted)
    with pytest.raises(ImplicitPRMError, match=r"ours.* nats off"):
        list(bench_scoring.cases(scoring(*SMALL, "--variants", OURS), Console(file=console)))

    def scaled(models, *given):
        step = train(models, *given)

        def run():
            loss = step()
            models.policy.get_input_embeddings().weight.grad.mul_(1.1)
            return loss

        return run

    monkeypatch.setattr(ours, "train", scaled)
    with pytest.raises(ImplicitPRMError, match=r"ours.* gradient error"):
        list(bench_training.cases(training(*SMALL, "--loss", "ce", "--variants", OURS), Console(file=console)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--data", "x.jsonl", "--lengths", "5", "5"), "--data"),
        (("--data", "x.jsonl", "--correct", "1"), "--data"),
        (("--rounds", "0"), "got 0"),
    ],
)
def test_options_without_effect_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit):
        training(*arguments)
    assert message in capsys.readouterr().err


def test_errors_end_the_script_with_a_message(console):
    with pytest.raises(SystemExit, match="DPO needs pairs"):
        main(bench_training.cases, training(*SMALL, "--loss", "dpo", "--responses", "1"))
    with pytest.raises(SystemExit, match="--correct 3"):
        main(bench_training.cases, training(*SMALL, "--loss", "dpo", "--responses", "2", "--correct", "3"))


def test_unknown_variant_is_named_with_the_choices(console):
    chosen = scoring(*SMALL, "--variants", "our")
    with pytest.raises(SystemExit, match=r"variant our; .* official"):
        list(bench_scoring.cases(chosen, Console(file=console)))


def test_errors_against_float64_are_reported(console):
    (made,) = bench_scoring.cases(scoring(*SMALL, "--exact", "--variants", OURS), Console(file=console))
    errors = {row.name: row.agreement["nats off float64"] for row in made.rows}
    assert set(errors) == {"official", OURS}
    assert all(0 < error < 1e-4 for error in errors.values())


def test_growth_figure_is_drawn_and_redrawn(tmp_path, monkeypatch, console):
    axes = {"responses": (1, 3)}
    figure, data = tmp_path / "growth.png", tmp_path / "growth.json"
    points = bench_growth.run(axes, 1, figure, data, Console(file=console))
    assert {(p.axis, getattr(p.size, p.axis)) for p in points} == {(a, v) for a, values in axes.items() for v in values}
    assert figure.read_bytes().startswith(b"\x89PNG")
    again = tmp_path / "again.png"
    monkeypatch.setattr(sys, "argv", ["bench_growth.py", "--redraw", str(data), "--figure", str(again)])
    bench_growth.main()
    assert again.read_bytes() == figure.read_bytes()


def test_interrupted_rounds_are_kept_and_the_page_is_unchanged(tmp_path):
    calls, said = {"official": 0}, []

    def official():
        calls["official"] += 1
        if calls["official"] == 3:
            raise KeyboardInterrupt

    variants = {"official": report.Variant(official, Cost(2.0, 1), 1.0), "x": report.Variant(int, Cost(1.0, 1), 1.0)}
    rounds = measure.interleave({n: v.run for n, v in variants.items()}, 5, 0, "cpu", torch.float32, said.append)
    assert rounds.interrupted
    assert said[0].startswith("round 1 of 5: ")
    assert len(rounds.of("official")) == 2
    rows = report.summarise(variants, rounds, 10)
    assert [row.name for row in rows] == ["official", "x"]
    assert rows[1].predicted == 2
    assert len(rounds.ratios("x", "official")) == 2
    made = report.Report("T", {}, rows, rounds)
    report.write([made], tmp_path / "a.json", tmp_path / "a.md")
    assert (tmp_path / "a.json").exists()
    assert not (tmp_path / "a.md").exists()


def test_section_is_replaced_and_others_stay():
    page = report.with_section("# Performance\n\nBy hand.\n", "One", "first\n")
    page = report.with_section(page, "One (more)", "other\n")
    page = report.with_section(page, "One", "second \\1\n")
    assert page == "# Performance\n\nBy hand.\n\n## One\n\nsecond \\1\n\n## One (more)\n\nother\n"


def test_matmul_flops():
    assert 1e8 < measure.matmul_flops("cpu", torch.float32, least_seconds=0.0) < 1e15


def test_peak_memory_of_a_call():
    freed = measure.measured(lambda: torch.ones(2**25), "cpu").peak_bytes  # 128 MiB
    if freed is None:
        pytest.skip("memory is not measured on this system")
    assert freed == pytest.approx(2**27, rel=0.1)
    assert measure.measured(lambda: torch.ones(2**23), "cpu").peak_bytes == pytest.approx(2**25, rel=0.1)


def test_costs_count_weights_padding_and_the_shared_prompt():
    rows = [(5, 1), (5, 3), (5, 2)]
    shape = Shape(
        backbone=10, embedding=3, head=3, adapter=0, tied=True, layers=0, width=1, attention_width=0, kv_width=0
    )
    forward = partial(Cost.forward, shape)
    assert forward(padded(rows, 2)) == Cost(2 * 13 * (16 + 7), 16 + 7)
    assert forward(padded(rows, 2, "response")) == Cost(2 * 10 * 23 + 2 * 3 * 6, 23)
    assert forward(unpadded(rows)) == Cost(2 * 10 * 21 + 2 * 3 * 6, 21)
    assert forward(shared(5, [1, 3, 2])) == Cost(2 * 10 * 11 + 2 * 3 * 6, 11)
    assert forward(after_prompt(5, [1, 3, 2])) == Cost(2 * 13 * 6, 6)
    assert forward(shared(5, [3])).with_backward().flops == 3 * forward(unpadded([(5, 3)])).flops
    # Sharing the prompt of a single response does not change the attention.
    assert shared(5, [3]).pairs == unpadded([(5, 3)]).pairs


def test_generated_work_has_the_requested_lengths(tokenizer):
    found = work.generate(tokenizer, (50, 40), prompts=3, responses=8, seed=1, correct=2)
    assert {prompt for prompt, _ in found.lengths} == {50}
    responses = [length for _, lengths in found.lengths for length in lengths]
    assert min(responses) >= 24
    assert max(responses) <= 56
    assert max(responses) > min(responses) + 10
    assert sum(found.labels) == 6
    assert len(found.pairs) == 3 * 2 * 6
    assert all(
        found.labels[right] and not found.labels[wrong] and right // 8 == wrong // 8 for right, wrong in found.pairs
    )
    assert work.generate(tokenizer, (50, 40), 3, 8, seed=1, correct=2) == found


def test_work_is_read_from_rollouts(tmp_path, tokenizer):
    path = write_rows(tmp_path / "rollouts.jsonl", graded_rows(6, 4))
    found = work.read(str(path), tokenizer, prompts=2, responses=3, seed=0, mixed=True)
    assert [len(group) for group in found.groups] == [3, 3]
    assert all(len(set(group.labels)) == 2 for group in found.encoded)
    with pytest.raises(ImplicitPRMError, match="5 responses; expected 2"):
        work.read(str(path), tokenizer, prompts=2, responses=5, seed=0)


@pytest.mark.parametrize("what", sorted({what for calls in bench_cpu.TASKS.values() for what in calls}))
def test_calls_on_a_cpu_are_measured(what):
    options = argparse.Namespace(
        **{"model": "sandbox", "dtype": "float32", "threads": None, "responses": 2, "problems": "sandbox"},
        **{"prompt_template": "{problem}", "max_new_tokens": 8},
    )
    cost = bench_cpu.run(bench_cpu.Call(what, 4, kept=False), options)
    assert 8 <= cost.tokens <= 4 * 2 * 8
    assert cost.peak_bytes > 10**7
