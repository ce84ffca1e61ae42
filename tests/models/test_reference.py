"""The reference's cache identifies it by its weights, not by its name or place."""

from implicit_prm import ImplicitPRM, fit
from implicit_prm.config import PolicyConfig, ProblemsConfig, RolloutConfig, SamplingConfig
from implicit_prm.models.loading import open_model
from implicit_prm.models.reference import open_cache
from implicit_prm.models.source import ModelSource
from implicit_prm.rollouts import run
from implicit_prm.scoring.store import checkpoint_identity
from tests.runs import adapter, config, quiet

PROBLEM = "Modulo 50, left to right: 1 + 2"
RESPONSES = ["1 + 2 = 3\n\\boxed{3}", "1 + 2 = 4\n\\boxed{4}"]


def _folder(name, revision=None):
    source = ModelSource.resolve(name, revision)
    return open_cache(open_model(source), source).folder


def test_every_revision_of_a_hub_id_has_a_cache_of_its_own(hub, tiny_folder, other_folder):
    hub(tiny_folder, "org/model")
    hub(other_folder, "org/model", "v1")
    assert _folder("org/model") == _folder("org/model")
    assert _folder("org/model") != _folder("org/model", "v1")


def test_an_adapter_as_the_reference_is_cached_in_scoring_and_training(tmp_path, tiny_folder, rollouts_file):
    named = adapter(tmp_path / "adapter", tiny_folder)
    prm = ImplicitPRM.from_pretrained(tiny_folder, str(named), 1.0, steps="newline", device="cpu")
    plain = [one.step_rewards for one in prm.score(PROBLEM, RESPONSES)]
    prm.open_reference_cache(str(tmp_path / "cache"))
    assert [one.step_rewards for one in prm.score(PROBLEM, RESPONSES)] == plain  # computed and kept
    assert len(prm.reference_cache) == 2
    assert [one.step_rewards for one in prm.score(PROBLEM, RESPONSES)] == plain  # read
    fit(config(tmp_path / "run", tiny_folder, rollouts_file, model_options={"reference": str(named)}), quiet)


def test_an_adapter_samples(tmp_path, tiny_folder):
    named = adapter(tmp_path / "adapter", tiny_folder)
    policy, problems = PolicyConfig(str(named)), ProblemsConfig("sandbox", limit=1, prompt_template="{problem}")
    sampling = SamplingConfig(n=1, max_new_tokens=2)
    run.rollout(RolloutConfig(policy, problems, sampling, str(tmp_path / "rows.jsonl")), quiet)
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 1


def test_scores_of_another_commit_are_not_those_of_the_last(hub, tiny_folder, other_folder):
    hub(tiny_folder, "org/model")
    hub(other_folder, "org/model", "v1")
    assert checkpoint_identity(ModelSource.resolve("org/model")) == checkpoint_identity(
        ModelSource.resolve("org/model")
    )
    assert checkpoint_identity(ModelSource.resolve("org/model")) != checkpoint_identity(
        ModelSource.resolve("org/model", "v1")
    )
    assert checkpoint_identity(ModelSource.resolve(tiny_folder)) != checkpoint_identity(
        ModelSource.resolve(other_folder)
    )
