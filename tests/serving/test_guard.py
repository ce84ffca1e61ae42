"""The API key and the limit on bodies."""

import json

import pytest

from implicit_prm.serving.guard import api_key
from implicit_prm.types import ImplicitPRMError
from tests.runs import PROBLEM, RESPONSES

ROUTE, BODY = "/v1/step_rewards", {"problem": PROBLEM, "responses": RESPONSES}
KEY = "made-up-key"


@pytest.fixture(scope="module")
def guarded(serving):
    with serving(key=KEY, max_body_bytes=2000) as client:
        yield client


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer other"},
        {"Authorization": KEY},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": b"Basic \xe9"},
    ],
    ids=["none", "another", "no scheme", "not base64", "not ASCII"],
)
def test_a_request_without_the_key_is_refused_whatever_its_body(guarded, headers):
    for route, content in ((ROUTE, json.dumps(BODY)), (ROUTE, "{"), ("/nowhere", "")):
        answer = guarded.post(route, content=content, headers=headers)
        assert answer.status_code == 401
        assert KEY not in answer.text


def test_the_key_comes_as_a_bearer_token_or_in_the_address(guarded):
    assert guarded.post(ROUTE, json=BODY, headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
    assert guarded.post(ROUTE, json=BODY, auth=("anyone", KEY)).status_code == 200
    assert guarded.post(ROUTE, json=BODY, auth=(KEY, "other")).status_code == 401


def test_probes_need_no_key(guarded):
    assert guarded.get("/health").status_code == guarded.get("/metrics").status_code == 200


def test_the_key_is_read_from_the_environment():
    assert api_key(None, {}) is None
    assert api_key("IPR_KEY", {"IPR_KEY": KEY}) == KEY
    for environment in ({}, {"IPR_KEY": ""}):
        with pytest.raises(ImplicitPRMError, match="api_key_env=IPR_KEY"):
            api_key("IPR_KEY", environment)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_refused(guarded, chunked):
    content = json.dumps(BODY | {"responses": ["1 + 1 = 2\n" * 30] * 10}).encode()
    parts = (content[start : start + 500] for start in range(0, len(content), 500))
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    answer = guarded.post(ROUTE, content=parts if chunked else content, headers=headers)
    assert answer.status_code == 413
    assert "max_body_bytes" in answer.json()["error"]["message"]
