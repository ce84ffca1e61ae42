"""Searches write candidates: resumed equals uninterrupted, tokens are counted, `ipr-eval` reads them."""

import json
from dataclasses import replace
from itertools import combinations

import pytest
from transformers import AutoTokenizer

from implicit_prm import ImplicitPRM, evaluate, sandbox
from implicit_prm.config import SearchConfig, from_mapping
from implicit_prm.data.groups import load_groups
from implicit_prm.data.tokenization import Encoder
from implicit_prm.models.loading import open_tokenizer
from implicit_prm.models.source import ModelSource
from implicit_prm.rollouts import run as rollouts
from implicit_prm.rollouts.provenance import Provenance, fixed_options
from implicit_prm.rollouts.run import rollout
from implicit_prm.search import run
from implicit_prm.search.transformers_generator import TransformersGenerator
from implicit_prm.types import ImplicitPRMError, StepScores
from tests.conftest import tiny_model
from tests.rollouts.fake_server import FakeServer
from tests.rollouts.test_run import Team
from tests.search.test_server_generation import END, STOP, reply

ALGORITHMS = {
    "best_of_n": {},
    "beam": {"branch": 2},
    "dvts": {"branch": 2},
    "rebase": {"temperature": 0.5},
    "particles": {"temperature": 0.5},
    "tokens": {"weight": 0.5},
}


def quiet(*_):
    pass


@pytest.fixture
def options(tmp_path, tiny_folder, other_folder):
    """The tiny model, guided by another one whose reference it is."""

    def make(name="beam", **changes):
        values = {
            "policy": {"name": str(tiny_folder), "dtype": "float32"},
            "problems": {"name": "sandbox", "limit": 2, "prompt_template": "{problem}"},
            "sampling": {"n": 4, "max_new_tokens": 12, "seed": 5},
            "algorithm": {"name": name, **ALGORITHMS[name]},
            "guide": {"checkpoint": str(other_folder), "reference": str(tiny_folder), "beta": 0.5},
            "steps": "newline",
            "output": str(tmp_path / "candidates.jsonl"),
        }
        return from_mapping(SearchConfig, values | changes)

    return make


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_rows_are_candidates_with_the_guides_scores(algorithm, options, other_folder, tiny_folder):
    config = options(algorithm)
    rows = read(run.search_responses(config, say=quiet))
    assert [row["id"] for row in rows] == [problem.id for problem in sandbox.problems("train", 2)]
    prm = ImplicitPRM.from_pretrained(other_folder, str(tiny_folder), 0.5, steps="newline", device="cpu")
    for row in rows:
        assert {len(row[name]) for name in ("completions", "correctness", "finished", "guide_scores")} == {4}
        expected = prm.score(row["prompt"], row["completions"], finished=row["finished"])
        for found, one in zip(row["guide_scores"], expected, strict=True):
            assert found == pytest.approx(one.step_rewards, abs=1e-4)


def test_a_reference_that_reads_another_prompt_than_the_generator_is_computed(options, other_folder):
    """The generator's own log-probabilities are those after its own prompt."""
    arguments = {"steps": "newline", "prompt_template": "{problem} + 1", "device": "cpu"}
    prm = ImplicitPRM.from_pretrained(other_folder, "sandbox", 0.5, **arguments)
    config = options(guide=None, policy={"name": "sandbox", "dtype": "float32"})
    for row in read(run.search_responses(config, prm, quiet)):
        expected = prm.score(row["prompt"], row["completions"], finished=row["finished"])
        for found, one in zip(row["guide_scores"], expected, strict=True):
            assert found == pytest.approx(one.step_rewards, abs=1e-4)


def test_a_quantized_reference_is_another_model_than_the_generator(options, other_folder, tiny_folder):
    prm = ImplicitPRM.from_pretrained(other_folder, str(tiny_folder), 0.5, device="cpu")
    assert TransformersGenerator(options(), "newline", prm).is_reference
    prm.metadata = replace(prm.metadata, quantization="4bit")
    assert not TransformersGenerator(options(), "newline", prm).is_reference


def test_an_evaluation_reads_the_candidates(options):
    path = run.search_responses(options(), say=quiet)
    kind = read(path)[0]["guide_kind"]
    metrics = evaluate(path, "guide_scores", scores_kind=kind, bootstrap_resamples=10, vote_draws=10)
    assert metrics["responses"] == 8


def test_best_of_n_is_plain_sampling(options):
    config = options("best_of_n")
    plain = rollouts.RolloutConfig(config.policy, config.problems, config.sampling, config.output + ".plain")
    searched, sampled = read(run.search_responses(config, say=quiet)), read(rollout(plain, quiet))
    assert [row["completions"] for row in searched] == [row["completions"] for row in sampled]


def test_tokens_of_both_models_are_counted(options, tiny_folder):
    """The generator is the reference, so pi_theta runs besides it; each response is scored once."""
    config = options("best_of_n")
    encoder = Encoder(open_tokenizer(ModelSource.resolve(tiny_folder)), config.problems.text)
    path = run.search_responses(config, say=quiet)
    for group, row in zip(load_groups(str(path)), read(path), strict=True):
        prompt = len(encoder.prompt_ids(row["prompt"]))
        responses = [len(one.ids) for one in encoder.group_responses(group)]
        # The reference runs on responses whose text has other tokens than were sampled.
        retokenized = [sum(some) for size in range(1, 5) for some in combinations(responses, size)]
        reference = row["guide_tokens"] - prompt - sum(responses)
        assert reference in (0, *(prompt + tokens for tokens in retokenized))
        assert prompt + sum(responses) <= row["generator_tokens"] <= prompt + 4 * 12


def test_guidance_with_weight_one_samples_from_the_policy(options, other_folder, tmp_path):
    """Of the reference and pi_theta only the latter runs."""
    guided = options("tokens", algorithm={"name": "tokens", "weight": 1.0})
    plain = options(
        "best_of_n", policy={"name": str(other_folder), "dtype": "float32"}, output=str(tmp_path / "p.jsonl")
    )
    found, expected = read(run.search_responses(guided, say=quiet)), read(run.search_responses(plain, say=quiet))
    assert [row["completions"] for row in found] == [row["completions"] for row in expected]
    assert {row["generator_tokens"] for row in found} == {0}


@pytest.mark.parametrize("algorithm", ["particles", "tokens"])
def test_resumed_equals_uninterrupted(algorithm, options, monkeypatch, tmp_path):
    whole = run.search_responses(options(algorithm), say=quiet).read_bytes()
    config = options(algorithm, output=str(tmp_path / "again.jsonl"))
    append, calls = rollouts.JsonLines.append, []

    def interrupted(self, row):
        calls.append(row)
        if len(calls) == 2:
            raise KeyboardInterrupt
        append(self, row)

    with monkeypatch.context() as patch:
        patch.setattr(rollouts.JsonLines, "append", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run.search_responses(config, say=quiet)
    assert len(read(tmp_path / "again.jsonl")) == 1
    assert run.search_responses(config, say=quiet).read_bytes() == whole


def test_processes_share_the_problems(options, monkeypatch, tmp_path):
    whole = run.search_responses(options(), say=quiet).read_bytes()
    config = options(output=str(tmp_path / "again.jsonl"))
    with pytest.raises(KeyboardInterrupt):  # finishes its share, but dies before it gathers the parts
        _write(config, Team(0, 2, [], dies_at=2))
    _write(config, Team(1, 2, []))
    assert [len(read(tmp_path / f"again.jsonl.rank{rank}")) for rank in (0, 1)] == [1, 1]
    assert run.search_responses(config, say=quiet).read_bytes() == whole


def _write(config, team):
    return rollouts.write_rows(
        config, run.search_options(config), lambda say: run.Searcher(config, None, say), team, quiet
    )


def test_other_options_are_refused(options):
    config = options()
    run.search_responses(config, say=quiet)
    config.guide.max_tokens_per_batch = 64  # only bounds memory
    run.search_responses(config, say=quiet)
    with pytest.raises(ImplicitPRMError, match=r"algorithm.branch=2.*=4"):
        run.search_responses(options(algorithm={"name": "beam", "branch": 4}), say=quiet)
    with pytest.raises(ImplicitPRMError, match=r"aggregate=min.*=last"):
        run.search_responses(options(aggregate="last"), say=quiet)


def test_a_rollout_does_not_continue_a_search(options, tmp_path):
    config = options(policy={"kind": "server", "base_url": "http://localhost:1", "name": "model"})
    Provenance(tmp_path / "rows.jsonl").begin(run.search_options(config), {}, fresh=True)
    with pytest.raises(ImplicitPRMError, match="algorithm"):
        Provenance(tmp_path / "rows.jsonl").check(fixed_options(config))


def test_the_exact_checker_guides(options):
    rows = read(run.search_responses(options(guide={"kind": "exact"}, steps=None), say=quiet))
    assert rows[0]["guide_kind"] == "probability"
    assert [[list(map(float, some)) for some in row["step_labels"]] for row in rows] == [
        r["guide_scores"] for r in rows
    ]


def test_a_guide_of_given_steps_is_refused_before_anything_is_sampled(options, tiny_folder, monkeypatch):
    monkeypatch.setattr(TransformersGenerator, "open", lambda *_: pytest.fail("sampled"))
    prm = ImplicitPRM.from_pretrained(tiny_folder, "none", 0.5, steps="given", device="cpu")
    with pytest.raises(ImplicitPRMError, match="steps"):
        run.search_responses(options("best_of_n", guide=None, steps=None), prm, quiet)


def test_any_object_guides(options):
    class Short:
        def score(self, problem, responses):
            return [StepScores(text, [], [-float(len(text))]) for text in responses]

    config = options(guide=None)
    rows = read(run.search_responses(config, Short(), quiet))
    assert rows[0]["guide_scores"] == [[-float(len(text))] for text in rows[0]["completions"]]
    assert rows[0]["guide_tokens"] is None
    with pytest.raises(ImplicitPRMError, match="guide"):
        run.search_responses(config, say=quiet)
    with pytest.raises(ImplicitPRMError, match="guide"):
        run.search_responses(options(), Short(), quiet)


def test_another_vocabulary_cannot_guide_tokens(options, monkeypatch, tmp_path, other_folder):
    tokenizer = AutoTokenizer.from_pretrained(other_folder)
    tokenizer.add_tokens(["another"])
    folder = tmp_path / "larger"
    tiny_model(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    guide = {"checkpoint": str(folder), "reference": str(folder), "beta": 0.5}
    with pytest.raises(ImplicitPRMError, match="algorithm=tokens"):
        run.search_responses(options("tokens", guide=guide), say=quiet)


def test_a_server_generates_and_a_model_here_guides(options, tmp_path):
    """Two problems at a time; every response is two steps and an answer."""
    steps = ["1 + 2 = 3", "3 * 3 = 9", "\\boxed{9}"]
    tokenizer_folder = options().policy.name

    def misbehave(number, body):
        done = body["prompt"].count(_LINE_BREAK)
        return reply(steps[done], **(END if done == 2 else STOP))

    server = FakeServer(misbehave)
    policy = {"kind": "server", "base_url": server.url, "name": "model", "concurrency": 8, "timeout_s": 5.0}
    sampling = {"n": 4, "max_new_tokens": 40, "seed": 5}
    config = options(policy=policy, sampling=sampling, tokenizer=tokenizer_folder)
    run.search_responses(replace(config, problems=replace(config.problems, limit=1)), say=quiet)
    rows = read(run.search_responses(config, say=quiet))  # resumes after the first problem
    server.kill()
    assert [row["completions"] for row in rows] == [["\n".join(steps)] * 4] * 2
    assert all(len(scores) == 3 for row in rows for scores in row["guide_scores"])
    assert rows[0]["generator_tokens"] > 3 * 4 * 3


_LINE_BREAK = 11  # the token of a line break in the sandbox's vocabulary
