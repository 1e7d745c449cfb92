"""Whether a tokenizer gives the ids that it must: by the definition in plain Python, or those of another tokenizer.

What only the file can break (rules of a vocabulary, checksums) is found when it is read.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bpetok import reference
from bpetok.report import LONGEST_DERIVED, derive
from bpetok.text import Text, as_bytes
from bpetok.tokenizer import Tokenizer
from bpetok.vocab import Vocab


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Where the ids of a text are first not those that they must be.

    Attributes:
        text: which of the texts, from 0; None where special tokens differ.
        byte: where in it the first wrong token begins, in bytes.
        got: the ids from there on, eight at most; of special tokens their texts.
        expected: what they must be, likewise.
    """

    text: int | None
    byte: int
    got: tuple[int | str, ...]
    expected: tuple[int | str, ...]


def defined_ids(vocab: Vocab, text: Text) -> Iterator[int]:
    """The ids of a text by the definition: cut by `reference.split`, and merged one pair after the other.

    Slow. A pretoken of more than 512 bytes is beyond it.
    """
    if vocab.normalization and isinstance(text, str):
        text = unicodedata.normalize(vocab.normalization, text)
    whole = vocab.semantics == "rank" or vocab.ignore_merges
    for pretoken in reference.split(vocab.pattern, text):
        if whole and pretoken in vocab.ranks:
            yield vocab.ranks[pretoken]
        else:
            yield from (node.id for node in derive(vocab, pretoken))


def against_definition(tok: Tokenizer, texts: Iterable[str]) -> Mismatch | None:
    """The first text in which a tokenizer does not give the ids of the definition, or whose bytes do not come back.

    Args:
        tok: the tokenizer.
        texts: those of over 512 bytes are left out, as the definition is slow.
    """
    for number, text in enumerate(texts):
        if len(as_bytes(text)) > LONGEST_DERIVED:
            continue
        got = tok.encode_ordinary(text)
        if found := _first(tok, number, got, list(defined_ids(tok.vocab, text))):
            return found
        if not tok.vocab.normalization and tok.decode_bytes(got) != as_bytes(text):
            return Mismatch(number, 0, tuple(got[:8]), ())
    return None


def against(tok: Tokenizer, source: Tokenizer, texts: Iterable[Text], *, renumbered: bool = False) -> Mismatch | None:
    """The first place where a tokenizer does not give the ids of another one; special tokens first, then the texts.

    Args:
        tok: the tokenizer.
        source: what it must be like.
        texts: what to encode.
        renumbered: whether the same tokens may have other ids (those of tekken come after the special tokens): then
            the bytes of the tokens are compared, and of special tokens the texts alone.
    """
    got, expected = tok.vocab.special_tokens, source.vocab.special_tokens
    if got.keys() != expected.keys() or (got != expected and not renumbered):
        differ = sorted(got.items() ^ expected.items())[:8]
        mine, yours = ([f"{text}={i}" for text, i in differ if of.get(text) == i] for of in (got, expected))
        return Mismatch(None, 0, tuple(mine), tuple(yours))
    for number, text in enumerate(texts):
        ids, others = tok.encode_ordinary(text), source.encode_ordinary(text)
        if renumbered and tok.decode_tokens_bytes(ids) == source.decode_tokens_bytes(others):
            continue
        if found := _first(tok, number, ids, others):
            return found
    return None


def _first(tok: Tokenizer, number: int, got: list[int], expected: list[int]) -> Mismatch | None:
    if got == expected:
        return None
    same = next((at for at, (one, other) in enumerate(zip(got, expected, strict=False)) if one != other), None)
    at = min(len(got), len(expected)) if same is None else same
    return Mismatch(number, len(tok.decode_bytes(got[:at])), tuple(got[at : at + 8]), tuple(expected[at : at + 8]))
