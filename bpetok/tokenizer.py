"""Tokenizer: text to ids and back, with one vocabulary.

It has the public members of `tiktoken.Encoding`, with the same arguments, defaults and results; beyond them it takes
`bytes` wherever it takes text, counts, streams and saves. Immutable, so any thread may use it; the work is done in
the core with the GIL released.
"""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from bpetok import _core, formats
from bpetok.errors import SpecialTokenError, UnknownTokenError
from bpetok.streams import Window
from bpetok.text import Text, as_bytes
from bpetok.vocab import END_OF_TEXT, Vocab

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Ids: TypeAlias = "Sequence[int] | NDArray[np.integer[Any]]"
Special = Literal["all"] | AbstractSet[str]

_NONE: frozenset[str] = frozenset()


class Tokenizer:
    """Encodes text and decodes ids.

    >>> from bpetok import train
    >>> tok = train("low lower lowest", vocab_size=260, pattern="gpt2", special_tokens=["<|endoftext|>"])
    >>> tok.encode("slow low")
    [115, 257, 258]
    >>> tok.decode([115, 257, 258])
    'slow low'
    """

    def __init__(self, vocab: Vocab) -> None:
        """The tokenizer of a vocabulary. Most callers want `train`, `load` or `get_encoding`."""
        self._vocab = vocab
        self._encoder = _core.Encoder(dict(vocab.ranks), vocab.split.scanner or "none")
        self._decoder = _core.Decoder({vocab[token_id]: token_id for token_id in vocab})

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
        return type(self), (self._vocab,)

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
        data = as_bytes(text)
        allowed = self._allowed(data, allowed_special, disallowed_special)
        if not allowed:
            return self.encode_ordinary(data)
        ids: list[int] = []
        for part in self._parts(data, allowed):
            ids += [part] if isinstance(part, int) else self.encode_ordinary(part)
        return ids

    def encode_ordinary(self, text: Text) -> list[int]:
        """The ids of a text in which special tokens are text: `encode(text, disallowed_special=())`."""
        if self._needs_regex:
            return list(map(int, self._encode_by_regex(text)))
        return self._encoder.encode(as_bytes(text))

    def encode_to_numpy(
        self,
        text: Text,
        *,
        allowed_special: Special = _NONE,
        disallowed_special: Literal["all"] | Collection[str] = "all",
    ) -> NDArray[np.uint32]:
        """The ids of a text as an array, shape (ids,); arguments and errors as `encode`."""
        import numpy as np

        data = as_bytes(text)
        allowed = self._allowed(data, allowed_special, disallowed_special)
        if not allowed:
            return self._ordinary_to_numpy(data)
        parts = [
            np.array([part], np.uint32) if isinstance(part, int) else self._ordinary_to_numpy(part)
            for part in self._parts(data, allowed)
        ]
        return np.concatenate([np.zeros(0, np.uint32), *parts])

    def encode_batch(
        self,
        text: Sequence[Text],
        *,
        num_threads: int = 8,
        allowed_special: Special = _NONE,
        disallowed_special: Literal["all"] | Collection[str] = "all",
    ) -> list[list[int]]:
        """The ids of many texts, on up to `num_threads` threads; arguments and errors as `encode`."""
        batch = [as_bytes(one) for one in text]
        if not any(self._allowed(one, allowed_special, disallowed_special) for one in batch):
            return self.encode_ordinary_batch(batch, num_threads=num_threads)
        return [
            self.encode(one, allowed_special=allowed_special, disallowed_special=disallowed_special) for one in batch
        ]

    def encode_ordinary_batch(self, text: Sequence[Text], *, num_threads: int = 8) -> list[list[int]]:
        """The ids of many texts in which special tokens are text."""
        if self._needs_regex:
            return [self.encode_ordinary(one) for one in text]
        return self._encoder.encode_batch([as_bytes(one) for one in text], num_threads)

    def encode_batch_to_numpy(
        self, text: Sequence[Text], *, num_threads: int = 8
    ) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """The ids of many texts in which special tokens are text, one behind the other.

        Returns:
            (ids, offsets): text i has `ids[offsets[i]:offsets[i + 1]]`; shapes (ids,) and (texts + 1,).
        """
        import numpy as np

        if not self._needs_regex:
            return self._encoder.encode_batch_to_numpy([as_bytes(one) for one in text], num_threads)
        arrays = [self._encode_by_regex(one) for one in text]
        offsets = np.cumsum([0, *map(len, arrays)], dtype=np.int64)
        return np.concatenate([np.zeros(0, np.uint32), *arrays]), offsets

    def encode_stream(self, chunks: Iterable[Text]) -> Iterator[NDArray[np.uint32]]:
        """The ids of a text that comes in chunks, cut anywhere; special tokens are text.

        Together the arrays are `encode_ordinary` of the whole. Memory: a chunk and the longest pretoken; with a
        pattern that has no scanner, or none at all, the whole text.
        """
        if self._needs_regex or self._vocab.pattern is None:
            yield self._ordinary_to_numpy(b"".join(as_bytes(chunk) for chunk in chunks))
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
        return self._encoder.count(as_bytes(text))

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
        return self.decode_bytes(tokens).decode("utf-8", errors)

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
        return [self.decode(tokens, errors) for tokens in batch]

    def decode_bytes_batch(self, batch: Sequence[Ids], *, num_threads: int = 8) -> list[bytes]:
        """The bytes of each list of ids. (`num_threads` is taken for tiktoken's sake.)"""
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
        return len(self._vocab)

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

    def _allowed(
        self, data: bytes, allowed_special: Special, disallowed_special: Literal["all"] | Collection[str]
    ) -> frozenset[str]:
        """The special tokens that become ids in this text; refuses it if it holds a disallowed one."""
        specials = self._vocab.special_tokens
        allowed = frozenset(specials if allowed_special == "all" else allowed_special)
        disallowed = frozenset(specials if disallowed_special == "all" else disallowed_special)
        if disallowed_special == "all":
            disallowed -= allowed
        if disallowed and (found := _finder(disallowed).search(data)):
            special = found[0].decode()
            raise SpecialTokenError(
                f"encode: the text holds the special token {special!r}, which was not allowed",
                hint=f"allowed_special={{{special!r}}} makes it an id; disallowed_special=() takes it as text",
            )
        return allowed.intersection(specials)

    def _parts(self, data: bytes, allowed: frozenset[str]) -> Iterator[bytes | int]:
        """The text between special tokens, and their ids, in order."""
        for i, part in enumerate(_finder(allowed).split(data)):
            if i % 2:
                yield self._vocab.special_tokens[part.decode()]
            elif part:
                yield part

    @property
    def _needs_regex(self) -> bool:
        return self._vocab.split.scanner is None

    def _ordinary_to_numpy(self, text: Text) -> NDArray[np.uint32]:
        if self._needs_regex:
            return self._encode_by_regex(text)
        return self._encoder.encode_to_numpy(as_bytes(text))

    def _encode_by_regex(self, text: Text) -> NDArray[np.uint32]:
        """Cuts with the `regex` module, merges in the core."""
        import numpy as np

        from bpetok.reference import split

        pretokens = split(self._vocab.pattern, text)
        ends = np.cumsum([len(pretoken) for pretoken in pretokens], dtype=np.int64)
        return self._encoder.encode_pretokens(b"".join(pretokens), ends)

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


def load(
    path: str | os.PathLike[str], *, pattern: str | None = None, special_tokens: Mapping[str, int] | None = None
) -> Tokenizer:
    """Reads a tokenizer file; its format is known by its content.

    Args:
        path: a `.bpetok` file, tiktoken ranks, or a minbpe model.
        pattern: how text is cut, for tiktoken ranks, which do not say; "none" for no split.
        special_tokens: the special tokens and their ids, likewise.

    Raises:
        FormatError: the file is in no known format, or pattern and special tokens are needed.
        CorruptionError: the file is not as it was written.
        VocabError: the vocabulary breaks its own rules.
    """
    return Tokenizer(formats.read(Path(path), pattern=pattern, special_tokens=special_tokens))


@lru_cache(maxsize=128)
def _finder(specials: frozenset[str]) -> re.Pattern[bytes]:
    """An expression that finds the special tokens, the longest first."""
    longest_first = sorted(specials, key=lambda text: (-len(text), text))
    return re.compile(b"(" + b"|".join(re.escape(text.encode()) for text in longest_first) + b")")
