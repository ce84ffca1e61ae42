"""ModelSource: names resolved to local files, each of which the hub is asked for at most once."""

import contextlib
import json
from collections import Counter

import huggingface_hub
import pytest

from implicit_prm import ImplicitPRM, ImplicitPRMError, fit
from implicit_prm.models.checkpoint import BaselineMetadata, CheckpointMetadata
from implicit_prm.models.loading import open_model
from implicit_prm.models.lora import Adapter
from implicit_prm.models.source import ModelSource, find_damage, weights_digest
from implicit_prm.sandbox import POLICY_PATH
from implicit_prm.training.merge import MergeConfig, merge
from tests.conftest import graded_rows, tiny_model, write_rows
from tests.data.fake_hub import COMMIT, FakeHub
from tests.runs import adapter, config, quiet, scores


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, tiny_folder):
    """A LoRA checkpoint of ipr-train."""
    folder = tmp_path_factory.mktemp("lora")
    rows = write_rows(folder / "rows.jsonl", graded_rows(8, 3))
    options = {"model_options": {"lora": {"r": 2}}, "max_steps": 2, "learning_rate": 1e-2}
    fit(config(folder / "run", tiny_folder, rows, **options), quiet)
    return folder / "run"


def files(folder, **changes):
    """A folder's files as a repository; `changes` are values to set in a JSON file."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for name, values in changes.items():
        found[f"{name}.json"] = json.dumps({**json.loads(found[f"{name}.json"]), **values}).encode()
    return found


@pytest.fixture
def online(tmp_path, monkeypatch):
    """Serve repositories from a hub of our own, with an empty cache."""
    with contextlib.ExitStack() as stack:

        def serve(repositories):
            hub = FakeHub(repositories=repositories)
            url = stack.enter_context(hub.running())
            constants = huggingface_hub.constants
            monkeypatch.setattr(constants, "ENDPOINT", url)
            template = url + "/{repo_id}/resolve/{revision}/{filename}"
            monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
            monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
            return hub

        yield serve


@pytest.fixture
def lora_hub(checkpoint, tiny_folder, online):
    """org/prm, a LoRA checkpoint, on org/base."""
    prm = files(checkpoint, implicit_prm={"base": "org/base"}, adapter_config={"base_model_name_or_path": "org/base"})
    return online({"org/prm": prm, "org/base": files(tiny_folder)})


def requests_by_file(hub):
    return Counter(request for request in hub.asked if "/resolve/" in request)


def test_the_hub_is_asked_for_each_file_of_a_lora_checkpoint_once(lora_hub, checkpoint):
    assert scores("org/prm") == scores(checkpoint)
    asked = requests_by_file(lora_hub)
    assert f"GET /org/prm/resolve/{COMMIT}/adapter_model.safetensors" in asked
    assert f"GET /org/base/resolve/{COMMIT}/config.json" in asked
    assert set(asked.values()) == {1}, asked
    assert sum("/api/models/" in request for request in lora_hub.asked) == 4  # commit and list of files, of each
    lora_hub.asked.clear()
    assert scores("org/prm") == scores(checkpoint)
    assert not requests_by_file(lora_hub)  # all are in the cache


def test_scoring_with_a_cache_merging_and_sampling_ask_once(lora_hub, tmp_path):
    prm = ImplicitPRM.from_pretrained("org/prm", device="cpu")
    prm.open_reference_cache(str(tmp_path / "references"))
    assert len(prm.reference_cache) == 0
    merge(MergeConfig("org/prm", str(tmp_path / "merged")), quiet)
    open_model(ModelSource.resolve("org/prm"))
    assert set(requests_by_file(lora_hub).values()) == {1}


def test_weights_are_downloaded_only_when_a_model_is_opened(lora_hub):
    source = ModelSource.resolve("org/prm")
    assert (source.commit, source.adapter) == (COMMIT, Adapter("org/base"))
    assert source.identity == f"{COMMIT} on {COMMIT}"
    assert source.weights() == {"commit": COMMIT, "weight_bytes": {}}
    assert not [request for request in lora_hub.asked if "safetensors" in request]


def test_only_the_weights_that_are_opened_are_downloaded(online, tokenizer, tmp_path):
    tiny_model(tokenizer).save_pretrained(tmp_path / "model", max_shard_size="30KB")
    repository = files(tmp_path / "model") | {"pytorch_model.bin": b"old", "checkpoint-1/config.json": b"{}"}
    hub = online({"org/model": repository})
    open_model(ModelSource.resolve("org/model"))
    fetched = {request.rpartition("/")[2] for request in requests_by_file(hub)}
    assert fetched == {name for name in repository if "/" not in name} - {"pytorch_model.bin"}


def test_a_model_inside_the_checkpoint_is_downloaded_with_it(tmp_path, online, tiny_folder, rollouts_file):
    start = adapter(tmp_path / "adapter", tiny_folder)
    model = {"lora": {"r": 2}, "reference": "start"}
    fit(config(tmp_path / "run", start, rollouts_file, model_options=model, max_steps=1), quiet)
    hub = online({"org/prm": files(tmp_path / "run")})
    assert scores("org/prm") == scores(tmp_path / "run")
    assert set(requests_by_file(hub).values()) == {1}


def test_a_cached_model_opens_offline(lora_hub, checkpoint, monkeypatch):
    online = scores("org/prm")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    lora_hub.asked.clear()
    assert scores("org/prm") == online
    assert lora_hub.asked == []


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        ((404, "RepoNotFound"), "no such repository"),
        ((403, "GatedRepo"), "gated"),
        ((404, "RevisionNotFound"), "revision"),
        ((500, ""), "org/prm"),
    ],
)
def test_a_hub_id_that_is_refused(refusal, message, lora_hub):
    lora_hub.refusal = refusal
    with pytest.raises(ImplicitPRMError, match=f"'org/prm': .*{message}|org/prm.*local folder"):
        ModelSource.resolve("org/prm")


def test_a_hub_id_without_network():
    with pytest.raises(ImplicitPRMError, match=r"'no/model': .*local folder"):
        ModelSource.resolve("no/model")


def test_a_name_that_is_too_long_is_refused():
    with pytest.raises(ImplicitPRMError, match="cannot open the model 'xxx"):
        ModelSource.resolve("x" * 5000)


@pytest.mark.parametrize("name", ["./nowhere", "/no/where", "~/nowhere", "a/b/c"])
def test_a_missing_path_is_not_a_hub_id(name):
    with pytest.raises(ImplicitPRMError, match="no such folder"):
        ModelSource.resolve(name)


def test_sandbox_is_the_policy_in_the_package():
    source = ModelSource.resolve("sandbox")
    assert (source.folder, source.commit, source.path) == (POLICY_PATH, None, str(POLICY_PATH))


def test_a_folder_is_known_by_what_it_holds(tmp_path, tiny_folder, checkpoint):
    plain = ModelSource.resolve(tiny_folder)
    assert (plain.adapter, plain.metadata, plain.commit) == (None, None, None)
    prm = ModelSource.resolve(checkpoint)
    assert prm.adapter == Adapter(str(tiny_folder))
    assert isinstance(prm.metadata, CheckpointMetadata)
    BaselineMetadata("orm", "outcome").write(tmp_path)
    assert isinstance(ModelSource.resolve(tmp_path).metadata, BaselineMetadata)


def test_the_base_of_a_checkpoint_that_was_moved_with_it(tmp_path, tiny_folder):
    """The metadata has a relative path; adapter_config.json still has the old one."""
    adapter(tmp_path / "run", tiny_folder)
    tiny_model_folder = tmp_path / "run" / "start"
    CheckpointMetadata(1.0, "adapter_off", base=str(tiny_model_folder)).write(tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "moved")
    assert ModelSource.resolve(tmp_path / "moved").adapter == Adapter(str(tmp_path / "moved" / "start"))


def test_identity_is_the_content_of_a_folder_and_includes_the_base(tmp_path, tiny_folder, tokenizer):
    tiny_model(tokenizer).save_pretrained(tmp_path / "copy")
    base = ModelSource.resolve(tiny_folder).identity
    assert ModelSource.resolve(tmp_path / "copy").identity == base
    tiny_model(tokenizer, seed=5).save_pretrained(tmp_path / "copy")
    assert ModelSource.resolve(tmp_path / "copy").identity != base
    first = adapter(tmp_path / "adapter", tiny_folder)
    assert ModelSource.resolve(first).identity.endswith(f" on {base}")


def test_weights_are_the_sizes_of_a_folder(tiny_folder):
    size = (tiny_folder / "model.safetensors").stat().st_size
    expected = {"commit": None, "weight_bytes": {"model.safetensors": size}}
    assert ModelSource.resolve(tiny_folder).weights() == expected


def test_digest_covers_configuration_and_weights_only(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    before = weights_digest(tmp_path)
    (tmp_path / "README.md").write_text("a card")
    assert weights_digest(tmp_path) == before
    (tmp_path / "model.safetensors").write_bytes(b"weightt")
    assert weights_digest(tmp_path) != before


def test_a_whole_folder_has_no_damage(tiny_folder):
    assert find_damage(tiny_folder) is None
