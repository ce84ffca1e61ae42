"""Progress: a bar in a terminal, lines in a log, nothing where nothing is to be shown."""

import pytest
from rich.console import Console

from implicit_prm.utils import progress as module
from implicit_prm.utils.progress import progress, tracked


@pytest.fixture
def clock(monkeypatch):
    """The time, in a list of one."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_every_half_minute_and_one_at_the_end(clock, capsys):
    with progress("scoring", 2000) as advance:
        for seconds in (10, 15, 15, 10):
            clock[0] += seconds
            advance(500)
    assert capsys.readouterr().out.splitlines() == [
        "scoring: 1,500 of 2,000, 0:00:40, 0:00:13 to go",
        "scoring: 2,000 of 2,000, 0:00:50",
    ]


def test_nothing_done_yet_is_no_rate(clock, capsys):
    with progress("scoring", 8) as advance:
        clock[0] += 40
        advance(0)
        advance(4)
    assert capsys.readouterr().out.splitlines() == ["scoring: 4 of 8, 0:00:40, 0:00:40 to go"]


def test_items_come_in_order_and_count_once_each(clock, capsys):
    assert list(tracked(["a", "b", "c"], "grading")) == ["a", "b", "c"]
    assert capsys.readouterr().out == "grading: 3 of 3, 0:00:00\n"


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize(("total", "shown"), [(3, False), (0, True)])
def test_nothing_is_said_where_nothing_is_shown_or_done(total, shown, terminal, monkeypatch, capsys):
    monkeypatch.setattr(module, "Console", lambda: Console(force_terminal=terminal))
    assert list(tracked(range(total), "grading", shown)) == list(range(total))
    assert capsys.readouterr().out == ""


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(module, "Console", lambda: Console(force_terminal=True))
    with progress("sampling", 2) as advance:
        advance(2)
    out = capsys.readouterr().out
    assert "━" in out
    assert "100%" in out


def test_an_error_within_goes_through(capsys):
    with pytest.raises(KeyboardInterrupt), progress("sampling", 2):
        raise KeyboardInterrupt
