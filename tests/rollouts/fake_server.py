"""An OpenAI-compatible server in a thread, which can be told to misbehave."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FakeServer:
    """Answers with the seed of each request as text, unless `misbehave(number, body)` says otherwise.

    It may return (status, headers, text) to answer, a number of seconds to wait first, "close" to close the connection
    without an answer, or None. Requests are numbered from 0 and kept in `requests`; the short first requests
    (max_tokens=1) are not numbered and kept in `probes`.
    """

    def __init__(self, misbehave=lambda number, body: None, n_support="yes", models=("model",)):
        self.misbehave, self.n_support, self.models = misbehave, n_support, models
        self.requests, self.probes, self.headers, self.times = [], [], [], []
        self._lock = threading.Lock()
        self.port = 0
        self.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self):
        self.handler = type("Handler", (_Handler,), {"fake": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), self.handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def kill(self):
        """Stop listening. `start` listens again, on the same port."""
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path, body, headers):
        """(status, headers, text), or None to close the connection."""
        with self._lock:
            probe = body.get("max_tokens") == 1
            number = len(self.requests)
            (self.probes if probe else self.requests).append({"path": path, **body})
            self.headers.append(headers)
            self.times.append(time.monotonic())
        action = None if probe else self.misbehave(number, body)
        if action == "close":
            return None
        if isinstance(action, tuple):
            return action
        time.sleep(action or 0)
        n = body.get("n", 1)
        if n > 1 and self.n_support == "refuses":
            return 500, {"retry-after-ms": "1"}, '{"error": {"message": "Only one completion choice is allowed"}}'
        texts = [f"{body.get('seed')}.{place}" for place in range(n if self.n_support == "yes" else 1)]
        return ok(*texts, chat=path.endswith("chat/completions"))


def ok(*texts, chat=True, reason="stop", **changes):
    """An answer with these responses."""
    choices = [
        {"index": place, "finish_reason": reason}
        | ({"message": {"role": "assistant", "content": text}} if chat else {"text": text})
        for place, text in enumerate(texts)
    ]
    usage = {"prompt_tokens": 5, "completion_tokens": 3 * len(texts), "total_tokens": 5 + 3 * len(texts)}
    return 200, {}, json.dumps({"id": "x", "object": "o", "created": 0, "choices": choices, "usage": usage} | changes)


class _Handler(BaseHTTPRequestHandler):
    fake: FakeServer

    def do_GET(self):
        cards = [{"id": name, "object": "model", "created": 0, "owned_by": "me"} for name in self.fake.models]
        self._send(200, {}, json.dumps({"object": "list", "data": cards}))

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.fake.answer(self.path, body, headers)
        if answer is not None:
            self._send(*answer)

    def _send(self, status, headers, text):
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass
