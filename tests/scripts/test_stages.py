"""Stages keep what they have cost, however they end."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stages import Stage, run_stage

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
WAIT = "import pathlib, sys, time; pathlib.Path(sys.argv[1]).touch(); time.sleep(60)"


def _record(folder):
    return json.loads((folder / "stages" / "one.json").read_text(encoding="utf-8"))


def test_an_interrupted_stage_keeps_its_time(tmp_path):
    (tmp_path / "wait.py").write_text(WAIT)
    run = (
        "import sys; from pathlib import Path; from stages import Stage, run_stage; folder = Path(sys.argv[1]); "
        "run_stage(Stage('one', str(folder / 'wait.py'), [str(folder / 'began')], folder / 'result'), folder, 1)"
    )
    process = subprocess.Popen([sys.executable, "-c", run, str(tmp_path)], cwd=SCRIPTS, start_new_session=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "began").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.2)
    subprocess.run(["kill", "-INT", "--", f"-{process.pid}"], check=True)  # Ctrl-C reaches the whole group
    assert process.wait(60) == 1
    record = _record(tmp_path)
    assert not record["done"]
    assert record["seconds"] >= 0.2


@pytest.mark.parametrize("status", [0, 3])
def test_attempts_add_up(status, tmp_path):
    (tmp_path / "end.py").write_text("import sys; open(sys.argv[1], 'w').close(); sys.exit(int(sys.argv[2]))")
    stage = Stage("one", str(tmp_path / "end.py"), [str(tmp_path / "result"), "3"], tmp_path / "result")
    with pytest.raises(SystemExit, match="status 3"):
        run_stage(stage, tmp_path, 1)
    first = _record(tmp_path)["seconds"]
    stage.arguments[1] = str(status)
    if status:
        with pytest.raises(SystemExit, match="status 3"):
            run_stage(stage, tmp_path, 1)
    else:
        run_stage(stage, tmp_path, 1)
    assert _record(tmp_path)["seconds"] > first
    assert _record(tmp_path)["done"] == (status == 0)


def test_a_stage_that_reached_its_limit_is_interrupted(tmp_path):
    (tmp_path / "wait.py").write_text(WAIT)
    stage = Stage("one", str(tmp_path / "wait.py"), [str(tmp_path / "began")], tmp_path / "result")
    with pytest.raises(SystemExit, match=r"limit of 0\.01 minutes"):
        run_stage(stage, tmp_path, 0.01)
    assert _record(tmp_path)["seconds"] >= 0.6
