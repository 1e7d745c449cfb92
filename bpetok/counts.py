"""PretokenCounts: how often each distinct pretoken occurs, all that training needs to know of a corpus.

Counts of the parts of a corpus merge, in any order, to those of the whole.

>>> counts = PretokenCounts("gpt2")
>>> counts.add_text("to be or not to be")
>>> sorted(counts.items())
[(b' be', 2), (b' not', 1), (b' or', 1), (b' to', 1), (b'to', 1)]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from bpetok import _core, patterns, sources
from bpetok.errors import IncompatibleError
from bpetok.streams import CHUNK_BYTES, Window, chunks_of
from bpetok.text import Text, as_bytes, no_text
from bpetok.threads import threads_or_all

Progress = Callable[[int], object]

BATCH_BYTES = 1 << 24
"""So much text at a time is worth several threads."""


class PretokenCounts:
    """Mergeable counts of pretokens under one split pattern."""

    def __init__(self, pattern: str | None = "gpt4") -> None:
        """`pattern`: a name, a regular expression, or None for no split."""
        self.split = patterns.resolve(pattern)
        self.core = _core.PretokenCounts()
        self.documents = 0
        self.bytes = 0

    def __len__(self) -> int:
        """How many distinct pretokens there are."""
        return len(self.core)

    @property
    def total(self) -> int:
        """How many pretokens there are, repeated ones each time."""
        return self.core.total

    def items(self) -> list[tuple[bytes, int]]:
        """Each distinct pretoken and its count, in order of first occurrence."""
        return self.core.items()

    def add_text(self, text: Text) -> None:
        """Counts the pretokens of a whole text."""
        from bpetok.reference import split

        data = as_bytes(text)
        self.documents += 1
        self.bytes += len(data)
        if self.split.scanner is not None:
            self.core.add_text(self.split.scanner, data)
            return
        for pretoken in split(self.split.regex, data):
            self.core.add(pretoken)

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
        scanner = self.split.scanner
        if scanner is None:
            for text in texts:
                self.add_text(text)
            return
        done = 0

        def on_progress(bytes_: int) -> None:
            nonlocal done
            if progress is not None:
                progress(bytes_ - done)
            done = bytes_

        self.bytes += self.core.add_texts(scanner, texts, threads_or_all(num_threads), on_progress)
        self.documents += len(texts)

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
        self, path: Path, *, field: str = "text", num_threads: int | None = None, progress: Progress | None = None
    ) -> None:
        """Counts the pretokens of a text file, or of each row of a `.jsonl` file.

        Args:
            path: the file.
            field: where a row has its text.
            num_threads: as `add_texts`.
            progress: called now and then with the bytes read since the last call.

        Raises:
            DataError: a row is not as it has to be; names file and line.
            OSError: the file cannot be read.
        """
        if sources.is_rows(path):
            for texts in batches(document.text for document in sources.read_rows(path, field)):
                self.add_texts(texts, num_threads=num_threads, progress=progress)
            return
        threads = threads_or_all(num_threads)
        with open(path, "rb") as file:
            chunks = chunks_of(file, CHUNK_BYTES if threads == 1 else BATCH_BYTES)
            self.add_chunks(_reported(chunks, progress or (lambda _: None)), num_threads=threads)

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


def batches(texts: Iterable[Text]) -> Iterator[list[Text]]:
    """Texts in lists long enough for several threads. Raises TypeError where one is no text."""
    batch: list[Text] = []
    size = 0
    for text in texts:
        if not isinstance(text, Text):
            raise no_text(text)
        batch.append(text)
        size += len(text)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _reported(chunks: Iterable[bytes], report: Progress) -> Iterator[bytes]:
    for chunk in chunks:
        yield chunk
        report(len(chunk))
