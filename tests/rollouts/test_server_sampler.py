"""Sampling from a server: requests, unusual answers, failures; no problem is lost or doubled."""

import contextlib
import json
import sys
import threading
import time

import pytest

from implicit_prm import sandbox
from implicit_prm.config import ProblemsConfig, RolloutConfig, SamplingConfig, ServerConfig, TextConfig
from implicit_prm.data.groups import load_groups
from implicit_prm.data.tokenization import Encoder
from implicit_prm.models import loading
from implicit_prm.models.source import ModelSource
from implicit_prm.rollouts import run as rollouts
from implicit_prm.rollouts.server_replies import FINISHED
from implicit_prm.types import ImplicitPRMError
from implicit_prm.utils.distributed import Processes
from tests.rollouts.fake_server import FakeServer, ok

PROBLEMS = sandbox.problems("train", 6)
QUICK = {"retry-after-ms": "1"}


@pytest.fixture
def serve():
    servers = []

    def start(*args, **options):
        servers.append(FakeServer(*args, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


@pytest.fixture
def run(tmp_path):
    """`run(server, n=3, retries=1)` samples six problems and returns the rows; printed lines are in `run.said`."""

    def rollout(server, n=3, template="Solve: {problem}", template_kwargs=None, seed=0, **policy):
        run.said = []
        options = {"concurrency": 3, "retries": 2, "timeout_s": 5.0} | policy
        rollouts.rollout(
            RolloutConfig(
                policy=ServerConfig(**({"base_url": server.url, "name": "model"} | options)),
                problems=ProblemsConfig(
                    "sandbox", "train", limit=6, prompt_template=template, template_kwargs=template_kwargs
                ),
                sampling=SamplingConfig(n=n, max_new_tokens=20, temperature=0.7, top_p=0.9, seed=seed),
                output=str(tmp_path / "r.jsonl"),
            ),
            run.said.append,
        )
        return run.rows()

    def rows():
        path = tmp_path / "r.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    run = rollout
    run.rows, run.meta = rows, tmp_path / "r.jsonl.meta.json"
    return run


def _whole(rows, n=3):
    assert [row["id"] for row in rows] == [problem.id for problem in PROBLEMS]
    assert all(len(set(row["completions"])) == n for row in rows)


def test_rows_are_in_the_order_of_the_problems(serve, run):
    server = serve(lambda number, body: 0.2 if number == 0 else 0)
    rows = run(server)
    _whole(rows)
    assert rows[0]["prompt"] == [{"role": "user", "content": f"Solve: {PROBLEMS[0].text}"}]
    assert all(row["finished"] == [True] * 3 and len(row["step_labels"]) == 3 for row in rows)
    assert any("18 responses to 6 problems: 0.0% correct, 0.0% cut off" in line for line in run.said)
    assert any("54 tokens in" in line and "tokens/s" in line for line in run.said)


def test_requests_set_only_temperature_and_top_p(serve, run):
    server = serve()
    run(server)
    assert len(server.requests) == 6
    seeds = {request["seed"] for request in server.requests}
    assert len(seeds) == 6
    assert max(seeds) < 2**31
    request = next(r for r in server.requests if PROBLEMS[0].text in r["messages"][0]["content"])
    assert request["path"] == "/v1/chat/completions"
    assert request["messages"] == [{"role": "user", "content": f"Solve: {PROBLEMS[0].text}"}]
    expected = {"model": "model", "n": 3, "max_tokens": 20, "temperature": 0.7, "top_p": 0.9}
    neutral = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "repeat_penalty": 1.0}
    assert (expected | neutral).items() <= request.items()


def test_template_kwargs_are_sent_and_recorded(serve, run):
    server = serve()
    run(server, template_kwargs={"enable_thinking": False})
    assert all(request["chat_template_kwargs"] == {"enable_thinking": False} for request in server.requests)
    assert all(request["top_k"] == 0 for request in server.requests)
    assert json.loads(run.meta.read_text())["settings"]["prompt"]["template_kwargs"] == {"enable_thinking": False}
    with pytest.raises(ImplicitPRMError, match="template_kwargs"):
        run(server, template_kwargs={"enable_thinking": True})


def test_raw_prompt_is_sent_as_plain_text(serve, run):
    server = serve()
    rows = run(server, template="raw:Q: {problem}\nA:")
    _whole(rows)
    assert rows[0]["prompt"] == f"Q: {PROBLEMS[0].text}\nA:"
    assert {(r["path"], "messages" in r) for r in server.requests} == {("/v1/completions", False)}
    assert rows[0]["prompt"] in {r["prompt"] for r in server.requests}


@pytest.mark.parametrize("n_support", ["ignores", "refuses"])
def test_server_without_n_gets_one_request_per_response(n_support, serve, run):
    server = serve(n_support=n_support)
    _whole(run(server))
    assert len(server.requests) == 18
    assert all("n" not in request for request in server.requests)
    assert len({request["seed"] for request in server.requests}) == 18
    assert any("3 requests per problem" in line for line in run.said)


def test_missing_choices_are_requested(serve, run):
    server = serve(lambda number, body: ok(f"only {body['seed']}") if body.get("n") == 3 else None)
    _whole(run(server))
    assert sorted(request.get("n", 1) for request in server.requests) == [2] * 6 + [3] * 6


@pytest.mark.parametrize("reason", [*sorted(FINISHED), "EOS", "COMPLETE"])
def test_finish_reasons_of_all_servers_count_as_finished(reason, serve, run):
    rows = run(serve(lambda number, body: ok("a", "b", "c", reason=reason)))
    assert all(row["finished"] == [True] * 3 for row in rows)
    assert not [line for line in run.said if line.startswith("warning")]


@pytest.mark.parametrize("reason", ["because", None, ["because"]])
def test_unknown_finish_reasons_are_named_once_and_judged_by_tokens(reason, serve, run):
    """A lone response that used all of max_new_tokens (20 here) was cut off; others count as finished."""

    def misbehave(number, body):
        tokens = 20 if PROBLEMS[0].text in body["messages"][0]["content"] else 3
        return ok("a", reason=reason, usage={"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": 1})

    rows = run(serve(misbehave), n=1)
    assert [row["finished"] for row in rows] == [[False]] + [[True]] * 5
    (warning,) = [line for line in run.said if line.startswith("warning")]
    assert ("null" if reason is None else "because") in warning


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"message": {"content": None}, "finish_reason": "stop"}, "content=null"),
        ({"message": {"content": ""}, "finish_reason": "content_filter"}, "finish_reason=content_filter"),
        ({"message": {"content": "I can"}, "finish_reason": "abort"}, "finish_reason=abort"),
        ({"message": {"content": ""}, "finish_reason": "length"}, "empty and cut off"),
    ],
)
def test_unusable_responses_are_left_out_and_counted(bad, reason, serve, run, tmp_path):
    good = {"message": {"content": "4"}, "finish_reason": "stop"}

    def misbehave(number, body):
        first = PROBLEMS[0].text in body["messages"][0]["content"]
        return 200, {}, json.dumps({"choices": [good, bad if first else good, good]})

    server = serve(misbehave)
    rows = run(server)
    assert [len(row["completions"]) for row in rows] == [2, 3, 3, 3, 3, 3]
    assert f"left out: 1 responses with {reason}" in run.said
    assert len(server.requests) == 6, "an unusable response is not requested again"
    encoder = Encoder(loading.open_tokenizer(ModelSource.resolve("sandbox")), TextConfig())
    for group in load_groups(str(tmp_path / "r.jsonl")):
        encoder.group(group)  # as training reads it


def test_problem_without_any_usable_response_is_refused(serve, run):
    server = serve(lambda number, body: ok(None) if PROBLEMS[2].text in body["messages"][0]["content"] else None)
    with pytest.raises(ImplicitPRMError, match=f"{PROBLEMS[2].id}: no usable response .*content=null"):
        run(server, n=1)
    assert [row["id"] for row in run.rows()] == [p.id for p in PROBLEMS if p is not PROBLEMS[2]]
    server.misbehave = lambda number, body: None
    assert len(run(server, n=1)) == 6


def test_seed_can_be_left_out(serve, run):
    server = serve(lambda number, body: ok("a", "b", "c"))
    run(server, seed=None)
    assert all("seed" not in request for request in server.requests + server.probes)
    assert json.loads(run.meta.read_text())["settings"]["sampling"]["seed"] is None


def test_lone_surrogates_are_replaced(serve, run):
    text = r"\ud83d\ude00 \ud800!"  # as JSON writes them: a pair, which is an emoji, and a lone one
    answer = f'{{"choices": [{{"message": {{"content": "{text}"}}, "finish_reason": "stop"}}]}}'
    rows = run(serve(lambda number, body: (200, {}, answer)), n=1)
    assert all(row["completions"] == ["\U0001f600 \ufffd!"] for row in rows)


def test_cut_off_responses_are_not_finished(serve, run):
    rows = run(serve(lambda number, body: ok("a", "b", "c", reason="length")))
    assert all(row["finished"] == [False] * 3 for row in rows)
    assert any("18 responses to 6 problems: 0.0% correct, 100.0% cut off" in line for line in run.said)


@pytest.mark.parametrize("trouble", [(500, QUICK, "{}"), (503, QUICK, "<html>"), "close"])
def test_temporary_failures_are_retried(trouble, serve, run):
    server = serve(lambda number, body: trouble if number in (2, 4) else None)
    _whole(run(server, concurrency=1))
    assert len(server.requests) == 8


def test_retry_after_is_honoured(serve, run):
    server = serve(lambda number, body: (429, {"Retry-After": "1"}, "{}") if number == 2 else None)
    _whole(run(server, concurrency=1))
    first = len(server.probes) + 2
    assert server.times[first + 1] - server.times[first] >= 1


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        ((200, {"Content-Type": "text/html"}, "<html>nginx</html>"), ["without choices", "nginx"]),
        ((200, {}, "{not json"), ["not a reply"]),
        ((200, {}, "{}"), ["without choices"]),
        (ok(), ["without choices"]),
        ((200, {}, '{"choices": [{}]}'), ["a choice without text"]),
        ((200, {}, '{"choices": {"a": 1}}'), ["without choices"]),
        (
            (200, {}, '{"choices": [{"message": {"content": "4", "reasoning_content": "2 + 2"}}]}'),
            ["reasoning parser"],
        ),
        ((500, QUICK, '{"error": {"message": "CUDA out of memory"}}'), ["500: CUDA out of memory", "attempts: 3"]),
        ((404, {}, '{"error": {"message": "no model x"}}'), ["404: no model x", "policy.name"]),
        ((401, {}, '{"error": {"message": "who are you"}}'), ["401: who are you", "policy.api_key_env"]),
        ("close", ["no reply", "attempts: 3"]),
    ],
)
def test_lasting_failure_names_the_problem_and_the_run_resumes(trouble, words, serve, run):
    server = serve(lambda number, body: trouble if number >= 3 else None)
    with pytest.raises(ImplicitPRMError) as caught:
        run(server, concurrency=1)
    for word in [*words, server.url, PROBLEMS[3].id, "the same command resumes"]:
        assert word in str(caught.value)
    done = run.rows()
    assert [row["id"] for row in done] == [problem.id for problem in PROBLEMS[:3]]
    server.misbehave = lambda number, body: None
    before = len(server.requests)
    rows = run(server, concurrency=1)
    _whole(rows)
    assert rows[:3] == done
    assert len(server.requests) - before == 3


def test_answers_in_flight_are_kept_when_another_fails(serve, run):
    others, in_flight = threading.Event(), set()

    def misbehave(number, body):
        asked = next(problem.id for problem in PROBLEMS if problem.text in body["messages"][0]["content"])
        if asked == PROBLEMS[0].id:
            others.wait(30)
            return 404, {}, "{}"
        in_flight.add(asked)
        if {PROBLEMS[1].id, PROBLEMS[2].id} <= in_flight:
            others.set()
        return 0.2

    with pytest.raises(ImplicitPRMError, match="404"):
        run(serve(misbehave))
    assert {PROBLEMS[1].id, PROBLEMS[2].id} <= {row["id"] for row in run.rows()}


def test_rejected_problem_does_not_stop_the_others(serve, run):
    def misbehave(number, body):
        if PROBLEMS[1].text in body["messages"][0]["content"]:
            return 400, {}, '{"error": {"message": "maximum context length is 16 tokens"}}'

    with pytest.raises(ImplicitPRMError, match="1 of 6 problems have no responses") as caught:
        run(serve(misbehave))
    assert f"{PROBLEMS[1].id}: the server answers 400: maximum context length is 16" in str(caught.value)
    assert [row["id"] for row in run.rows()] == [p.id for p in PROBLEMS if p is not PROBLEMS[1]]


def test_rejected_options_stop_the_run_at_once(serve, run, monkeypatch):
    server = serve()
    refusal = (400, {}, '{"error": {"message": "top_k must be -1 (disable) or at least 1"}}')
    monkeypatch.setattr(server, "answer", lambda *_: refusal)
    with pytest.raises(ImplicitPRMError, match=r"top_k must be -1 .* policy.extra_body"):
        run(server)
    assert run.rows() == []


def test_short_outage_is_waited_for(serve, run):
    server = serve()

    def misbehave(number, body):
        if number == 3:
            server.kill()
            threading.Timer(0.6, server.start).start()
            return "close"

    server.misbehave = misbehave
    _whole(run(server, retries=6))


def test_long_outage_stops_the_run_which_then_resumes(serve, run):
    server = serve()

    def misbehave(number, body):
        if number == 3:
            server.kill()
            return "close"

    server.misbehave = misbehave
    with pytest.raises(ImplicitPRMError, match=r"no reply \(.*; attempts: 2\)"):
        run(server, retries=1)
    done = {row["id"]: row for row in run.rows()}
    assert 1 <= len(done) < 6
    with pytest.raises(ImplicitPRMError, match=r"list of models: no reply .* attempts: 1"):
        run(server, retries=0)
    server.start()
    rows = run(server)
    _whole(rows)
    assert all(row == done.get(row["id"], row) for row in rows)


def test_interrupted_run_loses_and_doubles_nothing(serve, run, monkeypatch):
    server = serve()
    append, calls = rollouts.JsonLines.append, []

    def interrupted(self, row):
        calls.append(row)
        if len(calls) == 3:
            raise KeyboardInterrupt
        append(self, row)

    with monkeypatch.context() as patch:
        patch.setattr(rollouts.JsonLines, "append", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(server)
    assert len(run.rows()) == 2
    _whole(run(server))


def test_key_is_sent_and_never_written(serve, run, monkeypatch, tmp_path):
    server = serve()
    with pytest.raises(ImplicitPRMError, match=r"policy.api_key_env=MY_KEY"):
        run(server, api_key_env="MY_KEY")
    monkeypatch.setenv("MY_KEY", "sesame-123")
    _whole(run(server, api_key_env="MY_KEY"))
    assert {headers["authorization"] for headers in server.headers} == {"Bearer sesame-123"}
    assert all("sesame" not in file.read_text() for file in tmp_path.iterdir())


def test_record_has_the_model_and_the_address_may_change(serve, run):
    run(serve(lambda number, body: "close" if number == 3 else None), retries=4, concurrency=1)
    record = json.loads(run.meta.read_text())
    assert record["settings"]["backend"] == "server"
    assert record["settings"]["model"]["listed_as"] == "model"
    assert record["settings"]["chat_template_sha256"] == "applied by the server"
    lines = run.meta.parent / "r.jsonl"
    lines.write_text("".join(lines.read_text().splitlines(keepends=True)[:4]))
    elsewhere = serve()
    _whole(run(elsewhere))
    runs = json.loads(run.meta.read_text())["runs"]
    assert [run["base_url"] for run in runs] == [runs[0]["base_url"], elsewhere.url]
    lines.write_text("".join(lines.read_text().splitlines(keepends=True)[:4]))
    with pytest.raises(ImplicitPRMError, match=r"policy.extra_body.top_k=0.*=5"):
        run(elsewhere, extra_body={"top_k": 5})


def test_model_that_is_not_served_is_refused_with_the_served_ones(serve, run):
    with pytest.raises(ImplicitPRMError, match=r"policy.name=model; .* qwen, llama"):
        run(serve(models=("qwen", "llama")))


def test_several_processes_are_refused(serve, run, monkeypatch):
    sampler = rollouts.ServerSampler(ServerConfig(serve().url, "model"), SamplingConfig(), TextConfig(), lambda _: None)
    with pytest.raises(ImplicitPRMError, match=r"policy.concurrency"):
        next(sampler.sample(PROBLEMS, set(), Processes(0, 2)))


def test_missing_client_is_named(serve, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ImplicitPRMError, match=r"pip install 'implicit-prm\[server\]'"):
        run(serve())


def _trickle(server, monkeypatch, header):
    """The server sends a byte every 50 ms, from its header on or from its body on."""

    def send(self, *answer):
        if not header:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
        with contextlib.suppress(OSError):  # the client hangs up
            for _ in range(200):
                self.wfile.write(b" " if not header else b"H")
                self.wfile.flush()
                time.sleep(0.05)

    monkeypatch.setattr(server.handler, "_send", send)


@pytest.mark.parametrize("header", [True, False])
def test_a_reply_that_trickles_in_is_over_time(header, serve, run, monkeypatch):
    server = serve()
    _trickle(server, monkeypatch, header)
    start = time.monotonic()
    with pytest.raises(ImplicitPRMError, match=r"policy\.timeout_s=0\.5"):
        run(server, timeout_s=0.5, retries=5)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("trouble", [(429, {"Retry-After": "60"}, "{}"), (500, {}, "{}"), 60])
def test_the_time_limit_is_for_all_retries_and_the_run_resumes(trouble, serve, run):
    server = serve(lambda number, body: trouble if number >= 3 else None)
    start = time.monotonic()
    with pytest.raises(ImplicitPRMError, match=rf"{PROBLEMS[3].id}.*policy\.timeout_s=1"):
        run(server, timeout_s=1, retries=100, concurrency=1)
    assert time.monotonic() - start < 10
    assert len(run.rows()) == 3
    server.misbehave = lambda number, body: None
    _whole(run(server))
