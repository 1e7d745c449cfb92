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
from bpetok.formats import documents, probe
from bpetok.patterns import Pattern
from bpetok.vocab import Vocab

NAME = "tiktoken"
SUFFIX = ".tiktoken"
_MAX_LINES = 1 << 21  # eight times the largest published vocabulary
_LINE = re.compile(rb"([A-Za-z0-9+/]+={0,2}) ([0-9]{1,10})")
_BITS_BEHIND = re.compile(rb"[^AQgw\n]== |[^AEIMQUYcgkosw048=\n]= ")  # base64 that ends in bits which stand for nothing


def recognises(head: bytes) -> bool:
    """Whether a file that begins with these bytes is in this format."""
    return _LINE.fullmatch(head.split(b"\n", 1)[0].rstrip(b"\r")) is not None


def parse_ranks(contents: bytes, where: str) -> dict[bytes, int]:
    """The tokens and ranks of a rank file.

    Raises:
        FormatError: a line is not a token in base64, a space and a rank; or a token or a rank stands twice. Names the
            line.
    """
    if (found := contents.count(b"\n")) > _MAX_LINES:
        raise FormatError(f"{where}: must have at most {_MAX_LINES} lines, got {found}")
    table = _core.Ranks(contents, where)
    ranks = table.to_dict()
    if len(ranks) != len(table) or len(set(ranks.values())) != len(ranks):
        raise _repeated(contents, where)
    if odd := _BITS_BEHIND.search(contents):
        number = contents.count(b"\n", 0, odd.start()) + 1
        raise FormatError(f"{where}:{number}: must be base64 as RFC 4648 spells it, got one that ends in {odd[0]!r}")
    return ranks


def _repeated(contents: bytes, where: str) -> FormatError:
    """The error for the first token or rank that stands twice."""
    seen: set[bytes | int] = set()
    for number, line in enumerate(contents.split(b"\n"), start=1):
        text, _, rank = line.rstrip(b"\r").partition(b" ")
        if not text:
            continue
        token = base64.b64decode(text)
        if token in seen:
            return FormatError(f"{where}:{number}: a token must stand once, got {token!r:.60} again")
        if int(rank) in seen:
            return FormatError(f"{where}:{number}: a rank must stand once, got {int(rank)} again")
        seen |= {token, int(rank)}
    raise AssertionError("nothing stands twice")


def read(path: Path, *, pattern: Pattern, special_tokens: Mapping[str, int]) -> Vocab:
    """Reads a rank file as the vocabulary that it makes with a pattern and special tokens.

    Raises:
        FormatError: as `parse_ranks`; or a rank is left out that is no special token's id, as when lines are missing.
        VocabError: the vocabulary breaks its own rules.
    """
    ranks = parse_ranks(documents.read_bytes(path), str(path))
    _check_gaps(ranks, special_tokens, path)
    with documents.naming(path):
        return Vocab(ranks, special_tokens, pattern, name=path.stem, provenance={"read from": path.name})


def _check_gaps(ranks: Mapping[bytes, int], special_tokens: Mapping[str, int], path: Path) -> None:
    highest = max(ranks.values(), default=-1)
    if highest < 1 << 24 and len(ranks) <= highest:
        left_out = set(range(highest)).difference(ranks.values(), special_tokens.values())
        if left_out:
            raise FormatError(
                f"{path}: each rank up to {highest} must be a token's or a special token's, got no {min(left_out)}"
            )


def by_rank(vocab: Vocab, path: Path, what: str) -> Vocab:
    """The vocabulary for a format, `what`, that merges by rank: itself, or one by list that gives the same ids so.

    Raises:
        FormatError: the list of merges and the ranks would give a text other ids; or text would be normalized.
    """
    from bpetok.semantics import as_ranks, semantic_differences

    if vocab.normalization is not None:
        raise FormatError(f"{path}: {what} normalizes nothing, so normalization must be None, got 'NFC'")
    if vocab.semantics == "rank":
        return vocab
    differences = semantic_differences(vocab)
    if not differences.same:
        odd = [one.token for one in differences.tokens] + [vocab[token_id] for token_id in differences.out_of_order]
        raise FormatError(
            f"{path}: {what} merges by rank, which must give the same ids, got {len(odd)} tokens with other "
            f"merges or in another order: {odd[0]!r:.60}",
            hint="bpetok.semantics.semantic_differences tells which",
        )
    return as_ranks(vocab)


def spelled(vocab: Vocab) -> bytes:
    """The lines of the file, in rising order of the ranks."""
    by_rank = sorted((rank, token) for token, rank in vocab.ranks.items())
    return b"".join([base64.b64encode(token) + b" %d\n" % rank for rank, token in by_rank])


def write(vocab: Vocab, path: Path) -> None:
    """Writes the ranks, in rising order. The pattern and the special tokens are not in the file.

    It is proven by tiktoken where that is installed and the pattern is one with a name; else by reading it.

    Raises:
        FormatError: as `by_rank`, or the proof fails.
    """
    from bpetok.formats import plugin

    ranked = by_rank(vocab, path, "tiktoken")
    with probe.proven(path) as written:
        written.write_bytes(spelled(ranked))
        again = read(written, pattern=vocab.pattern, special_tokens=vocab.special_tokens)
        if again != ranked:
            raise FormatError(f"{path}: must hold {ranked!r}, got {again!r} when it was read again")
        if vocab.split.name is not None:
            probe.prove(vocab, *plugin.encoder(again, path))
