"""The worker answers until its parent has gone, whatever signals the parent's terminal or scheduler sends to both."""

import json
import os
import signal
import subprocess
import sys

import pytest


@pytest.mark.skipif(os.name == "nt", reason="sends signals")
def test_signals_that_are_for_the_parent_do_not_end_the_worker():
    """A worker that died of SIGTERM before its parent heard of it would leave a wrong verdict."""
    command = [sys.executable, "-m", "implicit_prm.grading.worker"]
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert json.loads(worker.stdout.readline()) == {"ready": True}
    for number in (signal.SIGTERM, signal.SIGINT):
        worker.send_signal(number)
    request = json.dumps({"function": "compare", "arguments": ["x+1", "1+x"], "limit_s": 5})
    reply, _ = worker.communicate(request + "\n", timeout=60)
    assert json.loads(reply) == {"result": "equal"}
    assert worker.returncode == 0
