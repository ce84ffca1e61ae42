"""What an optimiser step draws: KTO and cross-entropy on whole prompts and on single responses, over several seeds.

    python scripts/compare_batch_units.py                     # the sandbox, five seeds, 40 minutes on one thread

All runs share the rollouts and the candidates; the seed decides the order of training. A run that has finished is not
repeated, so the same command resumes. Prints the table of docs/guides/variants.md.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev

# Per row: loss, batch unit, and the settings that were chosen for it on the dev split.
ARMS = [
    ("kto", "prompt", ["trainer.per_device_train_batch_size=2", "trainer.learning_rate=3e-4"]),
    ("kto", "response", ["trainer.per_device_train_batch_size=16", "trainer.learning_rate=1e-3"]),
    ("ce", "prompt", ["trainer.per_device_train_batch_size=2"]),
    ("ce", "response", ["trainer.per_device_train_batch_size=16"]),
]
# Two-sided 95 % quantiles of Student's t by the number of seeds.
T_QUANTILES = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}


def command(module: str, *overrides: str) -> None:
    subprocess.run([sys.executable, "-m", f"implicit_prm.cli.{module}", *overrides], check=True)


def run(folder: Path, loss: str, unit: str, seed: int, settings: list[str]) -> dict[str, float]:
    """Best-of-N by the lowest step and step AUROC of one seed; trains and evaluates if necessary."""
    checkpoint = folder / f"{loss}-{unit}-{seed}"
    results = checkpoint / "eval" / "metrics.json"
    if not results.exists():
        options = [f"loss={loss}", f"loss.batch_unit={unit}", f"data.train={folder / 'train.jsonl'}", *settings]
        options += [f"output_dir={checkpoint}", "overwrite=true", f"trainer.seed={seed}", "trainer.eval_strategy=no"]
        command("train", *options, "trainer.save_strategy=no")
        command("eval", f"checkpoint={checkpoint}", f"candidates={folder / 'candidates.jsonl'}")
    metrics = json.loads(results.read_text(encoding="utf-8"))
    largest = str(metrics["sizes"][-1])
    return {
        "best": 100 * metrics["aggregates"]["min"][largest]["value"],
        "auroc": metrics["steps"]["auroc"]["value"],
    }


def interval(values: list[float], digits: int) -> str:
    """The mean over seeds with its 95 % t interval."""
    center = mean(values)
    if len(values) not in T_QUANTILES:
        return f"{center:.{digits}f}"
    half = T_QUANTILES[len(values)] * stdev(values) / math.sqrt(len(values))
    return f"{center:.{digits}f} [{center - half:.{digits}f}, {center + half:.{digits}f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/batch_units"))
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()

    command("rollout", f"output={options.output / 'train.jsonl'}")
    sizes = ["problems.split=test", "problems.limit=250", "sampling.n=16"]
    command("rollout", *sizes, f"output={options.output / 'candidates.jsonl'}")
    print("| loss | `batch_unit` | best-of-16 (min), each seed | mean | step AUROC |\n|---|---|---|---|---|")
    for loss, unit, settings in ARMS:
        runs = [run(options.output, loss, unit, seed, settings) for seed in range(1, options.seeds + 1)]
        best, auroc = ([one[name] for one in runs] for name in ("best", "auroc"))
        each = ", ".join(f"{value:.1f}" for value in best)
        print(f"| `{loss}` | `{unit}` | {each} | {interval(best, 1)} | {interval(auroc, 3)} |", flush=True)


if __name__ == "__main__":
    main()
