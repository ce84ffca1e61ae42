"""A few cases of every area of the fuzz campaign, and that a failure is found and named."""

import math
import signal

import fuzz
import pytest


@pytest.mark.parametrize("area", fuzz.AREAS)
def test_an_area_has_no_failures(area, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = fuzz.run(area, fuzz.AREAS[area][0](tmp_path), range(15), 0, math.inf)
    assert result.cases == 15
    assert not result.failures


def test_failures_are_named_by_place_and_hangs_are_ended(monkeypatch, capsys):
    monkeypatch.setattr(fuzz, "LIMIT_CPU_S", 0.2)
    before = signal.signal(signal.SIGPROF, fuzz.stop)

    def case(rng):
        if rng.random() < 0.5:
            raise KeyError("x")
        while True:
            pass

    try:
        result = fuzz.run("rows", case, range(4), 0, math.inf)
    finally:
        signal.signal(signal.SIGPROF, before)
    assert len(result.failures) == 2
    assert sum(map(len, result.failures.values())) == 4
    printed = capsys.readouterr().out
    assert "KeyError" in printed
    assert "Hang" in printed
