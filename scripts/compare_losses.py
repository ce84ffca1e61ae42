"""Train the four losses on the same rollouts and rerank the same candidates: the table of docs/getting-started.md.

    python scripts/compare_losses.py                          # the sandbox, about a quarter of an hour on two cores

Other arguments are overrides for `ipr-train`:

    python scripts/compare_losses.py --output outputs/big trainer.num_train_epochs=3
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

LOSSES = ("ce", "dpo", "nca", "kto")
MIN, VOTE, MAJORITY = "PRM, min of steps", "weighted vote", "majority vote"


def command(module: str, *overrides: str) -> None:
    """Run a command of the package; `module` is its module in `implicit_prm.cli`."""
    subprocess.run([sys.executable, "-m", f"implicit_prm.cli.{module}", *overrides], check=True)


def percent(interval: dict[str, float]) -> str:
    """A value with its interval, in per cent."""
    return f"{interval['value'] * 100:.1f} [{interval['low'] * 100:.1f}, {interval['high'] * 100:.1f}]"


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def row(checkpoint: Path) -> str:
    """The table row of an evaluated checkpoint."""
    metrics = read(checkpoint / "eval" / "metrics.json")
    seconds = read(checkpoint / "train_metrics.json")["train_runtime"]
    accuracy, largest, auroc = metrics["accuracy"], str(metrics["sizes"][-1]), metrics["steps"]["auroc"]
    return " | ".join(
        [
            f"| `{checkpoint.name}`",
            percent(accuracy[MIN][largest]),
            percent(metrics["difference"][f"{MIN} - {MAJORITY}"][largest]),
            percent(accuracy[VOTE][largest]),
            f"{auroc['value']:.3f} [{auroc['low']:.3f}, {auroc['high']:.3f}]",
            f"{seconds:.0f} |",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/sandbox"), help="(default: %(default)s)")
    options, overrides = parser.parse_known_args()

    rollouts = options.output / "train.jsonl"
    command("rollout", f"output={rollouts}")
    for loss in LOSSES:
        checkpoint = options.output / loss
        command(
            "train", f"loss={loss}", f"data.train={rollouts}", f"output_dir={checkpoint}", "overwrite=true", *overrides
        )
        # The first evaluation samples the candidates; the others rerank them.
        candidates = options.output / LOSSES[0] / "eval" / "candidates.jsonl"
        given = [] if loss == LOSSES[0] else [f"candidates={candidates}"]
        command("eval", f"checkpoint={checkpoint}", *given)

    metrics = read(options.output / LOSSES[0] / "eval" / "metrics.json")
    largest = str(metrics["sizes"][-1])
    print(f"\n| loss | best-of-{largest} (min) | minus majority | weighted vote | step AUROC | seconds to train |")
    print("|---|---|---|---|---|---|")
    print("\n".join(row(options.output / loss) for loss in LOSSES))
    for name in (MAJORITY, "log-likelihood of reference", "random pick", "oracle (pass@N)"):
        print(f"{name}: {percent(metrics['accuracy'][name][largest])}")


if __name__ == "__main__":
    main()
