"""Texts that the core cannot take as they are: those to be normalized, or cut by the `regex` module."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bpetok import _core, patterns
from bpetok.text import Text, as_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bpetok.vocab import Normalization


class PreSplitEncoder:
    """Encodes as `_core.Encoder` does, by preparing the text in Python. It has the methods that `Tokenizer` calls.

    Args:
        core: merges the pretokens.
        split: how text is cut.
        normalization: the form of Unicode that text is brought to, between special tokens; None to leave it alone.
    """

    def __init__(self, core: _core.Encoder, split: patterns.SplitPattern, normalization: Normalization | None) -> None:
        """See the class."""
        self._core = core
        self._split = split
        self._normalization = normalization
        self.encode_piece = core.encode_piece
        self.encode_pretokens = core.encode_pretokens
        self.unreachable = core.unreachable
        self.clear_cache = core.clear_cache

    def encode(
        self, text: Text, allowed: _core.Specials | None = None, refused: _core.Specials | None = None
    ) -> list[int]:
        """The ids of a text."""
        ids: list[int] = self.encode_to_numpy(text, allowed, refused).tolist()
        return ids

    def encode_to_numpy(
        self, text: Text, allowed: _core.Specials | None = None, refused: _core.Specials | None = None
    ) -> NDArray[np.uint32]:
        """The ids of a text as an array."""
        import numpy as np

        if allowed is None and refused is None:
            return self._encode_ordinary(text)
        data = as_bytes(text)
        if refused is not None:
            refused.refuse(data)
        parts = [data] if allowed is None else allowed.split(data)
        arrays = [
            np.array([part], np.uint32) if isinstance(part, int) else self._encode_ordinary(part) for part in parts
        ]
        return np.concatenate([np.zeros(0, np.uint32), *arrays])

    def _encode_ordinary(self, text: Text) -> NDArray[np.uint32]:
        if self._normalization is not None:
            text = normalized(as_bytes(text), self._normalization)
        if self._split.scanner is not None:
            return self._core.encode_to_numpy(text)
        return self._core.encode_pretokens(patterns.cut_text(self._split, text))

    def encode_stable(self, text: bytes) -> tuple[NDArray[np.uint32], int]:
        """Nothing: there is no place from which on a regular expression could be known to go on as before."""
        import numpy as np

        return np.zeros(0, np.uint32), 0

    def encode_batch(
        self,
        texts: Sequence[Text],
        threads: int,
        allowed: _core.Specials | None = None,
        refused: _core.Specials | None = None,
    ) -> list[list[int]]:
        """The ids of many texts, one after the other."""
        return [self.encode(text, allowed, refused) for text in texts]

    def encode_batch_to_numpy(
        self, texts: Sequence[Text], threads: int
    ) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """The ids of many texts, one behind the other, and where each begins and the last ends."""
        import numpy as np

        arrays = [self._encode_ordinary(text) for text in texts]
        offsets = np.cumsum([0, *map(len, arrays)], dtype=np.int64)
        return np.concatenate([np.zeros(0, np.uint32), *arrays]), offsets

    def count(self, text: Text) -> int:
        """How many ids a text has."""
        return len(self._encode_ordinary(text))

    def count_batch(self, texts: Sequence[Text], threads: int) -> list[int]:
        """How many ids each text has."""
        return [self.count(text) for text in texts]


def normalized(data: bytes, form: Normalization) -> bytes:
    """Text in a normal form of Unicode; bytes that are not UTF-8 stay as they are.

    >>> normalized("e\\u0301".encode() + b"\\xff", "NFC")
    b'\\xc3\\xa9\\xff'
    """
    if data.isascii():
        return data
    text = data.decode("utf-8", "surrogateescape")
    return data if unicodedata.is_normalized(form, text) else _normalize(form, text)


def _normalize(form: Normalization, text: str) -> bytes:
    return unicodedata.normalize(form, text).encode("utf-8", "surrogateescape")
