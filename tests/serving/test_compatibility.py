"""Routes of other servers, with the bodies that their callers send: the score is that of the server's own route."""

import pytest

from implicit_prm.config import ScorerConfig
from implicit_prm.evaluation.scorer import wrap_scorer
from implicit_prm.rewards.implicit_reward import sigmoid
from implicit_prm.serving.scoring_queue import QueueFullError
from implicit_prm.types import StepScores
from tests.runs import PROBLEM, RESPONSES

CHAT = [{"role": "user", "content": PROBLEM}]
PROMPT = f"<|user|>{PROBLEM}<|assistant|>"  # rendered with the sandbox's template
RENDERED = [f"{PROMPT}{text}<|end|>" for text in RESPONSES]


@pytest.fixture(scope="module")
def own(client):
    """The answer of /v1/step_rewards to each response, alone as in the other routes."""
    bodies = [{"problem": PROBLEM, "responses": [text]} for text in RESPONSES]
    return [client.post("/v1/step_rewards", json=body).json()["results"][0] for body in bodies]


def post(client, route, body):
    answer = client.post(route, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def close(values):
    return pytest.approx(values, abs=1e-5)  # several responses to one prompt are scored together


def test_callers_of_vllm_send_a_chat_to_pooling(client, own):
    body = {"model": "any", "messages": [*CHAT, {"role": "assistant", "content": RESPONSES[0]}]}
    answer = post(client, "/pooling", body)
    assert answer["object"] == "list"
    (item,) = answer["data"]
    assert (item["index"], item["object"]) == (0, "pooling")
    assert item["data"] == [[close(sigmoid(reward))] for reward in own[0]["step_rewards"]]


@pytest.mark.parametrize("rendered", [False, True])
def test_reward_hub_tags_the_steps_for_qwens_prm(client, rendered):
    """It adds a system message, too, and reads the last number of each step."""
    steps, system = RESPONSES[0].split("\n"), {"role": "system", "content": "step by step"}
    tagged = "<extra_0>".join(steps) + "<extra_0>"
    body = {"messages": [system, *CHAT, {"role": "assistant", "content": tagged}]}
    if rendered:
        body = {"input": f"<|system|>step by step{PROMPT}{tagged}<|end|>"}
    rows = post(client, "/pooling", {"model": "Qwen/Qwen2.5-Math-PRM-7B", **body})["data"][0]["data"]
    plain = {"messages": [system, *CHAT], "responses": ["\n\n".join(steps)]}
    rewards = post(client, "/v1/step_rewards", plain)["results"][0]["step_rewards"]
    assert len(rewards) == len(steps)
    assert [row[-1] for row in rows] == [close(sigmoid(reward)) for reward in rewards]


def test_callers_of_vllm_send_texts_to_pooling(client, own):
    body = {"model": "any", "input": RENDERED, "task": "token_classify", "use_activation": False}
    for item, one in zip(post(client, "/pooling", body)["data"], own, strict=True):
        assert item["data"] == [[close(reward)] for reward in one["step_rewards"]]
    alone = post(client, "/pooling", body | {"input": RENDERED[0], "task": "classify"})
    assert alone["data"][0]["data"] == [close(own[0]["score"])]


def test_verl_sends_one_text_to_classify(client, own):
    """With the response as its policy wrote it, in the reward model's template, and BOS cut off."""
    body = {"model": "path/of/the/reward/model", "input": RENDERED[0], "use_activation": False}
    assert post(client, "/classify", body)["data"][-1]["probs"][-1] == close(own[0]["score"])
    activated = post(client, "/classify", body | {"use_activation": True})
    assert activated["data"][-1]["probs"][-1] == close(sigmoid(own[0]["score"]))


@pytest.mark.parametrize("route", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_callers_of_vllm_jina_and_cohere_send_documents_to_rerank(client, own, route):
    scores = [one["score"] for one in own]
    best, other = sorted(range(2), key=lambda place: -scores[place])
    body = {"model": "any", "query": PROBLEM, "documents": RESPONSES, "use_activation": False}
    answer = post(client, route, body)
    assert answer["id"]
    assert answer["model"]
    assert answer["results"] == [
        {"index": place, "relevance_score": close(scores[place]), "document": {"text": RESPONSES[place]}}
        for place in (best, other)
    ]
    cohere = body | {"documents": [{"text": text} for text in RESPONSES], "top_n": 1, "return_documents": False}
    assert post(client, route, cohere | {"use_activation": None})["results"] == [
        {"index": best, "relevance_score": close(sigmoid(scores[best]))}
    ]
    assert len(post(client, route, body | {"top_n": 0})["results"]) == 2  # vLLM's default, for all


class Saturated:
    """A scorer whose rewards all have a sigmoid of 1."""

    def score(self, problem, responses):
        return [StepScores(text, [], [100.0 + len(text)]) for text in responses]


def test_a_ranking_does_not_depend_on_the_activation(serving):
    with serving(wrap_scorer(Saturated(), ScorerConfig(), False)) as client:
        results = post(client, "/rerank", {"query": PROBLEM, "documents": ["a", "ccc", "bb"]})["results"]
    assert [(one["index"], one["relevance_score"]) for one in results] == [(1, 1.0), (2, 1.0), (0, 1.0)]


def test_a_product_is_a_probability_already(serving):
    class Signed:
        def score(self, problem, responses):
            return [StepScores(text, [], [-8.0, 8.0]) for text in responses]

    product = sigmoid(-8.0) * sigmoid(8.0)
    with serving(wrap_scorer(Signed(), ScorerConfig(), False), aggregate="product") as client:
        assert (
            post(client, "/rerank", {"query": PROBLEM, "documents": ["a"]})["results"][0]["relevance_score"] == product
        )


def test_openrlhf_sends_queries_with_their_prompts(client, own):
    body = {"query": RENDERED, "prompts": [PROMPT, PROMPT], "labels": ["11", None]}
    answer = post(client, "/get_reward", body)
    assert answer["rewards"] == answer["scores"] == [close(one["score"]) for one in own]
    assert answer["extra_logs"] == {}
    assert post(client, "/get_reward", {"query": RENDERED})["rewards"] == answer["rewards"]  # before 0.6


def test_a_query_without_end_of_turn_was_cut_off(client):
    body = {"query": [RENDERED[0].removesuffix("<|end|>")], "prompts": [PROMPT], "labels": [None]}
    cut = {"problem": PROBLEM, "responses": RESPONSES[:1], "finished": [False]}
    direct = post(client, "/v1/step_rewards", cut)["results"][0]["score"]
    assert post(client, "/get_reward", body)["rewards"] == [close(direct)]


def test_callers_of_llama_factory_send_texts(client, own):
    answer = post(client, "/v1/score/evaluation", {"model": "any", "messages": RENDERED, "max_length": None})
    assert answer["object"] == "score.evaluation"
    assert answer["scores"] == [close(one["score"]) for one in own]
    assert answer["id"]
    assert answer["model"]


@pytest.mark.parametrize("prompt", [PROBLEM, PROMPT, CHAT], ids=["bare", "rendered", "chat"])
def test_slime_sends_prompt_and_response(client, own, prompt):
    body = {"prompt": prompt, "response": RESPONSES[0], "label": "11"}
    assert post(client, "/remote_rm", body) == close(own[0]["score"])


@pytest.mark.parametrize(
    ("route", "body", "words"),
    [
        ("/pooling", {"input": "12 + 7 = 19"}, ["generation prompt", "<|assistant|>"]),
        ("/pooling", {"messages": CHAT}, ["messages", "assistant"]),
        ("/pooling", {}, ["messages", "input"]),
        ("/pooling", {"input": RENDERED, "truncate_prompt_tokens": 5}, ["truncate_prompt_tokens"]),
        ("/pooling", {"input": RENDERED, "encoding_format": "base64"}, ["encoding_format"]),
        ("/classify", {"input": f"{PROMPT}<|end|>"}, ["empty_score"]),
        ("/classify", {"input": RENDERED, "task": "token_classify"}, ["task"]),
        ("/rerank", {"query": PROBLEM, "documents": []}, ["documents"]),
        ("/rerank", {"query": PROBLEM, "documents": ["1", ""]}, ["empty_score"]),
        ("/rerank", {"query": PROBLEM, "documents": ["1"], "max_tokens_per_doc": 9}, ["max_tokens_per_doc"]),
        ("/get_reward", {"query": RENDERED, "prompts": [PROMPT, "another"]}, ["another", "start"]),
        ("/get_reward", {"query": RENDERED, "prompts": [PROMPT]}, ["prompts"]),
        ("/get_reward", {"query": [RENDERED[0], f"{PROMPT}{'1 + 1 = 2' * 99}"]}, ["problem 1", "256"]),
        ("/v1/score/evaluation", {"messages": ["text"]}, ["generation prompt"]),
        ("/v1/score/evaluation", {"messages": RENDERED, "max_length": 64}, ["max_length"]),
        ("/remote_rm", {"prompt": PROBLEM}, ["response"]),
    ],
)
def test_what_cannot_be_scored_is_refused(client, route, body, words):
    answer = client.post(route, json=body)
    assert answer.status_code == 422, answer.text
    assert all(word in answer.json()["error"]["message"] for word in words), answer.text


def test_an_empty_response_can_have_a_score(serving):
    with serving(empty_score=-9.0) as client:
        assert post(client, "/remote_rm", {"prompt": PROBLEM, "response": "", "label": None}) == -9
        assert post(client, "/pooling", {"input": f"{PROMPT}<|end|>"})["data"][0]["data"] == []


def test_a_full_queue_answers_verl_with_a_status_that_it_retries(serving, monkeypatch):
    def full(groups):
        raise QueueFullError

    with serving() as client:
        monkeypatch.setattr(client.app.state.queue, "submit", full)
        assert client.post("/classify", json={"input": RENDERED[0]}).status_code == 503
        assert client.post("/remote_rm", json={"prompt": PROBLEM, "response": "1"}).status_code == 429


class Halves:
    """A scorer of probabilities, without tokenizer."""

    def score(self, problem, responses):
        return [StepScores(text, [], [0.5], kind="probability") for text in responses]


def test_probabilities_are_answered_as_they_are_and_texts_need_a_template(serving):
    with serving(wrap_scorer(Halves(), ScorerConfig(), False)) as client:
        body = {"messages": [*CHAT, {"role": "assistant", "content": "1"}]}
        for activation in (True, False):
            assert post(client, "/classify", body | {"use_activation": activation})["data"][0]["probs"] == [0.5]
        refused = client.post("/classify", json={"input": RENDERED[0]})
        assert refused.status_code == 422
        assert "chat template" in refused.json()["error"]["message"]
