"""What a run will take, before it is started: memory, time, disk.

Memory is counted (`lm.memory`); time is measured on 20 steps (`measure_pace`) with the run's own parts and batches, and
multiplied. Where steps were made, what they took of memory is measured as well.
"""

import contextlib
import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

import bpetok.memory
from bpetok.files import sync_file
from lm.batches import Batches, cut
from lm.config import Config
from lm.data import Data, open_data
from lm.devices import device_name
from lm.flops import flops_per_token, mfu
from lm.memory import Memory, free_memory, memory_of, rows_that_fit, without_bytes
from lm.parallel import fitting_threads, pick_device, pick_dtype
from lm.rehearsal import Rehearsal

STEPS, WARMUP_STEPS = 20, 3
MOST_SECONDS = 60.0
"""After so long no further step is measured."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How long the parts of a step take, in seconds.

    Args:
        first: the first step, with what it compiles and allocates.
        micro_batch: forward and backward of one micro batch.
        update: clipping and the optimizer.
    """

    first: float
    micro_batch: float
    update: float

    def step(self, accumulation: int) -> float:
        """A step of so many micro batches."""
        return accumulation * self.micro_batch + self.update


@dataclass(frozen=True, kw_only=True)
class Duration:
    """How long a run takes, in seconds; samples and diagnoses are not counted.

    Args:
        opening: reading and checking the data.
        first_step: the first step, with what it compiles.
        step: one of the others.
        evaluation: one evaluation.
        checkpoint: one checkpoint, on the disk of temporary files.
        steps: how many.
        evaluations: how many.
        checkpoints: how many.
    """

    opening: float
    first_step: float
    step: float
    evaluation: float
    checkpoint: float
    steps: int
    evaluations: int
    checkpoints: int

    @property
    def total(self) -> float:
        """The run from its beginning to its end."""
        steps = self.first_step + (self.steps - 1) * self.step
        return self.opening + steps + self.evaluations * self.evaluation + self.checkpoints * self.checkpoint


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run will take.

    Args:
        rung: the model's name in the ladder.
        device: the name of the device.
        dtype: of the matrix products.
        parameters: of the model.
        tokens_per_step: the most targets that a step learns from.
        steps: updates.
        tokens: the most targets of the whole run.
        epochs: how often the training split is gone through.
        memory: what the tensors take.
        process: on a CPU what the whole process will take, the program and the data included; else None.
        measured: what the probe took: of the device, or on a CPU the whole process; None without a probe.
        free: the bytes that are there; None where the system does not tell.
        rows: the most rows of a micro batch that fit, if those of the config do not; 0 if not even one does.
        checkpoint_bytes: of one checkpoint on disk.
        disk_bytes: of all that are kept, and the one that is being written.
        flops: the operations of a token; None where no formula is known.
        duration: None without a probe.
        tokens_per_second: while steps are made; None without a probe.
        mfu: 0 to 1; None without a probe, or where peak or operations are not known.
    """

    rung: str
    device: str
    dtype: str
    parameters: int
    tokens_per_step: int
    steps: int
    tokens: int
    epochs: float
    memory: Memory
    process: int | None
    measured: int | None
    free: int | None
    rows: int | None
    checkpoint_bytes: int
    disk_bytes: int
    flops: int | None
    duration: Duration | None
    tokens_per_second: float | None
    mfu: float | None

    @property
    def fits(self) -> bool:
        """Whether the memory that is there is enough, as far as is known."""
        return self.rows is None


def estimate(
    config: Config, *, probe: bool = True, on_step: Callable[[int, int], None] = lambda done, total: None
) -> Estimate:
    """What a run in one process will take; nothing of it is kept.

    It seeds torch's global generator. With `run.compile` the memory is an upper bound, unless it was measured.

    Args:
        config: the run.
        probe: whether to make 20 steps and measure them. None are made if the run does not fit.
        on_step: called with the steps of the probe that were made, and how many there will be.

    Raises:
        ConfigError: as `lm.train.train`.
        DataError: as `lm.data.open_data`.
        IncompatibleError: if shards and tokenizer do not belong together.
    """
    started = time.perf_counter()
    device = pick_device(config.run.device)
    dtype = pick_dtype(config.run.dtype, device)
    data = open_data(config)
    opening = time.perf_counter() - started
    vocab_size, batch = data.vocabulary.n_vocab, config.batch
    torch.manual_seed(config.run.seed)
    before = _warmed_up(device)
    shape = cut(data.train, config.model.context).stack([0], 1)

    def memory(rows: int) -> Memory:
        return memory_of(config, vocab_size, device, dtype, shape=shape, rows=rows)

    taken, free = memory(batch.rows), free_memory(device)
    fits = free is None or taken.peak <= free
    rows = None if fits or free is None else rows_that_fit(config, free, lambda rows: memory(rows).peak) or 0
    model = without_bytes(config, vocab_size)
    flops = flops_per_token(model, config.model.context)
    tokens = batch.rows * batch.accumulation * shape[1].shape[1]
    checkpoint = taken.parameters + taken.optimizer
    kept = config.run.keep_checkpoints or times_every(config.run.steps, config.run.checkpoint_every)
    duration, measured = _probe(config, data, opening, checkpoint, on_step) if probe and fits else (None, None)
    rate = tokens / duration.step if duration else None
    tf32 = torch.get_float32_matmul_precision() != "highest"
    return Estimate(
        rung=config.rung,
        device=device_name(device),
        dtype=str(dtype).removeprefix("torch."),
        parameters=model.expected_parameters(),
        tokens_per_step=tokens,
        steps=config.run.steps,
        tokens=tokens * config.run.steps,
        epochs=config.run.steps * batch.rows * batch.accumulation / cut(data.train, config.model.context).count,
        memory=taken,
        process=before + taken.peak if before else None,
        measured=measured,
        free=free,
        rows=rows,
        checkpoint_bytes=checkpoint,
        disk_bytes=checkpoint * (kept + 1 + config.run.keep_best),
        flops=flops,
        duration=duration,
        tokens_per_second=rate,
        mfu=mfu(flops, rate, device_name(device), dtype, tf32=tf32) if rate else None,
    )


def seconds_per_step(config: Config, vocab_size: int, device: torch.device, *, most_seconds: float = 2.0) -> float:
    """How long a step of a run takes on this machine, measured on random ids.

    It seeds torch's global generator.

    Args:
        config: the run.
        vocab_size: V.
        device: where it computes.
        most_seconds: how long to measure, about; always three steps at least.
    """
    torch.manual_seed(0)
    parts = Rehearsal(config, vocab_size, device, pick_dtype(config.run.dtype, device))
    with _threads(config, parts):
        pace = measure_pace(parts, config.batch.accumulation, steps=1000, most_seconds=most_seconds)
    return pace.step(config.batch.accumulation)


def measure_pace(
    parts: Rehearsal,
    accumulation: int,
    *,
    steps: int = STEPS,
    most_seconds: float = MOST_SECONDS,
    on_step: Callable[[int, int], None] = lambda done, total: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Pace:
    """How long steps take: the mean, as a run pays for its slow steps too, without the first ones, which warm up.

    Of a step's micro batches no more than four are made, since each takes as long.

    Args:
        parts: what makes the steps.
        accumulation: micro batches of a step.
        steps: how many to make.
        most_seconds: make no more after so long, but three at least.
        on_step: called with the number of steps made and `steps`.
        clock: gives the time in seconds.
    """
    micro_batches = min(accumulation, 4)
    times: list[tuple[float, float]] = []
    began = clock()
    while len(times) < steps and (len(times) < 3 or clock() - began < most_seconds):
        start = clock()
        parts.accumulate(micro_batches)
        parts.synchronize()
        middle = clock()
        parts.update()
        parts.synchronize()
        times.append((middle - start, clock() - middle))
        on_step(len(times), steps)
    warm = times[min(WARMUP_STEPS, len(times) // 2) :]
    micro_batch = statistics.fmean(seconds for seconds, _ in warm) / micro_batches
    update = statistics.fmean(seconds for _, seconds in warm)
    first = sum(times[0]) + (accumulation - micro_batches) * micro_batch
    return Pace(first=first, micro_batch=micro_batch, update=update)


def _probe(
    config: Config,
    data: Data,
    opening: float,
    checkpoint_bytes: int,
    on_step: Callable[[int, int], None],
) -> tuple[Duration, int | None]:
    """How long the run takes, and the most memory that its first steps took."""
    device = pick_device(config.run.device)
    batches: Iterator[tuple[Tensor, Tensor]] = Batches(
        data.train, rows=config.batch.rows, context=config.model.context, seed=config.run.seed
    )
    _forget_peak(device)
    dtype = pick_dtype(config.run.dtype, device)
    parts = Rehearsal(config, data.vocabulary.n_vocab, device, dtype, batches=batches)
    with _threads(config, parts):
        pace = measure_pace(parts, config.batch.accumulation, on_step=on_step)
        evaluation_batch = _seconds_of(parts.evaluate, parts.synchronize)
    measured = _peak(device)
    batches_there = -(-cut(data.val, config.model.context).count // config.batch.rows)
    plan = config.run
    duration = Duration(
        opening=opening,
        first_step=pace.first,
        step=pace.step(config.batch.accumulation),
        evaluation=evaluation_batch * min(plan.eval_batches, batches_there),
        checkpoint=_seconds_per_checkpoint(checkpoint_bytes),
        steps=plan.steps,
        evaluations=1 + times_every(plan.steps, plan.eval_every),
        checkpoints=times_every(plan.steps, plan.checkpoint_every),
    )
    return duration, measured


def times_every(steps: int, every: int) -> int:
    """How often something is done in a run that is done every so many steps and after the last one.

    >>> times_every(100, 30), times_every(90, 30)
    (4, 3)
    """
    return -(-steps // every)


def _threads(config: Config, parts: Rehearsal) -> contextlib.AbstractContextManager[None]:
    weights = sum(parameter.numel() for parameter in parts.objective.parameters())
    return fitting_threads(config.batch.rows * config.model.context * weights)


def _seconds_of(action: Callable[[], None], synchronize: Callable[[], None]) -> float:
    """The median of three calls after a first one that warms up."""
    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        action()
        synchronize()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


_WRITTEN = 64 * 2**20


def _seconds_per_checkpoint(size: int) -> float:
    """How long it takes to write so many bytes as a checkpoint is written; large ones by a part of them."""
    part = min(size, _WRITTEN)
    weights = torch.zeros(max(1, part // 4))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        began = time.perf_counter()
        safetensors.torch.save_file({"weights": weights}, path)
        with path.open("rb") as file:
            hashlib.file_digest(file, "sha256")
        sync_file(path)
        return (time.perf_counter() - began) * size / max(1, part)


def _warmed_up(device: torch.device) -> int:
    """What this process takes before it trains, with what torch makes ready at its first step; 0 if no CPU computes."""
    if device.type != "cpu" or not bpetok.memory.tells_now():
        return 0
    weights = torch.zeros(8, 8, requires_grad=True)
    optimizer = torch.optim.AdamW([weights], fused=True)
    (weights @ weights).sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return bpetok.memory.in_use()


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif device.type == "cpu":
        with contextlib.suppress(OSError):  # only Linux has it
            bpetok.memory.give_back()
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the highest mark so far


def _peak(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return bpetok.memory.peak() if device.type == "cpu" and bpetok.memory.tells_now() else None
