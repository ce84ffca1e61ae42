"""Sampling from a real vLLM server.

    IPR_TEST_VLLM=VENV/bin/vllm IPR_TEST_VLLM_MODEL=FOLDER pytest tests/rollouts/test_vllm.py

starts one and serves the model in FOLDER. With IPR_TEST_VLLM_URL=http://localhost:8000/v1 instead of IPR_TEST_VLLM, the
server at that address is used, which must serve the same model.
"""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest

from implicit_prm import ImplicitPRM
from tests.conftest import write_rows

MODEL, VLLM, URL = (os.environ.get(f"IPR_TEST_VLLM{name}") for name in ("_MODEL", "", "_URL"))
LIMIT = 64
PROBLEMS = [
    {"problem": f"What is {n} + {n + 1}? Reply with the number alone.", "answer": str(2 * n + 1)} for n in (3, 14)
]
PROBLEMS.append({"problem": "Write all numbers from 1 to 300, separated by spaces.", "answer": "300"})
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (MODEL and (VLLM or URL)), reason="IPR_TEST_VLLM and IPR_TEST_VLLM_MODEL are not set"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Address of the API, and the name of the model on it."""
    if URL:
        yield URL, _served(URL)
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    # A prompt that is prefilled in parts stops the CPU engine if its request has a seed: one step takes all prompts.
    options = [
        "--dtype",
        "bfloat16",
        "--max-model-len",
        "1024",
        "--max-num-seqs",
        "8",
        "--max-num-batched-tokens",
        "8192",
    ]
    command = [VLLM, "serve", MODEL, "--host", "127.0.0.1", "--port", str(port), *options]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("wb") as stream:
        process = subprocess.Popen(command, env=environment, stdout=stream, stderr=subprocess.STDOUT)
    try:
        url = f"http://127.0.0.1:{port}/v1"
        for _ in range(600):
            assert process.poll() is None, log.read_text()[-3000:]
            try:
                name = _served(url)
                break
            except OSError:
                time.sleep(1)
        else:
            pytest.fail(f"no answer of vLLM in 10 minutes: {log.read_text()[-3000:]}")
        yield url, name
    finally:
        process.terminate()
        process.wait(60)


def _served(url):
    with urllib.request.urlopen(f"{url}/models", timeout=30) as reply:
        return json.load(reply)["data"][0]["id"]


def _command(server, folder, concurrency):
    url, name = server
    return [
        *(sys.executable, "-m", "implicit_prm.cli.rollout", "policy=server", f"policy.base_url={url}"),
        *(f"policy.name={name}", f"policy.concurrency={concurrency}", "problems=file"),
        *(f"problems.name={write_rows(folder / 'problems.jsonl', PROBLEMS)}", "problems.prompt_template='{problem}'"),
        *("sampling=default", "sampling.n=2"),
        *(f"sampling.max_new_tokens={LIMIT}", f"output={folder / 'rows.jsonl'}"),
    ]


def _rows(folder):
    path = folder / "rows.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_rows_and_resuming_after_a_kill(server, tmp_path):
    with subprocess.Popen(_command(server, tmp_path, concurrency=1)) as process:
        while not (first := _rows(tmp_path)):
            assert process.poll() is None
            time.sleep(0.2)
        process.kill()
    assert len(first) < len(PROBLEMS)
    subprocess.run(_command(server, tmp_path, concurrency=4), check=True)
    rows = _rows(tmp_path)
    assert rows[: len(first)] == first
    assert sorted(row["answer"] for row in rows) == sorted(problem["answer"] for problem in PROBLEMS)
    tokenizer = ImplicitPRM.from_pretrained(MODEL, reference="none", beta=1.0, device="cpu").tokenizer
    for row in rows:
        assert len(row["completions"]) == len(row["correctness"]) == len(row["finished"]) == 2
        for text, finished in zip(row["completions"], row["finished"], strict=True):
            tokens = len(tokenizer(text, add_special_tokens=False)["input_ids"])
            # The text of a response that was cut off can be other tokens than those that were sampled.
            assert tokens < LIMIT if finished else tokens >= LIMIT - 3
    assert len({finished for row in rows for finished in row["finished"]}) == 2


def test_our_log_probabilities_are_the_servers(server):
    """Prompt, template, tokens and end of turn are the same on both sides; what is left is the rounding of bfloat16."""
    openai = pytest.importorskip("openai")
    url, name = server
    prompt = [{"role": "user", "content": PROBLEMS[0]["problem"]}]
    reply = openai.OpenAI(base_url=url, api_key="none").chat.completions.create(
        model=name,
        messages=prompt,
        max_tokens=LIMIT,
        temperature=1.0,
        logprobs=True,
        extra_body={"top_k": 0, "repetition_penalty": 1.0},
    )
    choice = reply.choices[0]
    theirs = [token.logprob for token in choice.logprobs.content]
    prm = ImplicitPRM.from_pretrained(MODEL, reference="none", beta=1.0, device="cpu")
    (score,) = prm.score(prompt, [choice.message.content], finished=[choice.finish_reason == "stop"])
    assert len(score.token_rewards) == len(theirs)
    differences = np.abs(np.array(score.token_rewards) - np.array(theirs))
    assert differences.mean() < 0.05
