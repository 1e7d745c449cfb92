"""Sources in pieces: how they are read, and what one worker takes at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice
from typing import Literal, NamedTuple, Protocol, cast

from bpetok.errors import DataError

HEAD_BYTES = 1 << 16
"""So much of a document's beginning decides by its hash whether the document validates."""


@dataclass(frozen=True)
class Reading:
    """How sources are read.

    Attributes:
        field: where a row has its text.
        separator: text files are split at the lines that are exactly this; a "\\r" before their "\\n" does not count.
            None: a text file is one document.
        scanner: the core's scanner of the tokenizer's pattern, by which a long text may be cut where pretokens end;
            None or "none": a text must not be cut.
        cut_at_lines: a long text is cut only before a "\\n", so that a special token that holds none stays whole. Not
            without a scanner.
        on_error: whether a bad row is an error, or is left out and listed.
        unit_bytes: how much a worker takes at a time, about. Where units begin depends on it.

    Raises:
        DataError: the separator is not one line, or another attribute is out of range.
    """

    field: str = "text"
    separator: str | None = None
    scanner: str | None = None
    cut_at_lines: bool = False
    on_error: Literal["raise", "skip"] = "raise"
    unit_bytes: int = 4 << 20

    def __post_init__(self) -> None:
        """Refuses what is out of range."""
        if self.separator is not None and ("\n" in self.separator or "\r" in self.separator):
            raise DataError(f"sources: the separator must be one line without its end, got {self.separator!r}")
        if self.on_error not in ("raise", "skip"):
            raise DataError(f'sources: on_error must be "raise" or "skip", got {self.on_error!r}')
        if self.unit_bytes < 1:
            raise DataError(f"sources: unit_bytes must be at least 1, got {self.unit_bytes}")


class Part(NamedTuple):
    """A document, or a part of one.

    Attributes:
        position: where the document begins in its source.
        offset: where the part begins in its document.
        text: the part.
        ends: whether it ends the document.
    """

    position: int
    offset: int
    text: bytes
    ends: bool


@dataclass(slots=True)
class Batch:
    """What a unit holds.

    Attributes:
        source: number of the source among the sources.
        texts: each is a document; the first and the last may be parts of one. None is empty: an empty document is
            no document.
        positions: where each text's document begins in its source: its byte in the unpacked source (of a `.jsonl` row,
            its line's), or the row's number from 0.
        offset: where the first text begins in its document.
        begins: whether the first text begins its document.
        ends: whether the last text ends its document.
        head: the first `HEAD_BYTES` of the first text's document, where the first text does not hold them itself.
        skipped: bad rows that were left out, as "file:line: why".
    """

    source: int = 0
    texts: list[bytes] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    offset: int = 0
    begins: bool = True
    ends: bool = True
    head: bytes = b""
    skipped: list[str] = field(default_factory=list)

    def parts(self) -> Iterator[Part]:
        """The texts with their places."""
        last = len(self.texts) - 1
        for i, (position, text) in enumerate(zip(self.positions, self.texts, strict=True)):
            yield Part(position, 0 if i else self.offset, text, i < last or self.ends)


class Contents(Protocol):
    """What a unit says of where its batch comes from; picklable."""

    def read(self) -> Batch:
        """The batch; its source's number is not known here."""


class Held(Contents, Protocol):
    """Contents that hold what they give."""

    def digest(self) -> int:
        """A hash of it."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A piece of a source, for one worker; picklable.

    Attributes:
        source: number of the source among the sources.
        number: of the unit, in its source.
        weight: bytes of `Source.size` that it stands for. All of a source's are together that size.
        load: bytes of text that it holds, about.
        where: for messages.
        contents: what reads it.
    """

    source: int
    number: int
    weight: int
    load: int
    where: str
    contents: Contents

    def read(self) -> Batch:
        """What the unit holds.

        Raises:
            DataError: a row is bad, or the file is not what it was. Names file and line.
            OSError: the file cannot be read.
        """
        batch = self.contents.read()
        batch.source = self.source
        return batch

    def digest(self) -> int:
        """A hash of what the unit holds, where it holds it itself, as those of streams do."""
        return cast(Held, self.contents).digest()


class Outline(NamedTuple):
    """What one has to know of a document to see whether it validates.

    Attributes:
        position: where it begins in its source.
        head: its first `HEAD_BYTES`.
        size: its bytes.
    """

    position: int
    head: bytes
    size: int


class Source(ABC):
    """Where documents come from.

    Attributes:
        number: of the source, among the sources.
        name: as the user wrote it.
        reading: how it is read.
        size: its bytes where it lies; None where that is not known.
        stamp: the same for the same contents; "" for streams.
        begins: where its units begin, in bytes of `size`; None where that is not known before reading.
        divisible: whether its units may go to different parts of a build; no document is in two of them then.
    """

    number: int
    name: str
    reading: Reading
    size: int | None = None
    stamp: str = ""
    begins: Sequence[int] | None = None
    divisible: bool = False

    @abstractmethod
    def units(self, start: int = 0) -> Iterator[Unit]:
        """The source in pieces, in order; those before number `start` are left out.

        Raises:
            DataError: a packed file is damaged, or a stream was read before.
            OSError: the source cannot be read.
        """

    def peek(self) -> Iterator[Unit]:
        """The same, also of a stream: what is read will be there again for `units`."""
        return self.units()

    def outlines(self) -> Iterator[Outline]:
        """The documents, as far as it takes to see which of them validate. Streams as in `peek`."""
        for unit in self.peek():
            for part in unit.read().parts():
                yield Outline(part.position, part.text[:HEAD_BYTES], len(part.text))

    def text_from(self, position: int, start: int) -> Iterator[bytes]:
        """The text of the document that begins at `position`, in pieces, from its byte `start` on."""
        for unit in self.peek():
            for part in unit.read().parts():
                if part.position == position:
                    yield part.text[start:]
                    return


@dataclass(frozen=True, slots=True)
class UnitGroup:
    """Units that one worker takes together.

    Attributes:
        units: one, or several small ones.
        after: the source and unit at which the next group begins; behind the last source where there is none.
    """

    units: tuple[Unit, ...]
    after: tuple[int, int]


def units_of(
    sources: Sequence[Source], cursor: tuple[int, int] = (0, 0), part: tuple[int, int] = (0, 1)
) -> Iterator[UnitGroup]:
    """The units of the sources, in order, small ones together up to `Reading.unit_bytes`.

    Args:
        sources: as `open_sources` gives them.
        cursor: the source and unit to begin at: the `after` of an earlier group, of the same sources read alike.
        part: `(i, n)` for the units that begin in the i-th of n equal shares of all bytes, i from 0. What is not to be
            torn, a whole text, a packed file or a stream, is where it begins.

    Raises:
        DataError: one part of several was asked for and a source's size is not known; or as `Source.units`.
    """
    group: list[Unit] = []
    load = 0
    for unit in _units(sources, cursor, part):
        if group and load + unit.load > sources[unit.source].reading.unit_bytes:
            yield UnitGroup(tuple(group), (unit.source, unit.number))
            group, load = [], 0
        group.append(unit)
        load += unit.load
    if group:
        yield UnitGroup(tuple(group), (len(sources), 0))


def _units(sources: Sequence[Source], cursor: tuple[int, int], part: tuple[int, int]) -> Iterator[Unit]:
    for source, (first, stop) in zip(sources, _shares(sources, part), strict=True):
        if (source.number, 0) < (cursor[0], 0):
            continue
        start = max(first, cursor[1]) if source.number == cursor[0] else first
        if stop is None or start < stop:
            yield from islice(source.units(start), None if stop is None else stop - start)


def _shares(sources: Sequence[Source], part: tuple[int, int]) -> list[tuple[int, int | None]]:
    """Of each source the first unit of the part and the first behind it, None where that is the end."""
    index, count = part
    if not 0 <= index < count:
        raise DataError(f"sources: the part must be in 0 to {count - 1}, got {index}")
    if count == 1:
        return [(0, None)] * len(sources)
    sizes = []
    for source in sources:
        if source.size is None:
            raise DataError(
                f"{source.name}: a source must have a known size to be read in {count} parts",
                hint="give files, or read it in one part",
            )
        sizes.append(source.size)
    total = sum(sizes)
    low, high = total * index // count, total * (index + 1) // count
    shares: list[tuple[int, int | None]] = []
    for source, base in zip(sources, accumulate(sizes, initial=0), strict=False):
        if source.divisible and source.begins is not None:
            shares.append((bisect_left(source.begins, low - base), bisect_left(source.begins, high - base)))
        else:
            shares.append((0, None if low <= base < high else 0))
    return shares
