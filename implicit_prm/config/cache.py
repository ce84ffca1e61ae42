"""Options of `ipr-cache`."""

from __future__ import annotations

from dataclasses import dataclass

from implicit_prm.config.validation import check_range


@dataclass
class CacheConfig:
    """`ipr-cache`: list the cached log-probabilities of reference models, and delete old ones.

    Args:
        reference_cache: Folder of the cache; `default` is $IPR_CACHE, or ~/.cache/implicit_prm.
        prune_older_than_days: Delete caches that were last written to at least this many days ago; None keeps all.
    """

    reference_cache: str = "default"
    prune_older_than_days: float | None = None

    def validate(self) -> None:
        check_range(self, "prune_older_than_days", at_least=0)
