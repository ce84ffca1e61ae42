"""Problems, policies and sampling."""

import pytest

from implicit_prm.config import RolloutConfig, TextConfig, from_mapping
from tests.config.examples import ROLLOUT, SERVER, assert_refused, changed


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n": 0}, ["sampling.n is 0"]),
        ({"max_new_tokens": 0}, ["sampling.max_new_tokens is 0"]),
        ({"batch_size": -2}, ["sampling.batch_size is -2"]),
        ({"temperature": 0}, ["sampling.temperature is 0.0"]),
        ({"temperature": float("nan")}, ["sampling.temperature is nan"]),
        ({"temperature": float("inf")}, ["sampling.temperature is inf"]),
        ({"top_p": 0}, ["sampling.top_p is 0.0"]),
        ({"top_p": 1.5}, ["sampling.top_p is 1.5"]),
        ({"top_p": float("nan")}, ["sampling.top_p is nan"]),
        ({"seed": None}, ["sampling.seed=null"]),
    ],
)
def test_invalid_sampling_is_refused(changes, words):
    assert_refused(RolloutConfig, changed(ROLLOUT, sampling=changes), *words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base_url": "localhost:8000"}, ["policy.base_url=localhost:8000", "http://"]),
        ({"base_url": "http://[::1/v1"}, ["policy.base_url=http://[::1/v1"]),
        ({"base_url": "http://me:pass@host/v1"}, ["policy.base_url", "policy.api_key_env"]),
        ({"base_url": "http://host/v1?key=1"}, ["policy.base_url", "policy.api_key_env"]),
        ({"concurrency": 0}, ["policy.concurrency is 0"]),
        ({"retries": -1}, ["policy.retries is -1"]),
        ({"timeout_s": 0}, ["policy.timeout_s is 0"]),
        ({"timeout_s": float("nan")}, ["policy.timeout_s is nan"]),
        ({"extra_body": {"temperature": 1}}, ["policy.extra_body.temperature", "sampling.temperature"]),
        ({"extra_body": {"stream": True}}, ["policy.extra_body.stream"]),
    ],
)
def test_invalid_servers_are_refused(changes, words):
    assert_refused(RolloutConfig, changed(ROLLOUT, policy=SERVER | changes), *words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"policy": SERVER, "sampling": {"batch_size": 4}}, ["sampling.batch_size=4", "policy.concurrency"]),
        ({"problems__prompt_template": "Solve it"}, ["problems.prompt_template", "{problem}"]),
        (
            {"problems__prompt_template": "raw:{problem}", "problems__system_prompt": "Hm"},
            ["problems.system_prompt", "raw:"],
        ),
        ({"problems": {"name": "gsm8k", "path": "f", "revision": "main"}}, ["problems.path", "problems.revision"]),
        ({"problems__path": "f"}, ["problems.path", "sandbox"]),
        ({"problems__limit": 0}, ["problems.limit is 0"]),
        ({"policy": {"name": "sandbox"}}, ["problems.prompt_template", "{problem}"]),
    ],
)
def test_invalid_rollouts_are_refused(changes, words):
    assert_refused(RolloutConfig, changed(ROLLOUT, **changes), *words)


def test_the_policy_of_the_sandbox_gets_bare_problems():
    values = changed(ROLLOUT, policy={"name": "sandbox"}, problems__prompt_template="{problem}")
    assert from_mapping(RolloutConfig, values).problems.text == TextConfig()
