"""Search against reranking on GSM8K: Qwen2.5-Coder-0.5B-Instruct, and a PRM of scripts/qwen05b_gsm8k.py as the guide.

    python scripts/qwen05b_search.py --model FOLDER --guide outputs/qwen05b/dpo --problems gsm8k_test.jsonl.gz
    python scripts/qwen05b_search.py ... --server http://127.0.0.1:8011/v1 --methods best_of_n beam

Every method is one command of `ipr-search`, which is printed; run the same command again to resume. A server samples
from pi_theta if it serves the guide, merged by `ipr-merge`:

    python scripts/qwen05b_search.py --model MERGED --server ... --methods best_of_n --out outputs/pi_theta
    python scripts/qwen05b_search.py --model FOLDER --server ... --pi-theta outputs/pi_theta/best_of_n.jsonl

Prints the table of docs/search.md. Temperatures are near the standard deviation of the values within a problem, as that
page advises. No setting was tuned.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from searchlib.results import BestOfN, Table, judged
from stages import Stage, run_stage
from transformers import AutoTokenizer

METHODS = {
    "best_of_n": ["algorithm=best_of_n"],
    "beam": ["algorithm=beam", "algorithm.branch=4"],
    "dvts": ["algorithm=dvts", "algorithm.branch=4"],
    "rebase": ["algorithm=rebase", "algorithm.temperature=0.5"],
    "particles": ["algorithm=particles", "algorithm.temperature=1.0", "aggregate=sum"],
    "policy": ["algorithm=policy"],  # samples of pi_theta, without a server
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or hub id of the policy, which is the guide's reference")
    parser.add_argument("--guide", required=True, help="checkpoint of ipr-train")
    parser.add_argument("--problems", required=True, help="GSM8K's test set, as JSON lines")
    parser.add_argument("--limit", type=int, default=40, help="number of problems, the first ones (default: 40)")
    parser.add_argument("--n", type=int, default=8, help="responses to each problem (default: 8)")
    parser.add_argument("--server", help="address of a server that samples in the place of transformers")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS)[:-1])
    parser.add_argument("--pi-theta", type=Path, help="file with samples of pi_theta, as another row")
    parser.add_argument("--dtype", default="bfloat16", help="of policy and guide (default: bfloat16)")
    parser.add_argument("--out", type=Path, default=Path("outputs/qwen05b-search"), help="(default: %(default)s)")
    return parser.parse_args()


def stage(method: str, options: argparse.Namespace) -> Stage:
    """The search of one method."""
    output = options.out / f"{method}.jsonl"
    policy = ["policy=hub", f"policy.name={options.model}", f"policy.dtype={options.dtype}"]
    if options.server:
        policy = ["policy=server", f"policy.base_url={options.server}", f"policy.name={Path(options.model).name}"]
        # Two problems at a time: the server works on one while the guide scores the other.
        policy += [f"tokenizer={options.model}", f"policy.concurrency={2 * options.n}", "policy.timeout_s=7200"]
    guide = ["guide=checkpoint", f"guide.checkpoint={options.guide}", f"guide.dtype={options.dtype}"]
    problems = ["problems=gsm8k", "problems.split=test", f"problems.path={options.problems}"]
    problems += [f"problems.limit={options.limit}"]
    sampling = [
        "sampling=default",
        f"sampling.n={options.n}",
        "sampling.temperature=0.7",
        "sampling.max_new_tokens=512",
    ]
    arguments = [*policy, *guide, *problems, *sampling, *METHODS[method], f"output={output}"]
    return Stage(method, "search", arguments, output)


def main() -> None:
    options = parse()
    stages = {name: stage(name, options) for name in options.methods}
    for one in stages.values():
        run_stage(one, options.out, minutes=600)
    if "best_of_n" not in stages:
        return
    plain = stages.pop("best_of_n").result
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    models = 3 if options.server else 2  # a server's log-probabilities do not serve as the reference's
    table = Table(BestOfN(plain, options.limit, options.n, tokenizer, models))
    for n in (1, 2, 4, 8, 16, 32):
        if n <= options.n:
            table.add_best_of(n)
    for name, one in stages.items():
        settings = ", ".join(setting.removeprefix("algorithm.") for setting in METHODS[name][1:])
        table.add(name, settings, options.n, judged(one.result, options.limit))
    if options.pi_theta:
        table.add("samples of pi_theta", "", options.n, judged(options.pi_theta, options.limit))
    print("\n".join(table.lines))
    (options.out / "tables.md").write_text("\n".join([*table.lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
