"""Two processes on the CPU (gloo) write the file that one writes, also when one of them is killed on the way."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.slow

# accelerate starts one process where it is told --cpu; --multi_gpu is its word for several, with or without GPUs.
TORCHRUN = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
ACCELERATE = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]


def _command(tiny_folder, launch, output, *overrides):
    options = ["policy=hub", f"policy.name={tiny_folder}", "policy.dtype=float32", "problems.limit=11", "sampling.n=3"]
    options += ["sampling.batch_size=2", f"output={output}", *overrides]
    return [sys.executable, *launch, "-m", "implicit_prm.cli.rollout", *options]


def _run(folder, tiny_folder, launch, output, *overrides):
    command = _command(tiny_folder, launch, output, *overrides)
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, env=_environment())
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def _environment():
    return {**os.environ, "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}


@pytest.mark.parametrize("launch", [TORCHRUN, ACCELERATE], ids=["torchrun", "accelerate"])
def test_two_processes_write_the_file_of_one(launch, tmp_path, tiny_folder):
    _run(tmp_path, tiny_folder, [], "one.jsonl")
    printed = _run(tmp_path, tiny_folder, launch, "two.jsonl")
    assert (tmp_path / "two.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()
    assert not list(tmp_path.glob("*.rank*"))
    assert printed.count("33 responses to 11 problems") == 1  # one of them speaks for all
    record = json.loads((tmp_path / "two.jsonl.meta.json").read_text())
    assert record["runs"][0]["processes"] == 2


@pytest.mark.skipif(os.name == "nt", reason="sends SIGKILL to a process group")
def test_a_killed_run_goes_on_with_another_number_of_processes(tmp_path, tiny_folder):
    """Both ranks write slowly enough to be caught on the way: each problem is a batch of many long responses."""
    slow = ["sampling.n=64", "sampling.max_new_tokens=200", "sampling.batch_size=1", "problems.limit=15"]
    _run(tmp_path, tiny_folder, [], "one.jsonl", *slow)
    process = subprocess.Popen(
        _command(tiny_folder, TORCHRUN, "two.jsonl", *slow),
        cwd=tmp_path,
        env=_environment(),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    parts = [tmp_path / f"two.jsonl.rank{rank}" for rank in (0, 1)]
    deadline = time.monotonic() + 120
    while not all(part.exists() and part.read_bytes() for part in parts) and time.monotonic() < deadline:
        time.sleep(0.02)
    _kill_rank_1(process.pid)
    process.wait(60)
    assert process.returncode != 0
    left = [part.read_bytes().count(b"\n") for part in parts]
    assert min(left) >= 1
    assert not (tmp_path / "two.jsonl").exists()
    printed = _run(tmp_path, tiny_folder, [], "two.jsonl", *slow)
    assert f"resuming after {sum(left)} problems" in printed
    assert (tmp_path / "two.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()


def _kill_rank_1(launcher):
    """SIGKILL to the second worker of torchrun, as the kernel's out-of-memory killer does."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(launcher)], capture_output=True, text=True, check=True)
    os.kill(int(listed.stdout.split()[1]), signal.SIGKILL)
