"""The work that every variant gets: texts, their token ids, and two models that differ slightly."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from implicit_prm import Group, ImplicitPRMError, load_groups
from implicit_prm.config import TextConfig
from implicit_prm.data.groups import is_mixed, take_responses
from implicit_prm.data.tokenization import EncodedGroup, Encoder
from implicit_prm.models import forward, loading
from implicit_prm.models.source import ModelSource

RANDOM = "random"  # a small Llama with random weights and the sandbox's tokenizer
TEXT = TextConfig(steps="newline")
_SPREAD = (0.6, 1.4)  # generated lengths relative to the mean, as samples of one prompt vary


@dataclass(frozen=True)
class Work:
    """Prompts with their responses, as text (`groups`) and as token ids (`encoded`)."""

    groups: list[Group]
    encoded: list[EncodedGroup]

    @property
    def rows(self) -> list[tuple[list[int], list[int]]]:
        """(prompt ids, response ids), one per response, in dataset order."""
        return [(list(group.prompt_ids), list(response.ids)) for group in self.encoded for response in group.responses]

    @property
    def labels(self) -> list[bool]:
        """Correct or not, one per response, in dataset order."""
        return [label for group in self.encoded for label in group.labels]

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """(correct row, incorrect row) of all pairs within each group."""
        found, start = [], 0
        for group in self.encoded:
            places = range(start, start + len(group.labels))
            wrong = [place for place in places if not self.labels[place]]
            found += [(right, other) for right in places if self.labels[right] for other in wrong]
            start += len(group.labels)
        return found

    @property
    def lengths(self) -> list[tuple[int, list[int]]]:
        """Prompt tokens and tokens of each response, one entry per group."""
        return [(len(group.prompt_ids), [len(response.ids) for response in group.responses]) for group in self.encoded]

    @property
    def response_tokens(self) -> int:
        """Tokens of all responses."""
        return sum(len(response) for _, response in self.rows)

    def __str__(self) -> str:
        prompts = [len(group.prompt_ids) for group in self.encoded]
        lengths = [len(response) for _, response in self.rows]
        return (
            f"{len(prompts)} prompt{'s' * (len(prompts) > 1)} of {sum(prompts) / len(prompts):.0f} tokens, "
            f"{len(lengths) // len(prompts)} responses each of {min(lengths)} to {max(lengths)} tokens "
            f"(mean {sum(lengths) / len(lengths):.0f})"
        )


def open_models(
    name: str, dtype: torch.dtype, device: str, noise: float, seed: int
) -> tuple[PreTrainedModel, PreTrainedModel, PreTrainedTokenizerBase]:
    """Policy, reference and tokenizer. The policy is the reference with noise on its weights.

    Args:
        name: hub id or folder, or `random`.
        dtype: of both models.
        device: of both models.
        noise: standard deviation of the noise on a weight, relative to that of its tensor.
        seed: of the noise.
    """
    tokenizer = loading.open_tokenizer(ModelSource.resolve("sandbox" if name == RANDOM else name))
    reference = random_model(tokenizer, seed=seed) if name == RANDOM else loading.open_model(ModelSource.resolve(name))
    policy = copy.deepcopy(reference)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in policy.parameters():
            weight += noise * weight.std() * torch.randn(weight.shape, generator=generator)
    for model in (policy, reference):
        forward.disable_dropout(model)
        model.to(device, dtype)
    return policy, reference.requires_grad_(False), tokenizer


def random_model(
    tokenizer: PreTrainedTokenizerBase, vocabulary: int = 8192, width: int = 128, layers: int = 2, seed: int = 0
) -> PreTrainedModel:
    """A small random Llama; its vocabulary may be larger than the tokenizer's."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=max(vocabulary, len(tokenizer)),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64),
        max_position_embeddings=8192,
        initializer_range=0.05,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


def read(
    path: str, tokenizer: PreTrainedTokenizerBase, prompts: int, responses: int, seed: int, mixed: bool = False
) -> Work:
    """`prompts` groups of a file with `responses` responses each, both drawn with `seed`.

    With `mixed`, only groups with both correct and incorrect responses are drawn.

    Raises:
        ImplicitPRMError: the file has too few such groups.
    """
    groups = take_responses([group for group in load_groups(path) if len(group) >= responses], responses, seed)
    groups = [group for group in groups if is_mixed(group)] if mixed else groups
    if len(groups) < prompts:
        kind = " of both labels" if mixed else ""
        raise ImplicitPRMError(f"{path}: {len(groups)} prompts have {responses} responses{kind}; expected {prompts}")
    groups = random.Random(seed).sample(groups, prompts)
    encoder = Encoder(tokenizer, TEXT)
    return Work(groups, [encoder.group(group) for group in groups])


def generate(
    tokenizer: PreTrainedTokenizerBase,
    lengths: tuple[int, int],
    prompts: int,
    responses: int,
    seed: int,
    correct: int | None = None,
) -> Work:
    """Arithmetic texts of about the given lengths in tokens (prompt, mean response).

    Response lengths are uniform between 0.6 and 1.4 of the mean. `correct` of the responses to a prompt are labelled
    correct, by default a quarter: 8 responses then give 12 pairs, the median of MATH prompts that have any.
    """
    correct = max(1, responses // 4) if correct is None else correct
    if correct > responses:
        raise ImplicitPRMError(f"--correct {correct} exceeds --responses {responses}")
    encoder, rng = Encoder(tokenizer, TEXT), random.Random(seed)
    groups = []
    for number in range(prompts):
        template = len(encoder.prompt_ids("1"))
        prompt = _text(tokenizer, max(1, lengths[0] - template + 1), rng)
        texts = [
            # One token less than drawn: the end of turn is added.
            _text(tokenizer, max(1, round(rng.uniform(*_SPREAD) * lengths[1]) - 1), rng)
            for _ in range(responses)
        ]
        labels = [place < correct for place in range(responses)]
        rng.shuffle(labels)
        groups.append(Group(f"generated-{number}", prompt, texts, labels, [True] * responses))
    return Work(groups, [encoder.group(group) for group in groups])


def _text(tokenizer: PreTrainedTokenizerBase, tokens: int, rng: random.Random) -> str:
    text = "".join(_line(rng) for _ in range(tokens))  # a line is several tokens
    ends = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return text[: ends[tokens - 1][1]]


def _line(rng: random.Random) -> str:
    first, second = rng.randrange(50), rng.randrange(50)
    return f"{first} + {second} = {(first + second) % 50}\n"
