"""Documents: the texts that training and shards are made of, from files and rows.

A text file is one document. A `.jsonl` file has a JSON object a line, a `.parquet` file rows; each has its text in one
field.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bpetok.errors import DataError, MissingExtraError
from bpetok.streams import chunks_of
from bpetok.text import Text, as_bytes


@dataclass(frozen=True, slots=True)
class Document:
    """A text, and where it came from, for messages: a file, or a file and a line."""

    text: bytes
    where: str


def is_rows(path: Path) -> bool:
    """Whether the file holds a document a row, by its suffix."""
    return path.suffix.lower() in _ROWS


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
            yield Document(path.read_bytes(), str(path))


def read_rows(path: Path, field: str, seen: Callable[[bytes], object] = len) -> Iterator[Document]:
    """The documents of a file of rows. Raises as `read_documents`; MissingExtraError without pyarrow.

    `seen` is told the file's bytes, piece by piece, as they are read.
    """
    return _ROWS[path.suffix.lower()](path, field, seen)


def _read_jsonl(path: Path, field: str, seen: Callable[[bytes], object]) -> Iterator[Document]:
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            seen(line)
            if line.strip():
                where = f"{path}:{number}"
                yield Document(_text_of_line(line, field, where), where)


def _text_of_line(line: bytes, field: str, where: str) -> bytes:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: a row must be a JSON object, got {line[:60]!r}: {error}") from error
    return as_bytes(_text_of_row(row, field, where))


def _text_of_row(row: object, field: str, where: str) -> str:
    text = row.get(field) if isinstance(row, Mapping) else None
    if isinstance(text, str):
        return text
    if isinstance(row, Mapping) and field in row:
        raise DataError(f"{where}: the field {field!r} must be text, got {text!r:.80}")
    keys = sorted(row) if isinstance(row, Mapping) else type(row).__name__
    raise DataError(
        f"{where}: a row must have its text in the field {field!r}, got {keys!r:.80}",
        hint="name the field (field=, or --field)",
    )


def _read_parquet(path: Path, field: str, seen: Callable[[bytes], object]) -> Iterator[Document]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("data") from error
    with open(path, "rb") as opened:
        for chunk in chunks_of(opened):  # its rows are read in another order
            seen(chunk)
    try:
        with parquet.ParquetFile(path) as file:
            if field not in file.schema_arrow.names:
                _text_of_row(dict.fromkeys(file.schema_arrow.names), field, str(path))
            number = 0
            for batch in file.iter_batches(columns=[field], batch_size=1024):
                for text in batch.column(0).to_pylist():
                    number += 1
                    where = f"{path}:{number}"
                    yield Document(as_bytes(_text_of_row({field: text}, field, where)), where)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path}: must be a parquet file: {error}") from error


_ROWS = {".jsonl": _read_jsonl, ".parquet": _read_parquet}


def texts_of(documents: Iterable[Text | Mapping[str, Any]], field: str) -> Iterator[Text]:
    """The texts among texts and rows.

    Raises:
        DataError: a row's field is missing or no string.
        TypeError: a document is neither text nor a row.
    """
    for number, document in enumerate(documents, start=1):
        yield _text_of_row(document, field, f"row {number}") if isinstance(document, Mapping) else document


def check_readable_as_text(path: Path) -> None:
    """Makes sure that a file's name does not say that it is packed.

    Raises:
        DataError: it does.
    """
    if path.suffix.lower() in _PACKED:
        raise DataError(
            f"{path}: a file must be unpacked, got {path.suffix}",
            hint=f"pipe it ({_PACKED[path.suffix.lower()]} {path.name} | … -), or give what opens it as source",
        )


def _files_below(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise error

    for root, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(root) / name for name in names if not name.startswith("."))


_PACKED = {".gz": "gzip -dc", ".xz": "xz -dc", ".bz2": "bzip2 -dc", ".zst": "zstd -dc", ".zip": "unzip -p"}


def expand(paths: Sequence[str | Path]) -> list[Path]:
    """The files named; a folder stands for the `.txt`, `.jsonl` and `.parquet` files below it, sorted by name.

    Hidden files and folders, whose names begin with a dot, are left out.

    Raises:
        DataError: a file is not there, or a folder holds no such file.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(file for file in _files_below(path) if file.suffix.lower() == ".txt" or is_rows(file))
            if not inside:
                raise DataError(f"{path}: the folder must hold .txt, .jsonl or .parquet files, got none")
            files += inside
        elif path.exists():
            files.append(path)
        else:
            raise DataError(f"{path}: no such file")
    return files
