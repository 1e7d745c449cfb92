"""tiktoken's rank files: one line a token, its bytes in base64 and its rank.

The format holds neither the split pattern nor the special tokens, so reading asks for both.
Source: tiktoken 0.14.0, `tiktoken/load.py`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from pathlib import Path

from bpetok import _core
from bpetok.errors import FormatError
from bpetok.files import write_atomically
from bpetok.vocab import Vocab

SUFFIX = ".tiktoken"
_LINE = re.compile(rb"([A-Za-z0-9+/]+={0,2}) ([0-9]{1,10})")


def recognises(head: bytes) -> bool:
    """Whether a file that begins with these bytes is in this format."""
    return _LINE.fullmatch(head.split(b"\n", 1)[0].rstrip(b"\r")) is not None


def parse_ranks(contents: bytes, where: str) -> dict[bytes, int]:
    """The tokens and ranks of a rank file.

    Raises:
        FormatError: a line is not a token in base64, a space and a rank; or a token stands twice. Names the line.
    """
    table = _core.Ranks(contents, where)
    ranks = table.to_dict()
    if len(ranks) != len(table):
        raise _repeated(contents, where)
    return ranks


def _repeated(contents: bytes, where: str) -> FormatError:
    """The error for the first token that stands twice."""
    seen: set[bytes] = set()
    for number, line in enumerate(contents.split(b"\n"), start=1):
        text = line.split(b" ")[0]
        if text in seen:
            return FormatError(f"{where}:{number}: a token must stand once, got {base64.b64decode(text)!r} again")
        seen.add(text)
    raise AssertionError("no token stands twice")


def read(path: Path, *, pattern: str | None, special_tokens: Mapping[str, int]) -> Vocab:
    """Reads a rank file as the vocabulary that it makes with a pattern and special tokens.

    Raises:
        FormatError: as `parse_ranks`.
        VocabError: the vocabulary breaks its own rules.
    """
    ranks = parse_ranks(path.read_bytes(), str(path))
    return Vocab(ranks, special_tokens, pattern, name=path.stem, provenance={"read from": path.name})


def write(vocab: Vocab, path: Path) -> None:
    """Writes the ranks, in rising order. The pattern and the special tokens are not in the file."""
    by_rank = sorted((rank, token) for token, rank in vocab.ranks.items())
    write_atomically(path, b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in by_rank))
