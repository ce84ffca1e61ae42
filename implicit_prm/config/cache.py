"""Options of `ipr-cache`."""

from __future__ import annotations

from dataclasses import dataclass

from implicit_prm.config.mapping import at_least


@dataclass
class CacheConfig:
    reference_cache: str = "default"
    prune_older_than_days: float | None = None

    def validate(self) -> None:
        at_least(self, 0, "prune_older_than_days")
