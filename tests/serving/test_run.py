"""`ipr-serve`: what it opens, and a stop in the middle of requests."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest
import uvicorn

from implicit_prm import ImplicitPRM
from implicit_prm.config import ServeConfig
from implicit_prm.serving import run
from implicit_prm.serving.service import new_group
from implicit_prm.types import ImplicitPRMError
from tests.runs import PROBLEM, RESPONSES


@pytest.fixture
def started(monkeypatch):
    """The servers that `serve` starts, which end at once by the signal that uvicorn raises again."""
    servers = []

    def start(server):
        servers.append(server)
        server.handle_exit(signal.SIGTERM, None)
        raise KeyboardInterrupt

    monkeypatch.setattr(uvicorn.Server, "run", start)
    return servers


def config(folder, **changes):
    return ServeConfig(checkpoint=str(folder), reference="none", beta=1.0, steps="newline", **changes)


def test_a_checkpoint_is_served_at_the_address_until_a_signal_closes_the_queue(started, tiny_folder):
    run.serve(config(tiny_folder, host="0.0.0.0", port=9000, stop_timeout_s=5))
    (server,) = started
    assert (server.config.host, server.config.port, server.config.timeout_graceful_shutdown) == ("0.0.0.0", 9000, 5)
    assert not server.config.app.state.queue.alive


def test_the_reference_cache_is_bounded_and_written_at_the_end(
    started, tiny_folder, other_folder, tmp_path, monkeypatch
):
    opened = []
    real = run.open_checkpoint

    def remember(*arguments, **options):
        opened.append(real(*arguments, **options))
        opened[0].score(new_group(PROBLEM, RESPONSES, [True, True]))
        return opened[0]

    monkeypatch.setattr(run, "open_checkpoint", remember)
    options = config(tiny_folder, reference_cache=str(tmp_path / "cache"), reference_cache_entries=1)
    options.reference = str(other_folder)
    run.serve(options)
    assert len(opened[0].model.reference_cache) == 1
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 1


def test_a_key_that_is_not_there_is_an_error_before_the_model_is_opened(started, tmp_path):
    with pytest.raises(ImplicitPRMError, match="api_key_env=IPR_NO_SUCH_KEY"):
        run.serve(config(tmp_path / "no model", api_key_env="IPR_NO_SUCH_KEY"))
    assert not started


def _free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _response(number):
    return RESPONSES[0].replace("11", str(number))


async def _post(client, number):
    """The step rewards of a request, or None if it was refused."""
    body = {"problem": PROBLEM, "responses": [_response(number)]}
    try:
        reply = await client.post("/v1/step_rewards", json=body)
    except httpx.TransportError:
        return None
    return reply.json()["results"][0]["step_rewards"] if reply.status_code == 200 else None


@pytest.mark.slow
def test_sigterm_finishes_what_runs(tiny_folder, tmp_path):
    port = _free_port()
    options = [f"checkpoint={tiny_folder}", "reference=none", "beta=1.0", "steps=newline", f"port={port}"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "implicit_prm.cli.serve", *options], stdout=log, stderr=log, env=os.environ
        )
    address = f"http://127.0.0.1:{port}"
    for _ in range(600):
        try:
            assert httpx.get(f"{address}/health").status_code == 200
            break
        except httpx.TransportError:
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.2)

    async def load():
        async with httpx.AsyncClient(base_url=address, timeout=60) as client:
            posts = [asyncio.create_task(_post(client, number)) for number in range(50)]
            await asyncio.wait(posts, return_when=asyncio.FIRST_COMPLETED)
            process.send_signal(signal.SIGTERM)
            return await asyncio.gather(*posts)

    answers = asyncio.run(load())
    assert process.wait(60) == 0, (tmp_path / "log").read_text()
    prm = ImplicitPRM.from_pretrained(tiny_folder, reference="none", beta=1.0, steps="newline", device="cpu")
    answered = {number: rewards for number, rewards in enumerate(answers) if rewards is not None}
    assert answered
    for number, rewards in answered.items():
        direct = prm.score(PROBLEM, [_response(number)])[0]
        assert rewards == pytest.approx(direct.step_rewards, abs=1e-4)
