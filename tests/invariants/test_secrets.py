"""No credential that a command is given is in any file that it writes, or in what it prints; the run still uses it."""

import json

import pytest
from huggingface_hub import HfApi

from tests.conftest import graded_rows, write_rows
from tests.invariants.test_commands import run
from tests.rollouts.fake_server import FakeServer

SECRET = "s3same-0pen"


@pytest.fixture
def server():
    fake = FakeServer()
    yield fake
    fake.kill()


def places(folder, *results):
    """Files of the folder, and streams of the commands, in which the secret is."""
    files = [str(path) for path in folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    return files + [result for result in results if SECRET in result.stdout + result.stderr]


def test_training_uses_the_token_and_writes_it_nowhere(tmp_path, tiny_folder, monkeypatch):
    tokens = []
    monkeypatch.setattr(HfApi, "create_repo", lambda self, *_, **__: tokens.append(self.token))
    monkeypatch.setattr(HfApi, "upload_folder", lambda self, **_: None)
    write_rows(tmp_path / "rows.jsonl", graded_rows(4, 2))
    options = [
        *("data=rollouts", "data.train=rows.jsonl", "data.steps=newline", "model=hub", f"model.name={tiny_folder}"),
        *(f"+trainer.hub_token={SECRET}", "+trainer.dataloader_num_workers=0", "trainer.report_to=none"),
        *("trainer=default", "trainer.save_steps=1", "output_dir=out"),
    ]
    pushed = run(tmp_path, "train", *options, "push_to_hub=org/prm")
    assert tokens == [SECRET]
    assert (tmp_path / "out/checkpoint-1/training_args.bin").exists()
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert record["config"]["trainer"]["hub_token"] == "***"
    assert "+trainer.hub_token=***" in record["command"]
    again = run(tmp_path, "train", *options, check=False)  # refused: the folder holds a model
    baseline = ["kind=orm", *options[:-1], "output_dir=orm"]
    assert places(tmp_path, pushed, again, run(tmp_path, "baseline", *baseline)) == []


def test_rollouts_and_evaluation_use_the_keys_and_write_them_nowhere(tmp_path, tiny_folder, monkeypatch, server):
    monkeypatch.setenv("MY_KEY", f"{SECRET}-env")
    policy = [f"policy.base_url={server.url}", "policy.name=model", "policy.api_key_env=MY_KEY"]
    policy += ["policy.retries=0"]
    body = [f"policy.extra_body.api_key={SECRET}", f"policy.extra_body.headers={{X-Mine:{SECRET}}}"]
    sampling = ["policy=server", *policy, *(f"+{field}" for field in body), "sampling.batch_size=null"]
    sampled = run(tmp_path, "rollout", *sampling, "problems.limit=2")
    assert server.requests[0]["api_key"] == server.requests[0]["headers"]["X-Mine"] == SECRET
    assert server.headers[0]["authorization"] == f"Bearer {SECRET}-env"

    def echo(number, request):
        return 401, {}, json.dumps({"error": {"message": f"wrong key {SECRET}-env or {request['api_key']}"}})

    server.misbehave = echo
    refused = run(tmp_path, "rollout", *sampling, "problems.limit=3", check=False)
    assert "wrong key ***" in refused.stderr
    write_rows(tmp_path / "rows.jsonl", [row | {"s": [0.1, 0.2]} for row in graded_rows(3, 2)])
    evaluated = run(
        tmp_path,
        *("eval", "policy@rollout.policy=server", "candidates=rows.jsonl", "scores_column=s", "output_dir=eval"),
        *(f"rollout.{option}" for option in policy),
        *(f"+rollout.{field}" for field in body),
        "rollout.sampling.batch_size=null",
    )
    assert (tmp_path / "eval/report.html").exists()
    assert places(tmp_path, sampled, refused, evaluated) == []
