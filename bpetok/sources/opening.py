"""Names of files and URLs: what they stand for, how they are opened, and what a name says of a file."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from bpetok.errors import DataError, MissingExtraError
from bpetok.streams import CHUNK_BYTES, chunks_of

if TYPE_CHECKING:
    from bpetok.sources.packing import Readable

PACKINGS = {".gz": "gzip", ".zst": "zstd", ".xz": "xz", ".bz2": "bz2"}
"""What the suffixes mean."""

ROWS = (".jsonl", ".parquet")
"""Of files that hold a document a row."""

_KINDS = (".txt", *ROWS)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*(::[A-Za-z][A-Za-z0-9+.\-]*)*://")
_IN_FOLDERS = "the folder must hold .txt, .jsonl or .parquet files"


@dataclass(frozen=True, slots=True)
class Kind:
    """What a file's name says of it.

    Attributes:
        form: ".jsonl", ".parquet", or ".txt" for whatever is neither.
        packing: "gzip", "zstd", "xz" or "bz2"; None where it is not packed.
        known: whether the name says that it is text or rows; so files in folders are chosen.
    """

    form: str
    packing: str | None
    known: bool


def kind_of(name: str) -> Kind:
    """What a file's name says of it, by its suffixes; their case does not matter.

    >>> kind_of("rows.jsonl.zst")
    Kind(form='.jsonl', packing='zstd', known=True)

    Raises:
        DataError: it says that the file is packed in a way that is not read here.
    """
    rest, suffix = os.path.splitext(name.lower())
    packing = PACKINGS.get(suffix)
    form = os.path.splitext(rest)[1] if packing else suffix
    if suffix == ".zip":
        raise DataError(
            f"{name}: a file must be unpacked, or packed as {', '.join(PACKINGS)}, got .zip",
            hint="unpack it; or pipe it (unzip -p NAME | … -)",
        )
    if packing and form == ".parquet":
        raise DataError(f"{name}: a parquet file must not be packed, got {suffix}", hint="unpack it")
    return Kind(form if form in ROWS else ".txt", packing, form in _KINDS)


def is_url(name: str) -> bool:
    """Whether it is a URL and not the name of a file here."""
    return _URL.match(name) is not None


def filesystem(url: str) -> tuple[Any, str]:
    """fsspec's filesystem for a URL, and the URL's path there.

    Raises:
        MissingExtraError: fsspec is not installed, or what it needs for this kind of URL.
        DataError: there is no such kind of URL.
    """
    try:
        from fsspec.core import url_to_fs  # type: ignore[import-untyped, unused-ignore]

        found: tuple[Any, str] = url_to_fs(url)
    except ImportError as error:
        hint = None if error.name in ("fsspec", "fsspec.core") else str(error)
        raise MissingExtraError("data", hint=hint) from error
    except ValueError as error:
        raise DataError(f"{url}: must be a URL that fsspec can open: {error}") from error
    return found


@dataclass(frozen=True, slots=True)
class Location:
    """A file here or at a URL; picklable."""

    name: str

    def open(self) -> BinaryIO:
        """The file, open for reading bytes.

        Raises:
            OSError: it cannot be opened.
        """
        if is_url(self.name):
            fs, path = filesystem(self.name)
            return cast(BinaryIO, fs.open(path, "rb"))
        return open(self.name, "rb")

    def measure(self) -> tuple[int | None, str]:
        """The file's size in bytes, None where its server does not tell or cannot be entered anywhere; and its stamp.

        Raises:
            OSError: there is no such file.
        """
        if not is_url(self.name):
            about = os.stat(self.name)
            regular = os.path.isfile(self.name)  # a pipe's size says nothing
            return (about.st_size, f"{about.st_size} {about.st_mtime_ns}") if regular else (None, "")
        fs, path = filesystem(self.name)
        with fs.open(path, "rb") as file:
            size = fs.size(path) if file.seekable() else None
        return size, str(fs.ukey(path))

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` to before `stop`.

        Raises:
            DataError: there are fewer, so the file is not what it was.
        """
        with self.open() as file:
            return read_at(file, start, stop, self.name)


def read_at(file: BinaryIO, start: int, stop: int, name: str) -> bytes:
    """The bytes of an open file from `start` to before `stop`. Raises as `Location.read`."""
    file.seek(start)
    parts = []
    left = stop - start
    while left and (data := file.read(left)):
        parts.append(data)
        left -= len(data)
    if left:
        raise DataError(f"{name}: must stay as it is while it is read, got shorter: it ends at byte {stop - left:,}")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def contents_of(file: Readable, packing: str | None, name: str, size: int = CHUNK_BYTES) -> Iterator[bytes]:
    """The unpacked contents of an open file, piece by piece. Raises as `unpacked`.

    `size` is that of the pieces of a plain one.
    """
    if packing is None:
        return chunks_of(cast(BinaryIO, file), size)
    from bpetok.sources.packing import unpacked

    return unpacked(file, packing, name)


class Watched:
    """A file that tells what is read of it.

    Attributes:
        taken: how many bytes were read.
    """

    def __init__(self, file: Readable, seen: Callable[[bytes], object] = len) -> None:
        """`seen` is told each piece."""
        self._file, self._seen = file, seen
        self.taken = 0

    def read(self, size: int, /) -> bytes:
        """At most so many bytes; none at the end."""
        data = self._file.read(size)
        self.taken += len(data)
        self._seen(data)
        return data


def text_chunks(path: Path, seen: Callable[[bytes], object] = len, size: int = CHUNK_BYTES) -> Iterator[bytes]:
    """The text of a file, unpacked where its name says that it is packed, piece by piece.

    Args:
        path: the file.
        seen: is told the file's own bytes, as they are read.
        size: of the pieces of a file that is not packed.

    Raises:
        DataError: a packed file is damaged, or packed in a way that is not read here.
        OSError: the file cannot be read.
    """
    kind = kind_of(path.name)
    with open(path, "rb") as file:
        yield from contents_of(Watched(file, seen), kind.packing, str(path), size)


# ---- folders and patterns --------------------------------------------------------------------------------------------


def expand(paths: Sequence[str | Path]) -> list[Path]:
    """The files named; a folder stands for the files of text and rows below it, packed ones too, sorted by name.

    Hidden files and folders, whose names begin with a dot, are left out.

    Raises:
        DataError: a file is not there, or a folder holds no such file.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            files += _inside(path)
        elif path.exists():
            files.append(path)
        else:
            raise DataError(f"{path}: no such file")
    return files


def _inside(folder: Path) -> list[Path]:
    inside = sorted(file for file in _files_below(folder) if _is_chosen(file.name))
    if not inside:
        raise DataError(f"{folder}: {_IN_FOLDERS}, got none")
    return inside


def _is_chosen(name: str) -> bool:
    return not name.lower().endswith(".zip") and kind_of(name).known


def _files_below(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise error

    for root, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(root) / name for name in names if not name.startswith("."))


def names_of(given: str | Path) -> list[str]:
    """The files that a name stands for: itself, those below a folder, or those that fit a pattern such as `*.jsonl`.

    Raises:
        DataError: there is none.
    """
    name = os.fspath(given)
    if is_url(name):
        return _names_of_url(name)
    if os.path.exists(name) or not _is_pattern(name):
        return [str(file) for file in expand([name])] if os.path.isdir(name) else [_existing(name)]
    from glob import glob

    found = sorted(glob(name, recursive=True))
    if not found:
        raise DataError(f"{name}: no file fits the pattern")
    return [inside for one in found for inside in (map(str, _inside(Path(one))) if os.path.isdir(one) else [one])]


def _existing(name: str) -> str:
    if not os.path.exists(name):
        raise DataError(f"{name}: no such file")
    return name


def _is_pattern(name: str) -> bool:
    return any(sign in name for sign in "*?[")


def _names_of_url(url: str) -> list[str]:
    if "::" in url:  # a file inside another, or behind a cache: fsspec cannot list these
        return [url]
    fs, path = filesystem(url)
    if _is_pattern(url) and not fs.exists(path):
        found = sorted(fs.glob(path))
        if not found:
            raise DataError(f"{url}: no file fits the pattern")
    elif fs.isdir(path):
        found = sorted(one for one in fs.find(path) if _is_chosen(one) and "/." not in one[len(path) :])
        if not found:
            raise DataError(f"{url}: {_IN_FOLDERS}, got none")
    else:
        return [url]
    return [str(fs.unstrip_protocol(one)) for one in found]
