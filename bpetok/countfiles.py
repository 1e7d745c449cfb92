"""Files of counts, `.counts`: what training needs to know of a part of a corpus, to be merged with other parts.

A file is an archive of numpy's arrays, as `numpy.load` reads it (without pickle):

| name | type | holds |
|---|---|---|
| `about` | uint8 | JSON: format, version, pattern, unicode, documents, bytes, sources |
| `pretokens` | uint8 | the bytes of the distinct pretokens, one behind the other |
| `sizes` | int64 | how many bytes each of them has |
| `counts` | int64 | how often each of them occurs |

The pretokens stand in order of first occurrence, unless there were more than memory had room for: then in an order that
their bytes decide. Nothing that is made from a file depends on the order.
"""

from __future__ import annotations

import errno
import io
import json
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import NoneType
from typing import IO, TYPE_CHECKING, Any

from bpetok import _core, files, patterns
from bpetok.countruns import blocks
from bpetok.counts import PretokenCounts
from bpetok.errors import CorruptionError, FormatError, IncompatibleError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VERSION = 1
_KEYS: dict[str, tuple[type, ...]] = {
    "pattern": (str, list, NoneType),
    "unicode": (str, NoneType),
    "documents": (int,),
    "bytes": (int,),
    "sources": (list,),
}
_ARRAYS = {"pretokens": "uint8", "sizes": "int64", "counts": "int64"}
_MOST_ABOUT = 1 << 26
_MOST_BYTES = 1 << 46  # of an array; so no sum of sizes leaves 64 bits
_BLOCK_ENTRIES = 1 << 16
_BLOCK_BYTES = 1 << 22


# ---- writing -----------------------------------------------------------------------------------------------------


def write(counts: PretokenCounts, path: Path) -> None:
    """Writes the counts; the file appears whole or not at all.

    Raises:
        FormatError: the name does not end in `.counts`.
    """
    write_parts(counts, path, [counts.core])


def write_parts(about: PretokenCounts, path: Path, parts: Iterable[_core.PretokenCounts]) -> int:
    """Writes tables that have no pretoken in common as one file; how many pretokens that are.

    Memory: a table and a copy of it. Takes room on disk beside the file for its parts, until it is whole.

    Args:
        about: what the file is to say of them; its own table is not written.
        path: the file.
        parts: the tables, which may be made one after the other.

    Raises:
        FormatError: the name does not end in `.counts`.
    """
    if path.suffix != PretokenCounts.SUFFIX:
        raise FormatError(f"{path}: the suffix must be {PretokenCounts.SUFFIX}, got {path.suffix!r}")
    written = files.partial(path)
    try:
        with ExitStack() as stack:
            # A file says first how long an array is, so all have to be known before it begins.
            spools = [stack.enter_context(tempfile.TemporaryFile(dir=path.parent)) for _ in _ARRAYS]
            for part in parts:
                _spool(part, spools)
                del part  # before the next one is made
            entries = spools[1].tell() // 8
            archive = stack.enter_context(zipfile.ZipFile(written, "w"))
            head = _head(about)
            _add_array(archive, "about", "uint8", io.BytesIO(head), len(head))
            for spool, (name, kind) in zip(spools, _ARRAYS.items(), strict=True):
                size = spool.tell()
                spool.seek(0)
                _add_array(archive, name, kind, spool, size)
        files.publish(written, path)
    finally:
        written.unlink(missing_ok=True)
    return entries


def _spool(part: _core.PretokenCounts, spools: Sequence[IO[bytes]]) -> None:
    arrays: tuple[NDArray[Any], ...] = part.to_arrays()
    for spool, array in zip(spools, arrays, strict=True):
        spool.write(array.data)


def _head(counts: PretokenCounts) -> bytes:
    about = {
        "format": "bpetok counts",
        "version": VERSION,
        "pattern": counts.split.regex,
        "unicode": counts.split.unicode_version,
        "documents": counts.documents,
        "bytes": counts.bytes,
        "sources": counts.sources,
    }
    return json.dumps(about, sort_keys=True).encode()


def _add_array(archive: zipfile.ZipFile, name: str, kind: str, contents: IO[bytes], size: int) -> None:
    import numpy as np

    item = np.dtype(kind)
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
        about = {"descr": item.str, "fortran_order": False, "shape": (size // item.itemsize,)}
        np.lib.format.write_array_header_1_0(member, about)
        shutil.copyfileobj(contents, member, 1 << 20)


# ---- reading -----------------------------------------------------------------------------------------------------


def read(path: Path) -> PretokenCounts:
    """Reads the counts.

    Raises:
        FormatError: the file is in another format, or of a later version, or contradicts itself.
        CorruptionError: it is not as it was written.
        IncompatibleError: its pattern went by other Unicode data than here.
        OSError: it cannot be read.
    """
    with opened(path) as file:
        counts = PretokenCounts(file.split.regex)
        counts.add_counts(file)
    return counts


class CountFile:
    """A file of counts that is read block by block; made by `opened`.

    Attributes:
        path: the file.
        split: the pattern that cut the pretokens.
        documents: how many texts were counted.
        bytes: how many bytes they had.
        sources: the files that were counted.
    """

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        """Reads what the file says of itself; raises anything that a file somebody has tampered with may lead to."""
        self.path = path
        self._archive = archive
        member, size = self._open("about", "uint8")
        if size > _MOST_ABOUT:
            raise ValueError(f"about must have at most {_MOST_ABOUT:,} bytes, got {size:,}")
        about = json.loads(member.read(size))
        _to_end(member, "about")
        head = {"format": "bpetok counts", "version": VERSION}
        if {key: about.get(key) for key in head} != head:
            raise ValueError(f"about must begin with {head}, got {about!r:.80}")
        for key, kinds in _KEYS.items():
            if not isinstance(about[key], kinds):
                raise TypeError(f"{key} must be of {kinds}, got {about[key]!r:.80}")
        self.split = patterns.resolve(tuple(regex) if isinstance(regex := about["pattern"], list) else regex)
        self.documents: int = about["documents"]
        self.bytes: int = about["bytes"]
        self.sources: list[dict[str, Any]] = [dict(source) for source in about["sources"]]
        self.unicode_version: str | None = about["unicode"]

    def blocks(self) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]]:
        """The pretokens in blocks: their bytes, sizes and counts. Raises as `opened`, at the end if not before."""
        with _blamed_on(self.path):
            members = {name: self._open(name, kind) for name, kind in _ARRAYS.items()}
            (pretokens, left), (sizes, size), (counts, size_of_counts) = members.values()
            if size != size_of_counts:
                raise ValueError("there must be a size and a count for each pretoken")
            for first in range(0, size, _BLOCK_ENTRIES):
                many = min(_BLOCK_ENTRIES, size - first)
                here, times = _ints(sizes, many), _ints(counts, many)
                if int(here.min()) < 1 or int(here.max()) > left or (sum_ := int(here.sum())) > left:
                    raise ValueError("sizes must be those of the pretokens")
                if (least := int(times.min())) < 1:
                    raise ValueError(f"a count must be at least 1, got {least}")
                left -= sum_
                for begin, end in blocks(here.cumsum(), _BLOCK_BYTES):
                    yield _bytes(pretokens, int(here[begin:end].sum())), here[begin:end], times[begin:end]
            if left:
                raise ValueError("there must be a size and a count for each pretoken")
            for name, (member, _) in members.items():
                _to_end(member, name)

    def _open(self, name: str, kind: str) -> tuple[IO[bytes], int]:
        """An array of the archive, where its items begin; and how many there are."""
        from numpy.lib import format as npy

        member = self._archive.open(f"{name}.npy")
        version = npy.read_magic(member)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"{name} must be an array of numpy's format 1.0 or 2.0, got {version}")
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read_header(member)
        if dtype != kind or len(shape) != 1:
            raise ValueError(f"{name} must be a list of {kind}, got {dtype}, shape {shape}")
        if not 0 <= shape[0] * dtype.itemsize <= _MOST_BYTES:
            raise ValueError(f"{name} must have at most 2^46 bytes, got shape {shape}")
        return member, shape[0]


@contextmanager
def opened(path: Path) -> Iterator[CountFile]:
    """A file of counts, opened to be read block by block.

    Raises:
        FormatError: the file is in another format, or of a later version, or contradicts itself.
        CorruptionError: it is not as it was written. The end of a file may show that.
        IncompatibleError: its pattern went by other Unicode data than here.
        OSError: it cannot be read.
    """
    with open(path, "rb") as contents, ExitStack() as stack:
        if not zipfile.is_zipfile(contents):
            raise FormatError(f"{path}: must be a file of counts, got one that is no archive")
        with _blamed_on(path):
            file = CountFile(path, stack.enter_context(zipfile.ZipFile(contents)))
        if file.split.unicode_version != file.unicode_version:
            raise IncompatibleError(
                f"{path}: unicode must be {file.split.unicode_version} as here, got {file.unicode_version}"
            )
        yield file


# What zipfile, numpy, json and our own checks raise at files that somebody has tampered with.
_WRONG = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    zlib.error,
)


@contextmanager
def _blamed_on(path: Path) -> Iterator[None]:
    """Errors of reading as errors of the file."""
    try:
        yield
    except zipfile.BadZipFile as error:
        raise CorruptionError(f"{path}: {error}", hint="the file was altered") from error
    except _WRONG as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # a place that no file has
            raise
        raise FormatError(f"{path}: must be a file of counts, got {type(error).__name__}: {error}") from error


def _bytes(member: IO[bytes], size: int) -> NDArray[np.uint8]:
    import numpy as np

    data = member.read(size)
    if len(data) != size:
        raise EOFError(f"an array must not end early, got {len(data)} bytes of {size}")
    return np.frombuffer(data, np.uint8)


def _ints(member: IO[bytes], many: int) -> NDArray[np.int64]:
    import numpy as np

    return np.frombuffer(_bytes(member, 8 * many), "<i8").astype(np.int64, copy=False)


def _to_end(member: IO[bytes], name: str) -> None:
    """Makes sure that an array ends where it says; only there its checksum is compared."""
    if member.read(1):
        raise ValueError(f"{name} must end where it says, got more")
