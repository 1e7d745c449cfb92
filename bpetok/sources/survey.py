"""Which documents validate: decided before anything is written, from as little of the sources as that takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bpetok import _core
from bpetok.errors import DataError
from bpetok.sources.units import Source

FEW_DOCUMENTS = 100
"""From this many documents on, the hash decides; of fewer, the end of the text validates."""

_CONTINUATION = bytes(range(0x80, 0xC0))


@dataclass(frozen=True, slots=True)
class ByHash:
    """A document validates whose first `HEAD_BYTES` have an xxh64 below `limit`."""

    limit: int


@dataclass(frozen=True, slots=True)
class From:
    """All text from a place on validates: from byte `offset` of the document at `position` of a source."""

    source: int
    position: int
    offset: int


Rule = ByHash | From


class _Seen(NamedTuple):
    source: Source
    position: int
    size: int


def survey(sources: Sequence[Source], val_fraction: float | None = None) -> Rule:
    """Which documents validate.

    Of 100 documents or more those that a hash of their bytes picks, so that it depends neither on their order nor on
    what stands around them; but where the hash picks none, the last one. Of fewer, the end of the text, cut at a line.
    Reads no further than to a document that validates, at least 100.

    Args:
        sources: as `open_sources` gives them. Streams can still be read afterwards.
        val_fraction: share of the documents that validate, a hundredth unless told; of fewer than 100, share of the
            text, a tenth unless told. 0 for none at all.

    Raises:
        DataError: the share is out of range, or as `Source.units`.
    """
    if val_fraction is not None and not 0 <= val_fraction < 1:
        raise DataError(f"shards: val_fraction must be in 0 to below 1, got {val_fraction}")
    if val_fraction == 0:
        return ByHash(0)
    by_hash = ByHash(math.ceil((val_fraction or 0.01) * 2**64))
    few: list[_Seen] = []
    count, validates = 0, False
    last = From(0, 0, 0)
    for source in sources:
        for outline in source.outlines():
            count += 1
            validates = validates or _core.xxh64(outline.head) < by_hash.limit
            last = From(source.number, outline.position, 0)
            if count < FEW_DOCUMENTS:
                few.append(_Seen(source, outline.position, outline.size))
            elif validates:
                return by_hash
    if count >= FEW_DOCUMENTS:
        return last
    return _at_line(few, val_fraction or 0.1) if few else by_hash


def _at_line(documents: list[_Seen], val_fraction: float) -> From:
    """Where the last share of the text begins; a document may be cut in two."""
    left = max(1, int(sum(document.size for document in documents) * (1 - val_fraction)))
    for document in documents:
        if left < document.size:
            cut = _line_start(document, left, is_last=document is documents[-1]) if left > 0 else 0
            return From(document.source.number, document.position, cut)
        left -= document.size
    return From(document.source.number, document.position, document.size)


def _line_start(document: _Seen, near: int, *, is_last: bool) -> int:
    """Where to cut a document near a place within it: behind the line there, or before it, or at a character.

    The end of a text that another one follows is as good as the end of a line.
    """
    place = near
    for chunk in document.source.text_from(document.position, near):
        found = chunk.find(b"\n") + 1
        if found and (place + found < document.size or not is_last):
            return place + found
        if found:
            break
        place += len(chunk)
    if not is_last:
        return document.size
    place = before = character = 0
    for chunk in document.source.text_from(document.position, 0):
        if found := chunk.rfind(b"\n", 0, max(0, near - place)) + 1:
            before = place + found
        if found := len(chunk[: near - place + 1].rstrip(_CONTINUATION)):
            character = place + found - 1
        place += len(chunk)
        if place > near:
            break
    return before or character or document.size
