"""Sources: the documents that training and shards are made of, from files, URLs, datasets and Python.

A text file is one document, or one between two separator lines. A `.jsonl` file has a JSON object a line, a `.parquet`
file rows; each has its text in one field. Files of text and lines may be packed: `.gz`, `.zst`, `.xz`, `.bz2`.

| module | thing |
|---|---|
| `opening` | names of files and URLs, folders, patterns |
| `packing` | packed files |
| `rows` | rows and their texts |
| `units` | how sources are read, in pieces for workers |
| `places` | where bytes may be cut |
| `texts`, `tables` | the kinds of sources |
| `hub` | datasets by name |
| `survey` | which documents validate |

>>> from bpetok.sources import open_sources, units_of
>>> [source] = open_sources([["one", {"text": "two"}]])
>>> [unit.read().texts for group in units_of([source]) for unit in group.units]
[[b'one', b'two']]
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from bpetok.errors import DataError
from bpetok.sources.opening import ROWS, Location, Watched, contents_of, expand, kind_of, names_of, text_chunks
from bpetok.sources.rows import BOM, Document, text_of_line, text_of_row, texts_of
from bpetok.streams import chunks_of
from bpetok.text import as_bytes

if TYPE_CHECKING:
    from bpetok.sources.units import HEAD_BYTES, Batch, Outline, Part, Reading, Source, Unit, UnitGroup, units_of

_OF_UNITS = ("HEAD_BYTES", "Batch", "Outline", "Part", "Reading", "Source", "Unit", "UnitGroup", "units_of")

__all__ = [
    "HEAD_BYTES",
    "Batch",
    "Document",
    "Outline",
    "Part",
    "Reading",
    "Source",
    "Unit",
    "UnitGroup",
    "expand",
    "is_rows",
    "open_sources",
    "read_documents",
    "read_rows",
    "text_chunks",
    "texts_of",
    "units_of",
]


def __getattr__(name: str) -> Any:
    """What only shards need is loaded when it is asked for."""
    if name in _OF_UNITS:
        from bpetok.sources import units

        return getattr(units, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def open_sources(given: Sequence[Any], reading: Reading | None = None) -> list[Source]:
    """The sources that are given, in order; nothing but what files say of themselves is read yet.

    Args:
        given: of each: the name of a file (`str` or path) or its URL, which fsspec opens; a folder, for the files of
            text and rows below it; a pattern such as `data/*.jsonl`; a file or pipe that is open for reading bytes; a
            Hugging Face dataset; or an iterable of texts, rows or documents.
        reading: how they are read.

    Raises:
        DataError: there is no such file, or none that can be read.
        MissingExtraError: an optional package is needed that is not installed.
        OSError: a file cannot be read.
        TypeError: one is nothing of the kind.
    """
    from bpetok.sources import units

    reading = reading or units.Reading()
    sources: list[Source] = []
    for one in given:
        if isinstance(one, str | os.PathLike):
            for name in names_of(cast("str | Path", one)):
                sources.append(_source_of_name(len(sources), name, reading))
        elif hasattr(one, "read"):
            from bpetok.sources.texts import stream_source

            sources.append(stream_source(len(sources), one, reading))
        else:
            from bpetok.sources.tables import python_source

            sources.append(python_source(len(sources), one, reading))
    return sources


_NO_TEXT = {
    ".7z",
    ".arrow",
    ".bin",
    ".feather",
    ".gguf",
    ".idx",
    ".json",
    ".npy",
    ".npz",
    ".pdf",
    ".pkl",
    ".pt",
    ".pth",
}
_NO_TEXT |= {".safetensors", ".tar", ".tgz"}


def _check_kind(name: str) -> None:
    """Refuses what surely is no text, by its name: encoded as such it would be worse than an error."""
    rest, suffix = os.path.splitext(name.lower())
    if kind_of(name).packing:
        suffix = os.path.splitext(rest)[1]
    if suffix in _NO_TEXT:
        rows = "rows are read from .jsonl, a JSON object a line: if it is that, call it so"
        raise DataError(
            f"{name}: a source must be text, .jsonl or .parquet, got {suffix}",
            hint=rows if suffix == ".json" else "if it is text, call it .txt",
        )


def _source_of_name(number: int, name: str, reading: Reading) -> Source:
    _check_kind(name)
    kind, location = kind_of(name), Location(name)
    if kind.form == ".parquet":
        from bpetok.sources.tables import Parquet

        return Parquet(number, location, reading)
    from bpetok.sources.texts import text_source

    return text_source(number, location, kind, reading)


# ---- documents one by one --------------------------------------------------------------------------------------------


def is_rows(path: Path) -> bool:
    """Whether the file holds a document a row, by its suffix."""
    return not path.name.lower().endswith(".zip") and kind_of(path.name).form in ROWS


def read_documents(paths: Iterable[Path], *, field: str = "text") -> Iterator[Document]:
    """The documents of the files, in order.

    Raises:
        DataError: a row is no JSON object, or its field is missing or no string. Names file and line.
        OSError: a file cannot be read.
    """
    for path in paths:
        if is_rows(path):
            yield from read_rows(path, field)
        else:
            yield Document(b"".join(text_chunks(path)), str(path))


def read_rows(path: Path, field: str, seen: Callable[[bytes], object] = len) -> Iterator[Document]:
    """The documents of a file of rows. Raises as `read_documents`; MissingExtraError without pyarrow.

    `seen` is told the file's bytes, piece by piece, as they are read.
    """
    return _read_parquet(path, field, seen) if kind_of(path.name).form == ".parquet" else _read_jsonl(path, field, seen)


def _read_jsonl(path: Path, field: str, seen: Callable[[bytes], object]) -> Iterator[Document]:
    with open(path, "rb") as file:
        chunks = contents_of(Watched(file, seen), kind_of(path.name).packing, str(path))
        for number, line in enumerate(_lines(chunks), start=1):
            line = line.removeprefix(BOM) if number == 1 else line
            if line.strip():
                where = f"{path}:{number}"
                yield Document(text_of_line(line, field, where), where)


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    parts: list[bytes] = []
    for chunk in chunks:
        *whole, rest = chunk.split(b"\n")
        for line in whole:
            yield b"".join([*parts, line]) if parts else line
            parts = []
        parts.append(rest)
    if any(parts):
        yield b"".join(parts)


def _read_parquet(path: Path, field: str, seen: Callable[[bytes], object]) -> Iterator[Document]:
    from bpetok.sources.tables import open_parquet, parquet_texts, require_pyarrow

    require_pyarrow()
    with open(path, "rb") as file:
        for chunk in chunks_of(file):  # its rows are read in another order
            seen(chunk)
        file.seek(0)
        opened = open_parquet(cast(BinaryIO, file), field, str(path))
        for number, text in enumerate(parquet_texts(opened, range(opened.num_row_groups), field, str(path)), start=1):
            where = f"{path}:{number}"
            yield Document(as_bytes(text_of_row({field: text}, field, where)), where)
