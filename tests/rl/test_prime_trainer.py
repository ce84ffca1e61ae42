"""PrimeTrainer: GRPO without a PRM, the PRM's rewards on the policy's own tokens with one, and refusals by name."""

import math
import shutil

import pytest
import torch
from trl import GRPOConfig, GRPOTrainer

from implicit_prm import ImplicitPRM, ImplicitPRMError, StepScores, sandbox
from implicit_prm.rewards.step_splitting import split_steps
from implicit_prm.rl import PrimeConfig, PrimeTrainer
from implicit_prm.rl.advantages import outcome_advantages, process_advantages, value_advantages
from implicit_prm.rl.prm_update import PRMUpdater
from tests.rl.grpo import accuracy, dataset, options, prime, rows


def open_prm(folder, reference, **changes):
    changes = {"beta": 0.5, "steps": "newline", "device": "cpu", **changes}
    return ImplicitPRM.from_pretrained(folder, reference=str(reference), **changes)


@pytest.fixture(scope="module")
def prm(tiny_folder, other_folder):
    return open_prm(tiny_folder, other_folder)


class Checker:
    """1 for a right step, 0 for a wrong one."""

    def score(self, problem, responses):
        scores = []
        for text in responses:
            right = [float(label) for label in sandbox.check_steps(problem[0]["content"], text)]
            scores.append(StepScores(text, split_steps(text, "newline"), right, kind="probability"))
        return scores


def logs(trainer):
    return [row for row in trainer.state.log_history if "loss" in row]


def test_outcomes_alone_train_as_grpo_does(tmp_path):
    """The same losses and weights as GRPOTrainer, with the same rollouts."""
    grpo = GRPOTrainer(str(sandbox.POLICY_PATH), accuracy, GRPOConfig(**options(tmp_path)), train_dataset=dataset())
    grpo.train()
    ours, seen = prime(tmp_path, process_coef=0, baseline="group_mean", scale_rewards="group")
    ours.train()
    assert [row["loss"] for row in logs(ours)] == pytest.approx([row["loss"] for row in logs(grpo)], abs=1e-6)
    assert seen[0]["advantages"].shape == seen[0]["completion_ids"].shape
    theirs = grpo.model.state_dict()
    for name, weight in ours.model.state_dict().items():
        torch.testing.assert_close(weight, theirs[name], atol=1e-7, rtol=0)


def test_leave_one_out_at_every_token(tmp_path):
    trainer, seen = prime(tmp_path, process_coef=0, max_steps=1)
    trainer.train()
    outcomes = trainer._rewards[:, 0]
    assert 0 < outcomes.mean() < 1
    expected = outcome_advantages(outcomes, torch.tensor([0] * 4 + [1] * 4))
    for (_, ids, found), one in zip(rows(seen[0]), expected, strict=True):
        assert found[: len(ids)].tolist() == [one.item()] * len(ids)
        assert found[len(ids) :].abs().sum() == 0


@pytest.mark.parametrize(("granularity", "credit"), [("token", "sum"), ("step", "min"), ("step", "value")])
def test_process_rewards_are_those_of_the_prm_on_the_same_tokens(granularity, credit, prm, tmp_path):
    trainer, seen = prime(
        tmp_path, prm=prm, process_coef=0.3, granularity=granularity, credit=credit, max_steps=1, num_generations=8
    )
    trainer.train()
    batch = list(rows(seen[0]))
    texts = [trainer._tokenizer.decode(ids, skip_special_tokens=True) for _, ids, _ in batch]
    problem = trainer._tokenizer.decode(batch[0][0]).removeprefix("<|user|>").removesuffix("<|assistant|>")
    ended = [ids[-1] == trainer._tokenizer.eos_token_id for _, ids, _ in batch]
    scores = prm.score(problem, texts, finished=ended)
    steps = [one.step_of_token for one in prm.encoder.responses(texts, ended)]
    width = max(len(one.token_rewards) for one in scores)
    rewards, step_of_token = torch.zeros(8, width), torch.zeros(8, width, dtype=torch.long)
    for row, one in enumerate(scores):
        assert len(one.token_rewards) == len(batch[row][1])
        rewards[row, : len(one.token_rewards)] = torch.tensor(one.token_rewards)
        step_of_token[row, : len(steps[row])] = torch.tensor(steps[row])
    mask = torch.arange(width) < torch.tensor([len(ids) for _, ids, _ in batch])[:, None]
    groups = torch.zeros(8, dtype=torch.long)
    units, outcomes = step_of_token if granularity == "step" else None, trainer._rewards[:, 0]
    if credit == "value":
        process = value_advantages(rewards, mask, groups, outcomes, units)
    else:
        process = process_advantages(rewards, mask, groups, units, credit=credit)
    expected = outcome_advantages(outcomes, groups)[:, None] + 0.3 * process
    torch.testing.assert_close(seen[0]["advantages"], expected.masked_fill(~mask, 0.0), atol=1e-4, rtol=1e-4)
    assert all(one.token_rewards[-1] != 0 for one in scores)  # the last token counts


def test_what_is_logged(prm, tmp_path):
    checker = lambda prompt, text: sandbox.check_steps(prompt[0]["content"], text)  # noqa: E731
    trainer, _ = prime(tmp_path, prm=prm, step_checker=checker, eval_strategy="no")
    trainer.train()
    for row in logs(trainer):
        for name in ("return", "share_last", "share_newline", "outcome_auroc", "pair_accuracy", "step_auroc"):
            assert math.isfinite(row[f"prm/{name}"])
        assert 0 < row["prm/share_newline"] < 1
        assert 0 <= row["advantage/blame"] <= 1


def test_the_log_leaves_out_advantages_of_prompts_that_are_not_trained_on(prm, tmp_path):
    """They are all 0, which would count as steps that the advantages cannot tell apart."""
    checker = lambda prompt, text: sandbox.check_steps(prompt[0]["content"], text)  # noqa: E731
    trainer, _ = prime(tmp_path, prm=prm, step_checker=checker, accuracy_range=[0.01, 0.02], max_steps=1)
    trainer.train()
    (row,) = logs(trainer)
    assert row["prm/prompts_used"] == 0
    assert "prm/step_auroc" in row
    assert not {"advantage/step_auroc", "advantage/blame"} & row.keys()


def test_exact_step_rewards_of_another_scorer(tmp_path):
    trainer, seen = prime(tmp_path, prm=Checker(), process_coef=1.0, max_steps=1)
    trainer.train()
    spread = [found[: len(ids)].unique().numel() for _, ids, found in rows(seen[0])]
    assert max(spread) > 1  # not one advantage for the whole response
    assert logs(trainer)[0]["prm/outcome_auroc"] > 0.5


def test_prompts_outside_the_accuracy_range_are_left_out(prm, tmp_path):
    trainer, seen = prime(tmp_path, prm=prm, accuracy_range=[0.2, 0.8], max_steps=1, num_generations=2)
    trainer.train()
    pairs = trainer._rewards[:, 0].view(-1, 2).mean(1)
    used = (pairs == 0.5).repeat_interleave(2)
    assert 0 < used.sum() < 8
    assert [bool(found.abs().sum() > 0) for _, _, found in rows(seen[0])] == used.tolist()
    assert logs(trainer)[0]["prm/prompts_used"] == pytest.approx(used.float().mean().item())


@pytest.mark.parametrize("update", ["before", "after"])
def test_the_prm_learns_before_or_after_it_scores(update, tiny_folder, other_folder, tmp_path):
    """Before: the batch is scored by the PRM that learned from it. After: by the one that did not."""
    changes = {"prm_update": update, "prm_learning_rate": 1e-2, "max_steps": 1, "num_generations": 8}
    trainer, seen = prime(tmp_path, prm=open_prm(tiny_folder, other_folder), **changes)
    trainer.train()
    (row,) = logs(trainer)
    assert row["prm/loss"] > 0
    batch = list(rows(seen[0]))
    scorer = trainer.dense.prm if update == "before" else open_prm(tiny_folder, other_folder)
    rewards = scorer.token_rewards(batch[0][0], [ids for _, ids, _ in batch])
    assert row["prm/return"] == pytest.approx(torch.stack([one.sum() for one in rewards]).mean().item(), rel=1e-4)
    other = open_prm(tiny_folder, other_folder).policy.state_dict()
    assert any((weight != other[name]).any() for name, weight in trainer.dense.prm.policy.state_dict().items())


def test_the_prm_does_not_count_responses_that_are_masked(tiny_folder, other_folder, tmp_path, monkeypatch):
    """They have no tokens to learn from, and must not change the mean loss, the offset or the weights of the others."""
    seen = []
    monkeypatch.setattr(PRMUpdater, "step", lambda _, groups, references, targets: seen.append((groups, targets)) or {})
    changes = {"mask_truncated_completions": True, "max_completion_length": 30, "num_generations": 2, "max_steps": 1}
    prime(tmp_path, prm=open_prm(tiny_folder, other_folder), prm_update="after", **changes)[0].train()
    ((groups, targets),) = seen
    learned = sorted(place for group in groups for place in group.places)
    assert 0 < len(learned) < 8
    assert targets.weight.nonzero()[:, 0].tolist() == learned


def test_the_behaviour_policy_as_reference(tmp_path):
    """A PRM that is the policy has no reward against the policy that sampled the batch."""
    folder = str(sandbox.POLICY_PATH)
    trainer, _ = prime(tmp_path, prm=open_prm(folder, "none"), prm_reference="behaviour", temperature=0.7, max_steps=1)
    trainer.train()
    assert logs(trainer)[0]["prm/return"] == pytest.approx(0, abs=1e-4)


def test_resumed_equals_uninterrupted(tiny_folder, other_folder, tmp_path):
    """From the end of the first epoch."""
    changes = {
        **{"prm_update": "after", "prm_loss": "prefix", "prm_offset": "prompt_accuracy", "prm_class_weight": "rare"},
        **{"prm_reference": "behaviour", "prm_learning_rate": 1e-3, "accuracy_range": [0.1, 0.9], "max_steps": 4},
        **{"save_strategy": "steps", "save_steps": 2, "num_generations": 2},
    }
    runs = {}
    for name, resumed in (("whole", None), ("resumed", str(tmp_path / "whole" / "checkpoint-2"))):
        trainer, _ = prime(tmp_path / name, prm=open_prm(tiny_folder, other_folder), **changes)
        trainer.train(resume_from_checkpoint=resumed)
        trainer.save_model()
        runs[name] = trainer
    whole, resumed = (logs(runs[name]) for name in ("whole", "resumed"))
    for key in ("loss", "prm/loss", "prm/return", "reward"):
        assert [row[key] for row in resumed] == pytest.approx([row[key] for row in whole], abs=1e-5)
    for of in (lambda one: one.model, lambda one: one.dense.prm.policy):
        expected = of(runs["whole"]).state_dict()
        for name, weight in of(runs["resumed"]).state_dict().items():
            torch.testing.assert_close(weight, expected[name], atol=1e-6, rtol=0)
    opened = ImplicitPRM.from_pretrained(tmp_path / "resumed" / "prm", device="cpu")
    assert opened.metadata.reference == str(tmp_path / "resumed")
    torch.testing.assert_close(opened.policy.state_dict(), runs["whole"].dense.prm.policy.state_dict())
    with pytest.raises(ImplicitPRMError, match="prm_update"):
        prime(tmp_path, prm=open_prm(tiny_folder, other_folder), prm_update="after")[0].train(
            resume_from_checkpoint=_without_prm(tmp_path / "whole" / "checkpoint-4")
        )


def _without_prm(checkpoint):
    shutil.rmtree(checkpoint / "prm")
    return str(checkpoint)


def test_evaluation_has_advantages_of_grpo(prm, tmp_path):
    trainer, seen = prime(tmp_path, prm=prm, per_device_eval_batch_size=4)
    trainer.eval_dataset = dataset(2, "dev")
    before = torch.get_rng_state()
    metrics = trainer.evaluate()
    assert torch.equal(torch.get_rng_state(), before)  # the rollouts that follow do not depend on it
    assert seen[-1]["advantages"].dim() == 1
    assert 0 <= metrics["eval_rewards/accuracy/mean"] <= 1


def second(completions, **_):
    return [0.0] * len(completions)


@pytest.mark.parametrize(
    ("arguments", "changes", "named"),
    [
        ({}, {"loss_type": "vespo"}, "loss_type=vespo"),
        ({}, {"off_policy_mask_threshold": 0.5}, "off_policy_mask_threshold"),
        ({}, {"scale_rewards": "group"}, "scale_rewards=group"),
        ({}, {"credit": "min", "gamma": 0.9}, "gamma=0.9"),
        ({}, {"credit": "value", "gamma": 0.9}, "credit=value"),
        ({}, {"gae_lambda": 0.5}, r"gae_lambda=0\.5"),
        ({}, {"credit": "value", "prm_update": "before"}, "prm_update=before"),
        ({}, {"credit": "value", "shuffle_process_rewards": True}, "shuffle_process_rewards"),
        ({}, {"credit": "value", "prm_update": "after", "prm_loss": "prefix"}, "prm_loss=prefix"),
        ({"prm": Checker()}, {"credit": "value"}, "credit=value"),
        ({}, {"credit": "max"}, "credit=max"),
        ({}, {"prm_loss": "prefix"}, "prm_loss=prefix"),
        ({}, {"prm_update": "after", "prm_margin": 1.0}, r"prm_margin=1\.0"),
        ({}, {"accuracy_range": [0.8, 0.2]}, "accuracy_range"),
        ({}, {"process_coef": 0, "credit": "sum"}, "credit=sum"),
        ({"prm": None}, {}, r"process_coef=0\.2"),
        ({"prm": None}, {"process_coef": 0, "prm_update": "after"}, "prm_update=after"),
        ({"prm": None}, {"process_coef": 0, "prm_max_tokens": 512}, "prm_max_tokens=512"),
        ({"prm": Checker()}, {"prm_max_tokens": 512}, "prm_max_tokens=512"),
        (
            {},
            {
                **{"prm_update": "after", "load_best_model_at_end": True},
                **{"eval_strategy": "steps", "save_strategy": "steps"},
            },
            "load_best_model_at_end",
        ),
        ({"prm": Checker()}, {"prm_update": "after"}, "prm_update=after"),
        ({"prm": Checker()}, {"prm_reference": "behaviour"}, "prm_reference=behaviour"),
        ({"reward_funcs": [accuracy, second]}, {}, "outcome_reward"),
        ({"reward_funcs": [accuracy, second]}, {"prm_update": "after"}, "outcome_reward"),
        ({"reward_funcs": [accuracy, second]}, {"outcome_reward": "third"}, "outcome_reward=third"),
    ],
)
def test_unsound_combinations_are_refused_by_name(arguments, changes, named, prm, tmp_path):
    with pytest.raises(ImplicitPRMError, match=named):
        prime(tmp_path, **{"prm": prm, **arguments}, **changes)


def test_tools_and_plain_grpo_arguments_are_refused(prm, tmp_path):
    with pytest.raises(ImplicitPRMError, match="tools"):
        PrimeTrainer("model", accuracy, PrimeConfig(**options(tmp_path)), prm=prm, tools=[second])
    with pytest.raises(ImplicitPRMError, match="PrimeConfig"):
        PrimeTrainer("model", accuracy, GRPOConfig(**options(tmp_path)), prm=prm)
