"""The Trainer's progress in a log."""

from __future__ import annotations

from transformers import TrainerCallback

from implicit_prm.utils.progress import ProgressLines


class LogProgress(TrainerCallback):
    """Replaces transformers' ProgressCallback in a log: the metrics, and a line of progress every half minute."""

    def __init__(self) -> None:
        self._lines: ProgressLines | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self._lines = ProgressLines("training", state.max_steps - state.global_step)

    def on_step_end(self, args, state, control, **kwargs):
        if self._lines is not None:
            self._lines(1)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self._lines is not None:
            metrics = {name: value for name, value in (logs or {}).items() if name != "total_flos"}
            print({name: f"{value:.4g}" if isinstance(value, float) else value for name, value in metrics.items()})

    def on_train_end(self, args, state, control, **kwargs):
        self._lines = None
