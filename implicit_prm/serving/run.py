"""`ipr-serve`: open a checkpoint and serve it until SIGTERM or Ctrl-C."""

from __future__ import annotations

from types import FrameType

import uvicorn

from implicit_prm.config import ServeConfig
from implicit_prm.evaluation.scorer import open_checkpoint
from implicit_prm.models.implicit_prm import ImplicitPRM
from implicit_prm.serving.app import create_app
from implicit_prm.serving.guard import api_key
from implicit_prm.serving.scoring_queue import ScoringQueue


class _Server(uvicorn.Server):
    """uvicorn, whose queue is closed as soon as a signal arrives.

    uvicorn then closes its port, waits for the answers to running requests, and ends the application.
    """

    def __init__(self, config: uvicorn.Config, queue: ScoringQueue) -> None:
        super().__init__(config)
        self._queue = queue

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._queue.close()
        super().handle_exit(sig, frame)


def serve(config: ServeConfig) -> None:
    """Serve the checkpoint that `config` names.

    Raises:
        ImplicitPRMError: the checkpoint cannot be opened, or the API key's variable is empty.
    """
    key = api_key(config.api_key_env)
    scorer = open_checkpoint(config, config.steps, skip_too_long=False, over=config.over)
    cache = scorer.model.reference_cache if isinstance(scorer.model, ImplicitPRM) else None
    if cache is not None:
        cache.keep_at_most(config.reference_cache_entries)
    app = create_app(scorer, config, key)
    options = uvicorn.Config(
        app, config.host, config.port, access_log=False, timeout_graceful_shutdown=config.stop_timeout_s
    )
    try:
        _Server(options, app.state.queue).run()
    except KeyboardInterrupt:  # uvicorn raises the signal again after a clean stop
        pass
    finally:
        if cache is not None:
            cache.flush()
