"""The names of columns that are read and written.

Three row formats are read:

* grouped rows, one prompt with all of its responses. This is the format of the official rollouts and of `ipr-rollout`:
  `{"prompt": "1+1?", "completions": ["2", "3"], "correctness": [true, false]}`. A response may also be an object with a
  text, `{"text": "2", "score": 0.9}`, whose other keys become columns.
* one row per response, as TRL's unpaired data: `{"prompt": "1+1?", "completion": "2", "label": true}`.
* one row per pair, as TRL's paired data: `{"prompt": "1+1?", "chosen": "2", "rejected": "3"}`.

Each tuple lists the accepted names of a column, the one that is written first.
"""

from __future__ import annotations

PROMPT = ("prompt", "problem", "question")
ANSWER = ("answer", "reference")
IDENTIFIER = ("id", "unique_id", "problem_id")

# Grouped rows: lists with one entry per response.
COMPLETIONS = ("completions", "responses")
CORRECTNESS = ("correctness", "correct")

# Per response, in every format but TRL's paired one.
FINISHED = ("finished",)  # true if the response ended by itself, false if it was cut off
STEPS = ("steps",)  # the response's own steps, a list of texts
STEP_LABELS = ("step_labels",)  # whether each step is right; used to evaluate, and to train where the loss asks for it

STEP_LABEL_SOURCE = ("step_label_source",)  # who made the step labels; absent for ground truth
ESTIMATED = frozenset({"math_shepherd", "autopsv"})  # sources whose step labels are estimates, not ground truth

# One row per response.
COMPLETION = ("completion", "response")
LABEL = ("label", "correctness", "correct")

# One row per pair.
CHOSEN, REJECTED = ("chosen",), ("rejected",)

# Every other column is kept in `Group.extra`.
KNOWN = frozenset(
    name
    for names in (
        *(PROMPT, COMPLETIONS, CORRECTNESS, ANSWER, IDENTIFIER, FINISHED, STEPS, STEP_LABELS, STEP_LABEL_SOURCE),
        *(COMPLETION, LABEL, CHOSEN, REJECTED),
    )
    for name in names
)
