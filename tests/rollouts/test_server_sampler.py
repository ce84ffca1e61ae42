"""Sampling from a server: what is asked, what is made of bad answers, outages; nothing lost, nothing doubled."""

import json
import sys
import threading

import pytest

from implicit_prm import sandbox
from implicit_prm.config import ProblemsConfig, RolloutConfig, SamplingConfig, ServerConfig
from implicit_prm.rollouts import run as rollouts
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
    """`run(server, n=3, retries=1)` samples six problems and returns the rows; what was said is in `run.said`."""

    def rollout(server, n=3, template="Solve: {problem}", **policy):
        run.said = []
        options = {"concurrency": 3, "retries": 2, "timeout_s": 5.0} | policy
        rollouts.rollout(
            RolloutConfig(
                policy=ServerConfig(**({"base_url": server.url, "name": "model"} | options)),
                problems=ProblemsConfig("sandbox", "train", limit=6, prompt_template=template),
                sampling=SamplingConfig(n=n, max_new_tokens=20, temperature=0.7, top_p=0.9),
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


def test_rows_are_in_the_order_of_the_problems_however_the_answers_come(serve, run):
    server = serve(lambda number, body: 0.2 if number == 0 else 0)
    rows = run(server)
    _whole(rows)
    assert rows[0]["prompt"] == [{"role": "user", "content": f"Solve: {PROBLEMS[0].text}"}]
    assert all(row["finished"] == [True] * 3 and len(row["step_labels"]) == 3 for row in rows)
    assert any("18 responses to 6 problems: 0.0% correct, 0.0% cut off" in line for line in run.said)
    assert any("54 tokens in" in line and "tokens/s" in line for line in run.said)


def test_a_request_asks_for_nothing_but_temperature_and_top_p(serve, run):
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


def test_a_raw_prompt_goes_out_as_plain_text(serve, run):
    server = serve()
    rows = run(server, template="raw:Q: {problem}\nA:")
    _whole(rows)
    assert rows[0]["prompt"] == f"Q: {PROBLEMS[0].text}\nA:"
    assert {(r["path"], "messages" in r) for r in server.requests} == {("/v1/completions", False)}
    assert rows[0]["prompt"] in {r["prompt"] for r in server.requests}


@pytest.mark.parametrize("takes_n", ["ignores", "refuses"])
def test_a_server_without_n_is_asked_again(takes_n, serve, run):
    server = serve(takes_n=takes_n)
    _whole(run(server))
    assert len(server.requests) == 18
    assert all("n" not in request for request in server.requests)
    assert len({request["seed"] for request in server.requests}) == 18
    assert any("one response to a request: each problem takes 3" in line for line in run.said)


def test_choices_that_are_missing_from_an_answer_are_asked_for(serve, run):
    server = serve(lambda number, body: ok(f"only {body['seed']}") if body.get("n") == 3 else None)
    _whole(run(server))
    assert sorted(request.get("n", 1) for request in server.requests) == [2] * 6 + [3] * 6


def test_a_response_that_was_cut_off_is_not_finished(serve, run):
    rows = run(serve(lambda number, body: ok("a", "b", "c", reason="length")))
    assert all(row["finished"] == [False] * 3 for row in rows)
    assert any("18 responses to 6 problems: 0.0% correct, 100.0% cut off" in line for line in run.said)


@pytest.mark.parametrize("trouble", [(500, QUICK, "{}"), (503, QUICK, "<html>"), "close"])
def test_a_passing_failure_is_survived(trouble, serve, run):
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
        ((200, {}, "{not json"), ["not one of OpenAI's protocol"]),
        ((200, {}, "{}"), ["without choices"]),
        (ok(), ["without choices"]),
        (ok(None), ["a choice without text"]),
        ((200, {}, '{"choices": [{}]}'), ["a choice without text"]),
        ((200, {}, '{"choices": {"a": 1}}'), ["without choices"]),
        (
            (200, {}, '{"choices": [{"message": {"content": "4", "reasoning_content": "2 + 2"}}]}'),
            ["without a reasoning parser"],
        ),
        ((500, QUICK, '{"error": {"message": "CUDA out of memory"}}'), ["500: CUDA out of memory", "attempts: 3"]),
        ((404, {}, '{"error": {"message": "no model x"}}'), ["404: no model x", "policy.name"]),
        ((401, {}, '{"error": {"message": "who are you"}}'), ["401: who are you", "policy.api_key_env"]),
        ("close", ["no answer", "attempts: 3"]),
    ],
)
def test_a_lasting_failure_names_the_problem_and_the_same_call_goes_on(trouble, words, serve, run):
    server = serve(lambda number, body: trouble if number >= 3 else None)
    with pytest.raises(ImplicitPRMError) as caught:
        run(server, concurrency=1)
    for word in [*words, server.url, PROBLEMS[3].id, "What was done is kept"]:
        assert word in str(caught.value)
    done = run.rows()
    assert [row["id"] for row in done] == [problem.id for problem in PROBLEMS[:3]]
    server.misbehave = lambda number, body: None
    before = len(server.requests)
    rows = run(server, concurrency=1)
    _whole(rows)
    assert rows[:3] == done
    assert len(server.requests) - before == 3


def test_answers_on_their_way_are_kept_when_another_fails(serve, run):
    others, on_their_way = threading.Event(), set()

    def misbehave(number, body):
        asked = next(problem.id for problem in PROBLEMS if problem.text in body["messages"][0]["content"])
        if asked == PROBLEMS[0].id:
            others.wait(30)
            return 404, {}, "{}"
        on_their_way.add(asked)
        if {PROBLEMS[1].id, PROBLEMS[2].id} <= on_their_way:
            others.set()
        return 0.2

    with pytest.raises(ImplicitPRMError, match="404"):
        run(serve(misbehave))
    assert {PROBLEMS[1].id, PROBLEMS[2].id} <= {row["id"] for row in run.rows()}


def test_one_problem_that_the_server_will_not_take_holds_up_no_other(serve, run):
    def misbehave(number, body):
        if PROBLEMS[1].text in body["messages"][0]["content"]:
            return 400, {}, '{"error": {"message": "maximum context length is 16 tokens"}}'

    with pytest.raises(ImplicitPRMError, match="1 of 6 problems have no responses; all others are there") as caught:
        run(serve(misbehave))
    assert f"{PROBLEMS[1].id}: the server answers 400: maximum context length is 16" in str(caught.value)
    assert [row["id"] for row in run.rows()] == [p.id for p in PROBLEMS if p is not PROBLEMS[1]]


def test_a_request_that_no_problem_could_make_better_is_refused_at_once(serve, run, monkeypatch):
    server = serve()
    refusal = (400, {}, '{"error": {"message": "top_k must be -1 (disable) or at least 1"}}')
    monkeypatch.setattr(server, "answer", lambda *_: refusal)
    with pytest.raises(ImplicitPRMError, match=r"top_k must be -1 .* \(see policy.extra_body"):
        run(server)
    assert run.rows() == []


def test_a_server_that_is_away_for_a_moment_is_waited_for(serve, run):
    server = serve()

    def misbehave(number, body):
        if number == 3:
            server.kill()
            threading.Timer(0.6, server.start).start()
            return "close"

    server.misbehave = misbehave
    _whole(run(server, retries=6))


def test_a_server_that_stays_away_ends_the_run_and_the_same_call_goes_on(serve, run):
    server = serve()

    def misbehave(number, body):
        if number == 3:
            server.kill()
            return "close"

    server.misbehave = misbehave
    with pytest.raises(ImplicitPRMError, match=r"no answer \(.*; attempts: 2\); see that the server runs"):
        run(server, retries=1)
    done = {row["id"]: row for row in run.rows()}
    assert 1 <= len(done) < 6
    with pytest.raises(ImplicitPRMError, match=r"the list of its models: no answer .* attempts: 1"):
        run(server, retries=0)
    server.start()
    rows = run(server)
    _whole(rows)
    assert all(row == done.get(row["id"], row) for row in rows)


def test_an_interrupted_run_loses_and_doubles_nothing(serve, run, monkeypatch):
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


def test_the_key_is_sent_and_never_written_down(serve, run, monkeypatch, tmp_path):
    server = serve()
    with pytest.raises(ImplicitPRMError, match=r"policy.api_key_env=MY_KEY: this environment variable is not set"):
        run(server, api_key_env="MY_KEY")
    monkeypatch.setenv("MY_KEY", "sesame-123")
    _whole(run(server, api_key_env="MY_KEY"))
    assert {headers["authorization"] for headers in server.headers} == {"Bearer sesame-123"}
    assert all("sesame" not in file.read_text() for file in tmp_path.iterdir())


def test_the_record_says_who_answered_and_another_address_is_no_other_model(serve, run):
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
    with pytest.raises(ImplicitPRMError, match=r"made with policy.extra_body.top_k=0, now it is 5"):
        run(elsewhere, extra_body={"top_k": 5})


def test_a_model_that_is_not_served_is_refused_with_those_that_are(serve, run):
    with pytest.raises(ImplicitPRMError, match=r"does not serve policy.name=model; it lists qwen, llama"):
        run(serve(models=("qwen", "llama")))


def test_several_processes_are_refused(serve, run, monkeypatch):
    sampler = rollouts.ServerSampler(
        ServerConfig(serve().url, "model"), SamplingConfig(), rollouts.TextConfig(), lambda _: None
    )
    with pytest.raises(ImplicitPRMError, match=r"launch one and raise policy.concurrency"):
        next(sampler.sample(PROBLEMS, set(), Processes(0, 2)))


def test_a_missing_client_is_named(serve, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ImplicitPRMError, match=r"pip install 'implicit-prm\[server\]'"):
        run(serve())
