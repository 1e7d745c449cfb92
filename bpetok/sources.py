"""Documents: the texts that training and shards are made of, from files.

A text file is one document. A `.jsonl` file has one JSON object a line, each with its text in one field.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bpetok.errors import DataError
from bpetok.text import as_bytes


@dataclass(frozen=True, slots=True)
class Document:
    """A text, and where it came from, for messages: a file, or a file and a line."""

    text: bytes
    where: str


def is_rows(path: Path) -> bool:
    """Whether the file holds a document a line, by its suffix."""
    return path.suffix == ".jsonl"


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


def read_rows(path: Path, field: str) -> Iterator[Document]:
    """The documents of a `.jsonl` file; empty lines are passed over. Raises as `read_documents`."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                where = f"{path}:{number}"
                yield Document(_text_of_row(line, field, where), where)


def _text_of_row(line: bytes, field: str, where: str) -> bytes:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: a row must be a JSON object, got {line[:60]!r}: {error}") from error
    if not isinstance(row, dict) or not isinstance(row.get(field), str):
        keys = sorted(row) if isinstance(row, dict) else type(row).__name__
        raise DataError(
            f"{where}: a row must have its text in the field {field!r}, got {keys!r:.80}", hint="name it with --field"
        )
    text: str = row[field]
    return as_bytes(text)


def expand(paths: Sequence[str | Path]) -> list[Path]:
    """The files named; a folder stands for the `.txt` and `.jsonl` files below it, sorted by name.

    Raises:
        DataError: a file is not there, or a folder holds no such file.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.suffix in (".txt", ".jsonl"))
            if not inside:
                raise DataError(f"{path}: the folder must hold .txt or .jsonl files, got none")
            files += inside
        elif path.exists():
            files.append(path)
        else:
            raise DataError(f"{path}: no such file")
    return files
