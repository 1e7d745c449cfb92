"""What the end of a text may become when the text goes on: unstable tokens and token healing.

A continuation can change the last tokens of a text. Every way in which some continuation encodes them ends with one
token that reaches the text's end or beyond it. So for each place near the end, and each token that agrees with the
text from there on, the text is encoded with that token's bytes, and with several further continuations behind them;
the ids that cover the text's end are a way. What is found has a continuation, then. What may be missed is what only
other continuations bring to light: they are chosen by what the named patterns tell apart behind a letter, a number, a
blank and anything else, and the tests compare with all continuations, by brute force, on small vocabularies. An
expression of somebody's own may look at what none of them has.

Cost: some ten to two hundred short encodings for each token that the text's end may become, which behind a blank is a
third of a vocabulary; and a token of thousands of bytes makes as many places to look at.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING

from bpetok import _core
from bpetok.errors import DataError, VocabError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bpetok.tokenizer import Tokenizer

# Of each kind some that merge often and some that hardly ever do.
_LETTERS = ("a", "A", "ª", "ᚠ", "ʰ", "ǅ", "\U00010400", "\U00010428", "\u0301")
_CONTRACTIONS = ("s", "S", "t", "T", "m", "M", "d", "D", "ll", "LL", "lL", "ve", "VE", "vE", "re", "RE", "rE", "ſ")
_BLANKS = (" ", "\n", "\r", "\t", "\u3000")
_OTHERS = (".", "'", "/", "\x01", "1", "𝟘")
_BEHIND_LETTERS = ("", *_LETTERS, "l", "L", "e", "E", *("'" + end for end in _CONTRACTIONS))
_BEHIND_NUMBERS = ("", "1", "11", "𝟘", "२")
_BEHIND_OTHERS = ("", *_LETTERS, *_OTHERS, "\n", "\r\n", "\n/", *_CONTRACTIONS, *("'" + end for end in _CONTRACTIONS))
_AFTER_BLANK = (*_BLANKS, *_LETTERS[:4], "\u0301", *_OTHERS)
_BEHIND_BLANKS = ("", *_AFTER_BLANK, *map("".join, product(_AFTER_BLANK, repeat=2)), "'s", "'ve")
# By the core's classes: other, upper, lower, other letter, mark, number, space.
_BEHIND = (_BEHIND_OTHERS, *[_BEHIND_LETTERS] * 4, _BEHIND_NUMBERS, _BEHIND_BLANKS)
_ANY = tuple(dict.fromkeys((*_BEHIND_LETTERS, *_BEHIND_NUMBERS, *_BEHIND_OTHERS, *_BEHIND_BLANKS)))


def _continuations(tok: Tokenizer, text: str) -> tuple[str, ...]:
    """What is tried behind a text."""
    if tok.vocab.split.scanner is None:
        return _ANY
    return _BEHIND[_core.char_class(ord(text[-1]))]


def completions_of(tok: Tokenizer, data: bytes) -> tuple[list[int], list[list[int]]]:
    """The ids that no continuation changes, and the ways to encode the rest; see `Tokenizer.encode_with_unstable`."""
    if tok.vocab.normalization is not None:
        raise VocabError(
            f"{tok.name}: the vocabulary must take text as it is, got normalization {tok.vocab.normalization!r}"
        )
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"text: must be UTF-8 where it may go on, got {data[error.start :][:20]!r}") from None
    stable, covered = tok._encoder.encode_stable(data)
    rest = data[covered:]
    ways = _ways(tok, rest) if rest else []
    common = _common_prefix(ways)
    return [*stable.tolist(), *ways[0][:common]] if ways else stable.tolist(), [
        list(way[common:]) for way in ways if way[common:]
    ]


def _common_prefix(ways: list[tuple[int, ...]]) -> int:
    if not ways:
        return 0
    first, last = min(ways), max(ways)
    same = [a == b for a, b in zip(first, last, strict=False)]
    return same.index(False) if False in same else len(same)


def _ways(tok: Tokenizer, rest: bytes) -> list[tuple[int, ...]]:
    texts = (
        whole + continuation.encode()
        for text in _candidates(tok, rest)
        for whole in _whole_characters(text)
        for continuation in _continuations(tok, whole.decode())
    )
    ways: set[tuple[int, ...]] = set()
    for some in _batched(texts):
        ways |= _covers(tok, some, len(rest))
    return sorted(ways)


def _candidates(tok: Tokenizer, rest: bytes) -> Iterator[bytes]:
    """The rest as it is, and with each token behind each of its places that agrees with what stands there."""
    yield rest
    tokens = tok._tokens_sorted
    for at in range(max(0, len(rest) - max(map(len, tokens))), len(rest)):
        tail = rest[at:]
        for i in range(bisect_left(tokens, tail), len(tokens)):
            if not tokens[i].startswith(tail):
                break
            if len(tokens[i]) > len(tail):
                yield rest[:at] + tokens[i]


def _whole_characters(text: bytes) -> list[bytes]:
    """The text, or, where it breaks off within a character, with characters of each class that end it."""
    try:
        text.decode()
    except UnicodeDecodeError as error:
        return [text[: error.start] + character for character in _characters_from(text[error.start :])]
    return [text]


@lru_cache(maxsize=4096)
def _characters_from(part: bytes) -> list[bytes]:
    """Characters that begin with these bytes, of each class one for each next byte; none if no character does."""
    if not (0xC2 <= part[0] <= 0xF4 and all(0x80 <= byte < 0xC0 for byte in part[1:])):
        return []
    size = 4 if part[0] >= 0xF0 else 3 if part[0] >= 0xE0 else 2
    first, last = (_code_point(part.ljust(size, filler)) for filler in (b"\x80", b"\xbf"))
    found: dict[tuple[int, int], int] = {}
    for point in range(max(first, _LEAST[size]), min(last, 0x10FFFF) + 1):
        if 0xD800 <= point <= 0xDFFF:
            continue
        next_byte = point >> 6 * (size - len(part) - 1) & 0x3F
        found.setdefault((_core.char_class(point), next_byte), point)
    return [chr(point).encode() for point in found.values()]


_LEAST = {2: 0x80, 3: 0x800, 4: 0x10000}  # code points of so many bytes


def _code_point(data: bytes) -> int:
    """The number in a character's bytes, whether it may be one or not."""
    point = data[0] & (0xFF >> (len(data) + 1))
    for byte in data[1:]:
        point = point << 6 | byte & 0x3F
    return point


def _batched(texts: Iterable[bytes], size: int = 1 << 14) -> Iterator[list[bytes]]:
    some: list[bytes] = []
    for text in texts:
        some.append(text)
        if len(some) == size:
            yield some
            some = []
    if some:
        yield some


def _covers(tok: Tokenizer, texts: list[bytes], size: int) -> set[tuple[int, ...]]:
    """Of each text's ids the first ones, as many as cover so many bytes."""
    import numpy as np

    ids, offsets = tok._encoder.encode_batch_to_numpy(texts, 1)
    ends = np.cumsum(tok.token_byte_lengths()[ids])
    begins = np.concatenate([[0], ends])[offsets[:-1]]
    counts = np.searchsorted(ends, begins + size) + 1 - offsets[:-1]
    covers: set[tuple[int, ...]] = set()
    for count in np.unique(counts).tolist():
        rows = offsets[:-1][counts == count][:, None] + np.arange(count)
        covers |= set(map(tuple, _unique_rows(ids[rows]).tolist()))
    return covers


def _unique_rows(rows: NDArray[np.uint32]) -> NDArray[np.uint32]:
    import numpy as np

    unique: NDArray[np.uint32] = np.unique(rows, axis=0)
    return unique
