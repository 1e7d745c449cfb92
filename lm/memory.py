"""How much memory a run takes, before it takes it; how much there is; and what to lower when it was not enough.

A step is made in full, forward, backward, clipping and optimizer, but on tensors that have a shape and no bytes
(torch's FakeTensorMode), while every storage that comes and goes is counted. So each rung, optimizer and setting is
counted by its own code, and no formula has to follow it.
"""

import gc
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lm.config import Config
from lm.models import LADDER
from lm.models.contract import LanguageModel
from lm.rehearsal import Rehearsal, same_shape

CUDA_BLOCK = 512
"""Bytes that torch's CUDA allocator rounds each tensor up to (kMinBlockSize in c10/cuda/CUDACachingAllocator)."""

HEAP_BLOCK = 32 * 2**20
"""From so many bytes on, glibc maps a tensor by itself and unmaps it when it is freed; what is smaller comes from its
heap, where holes remain (DEFAULT_MMAP_THRESHOLD_MAX in malloc.c).
"""

HOLES = 1.4
"""How much larger than its tensors the heap of a training process gets.

Measured on 13 configs of 28 MB to 3.4 GB of tensors: what was predicted came to .97 to 1.08 of what the process took.
Not so with `run.recompute`, whose tensors lie between those that are dropped: there the process may take a third more.
"""


@final
@dataclass(frozen=True, kw_only=True)
class Memory:
    """What the tensors of a run take in bytes at the moment when they take most.

    Args:
        parameters: weights, and buffers such as running means.
        gradients: those that are there at that moment.
        optimizer: what the optimizer keeps of the gradients before.
        activations: all else: what the forward pass keeps for the backward pass, logits, what kernels need meanwhile.
        allocator: what is taken beside the tensors: on CUDA cuBLAS' workspaces, on a CPU the holes in the C library's
            heap, which is an experience (`HOLES`), and no count.
    """

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    allocator: int

    @property
    def tensors(self) -> int:
        """What the tensors take; exact, but for compiled code."""
        return self.parameters + self.gradients + self.optimizer + self.activations

    @property
    def peak(self) -> int:
        """All of it."""
        return self.tensors + self.allocator


def memory_of(
    config: Config,
    vocab_size: int,
    device: torch.device,
    dtype: torch.dtype,
    *,
    shape: tuple[Tensor, Tensor] | None = None,
    rows: int | None = None,
) -> Memory:
    """What a run will take on a device, without taking it.

    Not counted: what a library keeps for itself (CUDA's context, the threads' buffers of a CPU), the program, the data.
    With `run.compile` it is an upper bound, since compiled code keeps less; with several processes and fsdp too, since
    one process that holds everything is what is counted.

    Args:
        config: the run.
        vocab_size: V.
        device: where it computes; the machine must have it.
        dtype: of the matrix products.
        shape: some batch `(inputs_BT, targets_BT)` of the run, of any number of rows; rows of T = `model.context` ids
            and targets when left out.
        rows: B, in the place of `batch.rows`.

    Cost: some thousand calls of torch that compute nothing: a second for twelve layers.
    """
    if shape is None:
        ids_BT = torch.zeros(1, config.model.context, dtype=torch.int64)
        shape = (ids_BT, ids_BT)
    collecting = gc.isenabled()
    with FakeTensorMode(), torch.random.fork_rng(devices=[]):
        batches = same_shape(*shape, rows or config.batch.rows)
        parts = Rehearsal(config, vocab_size, device, dtype, batches=batches, compiled=False)
        gc.disable()  # when it runs, the count must not depend on it
        try:
            # More than two micro batches are like two; the first step makes the optimizer's state.
            micro_batches = min(config.batch.accumulation, 2)
            with _Storages(CUDA_BLOCK if device.type == "cuda" else 1) as storages:
                storages.add(tree_leaves([*parts.objective.parameters(), *parts.objective.buffers()]))
                parts.step(micro_batches)
                storages.forget_peak()
                parts.step(micro_batches)
                parts.evaluate()  # the gradients are still there
                return _shares(storages, parts, device)
        finally:
            if collecting:
                gc.enable()


def without_bytes(config: Config, vocab_size: int) -> LanguageModel:
    """The model of a run, whose weights have shapes and no bytes."""
    with FakeTensorMode():
        return LADDER[config.rung].build(config.model, vocab_size)


def rows_that_fit(config: Config, free: int, peak_of: Callable[[int], int]) -> int | None:
    """The most rows of a micro batch with which a run fits: a divisor of rows * accumulation, so that its steps are the
    same.

    Args:
        config: the run.
        free: bytes that there are.
        peak_of: the bytes that so many rows take; more rows take more.

    Returns:
        None where one row is too many.
    """
    total = config.batch.rows * config.batch.accumulation
    candidates = [rows for rows in range(1, config.batch.rows + 1) if total % rows == 0]
    low, high = 0, len(candidates)  # the first `low` of them fit, those from `high` on do not
    while low < high:
        middle = (low + high) // 2
        if peak_of(candidates[middle]) <= free:
            low = middle + 1
        else:
            high = middle
    return candidates[low - 1] if low else None


def free_memory(device: torch.device) -> int | None:
    """The bytes that tensors on a device may still take; None where the system does not tell."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    limits = [limit for limit in (_available(), _left_in_group(_CGROUP)) if limit is not None]
    return min(limits, default=None)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device or the machine had no more memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # The CPU's allocator and Apple's have no class of their own.
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "MPS backend out of memory")


def advice_for_out_of_memory(config: Config, device: torch.device) -> str:
    """What to lower when a run had not enough memory, the cheapest first, as the hint of an error."""
    advice = []
    rows, accumulation = config.batch.rows, config.batch.accumulation
    if rows > 1:
        factor = next(factor for factor in range(2, rows + 1) if rows % factor == 0)
        settings = f"--set batch.rows={rows // factor} --set batch.accumulation={accumulation * factor}"
        advice.append(f"{settings} (the same steps)")
    if config.rung in RECOMPUTING and not config.run.recompute:
        advice.append("--set run.recompute=true (a third more work)")
    sizes = [f"model.{name}" for name in ("width", "hidden", "layers", "context") if hasattr(config.model, name)]
    advice.append(f"a smaller {' or '.join(sizes)}")
    if device.type == "cuda":
        advice.append("whatever else takes the card's memory (nvidia-smi shows it)")
    return "lower " + "; or ".join(advice) + "; lm estimate tells what will fit"


RECOMPUTING = ("gpt2", "modern")
"""The rungs that know `run.recompute`."""


@final
class _Storages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all storages that are made within, for as long as they live.

    Args:
        rounding: each takes a multiple of so many bytes.

    Attributes:
        peak: the most bytes at a time.
        at_peak: those bytes, by the number of the storage.
        process: the most that a process takes of the system for them, with glibc.
    """

    def __init__(self, rounding: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._rounding = rounding
        self._live: dict[int, tuple[int, int]] = {}  # by the storage's id: a number of its own, since ids come again
        self._made = self._now = self._heap = self._largest_heap = 0
        self.peak = self.process = 0
        self.at_peak: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.add(tree_leaves(result))
        return result

    def add(self, values: Iterable[object]) -> None:
        """Counts the storages of those that are tensors, each once."""
        for tensor in values:
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            if id(storage) not in self._live:
                size = -(-storage.nbytes() // self._rounding) * self._rounding
                self._made += 1
                self._now += size
                self._live[id(storage)] = (self._made, size)
                weakref.finalize(storage, self._drop, id(storage))
                self._heap += size if size < HEAP_BLOCK else 0
        if self._now > self.peak:
            self.peak, self.at_peak = self._now, dict(self._live.values())
        self._largest_heap = max(self._largest_heap, self._heap)
        self.process = max(self.process, self._now - self._heap + int(HOLES * self._largest_heap))

    def forget_peak(self) -> None:
        """What was there before does not count, unless it is still there."""
        self.peak, self.at_peak = self._now, dict(self._live.values())

    def share(self, tensors: Iterable[Tensor]) -> int:
        """The bytes that these tensors, alive now, took at the peak."""
        numbers = {self._live[id(tensor.untyped_storage())][0] for tensor in tensors}
        return sum(self.at_peak.get(number, 0) for number in numbers)

    def _drop(self, key: int) -> None:
        size = self._live.pop(key)[1]
        self._now -= size
        self._heap -= size if size < HEAP_BLOCK else 0


def _shares(storages: _Storages, parts: Rehearsal, device: torch.device) -> Memory:
    parameters = list(parts.objective.parameters())
    weights = storages.share([*parameters, *parts.objective.buffers()])
    gradients = storages.share(parameter.grad for parameter in parameters if parameter.grad is not None)
    states = (value for state in parts.optimizer.state.values() for value in state.values())
    optimizer = storages.share(value for value in states if isinstance(value, Tensor))
    return Memory(
        parameters=weights,
        gradients=gradients,
        optimizer=optimizer,
        activations=storages.peak - weights - gradients - optimizer,
        allocator=storages.process - storages.peak if device.type == "cpu" else _workspaces(device),
    )


def _workspaces(device: torch.device) -> int:
    """What cuBLAS takes from torch's allocator, once for the forward and once for the backward pass's thread.

    Source: getChosenWorkspaceSize in ATen/cuda/CublasHandlePool.cpp.
    """
    if device.type != "cuda":
        return 0
    newer = torch.cuda.get_device_capability(device)[0] >= 9
    return 2 * (32 * 2**20 if newer else 8 * 2**20 + 2**17)


def _available() -> int | None:
    """What the machine can still give (Linux)."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


_CGROUP = Path("/sys/fs/cgroup")


def _left_in_group(folder: Path) -> int | None:
    """What a container's limit leaves (cgroup, version 2); None where there is no limit."""
    try:
        limit, current = (
            (folder / f"memory.{name}").read_text(encoding="ascii").strip() for name in ("max", "current")
        )
    except OSError:
        return None
    return None if limit == "max" else max(0, int(limit) - int(current))
