"""The checksum of a file, with marks on the way that tell where one that was altered differs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

BLOCK_BYTES = 1 << 22
MARK_DIGITS = 8
_READ_BYTES = 1 << 18  # stays in the processor's cache


def file_digest(path: Path, progress: Callable[[int], object] | None = None) -> tuple[str, str]:
    """The sha256 of a file, and its marks: the first digits of the sha256 of its first block, two blocks and so on.

    Only whole blocks of 4 MiB have a mark. `progress` is told how many bytes were read since the last call.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    marks = []
    room = memoryview(bytearray(_READ_BYTES))
    size = 0
    with open(path, "rb", buffering=0) as file:
        while read := file.readinto(room[: min(_READ_BYTES, BLOCK_BYTES - size % BLOCK_BYTES)]):
            digest.update(room[:read])
            size += read
            if size % BLOCK_BYTES == 0:
                marks.append(digest.copy().hexdigest()[:MARK_DIGITS])
            if progress is not None:
                progress(read)
    return digest.hexdigest(), "".join(marks)


def first_difference(marks: str, recorded: str) -> int:
    """The first byte of the block in which a file differs from what was recorded of it."""
    for i in range(0, max(len(marks), len(recorded)), MARK_DIGITS):
        if marks[i : i + MARK_DIGITS] != recorded[i : i + MARK_DIGITS]:
            return i // MARK_DIGITS * BLOCK_BYTES
    return len(recorded) // MARK_DIGITS * BLOCK_BYTES
