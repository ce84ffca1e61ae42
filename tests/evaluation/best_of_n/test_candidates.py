from dataclasses import replace

import numpy as np
import pytest

from implicit_prm.config import BestOfNConfig, GradingConfig
from implicit_prm.evaluation.best_of_n import candidates
from implicit_prm.grading import Grader
from implicit_prm.types import Group
from implicit_prm.utils.distributed import Processes

TEXTS = [r"\boxed{\sqrt{4}}", r"\boxed{2}", r"\boxed{3}", "no idea", r"\boxed{2} is cut off"]
GROUP = Group("p", "?", TEXTS, [None] * 5, [True] * 4 + [False], answer="2")


def config(**options):
    grading = GradingConfig(**{"cache": None, **options.pop("grading", {})})
    return BestOfNConfig(candidates="x", scores_column="scores", output_dir="x", grading=grading, **options)


@pytest.mark.parametrize("workers", [1, 2])
def test_grade(workers):
    known = replace(GROUP, id="q", correctness=[True, None, None, True, None])
    groups, found = candidates.grade([GROUP, known], config(grading={"workers": workers}))
    assert [group.correctness for group in groups] == [
        [True, True, False, False, True],
        [True, True, False, True, True],
    ]
    for one in found:
        assert one.classes.tolist() == [0, 0, 1, -1, -1]
        assert one.valid.tolist() == [True, True, True, True, False]


def test_an_unanswered_response_is_not_picked_if_asked_so():
    (found,) = candidates.grade([GROUP], config(unanswered="lowest"))[1]
    assert found.valid.tolist() == [True, True, True, False, False]


def test_an_answer_is_extracted_once_from_each_response(monkeypatch):
    read, extract = [], Grader.extract
    monkeypatch.setattr(Grader, "extract", lambda self, text, *rest: (read.append(text), extract(self, text, *rest))[1])
    candidates.grade([GROUP], config())
    assert read == TEXTS


@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_of_several_processes_grades(monkeypatch, rank):
    def work(groups, config):
        assert rank == 0
        return [candidates.Candidates(np.array([True] * 5), np.zeros(5, dtype=int), np.array([True] * 5))]

    class Launched(Processes):
        def gather(self, value):
            return [value, []] if rank == 0 else [work_of_first, value]

    work_of_first = [candidates.Candidates(np.array([True] * 5), np.zeros(5, dtype=int), np.array([True] * 5))]
    launched = Launched(rank, 2)
    monkeypatch.setattr(Launched, "__enter__", lambda self: self, raising=False)
    monkeypatch.setattr(Launched, "__exit__", lambda *_: None, raising=False)
    monkeypatch.setattr(candidates, "processes", lambda: launched)
    monkeypatch.setattr(candidates, "_in_this_process", work)
    groups, found = candidates.grade([GROUP], config())
    assert groups[0].correctness == [True] * 5
    assert len(found) == 1
