"""Where the bytes of a source may be cut: at its lines, its separators, or where pretokens surely end.

A place depends on the bytes next to it alone, so whoever looks finds the same ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from bpetok import _core
from bpetok.sources.units import Reading

AHEAD = 4
"""So many bytes behind a place may decide whether it is one."""

_FIRST_LOOK = 1 << 12
_LONGEST_LOOK = 1 << 20


class Places(ABC):
    """One kind of places. The beginning of the source is one always."""

    @property
    def lookback(self) -> int:
        """So many bytes before a place may decide whether it is one."""
        return 1

    @abstractmethod
    def first(self, window: bytes, start: int, at_beginning: bool) -> int:
        """The first place at or behind `start` in a window of the source, -1 if there is none.

        Args:
            window: `lookback` bytes before `start` or more, if the source has them.
            start: at least 1.
            at_beginning: whether the window begins where a line does that nothing is known of before.
        """


@dataclass(frozen=True, slots=True)
class LineBeginnings(Places):
    """Behind each "\\n"."""

    def first(self, window: bytes, start: int, at_beginning: bool) -> int:
        """See `Places`."""
        return window.find(b"\n", start - 1) + 1 or -1


@dataclass(frozen=True, slots=True)
class Separators(Places):
    """Behind each separator line."""

    separator: bytes

    @property
    def lookback(self) -> int:
        """The line, both its ends' bytes, and the "\\n" before it."""
        return len(self.separator) + 3

    def first(self, window: bytes, start: int, at_beginning: bool) -> int:
        """See `Places`."""
        lines = separator_lines(window, self.separator, at_beginning, at_end=False, start=max(0, start - self.lookback))
        return next((end for _, end in lines if end >= start), -1)


def separator_lines(
    window: bytes, separator: bytes, at_beginning: bool, at_end: bool, start: int = 0
) -> Iterator[tuple[int, int]]:
    """Where the separator lines of a window begin and end.

    Args:
        window: a part of the source.
        separator: the line.
        at_beginning: whether a line begins where the window does.
        at_end: whether the window ends where the source does.
        start: a line is found whose "\\n" before it is here or behind.
    """
    for begin in _line_beginnings_with(window, separator, at_beginning, start):
        end = begin + len(separator)
        if window.startswith(b"\n", end):
            yield begin, end + 1
        elif window.startswith(b"\r\n", end):
            yield begin, end + 2
        elif at_end and end == len(window):
            yield begin, end


def _line_beginnings_with(window: bytes, line: bytes, at_beginning: bool, start: int) -> Iterator[int]:
    if at_beginning and start == 0 and window.startswith(line):
        yield 0
    yield from _core.lines_that_begin_with(line, window, start).tolist()


@dataclass(frozen=True, slots=True)
class Borders(Places):
    """Where a pretoken ends whatever stands around it; see `first_sure_border` of the core."""

    scanner: str

    @property
    def lookback(self) -> int:
        """The longest character."""
        return 4

    def first(self, window: bytes, start: int, at_beginning: bool) -> int:
        """See `Places`."""
        found = _core.first_sure_border(self.scanner, window, start)
        return found if found < len(window) else -1


@dataclass(frozen=True, slots=True)
class LineEnds(Places):
    """Before each "\\n" where a pretoken ends whatever stands around it: no special token that holds none is cut."""

    scanner: str
    lookback = 4

    def first(self, window: bytes, start: int, at_beginning: bool) -> int:
        """See `Places`."""
        found = window.find(b"\n", max(start, 1))
        while found >= 0:
            near = window[max(0, found - 4) : found + AHEAD]
            if _core.first_sure_border(self.scanner, near, min(found, 4)) == min(found, 4):
                return found
            found = window.find(b"\n", found + 1)
        return -1


@dataclass(frozen=True, slots=True)
class Nowhere(Places):
    """A text that must not be cut."""

    def first(self, window: bytes, start: int, at_beginning: bool) -> int:
        """See `Places`."""
        return -1


def places_of(kind: str, reading: Reading) -> Places:
    """Where a ".jsonl" or ".txt" source may be cut, so read."""
    if kind == ".jsonl":
        return LineBeginnings()
    if reading.separator is not None:
        return Separators(reading.separator.encode())
    if reading.scanner in (None, "none"):
        return Nowhere()
    scanner = str(reading.scanner)
    return LineEnds(scanner) if reading.cut_at_lines else Borders(scanner)


def first_place(places: Places, read: Callable[[int, int], bytes], start: int, stop: int, size: int) -> int | None:
    """The first place in [start, stop) of a source of known size, None if there is none.

    `read(start, stop)` gives bytes of the source. Memory: a MiB, however far the place is.
    """
    if start == 0:
        return 0
    look = _FIRST_LOOK
    while start < stop:
        end = min(start + look, stop)
        low = max(0, start - places.lookback)
        found = places.first(read(low, min(end + AHEAD, size)), start - low, low == 0)
        if found >= 0 and low + found < end:
            return low + found
        start, look = end, min(2 * look, _LONGEST_LOOK)
    return None


def pieces(chunks: Iterable[bytes], places: Places, size: int) -> Iterator[tuple[int, bytes]]:
    """A source that comes in chunks, cut at the first place at or behind each `size` bytes: where, and what.

    Where it is cut does not depend on the chunks. Memory: a piece and a chunk.
    """
    buffer = bytearray()
    begin, look = 0, size
    for chunk in chunks:
        buffer += chunk
        while len(buffer) > look:
            low = max(0, look - places.lookback)
            found = places.first(bytes(memoryview(buffer)[low:]), look - low, low == 0)
            if found < 0:
                look = max(look, len(buffer) - AHEAD)
                break
            yield begin, bytes(memoryview(buffer)[: low + found])
            del buffer[: low + found]
            begin, look = begin + low + found, size
    if buffer:
        yield begin, bytes(buffer)
