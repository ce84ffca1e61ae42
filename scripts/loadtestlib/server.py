"""`ipr-serve` in a process of its own, on a free port of this machine."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import httpx


class Server:
    """A running server.

    Args:
        checkpoint: what it serves.
        folder: for its log and its reference cache, which the next server with this folder reads.
        options: more options of `ipr-serve`.
    """

    def __init__(self, checkpoint: str, folder: Path, options: Sequence[str] = ()) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.address = f"http://127.0.0.1:{_free_port()}"
        port = self.address.rpartition(":")[2]
        command = [sys.executable, "-m", "implicit_prm.cli.serve", f"checkpoint={checkpoint}", f"port={port}"]
        with (folder / "server.log").open("a") as log:
            self.process = subprocess.Popen(
                [*command, f"reference_cache={folder / 'cache'}", *options], stdout=log, stderr=subprocess.STDOUT
            )
        self._wait(folder / "server.log")

    def _wait(self, log: Path, seconds: float = 180.0) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            try:
                if httpx.get(f"{self.address}/health").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.2)
        self.process.kill()
        raise RuntimeError(f"the server did not start:\n{log.read_text()[-2000:]}")

    def metric(self, name: str) -> float:
        """The value of a metric without labels."""
        text = httpx.get(f"{self.address}/metrics").text
        found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
        if found is None:
            raise KeyError(name)
        return float(found[1])

    def kill(self) -> None:
        """SIGKILL, which no process can handle."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
