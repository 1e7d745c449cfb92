"""Files of text and of lines: plain ones, which are entered anywhere, and what can only be read from its beginning."""

from __future__ import annotations

import io
import tempfile
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, pairwise
from typing import BinaryIO, Protocol, TypeVar, cast

from bpetok import _core
from bpetok.errors import DataError
from bpetok.sources import units
from bpetok.sources.opening import Kind, Location, Watched, contents_of, is_url, kind_of, read_at
from bpetok.sources.packing import ahead
from bpetok.sources.places import Nowhere, first_place, pieces, places_of, separator_lines
from bpetok.sources.rows import texts_of_lines
from bpetok.sources.units import Batch, Outline, Reading, Source, Unit

_AHEAD_UNITS = 4
_WINDOW_BYTES = 1 << 20

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of a source that is text or lines, between two places where it may be cut.

    Attributes:
        form: ".jsonl" or ".txt".
        reading: how the source is read.
        name: the source's.
        data: the bytes.
        position: where they begin in the unpacked source.
        ends: whether they end it.
        head: see `Batch`.
        lines: how many lines stand before them, where that is known.
    """

    form: str
    reading: Reading
    name: str
    data: bytes
    position: int
    ends: bool
    head: bytes = b""
    lines: int = 0

    def read(self) -> Batch:
        """The documents, or the part of one."""
        if self.form == ".jsonl":
            return rows_of(self, lambda: self.lines)
        if self.reading.separator is not None:
            return separated(self)
        if not self.data:
            return Batch()
        head = b"" if self.position == 0 and (self.ends or len(self.data) >= units.HEAD_BYTES) else self.head
        return Batch(
            texts=[self.data],
            positions=[0],
            offset=self.position,
            begins=self.position == 0,
            ends=self.ends,
            head=head,
        )

    def digest(self) -> int:
        """See `Held`."""
        return _core.xxh64(self.data)


def rows_of(piece: Piece, lines_before: Callable[[], int] | None) -> Batch:
    """The documents of whole lines of JSON."""
    batch = Batch()
    skipped = batch.skipped if piece.reading.on_error == "skip" else None
    found = texts_of_lines(piece.data, piece.position, piece.reading.field, piece.name, lines_before, skipped)
    for position, text in found:
        batch.positions.append(position)
        batch.texts.append(text)
    return batch


def separated(piece: Piece) -> Batch:
    """The documents between separator lines, of a piece that begins behind one."""
    batch = Batch()
    separator = (piece.reading.separator or "").encode()
    lines = separator_lines(piece.data, separator, at_beginning=True, at_end=piece.ends)
    begin = 0
    for start, end in chain(lines, [(len(piece.data), len(piece.data))]):
        if begin < start:
            batch.positions.append(piece.position + begin)
            batch.texts.append(piece.data[begin:start])
        begin = end
    return batch


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of a plain file: what begins from byte `start` to before `stop`, of `size` in all."""

    location: Location
    form: str
    reading: Reading
    start: int
    stop: int
    size: int

    def read(self) -> Batch:
        """The documents that begin in it, or the part of one between the places at its two ends."""
        with self.location.open() as file:
            read = partial(_read_from, file, self.location.name)
            places = places_of(self.form, self.reading)
            begin = first_place(places, read, self.start, self.stop, self.size)
            if begin is None:
                return Batch()
            end = first_place(places, read, self.stop, self.size, self.size)
            end = self.size if end is None else end
            head = b""
            if _is_whole(self.form, self.reading) and (begin > 0 or end < self.size):
                head = read(0, min(units.HEAD_BYTES, self.size))
            data = read(begin, end)
            piece = Piece(self.form, self.reading, self.location.name, data, begin, end == self.size, head)
            if self.form == ".jsonl":
                counted = self.reading.on_error == "raise"
                return rows_of(piece, (lambda: _lines_before(read, begin)) if counted else None)
            return piece.read()


def _read_from(file: BinaryIO, name: str, start: int, stop: int) -> bytes:
    return read_at(file, start, stop, name)


def _lines_before(read: Callable[[int, int], bytes], place: int) -> int:
    starts = range(0, place, _WINDOW_BYTES)
    return sum(read(start, min(start + _WINDOW_BYTES, place)).count(b"\n") for start in starts)


def _is_whole(form: str, reading: Reading) -> bool:
    """Whether a file is one document."""
    return form == ".txt" and reading.separator is None


class PlainFile(Source):
    """A file of text or lines that can be entered anywhere."""

    def __init__(self, number: int, location: Location, form: str, size: int, stamp: str, reading: Reading) -> None:
        """`form`: ".jsonl" or ".txt"."""
        self.number, self.name, self.size, self.stamp, self.reading = number, location.name, size, stamp, reading
        self.divisible = not _is_whole(form, reading)
        step = max(1, size) if isinstance(places_of(form, reading), Nowhere) else reading.unit_bytes
        self.begins = self._begins = range(0, size, step)
        self._location, self._form, self._bytes = location, form, size

    def units(self, start: int = 0) -> Iterator[Unit]:
        """See `Source`. Reads nothing."""
        for number, (begin, end) in enumerate(pairwise(chain(self._begins, [self._bytes]))):
            if number >= start:
                where = f"{self.name}, bytes {begin:,} to {end:,}"
                contents = Stretch(self._location, self._form, self.reading, begin, end, self._bytes)
                yield Unit(self.number, number, end - begin, end - begin, where, contents)

    def outlines(self) -> Iterator[Outline]:
        """See `Source`. Of a whole text only the head is read."""
        if self.divisible:
            yield from super().outlines()
        elif self._bytes:
            yield Outline(0, self._location.read(0, min(units.HEAD_BYTES, self._bytes)), self._bytes)

    def text_from(self, position: int, start: int) -> Iterator[bytes]:
        """See `Source`. Of a whole text nothing before `start` is read."""
        if self.divisible:
            yield from super().text_from(position, start)
            return
        with self._location.open() as file:
            for begin in range(start, self._bytes, _WINDOW_BYTES):
                yield read_at(file, begin, min(begin + _WINDOW_BYTES, self._bytes), self.name)


# ---- what is read from its beginning ---------------------------------------------------------------------------------


class Readable(Protocol):
    """What can be read and closed."""

    def read(self, size: int, /) -> bytes:
        """At most so many bytes; none at the end."""

    def close(self) -> None:
        """Ends it."""


class Streamed(Source):
    """Text or lines that can only be read from the beginning: a packed file, a pipe, what a server sends.

    The calling process reads and unpacks it (in a thread that is at most four units ahead); its units hold their bytes.
    """

    def __init__(
        self,
        number: int,
        name: str,
        kind: Kind,
        opened: Callable[[bool], Readable],
        reading: Reading,
        size: int | None = None,
        stamp: str = "",
    ) -> None:
        """`opened(keep)` opens it at its beginning; `keep` tells that it will be opened once more."""
        self.number, self.name, self.reading, self.size, self.stamp = number, name, reading, size, stamp
        self._kind, self._opened = kind, opened

    def units(self, start: int = 0) -> Iterator[Unit]:
        """See `Source`. What is before `start` is read and dropped."""
        yield from self._units(start, keep=False)

    def peek(self) -> Iterator[Unit]:
        """See `Source`."""
        yield from self._units(0, keep=True)

    def _units(self, start: int, keep: bool) -> Iterator[Unit]:
        made = self._made(keep)
        with closing(ahead(made, _AHEAD_UNITS) if self._kind.packing else made) as found:
            yield from (unit for unit in found if unit.number >= start)

    def _made(self, keep: bool) -> Generator[Unit]:
        whole = _is_whole(self._kind.form, self.reading)
        places = places_of(self._kind.form, self.reading)
        number = lines = taken = 0
        with closing(self._opened(keep)) as file:
            watched = Watched(file)
            chunks: Iterator[bytes] = contents_of(watched, self._kind.packing, self.name)
            head, chunks = _head_of(chunks) if whole else (b"", chunks)
            found = pieces(chunks, places, self.reading.unit_bytes)
            for (position, data), ends in _with_last(found):
                piece = Piece(self._kind.form, self.reading, self.name, data, position, ends, head, lines)
                weight = (self.size if ends and self.size is not None else watched.taken) - taken
                line_ends = data.count(b"\n")
                yield Unit(self.number, number, weight, len(data), self._where(piece, line_ends), piece)
                number, lines, taken = number + 1, lines + line_ends, taken + weight
        if number == 0 and self.size:  # packed nothing
            empty = Piece(self._kind.form, self.reading, self.name, b"", 0, True)
            yield Unit(self.number, 0, self.size, 0, self.name, empty)

    def _where(self, piece: Piece, line_ends: int) -> str:
        if piece.form == ".jsonl":
            more = not piece.data.endswith(b"\n")
            return f"{self.name}, lines {piece.lines + 1:,} to {piece.lines + line_ends + more:,}"
        unpacked = " when unpacked" if self._kind.packing else ""
        return f"{self.name}, bytes {piece.position:,} to {piece.position + len(piece.data):,}{unpacked}"

    def _chunks(self) -> Iterator[bytes]:
        with closing(self._opened(True)) as file:
            yield from contents_of(file, self._kind.packing, self.name)

    def outlines(self) -> Iterator[Outline]:
        """See `Source`. Of a whole text never more than its head is held."""
        if not _is_whole(self._kind.form, self.reading):
            yield from super().outlines()
            return
        head, chunks = _head_of(self._chunks())
        if size := sum(map(len, chunks)):
            yield Outline(0, head, size)

    def text_from(self, position: int, start: int) -> Iterator[bytes]:
        """See `Source`. Of a whole text never more than a chunk is held."""
        if not _is_whole(self._kind.form, self.reading):
            yield from super().text_from(position, start)
            return
        seen = 0
        for chunk in self._chunks():
            if seen + len(chunk) > start:
                yield chunk[max(0, start - seen) :]
            seen += len(chunk)


def _with_last(items: Iterable[T]) -> Iterator[tuple[T, bool]]:
    """The items, and of each whether it is the last."""
    held: list[T] = []
    for item in items:
        yield from ((one, False) for one in held)
        held = [item]
    yield from ((one, True) for one in held)


def _head_of(chunks: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """The first bytes of a text, and all of it."""
    first = bytearray()
    for chunk in chunks:
        first += chunk
        if len(first) >= units.HEAD_BYTES:
            break
    return bytes(first[: units.HEAD_BYTES]), chain([bytes(first)], chunks)


class Once:
    """A stream that can be read once; what is read of it before that, to look ahead, is kept in a temporary file."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        """`file` is read from where it stands."""
        self._file, self._name = file, name
        self._kept: BinaryIO | None = None
        self._size = 0
        self._spent = False

    def __call__(self, keep: bool) -> Readable:
        """Opens it at its beginning; without `keep` for the last time.

        Raises:
            DataError: it was opened for the last time before.
        """
        if self._spent:
            raise DataError(f"{self._name}: a stream can be read only once", hint="give the name of a file")
        self._spent = not keep
        if self._kept is None and keep:
            self._kept = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115  # lives as long as this object
            weakref.finalize(self, self._kept.close)
        return _Again(self, keep)

    def read_at(self, place: int, size: int, keep: bool) -> bytes:
        """At most `size` bytes from a place up to which all was read before."""
        if self._kept is not None and place < self._size:
            self._kept.seek(place)
            return self._kept.read(min(size, self._size - place))
        data = self._file.read(size)
        if keep and self._kept is not None:
            self._kept.seek(self._size)
            self._kept.write(data)
            self._size += len(data)
        return data

    def end(self) -> None:
        """Drops what was kept, once it was read for the last time."""
        if self._spent and self._kept is not None:
            self._kept.close()
            self._kept = None


@dataclass(slots=True)
class _Again:
    """A stream from its beginning."""

    once: Once
    keep: bool
    place: int = 0

    def read(self, size: int, /) -> bytes:
        data = self.once.read_at(self.place, size, self.keep)
        self.place += len(data)
        return data

    def close(self) -> None:
        self.once.end()


def text_source(number: int, location: Location, kind: Kind, reading: Reading) -> Source:
    """A file of text or lines, here or at a URL.

    Raises:
        OSError: there is no such file.
    """
    size, stamp = location.measure()
    if size is not None and kind.packing is None:
        return PlainFile(number, location, kind.form, size, stamp, reading)
    if size is None and not is_url(location.name):  # a pipe with a name
        once = Once(file := location.open(), location.name)
        weakref.finalize(once, file.close)
        return Streamed(number, location.name, kind, once, reading)
    return Streamed(number, location.name, kind, lambda keep: location.open(), reading, size, stamp)


def stream_source(number: int, file: BinaryIO, reading: Reading) -> Source:
    """A file or pipe that is open for reading bytes; its name, if it has one, says what it holds.

    Raises:
        DataError: it is open for reading text.
    """
    name = str(getattr(file, "name", "a stream"))
    if hasattr(file, "encoding"):
        raise DataError(f"{name}: a file must be open for reading bytes, got one of text", hint='open(…, "rb")')
    kind = kind_of(name)
    if kind.packing and not isinstance(file, io.BufferedReader | io.RawIOBase):  # what unpacks it has its name too
        kind = replace(kind, packing=None)
    return Streamed(number, name, kind, Once(file, name), reading)
