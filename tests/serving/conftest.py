"""A small PRM, and an application around a scorer."""

import contextlib
import threading
from dataclasses import replace

import pytest
from starlette.testclient import TestClient

from implicit_prm.config import ServeConfig
from implicit_prm.evaluation.scorer import open_checkpoint
from implicit_prm.serving.app import create_app
from implicit_prm.types import StepScores


class Held:
    """A scorer that waits for `turns` before each problem, and fails at the problem "bad"."""

    def __init__(self):
        self.problems, self.turns, self.started = [], threading.Semaphore(0), threading.Event()

    def score(self, problem, responses):
        self.problems.append(problem)
        self.started.set()
        assert self.turns.acquire(timeout=10)
        if problem == "bad":
            raise RuntimeError("bad")
        return [StepScores(text, [], [1.0]) for text in responses]


@pytest.fixture(scope="session")
def config(tiny_folder, other_folder):
    return ServeConfig(
        checkpoint=str(tiny_folder), reference=str(other_folder), beta=0.5, steps="newline", reference_cache=None
    )


@pytest.fixture(scope="session")
def scorer(config):
    """An implicit PRM with another model as its reference; steps are lines."""
    return open_checkpoint(config, config.steps, skip_too_long=False)


@pytest.fixture(scope="session")
def serving(scorer, config):
    """A client of an application around `scorer`, or around another one, with changed options."""

    @contextlib.contextmanager
    def client(scorer=scorer, key=None, **changes):
        with TestClient(create_app(scorer, replace(config, **changes), key), raise_server_exceptions=False) as client:
            yield client

    return client


@pytest.fixture(scope="session")
def client(serving):
    with serving() as client:
        yield client
