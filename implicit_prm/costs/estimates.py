"""`ipr-train ... estimate=MACHINE`: memory and time of a run on that machine, in words. Nothing is trained."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import torch
from transformers import TrainingArguments

from implicit_prm.config import ModelConfig, TrainConfig, from_mapping
from implicit_prm.costs.operations import OPTIMISER_STATES, Memory, Plan, forward_flops, memory, training_flops
from implicit_prm.costs.shapes import Shape, open_shape, saved_bytes
from implicit_prm.costs.workload import Piece, Way, workload
from implicit_prm.data.tokenization import context_length
from implicit_prm.models.checkpoint import NONE
from implicit_prm.models.forward import best_device, token_budget
from implicit_prm.training.arguments import step_line, training_arguments
from implicit_prm.types import ImplicitPRMError

GB = 1e9
_ROWS = {
    "weights": "weights of the policy",
    "gradients": "gradients",
    "optimiser": "optimiser states",
    "gathered": "gathered for use, buckets",
    "activations": "activations kept",
    "layer": "one layer more",
    "head": "output head",
    "copies": "bfloat16 copies of weights",
    "step": "optimiser's step",
    "asking": "before training: the reference",
}
_NOTES = (
    "counted: the policy's forward and backward passes, what checkpointing and the chunked head compute twice, the",
    "  extra pass of a group that takes several pieces, the reference's one pass, KTO's baseline, attention, padding",
    "left out: CUDA context and communication buffers (about 1 GB), fragmentation (plan for a tenth), loading,",
    "  evaluation, saving, communication, waiting for data. The TFLOP/s are a rate to sustain, not the peak of a data",
    "  sheet: set estimate.tflops from a run of your own",
)


def estimate(config: TrainConfig, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Say what the run takes on `config.estimate`'s machine.

    Returns:
        What was said as numbers: bytes of memory by item for the typical and the longest piece, FLOPs, seconds.

    Raises:
        ImplicitPRMError: options or data that training would refuse, or a model without a configuration.
    """
    config = from_mapping(TrainConfig, asdict(config))
    machine = config.estimate
    if machine is None:
        raise ImplicitPRMError("no machine to estimate for: estimate=NAME, one of the files in configs/estimate")
    arguments, half = _arguments(config)
    optimiser = str(getattr(arguments.optim, "value", arguments.optim))
    if optimiser not in OPTIMISER_STATES:
        known = ", ".join(OPTIMISER_STATES)
        raise ImplicitPRMError(f"trainer.optim={optimiser}: the memory of its states is not known here; known: {known}")

    shape, model, dtype = open_shape(config.model)
    device = best_device() if machine.memory_gb is None else torch.device("cuda")
    limit = context_length(model.config, config.data.max_length)
    budget = config.max_tokens_per_batch or token_budget(device, config.loss.by_response)
    whole = machine.sharding == "zero3"
    if whole and arguments.per_device_train_batch_size > 1:
        raise ImplicitPRMError(
            "under DeepSpeed the prompts of a micro-batch run together, which is not estimated; set "
            "trainer.per_device_train_batch_size=1 and accumulate"
        )
    # Newer transformers have the second name for the first.
    checkpointing = bool(arguments.gradient_checkpointing or getattr(arguments, "activation_checkpointing", False))
    way = Way(budget, checkpointing, config.loss, whole)
    load = workload(config, limit, way, arguments.seed, say)
    plan = Plan(
        weight_bytes=dtype.itemsize,
        autocast=half,
        checkpointing=checkpointing,
        optimiser=optimiser,
        reference=_reference(config.model, shape),
        sharding=machine.sharding,
        processes=machine.processes,
        quantization=config.model.quantization,
    )
    # Sharded weights are cast as they are gathered, and the residual stream is in half precision with them.
    sharded_half = half and plan.sharding in ("fsdp2", "zero3")
    computed, autocast = (torch.bfloat16, False) if sharded_half else (dtype, half)

    def of(piece: Piece) -> Memory:
        whole = saved_bytes(model, piece, computed, autocast, checkpointing=False)
        saved = saved_bytes(model, piece, computed, autocast, True) if plan.checkpointing else whole
        return memory(shape, plan, saved, whole, piece.read)

    peaks = {f"{name}: {piece}": of(piece) for name, piece in (("typical", load.typical), ("longest", load.longest))}
    step_prompts = machine.processes * arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
    passes = arguments.num_train_epochs * load.prompts
    if arguments.max_steps > 0:
        passes = arguments.max_steps * step_prompts
    trained = training_flops(shape, plan.checkpointing, load.trained) + sum(forward_flops(shape, load.repeated))
    asked = sum(forward_flops(shape, load.asked)) * load.prompts if plan.reference else 0.0
    rate = machine.tflops or measured_tflops(torch.bfloat16 if half else dtype, shape.width)
    flops = {"training": passes * trained, "reference": asked}
    seconds = {name: value / (machine.processes * rate * 1e12) for name, value in flops.items()}

    how = "LoRA" if shape.adapter else "all weights"
    count = "" if machine.processes == 1 else f"{machine.processes} x "
    say(f"{config.model.name}, {how}, loss {config.loss.name}, on {count}{machine.machine} ({machine.sharding})")
    say(_model_line(shape))
    say(step_line(arguments, machine.processes, load.responses))
    say(f"data: {load.prompts:,} prompts x {load.responses:.3g} responses, {load.source}")
    _say_memory(peaks, machine.memory_gb or _memory_here() / GB, say)
    steps = max(1, math.ceil(passes / step_prompts))
    say(
        f"time: {_hours(sum(seconds.values()), machine.processes)}, {sum(flops.values()):.3g} FLOPs at {rate:.3g} "
        f"TFLOP/s a GPU\n  of which the reference, once: {_hours(seconds['reference'], machine.processes)}\n"
        f"  {steps:,} steps of {seconds['training'] / steps:.3g} s"
    )
    if machine.tflops is None:
        say("  the rate is that of a bare matrix product, measured here; short steps take twice as long or more")
    if machine.tflops and not half and dtype == torch.float32:
        say("  the rate is that of half precision and the run is in float32: trainer.bf16=true, or set estimate.tflops")
    for line in _NOTES:
        say(line)
    kv = 2 * 2 * shape.kv_width * shape.layers / 1024
    say(f"sampling with this model keeps {kv:.3g} KiB of keys and values a token in bfloat16")
    return {
        "memory": {name.split(":")[0]: {**asdict(one), "peak": one.peak} for name, one in peaks.items()},
        "flops": flops,
        "seconds": seconds,
        "tflops": rate,
        "shape": asdict(shape),
    }


def _arguments(config: TrainConfig) -> tuple[TrainingArguments, bool]:
    """The trainer's options, and whether it computes in half precision.

    TrainingArguments refuses bf16 where this machine cannot do it, which is not the machine that is asked about.
    """
    half = any(config.trainer.get(name) is True for name in ("bf16", "fp16"))
    asked = {name: value for name, value in config.trainer.items() if name not in ("bf16", "fp16")}
    return training_arguments(replace(config, trainer=asked)), half


def _reference(model: ModelConfig, shape: Shape) -> int:
    """Parameters of the model that is asked before training."""
    if model.reference == NONE:
        return 0
    if model.reference in ("initial", "start", "checkpoint"):  # a checkpoint's reference is what it once started from
        return shape.base
    return open_shape(replace(model, name=model.reference, revision=model.reference_revision, lora=None))[0].base


def _hours(seconds: float, processes: int) -> str:
    unit, size = ("hours", 3600) if seconds > 3600 else ("minutes", 60)
    on_all = f" ({seconds * processes / 3600:.3g} GPU hours)" if processes > 1 else ""
    return f"{seconds / size:.3g} {unit}{on_all}"


def _model_line(shape: Shape) -> str:
    tied = "tied to the embeddings" if shape.tied else f"embeddings {shape.embedding / GB:.3f}"
    adapter = f", adapter {shape.adapter / 1e6:.1f} million" if shape.adapter else ""
    return (
        f"parameters: {shape.base / GB:.3f} billion (backbone {shape.backbone / GB:.3f}, output head "
        f"{shape.head / GB:.3f}, {tied}){adapter}"
    )


def _say_memory(peaks: dict[str, Memory], available: float, say: Callable[[str], None]) -> None:
    say(f"{'memory per GPU, GB; largest piece':<34}" + "".join(f"{name:>36}" for name in peaks))
    for key, label in _ROWS.items():
        values = [getattr(one, key) / GB for one in peaks.values()]
        if any(values):
            say(f"  {label:<32}" + "".join(f"{value:>36.2f}" for value in values))
    say(f"  {'peak':<32}" + "".join(f"{one.peak / GB:>36.2f}" for one in peaks.values()))
    say("  (not their sum: layer, head, copies and step are never there together)")
    over = [name for name, one in peaks.items() if one.peak / GB > available]
    if over:
        say(
            f"  does not fit {available:.3g} GB ({over[0]}): lower max_tokens_per_batch or data.max_length, set "
            "trainer.gradient_checkpointing=true,\n  train an adapter (model.lora), or shard over more processes"
        )


def measured_tflops(
    dtype: torch.dtype, width: int, seconds: float = 1.0, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Matrix products of the model's width on this machine, on its first GPU or on the CPU, in TFLOP/s."""
    device = best_device()
    left = torch.randn(1024, width, device=device).to(dtype)
    right = torch.randn(width, 4 * width, device=device).to(dtype)

    def multiply() -> None:
        torch.mm(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize()

    multiply()
    start, count = clock(), 0
    while clock() - start < seconds:
        multiply()
        count += 1
    return 2 * 1024 * width * 4 * width * count / (clock() - start) / 1e12


def _memory_here() -> float:
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory
    import psutil  # type: ignore[import-untyped]  # comes with accelerate

    return psutil.virtual_memory().total
