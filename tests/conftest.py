"""Small things that many tests share: a random model with the sandbox's tokenizer, and graded responses to train on."""

import json
import os
import random
import shutil
import tempfile
from pathlib import Path

# Before the first import of a hub library: a test that needs the network is a mistake, and should fail at once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models of the tests are too small to share
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
os.environ["IPR_CACHE"] = tempfile.mkdtemp(prefix="ipr-cache-")  # never the user's own

import pytest
import torch
from huggingface_hub import constants
from hypothesis import settings
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, dynamic_module_utils

from implicit_prm import sandbox
from implicit_prm.sandbox.world import true_solution

# The same examples in every run, so that a commit passes or fails for good; `make test-all` draws new ones.
settings.register_profile("same-examples", derandomize=True)
settings.register_profile("new-examples", print_blob=True)
settings.load_profile("same-examples")

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@pytest.fixture(scope="session")
def shared_data():
    """Real data beside the checkout; tests that read it are marked `shared`."""
    if not (SHARED / "data").is_dir():
        pytest.skip("no shared/data beside the checkout")
    return SHARED / "data"


@pytest.fixture(scope="session")
def tokenizer():
    return AutoTokenizer.from_pretrained(sandbox.POLICY_PATH)


def tiny_model(tokenizer, seed=0, **options):
    """A random Llama of about 20,000 parameters that reads the sandbox's tokens."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=256,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        initializer_range=0.2,  # far from uniform, so that log-probabilities differ
        **(sizes | options),
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def other_folder(tmp_path_factory, tokenizer):
    """Another model of the same family."""
    folder = tmp_path_factory.mktemp("models") / "other"
    tiny_model(tokenizer, seed=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


_CODE = """from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM
Path({marker!r}).touch()
class CodedConfig(LlamaConfig):
    model_type = "coded"
class CodedModel(LlamaForCausalLM):
    config_class = CodedConfig
"""


@pytest.fixture
def coded_folder(tmp_path, tiny_folder, monkeypatch):
    """A model that comes with Python code, and a function that says whether the code has run."""
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder, marker = tmp_path / "coded", tmp_path / "has_run"
    shutil.copytree(tiny_folder, folder)
    (folder / "coded.py").write_text(_CODE.format(marker=str(marker)))
    described = json.loads((folder / "config.json").read_text())
    described |= {"model_type": "coded", "auto_map": {"AutoConfig": "coded.CodedConfig"}}
    described["auto_map"]["AutoModelForCausalLM"] = "coded.CodedModel"
    (folder / "config.json").write_text(json.dumps(described))
    return folder, marker.exists


def graded_rows(problems, responses, seed=0):
    """Grouped rows whose wrong responses have one wrong step; every prompt but the first has both kinds."""
    rng = random.Random(seed)
    rows = []
    for number, problem in enumerate(sandbox.problems("train", problems)):
        right = true_solution(problem)
        texts, labels = [], []
        for place in range(responses):
            correct = number == 0 or place == 0 or (place > 1 and rng.random() < 0.5)
            texts.append(right if correct else _spoilt(right, rng))
            labels.append(correct)
        rows.append(
            {
                "id": problem.id,
                "prompt": problem.text,
                "answer": problem.answer,
                "completions": texts,
                "correctness": labels,
                "finished": [True] * responses,
                "step_labels": [sandbox.check_steps(problem.text, text) for text in texts],
            }
        )
    return rows


def _spoilt(text, rng):
    """The solution with one result, and everything that repeats it, off by a little."""
    lines = text.split("\n")
    step = rng.randrange(len(lines) - 1)
    head, _, value = lines[step].rpartition(" = ")
    lines[step] = f"{head} = {(int(value) + rng.randrange(1, 49)) % 50}"
    lines[-1] = f"\\boxed{{{(int(lines[-1][7:-1]) + 1) % 50}}}"
    return "\n".join(lines)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub cache, from which ids are opened without network. Returns what puts a folder under an id and a revision."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(folder, name, revision="main"):
        commit = f"{abs(hash((name, revision))):040x}"[:40]
        repository = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True, exist_ok=True)
        (repository / "refs" / revision).write_text(commit)
        shutil.copytree(folder, repository / "snapshots" / commit)

    return put


@pytest.fixture
def rollouts_file(tmp_path):
    return write_rows(tmp_path / "rollouts.jsonl", graded_rows(12, 4))


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
