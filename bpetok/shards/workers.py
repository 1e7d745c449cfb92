"""Worker processes that encode, and what comes back from them in order.

Each worker is served by a thread of this process, which sends it a piece of the sources and waits for its ids. Where
the system can fork, the ids come through memory that both processes share; what does not fit there is sent.

A worker that dies is noticed at once, and the error names what it was encoding; the others are ended then, so that
nobody waits for what they do. Workers end with the process that started them, also if that is killed.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import sys
import threading
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from bpetok.errors import BpetokError, WorkerError
from bpetok.shards.encoding import Encoded, Recipe, encode_group, new_room
from bpetok.sources.units import UnitGroup

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from numpy.typing import NDArray

_ROOM_BYTES = 1 << 25  # of address space for the ids of one piece; of memory it takes what is used
_ROOMS = 2  # for each worker: one that it fills while the other is being written to disk
_PATIENCE = 5.0

Groups = Iterable[UnitGroup]
Results = Iterator[tuple[UnitGroup, Encoded]]


def encode_by_workers(recipe: Recipe, groups: Groups, workers: int) -> Results:
    """The same as `encode_here` by so many processes, in order. What is given out is void when the next is asked for.

    Raises:
        WorkerError: a worker died.
        BpetokError, OSError: as `encode_group`.
    """
    with _Pool(recipe, workers) as pool:
        yield from pool.run(groups)


class _Pool:
    def __init__(self, recipe: Recipe, workers: int) -> None:
        can_fork = _may_fork()
        context: Any = get_context("fork" if can_fork else "spawn")
        self._workers: list[_Worker] = []
        for _ in range(workers):  # all of them before the first thread is started
            others = [worker.connection for worker in self._workers]
            self._workers.append(_Worker(context, recipe, _ROOMS if can_fork else 0, others if can_fork else None))
        self._death: WorkerError | None = None
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="bpetok-worker")

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *exception: object) -> None:
        for worker in self._workers:
            worker.end()
        self._threads.shutdown(cancel_futures=True)
        for worker in self._workers:
            worker.close()

    def run(self, groups: Groups) -> Results:
        """As `encode_by_workers`."""
        ahead: deque[tuple[UnitGroup, Future[_Result]]] = deque()
        for group in groups:
            ahead.append((group, self._threads.submit(self._encode, group)))
            if len(ahead) >= 2 * len(self._workers):
                yield from self._take(ahead)
        while ahead:
            yield from self._take(ahead)

    def _encode(self, group: UnitGroup) -> _Result:
        worker = self._idle.get()
        try:
            return worker.encode(group)
        except WorkerError as error:
            self._death = self._death or error
            for other in self._workers:
                other.end()
            raise
        finally:
            self._idle.put(worker)

    def _take(self, ahead: deque[tuple[UnitGroup, Future[_Result]]]) -> Results:
        group, future = ahead.popleft()
        try:
            result = future.result()
        except WorkerError as error:
            raise self._death or error from None  # one that was ended for the death of another says nothing
        yield group, result.encoded
        result.give_back()


class _Result:
    """What a worker made, and the room that holds it."""

    def __init__(self, encoded: Encoded, give_back: Callable[[], object]) -> None:
        self.encoded, self.give_back = encoded, give_back


class _Worker:
    """A process that encodes one piece of the sources after the other, and this process's end of it."""

    def __init__(self, context: Any, recipe: Recipe, rooms: int, others: list[Connection] | None) -> None:
        self._rooms = [mmap.mmap(-1, _ROOM_BYTES) for _ in range(rooms)]
        self._free: SimpleQueue[int] = SimpleQueue()
        for room in range(rooms):
            self._free.put(room)
        self.connection, theirs = context.Pipe()
        # A forked process has all that this one holds. While it holds this end of a pipe, nobody at the other end sees
        # that the parent was killed.
        inherited = [] if others is None else [*others, self.connection]
        given = theirs, None if others is None else recipe, self._rooms, inherited
        self._process: BaseProcess = context.Process(target=_serve, args=given, daemon=True)
        with warnings.catch_warnings(), _without_main():
            # Python 3.12 warns of threads of C libraries, which look after themselves
            warnings.simplefilter("ignore", DeprecationWarning)
            self._process.start()
        theirs.close()
        if others is None:
            self._send_recipe(recipe)

    def _send_recipe(self, recipe: Recipe) -> None:
        """Apart from what starts the process: there, one that ends too early would be waited for without end."""
        try:
            self.connection.send(recipe)
        except OSError as error:
            self._process.join(_PATIENCE)
            raise WorkerError(
                f"shards: a worker ended with code {self._process.exitcode} before it began",
                hint="workers=1 encodes in this process",
            ) from error

    def encode(self, group: UnitGroup) -> _Result:
        """What becomes of a piece of the sources."""
        try:
            room = self._free.get_nowait()
        except Empty:  # it is not waited for: who holds it may wait for what is encoded here
            room = None
        try:
            self.connection.send((group, room))
            outcome = self.connection.recv()
        except (EOFError, OSError) as error:
            self._process.join(_PATIENCE)
            raise _died(group, self._process.exitcode) from error
        if isinstance(outcome, BaseException):
            raise outcome
        return _Result(outcome.encoded(self._rooms), lambda: None if room is None else self._free.put(room))

    def end(self) -> None:
        """Ends the process, whatever it is doing."""
        self._process.kill()

    def close(self) -> None:
        """Frees what it took."""
        self._process.join()
        self.connection.close()


def _died(group: UnitGroup, code: int | None) -> WorkerError:
    how = "ended"
    if code is not None and code < 0:
        known = -code in signal.valid_signals()
        how = f"was killed by {signal.Signals(-code).name if known else f'signal {-code}'}"
    elif code is not None:
        how = f"ended with code {code}"
    places = dict.fromkeys(unit.where for unit in (group.units[0], group.units[-1]))
    return WorkerError(
        f"shards: a worker {how} while it encoded {' to '.join(places)}",
        hint="the system kills what takes too much memory: fewer --workers may help; run the call again and it goes on",
    )


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Keeps a process that is started anew from running the user's own program again; it needs nothing of it."""
    main = sys.modules["__main__"]
    kept = {name: getattr(main, name) for name in ("__spec__", "__file__") if hasattr(main, name)}
    main.__spec__ = None
    if "__file__" in kept:
        del main.__file__
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(main, name, value)


def _may_fork() -> bool:
    """Whether a fork of this process is safe: only where no other thread of Python could hold a lock just then."""
    if not hasattr(os, "fork"):
        return False
    return threading.active_count() == 1


# ---- in the worker -----------------------------------------------------------------------------------------------


def _serve(connection: Connection, recipe: Recipe | None, rooms: list[mmap.mmap], inherited: list[Connection]) -> None:
    """Encodes what comes until nobody is left to send it. Signals are for the process that started this one."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    for other in inherited:
        other.close()
    if recipe is None:
        recipe = connection.recv()
    while True:
        try:
            group, room = connection.recv()
        except (EOFError, OSError):
            return
        try:
            space = _Space(None if room is None else rooms[room])
            made = encode_group(recipe, group, space.array)
            outcome: _Message | BaseException = space.message(made, room)
        except Exception as error:
            outcome = _sendable(error)
        with contextlib.suppress(OSError):  # nobody is left, which the next turn finds
            connection.send(outcome)


class _Space:
    """Gives arrays in a room as long as they fit, then others."""

    def __init__(self, room: mmap.mmap | None) -> None:
        self._room = room
        self._end = 0
        self._given: list[tuple[NDArray[Any], int]] = []

    def array(self, dtype: str, count: int) -> NDArray[Any]:
        """An array of so many, as `new_room`."""
        array = new_room(dtype, 0)
        if self._room is None or self._end + count * array.itemsize > _ROOM_BYTES:
            return new_room(dtype, count)
        array = _array_in(self._room, dtype, count, self._end)
        self._given.append((array, self._end))
        self._end += array.nbytes
        return array

    def message(self, made: Encoded, room: int | None) -> _Message:
        """What was made, without the ids that lie in the room."""
        places = {}
        for name, split in made.splits.items():
            for array, begin in self._given:
                if split.ids is array:
                    places[name] = begin, len(array)
                    split.ids = new_room(array.dtype.name, 0)
        return _Message(made, room, places)


@dataclass(frozen=True, slots=True)
class _Message:
    """What a worker made, but for the ids that lie in a room: of those, from which byte on, and how many."""

    made: Encoded
    room: int | None
    places: dict[str, tuple[int, int]]

    def encoded(self, rooms: list[mmap.mmap]) -> Encoded:
        """All of it; the ids are void when the room is given back."""
        for name, (begin, count) in self.places.items():
            split = self.made.splits[name]
            assert self.room is not None
            split.ids = _array_in(rooms[self.room], split.ids.dtype.name, count, begin)
        return self.made


def _array_in(room: mmap.mmap, dtype: str, count: int, begin: int) -> NDArray[Any]:
    import numpy as np

    return np.frombuffer(room, dtype, count, begin)


def _sendable(error: Exception) -> Exception:
    """The error; one that may not survive being sent, as its text."""
    if isinstance(error, BpetokError) or type(error).__module__ == "builtins":
        return error
    if isinstance(error, OSError):
        return OSError(error.errno, f"{type(error).__name__}: {error}")
    return RuntimeError("".join(traceback.format_exception(error)))
