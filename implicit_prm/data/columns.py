"""The columns that rows are read from and written to, and what a row may call them."""

from __future__ import annotations

# The column contract. Grouped rows (the official rollouts, and what `ipr-rollout` writes) are the native form; TRL's
# unpaired and paired rows are read too. Where data in the wild uses another word, it is listed after ours.
PROMPT = ("prompt", "problem", "question")
COMPLETIONS = ("completions", "responses")
CORRECTNESS = ("correctness", "correct")
ANSWER = ("answer", "reference")
IDENTIFIER = ("id", "unique_id", "problem_id")
FINISHED = ("finished",)  # did the response end by itself (true), or was it cut off (false)?
STEPS = ("steps",)  # the response's own split, a list of texts
STEP_LABELS = ("step_labels",)  # is each step right? Used to measure, and to train where that is asked for
STEP_LABEL_SOURCE = ("step_label_source",)  # who says so, in the rows of ipr-label; baselines train on none without it
ESTIMATED = frozenset({"math_shepherd", "autopsv"})  # sources whose labels are no truth to measure with
COMPLETION, LABEL = ("completion",), ("label",)  # TRL, unpaired
CHOSEN, REJECTED = ("chosen",), ("rejected",)  # TRL, paired

KNOWN = frozenset(
    name
    for names in (
        *(PROMPT, COMPLETIONS, CORRECTNESS, ANSWER, IDENTIFIER, FINISHED, STEPS, STEP_LABELS, STEP_LABEL_SOURCE),
        *(COMPLETION, LABEL, CHOSEN, REJECTED),
    )
    for name in names
)
