"""Progress is a tqdm bar in a terminal, and lines in a log."""

import os
import subprocess
import sys

import pytest

from implicit_prm.utils import progress as module
from implicit_prm.utils.progress import progress, tracked


@pytest.fixture
def clock(monkeypatch):
    """The current time, as a list of one number."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture(params=[False, True], ids=["log", "terminal"])
def terminal(request, monkeypatch):
    monkeypatch.setattr(module, "shows_bars", lambda: request.param)
    return request.param


def test_log_has_a_line_every_half_minute_and_at_the_end(clock, capsys):
    with progress("scoring", 2000) as advance:
        for seconds in (10, 15, 15, 10):
            clock[0] += seconds
            advance(500)
    assert capsys.readouterr().out.splitlines() == [
        "scoring: 1,500 of 2,000, 0:00:40, 0:00:13 left",
        "scoring: 2,000 of 2,000, 0:00:50",
    ]


def test_no_estimate_before_the_first_item(clock, capsys):
    with progress("scoring", 8) as advance:
        clock[0] += 40
        advance(0)
        advance(4)
    assert capsys.readouterr().out.splitlines() == ["scoring: 4 of 8, 0:00:40, 0:00:40 left"]


def test_tracked_items_keep_their_order_and_are_counted(clock, capsys):
    assert list(tracked(["a", "b", "c"], "grading")) == ["a", "b", "c"]
    assert capsys.readouterr().out == "grading: 3 of 3, 0:00:00\n"


@pytest.mark.parametrize(("total", "shown"), [(3, False), (0, True)])
def test_nothing_is_printed_if_not_shown_or_empty(total, shown, terminal, capsys):
    assert list(tracked(range(total), "grading", shown)) == list(range(total))
    assert capsys.readouterr() == ("", "")


def test_terminal_shows_a_tqdm_bar(monkeypatch, capsys):
    monkeypatch.setattr(module, "shows_bars", lambda: True)
    with progress("sampling", 2) as advance:
        advance(2)
    assert "sampling: 100%|" in capsys.readouterr().err


def test_errors_pass_through(terminal):
    with pytest.raises(KeyboardInterrupt), progress("sampling", 2):
        raise KeyboardInterrupt


def test_bars_of_other_libraries_are_disabled_in_a_log():
    code = """
from implicit_prm.utils.progress import disable_bars_in_logs
disable_bars_in_logs()
from datasets import Dataset
from tqdm.auto import tqdm
from transformers.utils.logging import tqdm as transformers_tqdm
for bar in (tqdm, transformers_tqdm):
    assert bar(total=3).disable
Dataset.from_dict({"a": [1, 2]}).map(lambda row: row)
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TQDM", "HF_DATASETS"))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
