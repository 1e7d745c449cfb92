"""The `added_tokens` of a `tokenizer.json`: special tokens here, numbered as `tokenizers` numbers them.

`tokenizers` cuts them out of the text in two passes: first those that are not `normalized`, then, after the normalizer
has run, those that are. Here it is one pass, before. What could tell the difference is refused.

It takes no id from the file: a token has the id that it has in the model's vocab, or else the next one behind it.

Source: huggingface/tokenizers 0.22.2, `tokenizers/src/tokenizer/added_vocabulary.rs` and `serialization.rs`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from bpetok.errors import FormatError
from bpetok.formats.documents import member, unspell
from bpetok.vocab import MAX_ID, Normalization, Vocab

_FLAGS = {"normalized": False, "special": True}  # and what they are unless a file says otherwise
_REFUSED = ("single_word", "lstrip", "rstrip")
_KINDS: dict[str, type] = {"id": int, "content": str} | dict.fromkeys((*_FLAGS, *_REFUSED), bool)
_MADE_BY_NFC = set("K;`")  # of ASCII's characters those that NFC makes of others: U+212A, U+037E, U+1FEF
_COMPOSED_BY_NFC = "<=>"  # of ASCII's signs those that a mark behind them changes: U+0338
_MAX_OVERLAP_WORK = 1 << 24


class Tokens(NamedTuple):
    """The added tokens of a file.

    Attributes:
        ids: the text of each, and its id.
        flags: the text of each whose flags are not the usual ones, and those flags.
    """

    ids: dict[str, int]
    flags: dict[str, dict[str, bool]]


def read(
    document: Mapping[str, Any], table: Mapping[str, int], normalization: Normalization | None, where: str
) -> Tokens:
    """The added tokens of a `tokenizer.json`.

    Args:
        document: the whole document.
        table: the tokens of the model's vocab as they are spelled there, and their ids.
        normalization: what the normalizer does.
        where: the file, to begin the error's message.

    Raises:
        FormatError: a token is not as it has to be, or `tokenizers` would not do with it what is done here.
    """
    ids: dict[str, int] = {}
    flags: dict[str, dict[str, bool]] = {}
    numbers = _Numbers(table)
    for i, token in enumerate(member(document, "added_tokens", list, where) if "added_tokens" in document else ()):
        here = f"{where}added_tokens[{i}]"
        text, own = _token(token, here)
        if text in ids:
            raise FormatError(f"{here}.content must stand once, got {text!r:.60} again")
        wanted = numbers.of(text)
        if wanted != {token["id"]}:
            raise FormatError(f"{here}.id must be {min(wanted)}, which tokenizers gives it, got {token['id']}")
        numbers.take(text, token["id"])
        ids[text] = token["id"]
        if own != _FLAGS:
            flags[text] = own
        _check_model_token(text, text in table, here)
        if normalization is not None:
            _check_normalized(text, own["normalized"], text in table, here)
    if len(set(ids.values())) != len(ids):
        raise FormatError(f"{where}added_tokens must each have an id of its own")
    late = [text for text, own in flags.items() if own["normalized"]]
    if 0 < len(late) < len(ids):
        _check_passes(ids.keys() - set(late), late, where)
    return Tokens(ids, flags)


def _token(token: Any, where: str) -> tuple[str, dict[str, bool]]:
    if not isinstance(token, dict) or {key: type(value) for key, value in token.items()} != _KINDS:
        raise _mistyped(token, where)
    text: str = token["content"]
    if not text:
        raise FormatError(f"{where}.content must not be empty")
    if not 0 <= token["id"] <= MAX_ID:
        raise FormatError(f"{where}.id must be in 0 to {MAX_ID}, got {token['id']!r:.60}")
    for flag in _REFUSED:
        if token[flag]:
            raise FormatError(f"{where}.{flag} must be false, got true for {text!r:.60}")
    return text, {flag: token[flag] for flag in _FLAGS}


def _mistyped(token: Any, where: str) -> FormatError:
    if not isinstance(token, dict):
        return FormatError(f"{where} must be an object, got {token!r:.60}")
    if unknown := token.keys() - _KINDS.keys():
        return FormatError(f"{where}.{min(unknown)!s:.60} must not be there: it is nothing that is known here")
    try:
        for key, kind in _KINDS.items():
            member(token, key, kind, f"{where}.")
    except FormatError as error:
        return error
    raise AssertionError("the types are right")


class _Numbers:
    """The ids that `tokenizers` gives to added tokens, in their order.

    Versions before 0.22 and later ones number differently where a token of the vocab has an id beyond its size.
    """

    def __init__(self, table: Mapping[str, int]) -> None:
        self._table = table
        self._next = len(table)
        self._highest = -1

    def of(self, text: str) -> set[int]:
        """The id that the next token has; several where versions differ."""
        if text in self._table:
            return {self._table[text]}
        return {self._next, max(self._highest + 1, len(self._table))}

    def take(self, text: str, token_id: int) -> None:
        """Goes on to the next."""
        self._next += text not in self._table
        self._highest = max(self._highest, token_id)


def _check_model_token(text: str, in_table: bool, where: str) -> None:
    """An entry of the vocab that is an added token never merges, unless it stands for other bytes than its own."""
    token = unspell(text)
    if in_table and token is not None and token != text.encode():
        raise FormatError(f"{where}.content must not be spelled as other bytes are in model.vocab, got {text!r:.60}")


def _check_normalized(text: str, normalized: bool, in_table: bool, where: str) -> None:
    """Cutting it out of the text before NFC must be as good as after it."""
    if (normalized or in_table) and _MADE_BY_NFC & set(text):
        raise FormatError(f"{where}.content must not hold what NFC makes of other characters, got {text!r:.60}")
    if normalized and not (text.isascii() and not text[-1].isalpha() and text[-1] not in _COMPOSED_BY_NFC):
        hint = "it has to be ASCII, and end with no letter and none of < = >, which a mark behind it would change"
        raise FormatError(
            f"{where}.normalized must be false where NFC could change it, got true for {text!r:.60}", hint=hint
        )


def _check_passes(first: Collection[str], second: Collection[str], where: str) -> None:
    """Two passes are one where no token of the one overlaps a token of the other."""
    if sum(len(text) ** 2 for text in (*first, *second)) > _MAX_OVERLAP_WORK:
        raise FormatError(f"{where}added_tokens must all be normalized or none, where there are so many")
    for some, others in ((first, second), (second, first)):
        beginnings = {text[:end] for text in others for end in range(1, len(text) + 1)}
        whole = set(others)
        for text in some:
            parts = {text[start:] for start in range(len(text))} & beginnings
            inner = {text[i:j] for i in range(len(text)) for j in range(i + 1, len(text) + 1)} & whole
            if overlap := parts | inner:
                raise FormatError(
                    f"{where}added_tokens must not overlap where one is normalized and the other is not, "
                    f"got {text!r:.60} and {min(overlap)!r:.60}"
                )


def write(
    vocab: Vocab, table: dict[str, int], flags: Mapping[str, Any], ignore_merges: bool, path: Path
) -> list[dict[str, Any]]:
    """The added tokens for a `tokenizer.json`; those that `tokenizers` would number otherwise go into its vocab too.

    Args:
        vocab: the vocabulary.
        table: the tokens as they are spelled in the model's vocab, to which some are added.
        flags: as `Tokens.flags`.
        ignore_merges: whether a pretoken that stands in the vocab is that token, whatever it was meant to be.
        path: the file, to begin the error's message.

    Raises:
        FormatError: two special tokens share an id, or one cannot be told from a token.
    """
    specials = sorted(vocab.special_tokens.items(), key=lambda item: item[1])
    for (text, token_id), (other, other_id) in pairwise(specials):
        if token_id == other_id:
            raise FormatError(
                f"{path}: each special token must have an id of its own, got {token_id} for {text!r} and {other!r}"
            )
    first = len(table)
    dense = [token_id for _, token_id in specials] == list(range(first, first + len(specials)))
    for text, token_id in specials if not dense else ():
        token = unspell(text)
        if text in table or (ignore_merges and token is not None and token != text.encode()):
            raise FormatError(f"{path}: a special token must not be spelled as another token is, got {text!r:.60}")
        table[text] = token_id
    return [_written(text, token_id, flags.get(text)) for text, token_id in specials]


def _written(text: str, token_id: int, flags: Any) -> dict[str, Any]:
    own = _FLAGS | {flag: flags[flag] is True for flag in _FLAGS if isinstance(flags, dict) and flag in flags}
    return {"id": token_id, "content": text} | dict.fromkeys(_REFUSED, False) | own
