"""Text that comes in chunks, cut anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

CHUNK_BYTES = 1 << 22


class Window:
    """The part of a stream that is not finished with yet.

    >>> window = Window()
    >>> window.add(b"one two"), window.text
    (True, b'one two')
    >>> window.drop(3)
    >>> window.add(b"!"), window.text  # not worth another look until it has doubled
    (False, b' two!')
    """

    def __init__(self) -> None:
        """Empty."""
        self._parts: list[bytes] = []
        self._bytes = 0
        self._wanted = 0

    def add(self, chunk: bytes) -> bool:
        """Appends a chunk; whether there is so much that another look at the text pays.

        A pretoken that spans many chunks is looked at again only when the text has doubled, so that the whole work
        stays linear.
        """
        self._parts.append(chunk)
        self._bytes += len(chunk)
        return self._bytes >= self._wanted

    @property
    def text(self) -> bytes:
        """All that was added and not dropped."""
        self._parts = [b"".join(self._parts)]
        return self._parts[0]

    def drop(self, covered: int) -> None:
        """Takes away the first bytes, which are finished with."""
        self._parts = [self.text[covered:]]
        self._bytes = len(self._parts[0])
        self._wanted = 2 * self._bytes


def chunks_of(file: BinaryIO, size: int = CHUNK_BYTES) -> Iterator[bytes]:
    """The contents of an open file or pipe, at most `size` bytes at a time."""
    while chunk := file.read(size):
        yield chunk
