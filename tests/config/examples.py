"""The smallest valid options of each command, and how to change them."""

import pytest

from implicit_prm.config import from_mapping
from implicit_prm.types import ImplicitPRMError

TRAIN = {
    "model": {"name": "sandbox"},
    "data": {"train": "rollouts.jsonl"},
    "loss": {"name": "ce"},
    "output_dir": "outputs",
}
ROLLOUT = {"policy": {"name": "m"}, "problems": {"name": "sandbox"}, "sampling": {}, "output": "rollouts.jsonl"}
SERVER = {"kind": "server", "base_url": "http://localhost:8000/v1", "name": "m"}
BEST_OF_N = {"output_dir": "outputs", "rollout": ROLLOUT, "checkpoint": "folder"}
PROCESS_BENCH = {"checkpoint": "folder"}
BASELINE = {"kind": "value_head", "model": {"name": "sandbox"}, "data": {"train": "l.jsonl"}, "output_dir": "outputs"}
LABEL = {"input": "rows.jsonl", "output": "labels.jsonl"}
MATH_SHEPHERD = LABEL | {"policy": {"name": "sandbox"}, "sampling": {"n": 8}}


def changed(base, **changes):
    """A copy of `base` with `changes`; the dot of a dotted name is written as two underscores."""
    result = {key: dict(value) if isinstance(value, dict) else value for key, value in base.items()}
    for name, value in changes.items():
        group, _, key = name.rpartition("__")
        (result[group] if group else result)[key] = value
    return result


def assert_refused(cls, values, *words):
    """The error contains all `words`: option names and values, not sentences."""
    with pytest.raises(ImplicitPRMError) as caught:
        from_mapping(cls, values)
    for word in words:
        assert word in str(caught.value)
