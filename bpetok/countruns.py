"""Counts too many for memory: tables that are written to a temporary file one after the other, and merged in parts.

A table that is full is written as a run: its pretokens in the order of their buckets, which are numbers under 4096 that
their bytes decide. The same pretoken has the same bucket in every run, so some buckets of all runs, as many as memory
has room for, are merged apart from the others: read into a table, they give the final counts of their pretokens.

The file has no name while it is in use: nothing is left of it, however the process ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from bpetok import _core
from bpetok.counts import COPY_BYTES, TABLE_BYTES
from bpetok.errors import DataError, MemoryLimitError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]

BUCKETS = 1 << 12
_SAMPLE = 16  # buckets whose pretokens are known again in later runs: one in 256
BLOCK_BYTES = 1 << 18
"""So many bytes of pretokens are worked on at a time."""

_ODD = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio


class _Run(NamedTuple):
    """A table in the file: from `start` on all sizes, then all counts, then all bytes of pretokens."""

    start: int
    entries: Ints  # how many there are before each bucket, and in all
    bytes: Ints  # how many bytes their pretokens have


class Runs:
    """Tables of counts on disk, merged in parts.

    >>> counts = _core.PretokenCounts()
    >>> counts.add(b"low", 2)
    >>> with Runs(Path(".")) as runs:
    ...     new = [runs.add(counts.to_arrays()) for _ in range(2)]
    ...     [part.items() for part in runs.merged(10**6)]
    [[(b'low', 4)]]
    """

    def __init__(self, folder: Path) -> None:
        """`folder`: where there is room for them."""
        import tempfile

        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  closed by __exit__
        self._runs: list[_Run] = []
        self._total = 0
        self._sample: NDArray[np.uint64] | None = None

    def __enter__(self) -> Runs:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Frees the room."""
        self._file.close()

    def __len__(self) -> int:
        """How many runs there are."""
        return len(self._runs)

    @property
    def entries(self) -> int:
        """How many pretokens all runs have, those that are in several counted each time."""
        return sum(int(run.entries[-1]) for run in self._runs)

    def add(self, arrays: tuple[NDArray[np.uint8], Ints, Ints]) -> int:
        """Writes a table, as `_core.PretokenCounts.to_arrays` gives it.

        Returns:
            About how many of its pretokens are in no earlier run, by a sample of them.

        Raises:
            DataError: the counts of all runs together would not fit 64 bits.
            OSError: there is no room.
        """
        import numpy as np

        pretokens, sizes, counts = arrays
        self._total += int(counts.sum())
        if self._total >= 1 << 63:
            raise DataError("counts: the total must fit 64 bits")
        starts = np.zeros(len(sizes) + 1, np.int64)
        np.cumsum(sizes, out=starts[1:])
        hashes = hashes_of(pretokens, starts)
        buckets = (hashes >> np.uint64(64 - 12)).astype(np.uint16)
        new = self._share_of_new(hashes[buckets < _SAMPLE]) * len(sizes)
        del hashes
        order = np.argsort(buckets, kind="stable")
        entries, bytes_ = np.zeros(BUCKETS + 1, np.int64), np.zeros(BUCKETS + 1, np.int64)
        np.cumsum(np.bincount(buckets, minlength=BUCKETS), out=entries[1:])
        np.cumsum(np.bincount(buckets, weights=sizes, minlength=BUCKETS).astype(np.int64), out=bytes_[1:])
        self._runs.append(_Run(self._file.seek(0, 2), entries, bytes_))
        self._file.write((sizes := sizes[order]).data)
        self._file.write(counts[order].data)
        _write_in_order(self._file, pretokens, starts[:-1][order], sizes)
        return round(new)

    def _share_of_new(self, sample: NDArray[np.uint64]) -> float:
        import numpy as np

        before, self._sample = self._sample, np.union1d(sample, sample if self._sample is None else self._sample)
        return (len(self._sample) - (0 if before is None else len(before))) / max(len(sample), 1)

    def merged(self, room: int, progress: Callable[[int], object] | None = None) -> Iterator[_core.PretokenCounts]:
        """The counts of all runs together, in tables that have no pretoken in common.

        Args:
            room: how many bytes of memory a table and a copy of it may take.
            progress: called now and then with the pretokens of runs that were merged since the last call.

        Raises:
            MemoryLimitError: there is less room than merging takes.
        """
        for first, last in self._parts(room):
            table = _core.PretokenCounts()
            for run in self._runs:
                table.add_arrays(*self._read(run, first, last))
                if progress is not None:
                    progress(int(run.entries[last] - run.entries[first]))
            yield table

    def _parts(self, room: int) -> Iterator[tuple[int, int]]:
        """Buckets that are merged together, from the first to before the last."""
        import numpy as np

        if not self._runs:
            return
        per_bucket = sum(
            (TABLE_BYTES + 2 * COPY_BYTES) * np.diff(run.entries) + 4 * np.diff(run.bytes) for run in self._runs
        )
        ends = np.cumsum(per_bucket)
        first = 0
        while first < BUCKETS:
            before = int(ends[first - 1]) if first else 0
            last = int(np.searchsorted(ends, before + room, "right"))
            if last == first:
                raise MemoryLimitError(
                    f"counts: memory to merge them must be at least {int(ends[first]) - before:,} bytes, got {room:,}",
                    hint="allow more",
                )
            yield first, last
            first = last

    def _read(self, run: _Run, first: int, last: int) -> tuple[NDArray[np.uint8], Ints, Ints]:
        import numpy as np

        total = int(run.entries[-1])
        begin, end = int(run.entries[first]), int(run.entries[last])
        sizes, counts = np.empty(end - begin, np.int64), np.empty(end - begin, np.int64)
        pretokens = np.empty(int(run.bytes[last] - run.bytes[first]), np.uint8)
        for array, place in (
            (sizes, 8 * begin),
            (counts, 8 * (total + begin)),
            (pretokens, 16 * total + int(run.bytes[first])),
        ):
            self._file.seek(run.start + place)
            if self._file.readinto(array.data) != array.nbytes:
                raise OSError(
                    f"counts: a temporary file must hold what was written to it, got less than {array.nbytes}"
                )
        return pretokens, sizes, counts


def blocks(ends: Ints, most_bytes: int = BLOCK_BYTES) -> Iterator[tuple[int, int]]:
    """Neighbours with so many bytes together, or one that has more: the first, and the one behind the last.

    >>> import numpy as np
    >>> list(blocks(np.array([3, 5, 40, 41, 42]), 10))
    [(0, 2), (2, 3), (3, 5)]
    """
    import numpy as np

    first = 0
    while first < len(ends):
        before = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + most_bytes, "right")))
        yield first, last
        first = last


def hashes_of(pretokens: NDArray[np.uint8], starts: Ints) -> NDArray[np.uint64]:
    """A hash of each pretoken: a polynomial of its bytes, of the first 256 KiB of a long one.

    Args:
        pretokens: their bytes, one behind the other.
        starts: where each begins, and where the last ends.
    """
    import numpy as np

    # A prefix sum of byte times power gives the hash of every span of bytes: the difference of two sums, divided by
    # the power of where it begins. All of it modulo 2^64, where odd numbers can be divided by.
    powers = np.cumprod(np.full(BLOCK_BYTES, _ODD, np.uint64))
    inverses = np.cumprod(np.full(BLOCK_BYTES, pow(_ODD, -1, 1 << 64), np.uint64))
    found = np.empty(len(starts) - 1, np.uint64)
    for first, last in blocks(starts[1:]):
        begin = int(starts[first])
        text = pretokens[begin : min(int(starts[last]), begin + BLOCK_BYTES)]
        sums = np.zeros(len(text) + 1, np.uint64)
        np.cumsum((text + np.uint64(1)) * powers[: len(text)], out=sums[1:])
        places = np.minimum(starts[first : last + 1] - begin, len(text))
        hashes = (sums[places[1:]] - sums[places[:-1]]) * inverses[places[:-1]]
        found[first:last] = (hashes ^ (hashes >> np.uint64(32))) * np.uint64(_ODD)
    return found


def _write_in_order(file: BinaryIO, pretokens: NDArray[np.uint8], starts: Ints, sizes: Ints) -> None:
    import numpy as np

    for first, last in blocks(np.cumsum(sizes)):
        if last == first + 1:
            file.write(pretokens[starts[first] : starts[first] + sizes[first]].data)
            continue
        here = sizes[first:last]
        ends = np.cumsum(here)
        file.write(pretokens[np.repeat(starts[first:last] - (ends - here), here) + np.arange(ends[-1])].data)
