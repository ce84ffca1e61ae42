"""Compare `ipr-train ... estimate=here` with short runs on this machine: peak memory and time.

    python scripts/check_estimate.py model=hub model.name=HuggingFaceTB/SmolLM2-135M-Instruct \
        data=rollouts data.train=FILE data.max_prompts=3 data.max_responses=3 data.max_length=700 data.too_long=drop

The arguments are overrides for `ipr-train`. Each case below trains for two epochs, one prompt per step, in its own
process. Memory: what PyTorch allocated on a GPU; on a CPU, the growth of the resident size since before the model was
opened. Time: of the training loop; the estimate uses the rate of a matrix product in the same process. It is elapsed
time on a GPU and CPU time on a CPU, since other processes may share the CPU (set OMP_NUM_THREADS=1).
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time

CASES = {
    "all weights": [],
    "all weights, checkpointing": ["trainer.gradient_checkpointing=true"],
    "all weights, bf16": ["trainer.bf16=true"],
    "LoRA": ["model.lora={r:16,alpha:32}"],
    "LoRA, checkpointing": ["model.lora={r:16,alpha:32}", "trainer.gradient_checkpointing=true"],
}
FIXED = [
    *("trainer=default", "trainer.gradient_accumulation_steps=1", "trainer.num_train_epochs=2"),
    *("trainer.save_strategy=no", "overwrite=true", "output_dir=outputs/check_estimate", "estimate=here"),
]


def measure(overrides: list[str]) -> dict[str, float]:
    """Estimate and train in this process. Returns memory in bytes and time in seconds, estimated and measured."""
    import psutil
    import torch
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf
    from transformers import AutoConfig

    from implicit_prm.cli.command import configs
    from implicit_prm.config import TrainConfig, from_mapping
    from implicit_prm.costs.estimates import estimate, measured_tflops
    from implicit_prm.training import LogRatioTrainer
    from implicit_prm.training.run import fit

    with initialize_config_dir(configs(), version_base="1.3"):
        tree = compose("train", [*FIXED, *overrides])
    config = from_mapping(TrainConfig, OmegaConf.to_container(tree, resolve=True))  # type: ignore[arg-type]
    assert config.estimate is not None
    cuda = torch.cuda.is_available()
    clock = time.perf_counter if cuda else time.process_time
    dtype = torch.bfloat16 if config.trainer.get("bf16") else torch.float32
    config.estimate.tflops = measured_tflops(dtype, AutoConfig.from_pretrained(config.model.name).hidden_size, 3, clock)
    expected = estimate(config)
    config.estimate = None

    train, seconds = LogRatioTrainer.train, []

    def timed(*arguments, **options):
        start = clock()
        result = train(*arguments, **options)
        seconds.append(clock() - start)
        return result

    LogRatioTrainer.train = timed  # type: ignore[method-assign]
    before = psutil.Process().memory_info().rss
    fit(config)
    if cuda:
        peak = float(torch.cuda.max_memory_allocated())
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0 - before
    return {
        "memory_estimated": expected["memory"]["longest"]["peak"],
        "memory_measured": peak,
        "seconds_estimated": expected["seconds"]["training"],
        "seconds_measured": seconds[0],
        "tflops": expected["tflops"],
    }


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(sys.argv[2:])))
        return
    print("| setting | memory, GB: estimated | measured | ratio | time, s: estimated | measured | ratio |")
    print("|---|---|---|---|---|---|---|")
    for name, overrides in CASES.items():
        command = [sys.executable, __file__, "--one", *sys.argv[1:], *overrides]
        found = json.loads(
            subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
        )
        cells = [name]
        for what, unit in (("memory", 1e9), ("seconds", 1)):
            expected, measured = found[f"{what}_estimated"] / unit, found[f"{what}_measured"] / unit
            cells += [f"{expected:.2f}", f"{measured:.2f}", f"{expected / measured:.2f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
