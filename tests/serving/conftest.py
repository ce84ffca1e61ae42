"""A small PRM, and an application around a scorer."""

import contextlib
from dataclasses import replace

import pytest
from starlette.testclient import TestClient

from implicit_prm.config import ServeConfig
from implicit_prm.evaluation.scorer import open_checkpoint
from implicit_prm.serving.app import create_app


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
