"""`ipr-train ... estimate=MACHINE`: the memory and time of a run on that machine. Nothing is trained."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from transformers import TrainingArguments

from implicit_prm.config import EstimateConfig, ModelConfig, TrainConfig, from_mapping
from implicit_prm.costs.activations import saved_bytes
from implicit_prm.costs.machine import measured_tflops, memory_of_this_machine
from implicit_prm.costs.memory import OPTIMISER_STATES, Memory, Plan, memory
from implicit_prm.costs.operations import forward_flops, training_flops
from implicit_prm.costs.shapes import Shape, open_shape
from implicit_prm.costs.workload import Batching, Piece, Workload, workload
from implicit_prm.data.tokenization import context_length
from implicit_prm.models.checkpoint import NONE
from implicit_prm.models.forward import best_device, token_budget
from implicit_prm.training.arguments import step_line, training_arguments
from implicit_prm.types import ImplicitPRMError

Say = Callable[[str], None]

GB = 1e9
_ROWS = {
    "weights": "policy weights",
    "gradients": "gradients",
    "optimiser": "optimiser states",
    "gathered": "gathered weights, buckets",
    "activations": "activations",
    "layer": "one layer, recomputed",
    "head": "output head",
    "copies": "bfloat16 copies of weights",
    "step": "optimiser step",
    "reference": "reference, before training",
}
_NOTES = (
    "included: the policy's forward and backward passes, recomputation by gradient checkpointing and the chunked head,",
    "  the extra pass of groups in several pieces, one pass of the reference, KTO's baseline, attention, padding",
    "not included: CUDA context and communication buffers (about 1 GB), fragmentation (allow a tenth), loading,",
    "  evaluation, saving, communication, waiting for data. TFLOP/s is a sustained rate, not a data sheet's peak: set",
    "  estimate.tflops from a run of your own",
)


@dataclass(frozen=True)
class _Time:
    """FLOPs of training and of the reference, and their duration."""

    training_flops: float
    reference_flops: float
    steps: int
    tflops: float
    processes: int

    @property
    def training_seconds(self) -> float:
        return self.training_flops / (self.processes * self.tflops * 1e12)

    @property
    def reference_seconds(self) -> float:
        return self.reference_flops / (self.processes * self.tflops * 1e12)


def estimate(config: TrainConfig, say: Say = print) -> dict[str, Any]:
    """Print what the run takes on `config.estimate`'s machine.

    Returns:
        The printed numbers: bytes of memory by item for the typical and the longest piece, FLOPs, seconds.

    Raises:
        ImplicitPRMError: options or data that training would refuse, or a model whose configuration cannot be read.
    """
    config = from_mapping(TrainConfig, asdict(config))
    machine = config.estimate
    if machine is None:
        raise ImplicitPRMError("no machine to estimate for: set estimate=NAME, one of the files in configs/estimate")
    arguments, half = _arguments(config)
    _check(arguments, machine)

    shape, model, dtype = open_shape(config.model)
    device = best_device() if machine.memory_gb is None else torch.device("cuda")
    budget = config.max_tokens_per_batch or token_budget(device, config.loss.by_response)
    plan = _plan(config, machine, arguments, shape, dtype, half)
    batching = Batching(budget, plan.checkpointing, config.loss, whole=machine.sharding == "zero3")
    limit = context_length(model.config, config.data.max_length)
    load = workload(config, limit, batching, arguments.seed, say)
    peaks = {
        f"{name}: {piece}": _memory(shape, model, plan, dtype, piece)
        for name, piece in (("typical", load.typical), ("longest", load.longest))
    }
    tflops = machine.tflops or measured_tflops(torch.bfloat16 if half else dtype, shape.width)
    prompts_per_unit = 1 / load.responses if config.loss.single_responses else 1.0
    time = _time(shape, plan, load, arguments, tflops, prompts_per_unit)

    _say_run(config, machine, shape, say)
    say(step_line(arguments, machine.processes, load.responses, config.loss.single_responses))
    say(f"data: {load.prompts:,} prompts x {load.responses:.3g} responses, {load.source}")
    _say_memory(peaks, machine.memory_gb or memory_of_this_machine() / GB, say)
    _say_time(time, machine, say)
    if machine.tflops and not half and dtype == torch.float32:
        say("  estimate.tflops is for half precision, but the run is in float32: set trainer.bf16=true or the rate")
    for line in _NOTES:
        say(line)
    kv_bytes = 2 * 2 * shape.kv_width * shape.layers
    say(f"sampling with this model keeps {kv_bytes / 1024:.3g} KiB of keys and values per token in bfloat16")
    return {
        "memory": {name.split(":")[0]: {**asdict(peak), "peak": peak.peak} for name, peak in peaks.items()},
        "flops": {"training": time.training_flops, "reference": time.reference_flops},
        "seconds": {"training": time.training_seconds, "reference": time.reference_seconds},
        "tflops": tflops,
        "shape": asdict(shape),
    }


def _arguments(config: TrainConfig) -> tuple[TrainingArguments, bool]:
    """The trainer's options, and whether it computes in half precision.

    bf16 and fp16 are removed first: TrainingArguments refuses them if this machine, not the estimated one, lacks them.
    """
    half = any(config.trainer.get(name) is True for name in ("bf16", "fp16"))
    trainer = {name: value for name, value in config.trainer.items() if name not in ("bf16", "fp16")}
    return training_arguments(replace(config, trainer=trainer)), half


def _optimiser(arguments: TrainingArguments) -> str:
    return str(getattr(arguments.optim, "value", arguments.optim))


def _check(arguments: TrainingArguments, machine: EstimateConfig) -> None:
    if _optimiser(arguments) not in OPTIMISER_STATES:
        known = ", ".join(OPTIMISER_STATES)
        raise ImplicitPRMError(f"trainer.optim={_optimiser(arguments)} cannot be estimated; known are {known}")
    if machine.sharding == "zero3" and arguments.per_device_train_batch_size > 1:
        raise ImplicitPRMError(
            "under DeepSpeed the prompts of a micro-batch run together, which cannot be estimated; set "
            "trainer.per_device_train_batch_size=1 and raise gradient_accumulation_steps"
        )


def _plan(
    config: TrainConfig,
    machine: EstimateConfig,
    arguments: TrainingArguments,
    shape: Shape,
    dtype: torch.dtype,
    half: bool,
) -> Plan:
    # Newer transformers rename gradient_checkpointing to activation_checkpointing.
    checkpointing = bool(arguments.gradient_checkpointing or getattr(arguments, "activation_checkpointing", False))
    return Plan(
        weight_bytes=dtype.itemsize,
        autocast=half,
        checkpointing=checkpointing,
        optimiser=_optimiser(arguments),
        reference=_reference_parameters(config.model, shape),
        sharding=machine.sharding,
        processes=machine.processes,
        quantization=config.model.quantization,
    )


def _reference_parameters(model: ModelConfig, shape: Shape) -> int:
    if model.reference == NONE:
        return 0
    if model.reference in ("initial", "start", "checkpoint"):  # a checkpoint's reference has the checkpoint's shape
        return shape.base
    return open_shape(replace(model, name=model.reference, revision=model.reference_revision, lora=None))[0].base


def _memory(shape: Shape, model: Any, plan: Plan, dtype: torch.dtype, piece: Piece) -> Memory:
    # Sharded weights are cast to half precision when they are gathered, and the residual stream with them.
    sharded_half = plan.autocast and plan.sharding in ("fsdp2", "zero3")
    dtype, autocast = (torch.bfloat16, False) if sharded_half else (dtype, plan.autocast)
    whole = saved_bytes(model, piece, dtype, autocast, checkpointing=False)
    saved = saved_bytes(model, piece, dtype, autocast, checkpointing=True) if plan.checkpointing else whole
    return memory(shape, plan, saved, whole, piece.read)


def _time(
    shape: Shape, plan: Plan, load: Workload, arguments: TrainingArguments, tflops: float, prompts_per_unit: float
) -> _Time:
    units = plan.processes * arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
    prompts_per_step = units * prompts_per_unit
    prompts = arguments.num_train_epochs * load.prompts
    if arguments.max_steps > 0:
        prompts = arguments.max_steps * prompts_per_step
    per_prompt = training_flops(shape, plan.checkpointing, load.trained) + forward_flops(shape, load.repeated)
    return _Time(
        training_flops=prompts * per_prompt,
        reference_flops=forward_flops(shape, load.reference) * load.prompts if plan.reference else 0.0,
        steps=max(1, math.ceil(prompts / prompts_per_step)),
        tflops=tflops,
        processes=plan.processes,
    )


def _say_run(config: TrainConfig, machine: EstimateConfig, shape: Shape, say: Say) -> None:
    trained = "LoRA" if shape.adapter else "all weights"
    count = "" if machine.processes == 1 else f"{machine.processes} x "
    say(f"{config.model.name}, {trained}, loss {config.loss.name}, on {count}{machine.machine} ({machine.sharding})")
    tied = "tied to the embeddings" if shape.tied else f"embeddings {shape.embedding / GB:.3f}"
    adapter = f", adapter {shape.adapter / 1e6:.1f} million" if shape.adapter else ""
    say(
        f"parameters: {shape.base / GB:.3f} billion (backbone {shape.backbone / GB:.3f}, output head "
        f"{shape.head / GB:.3f}, {tied}){adapter}"
    )


def _say_memory(peaks: dict[str, Memory], available: float, say: Say) -> None:
    say(f"{'memory per GPU, GB; largest piece':<34}" + "".join(f"{name:>36}" for name in peaks))
    for key, label in _ROWS.items():
        values = [getattr(peak, key) / GB for peak in peaks.values()]
        if any(values):
            say(f"  {label:<32}" + "".join(f"{value:>36.2f}" for value in values))
    say(f"  {'peak':<32}" + "".join(f"{peak.peak / GB:>36.2f}" for peak in peaks.values()))
    say("  (the peak is not the sum: layer, head, copies and optimiser step are never held at the same time)")
    over = [name for name, peak in peaks.items() if peak.peak / GB > available]
    if over:
        say(
            f"  does not fit {available:.3g} GB ({over[0]}): lower max_tokens_per_batch or data.max_length, set "
            "trainer.gradient_checkpointing=true,\n  train an adapter (model.lora), or shard over more processes"
        )


def _say_time(time: _Time, machine: EstimateConfig, say: Say) -> None:
    total_seconds = time.training_seconds + time.reference_seconds
    total_flops = time.training_flops + time.reference_flops
    say(
        f"time: {_hours(total_seconds, time.processes)}, {total_flops:.3g} FLOPs at {time.tflops:.3g} TFLOP/s per GPU\n"
        f"  of which the reference, once: {_hours(time.reference_seconds, time.processes)}\n"
        f"  {time.steps:,} steps of {time.training_seconds / time.steps:.3g} s"
    )
    if machine.tflops is None:
        say("  the rate is that of a plain matrix product on this machine; short steps take at least twice as long")


def _hours(seconds: float, processes: int) -> str:
    unit, size = ("hours", 3600) if seconds > 3600 else ("minutes", 60)
    on_all = f" ({seconds * processes / 3600:.3g} GPU hours)" if processes > 1 else ""
    return f"{seconds / size:.3g} {unit}{on_all}"
