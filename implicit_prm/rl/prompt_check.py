"""Does a PRM read the prompts of reinforcement learning as in its training?"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence

from implicit_prm.data.tokenization import Encoder
from implicit_prm.models.implicit_prm import ImplicitPRM
from implicit_prm.types import ImplicitPRMError, Prompt


class PromptCheck:
    """Warns, once, of a prompt whose tokens are not those that the template of the PRM's training makes of it.

    A prompt may hold the template already, as those of `ipr-rollout` and `ipr-rl` do. A model that was not trained as a
    PRM has no template of its own, and is not checked.

    Args:
        prm: the PRM.
    """

    def __init__(self, prm: ImplicitPRM) -> None:
        self.encoder = prm.encoder
        self._finished = prm.metadata.template_hash is None

    def __call__(self, prompt: Prompt, prompt_ids: Sequence[int] | None = None) -> None:
        """Compare the tokens of a prompt.

        Args:
            prompt: a text or a chat, as in the dataset.
            prompt_ids: the tokens that the PRM reads; by default those that it makes of the prompt itself.
        """
        if self._finished:
            return
        try:
            expected = _template_ids(self.encoder, prompt)
            found = self.encoder.prompt_ids(prompt) if prompt_ids is None else list(prompt_ids)
        except ImplicitPRMError as error:
            self._warn(str(error))
            return
        if found != expected:
            template = self.encoder.text.prompt_template
            wanted = _around_difference(self.encoder, expected, found)
            given = _around_difference(self.encoder, found, expected)
            self._warn(f"its template ({template!r}) makes {wanted!r} of a prompt, and it reads {given!r}")

    def _warn(self, why: str) -> None:
        self._finished = True
        warnings.warn(
            f"the PRM reads other prompts than in its training: {why}. Its rewards may be off; use the same chat "
            "template, prompt template and system message for the policy and the PRM",
            stacklevel=3,
        )


def _template_ids(encoder: Encoder, prompt: Prompt) -> list[int]:
    """Tokens of a prompt with the encoder's template, which is not applied again where the prompt holds it."""
    text = encoder.text
    template = text.prompt_template.removeprefix("raw:")
    content = prompt if isinstance(prompt, str) else prompt[-1]["content"]
    if not isinstance(content, str):  # a message in parts
        return encoder.prompt_ids(prompt)
    first, *rest = map(re.escape, template.split("{problem}"))
    filled = re.fullmatch(first + "(?P<problem>.*)" + "(?P=problem)".join(rest), content, re.DOTALL)
    problem = filled["problem"] if filled else content
    if isinstance(prompt, str) or encoder.raw or text.system_prompt is not None:
        return encoder.prompt_ids(problem)
    return encoder.prompt_ids([*prompt[:-1], {**prompt[-1], "content": template.replace("{problem}", problem)}])


def _around_difference(encoder: Encoder, ids: Sequence[int], others: Sequence[int]) -> str:
    """The text of some tokens around the first one in which `ids` and `others` differ."""
    pairs = enumerate(zip(ids, others, strict=False))
    first = next((place for place, (one, other) in pairs if one != other), min(len(ids), len(others)))
    return str(encoder.tokenizer.decode(list(ids[max(first - 8, 0) : first + 24])))
