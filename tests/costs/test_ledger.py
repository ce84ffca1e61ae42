"""The ledger: tokens that runs recorded, FLOPs by hand, totals."""

import json
import shutil

import pytest

from implicit_prm import fit as fit_implicit
from implicit_prm.baselines.labels import run
from implicit_prm.baselines.run import fit
from implicit_prm.config import (
    LoraConfig,
    MathShepherdConfig,
    ModelConfig,
    PolicyConfig,
    ProblemsConfig,
    RolloutConfig,
    SamplingConfig,
    TextConfig,
)
from implicit_prm.costs.ledger import Ledger, count, tokens_of, with_each_response
from implicit_prm.costs.operations import Tokens, forward_flops
from implicit_prm.costs.shapes import Shape, open_shape
from implicit_prm.data.groups import load_groups
from implicit_prm.data.tokenization import Encoder
from implicit_prm.rollouts.run import rollout
from implicit_prm.types import ImplicitPRMError, TokenCounts
from tests.baselines.runs import baseline, labelled_file, quiet
from tests.conftest import graded_rows, write_rows
from tests.runs import config as implicit

SHAPE = Shape(1000, 100, 50, 0, False, 2, 8, 8, 8)  # backbone, embedding, head; 2 layers of attention 8 wide
COUNTS = TokenCounts(2, 6, 20, 120)  # two prompts of 10 tokens, six responses of 20


def test_tokens_and_pairs_by_hand():
    """Pairs: 10 x 10 / 2 of each prompt, and 20 x 10 + 20 x 20 / 2 of each response."""
    assert tokens_of(COUNTS) == Tokens(140, 120, 2 * 50 + 6 * 400)
    assert tokens_of(COUNTS, read=False).read == 0
    assert with_each_response(COUNTS) == TokenCounts(6, 6, 60, 120)
    assert tokens_of(TokenCounts()) == Tokens(0, 0, 0)


def test_sampling_by_hand():
    body = 2 * 1000 * 140 + 4 * 2 * 8 * 2500
    assert forward_flops(SHAPE, tokens_of(COUNTS)) == body + 2 * 50 * 120


def test_counts_are_those_of_the_tokenizer(tmp_path, tokenizer):
    groups = load_groups(str(write_rows(tmp_path / "rows.jsonl", graded_rows(3, 2))))
    encoder = Encoder(tokenizer, TextConfig(steps="newline"))
    prompts = sum(len(encoder.prompt_ids(group.prompt)) for group in groups)
    responses = sum(len(encoder.response(text).ids) for group in groups for text in group.completions)
    assert count(groups, encoder) == TokenCounts(3, 6, prompts, responses)


def _shape(folder):
    return open_shape(ModelConfig(str(folder)))[0]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_folder):
    """Rollouts, labels, a value head and an implicit PRM."""
    folder = tmp_path_factory.mktemp("ledger")
    sampling = SamplingConfig(n=4, max_new_tokens=30, batch_size=8)
    policy = PolicyConfig(str(tiny_folder))
    rollout(
        RolloutConfig(
            policy, ProblemsConfig("sandbox", limit=5, prompt_template="{problem}"), sampling, str(folder / "r.jsonl")
        ),
        quiet,
    )
    rows = labelled_file(folder / "rows.jsonl", 8, 4)
    options = {"policy": policy, "sampling": sampling, "steps": "newline"}
    run.label(MathShepherdConfig(input=str(rows), output=str(folder / "l.jsonl"), **options), quiet)
    epochs = {"max_steps": -1, "num_train_epochs": 2}
    fit(baseline(folder / "value", tiny_folder, folder / "l.jsonl", "value_head", trainer=epochs), quiet)
    fit_implicit(implicit(folder / "ce", tiny_folder, rows, **epochs), quiet)
    return folder


def test_runs_are_read_from_their_files(runs, tiny_folder):
    ledger = Ledger()
    ledger.rollouts(runs / "r.jsonl")
    ledger.labels(runs / "l.jsonl")
    ledger.training(runs / "value")
    ledger.scoring(runs / "value", runs / "rows.jsonl")
    rows = ledger.rows()
    assert [row["stage"] for row in rows] == ["rollouts", "labels", "training", "scoring"]
    assert [row["responses"] for row in (rows[0], rows[2], rows[3])] == [20, 32, 32]
    labelled = [json.loads(line)["step_label_tokens"] for line in (runs / "l.jsonl").read_text().splitlines()]
    assert rows[1]["response_tokens"] == sum(one["response_tokens"] for one in labelled)
    assert rows[1]["responses"] == 4 * rows[1]["prompts"] == sum(one["responses"] for one in labelled)

    shape = _shape(tiny_folder)
    for row in rows[2:]:  # the prompt precedes each response: 32 rows
        assert row["prompts"] == 32
    tokens = rows[2]["prompt_tokens"] + rows[2]["response_tokens"]
    pairs = tokens_of(TokenCounts(*(rows[2][key] for key in TokenCounts.__annotations__))).pairs
    once = 2 * shape.backbone * tokens + 4 * shape.layers * shape.attention_width * pairs
    assert rows[2]["passes"] == 2
    assert rows[2]["flops"] == pytest.approx(2 * 3 * once)
    assert rows[3]["flops"] == pytest.approx(once)
    assert ledger.total() == sum(row["flops"] for row in rows)
    assert ledger.total(rollouts=False) == pytest.approx(ledger.total() - rows[0]["flops"])


def test_implicit_prm_encodes_prompts_once_and_runs_its_reference_once(runs, tiny_folder):
    ledger = Ledger()
    ledger.training(runs / "ce")
    ledger.scoring(runs / "ce", runs / "rows.jsonl")
    trained, reference, scored = ledger.rows()
    assert (trained["prompts"], trained["responses"]) == (8, 32)
    assert reference["prompt_tokens"] == trained["prompt_tokens"]
    shape = _shape(tiny_folder)
    counts = TokenCounts(*(trained[key] for key in TokenCounts.__annotations__))
    body = 2 * shape.backbone * (counts.prompt_tokens + counts.response_tokens)
    body += 4 * shape.layers * shape.attention_width * tokens_of(counts).pairs
    head = 2 * shape.head * counts.response_tokens
    assert trained["flops"] == pytest.approx(2 * (3 * body + 4 * head))
    assert reference["flops"] == pytest.approx(body + head)
    assert scored["flops"] == pytest.approx(2 * (body + head))
    value = Ledger()
    value.training(runs / "value")
    assert value.rows()[0]["response_tokens"] == trained["response_tokens"]
    assert value.rows()[0]["prompt_tokens"] == 4 * trained["prompt_tokens"]


def test_an_explicit_model_with_an_adapter_has_no_gradients_of_its_base(runs, tmp_path):
    plain = Ledger()
    plain.training(runs / "value")
    folder = shutil.copytree(runs / "value", tmp_path / "adapted")
    metadata = json.loads((folder / "baseline.json").read_text())
    (folder / "baseline.json").write_text(json.dumps(metadata | {"lora": {"r": 1, "alpha": 2}}))
    adapted = Ledger()
    adapted.training(folder)
    shape = open_shape(ModelConfig(str(folder), lora=LoraConfig(r=1, alpha=2)))[0]
    tokens = plain.items[0].tokens.prompt_tokens + plain.items[0].tokens.response_tokens
    adapter = 2 * 3 * 2 * shape.adapter * tokens  # two epochs of 3 passes
    assert adapted.total() == pytest.approx(plain.total() * 2 / 3 + adapter)


def test_exact_labels_cost_nothing(tmp_path):
    from implicit_prm.config import ExactConfig

    rows = write_rows(tmp_path / "rows.jsonl", graded_rows(2, 2))
    run.label(ExactConfig(input=str(rows), output=str(tmp_path / "l.jsonl")), quiet)
    ledger = Ledger()
    ledger.labels(tmp_path / "l.jsonl")
    assert ledger.total() == 0


def test_missing_files_are_named(tmp_path):
    with pytest.raises(ImplicitPRMError, match=r"rows\.jsonl\.meta\.json"):
        Ledger().rollouts(tmp_path / "rows.jsonl")
    with pytest.raises(ImplicitPRMError, match=r"data_report\.json"):
        Ledger().training(tmp_path)
