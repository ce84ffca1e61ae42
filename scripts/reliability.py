"""Disturb the commands and check that nothing is lost: kill -9, SIGTERM, two runs with one output, a full disk.

    python scripts/reliability.py                           # 10 kills, 3 SIGTERM, 2 pairs, 3 full disks of each
    python scripts/reliability.py --only ipr-rollout --kills 50 --seed 1

Every command runs on the sandbox, at a size of a few seconds, first to its end. Then it is disturbed at random moments
(of a seed; what happens there depends on the machine), run again, and its result compared with that of the first run.
The tables of docs/reliability.md are printed, and every failure. The exit status is 1 if there was one.

A full disk is a small one in memory, which needs the right to mount (root on Linux); elsewhere that part is left out.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are too small to share
os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker:UserWarning")  # killed commands leave semaphores

from reliabilitylib.campaign import Tally, can_mount, full_disk, kills, terminations, two_at_once, uninterrupted
from reliabilitylib.cases import Case, cases, prepare

Rows = dict[str, tuple[Case, Tally]]  # by the name of the case


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="of each command (default: %(default)s)")
    parser.add_argument("--terminations", type=int, default=3, help="by SIGTERM, of each (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=2, help="of runs with one output (default: %(default)s)")
    parser.add_argument("--disks", type=int, default=3, help="that are full, for each command (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and sizes (default: %(default)s)")
    parser.add_argument("--only", nargs="+", default=[], metavar="COMMAND", help="such as ipr-rollout")
    parser.add_argument("--out", type=Path, default=Path("outputs/reliability"), help="(default: %(default)s)")
    return parser.parse_args()


def main() -> None:
    chosen = parse()
    folder = chosen.out.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    prepare(folder / "inputs")
    selected = [case for case in cases(folder / "inputs") if not chosen.only or case.line[0] in chosen.only]
    disks = chosen.disks if can_mount(folder) else 0
    tables: dict[str, Rows] = {"kills": {}, "terminations": {}, "pairs": {}, "disks": {}}
    for case in selected:
        own = folder / case.name.replace(", ", "-")
        whole = uninterrupted(case, own / "whole")
        tables["kills"][case.name] = case, kills(case, whole, own, chosen.kills, chosen.seed)
        tables["terminations"][case.name] = case, terminations(case, whole, own, chosen.terminations, chosen.seed)
        tables["pairs"][case.name] = case, two_at_once(case, whole, own, chosen.pairs)
        tables["disks"][case.name] = case, full_disk(case, whole, own, disks, chosen.seed)
    print(
        kill_table(tables["kills"]),
        disturbed_table(tables["terminations"], "SIGTERM", "ended with a sentence and status 143"),
        pair_table(tables["pairs"]),
        disturbed_table(tables["disks"], "full disks", "ended with a sentence and status 1"),
        sep="\n\n",
    )
    failures = [line for table in tables.values() for _, tally in table.values() for line in tally.failures]
    print("\n".join(["", *failures, f"{len(failures)} failures"]))
    sys.exit(1 if failures else 0)


def kill_table(rows: Rows) -> str:
    lines = [
        "| command | kills | at the kill | resumed | equal | compared | files left over |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, (case, tally) in rows.items():
        lines.append(
            f"| `{name}` | {tally.attempts} | {_range(tally)} {case.parts[1]} | {tally.resumed} | {tally.equal} | "
            f"{case.compared} | {len(tally.leftovers)} |"
        )
    return "\n".join(lines)


def pair_table(rows: Rows) -> str:
    lines = ["| command | pairs | one refused, which names the other | the other's result equal |", "|---|---|---|---|"]
    lines += [f"| `{name}` | {t.attempts} | {t.as_expected} | {t.equal} |" for name, (_, t) in rows.items()]
    return "\n".join(lines)


def disturbed_table(rows: Rows, what: str, ended: str) -> str:
    lines = [f"| command | {what} | {ended} | kept | resumed | equal |", "|---|---|---|---|---|---|"]
    for name, (case, tally) in rows.items():
        lines.append(
            f"| `{name}` | {tally.attempts} | {tally.as_expected} | {_range(tally)} {case.parts[1]} | "
            f"{tally.resumed} | {tally.equal} |"
        )
    return "\n".join(lines)


def _range(tally: Tally) -> str:
    return f"{min(tally.progress)} to {max(tally.progress)}" if tally.progress else "no"


if __name__ == "__main__":
    main()
