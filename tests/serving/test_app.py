"""Health, metrics, and errors of one shape."""

import pytest

from implicit_prm.serving import service
from implicit_prm.serving.scoring_queue import QueueFullError
from tests.runs import PROBLEM, RESPONSES

ROUTE, BODY = "/v1/step_rewards", {"problem": PROBLEM, "responses": RESPONSES}


def test_health_names_the_model_until_the_server_stops(serving, config):
    with serving() as client:
        answer = client.get("/health")
        assert (answer.status_code, answer.json()["status"]) == (200, "ok")
        assert answer.json()["model"] == config.checkpoint
        client.app.state.queue.close()
        assert client.get("/health").status_code == 503
        refused = client.post(ROUTE, json=BODY)
        assert (refused.status_code, refused.json()["error"]["type"]) == (503, "server_error")
        assert refused.headers["Retry-After"] == "1"


def test_a_full_queue_asks_to_come_back_later(serving, monkeypatch):
    with serving() as client:

        def full(groups):
            raise QueueFullError

        monkeypatch.setattr(client.app.state.queue, "submit", full)
        answer = client.post(ROUTE, json=BODY)
        assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")
        assert "max_queued_responses" in answer.json()["error"]["message"]


def test_metrics_count_by_route_and_status(serving):
    with serving() as client:
        client.post(ROUTE, json=BODY)
        client.post(ROUTE, json={})
        client.get("/secret/path")
        text = client.get("/metrics").text
    assert f'ipr_requests_total{{route="{ROUTE}",status="200"}} 1.0' in text
    assert f'ipr_requests_total{{route="{ROUTE}",status="422"}} 1.0' in text
    assert 'ipr_requests_total{route="other",status="404"} 1.0' in text
    assert "ipr_batch_responses_sum 2.0" in text
    assert "ipr_queued_responses 0.0" in text
    assert "process_resident_memory_bytes" in text
    assert "secret" not in text


@pytest.mark.parametrize(("method", "path", "status"), [("GET", ROUTE, 405), ("GET", "/docs", 404)])
def test_every_error_has_one_shape(client, method, path, status):
    answer = client.request(method, path)
    assert answer.status_code == answer.json()["error"]["code"] == status


def test_a_fault_of_the_server_is_no_fault_of_the_request(serving, monkeypatch):
    def fault(*_, **__):
        raise ZeroDivisionError("a secret")

    with serving() as client:
        monkeypatch.setattr(service.ScoringService, "value", fault)
        answer = client.post(ROUTE, json=BODY)
        assert answer.status_code == 500
        assert "ZeroDivisionError" in answer.json()["error"]["message"]
        assert "secret" not in answer.text
