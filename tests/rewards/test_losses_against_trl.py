"""DPO, NCA and KTO against TRL's own trainers: the same models, the same collated batch, the same loss.

TRL takes the mean over its batch where ours is a sum with a count, and it keeps KTO's KL in nats where ours is in
reward units (beta x nats); everything else must agree.
"""

import copy

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from implicit_prm.config import DPOConfig, KTOConfig, NCAConfig
from implicit_prm.models.forward import completion_logprobs
from implicit_prm.rewards import implicit_reward
from implicit_prm.rewards.losses import LossInputs, dpo, kl_baselines, kto, nca

trl = pytest.importorskip("trl")

BETA = 0.7
WORDS = ["<pad>", "</s>", "<unk>", *"123456?", "what", "is", "plus", "times", "so", "it", "ends", "in"]
PAIRED = [
    {"prompt": "what is 1 plus 2 ?", "chosen": " so 3", "rejected": " it is 4 so it ends in 5"},
    {"prompt": "what is 2 times 3 ?", "chosen": " 2 plus 2 plus 2 is 6", "rejected": " 5"},
    {"prompt": "1 plus 1", "chosen": " is 2", "rejected": " is 1"},
]
UNPAIRED = [
    {"prompt": "what is 1 plus 2 ?", "completion": " so 3", "label": True},
    {"prompt": "what is 2 times 3 ?", "completion": " 2 plus 2 plus 2 is 6", "label": True},
    {"prompt": "what is 2 times 3 ?", "completion": " 5", "label": False},
    {"prompt": "1 plus 1", "completion": " is 2", "label": True},
    {"prompt": "1 plus 1 plus 1", "completion": " it ends in 4", "label": False},
]


@pytest.fixture(scope="module")
def tokenizer():
    words = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", padding_side="left"
    )


def _language_model(seed):
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(WORDS),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=64,
            initializer_range=0.4,  # wide, so that the log-ratios are far from zero
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=1,
        )
    )
    return model.eval()


def _language_models(policy_seed=0, reference_seed=1):
    """Policy and reference for ours, and copies of both for TRL, which rewires the models it is given."""
    policy, reference = _language_model(policy_seed), _language_model(reference_seed)
    return policy, reference, copy.deepcopy(policy), copy.deepcopy(reference)


def _trl_loss(trainer_class, config_class, lms, tokenizer, rows, folder, **options):
    """TRL's collated batch and its loss of it; the gradients are left in TRL's policy."""
    _, _, policy, reference = lms
    args = config_class(
        str(folder),
        beta=BETA,
        per_device_train_batch_size=len(rows),
        report_to="none",
        use_cpu=True,
        bf16=False,
        disable_dropout=True,
        **options,
    )
    trainer = trainer_class(policy, reference, args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    batch = trainer.data_collator([trainer.train_dataset[place] for place in range(len(rows))])
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return batch, loss


def _rewards(lms, batch, prefix=""):
    policy, reference, _, _ = lms
    mask = batch[f"{prefix}completion_mask"].bool()
    rows = (batch[f"{prefix}input_ids"], batch[f"{prefix}attention_mask"], mask)
    with torch.no_grad():
        reference_logprobs = completion_logprobs(reference, *rows)
    ratio = implicit_reward.token_log_ratio(completion_logprobs(policy, *rows), reference_logprobs, mask)
    return implicit_reward.outcome_rewards(implicit_reward.token_rewards(ratio, BETA))


def _agree(ours, theirs, lms):
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    ours.backward()
    policy, _, trl_policy, _ = lms
    for name in ("lm_head.weight", "model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.up_proj.weight"):
        gradient = policy.get_parameter(name).grad
        assert gradient.abs().max() > 1e-3, "nothing to compare"
        torch.testing.assert_close(gradient, trl_policy.get_parameter(name).grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("loss_type", "loss", "config"),
    [("sigmoid", dpo, DPOConfig()), ("nca_pair", nca, NCAConfig())],
    ids=["dpo", "nca"],
)
def test_a_loss_over_pairs(loss_type, loss, config, tokenizer, tmp_path):
    lms = _language_models()
    batch, theirs = _trl_loss(trl.DPOTrainer, trl.DPOConfig, lms, tokenizer, PAIRED, tmp_path, loss_type=[loss_type])
    count = len(PAIRED)
    rewards = _rewards(lms, batch)
    assert rewards.detach().abs().min() > 1e-2, "policy and reference must differ"
    labels, groups = torch.arange(2 * count) < count, torch.arange(2 * count) % count  # TRL: all chosen, all rejected
    output = loss(LossInputs(rewards, labels, groups), config)
    assert output.units == count
    _agree(output.total / output.units, theirs, lms)


def test_kto_with_its_kl_above_zero_and_clamped(tokenizer, tmp_path):
    """With the models swapped every log-ratio changes its sign, and so does the estimate of the KL."""
    weights = {"desirable_weight": 1.5, "undesirable_weight": 0.5}
    baselines = []
    for seeds in ((0, 1), (1, 0)):
        lms = _language_models(*seeds)
        batch, theirs = _trl_loss(trl.KTOTrainer, trl.KTOConfig, lms, tokenizer, UNPAIRED, tmp_path, **weights)
        mismatched = _rewards(lms, batch, prefix="KL_")
        kl = kl_baselines(mismatched.sum().expand(2), torch.full((2,), len(mismatched)))
        baselines.append(kl[0].item())
        rewards, groups = _rewards(lms, batch), torch.arange(len(UNPAIRED))
        output = kto(LossInputs(rewards, batch["label"], groups, kl), KTOConfig(**weights))
        assert output.units == len(UNPAIRED)
        _agree(output.total / output.units, theirs, lms)
    assert 0 == min(baselines) < max(baselines)
