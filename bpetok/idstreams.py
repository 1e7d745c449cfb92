"""Ids that come as bytes, from a file or a pipe: decimal numbers, or little-endian uint32."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

from bpetok.errors import DataError
from bpetok.streams import CHUNK_BYTES, chunks_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


_BETWEEN = bytes.maketrans(b",[]()", b"     ")


def read_decimal(file: BinaryIO) -> Iterator[list[int]]:
    """The ids of decimal numbers with blanks, newlines or commas between them; brackets around them do not matter.

    Raises:
        DataError: something else stands there; names its place.
    """
    rest = b""
    words = 0
    for chunk in chunks_of(file):
        text = rest + chunk.translate(_BETWEEN)
        whole = max(text.rfind(blank) for blank in (b" ", b"\n", b"\t", b"\r")) + 1
        rest = text[whole:]
        ids = _decimal(text[:whole].split(), words)
        words += len(ids)
        yield ids
    yield _decimal(rest.split(), words)


def _decimal(words: list[bytes], before: int) -> list[int]:
    for i, word in enumerate(words, start=before + 1):
        if not word.isdigit() or len(word) > 20:
            hint = "the ids alone are read: without --json" if word.startswith(b"{") else None
            raise DataError(f"ids: word {i} must be a decimal id, got {word[:40]!r}", hint=hint)
    return [int(word) for word in words]


def read_binary(file: BinaryIO) -> Iterator[NDArray[np.uint32]]:
    """The ids of little-endian uint32.

    Raises:
        DataError: the last one is cut off.
    """
    import numpy as np

    rest = b""
    for chunk in chunks_of(file, CHUNK_BYTES):
        data = rest + chunk
        whole = len(data) // 4 * 4
        rest = data[whole:]
        yield np.frombuffer(data[:whole], "<u4").astype(np.uint32, copy=False)
    if rest:
        raise DataError(f"ids: must be whole uint32 of 4 bytes, got {len(rest)} bytes at the end")
