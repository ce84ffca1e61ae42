"""The method again, in the plainest way: one response at a time, complete logits, Python loops.

Nothing is imported from the library, so that an error in it cannot hide here too. Steps are lines of the response.
"""

import json
import math

import torch
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM, AutoTokenizer


def load(folder, dtype=torch.float32):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def read(path):
    """[(prompt, [(response, correct, step labels), ...]), ...]"""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        (row["prompt"], list(zip(row["completions"], row["correctness"], row["step_labels"], strict=True)))
        for row in rows
    ]


def encode(tokenizer, prompt, response):
    """Token ids of the prompt, token ids of the response, and the step of every response token."""
    chat = [{"role": "user", "content": prompt}]
    before = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    whole = tokenizer.apply_chat_template([*chat, {"role": "assistant", "content": response}], tokenize=False)
    assert whole.startswith(before + response)
    encoded = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    ids, steps = ([], []), []
    for token, (start, _) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
        place = start - len(before)
        ids[place >= 0].append(token)
        if place >= 0:
            steps.append(min(response[:place].count("\n"), response.rstrip("\n").count("\n")))
    return *ids, steps


def token_logprobs(model, prompt_ids, response_ids):
    logits = model(torch.tensor([prompt_ids + response_ids])).logits[0]
    return torch.stack(
        [logits[len(prompt_ids) + place - 1].log_softmax(-1)[token] for place, token in enumerate(response_ids)]
    )


def token_rewards(policy, reference, prompt_ids, response_ids, beta):
    with torch.no_grad():
        expected = token_logprobs(reference, prompt_ids, response_ids)
    return beta * (token_logprobs(policy, prompt_ids, response_ids) - expected)


def step_sums(rewards, steps):
    sums = [0.0] * (max(steps) + 1)
    for reward, step in zip(rewards, steps, strict=True):
        sums[step] = sums[step] + reward
    return sums


def loss(name, groups):
    """Mean over units. `groups`: for each prompt [(token rewards, step of every token, correct, step labels), ...]."""
    rewards = [[(tokens.sum(), correct) for tokens, _, correct, _ in group] for group in groups]
    every = [one for group in rewards for one in group]
    mixed = [group for group in rewards if len({correct for _, correct in group}) == 2]
    pairs = [(good, bad) for group in mixed for good, yes in group if yes for bad, also in group if not also]
    if name == "ce":
        terms = [-logsigmoid(r if correct else -r) for r, correct in every]
    elif name == "dpo":
        terms = [-logsigmoid(good - bad) for good, bad in pairs]
    elif name == "nca":
        terms = [-logsigmoid(good) - (logsigmoid(-good) + logsigmoid(-bad)) / 2 for good, bad in pairs]
    elif name == "kto paired":
        used = [one for group in mixed for one in group]
        mean = {
            kind: max(0.0, sum(r.item() for r, correct in used if correct == kind) / sum(c == kind for _, c in used))
            for kind in (True, False)
        }
        terms = [torch.sigmoid(mean[False] - r if correct else r - mean[True]) for r, correct in used]
    elif name == "ce group mean":
        terms = [
            -logsigmoid((1 if correct else -1) * (r - sum(other for other, _ in group) / len(group)))
            for group in mixed
            for r, correct in group
        ]
    elif name == "prefix":
        terms = []
        for tokens, _, correct, _ in (one for group in groups for one in group):
            means = [tokens[: t + 1].sum() / (t + 1) for t in range(len(tokens))]
            terms.append(sum(-logsigmoid((1 if correct else -1) * mean - 5.0) for mean in means) / len(means))
    elif name == "steps":
        terms = [
            (torch.sigmoid(reward) - float(label)) ** 2
            for group in groups
            for tokens, steps, _, labels in group
            for reward, label in zip(step_sums(tokens, steps), labels, strict=True)
        ]
    return sum(terms) / len(terms)


def train(folder, data, name, beta, steps, learning_rate, epsilon):
    """Losses of `steps` optimiser steps on all of the data at once, and the trained model."""
    (policy, tokenizer), (reference, _) = load(folder), load(folder)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=learning_rate, eps=epsilon, weight_decay=0.0)
    losses = []
    for _ in range(steps):
        groups = []
        for prompt, responses in data:
            group = []
            for response, correct, labels in responses:
                prompt_ids, response_ids, step_of_token = encode(tokenizer, prompt, response)
                rewards = token_rewards(policy, reference, prompt_ids, response_ids, beta)
                group.append((rewards, step_of_token, correct, labels))
            groups.append(group)
        value = loss(name, groups)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert all(map(math.isfinite, losses))
    return losses, policy
