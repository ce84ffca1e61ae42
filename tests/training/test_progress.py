"""The Trainer's progress in a log."""

from types import SimpleNamespace

import pytest

from implicit_prm.training.progress import LogProgress
from implicit_prm.utils import progress


@pytest.mark.parametrize("first", [True, False])
def test_log_has_metrics_and_progress_of_the_first_process(first, monkeypatch, capsys):
    monkeypatch.setattr(progress, "LOG_INTERVAL_SECONDS", 0.0)
    state = SimpleNamespace(is_world_process_zero=first, max_steps=12, global_step=10)  # resumed after step 10
    callback = LogProgress()
    callback.on_train_begin(None, state, None)
    callback.on_step_end(None, state, None)
    callback.on_log(None, state, None, logs={"loss": 0.123456, "step": 11, "total_flos": 1e9})
    callback.on_step_end(None, state, None)
    callback.on_train_end(None, state, None)
    callback.on_log(None, state, None, logs={"eval_loss": 1.0})
    lines = capsys.readouterr().out.splitlines()
    if not first:
        assert lines == []
        return
    assert lines[0].startswith("training: 1 of 2, ")
    assert lines[1] == "{'loss': '0.1235', 'step': 11}"
    assert lines[2].startswith("training: 2 of 2, ")
    assert len(lines) == 3
