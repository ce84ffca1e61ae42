"""Hub ids, against a hub of our own: revisions, refusals, a network that is gone, and how much is fetched."""

import io
import random
import socket

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from implicit_prm.config import ProblemsConfig
from implicit_prm.data.groups import load_groups
from implicit_prm.data.problems import load_problems
from implicit_prm.data.readers import read_rows
from implicit_prm.types import ImplicitPRMError
from tests.data.fake_hub import COMMIT, FakeHub

README = b"---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*\n---\n"


def _rows(first, count):
    """Incompressible, so that what is fetched can be counted."""
    rng = random.Random(first)
    texts = [[rng.randbytes(1500).hex() for _ in range(8)] for _ in range(count)]
    return [
        {"prompt": str(n), "completions": some, "correctness": [True, False] * 4} for n, some in enumerate(texts, first)
    ]


def _parquet(rows):
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), stream, row_group_size=10, compression="none", use_dictionary=False)
    return stream.getvalue()


@pytest.fixture(scope="module")
def files():
    shards = [_parquet(_rows(first, 150)) for first in (0, 150)]
    return {"README.md": README} | {f"data/train-{n:05d}-of-00002.parquet": shard for n, shard in enumerate(shards)}


@pytest.fixture
def hub(files, tmp_path, monkeypatch):
    hub = FakeHub(files)
    with hub.running() as url:
        _at(monkeypatch, url, tmp_path)
        yield hub


def _at(monkeypatch, url, cache):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    monkeypatch.setattr(
        huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", url)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    huggingface_hub.HfFileSystem.clear_instance_cache()


def _refused(*words, source="some/set", **options):
    with pytest.raises(ImplicitPRMError) as caught:
        read_rows(source, **options)
    for word in (source, *words):
        assert word in str(caught.value)


def test_a_dataset_is_downloaded_once(hub):
    groups = load_groups("some/set")
    assert [group.prompt for group in groups] == [str(n) for n in range(300)]
    sent = hub.bytes_sent
    assert sent > sum(map(len, hub.files.values()))
    assert read_rows("some/set").places[150] == "some/set/data/train-00001-of-00002.parquet, row 1"
    assert hub.bytes_sent - sent < 10_000


def test_a_limit_fetches_no_more_than_it_needs(hub):
    assert [group.prompt for group in load_groups("some/set", limit=5)] == list("01234")
    assert hub.bytes_sent < 0.75 * len(hub.files["data/train-00000-of-00002.parquet"])
    assert not any("00001-of-00002" in line for line in hub.asked)


def test_a_revision_is_asked_for_and_checked(hub):
    assert len(read_rows("some/set", revision="v1", limit=3)) == 3
    assert "GET /api/datasets/some/set/revision/v1" in hub.asked
    _refused("no revision 'v9' on the hub", revision="v9")


def test_without_the_network_the_cache_is_read_at_its_revision(hub, monkeypatch, tmp_path):
    for revision in (None, COMMIT):
        read_rows("some/set", revision=revision)
    _at(monkeypatch, _nobody(), tmp_path)
    assert len(read_rows("some/set")) == len(read_rows("some/set", revision=COMMIT)) == 300
    assert len(read_rows("some/set", limit=5)) == 5
    _refused("cannot be reached", "hf download some/set", revision="0" * 40)


def test_an_interrupted_download_is_not_taken_for_the_dataset(hub, monkeypatch, tmp_path):
    read_rows("some/set")
    next(tmp_path.glob("datasets--some--set/snapshots/*/data/train-00001-of-00002.parquet")).unlink()
    _at(monkeypatch, _nobody(), tmp_path)
    _refused("cannot be reached", "hf download some/set")


@pytest.mark.parametrize("offline", [False, True])
def test_no_network_and_no_copy_names_the_local_option(monkeypatch, tmp_path, offline):
    _at(monkeypatch, _nobody(), tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr("time.sleep", lambda *_: pytest.fail("waited and tried again"))
    copy = "`hf download some/set --repo-type dataset --local-dir FOLDER`"
    _refused("cannot be reached", copy, "FOLDER instead of the id", source="some/set")
    _refused("set data.train=FOLDER", option="data.train")
    with pytest.raises(ImplicitPRMError, match=r"openai/gsm8k.* --revision \w{40} .*then set problems.path=FOLDER"):
        load_problems(ProblemsConfig("gsm8k", split="train"))


def test_a_hub_that_does_not_answer_is_given_up(monkeypatch, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        _at(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path)
        monkeypatch.setattr("implicit_prm.data.hub._TIMEOUT_SECONDS", 0.2)
        _refused("cannot be reached", "hf download some/set")


def test_what_the_hub_refuses(hub):
    _refused("no such dataset on the hub", "HF_TOKEN", source="some/other")
    _refused("no split 'test'; it has train", split="test", limit=3)
    hub.gated = True
    _refused("a gated dataset", "/datasets/some/set", "HF_TOKEN")
    _refused("a gated dataset", "HF_TOKEN", limit=3)
    for refusal, words in {
        (401, "RepoNotFound"): ["no such dataset on the hub, or a private one", "HF_TOKEN"],
        (401, "GatedRepo"): ["a gated dataset", "HF_TOKEN"],
        (401, ""): ["access denied", "HF_TOKEN"],
        (500, ""): ["the hub failed (Server error '500", "try again later", "hf download"],
    }.items():
        hub.refusal = refusal
        _refused(*words)


def _nobody():
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"
