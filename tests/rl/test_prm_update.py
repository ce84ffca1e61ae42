"""Online updates of the PRM against the loss written out naively; saved and loaded; one kind of response is no step."""

import copy

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from implicit_prm import ImplicitPRM, ImplicitPRMError
from implicit_prm.models.checkpoint import ADAPTER_OFF, CheckpointMetadata
from implicit_prm.rl import PrimeConfig
from implicit_prm.rl.prm_update import PRMUpdater, Targets
from implicit_prm.rl.rollouts import Rollout, RolloutBatch
from tests.conftest import graded_rows
from tests.rl.grpo import options

BETA = 0.5


@pytest.fixture
def prm(tiny_folder, other_folder):
    folders = str(tiny_folder), str(other_folder)
    return ImplicitPRM.from_pretrained(folders[0], reference=folders[1], beta=BETA, steps="newline", device="cpu")


@pytest.fixture
def batch(prm):
    """Three prompts with four responses; those of the first one are all correct. The rows are shuffled."""
    rollouts, outcomes = [], []
    for row in graded_rows(3, 4):
        prompt = prm.encoder.prompt_ids(row["prompt"])
        for one, correct in zip(prm.encoder.responses(row["completions"]), row["correctness"], strict=True):
            rollouts.append(Rollout(row["prompt"], prompt, one.ids))
            outcomes.append(float(correct))
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0)).tolist()
    return RolloutBatch([rollouts[place] for place in order]), torch.tensor([outcomes[place] for place in order])


def updater(prm, folder, **changes):
    args = PrimeConfig(**options(folder, prm_update="after", **{"prm_learning_rate": 1e-3, **changes}))
    return PRMUpdater(prm, args, Accelerator(cpu=True))


def references(prm, batch):
    return [prm.reference_logprobs(group.prompt_ids, group.responses) for group in batch.groups]


def targets_of(update, batch, outcomes):
    used = torch.ones(len(outcomes), dtype=torch.bool)
    return Targets.of(outcomes, batch.group_of_row, used, update.args)


def naive_loss(policy, reference, batch, outcomes, loss, offset, weight):
    """The mean loss over the responses with a weight, each from a forward pass of its own."""
    total, count = 0.0, 0
    for one, correct, group in zip(batch.rollouts, outcomes.bool(), batch.group_of_row, strict=True):
        same = outcomes[batch.group_of_row == group]
        accuracy = same.mean()
        if weight == "rare" and accuracy in (0, 1):
            continue
        ids, start = torch.tensor([one.prompt_ids + one.ids]), len(one.prompt_ids)
        logs = []
        for model in (policy, reference):
            scores = model(ids).logits[0, start - 1 : -1].log_softmax(-1)
            logs.append(scores.gather(1, ids[0, start:, None])[:, 0])
        rewards = BETA * (logs[0] - logs[1].detach())
        half = 0.5 / len(same)
        shift = accuracy.clamp(half, 1 - half).logit() if offset == "prompt_accuracy" else 0.0
        sign = 1.0 if correct else -1.0
        if loss == "ce":
            value = -F.logsigmoid(sign * (rewards.sum() + shift))
        else:
            prefixes = rewards.cumsum(0) / torch.arange(1, len(rewards) + 1)
            value = -F.logsigmoid(sign * (prefixes + shift) - 0.3).mean()
        size = {True: accuracy, False: 1 - accuracy}[bool(correct)]
        total = total + value * (0.5 / size if weight == "rare" else 1.0)
        count += 1
    return total / count


@pytest.mark.parametrize("weight", ["none", "rare"])
@pytest.mark.parametrize("offset", ["none", "prompt_accuracy"])
@pytest.mark.parametrize("loss", ["ce", "prefix"])
def test_a_step_is_one_of_adamw_on_the_naive_loss(loss, offset, weight, prm, batch, tmp_path):
    rollouts, outcomes = batch
    margin = {"prm_loss": "prefix", "prm_margin": 0.3} if loss == "prefix" else {}
    naive = copy.deepcopy(prm.policy).requires_grad_(True)
    expected = naive_loss(naive, prm.reference, rollouts, outcomes, loss, offset, weight)
    expected.backward()
    changes = {"prm_offset": offset, "prm_class_weight": weight, "prm_max_tokens": 100, "prm_max_grad_norm": 1e9}
    update = updater(prm, tmp_path, **changes, **margin)
    gradients = {}
    step = update.optimizer.step

    def watched():
        gradients.update({name: weight.grad.clone() for name, weight in prm.policy.named_parameters()})
        step()

    update.optimizer.step = watched
    metrics = update.step(rollouts.groups, references(prm, rollouts), targets_of(update, rollouts, outcomes))
    assert metrics["loss"] == pytest.approx(expected.item(), rel=1e-4)
    for name, parameter in naive.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-5, rtol=1e-3)
    assert any((a != b).any() for a, b in zip(naive.parameters(), prm.policy.parameters(), strict=True))


def test_a_batch_of_one_kind_is_no_step(prm, batch, tmp_path):
    rollouts, outcomes = batch
    update = updater(prm, tmp_path)
    before = [weight.clone() for weight in prm.policy.parameters()]
    for value in (0.0, 1.0, float("nan")):
        same = torch.full_like(outcomes, value)
        assert update.step(rollouts.groups, references(prm, rollouts), targets_of(update, rollouts, same)) == {}
    assert all(torch.equal(a, b) for a, b in zip(before, prm.policy.parameters(), strict=True))


def test_targets_leave_out_what_is_not_used_or_not_graded():
    args = type("Options", (), {"prm_offset": "prompt_accuracy", "prm_class_weight": "rare"})
    outcomes, groups = torch.tensor([1.0, 0.0, 0.0, float("nan"), 1.0]), torch.tensor([0, 0, 0, 0, 1])
    used = torch.tensor([True, True, False, True, True])
    found = Targets.of(outcomes, groups, used, args)
    assert found.weight.tolist() == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert found.offset[:2].abs().max() == 0  # one of two is correct
    assert found.responses == 2


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_saved_and_loaded_it_goes_on_as_if_it_had_not_stopped(kind, prm, batch, tmp_path, tiny_folder):
    rollouts, outcomes = batch
    if kind == "lora":
        torch.manual_seed(0)
        base = AutoModelForCausalLM.from_pretrained(tiny_folder)
        adapted = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear"))
        text = prm.metadata.text
        prm = ImplicitPRM(adapted, prm.tokenizer, None, CheckpointMetadata(BETA, ADAPTER_OFF, text=text))

    def step(update):
        known = references(update.prm, rollouts)
        return update.step(rollouts.groups, known, targets_of(update, rollouts, outcomes))

    first = updater(prm, tmp_path)
    step(first)
    first.save(tmp_path / "prm", with_optimizer=True)
    losses = [step(first)["loss"] for _ in range(2)]
    opened = ImplicitPRM.from_pretrained(tmp_path / "prm", device="cpu")
    assert opened.metadata.loss["name"] == "ce"
    second = updater(opened, tmp_path)
    second.load(tmp_path / "prm")
    assert [step(second)["loss"] for _ in range(2)] == pytest.approx(losses, abs=1e-6)
    assert losses[1] != losses[0]


def test_what_cannot_be_updated_is_refused(prm, tmp_path):
    prm.policy.to(torch.bfloat16)
    with pytest.raises(ImplicitPRMError, match="float32"):
        updater(prm, tmp_path)


def test_the_behaviour_policy_is_found_after_the_folder_has_moved(prm, tmp_path):
    updater(prm, tmp_path, prm_reference="behaviour").save(tmp_path / "run" / "prm", with_optimizer=False)
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    assert CheckpointMetadata.read(moved / "prm").reference == str(moved)


def test_a_folder_without_a_state_is_refused(prm, tmp_path):
    update = updater(prm, tmp_path)
    update.save(tmp_path / "prm", with_optimizer=False)
    with pytest.raises(ImplicitPRMError, match="prm_update"):
        update.load(tmp_path / "prm")


def test_the_default_learning_rate_is_twice_the_policys(prm, tmp_path):
    (group,) = updater(prm, tmp_path, prm_learning_rate=None, learning_rate=3e-4).optimizer.param_groups
    assert group["lr"] == pytest.approx(6e-4)
    (group,) = updater(prm, tmp_path, prm_learning_rate=1e-5).optimizer.param_groups
    assert group["lr"] == 1e-5
