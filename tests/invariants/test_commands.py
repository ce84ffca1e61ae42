"""The commands as a user types them: from rollouts to an evaluation, mistakes, interruption, another folder."""

import contextlib
import importlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.conftest import graded_rows, write_rows

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ["+trainer.use_cpu=true", "trainer.max_steps=2", "trainer.eval_strategy=no", "data.hold_out_prompts=0"]


@dataclass
class Result:
    returncode: int
    stdout: str
    stderr: str


def run(folder, module, *overrides, check=True):
    """The command's own `main` with these arguments, in this process: a new one would spend its time on imports."""
    arguments = [f"ipr-{module}", *overrides, *(TRAIN if module in ("train", "baseline") else [])]
    out, err, status = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.chdir(folder)
        patch.setattr(sys, "argv", arguments)
        try:
            importlib.import_module(f"implicit_prm.cli.{module}").main()
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 1
            err.write(stop.code if isinstance(stop.code, str) else "")
    result = Result(status, out.getvalue(), err.getvalue())
    assert not check or result.returncode == 0, result.stdout + result.stderr
    return result


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """Rollouts, training and evaluation in an empty folder, on a few problems."""
    folder = tmp_path_factory.mktemp("road")
    run(folder, "rollout", "problems.limit=12", "sampling.n=4")
    run(folder, "train")
    result = run(folder, "eval", "checkpoint=outputs/sandbox/ce", "rollout.problems.limit=9", "rollout.sampling.n=4")
    return folder, result.stdout


def test_the_whole_road_on_the_embedded_default(road):
    folder, printed = road
    out = folder / "outputs/sandbox/ce"
    metrics = json.loads((out / "eval/metrics.json").read_text())
    assert metrics["problems"] == 9
    assert metrics["sizes"] == [1, 2, 4]
    assert {"majority vote", "weighted vote", "log-likelihood of reference", "oracle (pass@N)"} < set(
        metrics["accuracy"]
    )
    assert metrics["steps"]["first_wrong_steps"] > 0
    assert "step AUROC" in printed
    assert "accuracy.png" in printed
    assert (out / "eval/accuracy.png").stat().st_size > 10_000
    assert json.loads((out / "implicit_prm.json").read_text())["reference"] == "sandbox"


@pytest.mark.parametrize("loss", ["dpo", "nca", "kto", "prefix"])
def test_one_word_changes_the_loss(loss, road):
    folder, _ = road
    run(folder, "train", f"loss={loss}")
    settings = json.loads((folder / f"outputs/sandbox/{loss}/implicit_prm.json").read_text())
    assert settings["loss"]["name"] == loss


def test_step_labels_go_on_with_a_checkpoint(road):
    """One command: reference and beta are the first stage's, and nothing else has to be said."""
    folder, _ = road
    first = json.loads((folder / "outputs/sandbox/ce/implicit_prm.json").read_text())
    run(folder, "train", "loss=steps", "model.name=outputs/sandbox/ce")
    second = json.loads((folder / "outputs/sandbox/steps/implicit_prm.json").read_text())
    assert (second["beta"], second["reference"]) == (first["beta"], first["reference"]) == (2.0, "sandbox")
    assert second["start"] == str((folder / "outputs/sandbox/ce").resolve())
    result = run(folder, "train", "loss=steps", "output_dir=outputs/other", check=False)
    assert "model.name=sandbox" in result.stderr


@pytest.mark.parametrize("trained", ["sandbox", "none"])
def test_a_reference_in_training_and_one_at_inference_are_two_choices(trained, road):
    """The four combinations of the paper's Table 5. What is not said at inference is as it was in training."""
    folder, _ = road
    checkpoint = "outputs/sandbox/ce"
    if trained == "none":
        checkpoint = "outputs/sandbox/none"
        run(folder, "train", "model.reference=none", "model.beta=0.05", f"output_dir={checkpoint}")
    settings = json.loads((folder / checkpoint / "implicit_prm.json").read_text())
    assert settings["reference"] == trained

    def scored(name, *overrides):
        out = f"outputs/{trained}-{name}"
        candidates = "candidates=outputs/sandbox/ce/eval/candidates.jsonl"
        run(folder, "eval", f"checkpoint={checkpoint}", f"output_dir={out}", candidates, *overrides)
        accuracy = json.loads((folder / out / "metrics.json").read_text())["accuracy"]
        assert ("log-likelihood of reference" in accuracy) == ((trained if name == "default" else name) == "sandbox")
        return pq.read_table(folder / out / "scores.parquet").to_pylist()

    tables = {name: scored(name, f"reference={name}") for name in ("sandbox", "none")}
    for with_one, without in zip(tables["sandbox"], tables["none"], strict=True):
        outcome = sum(with_one["step_rewards"]) + settings["beta"] * with_one["reference_logprob"]
        assert sum(without["step_rewards"]) == pytest.approx(outcome, abs=1e-3)
        assert without["reference_logprob"] is None
    assert scored("default") == tables[trained]


def test_candidates_from_a_file_and_any_model_as_the_scorer(road, tiny_folder):
    folder, _ = road
    result = run(
        folder,
        "eval",
        f"checkpoint={tiny_folder}",
        "reference=sandbox",
        "beta=0.1",
        "steps=newline",
        "candidates=outputs/sandbox/ce/eval/candidates.jsonl",
        "output_dir=outputs/other",
    )
    assert "majority vote" in result.stdout


def test_the_road_of_a_baseline(road):
    """Step labels by completions and by a verifier, a model trained on them, reranking; no word says which it is."""
    folder, _ = road
    result = run(folder, "label", "sampling.n=2", "max_prompts=3")
    assert "responses/s" in result.stdout
    labels = "data.train=outputs/sandbox/math_shepherd.jsonl"
    run(folder, "baseline", "kind=next_token", labels)
    settings = json.loads((folder / "outputs/sandbox/next_token/baseline.json").read_text())
    assert (settings["label_source"], settings["tokens"]["separator"]) == ("math_shepherd", "<|system|>")
    run(folder, "baseline", "kind=value_head", "labels=outcome", "output_dir=outputs/sandbox/verifier")
    run(folder, "label", "method=autopsv", "verifier=outputs/sandbox/verifier")
    options = ["candidates=outputs/sandbox/ce/eval/candidates.jsonl", "max_problems=4"]
    result = run(folder, "eval", "checkpoint=outputs/sandbox/next_token", *options)
    assert "step AUROC" in result.stdout
    result = run(folder, "baseline", "kind=value_head", check=False)
    assert "step_label_source" in result.stderr


def test_processbench_on_the_trained_checkpoint(road):
    """The same checkpoint, asked for the first wrong step: another task, another set of options."""
    folder, _ = road
    rows = []
    for group in graded_rows(12, 3):
        for text, labels in zip(group["completions"], group["step_labels"], strict=True):
            label = labels.index(False) if False in labels else -1
            row = {"id": f"pb-{len(rows)}", "generator": "sandbox", "problem": group["prompt"], "label": label}
            rows.append(row | {"steps": text.split("\n"), "final_answer_correct": label == -1})
    write_rows(folder / "sandbox_pb.jsonl", rows)
    options = ["task=processbench", "checkpoint=outputs/sandbox/ce", "subsets=[sandbox_pb.jsonl]"]
    result = run(folder, "eval", *options, "bootstrap_resamples=50")
    out = folder / "outputs/sandbox/ce/processbench"
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["subsets"]["sandbox_pb"]["solutions"] == 36
    assert {"PRM, step scores", "PRM, prefix values", "best blind guess"} < set(metrics["mean_f1"])
    assert "cross-fitted on sandbox_pb" in " ".join(result.stdout.split())  # the terminal is narrow
    assert (out / "trade_off.png").exists()
    assert (out / "sandbox_pb/predictions.jsonl").exists()


@pytest.mark.parametrize(
    ("module", "overrides", "sentence"),
    [
        ("train", ["data.train=missing.jsonl"], "missing.jsonl: no such file or folder"),
        ("train", ["data=ultrainteract"], "set data.train=FOLDER"),
        ("rollout", ["problems=gsm8k"], "set problems.path=FOLDER"),
        ("rollout", ["problems=math", "problems.path=columns.jsonl"], "columns.jsonl: has columns text, label"),
        ("train", ["data.train=empty.jsonl"], "empty.jsonl: the file is empty"),
        ("train", ["data.train=columns.jsonl"], "expected grouped rows"),
        ("train", ["data.train=none.jsonl"], "none.jsonl, row 2: no response"),
        ("train", ["data.train=labels.jsonl"], "the label 'yes' is not boolean"),
        ("train", ["data.train=good.jsonl", "data.max_length=20"], "longer than 20 tokens"),
        ("train", ["loss=ppo"], "Could not find 'loss/ppo'"),
        ("train", ["loss.pairng=all"], "pairng"),
        ("train", ["+loss.pairing=all"], "loss.pairing: unknown option"),
        ("train", ["model.beta=much"], "model.beta='much': expected a number"),
        ("train", ["model.beta=-1"], "model.beta is -1.0"),
        ("train", ["model.beta=null"], "model.beta=None: expected a number"),
        ("train", ["loss=steps", "data.train=good.jsonl"], "model.reference=checkpoint"),
        ("train", ["loss.offset=mean"], "loss.offset=mean: choose one of none, group_mean, prompt_accuracy"),
        ("train", ["data.train=good.jsonl", "model.name=no/where"], "cannot open the model 'no/where'"),
        ("train", ["data.train=good.jsonl", "model.name=untemplated"], "no chat template"),
        ("train", ["trainer.learning_rate=fast"], "trainer.learning_rate='fast': expected a number"),
        ("eval", [], "nothing to score with"),
        ("eval", ["checkpoint=untemplated"], "has no implicit_prm.json"),
        ("eval", ["checkpoint=c", "vote_scale=0"], "vote_scale is 0.0; it must be above 0"),
        ("eval", ["scores_column=x", "candidates=good.jsonl", "output_dir=o"], "no column x"),
        ("eval", ["checkpoint=nowhere", "candidates=good.jsonl"], "nowhere"),
        ("eval", ["task=processbench"], "nothing to score with"),
        ("eval", ["task=processbench", "checkpoint=c", "candidates=good.jsonl"], "candidates: unknown option"),
        ("eval", ["checkpoint=c", "threshold=0.5"], "threshold: unknown option"),
        ("eval", ["task=bench"], "Could not find 'task/bench'"),
        ("eval", ["task=processbench", "checkpoint=c", "subsets=[good.jsonl]"], "good.jsonl: no column generator"),
        ("rollout", ["problems.split=validation"], "validation"),
        ("label", ["method=exact", "input=missing.jsonl"], "missing.jsonl: no such file or folder"),
        ("label", ["method=guess"], "Could not find 'method/guess'"),
        ("label", ["method=autopsv", "input=good.jsonl"], "verifier"),
        ("label", ["policy=server", "policy.name=m", "policy.base_url=http://h/v1"], "policy.base_url"),
        ("baseline", ["kind=orm", "model.beta=0.1"], "model.beta"),
        ("baseline", ["kind=orm", "model.quantization=4bit"], "model.quantization"),
        ("baseline", ["kind=value_head", "data.train=good.jsonl"], "step_label_source"),
        ("rollout", ["sampling.temperature=0"], "must be above 0"),
        ("rollout", ["policy=server", "policy.name=m"], "policy.base_url"),
        ("rollout", ["policy=server", "policy.name=m", "policy.base_url=http://h/v1"], "sampling=default"),
        (
            "rollout",
            [
                "policy=server",
                "policy.name=m",
                "sampling=default",
                "policy.base_url=http://127.0.0.1:9",
                "policy.retries=0",
            ],
            "http://127.0.0.1:9",
        ),
    ],
)
def test_mistakes_end_in_one_clear_sentence(module, overrides, sentence, bad_input):
    result = run(bad_input, module, *overrides, check=False)
    assert result.returncode != 0
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr


def test_a_mistake_ends_the_process_with_status_1(tmp_path):
    command = [sys.executable, "-m", "implicit_prm.cli.train", "data.train=missing.jsonl"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 1
    assert result.stderr.strip().endswith("ipr-train: error: missing.jsonl: no such file or folder")


@pytest.fixture(scope="module")
def bad_input(tmp_path_factory, tiny_folder):
    folder = tmp_path_factory.mktemp("bad")
    rows = graded_rows(4, 3)
    write_rows(folder / "good.jsonl", rows)
    (folder / "empty.jsonl").touch()
    write_rows(folder / "columns.jsonl", [{"text": "a", "label": True}])
    write_rows(folder / "none.jsonl", [rows[0], {**rows[1], "completions": [], "correctness": []}])
    write_rows(folder / "labels.jsonl", [{**row, "correctness": ["yes", "no", "yes"]} for row in rows])
    (folder / "untemplated").mkdir()
    for file in tiny_folder.iterdir():
        if file.name != "chat_template.jinja":
            (folder / "untemplated" / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.mark.skipif(os.name == "nt", reason="sends signals")
@pytest.mark.parametrize(("number", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")])
def test_an_interrupted_rollout_says_so_and_goes_on(number, word, tmp_path):
    options = ["problems.limit=60", "sampling.n=2", "sampling.batch_size=1", "output=r.jsonl"]
    command = [sys.executable, "-m", "implicit_prm.cli.rollout", *options]
    # A shell's background job ignores Ctrl-C, and so would what it starts.
    heed = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **heed)
    output = tmp_path / "r.jsonl"
    deadline = time.monotonic() + 120
    while not (output.exists() and output.read_bytes().count(b"\n") >= 3) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert word in errors
    assert "Traceback" not in errors
    before = output.read_text().splitlines()
    assert 3 <= len(before) < 60
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.jsonl", "r.jsonl.meta.json"]
    run(tmp_path, "rollout", *options)
    after = output.read_text().splitlines()
    assert after[: len(before)] == before
    assert len({json.loads(line)["id"] for line in after}) == len(after) == 60


def test_every_yaml_composes_and_builds():
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from implicit_prm.cli.eval import TASKS
    from implicit_prm.cli.label import METHODS
    from implicit_prm.config import (
        BaselineConfig,
        BestOfNConfig,
        RLConfig,
        RolloutConfig,
        SearchConfig,
        TrainConfig,
        from_mapping,
    )

    given = {"model.name": "m", "policy.name": "m", "problems.name": "p", "data.train": "f"}
    groups = {
        "train": ["loss", "model", "data", "trainer", "experiment", "estimate"],
        "rollout": ["policy", "problems", "sampling"],
        "eval": ["task"],
        "label": ["method"],
        "rl": ["arm", "prm", "grpo", "experiment/rl"],
        "search": ["algorithm", "guide"],
    }
    classes = {"train": TrainConfig, "rollout": RolloutConfig, "rl": RLConfig, "search": SearchConfig}
    classes |= {name: options for name, (options, _) in TASKS.items()} | METHODS
    more = {"server": ["policy.base_url=http://localhost:8000/v1", "sampling=default"], "autopsv": ["verifier=v"]}
    more |= {"prm/checkpoint": ["prm.checkpoint=c"], "qwen25_05b_gsm8k": ["prm.checkpoint=c"]}
    more |= {"guide/checkpoint": ["guide.checkpoint=c"]}
    composed = 0
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        for command, names in groups.items():
            for group in names:
                for file in sorted((ROOT / "configs" / group).glob("*.yaml")):
                    overrides = [f"{key}={value}" for key, value in given.items() if key.split(".")[0] in names]
                    overrides += more.get(file.stem, []) + more.get(f"{group}/{file.stem}", [])
                    tree = compose(command, [f"{group}={file.stem}", *overrides, *_standalone(command)])
                    options = classes[file.stem if group in ("task", "method") else command]
                    from_mapping(options, OmegaConf.to_container(tree, resolve=True))
                    composed += 1
        rates = {
            loss: compose("train", [f"loss={loss}", "output_dir=o"]).trainer.learning_rate for loss in ("ce", "dpo")
        }
        assert rates["dpo"] < rates["ce"]  # configs/tuned is found by model and loss
        for model in ("sandbox", "hub"):  # what only implicit PRMs have is taken out of the groups they share
            more_given = ["model.name=m"] if model == "hub" else []
            tree = compose("baseline", [f"model={model}", *more_given, "output_dir=o"])
            from_mapping(BaselineConfig, OmegaConf.to_container(tree, resolve=True))
        tree = compose("eval", ["checkpoint=c"])  # the default task
        from_mapping(BestOfNConfig, OmegaConf.to_container(tree, resolve=True))
    elsewhere = ("configs", "tuned", "accelerate")  # accelerate's own files are no Hydra groups
    on_disk = [path for path in (ROOT / "configs").rglob("*.yaml") if path.parent.name not in elsewhere]
    assert composed == len(on_disk)


def _standalone(command):
    """Outside a run there is no `hydra:` resolver to name the output after the chosen group."""
    train = ["output_dir=o", "trainer.eval_strategy=no"]
    return {"train": train, "eval": ["checkpoint=c"], "rl": ["output_dir=o"]}.get(command, ["output=o"])


def test_every_option_in_a_yaml_has_a_comment_before_its_block():
    """A blank line separates blocks; each block starts with a comment, or follows the file's own."""
    for path in (ROOT / "configs").rglob("*.yaml"):
        assert path.read_text().startswith("#"), f"{path}: says nothing of what it is for"


def test_the_wheel_works_outside_the_checkout(tmp_path):
    """Configs and policy travel in the wheel: help and a rollout work in an empty folder, from the wheel alone."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 4_000_000
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    subprocess.run([sys.executable, "-m", "zipfile", "-e", str(wheel), str(site)], check=True, timeout=60)
    result = subprocess.run(
        [sys.executable, "-m", "implicit_prm.cli.rollout", "problems.limit=1", "sampling.n=1", "output=r.jsonl"],
        cwd=empty,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    where = subprocess.run(
        [sys.executable, "-c", "import implicit_prm; print(implicit_prm.__file__)"],
        cwd=empty,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert where.stdout.startswith(str(site))
    assert (empty / "r.jsonl").exists()


def test_import_is_quick_and_brings_no_torch():
    code = "import sys, implicit_prm; print('torch' in sys.modules, len(implicit_prm.__all__))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.split() == ["False", "15"]
