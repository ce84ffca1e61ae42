"""A response is continued over HTTP: the tokens of a request, where the server has stopped, and failures."""

import json

import pytest

from implicit_prm.config import SearchConfig, TextConfig, from_mapping
from implicit_prm.data.tokenization import Encoder
from implicit_prm.models import loading
from implicit_prm.models.source import ModelSource
from implicit_prm.search.protocols import RefusedError
from implicit_prm.search.server_generation import ServerGenerator
from implicit_prm.types import ImplicitPRMError, Problem
from tests.rollouts.fake_server import FakeServer

PROBLEM = Problem("p", "Modulo 50, left to right: 1 + 2 * 3", "9")
STOP = {"stop_reason": "\n"}
END = {"stop_reason": None}


def encoder():
    return Encoder(loading.open_tokenizer(ModelSource.resolve("sandbox")), TextConfig())


def reply(text, tokens=3, reason="stop", **fields):
    choice = {"index": 0, "finish_reason": reason, "text": text, **fields}
    return 200, {}, json.dumps({"choices": [choice], "usage": {"completion_tokens": tokens}})


@pytest.fixture
def serve():
    servers = []

    def start(answer):
        servers.append(FakeServer(lambda number, body: answer(body)))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


def opened(server, rule="newline", **options):
    config = from_mapping(
        SearchConfig,
        {
            "policy": {"kind": "server", "base_url": server.url, "name": "model", "retries": 0, "timeout_s": 5.0},
            "problems": {"name": "sandbox", "prompt_template": "{problem}"},
            "sampling": {"n": 2, "max_new_tokens": 20, "temperature": 0.7, "top_p": 0.9},
            "algorithm": {"name": "beam", "branch": 2},
            "output": "candidates.jsonl",
            "tokenizer": "sandbox",
            **options,
        },
    )
    return ServerGenerator(config, rule, lambda _: None).open(PROBLEM, 0)


def test_a_request_holds_prompt_and_prefix_and_stops_at_the_end_of_a_step(serve):
    texts = iter(["1 + 2 = 3", "1 + 2 = 4", "3 * 3 = 9", "4 * 3 = 12"])
    server = serve(lambda body: reply(next(texts), **STOP))
    generation = opened(server)
    first = [prefix.text for prefix in generation.extend([0, 0])]
    assert sorted(first) == ["1 + 2 = 3\n", "1 + 2 = 4\n"]
    second = [prefix.text for prefix in generation.extend([1, 1])]
    assert all(text.startswith(first[1]) and text.endswith("\n") for text in second)
    prompt = encoder().prompt_ids(PROBLEM.text)
    assert [request["prompt"] for request in server.requests[:2]] == [prompt, prompt]
    continued = [*prompt, *encoder().response(first[1], finished=False).ids]
    assert [request["prompt"] for request in server.requests[2:]] == [continued, continued]
    expected = {"path": "/v1/completions", "model": "model", "stop": ["\n"], "temperature": 0.7, "top_p": 0.9}
    assert all(expected.items() <= request.items() for request in server.requests)
    assert {request["max_tokens"] for request in server.requests} == {20, 20 - len(continued) + len(prompt)}
    assert len({request["seed"] for request in server.requests}) == 4
    assert generation.tokens == len(prompt) + 4 * 3


@pytest.mark.parametrize(
    ("answer", "text", "finished", "cut_off"),
    [
        (reply("1 + 2 = 3", **STOP), "1 + 2 = 3\n", False, False),
        (reply("1 + 2 = 3\n"), "1 + 2 = 3\n", False, False),
        (reply("1 + 2 = 3\n", **STOP), "1 + 2 = 3\n", False, False),
        (reply("1 + 2 = 3", matched_stop="\n"), "1 + 2 = 3\n", False, False),
        (reply("\\boxed{3}", **END), "\\boxed{3}", True, False),
        (reply("\\boxed{3}", matched_stop=2), "\\boxed{3}", True, False),
        (reply("1 + 2", reason="length", tokens=20), "1 + 2", False, True),
        (reply("1 + 2 = 3", tokens=20, **STOP), "1 + 2 = 3\n", False, True),
        (reply("", reason="content_filter"), "", False, True),
    ],
)
def test_where_the_server_has_stopped(serve, answer, text, finished, cut_off):
    for prefix in opened(serve(lambda body: answer)).extend([0, 0]):
        assert (prefix.text, prefix.finished, prefix.cut_off) == (text, finished, cut_off)


@pytest.mark.parametrize("blank", ["\n\n", "\n \n", "\n\t\n"])
def test_a_server_stops_at_blank_lines_with_white_space(serve, blank):
    server = serve(lambda body: reply("1 + 2", stop_reason=blank))
    assert [prefix.text for prefix in opened(server, "blank_line").extend([0, 0])] == [f"1 + 2{blank}"] * 2
    assert all(blank in request["stop"] for request in server.requests)


@pytest.mark.parametrize(
    "end", [{"stop_reason": "\n\n"}, END, {"reason": "length", "tokens": 20}], ids=["step", "response", "limit"]
)
def test_a_step_ends_where_the_server_has_not_seen_its_end(serve, end):
    server = serve(lambda body: reply("1 + 2 = 3\n   \n3 * 3 = 9\n\n", **end))
    generation = opened(server, "blank_line")
    for prefix in generation.extend([0, 0]):
        assert (prefix.text, prefix.done) == ("1 + 2 = 3\n   \n", False)
    server.misbehave = lambda number, body: reply("\\boxed{9}", **END)
    for prefix in generation.extend([0, 1]):
        assert (prefix.text, prefix.finished) == ("1 + 2 = 3\n   \n\\boxed{9}", True)


def test_a_line_break_before_a_step_does_not_end_it(serve):
    texts = iter(["\n", "1 + 2 = 3\n", "3\n", "\n", "\n", "4\n"])
    server = serve(lambda body: reply(next(texts), **STOP))
    generation = opened(server, sampling={"n": 1, "max_new_tokens": 64}, algorithm={"name": "particles"})
    assert [generation.extend([0])[0].text for _ in range(3)] == [
        "\n1 + 2 = 3\n",
        "\n1 + 2 = 3\n3\n",
        "\n1 + 2 = 3\n3\n\n\n4\n",
    ]
    assert len({request["seed"] for request in server.requests}) == 6


def test_a_server_that_does_not_say_where_it_has_stopped_is_refused(serve):
    with pytest.raises(ImplicitPRMError, match="chunk_tokens"):
        opened(serve(lambda body: reply("1 + 2 = 3"))).extend([0, 0])


def test_chunks_need_no_stop(serve):
    server = serve(lambda body: reply("1 + 2 = 3\n3", tokens=8, reason="length"))
    generation = opened(server, chunk_tokens=8)
    assert [prefix.done for prefix in generation.extend([0, 0])] == [False, False]
    server.misbehave = lambda number, body: reply(" = 9")
    assert [prefix.finished for prefix in generation.extend([0, 0])] == [True, True]
    assert {request["max_tokens"] for request in server.requests} == {8}
    assert all("stop" not in request for request in server.requests)


def test_whole_responses_are_one_request_each(serve):
    server = serve(lambda body: reply("1 + 2 = 3\n\\boxed{3}"))
    found = opened(server, algorithm={"name": "best_of_n"}).extend([0, 0])
    assert [prefix.finished for prefix in found] == [True, True]
    assert len(server.requests) == 2


def test_failures(serve):
    too_long = 400, {}, '{"error": {"message": "maximum context length is 16 tokens"}}'
    with pytest.raises(RefusedError, match="maximum context"):
        opened(serve(lambda body: too_long)).extend([0, 0])
    with pytest.raises(ImplicitPRMError, match=r"p: the server answers 500.*resumes"):
        opened(serve(lambda body: (500, {}, "{}"))).extend([0, 0])
