"""How a source is counted, under a limit of memory; and count_words: text -> a file of counts, at any size.

A table of the distinct pretokens that nears the limit is written to disk and begun anew (`bpetok.countruns`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from bpetok import memory
from bpetok.counts import COPY_BYTES, TABLE_BYTES, PretokenCounts
from bpetok.errors import DataError, FormatError, MemoryLimitError
from bpetok.patterns import Pattern
from bpetok.text import Text
from bpetok.threads import threads_or_all

if TYPE_CHECKING:
    from bpetok.countruns import Runs

Row = Mapping[str, Any]
Documents = Path | BinaryIO | Text | Iterable[Path | BinaryIO | Text | Row | PretokenCounts]
Source = PretokenCounts | Documents
Progress = Callable[[str, int], object]

_MEMORY_OF_REGEX = 6
"""Bytes of memory for each byte of a file that the `regex` module cuts: bytes, `str` and pieces."""

_MEMORY_PER_BATCH = 32
"""Bytes of memory for each byte of text that is counted at a time: the text, and a table of its own."""

_USUAL_BYTES = 8  # of a pretoken
_LEAST_BATCH, _MOST_BATCH = 1 << 17, 1 << 24
_LEAST_ENTRIES = 1 << 14  # of a run; who has no room for so many would write runs all day


def count_words(
    source: Documents,
    path: str | Path,
    *,
    pattern: Pattern = "gpt4",
    field: str = "text",
    num_threads: int | None = None,
    memory_limit: int | None = None,
    progress: Progress | None = None,
) -> Counted:
    """Counts the pretokens of a source and writes them to a `.counts` file, which `train` takes as it takes the text.

    The files of the parts of a corpus may come from many processes and machines. They are sources here too: so files
    become one, whatever their size.

    Args:
        source: as `bpetok.train`; files of counts must have been cut by this pattern.
        path: the file to write. It appears whole or not at all.
        pattern: as `bpetok.train`.
        field: where a row has its text.
        num_threads: how many count the text, at most; None for as many as this process may use at once.
        memory_limit: how many bytes the whole process may take; None for no limit. Counts that need more are written
            beside the file in runs, and merged at the end; the pretokens then stand in another order than that of their
            first occurrence.
        progress: called now and then with a stage and how much of it was done since the last call: "scan" (bytes of
            files and texts), "spill" (pretokens in runs, or surely to be), "new" (about so many of them are in no
            earlier run), "merge" (those of the runs that were merged). `Forecast` makes one share of the four. An
            exception of its own stops the counting.

    Raises:
        FormatError: the file's name does not end in `.counts`, or a file of counts is none.
        DataError: the source holds no text, or a row is not as it has to be.
        PatternError: the pattern is unknown or does not compile.
        IncompatibleError: a file of counts was cut by another pattern.
        MemoryLimitError: a single text, or the program itself, takes more than the limit.
        OSError: a file cannot be read, or there is no room to write.
    """
    path = Path(path)
    if path.suffix != PretokenCounts.SUFFIX:
        raise FormatError(f"{path}: the suffix must be {PretokenCounts.SUFFIX}, got {path.suffix!r}")
    limit = None if memory_limit is None else Limit(memory_limit, "count-words")
    counts = PretokenCounts(pattern)
    from bpetok.countruns import Runs

    with Runs(path.absolute().parent) as runs:
        spilling = _Spilling(counts, runs, limit, _bytes_of(source), progress or _say_nothing)
        spilling.scanned(0)
        Scan(counts, "count-words", field, num_threads, limit, spilling.scanned).add(source)
        return spilling.write(path)


@dataclass(frozen=True)
class Counted:
    """What `count_words` wrote.

    Attributes:
        pattern: how the text was cut.
        documents: how many texts there were.
        bytes: how many bytes they had.
        pretokens: how many pretokens they were cut into.
        distinct: how many of those are different.
        runs: how many tables did not fit into memory; 0 if all did.
        sources: the files that were counted: of each its name, its size in bytes and its sha256.
    """

    pattern: str
    documents: int
    bytes: int
    pretokens: int
    distinct: int
    runs: int
    sources: list[dict[str, Any]]


_SPILLING, _MERGING, _NEW = 40, 6, 36
"""Work for each pretoken, where scanning a byte takes 1, as measured: to put it into a table and that into a run; to
read it again; and more if it is in no other run: to make room for it and to write it."""


class Forecast:
    """What share of the counting is done, from what its progress tells; and how long all of it will take.

    It knows what is to come by what was: so many pretokens spilled for each byte, so many of them new.

    >>> forecast = Forecast(1000)
    >>> forecast.tell("scan", 250)
    >>> forecast.share, forecast.seconds(2.0)
    (0.25, 8.0)
    >>> forecast.tell("spill", 50)  # so the whole will spill 200, all of which will be merged
    >>> forecast.tell("new", 50)
    >>> round(forecast.share, 3)
    0.129
    """

    def __init__(self, total: int) -> None:
        """`total`: how many bytes there are to scan."""
        self._total = max(total, 1)
        self._done = {"scan": 0, "spill": 0, "new": 0, "merge": 0}
        self._scanned_before_spill = self._last_spill = 0
        self._share_of_new = 0.0

    def tell(self, stage: str, amount: int) -> None:
        """As the progress of `count_words` is told."""
        self._done[stage] += amount
        if stage == "spill":
            self._scanned_before_spill, self._last_spill = min(self._done["scan"], self._total), amount
        elif stage == "new" and self._last_spill > 0:
            self._share_of_new = amount / self._last_spill

    @property
    def share(self) -> float:
        """What share of the whole is done, from 0 to 1."""
        scanned, spilled = min(self._done["scan"], self._total) / self._total, self._done["spill"]
        if scanned == 0:
            return 0.0
        to_spill = spilled * self._total / max(self._scanned_before_spill, 1)
        new = self._done["new"] + self._share_of_new * (to_spill - spilled)
        scanning, merging = self._total + _SPILLING * to_spill, _MERGING * to_spill + _NEW * new
        return (scanned * scanning + self._done["merge"] / max(spilled, 1) * merging) / (scanning + merging)

    def seconds(self, elapsed: float) -> float:
        """How long all of it takes, if so much has passed and it goes on at this pace; 0 where nothing is known."""
        return elapsed / self.share if self.share > 0 else 0.0


class Limit:
    """How much memory the process may take."""

    def __init__(self, most: int, where: str) -> None:
        """`most`: in bytes; `where`: who asks, for messages."""
        import numpy  # noqa: F401  takes memory itself, so before it is measured

        self.most = most
        self._where = where
        self._base = memory.in_use()
        room = max(most - self._base, 0)
        self.batch_bytes = min(max(room // (4 * _MEMORY_PER_BATCH), _LEAST_BATCH), _MOST_BATCH)
        self.entries = room // (TABLE_BYTES + COPY_BYTES + 3 * _USUAL_BYTES)  # of a table that fills the memory, about

    def left(self) -> int:
        """How many bytes may still be taken."""
        return self.most - memory.in_use()

    def is_near(self, counts: PretokenCounts) -> bool:
        """Whether the counts must be written away before more text is counted."""
        entries, bytes_ = len(counts), counts.distinct_bytes
        used = self._base + TABLE_BYTES * entries + bytes_
        if memory.tells_now():
            used = memory.in_use()
        more = COPY_BYTES * entries + 2 * bytes_ + _MEMORY_PER_BATCH * self.batch_bytes
        near = used + more > self.most
        if near and entries < _LEAST_ENTRIES:
            raise self.exceeded(f"{used:,} are in use, and at least {more:,} more are needed")
        return near

    def exceeded(self, why: str) -> MemoryLimitError:
        """The error of work that needs more."""
        return MemoryLimitError(
            f"{self._where}: memory must stay under {self.most:,} bytes of the whole process, but {why}",
            hint="allow more, or cut the text by a named pattern",
        )


class Scan:
    """Counts all documents of a source, whatever they are.

    Args:
        counts: what to add them to.
        where: who asks, for messages.
        field: where a row has its text.
        num_threads: at most so many.
        limit: how much memory there is; None for enough.
        scanned: told of the bytes counted since the last time. It may take the counts away.
        refuse_counts: raises if there must be no counts among the documents.
    """

    def __init__(
        self,
        counts: PretokenCounts,
        where: str,
        field: str,
        num_threads: int | None,
        limit: Limit | None,
        scanned: Callable[[int], object],
        refuse_counts: Callable[[], None] = lambda: None,
    ) -> None:
        """See the class."""
        threads_or_all(num_threads)
        self._counts, self._where, self._field, self._num_threads = counts, where, field, num_threads
        self._limit, self._scanned, self._refuse_counts = limit, scanned, refuse_counts
        self._batch_bytes = None if limit is None else limit.batch_bytes

    def add(self, source: Documents) -> None:
        """Counts the documents of a source.

        Raises:
            DataError: it is none, or a row is not as it has to be.
            TypeError: it is of another type.
        """
        from bpetok import sources

        for are_files, group in groupby(_documents(source, self._where), key=_is_file):
            if are_files:
                for file in cast(Iterable[Path | BinaryIO | PretokenCounts], group):
                    self._add_file(file)
                continue
            self._counts.add_batches(
                sources.texts_of(cast(Iterable[Text | Row], group), self._field),
                num_threads=self._num_threads,
                batch_bytes=self._batch_bytes,
                progress=self._scanned,
            )

    def _add_file(self, file: Path | BinaryIO | PretokenCounts) -> None:
        if isinstance(file, PretokenCounts) or (isinstance(file, Path) and file.suffix == PretokenCounts.SUFFIX):
            self._refuse_counts()
        if isinstance(file, PretokenCounts):
            self._counts.merge(file)
            self._scanned(0)
            return
        if isinstance(file, Path) and file.is_dir():
            from bpetok import sources

            for inside in sources.expand([file]):
                self._add_file(inside)
            return
        if isinstance(file, Path):
            self._check_memory_of(file)
        self._counts.add_file(
            file,
            field=self._field,
            num_threads=self._num_threads,
            batch_bytes=self._batch_bytes,
            progress=self._scanned,
        )

    def _check_memory_of(self, file: Path) -> None:
        """Refuses a file that is read whole and is larger than memory."""
        from bpetok import sources

        if self._limit is None or file.suffix == PretokenCounts.SUFFIX or sources.is_rows(file):
            return
        more = {None: _MEMORY_OF_REGEX, "none": 2}.get(self._counts.split.scanner, 0) * file.stat().st_size
        if more > self._limit.left():
            raise self._limit.exceeded(f"{file} takes at least {more:,} more")


class _Spilling:
    """Counts that go to disk whenever they fill the memory."""

    def __init__(self, counts: PretokenCounts, runs: Runs, limit: Limit | None, total: int, report: Progress) -> None:
        self._counts, self._runs, self._limit, self._total, self._report = counts, runs, limit, total, report
        self._scanned = self._told = self._pretokens = 0

    def scanned(self, amount: int) -> None:
        """Goes on, or writes a run."""
        self._report("scan", amount)
        self._scanned += amount
        if self._limit is not None and self._limit.is_near(self._counts):
            self._spill()
        elif len(self._runs) == 0 and self._will_spill():
            self._tell(len(self._counts), len(self._counts))

    def _will_spill(self) -> bool:
        """Whether there will be a run if it goes on like this, so that a forecast need not wait for the first."""
        limit, counts = self._limit, self._counts
        return limit is not None and limit.entries * self._scanned < len(counts) * self._total

    def _spill(self) -> None:
        entries = len(self._counts)
        self._pretokens += self._counts.total
        new = self._runs.add(self._counts.take().to_arrays())
        memory.give_back()
        self._tell(entries, new)
        self._told = 0

    def _tell(self, entries: int, new: int) -> None:
        """Of a table that is a run, or will be one, but for what was told of it before."""
        self._report("spill", entries - self._told)
        self._report("new", new - self._told)
        self._told = entries

    def write(self, path: Path) -> Counted:
        """Writes all that was counted."""
        from bpetok import countfiles

        counts = self._counts
        if len(self._runs) == 0:
            countfiles.write(counts, path)
            return self._counted(counts.total, len(counts))
        assert self._limit is not None
        self._spill()
        room = self._limit.left() - _MEMORY_PER_BATCH * _LEAST_BATCH
        merged = self._runs.merged(room, lambda amount: self._report("merge", amount))
        distinct = countfiles.write_parts(counts, path, merged)
        return self._counted(self._pretokens, distinct)

    def _counted(self, pretokens: int, distinct: int) -> Counted:
        counts = self._counts
        return Counted(
            str(counts.split), counts.documents, counts.bytes, pretokens, distinct, len(self._runs), counts.sources
        )


def _documents(source: Documents, where: str) -> Iterable[Any]:
    if isinstance(source, Mapping) or hasattr(source, "columns"):
        raise DataError(
            f"{where}: a source must be texts, files or rows, got {type(source).__name__} of {_names_in(source)}",
            hint="give one split, or one column",
        )
    if isinstance(source, str) and len(source) < 256 and "\n" not in source and os.path.isfile(source):
        raise DataError(
            f"{where}: the whole source must be more than the name of a file, got {source!r}",
            hint=f"pathlib.Path({source!r}) is the file; a str is text",
        )
    if not isinstance(source, Iterable | Path) and not _is_file(source):
        raise TypeError(f"{where}: a source must be texts, files, rows or counts, got {source!r:.80}")
    return [source] if isinstance(source, Text) or _is_file(source) else cast(Iterable[Any], source)


def _bytes_of(source: Documents) -> int:
    """How many bytes the files among the documents have, as far as that is known before they are asked for."""
    documents = source if isinstance(source, list | tuple) else [source]
    return sum(one.stat().st_size for one in documents if isinstance(one, Path) and one.is_file())


def _is_file(document: object) -> bool:
    return isinstance(document, Path | PretokenCounts) or hasattr(document, "read")


def _names_in(source: object) -> str:
    return ", ".join(map(str, getattr(source, "columns", source)))[:80]  # type: ignore[call-overload]


def _say_nothing(stage: str, amount: int) -> None:
    return None
