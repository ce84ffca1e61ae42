"""`ipr-cache`: list what is kept on disk, and delete what is old."""

from __future__ import annotations

from datetime import datetime

from omegaconf import DictConfig

from implicit_prm.cli.command import command, run
from implicit_prm.config import CacheConfig


def _cache(config: CacheConfig) -> None:
    from implicit_prm.data import encoded_sets
    from implicit_prm.grading import store
    from implicit_prm.models import reference_cache
    from implicit_prm.utils.caches import Stored, cache_folder, prune

    def show(what: str, folder: str, caches: list[Stored]) -> None:
        print(f"{folder}: {len(caches)} {what}")
        for one in caches:
            when = datetime.fromtimestamp(one.used).strftime("%Y-%m-%d %H:%M") if one.used else "never"
            print(f"{one.folder.name}  {one.content}, {one.size_bytes / 1e6:.1f} MB")
            print(f"  last written {when}; " + ", ".join(f"{key} {value[:24]}" for key, value in one.identity.items()))
        if config.prune_older_than_days is not None:
            print(f"deleted {len(prune(caches, config.prune_older_than_days))} of {len(caches)}")

    folder = config.reference_cache if config.reference_cache != "default" else str(cache_folder("reference"))
    show("references", folder, reference_cache.stored(folder))
    folder = config.data_cache if config.data_cache != "default" else str(cache_folder("data"))
    show("data sets", folder, encoded_sets.stored(folder))
    folder = config.grading_cache if config.grading_cache != "default" else str(cache_folder("grading"))
    show("versions of grading", folder, store.stored(folder))


@command("cache")
def main(tree: DictConfig) -> None:
    run("ipr-cache", CacheConfig, tree, _cache)


if __name__ == "__main__":
    main()
