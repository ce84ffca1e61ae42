"""The reference's cache knows the reference by its weights, whatever they are called and wherever they lie."""

from implicit_prm import ImplicitPRM, fit
from implicit_prm.config import PolicyConfig, ProblemsConfig, RolloutConfig, SamplingConfig
from implicit_prm.models.loading import open_model, weights_identity, weights_of
from implicit_prm.models.reference import open_cache
from implicit_prm.rollouts import run
from implicit_prm.scoring.store import checkpoint_identity
from tests.conftest import tiny_model
from tests.runs import adapter, config, quiet

PROBLEM = "Modulo 50, left to right: 1 + 2"
RESPONSES = ["1 + 2 = 3\n\\boxed{3}", "1 + 2 = 4\n\\boxed{4}"]


def _folder(name, revision=None):
    return open_cache(open_model(PolicyConfig(name, revision)), name, revision).folder


def test_every_revision_of_a_hub_id_has_a_cache_of_its_own(hub, tiny_folder, other_folder):
    hub(tiny_folder, "org/model")
    hub(other_folder, "org/model", "v1")
    assert _folder("org/model") == _folder("org/model")
    assert _folder("org/model") != _folder("org/model", "v1")


def test_a_folder_is_known_by_its_content(tmp_path, tiny_folder, tokenizer):
    copy = tmp_path / "tiny"
    tiny_model(tokenizer).save_pretrained(copy)
    assert weights_identity(str(copy)) == weights_identity(str(tiny_folder))
    tiny_model(tokenizer, seed=5).save_pretrained(copy)
    assert weights_identity(str(copy)) != weights_identity(str(tiny_folder))


def test_an_adapter_is_known_with_its_base(hub, tmp_path, tiny_folder):
    first = adapter(tmp_path / "first", tiny_folder)
    hub(first, "org/adapter")
    base = weights_identity(str(tiny_folder))
    assert weights_identity(str(first)).endswith(f" on {base}")
    assert weights_identity("org/adapter").endswith(f" on {base}")
    assert weights_identity("org/adapter") != weights_identity(str(first)) != base
    assert weights_of(PolicyConfig("org/adapter"))["commit"]


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
    policy, problems = PolicyConfig(str(named)), ProblemsConfig("sandbox", limit=1)
    sampling = SamplingConfig(n=1, max_new_tokens=2)
    run.rollout(RolloutConfig(policy, problems, sampling, str(tmp_path / "rows.jsonl")), quiet)
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 1


def test_scores_of_another_commit_are_not_those_of_the_last(hub, tiny_folder, other_folder):
    hub(tiny_folder, "org/model")
    hub(other_folder, "org/model", "v1")
    assert checkpoint_identity("org/model") == checkpoint_identity("org/model")
    assert checkpoint_identity("org/model") != checkpoint_identity("org/model", "v1")
    assert checkpoint_identity(str(tiny_folder)) != checkpoint_identity(str(other_folder))
