"""A finished run that is resumed takes no step."""

from __future__ import annotations

from typing import Any

from transformers import Trainer


class FinishedRunMixin(Trainer):
    """transformers looks at `max_steps` after a step, so that a finished run, resumed within an epoch, takes one."""

    def _run_epoch(self, *arguments: Any, **options: Any) -> None:
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*arguments, **options)
