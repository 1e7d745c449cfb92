"""Texts that must not have more than so many ids."""

from __future__ import annotations

from operator import index
from typing import TYPE_CHECKING, Literal, TypeVar

from bpetok.text import Text, as_bytes

if TYPE_CHECKING:
    from bpetok.tokenizer import Tokenizer

Keep = Literal["start", "end", "both"]
AnyText = TypeVar("AnyText", str, bytes, bytearray, memoryview)

_STEP = 1 << 16  # bytes of a long text that are encoded at a time


def truncate(tok: Tokenizer, text: Text, max_tokens: int, keep: Keep, marker: str) -> bytes | None:
    """The part of a text that fits, None if the whole text does; see `Tokenizer.truncate`."""
    if keep not in ("start", "end", "both"):
        raise ValueError(f"truncate: keep must be 'start', 'end' or 'both', got {keep!r}")
    if index(max_tokens) < 0:
        raise ValueError(f"truncate: max_tokens must be at least 0, got {max_tokens}")
    data = tok._as_encoded(text)
    if _fits(tok, data, max_tokens):
        return None
    mark = as_bytes(marker)
    tokens = max_tokens - tok.count(mark)
    while tokens > 0:
        part = _parts(tok, data, tokens, keep, mark)
        if tok.count(part) <= max_tokens:
            return part
        tokens -= 1
    if tok.count(mark) > max_tokens:
        raise ValueError(f"truncate: marker must fit in max_tokens, which are {max_tokens}, got {marker!r}")
    return mark


def _parts(tok: Tokenizer, data: bytes, tokens: int, keep: Keep, mark: bytes) -> bytes:
    if keep == "start":
        return _head(tok, data, tokens) + mark
    if keep == "end":
        return mark + _tail(tok, data, tokens)
    return _head(tok, data, tokens - tokens // 2) + mark + _tail(tok, data, tokens // 2)


def _fits(tok: Tokenizer, data: bytes, tokens: int) -> bool:
    """Whether a text has at most so many ids; a long one is not read to its end if it has more."""
    if len(data) <= tokens:
        return True
    counted = 0
    stream = tok.stream_encoder()
    for begin in range(0, len(data), _STEP):
        counted += len(stream.feed(data[begin : begin + _STEP]))
        if counted > tokens:
            return False
    return counted + len(stream.finish()) <= tokens


def _head(tok: Tokenizer, data: bytes, tokens: int) -> bytes:
    """The text of the first tokens, without half a character at its end."""
    ids: list[int] = []
    stream = tok.stream_encoder()
    for begin in range(0, len(data), _STEP):
        ids += stream.feed(data[begin : begin + _STEP]).tolist()
        if len(ids) >= tokens:
            break
    else:
        ids += stream.finish().tolist()
    while True:
        part = data[: _char_border(data, len(tok.decode_bytes(ids[:tokens])))[0]]
        ids = tok.encode_ordinary(part)  # cut off, the text may be split otherwise
        if len(ids) <= tokens:
            return part


def _tail(tok: Tokenizer, data: bytes, tokens: int) -> bytes:
    """The text of the last tokens, without half a character at its beginning."""
    part = data
    while len(ids := tok.encode_ordinary(part)) > tokens:
        cut = len(part) - len(tok.decode_bytes(ids[len(ids) - tokens :]))
        part = part[_char_border(part, cut)[1] :]
    return part


def _char_border(data: bytes, at: int) -> tuple[int, int]:
    """Where the character begins, and where it ends, that a place is within; the place itself if within none."""
    for begin in range(max(0, at - 3), at):
        for end in range(at + 1, min(len(data), begin + 4) + 1):
            try:
                if len(data[begin:end].decode()) == 1:
                    return begin, end
            except UnicodeDecodeError:
                continue
    return at, at
