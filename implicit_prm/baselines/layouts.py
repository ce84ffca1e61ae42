"""The input of an explicit reward model: the tokens of a response, and the positions of its predictions.

In training and in scoring, every kind of model predicts at the last token of each step. The kinds differ in their
steps:

    orm           the whole response is one step
    value_head    the steps of the step rule
    next_token    the same, each followed by a separator as its last token
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from implicit_prm.config import BaselineKind, LabelUse, StepTokens
from implicit_prm.data.tokenization import EncodedGroup, EncodedResponse, Encoder
from implicit_prm.types import Group, ImplicitPRMError, Prompt, StepSpan

_RESERVED = re.compile(r"reserved|unused|control_|extra_id|dummy|placeholder", re.IGNORECASE)
# Tokens for good and bad, in order of preference. They are only predicted, so they may also occur in the text.
_VERDICTS = (("+", "-"), ("Yes", "No"), ("yes", "no"), ("1", "0"))


def read_positions(step_of_token: Sequence[int], steps: int) -> list[int]:
    """[S] index of the last token of each step; a step that owns no token shares that of the previous step."""
    return [bisect_right(step_of_token, step) - 1 for step in range(steps)]


class Layout:
    """Encodes responses the way one kind of model reads them.

    Args:
        encoder: the encoder, as for implicit PRMs.
        kind: the kind of the model.
        tokens: for `next_token`, the separator. (The tokens for good and bad are predicted, not part of the input.)
        labels: the training target of each step: the response's outcome, or its step labels, hard or soft.
    """

    def __init__(
        self, encoder: Encoder, kind: BaselineKind, tokens: StepTokens | None = None, labels: LabelUse = "outcome"
    ) -> None:
        self.encoder, self.kind, self.labels = encoder, kind, labels
        self.separator = None if tokens is None else token_id(encoder.tokenizer, tokens.separator)

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """Token ids of the prompt; see `Encoder.prompt_ids`."""
        return self.encoder.prompt_ids(prompt)

    def response(self, text: str, finished: bool = True, given: list[str] | None = None) -> EncodedResponse:
        """Encode one response as the model reads it."""
        return self.lay_out(self.encoder.response(text, finished, given))

    def responses(
        self,
        texts: Sequence[str],
        finished: Sequence[bool] | None = None,
        given_steps: Sequence[list[str]] | None = None,
    ) -> list[EncodedResponse]:
        """Encode responses as the model reads them; arguments and errors as for `Encoder.responses`."""
        return [self.lay_out(encoded) for encoded in self.encoder.responses(texts, finished, given_steps)]

    def lay_out(self, encoded: EncodedResponse) -> EncodedResponse:
        """A response with the steps and separators of this kind of model."""
        if self.kind == "orm":
            whole = [StepSpan(0, encoded.spans[-1].end)] if encoded.spans else []
            return replace(encoded, step_of_token=[0] * len(encoded.ids), spans=whole)
        if self.separator is None:
            return encoded
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        steps: list[int] = []
        start = 0
        for step, last in enumerate(read_positions(encoded.step_of_token, len(encoded.spans))):
            own = slice(start, last + 1)
            end = encoded.offsets[last][1] if last >= 0 else 0
            ids += [*encoded.ids[own], self.separator]
            offsets += [*encoded.offsets[own], (end, end)]
            steps += [step] * (len(ids) - len(steps))
            start = last + 1
        return EncodedResponse(ids, offsets, steps, encoded.spans)

    def group(self, group: Group) -> EncodedGroup:
        """Encode a graded group for training, with its step labels.

        Raises:
            ImplicitPRMError: a response that is empty or cannot be split into steps, or without one label for each
                step; names the group and the response.
        """
        responses = [self.lay_out(encoded) for encoded in self.encoder.group_responses(group)]
        return EncodedGroup.of(group, self.prompt_ids(group.prompt), responses, self.step_labels)

    def step_labels(self, group: Group, place: int, encoded: EncodedResponse) -> list[float]:
        """[S] what the model should predict at the end of each step of a response; NaN for a step without a label.

        Raises:
            ImplicitPRMError: no step labels, or not one for each step.
        """
        steps = len(encoded.spans)
        if self.labels == "outcome":
            return [float(bool(group.correctness[place]))] * steps
        labels = group.step_labels[place] if group.step_labels is not None else None
        if labels is None:
            raise ImplicitPRMError("there are no step labels; `ipr-label` makes them")
        labels.require_steps(steps)
        if self.labels == "hard":  # right if any completion of the prefix was (arXiv 2312.08935, Equation 3)
            return [math.nan if label is None else float(label > 0) for label in labels]
        return [math.nan if label is None else float(label) for label in labels]


def token_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    """The id of a token of the vocabulary; raises ImplicitPRMError if there is no such token."""
    found = tokenizer.get_vocab().get(token)
    if found is None:
        name = tokenizer.name_or_path or type(tokenizer).__name__
        raise ImplicitPRMError(f"{name}: no token {token!r} in the vocabulary; spell tokens as the vocabulary does")
    return found


def choose_tokens(encoder: Encoder, embedded: int) -> StepTokens:
    """Choose a separator, and tokens for good and bad, from the existing vocabulary. Nothing is added or resized.

    The separator is a reserved token if there is one; else a special token without a meaning inside a response (not the
    end of text or turn, not padding, none of the prompt's); else the newline. Of several, the one with the lowest id.

    Args:
        encoder: the encoder whose tokenizer's vocabulary is searched.
        embedded: the number of tokens that the model has embeddings for.

    Raises:
        ImplicitPRMError: no suitable tokens in the vocabulary; set `tokens`.
    """
    tokenizer = encoder.tokenizer
    special = sorted((number, str(token)) for number, token in tokenizer.added_tokens_decoder.items() if token.special)
    meant = {encoder.end_of_turn, tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id}
    taken = meant | {tokenizer.unk_token_id, *encoder.prompt_ids("probe")}
    free = [token for number, token in special if number not in taken and number < embedded]
    separators = [token for token in free if _RESERVED.search(token)] + free + _single(encoder, "\n")
    verdicts = [(good, bad) for good, bad in _VERDICTS if _single(encoder, good) and _single(encoder, bad)]
    if not separators or not verdicts:
        lacking = "after a step" if not separators else "for good and bad (+ and -, Yes and No, 1 and 0)"
        raise ImplicitPRMError(
            f"{tokenizer.name_or_path}: no suitable token {lacking} in the vocabulary; name some, for example "
            '\'tokens={separator: "<|step|>", good: "+", bad: "-"}\''
        )
    good, bad = verdicts[0]
    return StepTokens(separators[0], _single(encoder, good)[0], _single(encoder, bad)[0])


def _single(encoder: Encoder, text: str) -> list[str]:
    """The token of the vocabulary that is exactly this text; empty if the text takes several tokens or is unknown."""
    ids = encoder.tokenizer(text, add_special_tokens=False)["input_ids"]
    known = len(ids) == 1 and ids[0] != encoder.tokenizer.unk_token_id and encoder.tokenizer.decode(ids) == text
    return [str(encoder.tokenizer.convert_ids_to_tokens(ids[0]))] if known else []
