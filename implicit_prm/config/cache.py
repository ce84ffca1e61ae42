"""Options of `ipr-cache`."""

from __future__ import annotations

from dataclasses import dataclass

from implicit_prm.config.validation import check_range


@dataclass
class CacheConfig:
    """`ipr-cache`: list what is kept on disk (references, encoded data, results of grading), and delete what is old.

    Args:
        reference_cache: Folder of the reference log-probabilities; `default` is $IPR_CACHE/reference, or
            ~/.cache/implicit_prm/reference.
        data_cache: Folder of the encoded data; `default` is $IPR_CACHE/data, or ~/.cache/implicit_prm/data.
        grading_cache: Folder of the results of grading; `default` is $IPR_CACHE/grading, or
            ~/.cache/implicit_prm/grading.
        prune_older_than_days: Delete what was last written to at least this many days ago; None keeps all.
    """

    reference_cache: str = "default"
    data_cache: str = "default"
    grading_cache: str = "default"
    prune_older_than_days: float | None = None

    def validate(self) -> None:
        check_range(self, "prune_older_than_days", at_least=0)
