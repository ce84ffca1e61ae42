"""The reward manager for verl: against verl's own base class if it is installed, else against a stub of it."""

import asyncio
import importlib
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from implicit_prm import ImplicitPRM, ImplicitPRMError
from implicit_prm.rl.rollouts import RolloutGroup
from implicit_prm.rl.token_rewards import TokenRewards, at_step_ends, lowest_credit, prm_token_rewards
from tests.runs import PROBLEM, RESPONSES

BASE = "verl.experimental.reward_loop.reward_manager.base"


class Base:
    """As much of verl 0.9.1's RewardManagerBase as a manager sees."""

    def __init__(self, config, tokenizer, compute_score):
        self.config, self.tokenizer, self.compute_score = config, tokenizer, compute_score


@pytest.fixture(scope="module")
def manager_class():
    try:
        importlib.import_module(BASE)
    except ImportError:
        patch = pytest.MonkeyPatch()
        parts = BASE.split(".")
        for end in range(1, len(parts) + 1):
            patch.setitem(sys.modules, ".".join(parts[:end]), ModuleType(parts[end - 1]))
        sys.modules[BASE].RewardManagerBase = Base
        yield importlib.import_module("implicit_prm.rl.verl").ImplicitPRMRewardManager
        del sys.modules["implicit_prm.rl.verl"]
        patch.undo()
    else:
        yield importlib.import_module("implicit_prm.rl.verl").ImplicitPRMRewardManager


@pytest.fixture(scope="module")
def checkpoint(tiny_folder, other_folder, tmp_path_factory):
    prm = ImplicitPRM.from_pretrained(tiny_folder, str(other_folder), 0.5, steps="newline", device="cpu")
    folder = tmp_path_factory.mktemp("verl") / "prm"
    prm.save_pretrained(folder)
    return folder


def graded(data_source, solution_str, ground_truth, extra_info):
    assert (data_source, extra_info) == ("sandbox", {"split": "train"})
    return {"score": float(ground_truth in solution_str)}


async def graded_later(**columns):
    return graded(**columns)["score"]


def made(manager_class, checkpoint, tokenizer, compute_score=graded, **options):
    options = {"checkpoint": str(checkpoint), "device": "cpu", **options}
    config = SimpleNamespace(reward={"reward_kwargs": options})
    return manager_class(config, tokenizer, compute_score, reward_router_address=None, reward_model_tokenizer=None)


class Batch(list):
    """Rows of verl's DataProto, and its tensors together."""

    @property
    def batch(self):
        return {name: torch.stack([row.batch[name] for row in self]) for name in self[0].batch}


def batch(prm, texts):
    """Responses as verl pads them: prompts on the left, responses on the right."""
    prompt = prm.encoder.prompt_ids(PROBLEM)
    ids = [one.ids for one in prm.encoder.responses(texts)]
    width, pad = max(map(len, ids)), 0
    rows = Batch()
    for one in ids:
        tensors = {
            "prompts": torch.tensor([pad, pad, *prompt]),
            "responses": torch.tensor([*one, *[pad] * (width - len(one))]),
            "attention_mask": torch.tensor([0, 0, *[1] * (len(prompt) + len(one)), *[0] * (width - len(one))]),
        }
        columns = {
            "data_source": "sandbox",
            "reward_model": {"ground_truth": "boxed{11}"},
            "extra_info": {"split": "train"},
        }
        rows.append(SimpleNamespace(batch=tensors, non_tensor_batch=columns))
    return rows, prompt, ids


@pytest.mark.parametrize("compute_score", [graded, graded_later])
@pytest.mark.parametrize(
    ("granularity", "credit"), [("step", "sum"), ("token", "sum"), ("step", "min"), ("token", "min")]
)
def test_rewards_of_every_token(granularity, credit, compute_score, manager_class, checkpoint, tokenizer):
    options = {"granularity": granularity, "credit": credit, "process_coef": 0.3}
    manager = made(manager_class, checkpoint, tokenizer, compute_score, **options)
    rows, prompt, ids = batch(manager.prm, RESPONSES)
    results = [asyncio.run(manager.run_single(Batch([row]))) for row in rows]
    assert [one["reward_extra_info"]["acc"] for one in results] == [1.0, 0.0]
    rewards = manager_class.assemble_rm_scores(rows, [one["reward_score"] for one in results])
    assert rewards.shape == (2, max(map(len, ids)))
    scored = prm_token_rewards(manager.prm, RolloutGroup(0, PROBLEM, prompt, [0, 1], ids))
    for row, one, outcome in zip(rewards, scored, [1.0, 0.0], strict=True):
        values = one.rewards if granularity == "token" else at_step_ends(one)
        if credit == "min":
            values = lowest_credit(values) if granularity == "token" else at_step_ends(one, "min")
        expected = 0.3 * np.array([*values, *[0.0] * (len(row) - len(values))])
        expected[len(values) - 1] += outcome
        assert row.tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_the_reward_of_a_step_is_at_its_last_token():
    assert at_step_ends(TokenRewards([1.0, 2.0, 4.0], [0, 0, 1])) == [0.0, 3.0, 4.0]


def test_rewards_whose_sum_is_the_lowest_that_follows():
    assert lowest_credit([3.0, -1.0, 2.0, 1.0]) == [0.0, -2.0, 0.0, 1.0]  # sums: -1, -1, 1, 1
    assert lowest_credit([]) == []
    one = TokenRewards([1.0, 2.0, -4.0, 1.0, 5.0], [0, 0, 1, 1, 2])  # steps: 3, -3, 5
    assert at_step_ends(one, "min") == [0.0, 0.0, 0.0, -8.0, 5.0]
    returns = torch.tensor(at_step_ends(one, "min")).flip(0).cumsum(0).flip(0)
    assert returns.tolist() == [-3.0, -3.0, -3.0, -3.0, 5.0]


def test_a_response_without_tokens(manager_class, checkpoint, tokenizer):
    manager = made(manager_class, checkpoint, tokenizer)
    rows, *_ = batch(manager.prm, RESPONSES[:1])
    rows[0].batch["attention_mask"][-len(rows[0].batch["responses"]) :] = 0
    assert asyncio.run(manager.run_single(rows))["reward_score"] == []


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"granularity": "word"}, r"reward\.reward_kwargs\.granularity"),
        ({"proces_coef": 1.0}, "process_coef"),
        ({"process_coef": -1.0}, r"reward\.reward_kwargs\.process_coef"),
    ],
)
def test_invalid_options_are_refused_by_name(options, named, manager_class, checkpoint, tokenizer):
    with pytest.raises(ImplicitPRMError, match=named):
        made(manager_class, checkpoint, tokenizer, **options)
