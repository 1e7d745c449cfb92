"""Encoded: a text's ids, and where in the text each token stands."""

from __future__ import annotations

import html
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_COLOURS = ("#ffe08a", "#b7e4c7", "#a9d6ff", "#ffc9c9", "#d8c7ff", "#ffd6a5")
_MOST_SHOWN = 2000  # tokens that a notebook shows


@dataclass(frozen=True, eq=False, repr=False)
class Encoded:
    """The ids of a text, with the place of each; made by `Tokenizer.encode_with_offsets`.

    Attributes:
        data: the text as UTF-8 bytes; where the vocabulary normalizes text, as it was normalized.
        ids: shape (n,), uint32.
        special: whether each id is a special token's, shape (n,), bool.
        byte_offsets: where in `data` each token begins, and where the last one ends; shape (n + 1,), int64.
    """

    data: bytes
    ids: NDArray[np.uint32]
    special: NDArray[np.bool_]
    byte_offsets: NDArray[np.int64]

    def __len__(self) -> int:
        """How many tokens there are."""
        return len(self.ids)

    def __repr__(self) -> str:
        """The tokens, abridged."""
        shown = " ".join(map(repr, self.tokens[:8])) + (" …" if len(self) > 8 else "")
        return f"<Encoded: {len(self)} ids, {len(self.data)} bytes: {shown}>"

    @cached_property
    def tokens(self) -> list[bytes]:
        """The bytes of each token."""
        return [self.data[begin:end] for begin, end in pairwise(self.byte_offsets.tolist())]

    @cached_property
    def char_spans(self) -> NDArray[np.int64]:
        """The characters that each token touches, [begin, end), shape (n, 2), int64.

        Two tokens that share a character both touch it. A byte that is not UTF-8 counts as a character.
        """
        import numpy as np

        begins = self._char_begins
        first = np.searchsorted(begins, self.byte_offsets[:-1], side="right") - 1
        behind = np.searchsorted(begins, self.byte_offsets[1:], side="left")
        return np.stack([first, behind], axis=1).astype(np.int64)

    @cached_property
    def _char_begins(self) -> NDArray[np.int64]:
        """Where each character begins, in bytes."""
        import numpy as np

        text = self.data.decode("utf-8", "surrogateescape")
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        sizes = 1 + (points >= 0x80).astype(np.int64) + (points >= 0x800) + (points >= 0x10000)
        sizes[(points >= 0xDC80) & (points <= 0xDCFF)] = 1
        return np.cumsum(sizes) - sizes

    def _repr_html_(self) -> str:
        """The text in a notebook: a colour a token, the id when pointed at."""
        colours = len(_COLOURS)
        parts = [
            f'<span title="{token_id} · {html.escape(repr(token), quote=True)}" '
            f'style="background:{_COLOURS[i % colours]};color:#111;{"outline:1px solid #111;" if special else ""}">'
            f"{html.escape(_shown(token))}</span>"
            for i, (token_id, token, special) in enumerate(
                zip(self.ids.tolist()[:_MOST_SHOWN], self.tokens, self.special.tolist(), strict=False)
            )
        ]
        more = f" … and {len(self) - _MOST_SHOWN} more" if len(self) > _MOST_SHOWN else ""
        text = f'<div style="white-space:pre-wrap;font-family:monospace">{"".join(parts)}</div>'
        return f"{text}<p>{len(self)} ids{more}</p>"


def _shown(token: bytes) -> str:
    """A token's text; bytes that are no whole character as \\xe4, line ends with a mark before them."""
    return token.decode("utf-8", "backslashreplace").replace("\n", "⏎\n").replace("\t", "⇥\t")
