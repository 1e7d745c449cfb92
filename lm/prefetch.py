"""Batches made ahead by a thread, while the device computes.

A batch takes a copy out of the shards' files, and on CUDA one more into pinned memory, out of which the device
fetches it without anybody waiting. Both are done by the time that the batch is asked for.

The thread changes neither batches nor their order, and the cursor is that of the batches taken: what was made
but not taken is made again after a resume.
"""

import threading
import weakref
from dataclasses import dataclass, field
from queue import SimpleQueue
from types import TracebackType
from typing import Protocol, Self, final

import torch
from torch import Tensor

from lm.errors import require

Batch = tuple[Tensor, Tensor]
State = dict[str, int]


class BatchSource(Protocol):
    """What can be read ahead; `lm.batches.Batches` is one."""

    def __next__(self) -> Batch:
        """The next `(inputs_BT, targets_BT)`, on the CPU."""

    def state(self) -> State:
        """The cursor behind it."""


@final
class Prefetch:
    """An iterator of the very batches of another one, made ahead by a thread.

    Close it, or use it in a `with`; the thread also ends when nobody holds the object any more.

    Args:
        batches: what is read ahead; belongs to the thread from now on.
        device: where the batches will go (`to_device`). If that is CUDA, they lie in pinned memory.
        ahead: how many batches lie ready at most.

    Raises:
        ConfigError: if `ahead` is under 1.
    """

    def __init__(self, batches: BatchSource, *, device: torch.device, ahead: int = 2) -> None:
        """Starts the thread."""
        require(ahead >= 1, "prefetch: ahead", "at least 1", ahead)
        if device.type == "cuda" and device.index is None:  # each thread has a current device of its own
            device = torch.device("cuda", torch.cuda.current_device())
        self._state = batches.state()
        self._end: BaseException | None = None
        self._line = _Line()
        for _ in range(ahead):
            self._line.room.put(None)
        # Neither knows this object, so that it can go while they are at work. It is a daemon, since an
        # interpreter that ends waits for other threads before it lets `finalize` stop them.
        thread = threading.Thread(target=_work, args=(batches, device, self._line), name="lm-prefetch", daemon=True)
        thread.start()
        self._close = weakref.finalize(self, _stop, thread, self._line)

    def __iter__(self) -> Self:
        """Itself."""
        return self

    def __next__(self) -> Batch:
        """The next batch; waits for it if it must. After `close` there is none.

        Raises:
            Exception: whatever `batches` raised, at the place where that batch would have come, and from then on.
        """
        if self._end is None:
            got = self._line.ready.get()
            if not isinstance(got, BaseException):
                self._line.room.put(None)
                batch, self._state = got
                return batch
            self._end = got
        raise self._end

    def state(self) -> State:
        """The cursor behind the batches taken so far."""
        return dict(self._state)

    def close(self) -> None:
        """Ends the thread, and waits until it has ended; what was made but not taken is dropped."""
        self._end = self._end or StopIteration()
        self._close()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes it."""
        self.close()


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device. To CUDA the copy is asked for, not waited for: what is computed there comes after it."""
    inputs_BT, targets_BT = (tensor.to(device, non_blocking=device.type == "cuda") for tensor in batch)
    return inputs_BT, targets_BT


def to_host(tensor: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """The tensor on the CPU, and on CUDA the event after which it is there: nobody waits for it before."""
    if tensor.device.type != "cuda":
        return tensor.cpu(), None
    copied = tensor.to("cpu", non_blocking=True)  # into pinned memory
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record()
    return copied, arrived


@dataclass
class _Line:
    """What goes between the two threads: room for a batch one way; a batch and its cursor, or an error, the other.

    `finalize` may call `_stop` in any line of any thread; of all queues only `SimpleQueue` bears that.
    """

    room: SimpleQueue[None] = field(default_factory=SimpleQueue)
    ready: SimpleQueue[tuple[Batch, State] | BaseException] = field(default_factory=SimpleQueue)
    stop: bool = False


def _work(batches: BatchSource, device: torch.device, line: _Line) -> None:
    pin = device.type == "cuda"
    try:
        if pin:
            torch.cuda.set_device(device)  # else the memory would be pinned, and a context made, on the first one
        while True:
            line.room.get()
            if line.stop:
                return
            inputs_BT, targets_BT = next(batches)
            if pin:
                inputs_BT, targets_BT = inputs_BT.pin_memory(), targets_BT.pin_memory()
            line.ready.put(((inputs_BT, targets_BT), batches.state()))
    except BaseException as error:  # also what ends a thread silently: who waits for a batch must wake
        line.ready.put(error)


def _stop(thread: threading.Thread, line: _Line) -> None:
    line.stop = True
    line.room.put(None)
    if thread is not threading.current_thread():  # the garbage collector runs in any thread
        thread.join()
    line.ready.put(StopIteration())
