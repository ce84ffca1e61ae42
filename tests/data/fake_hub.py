"""A hub for tests: the few addresses that reading a dataset or a model asks for, with revisions and refusals."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote

COMMIT = "c0ffee" + "0" * 34


class FakeHub:
    """Serves repositories, and notes what was asked for.

    `files` (path to bytes) are the dataset some/set; `repositories` are more of them by name: `org/name` for a model,
    `datasets/org/name` for a dataset. `refusal` is (status, X-Error-Code) for every request; `gated` says so in the
    repository's description.
    """

    def __init__(self, files=None, repositories=None):
        self.files = files or {}
        self.repositories = {"datasets/some/set": self.files} | (repositories or {})
        self.refusal, self.gated = None, False
        self.asked, self.bytes_sent = [], 0

    @contextlib.contextmanager
    def running(self):
        handler = type("Handler", (_Handler,), {"hub": self})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(body.decode())

    def _answer(self, body=""):
        path = unquote(self.path.split("?")[0])
        self.hub.asked.append(f"{self.command} {path}")
        if self.hub.refusal is not None:
            return self._send(self.hub.refusal[0], b"{}", {"X-Error-Code": self.hub.refusal[1]})
        name = next((name for name in self.hub.repositories if f"{path}/".startswith(_addresses(name))), None)
        if name is None:
            return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        self.files = self.hub.repositories[name]
        revision = re.search(r"/(?:revision|tree|paths-info|resolve)/([^/]+)", path)
        if revision and revision[1] not in ("main", "v1", COMMIT):
            return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        if "/auth-check" in path:
            gated = self.hub.gated
            return self._send(403 if gated else 200, b"{}", {"X-Error-Code": "GatedRepo"} if gated else {})
        if "/tree/" in path:
            return self._json(self._listed(path.partition("/tree/")[2].partition("/")[2]))
        if "/paths-info/" in path:
            wanted = parse_qs(body).get("paths", []) or json.loads(body or "{}").get("paths", [])
            return self._json([entry for entry in self._listed("") if entry["path"] in wanted])
        if "/resolve/" in path:
            return self._file(path.partition("/resolve/")[2].partition("/")[2])
        siblings = [{"rfilename": name} for name in self.files]
        self._json(
            {
                "id": name.removeprefix("datasets/"),
                "sha": COMMIT,
                "gated": "manual" if self.hub.gated else False,
                "private": False,
                "siblings": siblings,
                "tags": [],
            }
        )

    def _listed(self, folder):
        names = [name for name in self.files if name.startswith(folder)]
        parents = {name.rsplit("/", 1)[0] for name in names if "/" in name} - {folder.rstrip("/")}
        return [{"type": "directory", "oid": _oid(p.encode()), "size": 0, "path": p} for p in sorted(parents)] + [
            {"type": "file", "oid": _oid(self.files[n]), "size": len(self.files[n]), "path": n} for n in names
        ]

    def _file(self, name):
        if name not in self.files:
            return self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        content = self.files[name]
        headers = {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if span:
            start, end = int(span[1]), int(span[2] or len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{min(end, len(content) - 1)}/{len(content)}"
            return self._send(206, content[start : end + 1], headers)
        self._send(200, content, headers)

    def _json(self, value):
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status, content, headers):
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.hub.bytes_sent += len(content)
            with contextlib.suppress(ConnectionError):
                self.wfile.write(content)


def _addresses(repository):
    kind = "" if repository.startswith("datasets/") else "models/"
    return f"/{repository}/", f"/api/{kind}{repository}/"


def _oid(content):
    return hashlib.sha1(content).hexdigest()
