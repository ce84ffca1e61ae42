"""Count the steps whose first word is credited to the previous step, over real responses.

    python scripts/audit_steps.py --tokenizers ../models/smollm2 --data ../shared/data/math_train_rollouts16.jsonl.gz

For each file, tokenizer and step rule: the number of steps after the first, and how many of them do not own the token
that holds their first non-space character. Every count must be 0.
"""

from __future__ import annotations

import argparse
from itertools import islice

from transformers import AutoTokenizer

from implicit_prm.config import TextConfig
from implicit_prm.data.groups import load_groups
from implicit_prm.data.tokenization import EncodedResponse, Encoder
from implicit_prm.utils.progress import tracked

RULES = ("blank_line", "newline", "step_marker")


def misassigned(text: str, encoded: EncodedResponse) -> tuple[int, int]:
    """Steps after the first, and those whose first word belongs to an earlier step."""
    wrong, token, token_spans = 0, 0, encoded.token_spans
    for step, span in islice(enumerate(encoded.spans), 1, None):
        step_text = text[span.start : span.end]
        first_word = span.end - len(step_text.lstrip())
        while token_spans[token].end <= first_word:
            token += 1
        wrong += encoded.step_of_token[token] != step
    return max(len(encoded.spans) - 1, 0), wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True, help="files of grouped rows")
    parser.add_argument("--tokenizers", nargs="+", required=True, help="folders or hub ids of models")
    parser.add_argument("--limit", type=int, help="read only the first prompts of each file")
    arguments = parser.parse_args()
    for source in arguments.data:
        groups = load_groups(source, graded=False, limit=arguments.limit)
        for name in arguments.tokenizers:
            tokenizer = AutoTokenizer.from_pretrained(name)
            for rule in RULES:
                encoder = Encoder(tokenizer, TextConfig(steps=rule))
                steps = wrong = 0
                for group in tracked(groups, f"{source}, {name}, {rule}"):
                    for text, finished in zip(group.completions, group.finished, strict=True):
                        counted = misassigned(text, encoder.response(text, finished))
                        steps, wrong = steps + counted[0], wrong + counted[1]
                print(f"{source}  {name}  {rule}: {wrong:,} of {steps:,} steps ({wrong / max(steps, 1):.2%})")


if __name__ == "__main__":
    main()
