"""PretokenCounts: how often each distinct pretoken occurs, all that training needs to know of a corpus.

Counts of the parts of a corpus merge, in any order, to those of the whole.

>>> counts = PretokenCounts("gpt2")
>>> counts.add_text("to be or not to be")
>>> sorted(counts.items())
[(b' be', 2), (b' not', 1), (b' or', 1), (b' to', 1), (b'to', 1)]
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from bpetok import _core, patterns
from bpetok.errors import DataError, IncompatibleError
from bpetok.streams import CHUNK_BYTES, Window, chunks_of
from bpetok.text import Text, as_bytes, no_text
from bpetok.threads import threads_or_all

if TYPE_CHECKING:
    from bpetok.countfiles import CountFile

Progress = Callable[[int], object]

BATCH_BYTES = 1 << 24
"""So much text at a time is worth several threads."""

TABLE_BYTES = 56
"""Bytes of memory that a table takes for each pretoken, at most, besides the bytes of long ones."""

COPY_BYTES = 40
"""Bytes of memory that it takes besides to write a table to a run, or to let it grow."""

_PER_COUNT = 16  # bytes of a file of counts for each pretoken, besides the pretoken


class PretokenCounts:
    """Mergeable counts of pretokens under one split pattern.

    Attributes:
        split: the pattern.
        documents: how many texts were counted.
        bytes: how many bytes they had.
        sources: the files that were counted: of each its name, its size in bytes and its sha256.
    """

    SUFFIX = ".counts"

    def __init__(self, pattern: patterns.Pattern = "gpt4") -> None:
        """`pattern`: a name, a regular expression, several one after the other, or None for no split."""
        self.split = patterns.resolve(pattern)
        self.core = _core.PretokenCounts()
        self.documents = 0
        self.bytes = 0
        self.sources: list[dict[str, Any]] = []

    def __repr__(self) -> str:
        """How many there are, and how they were cut."""
        return f"<PretokenCounts: {self.total:,} pretokens, {len(self):,} distinct, {self.split}>"

    def __len__(self) -> int:
        """How many distinct pretokens there are."""
        return len(self.core)

    def __eq__(self, other: object) -> bool:
        """Whether both have the same counts, cut by the same pattern; in whatever order, from whatever files."""
        if not isinstance(other, PretokenCounts):
            return NotImplemented
        same_size = (self.split, len(self), self.total) == (other.split, len(other), other.total)
        return same_size and dict(self.items()) == dict(other.items())

    __hash__ = None  # type: ignore[assignment]  # counts grow

    def __reduce__(self) -> tuple[object, ...]:
        """Pickles by value."""
        about = {"documents": self.documents, "bytes": self.bytes, "sources": list(self.sources)}
        return _rebuild, (self.split.regex, self.core.to_arrays(), about)

    @property
    def total(self) -> int:
        """How many pretokens there are, repeated ones each time."""
        return self.core.total

    @property
    def distinct_bytes(self) -> int:
        """How many bytes the distinct pretokens have."""
        return self.core.distinct_bytes

    def items(self) -> list[tuple[bytes, int]]:
        """Each distinct pretoken and its count, in order of first occurrence."""
        return self.core.items()

    def add_text(self, text: Text) -> None:
        """Counts the pretokens of a whole text."""
        data = as_bytes(text)
        self.documents += 1
        self.bytes += len(data)
        if self.split.scanner is not None:
            self.core.add_text(self.split.scanner, data)
            return
        times: Counter[Text] = Counter(patterns.pieces(self.split, data))
        for pretoken, count in times.items():
            self.core.add(as_bytes(pretoken), count)

    def add(self, pretoken: bytes, times: int = 1) -> None:
        """Counts a pretoken that was cut elsewhere so many times more.

        Raises:
            DataError: `times` is under 1, the pretoken is empty, or all together would not fit 64 bits.
        """
        if not isinstance(pretoken, bytes):
            raise TypeError(f"counts: a pretoken must be bytes, got {pretoken!r:.80}")
        if not isinstance(times, int) or times >= 1 << 63:
            raise DataError(f"counts: times must be an int under 2^63, got {times!r:.80}")
        self.core.add(pretoken, times)
        self.bytes += len(pretoken) * times

    def add_texts(
        self, texts: Sequence[Text], *, num_threads: int | None = None, progress: Progress | None = None
    ) -> None:
        """Counts the pretokens of many whole texts; the threads share long texts too.

        Args:
            texts: the texts.
            num_threads: at most so many; None for as many as this process may use at once.
            progress: called now and then with the bytes counted since the last call. An exception of its own stops the
                counting; which texts are counted by then is open.
        """
        if isinstance(texts, str | bytes):
            raise TypeError("counts: texts must be a list of texts, got one text")
        scanner = self.split.scanner
        if scanner is None:
            for text in texts:
                before = self.bytes
                self.add_text(text)
                if progress is not None:
                    progress(self.bytes - before)
            return
        done = 0

        def on_progress(bytes_: int) -> None:
            nonlocal done
            if progress is not None:
                progress(bytes_ - done)
            done = bytes_

        self.bytes += self.core.add_texts(scanner, texts, threads_or_all(num_threads), on_progress)
        self.documents += len(texts)

    def add_batches(
        self,
        texts: Iterable[Text],
        *,
        num_threads: int | None = None,
        batch_bytes: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Counts the pretokens of whole texts that come one after the other.

        Args:
            texts: the texts.
            num_threads: as `add_texts`.
            batch_bytes: as `add_file`.
            progress: as `add_file`, with the bytes of texts.
        """
        tell = progress or _say_nothing
        for batch in batches(texts, batch_bytes):
            before = self.bytes
            if batch_bytes is None:
                self.add_texts(batch, num_threads=num_threads, progress=tell)
            elif len(batch[0]) > batch_bytes and self.split.scanner not in (None, "none"):  # and it is alone
                data = as_bytes(batch[0])
                self.add_chunks(_watched(_cut([data], batch_bytes), tell), num_threads=num_threads)
            else:
                self.add_texts(batch, num_threads=num_threads)
                tell(self.bytes - before)

    def add_chunks(self, chunks: Iterable[bytes], *, num_threads: int | None = 1) -> None:
        """Counts the pretokens of one text that comes in chunks, cut anywhere.

        Memory as `Tokenizer.encode_stream`; threads as `add_texts`.
        """
        scanner = self.split.scanner
        if scanner in (None, "none"):
            self.add_text(b"".join(chunks))
            return
        threads = threads_or_all(num_threads)
        window = Window()
        for chunk in chunks:
            self.bytes += len(chunk)
            if window.add(chunk):
                window.drop(self.core.add_stable(scanner, window.text, threads))
        self.bytes -= len(window.text)
        self.add_text(window.text)

    def add_file(
        self,
        file: Path | BinaryIO,
        *,
        field: str = "text",
        num_threads: int | None = None,
        batch_bytes: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Counts a text file, each row of a `.jsonl` or `.parquet` file, or takes the counts of a `.counts` file.

        Files of text and lines may be packed, as their names say: `.gz`, `.zst`, `.xz`, `.bz2`.

        Args:
            file: its path; or a folder, for the text files and the files of rows below it; or a text file or pipe that
                is open for reading bytes.
            field: where a row has its text.
            num_threads: as `add_texts`.
            batch_bytes: how much text to count at a time, which takes up to 30 times as much memory; None for what is
                fastest.
            progress: called now and then with the bytes read since the last call; what was counted by then may be taken
                away (`take`).

        Raises:
            DataError: a row is not as it has to be; names file and line.
            IncompatibleError: the file has counts that were cut by another pattern.
            FormatError, CorruptionError: the file is no file of counts, or not as it was written. A part of it may be
                counted by then.
            OSError: the file cannot be read.
        """
        from bpetok import sources

        tell = progress or _say_nothing
        size = batch_bytes or (CHUNK_BYTES if threads_or_all(num_threads) == 1 else BATCH_BYTES)
        seen = _Seen()

        def told(_: int = 0) -> None:
            tell(seen.since_last())

        if isinstance(file, Path) and file.is_dir():
            for inside in sources.expand([file]):
                self.add_file(inside, field=field, num_threads=num_threads, batch_bytes=batch_bytes, progress=tell)
            return
        if isinstance(file, Path) and file.suffix == self.SUFFIX:
            self._add_count_file(file, tell)
            return
        if isinstance(file, Path) and sources.is_rows(file):
            texts = (document.text for document in sources.read_rows(file, field, seen.add))
            self.add_batches(texts, num_threads=num_threads, batch_bytes=batch_bytes, progress=told)
        elif isinstance(file, Path):
            chunks: Iterator[bytes] = _cut(sources.text_chunks(file, seen.add, size), size)
            self.add_chunks(_watched(chunks, told), num_threads=num_threads)
        else:
            chunks = map(seen.passing, map(as_bytes, chunks_of(file, size)))
            self.add_chunks(_watched(chunks, told), num_threads=num_threads)
        told()
        self.sources.append(seen.source(str(file if isinstance(file, Path) else getattr(file, "name", "a stream"))))

    def _add_count_file(self, path: Path, tell: Progress) -> None:
        from bpetok import countfiles

        with countfiles.opened(path) as file:
            if file.split != self.split:
                raise IncompatibleError(
                    f"{path}: counts must be cut by {self.split}, got {file.split}",
                    hint="train with that pattern, or count the text anew",
                )
            self.add_counts(file, tell)

    def add_counts(self, file: CountFile, progress: Progress | None = None) -> None:
        """Adds the counts of a file, block by block. Its pattern must be this one."""
        assert file.split == self.split
        for pretokens, sizes, counts in file.blocks():
            self.core.add_arrays(pretokens, sizes, counts)
            if progress is not None:
                progress(len(pretokens) + _PER_COUNT * len(sizes))
        self.documents += file.documents
        self.bytes += file.bytes
        self.sources += file.sources

    def take(self) -> _core.PretokenCounts:
        """The counts so far, which are no longer here then; documents, bytes and sources stay."""
        taken, self.core = self.core, _core.PretokenCounts()
        return taken

    def merge(self, other: PretokenCounts) -> None:
        """Adds the counts of another part of the corpus.

        Raises:
            IncompatibleError: the other was cut by another pattern.
        """
        if other.split != self.split:
            raise IncompatibleError(f"counts: both must be cut by one pattern, got {self.split} and {other.split}")
        self.core.merge(other.core)
        self.documents += other.documents
        self.bytes += other.bytes
        self.sources += other.sources

    def save(self, path: str | Path) -> None:
        """Writes a `.counts` file, from which training goes on as from the text itself; see `bpetok.countfiles`.

        Raises:
            FormatError: the name does not end in `.counts`.
        """
        from bpetok import countfiles

        countfiles.write(self, Path(path))

    @classmethod
    def load(cls, path: str | Path) -> PretokenCounts:
        """The counts of a `.counts` file.

        Raises:
            FormatError: it is no such file.
            CorruptionError: it is not as it was written.
        """
        from bpetok import countfiles

        return countfiles.read(Path(path))


def _rebuild(pattern: patterns.Pattern, arrays: tuple[Any, Any, Any], about: dict[str, Any]) -> PretokenCounts:
    counts = PretokenCounts(pattern)
    counts.core.add_arrays(*arrays)
    counts.documents, counts.bytes, counts.sources = about["documents"], about["bytes"], about["sources"]
    return counts


class _Seen:
    """What was read of a file: how much, and its sha256."""

    def __init__(self) -> None:
        self._size, self._told, self._sha256 = 0, 0, hashlib.sha256()

    def add(self, data: bytes) -> None:
        self._size += len(data)
        self._sha256.update(data)

    def passing(self, data: bytes) -> bytes:
        self.add(data)
        return data

    def since_last(self) -> int:
        told, self._told = self._told, self._size
        return self._size - told

    def source(self, name: str) -> dict[str, Any]:
        return {"file": name, "bytes": self._size, "sha256": self._sha256.hexdigest()}


def _say_nothing(amount: int) -> None:
    return None


def _cut(chunks: Iterable[bytes], size: int) -> Iterator[bytes]:
    """The chunks, those that are longer cut to pieces of this size."""
    for chunk in chunks:
        yield from (chunk[begin : begin + size] for begin in range(0, len(chunk), size))


def _watched(chunks: Iterable[bytes], tell: Progress) -> Iterator[bytes]:
    """The chunks; tells of each when it was taken and the next one is asked for."""
    for chunk in chunks:
        yield chunk
        tell(len(chunk))


def batches(texts: Iterable[Text], batch_bytes: int | None = None) -> Iterator[list[Text]]:
    """Texts in lists of about `batch_bytes`, long enough for several threads if None; what is longer is alone.

    Raises:
        TypeError: a text is none.
    """
    enough = batch_bytes or BATCH_BYTES
    batch: list[Text] = []
    size = 0
    for text in texts:
        if not isinstance(text, Text):
            raise no_text(text)
        if batch and size + len(text) > enough:
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += len(text)
    if batch:
        yield batch
