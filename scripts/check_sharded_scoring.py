r"""Check that `ipr-score` in shards, one of them killed, gives the table of one run, and Ray the same scores.

    python scripts/check_sharded_scoring.py --checkpoint outputs/sandbox/ce --responses 100000
    python scripts/check_sharded_scoring.py --checkpoint outputs/sandbox/ce --responses 100000 --ray

The responses are solutions of the sandbox's problems, eight to a problem, under the misconceptions of its policy.
Every run of `ipr-score` is a process of its own; its CPU time and its peak memory are those that the system reports. A
tenth of the responses is scored as well, to compare the peaks. With `--ray`, a local Ray scores the file through
`BatchScorer`. The script fails if anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from implicit_prm import sandbox
from implicit_prm.sandbox.world import believed_solution, misconceptions
from implicit_prm.utils.io import atomic_write

RESPONSES_PER_PROBLEM = 8


def write_responses(path: Path, responses: int, seed: int = 0) -> None:
    """Grouped rows with solutions of the sandbox's training problems; the same arguments give the same file."""
    beliefs, rng = misconceptions(), random.Random(seed)
    with atomic_write(path) as stream:
        for problem in sandbox.problems("train", -(-responses // RESPONSES_PER_PROBLEM)):
            texts = [believed_solution(problem, beliefs, rng) for _ in range(RESPONSES_PER_PROBLEM)]
            correct = [text.endswith(f"\\boxed{{{problem.answer}}}") for text in texts]
            row = {"id": problem.id, "prompt": problem.text, "completions": texts, "correctness": correct}
            stream.write((json.dumps(row) + "\n").encode())


def score(what: str, options: Sequence[str], kill_at: Path | None = None) -> None:
    """Run `ipr-score` and print its cost. With `kill_at`, a folder, kill it once the folder holds two more parts."""
    process = subprocess.Popen([sys.executable, "-m", "implicit_prm.cli.score", *options], stdout=subprocess.DEVNULL)
    if kill_at is not None:
        enough = len(list(kill_at.glob("*.parquet"))) + 2
        while len(list(kill_at.glob("*.parquet"))) < enough and process.poll() is None:
            time.sleep(0.01)
        process.kill()
    _, status, usage = os.wait4(process.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    cpu_seconds, peak_mb = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
    print(f"{what:<36}{cpu_seconds:8.1f} CPU s  peak {peak_mb:5.0f} MB  status {code}", flush=True)
    if code != (0 if kill_at is None else -9):
        sys.exit(f"{what}: failed")


def by_ray(rows: Path, checkpoint: str, folder: Path, actors: int) -> dict[tuple[str, int], list[float]]:
    """(id, place) -> step rewards of every response, scored by Ray Data."""
    import ray

    from implicit_prm.scoring import BatchScorer

    ray.init(num_cpus=actors + 1, include_dashboard=False, log_to_driver=False)  # one for the task that reads
    pool = ray.data.ActorPoolStrategy(size=actors)
    scored = ray.data.read_json(str(rows)).map_batches(
        BatchScorer, fn_constructor_args=[checkpoint], batch_size=128, num_cpus=1, compute=pool
    )
    scored.select_columns(["id", "step_rewards"]).write_parquet(str(folder))
    ray.shutdown()
    table = pq.read_table(folder)
    return {
        (row["id"], place): rewards for row in table.to_pylist() for place, rewards in enumerate(row["step_rewards"])
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="an implicit PRM of the sandbox, as `make demo` trains it")
    parser.add_argument("--option", action="append", default=[], help="further option of ipr-score; may be repeated")
    parser.add_argument("--responses", type=int, default=100_000)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--part", type=int, default=1024, help="responses per part")
    parser.add_argument("--output", type=Path, default=Path("outputs/sharded"))
    parser.add_argument("--ray", action="store_true", help="score with a local Ray, too")
    parser.add_argument("--actors", type=int, default=2, help="processes of Ray that score")
    args = parser.parse_args()
    if (args.output / "sharded").exists():
        parser.error(f"--output: {args.output} has scores of an earlier run; delete it")
    if args.ray and args.option:
        parser.error("--ray: BatchScorer takes no options of ipr-score; leave out --option")

    rows, tenth = args.output / "rows.jsonl", args.output / "tenth.jsonl"
    write_responses(rows, args.responses)
    write_responses(tenth, args.responses // 10)
    shared = [f"checkpoint={args.checkpoint}", f"responses_per_part={args.part}", *args.option]
    one, sharded = args.output / "one", args.output / "sharded"
    score("a tenth, one run", [*shared, f"input={tenth}", f"output_dir={args.output / 'tenth'}"])
    score("all, one run", [*shared, f"input={rows}", f"output_dir={one}"])
    options = [*shared, f"input={rows}", f"output_dir={sharded}"]
    for number in range(1, args.shards + 1):
        shard = f"shard={number}/{args.shards}"
        if number == 2:
            score(f"{shard}, killed after two parts", [*options, shard], kill_at=sharded / "parts")
        score(shard if number != 2 else f"{shard}, resumed", [*options, shard])
    score("merge=true", [*options, "merge=true"])

    table = pq.read_table(one / "scores.parquet")
    same = (one / "scores.parquet").read_bytes() == (sharded / "scores.parquet").read_bytes()
    print(f"{table.num_rows:,} responses; the merged table {'equals the single one' if same else 'DIFFERS'}, as bytes")
    if args.ray:
        same = _equal(table, by_ray(rows, args.checkpoint, args.output / "ray", args.actors)) and same
    sys.exit(0 if same else "the tables differ")


def _equal(table: pa.Table, scores: dict[tuple[str, int], list[float]]) -> bool:
    """Print and return whether Ray's scores are those of the table."""
    columns = (table[name].to_pylist() for name in ("problem_id", "response", "step_rewards"))
    expected = {(name, place): rewards for name, place, rewards in zip(*columns, strict=True)}
    different = sum(scores.get(key) != rewards for key, rewards in expected.items())
    print(f"Ray: {len(scores):,} responses, {different:,} of them with other step rewards")
    return len(scores) == len(expected) and not different


if __name__ == "__main__":
    main()
