"""The server's own route: what it answers, and what it refuses."""

import json

import pytest

from implicit_prm.baselines.run import fit
from implicit_prm.config import ScorerConfig
from implicit_prm.evaluation.scorer import open_checkpoint, wrap_scorer
from implicit_prm.rewards.implicit_reward import aggregate
from implicit_prm.types import StepScores
from tests.baselines.runs import baseline, labelled_file, quiet
from tests.runs import PROBLEM, RESPONSES

ROUTE = "/v1/step_rewards"
BODY = {"problem": PROBLEM, "responses": RESPONSES}


def results(client, **body):
    answer = client.post(ROUTE, json=BODY | body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_answer_is_what_the_scorer_returns(client, scorer):
    answer = results(client)
    direct = scorer.model.score(PROBLEM, RESPONSES)
    assert (answer["kind"], answer["aggregate"], answer["over"]) == ("log_ratio", "min", "step")
    assert len(answer["results"]) == len(direct)
    for text, found, one in zip(RESPONSES, answer["results"], direct, strict=True):
        assert found["step_rewards"] == one.step_rewards
        assert found["prefix_values"] == one.prefix_values
        assert found["score"] == aggregate(one)
        assert "".join(text[start:end] for start, end in found["spans"]) == text
        assert len(found["spans"]) == len(found["step_rewards"]) == text.count("\n") + 1


def test_a_problem_and_a_chat_of_it_are_one_prompt(client):
    chat = {"problem": None, "messages": [{"role": "user", "content": PROBLEM}]}
    assert results(client, **chat) == results(client)


def test_a_response_that_was_cut_off_gets_no_end_of_turn(client, scorer):
    found = results(client, finished=[False, True])["results"]
    direct = scorer.model.score(PROBLEM, RESPONSES, finished=[False, True])
    assert [one["step_rewards"] for one in found] == [one.step_rewards for one in direct]
    assert found[0] != results(client)["results"][0]


def test_the_score_is_read_as_the_options_say(serving):
    with serving(aggregate="last", over="prefix") as client:
        assert all(one["score"] == one["prefix_values"][-1] for one in results(client)["results"])


def test_a_response_without_steps_has_no_score(client):
    found = results(client, responses=["", RESPONSES[0]])["results"]
    assert found[0] == {"step_rewards": [], "spans": [], "prefix_values": [], "score": None}
    assert found[1]["score"] is not None


def test_a_server_with_given_steps_takes_them(serving, config):
    with serving(open_checkpoint(config, "given", skip_too_long=False)) as client:
        steps = [["12 + 7 = 19\n19 * 3 = 7\n", "7 + 4 = 11\n\\boxed{11}"], [RESPONSES[1]]]
        assert [len(one["step_rewards"]) for one in results(client, steps=steps)["results"]] == [2, 1]
        assert client.post(ROUTE, json=BODY).status_code == 422


def test_an_explicit_reward_model_is_served(serving, config, tmp_path, tiny_folder):
    rollouts = labelled_file(tmp_path / "rows.jsonl")
    fit(baseline(tmp_path / "model", tiny_folder, rollouts, "value_head", trainer={"max_steps": 1}), quiet)
    opened = open_checkpoint(ScorerConfig(checkpoint=str(tmp_path / "model")), None, skip_too_long=False)
    with serving(opened) as client:
        answer = results(client)
    assert answer["kind"] == "probability"
    assert [one["step_rewards"] for one in answer["results"]] == [
        one.step_rewards for one in opened.model.score(PROBLEM, RESPONSES)
    ]
    assert all(one["prefix_values"] is None for one in answer["results"])


class Lengths:
    """A scorer without tokenizer: the length of each response, negative."""

    def score(self, problem, responses):
        if problem == "broken":
            raise RuntimeError("out of memory")
        return [StepScores(text, [], [-float(len(text))]) for text in responses]


def test_a_scorer_of_the_users_own_is_served(serving):
    with serving(wrap_scorer(Lengths(), ScorerConfig(), False)) as client:
        assert [one["score"] for one in results(client)["results"]] == [-len(text) for text in RESPONSES]
        broken = client.post(ROUTE, json=BODY | {"problem": "broken"})
        assert broken.status_code == 500
        assert "out of memory" in broken.json()["error"]["message"]
        assert client.post(ROUTE, json=BODY).status_code == 200


class Probabilities:
    """A scorer that says of scores only that they are probabilities."""

    def score(self, problem, responses):
        return [
            StepScores(text, [], [0.5], kind="probability") if text else StepScores("", [], []) for text in responses
        ]


def test_the_kind_is_that_of_responses_with_scores(serving):
    with serving(wrap_scorer(Probabilities(), ScorerConfig(), False)) as client:
        assert results(client, responses=["", "1"])["kind"] == "probability"


def test_a_scorer_that_takes_no_steps_gets_none(serving):
    with serving(wrap_scorer(Lengths(), ScorerConfig(), False)) as client:
        answer = client.post(ROUTE, json=BODY | {"steps": [["a"], ["b"]]})
    assert answer.status_code == 422
    assert "given_steps" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"problem": None}, ["problem", "messages"]),
        ({"messages": [{"role": "user", "content": "1 + 1"}]}, ["problem", "messages"]),
        ({"problem": 3}, ["problem"]),
        ({"responses": []}, ["responses"]),
        ({"responses": "one"}, ["responses"]),
        ({"responses": ["a", None]}, ["responses[1]"]),
        ({"responses": ["1 + 1 = 2\n" * 60, "2"]}, ["response 0", "256"]),
        ({"finished": [True]}, ["finished", "1"]),
        ({"steps": [["a"], ["b"]]}, ["steps"]),
        ({"max_length": 5}, ["max_length"]),
        ({"problem": None, "messages": []}, ["messages"]),
        ({"problem": None, "messages": [{"role": "user"}]}, ["messages[0].content"]),
        ({"problem": None, "messages": [{"role": "assistant", "content": "a"}]}, ["messages", "responses"]),
        ({"problem": "<|user|>1 + 1"}, ["generation prompt"]),
    ],
)
def test_what_cannot_be_scored_is_refused_by_name(client, changes, words):
    answer = client.post(ROUTE, json=BODY | changes)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (422, 422), answer.text
    assert all(word in error["message"] for word in words), error["message"]


@pytest.mark.parametrize(
    "body",
    ["", "{", "[]", '"text"', json.dumps(BODY).replace("12 +", "\\ud800"), "[" * 100_000],
    ids=["empty", "cut", "list", "text", "surrogate", "nested"],
)
def test_what_is_no_request_is_refused(client, body):
    answer = client.post(ROUTE, content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422), answer.text
    assert answer.json()["error"]["message"]


def test_too_many_responses_in_one_request_are_refused(serving):
    with serving(max_responses=2) as client:
        assert results(client)
        answer = client.post(ROUTE, json=BODY | {"responses": ["1", "2", "3"]})
        assert answer.status_code == 422
        assert "max_responses" in answer.json()["error"]["message"]
