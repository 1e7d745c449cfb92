"""The bytes of shards: `.bin` files of ids in llm.c's format, and Megatron's `.idx` beside each.

| file | holds |
|---|---|
| `train_000000.bin` | 256 little-endian int32 (magic, version, number of ids, zeros), then the ids: uint16, or uint32 |
| `train_000000.idx` | where each document of that file begins, and how many ids of it the file holds |

Ids are uint32 where the vocabulary has more than 65,536 of them. An index's pointers count bytes from the beginning of
the `.bin`, so its first document begins at byte 1024, behind llm.c's header: one pair of files serves both. A document
that the end of a file cuts is a sequence in either.

Source: karpathy/llm.c, `dev/data/data_common.py` (uint16: magic 20240520, version 1; uint32: 20240801, version 7);
NVIDIA/Megatron-LM, `megatron/core/datasets/indexed_dataset.py` (codes of the types: 4 is int32, 8 is uint16; it has
none for uint32, and ids are far below 2^31, so int32 reads the same bytes).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpetok.errors import CorruptionError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SPLITS = ("train", "val")
HEADER_BYTES = 1024
MAX_SHARD_TOKENS = (1 << 29) - 512  # so that a file stays under 2 GiB with either width of id
WIDTHS = {"uint16": 2, "uint32": 4}
_HEADERS = {"uint16": (20240520, 1), "uint32": (20240801, 7)}

INDEX_MAGIC = b"MMIDIDX\x00\x00"
INDEX_HEADER_BYTES = 34  # magic, version, type, number of sequences, number of documents
_INDEX_HEADER = struct.Struct("<QBQQ")
_INDEX_VERSION = 1
_INDEX_TYPES = {"uint16": 8, "uint32": 4}
_ENTRIES_AT_ONCE = 1 << 20


def dtype_for(vocab_size: int) -> str:
    """The type that holds every id below `vocab_size`: "uint16" or "uint32"."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


def bin_name(split: str, number: int) -> str:
    """The name of a split's file of ids."""
    return f"{split}_{number:06d}.bin"


def index_name(file: str) -> str:
    """The name of the index beside a file of ids."""
    return f"{file.removesuffix('.bin')}.idx"


def bin_header(dtype: str, tokens: int) -> bytes:
    """The 1,024 bytes before the ids."""
    magic, version = _HEADERS[dtype]
    return struct.pack("<3i", magic, version, tokens).ljust(HEADER_BYTES, b"\0")


def bin_bytes(dtype: str, tokens: int) -> int:
    """How long a file of ids is."""
    return HEADER_BYTES + tokens * WIDTHS[dtype]


def index_bytes(sequences: int) -> int:
    """How long an index is: a length and a pointer for each sequence, and a document boundary more."""
    return INDEX_HEADER_BYTES + sequences * (4 + 8 + 8) + 8


def index_parts(dtype: str, lengths: NDArray[np.int32]) -> Iterator[bytes]:
    """The bytes of an index, piece by piece.

    Args:
        dtype: of the ids.
        lengths: how many ids each sequence of the file has, shape (sequences,).
    """
    import numpy as np

    count = len(lengths)
    yield INDEX_MAGIC + _INDEX_HEADER.pack(_INDEX_VERSION, _INDEX_TYPES[dtype], count, count + 1)
    yield lengths.astype("<i4", copy=False).tobytes()
    begin = HEADER_BYTES
    for first in range(0, count, _ENTRIES_AT_ONCE):
        sizes = lengths[first : first + _ENTRIES_AT_ONCE].astype(np.int64) * WIDTHS[dtype]
        ends = begin + np.cumsum(sizes)
        yield (ends - sizes).astype("<i8").tobytes()
        begin = int(ends[-1])
    for first in range(0, count + 1, _ENTRIES_AT_ONCE):
        yield np.arange(first, min(first + _ENTRIES_AT_ONCE, count + 1), dtype="<i8").tobytes()


def map_ids(path: Path, dtype: str, tokens: int) -> NDArray[np.unsignedinteger[Any]]:
    """The ids of a file, memory-mapped, shape (tokens,).

    Raises:
        CorruptionError: the file is missing, or its size or header is not as it has to be.
    """
    import numpy as np

    _check_size(path, bin_bytes(dtype, tokens))
    with open(path, "rb") as file:
        found, expected = file.read(HEADER_BYTES), bin_header(dtype, tokens)
    if found != expected:
        numbers = [struct.unpack("<3i", header[:12]) for header in (expected, found)]
        raise CorruptionError(f"{path}: the header must begin with {numbers[0]} and zeros, got {numbers[1]}")
    return np.memmap(path, np.dtype(dtype).newbyteorder("<"), "r", HEADER_BYTES, (tokens,))


def map_index(path: Path, dtype: str, sequences: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The lengths of a file's sequences, and the bytes at which they begin, memory-mapped, shape (sequences,) each.

    Raises:
        CorruptionError: the file is missing, or its size or header is not as it has to be.
    """
    import numpy as np

    _check_size(path, index_bytes(sequences))
    with open(path, "rb") as file:
        found = file.read(INDEX_HEADER_BYTES)
    expected = INDEX_MAGIC + _INDEX_HEADER.pack(_INDEX_VERSION, _INDEX_TYPES[dtype], sequences, sequences + 1)
    if found != expected:
        raise CorruptionError(f"{path}: the header must be {expected.hex()}, got {found.hex()}")
    lengths = np.memmap(path, "<i4", "r", INDEX_HEADER_BYTES, (sequences,))
    begins = np.memmap(path, "<i8", "r", INDEX_HEADER_BYTES + 4 * sequences, (sequences,))
    return lengths, begins


def _check_size(path: Path, size: int) -> None:
    if not path.is_file():
        raise CorruptionError(f"{path}: is named in the manifest but is not there")
    if path.stat().st_size != size:
        raise CorruptionError(
            f"{path}: must be {size:,} bytes long, got {path.stat().st_size:,}",
            hint="the file was cut or added to; make the shards again, or copy them anew",
        )
