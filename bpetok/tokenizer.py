"""Tokenizer: text to ids and back, with one vocabulary.

It has the public members of `tiktoken.Encoding`, with the same arguments, defaults and results; beyond them it takes
`bytes` wherever it takes text, counts, streams and saves. Immutable, so any thread may use it; the work is done in
the core with the GIL released.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from bpetok import _core, formats, patterns
from bpetok.errors import UnknownTokenError
from bpetok.streams import Window
from bpetok.text import Text, as_bytes
from bpetok.threads import checked_threads
from bpetok.vocab import END_OF_TEXT, RankTable, Vocab

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Ids: TypeAlias = "Sequence[int] | NDArray[np.integer[Any]]"
Special = Literal["all"] | AbstractSet[str]

_NONE: frozenset[str] = frozenset()
_KEPT_SPECIALS = 32  # sets of special tokens that a tokenizer remembers


class Tokenizer:
    """Encodes text and decodes ids.

    >>> from bpetok import train
    >>> tok = train("low lower lowest", vocab_size=260, pattern="gpt2", special_tokens=["<|endoftext|>"])
    >>> tok.encode("slow low")
    [115, 257, 258]
    >>> tok.decode([115, 257, 258])
    'slow low'
    """

    def __init__(self, vocab: Vocab, *, cache_mb: int = 64) -> None:
        """The tokenizer of a vocabulary. Most callers want `train`, `load` or `get_encoding`.

        Args:
            vocab: the vocabulary.
            cache_mb: how many MiB (2^20 bytes) the cache of pretokens may take in each thread that encodes at the
                same time; 0 for no cache. It grows with the text, and no ids depend on it.
        """
        if cache_mb < 0:
            raise ValueError(f"tokenizer: cache_mb must be at least 0, got {cache_mb}")
        self._vocab = vocab
        self._cache_mb = cache_mb
        ranks = vocab.ranks.core if isinstance(vocab.ranks, RankTable) else dict(vocab.ranks)
        by_id = {special: text for text, special in sorted(vocab.special_tokens.items(), reverse=True)}
        self._encoder = _core.Encoder(ranks, vocab.split.scanner or "none", cache_mb)
        self._decoder = _core.Decoder(ranks, {text.encode(): special for special, text in by_id.items()})
        self._needs_regex = vocab.split.scanner is None
        self._all_specials = _core.Specials(dict(vocab.special_tokens)) if vocab.special_tokens else None
        self._specials: dict[frozenset[str], _core.Specials] = {}

    def __repr__(self) -> str:
        """Name, size and the start of the fingerprint."""
        return f"<Tokenizer {self.name!r}: {self.n_vocab} ids, {self._vocab.split}, {self.fingerprint[:12]}>"

    def __eq__(self, other: object) -> bool:
        """Whether both give the same ids for every text."""
        return isinstance(other, Tokenizer) and self._vocab == other._vocab

    def __hash__(self) -> int:
        """By vocabulary, as equality."""
        return hash(self._vocab)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickles by value: the vocabulary travels whole."""
        return _rebuild, (type(self), self._vocab, self._cache_mb)

    # ---- encoding ------------------------------------------------------------------------------------------------

    def encode(
        self,
        text: Text,
        *,
        allowed_special: Special = _NONE,
        disallowed_special: Literal["all"] | Collection[str] = "all",
    ) -> list[int]:
        """The ids of a text.

        A special token that stands in the text could make a model do what its user must not, so by default it is
        refused. Bytes that are not UTF-8 are legal and come back from `decode_bytes` as they were; a lone surrogate
        in a `str` counts as U+FFFD.

        Args:
            text: `str`, or `bytes` taken as UTF-8.
            allowed_special: special tokens that become their id where they stand, or "all". Where several begin at
                one place, the longest wins.
            disallowed_special: special tokens that are refused, or "all" that are not allowed. `()` refuses none:
                then those that are not allowed are text.

        Raises:
            SpecialTokenError: the text holds a disallowed special token; a ValueError, as in tiktoken.
        """
        if allowed_special is _NONE and disallowed_special == "all" and not self._needs_regex:
            return self._encoder.encode(text, None, self._all_specials)
        allowed, refused = self._rules(allowed_special, disallowed_special)
        if self._needs_regex:
            return _list(self._encode_by_regex(text, allowed, refused))
        return self._encoder.encode(text, allowed, refused)

    def encode_ordinary(self, text: Text) -> list[int]:
        """The ids of a text in which special tokens are text: `encode(text, disallowed_special=())`."""
        if self._needs_regex:
            return _list(self._encode_by_regex(text))
        return self._encoder.encode(text)

    def encode_to_numpy(
        self,
        text: Text,
        *,
        allowed_special: Special = _NONE,
        disallowed_special: Literal["all"] | Collection[str] = "all",
    ) -> NDArray[np.uint32]:
        """The ids of a text as an array, shape (ids,); arguments and errors as `encode`."""
        if allowed_special is _NONE and disallowed_special == "all" and not self._needs_regex:
            return self._encoder.encode_to_numpy(text, None, self._all_specials)
        allowed, refused = self._rules(allowed_special, disallowed_special)
        if self._needs_regex:
            return self._encode_by_regex(text, allowed, refused)
        return self._encoder.encode_to_numpy(text, allowed, refused)

    def encode_batch(
        self,
        text: Sequence[Text],
        *,
        num_threads: int = 8,
        allowed_special: Special = _NONE,
        disallowed_special: Literal["all"] | Collection[str] = "all",
    ) -> list[list[int]]:
        """The ids of many texts, on up to `num_threads` threads; other arguments and errors as `encode`.

        The threads share long texts too. Few texts are encoded on one thread, as starting others would take longer.
        """
        allowed, refused = self._rules(allowed_special, disallowed_special)
        if self._needs_regex:
            return [_list(self._encode_by_regex(one, allowed, refused)) for one in text]
        return self._encoder.encode_batch(text, checked_threads(num_threads), allowed, refused)

    def encode_ordinary_batch(self, text: Sequence[Text], *, num_threads: int = 8) -> list[list[int]]:
        """The ids of many texts in which special tokens are text; threads as `encode_batch`."""
        if self._needs_regex:
            return [self.encode_ordinary(one) for one in text]
        return self._encoder.encode_batch(text, checked_threads(num_threads))

    def encode_batch_to_numpy(
        self, text: Sequence[Text], *, num_threads: int = 8
    ) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """The ids of many texts in which special tokens are text, one behind the other; threads as `encode_batch`.

        Returns:
            (ids, offsets): text i has `ids[offsets[i]:offsets[i + 1]]`; shapes (ids,) and (texts + 1,).
        """
        if not self._needs_regex:
            return self._encoder.encode_batch_to_numpy(text, checked_threads(num_threads))
        import numpy as np

        arrays = [self._encode_by_regex(one) for one in text]
        offsets = np.cumsum([0, *map(len, arrays)], dtype=np.int64)
        return np.concatenate([np.zeros(0, np.uint32), *arrays]), offsets

    def encode_stream(self, chunks: Iterable[Text]) -> Iterator[NDArray[np.uint32]]:
        """The ids of a text that comes in chunks, cut anywhere; special tokens are text.

        Together the arrays are `encode_ordinary` of the whole. Memory: a chunk and the longest pretoken; with a
        pattern that has no scanner, or none at all, the whole text.
        """
        if self._needs_regex or self._vocab.pattern is None:
            whole = b"".join(as_bytes(chunk) for chunk in chunks)
            yield self._encode_by_regex(whole) if self._needs_regex else self._encoder.encode_to_numpy(whole)
            return
        window = Window()
        for chunk in chunks:
            if window.add(as_bytes(chunk)):
                ids, covered = self._encoder.encode_stable(window.text)
                window.drop(covered)
                yield ids
        yield self._encoder.encode_to_numpy(window.text)

    def count(self, text: Text) -> int:
        """How many ids `encode_ordinary` gives for the text."""
        if self._needs_regex:
            return len(self._encode_by_regex(text))
        return self._encoder.count(text)

    def count_batch(self, text: Sequence[Text], *, num_threads: int = 8) -> list[int]:
        """How many ids `encode_ordinary` gives for each text; threads as `encode_batch`."""
        if self._needs_regex:
            return [self.count(one) for one in text]
        return self._encoder.count_batch(text, checked_threads(num_threads))

    def clear_cache(self) -> None:
        """Gives back the memory that is kept for calls to come: the caches of pretokens, and that of dropped arrays."""
        self._encoder.clear_cache()

    def encode_single_token(self, text_or_bytes: Text) -> int:
        """The id of one token, special tokens included.

        Raises:
            UnknownTokenError: it is no token; a KeyError, as in tiktoken.
        """
        token = as_bytes(text_or_bytes)
        if token in self._vocab.ranks:
            return self._vocab.ranks[token]
        special = token.decode("utf-8", "replace")
        if special in self._vocab.special_tokens:
            return self._vocab.special_tokens[special]
        raise UnknownTokenError(f"encode: {text_or_bytes!r} is no token of {self.name}")

    # ---- decoding ------------------------------------------------------------------------------------------------

    def decode(self, tokens: Ids, errors: str = "replace") -> str:
        """The text of ids. Bytes that are not UTF-8 become U+FFFD unless `errors` says otherwise.

        Raises:
            UnknownIdError: no token has one of the ids; a KeyError, as in tiktoken.
            IdRangeError: an id is negative or does not fit 32 bits; an OverflowError.
        """
        return self._decoder.decode_to_str(tokens, errors)

    def decode_bytes(self, tokens: Ids) -> bytes:
        """The bytes of ids; errors as `decode`."""
        return self._decoder.decode(tokens)

    def decode_single_token_bytes(self, token: int) -> bytes:
        """The bytes of one id, special tokens included; errors as `decode`."""
        return self._decoder.token(token)

    def decode_tokens_bytes(self, tokens: Ids) -> list[bytes]:
        """The bytes of each id; errors as `decode`."""
        return [self._decoder.token(token) for token in tokens]

    def decode_with_offsets(self, tokens: Ids) -> tuple[str, list[int]]:
        """The text of ids, and where in it, in characters, each token begins.

        A token that begins inside a character counts as beginning with that character.

        Raises:
            UnicodeDecodeError: the bytes are not UTF-8.
        """
        offsets = []
        characters = 0
        for token in self.decode_tokens_bytes(tokens):
            starts = sum(byte & 0xC0 != 0x80 for byte in token)
            offsets.append(max(0, characters - (token[0] & 0xC0 == 0x80)))
            characters += starts
        return self.decode(tokens, errors="strict"), offsets

    def decode_batch(self, batch: Sequence[Ids], *, errors: str = "replace", num_threads: int = 8) -> list[str]:
        """The text of each list of ids. (`num_threads` is taken for tiktoken's sake.)"""
        checked_threads(num_threads)
        return [self.decode(tokens, errors) for tokens in batch]

    def decode_bytes_batch(self, batch: Sequence[Ids], *, num_threads: int = 8) -> list[bytes]:
        """The bytes of each list of ids. (`num_threads` is taken for tiktoken's sake.)"""
        checked_threads(num_threads)
        return [self.decode_bytes(tokens) for tokens in batch]

    def decode_stream(self, tokens: Iterable[int], errors: str = "replace") -> Iterator[str]:
        """The text of ids that come one by one; never half a character."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors)
        for token in tokens:
            if text := decoder.decode(self._decoder.token(token)):
                yield text
        if text := decoder.decode(b"", final=True):
            yield text

    # ---- what it is ----------------------------------------------------------------------------------------------

    @property
    def vocab(self) -> Vocab:
        """The vocabulary."""
        return self._vocab

    @property
    def name(self) -> str:
        """What the vocabulary is called."""
        return self._vocab.name

    @property
    def fingerprint(self) -> str:
        """sha256 over what decides the ids; see `Vocab.fingerprint`."""
        return self._vocab.fingerprint

    @cached_property
    def n_vocab(self) -> int:
        """The highest id plus one."""
        return self._decoder.id_count()

    @property
    def max_token_value(self) -> int:
        """The highest id."""
        return self.n_vocab - 1

    @property
    def eot_token(self) -> int:
        """The id of "<|endoftext|>".

        Raises:
            UnknownTokenError: the vocabulary has none; a KeyError, as in tiktoken.
        """
        if END_OF_TEXT not in self._vocab.special_tokens:
            raise UnknownTokenError(
                f"{self.name}: has no special token {END_OF_TEXT!r}",
                hint=f"train with special_tokens=[{END_OF_TEXT!r}] (the command line does unless --no-specials)",
            )
        return self._vocab.special_tokens[END_OF_TEXT]

    @cached_property
    def special_tokens_set(self) -> set[str]:
        """The texts of the special tokens."""
        return set(self._vocab.special_tokens)

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        return frozenset(self._vocab.special_tokens.values())

    def is_special_token(self, token: int) -> bool:
        """Whether the id is a special token's."""
        return token in self._special_ids

    def token_byte_values(self) -> list[bytes]:
        """The bytes of every token that merges, sorted."""
        return sorted(self._vocab.ranks)

    def token_byte_lengths(self) -> NDArray[np.int64]:
        """How many bytes of text each id stands for, shape (n_vocab,); 0 for special tokens and for unused ids."""
        import numpy as np

        lengths = np.zeros(self.n_vocab, np.int64)
        for token, token_id in self._vocab.ranks.items():
            lengths[token_id] = len(token)
        return lengths

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the vocabulary in the format that the suffix names: .bpetok, .tiktoken or .model."""
        formats.write(self._vocab, Path(path))

    # ---- parts ---------------------------------------------------------------------------------------------------

    def _rules(
        self, allowed_special: Special, disallowed_special: Literal["all"] | Collection[str]
    ) -> tuple[_core.Specials | None, _core.Specials | None]:
        """What to look for in text: the special tokens that become ids, and those that must not be there."""
        specials = frozenset(self._vocab.special_tokens)
        allowed = specials if allowed_special == "all" else _names("allowed_special", allowed_special)
        refused = (
            specials - allowed if disallowed_special == "all" else _names("disallowed_special", disallowed_special)
        )
        return self._specials_of(allowed & specials), self._specials_of(refused)

    def _specials_of(self, texts: frozenset[str]) -> _core.Specials | None:
        if not texts:
            return None
        if texts not in self._specials:
            if len(self._specials) >= _KEPT_SPECIALS:
                self._specials.clear()
            self._specials[texts] = _core.Specials({text: self._vocab.special_tokens.get(text, 0) for text in texts})
        return self._specials[texts]

    def _encode_by_regex(
        self, text: Text, allowed: _core.Specials | None = None, refused: _core.Specials | None = None
    ) -> NDArray[np.uint32]:
        """Cuts with the `regex` module, merges in the core."""
        import numpy as np

        if allowed is None and refused is None:
            return self._encoder.encode_pretokens(patterns.cut_text(self._vocab.split, text))
        data = as_bytes(text)
        if refused is not None:
            refused.refuse(data)
        parts = [data] if allowed is None else allowed.split(data)
        arrays = [
            np.array([part], np.uint32) if isinstance(part, int) else self._encode_by_regex(part) for part in parts
        ]
        return np.concatenate([np.zeros(0, np.uint32), *arrays])

    # ---- names that users of tiktoken reach for --------------------------------------------------------------------

    @property
    def _pat_str(self) -> str | None:
        return self._vocab.pattern

    @property
    def _special_tokens(self) -> Mapping[str, int]:
        return self._vocab.special_tokens

    @property
    def _mergeable_ranks(self) -> Mapping[bytes, int]:
        return self._vocab.ranks

    def _encode_single_piece(self, text_or_bytes: Text) -> list[int]:
        return self._encoder.encode_piece(as_bytes(text_or_bytes))

    def _encode_bytes(self, text: bytes) -> list[int]:
        """The ids of bytes that may end, or break off, within a character; tiktoken's rule.

        What is valid UTF-8 at the front is encoded; the tokens of its last pretoken, and of the blanks before it if it
        is blank, are given up, and their bytes are merged with what follows as one pretoken.
        Source: tiktoken 0.14.0, `src/py.rs`.
        """
        try:
            text.decode()
        except UnicodeDecodeError as error:
            valid = text[: error.start]
        else:
            return self.encode_ordinary(text)
        pretokens = patterns.cut_text(self._vocab.split, valid)
        ids = self.encode_ordinary(valid)
        kept = len(ids) - (self.count(pretokens[-1]) if pretokens else 0)
        if kept < len(ids) and self._is_blank(ids[kept]):
            while kept > 0 and self._is_blank(ids[kept - 1]):
                kept -= 1
        rest = self.decode_bytes(ids[kept:]) + text[len(valid) :]
        return ids[:kept] + self._encoder.encode_piece(rest)

    def _is_blank(self, token: int) -> bool:
        return not self._decoder.token(token).strip(b" \n\t")


def load(
    path: str | os.PathLike[str],
    *,
    pattern: str | None = None,
    special_tokens: Mapping[str, int] | None = None,
    cache_mb: int = 64,
) -> Tokenizer:
    """Reads a tokenizer file; its format is known by its content.

    Args:
        path: a `.bpetok` file, tiktoken ranks, or a minbpe model.
        pattern: how text is cut, for tiktoken ranks, which do not say; "none" for no split.
        special_tokens: the special tokens and their ids, likewise.
        cache_mb: as `Tokenizer`.

    Raises:
        FormatError: the file is in no known format, or pattern and special tokens are needed.
        CorruptionError: the file is not as it was written.
        VocabError: the vocabulary breaks its own rules.
    """
    return Tokenizer(formats.read(Path(path), pattern=pattern, special_tokens=special_tokens), cache_mb=cache_mb)


def _rebuild(kind: type[Tokenizer], vocab: Vocab, cache_mb: int) -> Tokenizer:
    return kind(vocab, cache_mb=cache_mb)


def _names(argument: str, value: Collection[str]) -> frozenset[str]:
    if not isinstance(value, str) and isinstance(value, Iterable):
        names = frozenset(value)
        if all(isinstance(name, str) for name in names):
            return names
    raise TypeError(f"{argument} must be 'all' or a collection of str, got {value!r}")


def _list(ids: NDArray[np.uint32]) -> list[int]:
    out: list[int] = ids.tolist()
    return out
