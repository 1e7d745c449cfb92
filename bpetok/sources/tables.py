"""Rows of tables, and documents that Python holds: parquet files, Hugging Face datasets, any iterable."""

from __future__ import annotations

import sys
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from bpetok import _core
from bpetok.errors import DataError, MissingExtraError
from bpetok.sources.opening import Location
from bpetok.sources.rows import MOST_TOLD, NOT_TOLD, text_of_item, text_of_row
from bpetok.sources.units import Batch, Reading, Source, Unit

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile


def add_row(batch: Batch, row: object, number: int, reading: Reading, name: str) -> None:
    """Adds the text of a row, if it has any; or what is wrong with it, if that is wanted.

    Args:
        batch: takes it.
        row: a document, a text or a row.
        number: the row's, from 0; messages count from 1.
        reading: how the source is read.
        name: the source's, for messages.

    Raises:
        DataError: the row is bad.
        TypeError: it is none of these.
    """
    try:
        text = text_of_item(row, reading.field, f"{name}:{number + 1}")
    except DataError as error:
        if reading.on_error == "raise":
            raise
        batch.skipped.append(error.message if len(batch.skipped) < MOST_TOLD else NOT_TOLD)
        return
    if text:
        batch.positions.append(number)
        batch.texts.append(text)


# ---- parquet ---------------------------------------------------------------------------------------------------------


def require_pyarrow() -> Any:
    """pyarrow, with what reads parquet.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("data") from error
    return pyarrow


def open_parquet(file: BinaryIO, field: str, name: str) -> ParquetFile:
    """A parquet file that has the field.

    Raises:
        MissingExtraError: pyarrow is not installed.
        DataError: it is no parquet file, or has no such field.
    """
    pyarrow = require_pyarrow()
    try:
        opened: ParquetFile = pyarrow.parquet.ParquetFile(file)
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the system; pyarrow's own have none
            raise
        raise DataError(f"{name}: must be a parquet file: {error}") from error
    names = opened.schema_arrow.names
    if field not in names:
        text_of_row(dict.fromkeys(names), field, name)
    return opened


def parquet_texts(opened: ParquetFile, groups: range, field: str, name: str) -> Iterator[object]:
    """The values of a field, in order.

    Raises:
        DataError: the file is damaged.
    """
    pyarrow = require_pyarrow()
    try:
        for batch in opened.iter_batches(columns=[field], batch_size=1024, row_groups=list(groups)):
            yield from batch.column(0).to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError(f"{name}: must be a whole parquet file, got a damaged one: {error}") from error


@dataclass(frozen=True, slots=True)
class RowGroups:
    """Some row groups of a parquet file; `row` is the number of their first row."""

    location: Location
    reading: Reading
    groups: range
    row: int

    def read(self) -> Batch:
        """Their documents."""
        batch = Batch()
        field, name = self.reading.field, self.location.name
        with self.location.open() as file:
            texts = parquet_texts(open_parquet(file, field, name), self.groups, field, name)
            for number, text in enumerate(texts, start=self.row):
                add_row(batch, {field: text}, number, self.reading, name)
        return batch


class Parquet(Source):
    """A parquet file. A unit is a row group, or several small ones."""

    divisible = True

    def __init__(self, number: int, location: Location, reading: Reading) -> None:
        """Reads what the file says of its row groups.

        Raises:
            DataError: it is no parquet file, or has no such field.
            MissingExtraError: pyarrow is not installed.
            OSError: it cannot be read.
        """
        self.number, self.name, self.reading, self._location = number, location.name, reading, location
        size, self.stamp = location.measure()
        if size is None:
            raise DataError(f"{self.name}: a parquet file must be one that can be entered anywhere")
        self.size = size
        with location.open() as file:
            about = open_parquet(file, reading.field, self.name).metadata
            groups = [about.row_group(i) for i in range(about.num_row_groups)]
        self._rows = [0, *accumulate(group.num_rows for group in groups)]
        loads = [_bytes_of_column(group, reading.field) for group in groups]
        self._firsts = _bundles(loads, reading.unit_bytes)
        self._loads = [sum(loads[first:stop]) for first, stop in pairwise(self._firsts)]
        rows = max(1, self._rows[-1])
        self.begins = [size * self._rows[first] // rows for first in self._firsts[:-1]]

    def units(self, start: int = 0) -> Iterator[Unit]:
        """See `Source`. Reads nothing."""
        weights = [end - begin for begin, end in pairwise(chain(self.begins or (), [self.size or 0]))]
        for number, (first, stop) in enumerate(pairwise(self._firsts)):
            if number >= start:
                where = f"{self.name}, rows {self._rows[first] + 1:,} to {self._rows[stop]:,}"
                contents = RowGroups(self._location, self.reading, range(first, stop), self._rows[first])
                yield Unit(self.number, number, weights[number], self._loads[number], where, contents)


def _bytes_of_column(group: Any, field: str) -> int:
    columns = (group.column(i) for i in range(group.num_columns))
    return sum(column.total_uncompressed_size for column in columns if column.path_in_schema == field)


def _bundles(loads: list[int], size: int) -> list[int]:
    """Where bundles of neighbours begin whose loads are together about `size` at most, and the end."""
    firsts, load = [0], 0
    for i, more in enumerate(loads):
        if i > firsts[-1] and load + more > size:
            firsts.append(i)
            load = 0
        load += more
    return [*firsts, len(loads)] if loads else [0]


# ---- what Python holds -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Texts:
    """A batch that the calling process made; `Unit.read` gives it as it is."""

    texts: list[bytes]
    positions: list[int]
    skipped: list[str]

    def read(self) -> Batch:
        """The batch."""
        return Batch(texts=self.texts, positions=self.positions, skipped=self.skipped)

    def digest(self) -> int:
        """See `Held`."""
        sizes = b"".join(len(text).to_bytes(8, "little") for text in self.texts)
        return _core.xxh64(sizes + b"".join(self.texts) + repr(self.skipped).encode("utf-8", "surrogatepass"))


class Rows(Source):
    """A Hugging Face `Dataset`: its rows, many at a time.

    The calling process reads them, since a dataset that is held in memory would travel to the workers whole.
    """

    divisible = True

    def __init__(self, number: int, dataset: Any, reading: Reading) -> None:
        """`dataset` is a `datasets.Dataset`.

        Raises:
            DataError: it has no such column.
        """
        self.number, self.name, self.reading = number, _name_of(dataset), reading
        self.stamp = str(dataset._fingerprint)
        custom = dataset.format["type"] == "custom"  # a function of the user's own that may make the text
        if not custom:
            if reading.field not in dataset.column_names:
                text_of_row(dict.fromkeys(dataset.column_names), reading.field, self.name)
            dataset = dataset.with_format(None).select_columns([reading.field])
        self._dataset, self._count = dataset, len(dataset)
        in_table = max(1, dataset.data.num_rows)
        size = self.size = dataset.data.nbytes * self._count // in_table
        self._step = max(1, reading.unit_bytes * self._count // max(1, size))
        self.begins = [size * row // self._count for row in range(0, self._count, self._step)]

    def units(self, start: int = 0) -> Iterator[Unit]:
        """See `Source`."""
        for number, (begin, end) in enumerate(pairwise(chain(self.begins or (), [self.size or 0]))):
            if number >= start:
                row = number * self._step
                stop = min(row + self._step, self._count)
                batch = Batch()
                for i, text in enumerate(self._dataset[row:stop][self.reading.field], start=row):
                    add_row(batch, {self.reading.field: text}, i, self.reading, self.name)
                where = f"{self.name}, rows {row + 1:,} to {stop:,}"
                contents = Texts(batch.texts, batch.positions, batch.skipped)
                yield Unit(self.number, number, end - begin, sum(map(len, batch.texts)), where, contents)


def _name_of(dataset: Any) -> str:
    parts = [getattr(dataset, "builder_name", None) or "dataset", getattr(dataset, "split", None)]
    return " ".join(str(part) for part in parts if part is not None)


class Items(Source):
    """Documents, texts or rows that an iterable gives; the calling process reads them."""

    def __init__(self, number: int, items: Iterable[object], reading: Reading, name: str) -> None:
        """`items`: may be gone through once, or again and again."""
        self.number, self.name, self.reading = number, name, reading
        self._items = items
        self._kept: _Kept | None = None
        self._spent = False

    def units(self, start: int = 0) -> Iterator[Unit]:
        """See `Source`. What is before `start` is read and dropped."""
        yield from (unit for unit in self._units(keep=False) if unit.number >= start)

    def peek(self) -> Iterator[Unit]:
        """See `Source`."""
        return self._units(keep=True)

    def _units(self, keep: bool) -> Iterator[Unit]:
        number = row = load = weight = 0
        batch = Batch()
        for row, one in enumerate(self._batches_of_one(keep), start=1):
            batch.texts += one.texts
            batch.positions += one.positions
            batch.skipped += one.skipped
            load += sum(map(len, one.texts))
            if load >= self.reading.unit_bytes:
                yield self._unit(number, weight, row, load, batch)
                number, weight, load, batch = number + 1, row, 0, Batch()
        if batch.texts or batch.skipped:
            yield self._unit(number, weight, row, load, batch)

    def _unit(self, number: int, first: int, stop: int, load: int, batch: Batch) -> Unit:
        where = f"{self.name}, rows {first + 1:,} to {stop:,}"
        return Unit(self.number, number, load, load, where, Texts(batch.texts, batch.positions, batch.skipped))

    def _batches_of_one(self, keep: bool) -> Iterator[Batch]:
        items = iter(self._items)
        if items is not self._items:
            return self._read(items, 0)
        if self._spent:
            raise DataError(f"{self.name}: what can be gone through once was read before", hint="give a list")
        self._spent = not keep
        if self._kept is None:
            if not keep:
                return self._read(items, 0)
            self._kept = _Kept()
        return self._kept.go_on(self._read(items, self._kept.count), keep)

    def _read(self, items: Iterator[object], first: int) -> Iterator[Batch]:
        for number, item in enumerate(items, start=first):
            batch = Batch()
            add_row(batch, item, number, self.reading, self.name)
            yield batch


class _Kept:
    """Batches of one row each that were read to look ahead, in a temporary file."""

    def __init__(self) -> None:
        self._file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115  # lives as long as this object
        weakref.finalize(self, self._file.close)
        self._ends = 0
        self.count = 0

    def go_on(self, batches: Iterator[Batch], keep: bool) -> Iterator[Batch]:
        """What was kept, then what comes; that is kept too if it is wanted."""
        place = 0
        for number in range(self.count):
            batch, place = self._get(place, number)
            yield batch
        for batch in batches:
            if keep:
                self._put(batch)
            yield batch
        if not keep:
            self._file.close()

    def _put(self, batch: Batch) -> None:
        kind, contents = (1, batch.skipped[0].encode(errors="replace")) if batch.skipped else (0, b"".join(batch.texts))
        self._file.seek(self._ends)
        self._ends += self._file.write(bytes([kind]) + len(contents).to_bytes(8, "little") + contents)
        self.count += 1

    def _get(self, place: int, number: int) -> tuple[Batch, int]:
        self._file.seek(place)
        lead = self._file.read(9)
        contents = self._file.read(int.from_bytes(lead[1:], "little"))
        batch = Batch()
        if lead[0]:
            batch.skipped.append(contents.decode())
        elif contents:
            batch.texts.append(contents)
            batch.positions.append(number)
        return batch, place + 9 + len(contents)


def python_source(number: int, given: object, reading: Reading) -> Source:
    """A dataset, or an iterable of documents, texts or rows.

    Raises:
        DataError: it is several splits, or a dataset without the column.
        TypeError: it is nothing of the kind.
    """
    if isinstance(given, Mapping):
        raise DataError(
            f"sources: a source must be files, texts or rows, got a {type(given).__name__} of "
            + ", ".join(map(repr, sorted(map(str, given))))[:80],
            hint="give one split",
        )
    datasets = sys.modules.get("datasets")
    if datasets is not None and isinstance(given, datasets.Dataset):
        return Rows(number, given, reading)
    if hasattr(given, "columns"):
        raise DataError(
            f"sources: a source must be files, texts or rows, got a {type(given).__name__}", hint="give one column"
        )
    if isinstance(given, bytes | bytearray | memoryview) or not isinstance(given, Iterable):
        raise TypeError(f"sources: a source must be files, texts or rows, got {type(given).__name__}")
    return Items(number, given, reading, _name_of(given) if hasattr(given, "builder_name") else type(given).__name__)
