"""Rows: the lines of `.jsonl` files and whatever else has its text in a field."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bpetok.errors import DataError
from bpetok.text import Text, as_bytes, no_text

BOM = b"\xef\xbb\xbf"
"""What some systems write before UTF-8; no part of a `.jsonl` file's first row."""


@dataclass(frozen=True, slots=True)
class Document:
    """A text, and where it came from, for messages: a file, or a file and a line."""

    text: bytes
    where: str


def text_of_line(line: bytes, field: str, where: str) -> bytes:
    """The text of a row that is a line of JSON.

    Raises:
        DataError: the line is no JSON object, or its field is missing or no string.
    """
    try:
        row = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: a row must be a JSON object, got {line[:60]!r}: {error}") from error
    return as_bytes(text_of_row(row, field, where))


def text_of_row(row: object, field: str, where: str) -> str:
    """The text of a row.

    Raises:
        DataError: it is no mapping, or its field is missing or no string.
    """
    text = row.get(field) if isinstance(row, Mapping) else None
    if isinstance(text, str):
        return text
    if isinstance(row, Mapping) and field in row:
        raise DataError(f"{where}: the field {field!r} must be text, got {text!r:.80}")
    keys = sorted(map(str, row)) if isinstance(row, Mapping) else type(row).__name__
    raise DataError(
        f"{where}: a row must have its text in the field {field!r}, got {keys!r:.80}",
        hint="name the field (field=, or --field)",
    )


def text_of_item(item: object, field: str, where: str) -> bytes:
    """The text of a document, a text or a row.

    Raises:
        DataError: as `text_of_row`.
        TypeError: it is none of these.
    """
    if isinstance(item, Document):
        return item.text
    if isinstance(item, Mapping):
        return as_bytes(text_of_row(item, field, where))
    if isinstance(item, Text):
        return as_bytes(item)
    raise no_text(item)


def texts_of(documents: Iterable[Text | Mapping[str, Any]], field: str) -> Iterator[Text]:
    """The texts among texts and rows.

    Raises:
        DataError: a row's field is missing or no string.
        TypeError: a document is neither text nor a row.
    """
    for number, document in enumerate(documents, start=1):
        yield text_of_row(document, field, f"row {number}") if isinstance(document, Mapping) else document


def lines_of(data: bytes) -> Iterator[tuple[int, int]]:
    """Where each line begins and ends; the end is behind its "\\n"."""
    start = 0
    while start < len(data):
        end = data.find(b"\n", start) + 1 or len(data)
        yield start, end
        start = end


MOST_TOLD = 1000
NOT_TOLD = "another one"
"""What stands for a bad row of a unit behind so many that are told of: they are counted."""


def texts_of_lines(
    data: bytes, position: int, field: str, name: str, lines_before: Callable[[], int] | None, skipped: list[str] | None
) -> Iterator[tuple[int, bytes]]:
    """Where each row of a piece of a `.jsonl` file begins, and its text; rows without any are left out.

    Args:
        data: whole lines.
        position: of the first one, in the file.
        field: where a row has its text.
        name: the file's, for messages.
        lines_before: gives how many lines stand before the piece; asked only where a row is bad. None where counting
            them again and again would take too long: then messages tell the byte at which a row begins.
        skipped: takes what is wrong with bad rows; None to raise it.

    Raises:
        DataError: a row is bad.
    """
    before: int | None = None
    for number, (start, end) in enumerate(lines_of(data), start=1):
        line = data[start:end]
        if position + start == 0:
            line = line.removeprefix(BOM)
        if not line.strip():
            continue
        try:
            text = text_of_line(line, field, name)
        except DataError:
            if skipped is not None and len(skipped) >= MOST_TOLD:
                skipped.append(NOT_TOLD)
                continue
            if lines_before is None:
                where = f"{name}, byte {position + start:,}"
            else:
                before = lines_before() if before is None else before
                where = f"{name}:{before + number}"
            try:  # once more, now that the line's number is worth the trouble
                text_of_line(line, field, where)
            except DataError as error:
                if skipped is None:
                    raise error from None
                skipped.append(error.message)
            continue
        if text:
            yield position + start, text
