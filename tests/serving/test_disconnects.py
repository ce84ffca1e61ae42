"""A client that disconnects: what waits for it is not scored, what runs for it ends without harm."""

import asyncio
import json

from implicit_prm.config import ScorerConfig, ServeConfig
from implicit_prm.evaluation.scorer import wrap_scorer
from implicit_prm.serving.app import create_app
from tests.serving.conftest import Held


class Request:
    """A request to an ASGI application, whose client leaves when `left` is set."""

    def __init__(self, app, problem):
        self.left, self.status = asyncio.Event(), None
        self._bodies = [json.dumps({"problem": problem, "responses": ["1", "2"]}).encode()]
        scope = {"type": "http", "method": "POST", "path": "/v1/step_rewards", "query_string": b""}
        headers = [(b"content-type", b"application/json")]
        self.done = asyncio.ensure_future(app({**scope, "headers": headers}, self._receive, self._send))

    async def _receive(self):
        if self._bodies:
            return {"type": "http.request", "body": self._bodies.pop(), "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message):
        self.status = message.get("status", self.status)


async def _until(condition):
    while not condition():
        await asyncio.sleep(0.001)


def test_a_request_whose_client_has_gone_is_not_scored():
    async def scenario():
        running = Request(app, "running")
        await _until(held.started.is_set)
        waiting, other = Request(app, "waiting"), Request(app, "other")
        await _until(lambda: len(queue) == 4)
        waiting.left.set()
        running.left.set()
        await asyncio.gather(waiting.done, running.done)
        assert len(queue) == 2
        held.turns.release(3)
        await other.done
        other.left.set()  # after its answer
        return running.status, waiting.status, other.status

    held = Held()
    app = create_app(wrap_scorer(held, ScorerConfig(), False), ServeConfig(checkpoint="any"))
    queue = app.state.queue
    try:
        assert asyncio.run(asyncio.wait_for(scenario(), 10)) == (499, 499, 200)
    finally:
        held.turns.release(3)
        queue.join()
    assert held.problems == ["running", "other"]
