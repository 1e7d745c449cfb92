"""Tokenizer: text to ids and back, with one vocabulary.

It has the public members of `tiktoken.Encoding`, with the same arguments, defaults and results; beyond them it takes
`bytes` wherever it takes text, counts, streams and saves. Immutable, so any thread may use it; the work is done in
the core with the GIL released.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property
from itertools import groupby
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

from bpetok import _core, formats, patterns
from bpetok.budgets import AnyText, Keep, truncate
from bpetok.encoded import Encoded
from bpetok.errors import SpecialTokenError, UnknownTokenError
from bpetok.presplit import PreSplitEncoder, normalized
from bpetok.streams import StreamDecoder, StreamEncoder, TextChunks, TokenCounter
from bpetok.text import Text, as_bytes
from bpetok.threads import threads_or_all
from bpetok.unstable import completions_of
from bpetok.vocab import END_OF_TEXT, RankTable, Vocab

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Ids: TypeAlias = "Sequence[int] | NDArray[np.integer[Any]]"
Special = Literal["all"] | AbstractSet[str]

_NONE: frozenset[str] = frozenset()
_MOST_CACHE_MB = 1 << 20
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
        if not isinstance(vocab, Vocab):
            raise TypeError(
                f"tokenizer: vocab must be a Vocab, got {vocab!r:.80}; "
                "get_encoding(name) and load(path) give the tokenizer of a name and of a file"
            )
        if not 0 <= index(cache_mb) <= _MOST_CACHE_MB:
            raise ValueError(f"tokenizer: cache_mb must be 0 to {_MOST_CACHE_MB}, got {cache_mb}")
        self._vocab = vocab
        self._cache_mb = cache_mb
        ranks = vocab.ranks.core if isinstance(vocab.ranks, RankTable) else dict(vocab.ranks)
        by_id = {special: text for text, special in sorted(vocab.special_tokens.items(), reverse=True)}
        merges = list(vocab.merges or ()) if vocab.semantics == "merges" else None
        core = _core.Encoder(ranks, vocab.split.scanner or "none", cache_mb, merges, vocab.ignore_merges)
        in_core = vocab.split.scanner is not None and not vocab.normalization
        self._encoder = core if in_core else PreSplitEncoder(core, vocab.split, vocab.normalization)
        self._decoder = _core.Decoder(ranks, {text.encode(): special for special, text in by_id.items()})
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
        return type(self)._of, (self._vocab, self._cache_mb)

    @classmethod
    def _of(cls, vocab: Vocab, cache_mb: int = 64) -> Self:
        made = cls.__new__(cls)
        Tokenizer.__init__(made, vocab, cache_mb=cache_mb)
        return made

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
        if allowed_special is _NONE and disallowed_special == "all":
            return self._encoder.encode(text, None, self._all_specials)
        allowed, refused = self._rules(allowed_special, disallowed_special)
        return self._encoder.encode(text, allowed, refused)

    def encode_ordinary(self, text: Text) -> list[int]:
        """The ids of a text in which special tokens are text: `encode(text, disallowed_special=())`."""
        return self._encoder.encode(text)

    def encode_to_numpy(
        self,
        text: Text,
        *,
        allowed_special: Special = _NONE,
        disallowed_special: Literal["all"] | Collection[str] = "all",
    ) -> NDArray[np.uint32]:
        """The ids of a text as an array, shape (ids,); arguments and errors as `encode`."""
        if allowed_special is _NONE and disallowed_special == "all":
            return self._encoder.encode_to_numpy(text, None, self._all_specials)
        allowed, refused = self._rules(allowed_special, disallowed_special)
        return self._encoder.encode_to_numpy(text, allowed, refused)

    def encode_batch(
        self,
        text: Sequence[Text],
        *,
        num_threads: int | None = 8,
        allowed_special: Special = _NONE,
        disallowed_special: Literal["all"] | Collection[str] = "all",
    ) -> list[list[int]]:
        """The ids of many texts, on up to `num_threads` threads (None: as many as there are processors).

        Other arguments and errors as `encode`.

        The threads share long texts too. Few texts are encoded on one thread, as starting others would take longer.
        """
        allowed, refused = self._rules(allowed_special, disallowed_special)
        try:
            return self._encoder.encode_batch(text, threads_or_all(num_threads), allowed, refused)
        except SpecialTokenError as error:
            raise _which_text(error, text, refused) from None

    def encode_ordinary_batch(self, text: Sequence[Text], *, num_threads: int | None = 8) -> list[list[int]]:
        """The ids of many texts in which special tokens are text; threads as `encode_batch`."""
        return self._encoder.encode_batch(text, threads_or_all(num_threads))

    def encode_batch_to_numpy(
        self, text: Sequence[Text], *, num_threads: int | None = 8
    ) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """The ids of many texts in which special tokens are text, one behind the other; threads as `encode_batch`.

        Returns:
            (ids, offsets): text i has `ids[offsets[i]:offsets[i + 1]]`; shapes (ids,) and (texts + 1,).
        """
        return self._encoder.encode_batch_to_numpy(text, threads_or_all(num_threads))

    def encode_with_offsets(
        self,
        text: Text,
        *,
        allowed_special: Special = _NONE,
        disallowed_special: Literal["all"] | Collection[str] = "all",
    ) -> Encoded:
        """The ids of a text, and the bytes and the characters that each token stands for; arguments as `encode`.

        >>> from bpetok import train
        >>> encoded = train("a", vocab_size=256).encode_with_offsets("é!")
        >>> encoded.tokens, encoded.byte_offsets.tolist(), encoded.char_spans.tolist()
        ([b'\xc3', b'\xa9', b'!'], [0, 1, 2, 3], [[0, 1], [0, 1], [1, 2]])
        """
        import numpy as np

        ids = self.encode_to_numpy(text, allowed_special=allowed_special, disallowed_special=disallowed_special)
        tokens = self.decode_tokens_bytes(ids)
        offsets = np.cumsum([0, *map(len, tokens)], dtype=np.int64)
        special = np.isin(ids, np.array(sorted(self._special_ids), np.uint32))
        return Encoded(b"".join(tokens), ids, special, offsets)

    def encode_spans(self, spans: Iterable[tuple[Text, bool]]) -> list[int]:
        """The ids of a text of which only parts are trusted: special tokens become their id in those alone.

        So a chat template's special tokens become ids, and a user's never do. Spans are cut into pretokens as one
        text: without special tokens, the ids are those of `encode_ordinary` of all of it. A special token may stand
        across two trusted spans that follow each other, never across the border of one that is not. What only looks
        like a special token, as the vocabulary has none of that name, is text; see `special_tokens_set`.

        Args:
            spans: texts in order, each with whether it is trusted.

        >>> from bpetok import train
        >>> tok = train("a", vocab_size=256, special_tokens=["<|end|>"])
        >>> tok.encode_spans([("A", True), ("<|end|>", False), ("<|end|>", True)])
        [65, 60, 124, 101, 110, 100, 124, 62, 256]
        """
        ids: list[int] = []
        ordinary: list[bytes] = []
        chunks = TextChunks()
        for trusted, group in groupby(map(_checked_span, spans), key=lambda span: span[1]):
            data = b"".join(chunks.add(text) for text, _ in group)
            for part in self._all_specials.split(data) if trusted and self._all_specials else [data]:
                if isinstance(part, bytes):
                    ordinary.append(part)
                else:
                    ids += [*self._encoder.encode(b"".join(ordinary)), part]
                    ordinary = []
        return ids + self._encoder.encode(b"".join([*ordinary, chunks.finish()]))

    def encode_with_unstable(
        self,
        text: Text,
        *,
        allowed_special: Special = _NONE,
        disallowed_special: Literal["all"] | Collection[str] = "all",
    ) -> tuple[list[int], list[list[int]]]:
        """The ids of a text that no continuation changes, and how each continuation may encode the rest.

        Args:
            text: the beginning of a text, which must be UTF-8; arguments as `encode`.

        Returns:
            (stable, completions): every continuation of the text by UTF-8 text encodes to `stable`, then one of
            `completions`, then ids that stand behind the text. The last token of a completion may reach beyond it.
            There are no completions where nothing is left. Each has a continuation. With a named pattern there are
            no others, as far as brute force tells; with any other expression a few may be left out, which depend on
            what it looks at. `bpetok.unstable` says how they are found.

        Raises:
            SpecialTokenError: as `encode`.
            DataError: the text is not UTF-8.
            VocabError: the vocabulary normalizes text, so that any id may change.
        """
        allowed, refused = self._rules(allowed_special, disallowed_special)
        data = as_bytes(text)
        if refused is not None:
            refused.refuse(data)
        begin = 0
        while allowed is not None and (found := allowed.find(data, begin)) is not None:
            begin = found[1]
        stable, completions = completions_of(self, data[begin:])
        return [*self._encoder.encode(data[:begin], allowed), *stable], completions

    def heal(self, text: Text) -> tuple[list[int], list[int]]:
        """The ids to give to a model whose text goes on from here, and the ids that it may go on with.

        The last tokens of a prompt are seldom those that the whole text would have; so they are taken back, and what
        the model draws next must agree with their text. Of a token that reaches beyond the text, the rest is new.

        Returns:
            (ids, next_ids): `next_ids` has exactly the ids that some continuation of the text has behind `ids`,
            rising; empty where nothing was taken back, and every id may follow. Special tokens in the text are text.
            Exact where `encode_with_unstable` is, and raises as that.
        """
        ids, completions = completions_of(self, as_bytes(text))
        return ids, sorted({completion[0] for completion in completions})

    def encode_stream(
        self, chunks: Iterable[Text], *, allowed_special: Special = _NONE
    ) -> Iterator[NDArray[np.uint32]]:
        """The ids of a text that comes in chunks, cut anywhere; special tokens that are not allowed are text.

        Together the arrays are the ids of the whole. Memory: a chunk and the longest pretoken; with a pattern that has
        no scanner, or none at all, and where text is normalized, the whole text.
        """
        stream = self.stream_encoder(allowed_special=allowed_special)
        for chunk in chunks:
            if len(ids := stream.feed(chunk)):
                yield ids
        yield stream.finish()

    def stream_encoder(self, *, allowed_special: Special = _NONE) -> StreamEncoder:
        """An encoder that is fed a text in chunks; as `encode_stream`, for callers that push."""
        allowed, _ = self._rules(allowed_special, ())
        longest = max((len(special.encode()) for special in self._vocab.special_tokens), default=0)
        return StreamEncoder(self._encoder, allowed, longest)

    def counter(self) -> TokenCounter:
        """A counter of the ids of a text that grows, in which special tokens are text.

        >>> from bpetok import train
        >>> counter = train("low lower", vocab_size=258, pattern="gpt2").counter()
        >>> counter.append("lo"), counter.append("w lo")
        (1, 3)
        """
        return TokenCounter(self.stream_encoder(), self.count)

    def truncate(self, text: AnyText, max_tokens: int, *, keep: Keep = "start", marker: str = "") -> AnyText:
        """The text, cut so that `encode_ordinary` gives at most `max_tokens` ids; never within a character.

        It is cut between two of its tokens. Where what is left has more ids when it stands alone, as a text can be
        split otherwise where it ends, a little more is cut off.

        Args:
            text: `str` or `bytes`; the result is of the same kind. What is cut is normalized where the vocabulary
                normalizes text, and a lone surrogate is U+FFFD.
            max_tokens: how many ids there may be.
            keep: which part stays: the "start", the "end", or "both" without the middle.
            marker: stands where text was taken out, and counts.

        Raises:
            ValueError: `max_tokens` is negative, or the marker alone has more ids.

        >>> from bpetok import train
        >>> train("a", vocab_size=256).truncate("abc déf", 6, keep="both", marker="…")
        'ab…f'
        """
        part = truncate(self, text, max_tokens, keep, marker)
        if part is None:
            return text
        return part.decode() if isinstance(text, str) else type(text)(part)

    def count(self, text: Text) -> int:
        """How many ids `encode_ordinary` gives for the text."""
        return self._encoder.count(text)

    def count_batch(self, text: Sequence[Text], *, num_threads: int | None = 8) -> list[int]:
        """How many ids `encode_ordinary` gives for each text; threads as `encode_batch`."""
        return self._encoder.count_batch(text, threads_or_all(num_threads))

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

    def decode_batch(self, batch: Sequence[Ids], *, errors: str = "replace", num_threads: int | None = 8) -> list[str]:
        """The text of each list of ids. (`num_threads` is taken for tiktoken's sake.)"""
        threads_or_all(num_threads)
        return [self.decode(tokens, errors) for tokens in batch]

    def decode_bytes_batch(self, batch: Sequence[Ids], *, num_threads: int | None = 8) -> list[bytes]:
        """The bytes of each list of ids. (`num_threads` is taken for tiktoken's sake.)"""
        threads_or_all(num_threads)
        return [self.decode_bytes(tokens) for tokens in batch]

    def decode_stream(self, tokens: Iterable[int | Ids], errors: str = "replace") -> Iterator[str]:
        """The text of ids that come one by one, or many at a time; never half a character."""
        stream = self.stream_decoder(errors)
        for some in tokens:
            if text := stream.feed(some):
                yield text
        if text := stream.finish():
            yield text

    def stream_decoder(self, errors: str = "replace") -> StreamDecoder:
        """A decoder that is fed ids; as `decode_stream`, for callers that push."""
        return StreamDecoder(self._decoder, errors)

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
        return list(self._tokens_sorted)

    @cached_property
    def _tokens_sorted(self) -> list[bytes]:
        return sorted(self._vocab.ranks)

    def token_byte_lengths(self) -> NDArray[np.int64]:
        """How many bytes of text each id stands for, shape (n_vocab,); 0 for special tokens and for unused ids."""
        return self._byte_lengths.copy()

    @cached_property
    def _byte_lengths(self) -> NDArray[np.int64]:
        import numpy as np

        lengths = np.zeros(self.n_vocab, np.int64)
        for token, token_id in self._vocab.ranks.items():
            lengths[token_id] = len(token)
        return lengths

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the vocabulary in the format that the suffix names: .bpetok, .tiktoken or .model."""
        formats.write(self._vocab, Path(path))

    # ---- parts ---------------------------------------------------------------------------------------------------

    def _as_encoded(self, text: Text) -> bytes:
        """The bytes that the ids stand for."""
        data = as_bytes(text)
        return normalized(data, self._vocab.normalization) if self._vocab.normalization else data

    def _rules(
        self, allowed_special: Special, disallowed_special: Literal["all"] | Collection[str]
    ) -> tuple[_core.Specials | None, _core.Specials | None]:
        """What to look for in text: the special tokens that become ids, and those that must not be there."""
        specials = self._special_texts
        allowed = specials if allowed_special == "all" else _names("allowed_special", allowed_special)
        if disallowed_special == "all":
            refused = _NONE if allowed is specials else specials - allowed
        else:
            refused = _names("disallowed_special", disallowed_special or ())
        return self._specials_of(allowed if allowed is specials else allowed & specials), self._specials_of(refused)

    @cached_property
    def _special_texts(self) -> frozenset[str]:
        return frozenset(self._vocab.special_tokens)

    def _specials_of(self, texts: frozenset[str]) -> _core.Specials | None:
        if not texts:
            return None
        if texts is self._special_texts:
            return self._all_specials
        if texts not in self._specials:
            if len(self._specials) >= _KEPT_SPECIALS:
                self._specials.clear()
            ids = self._vocab.special_tokens
            self._specials[texts] = _core.Specials({as_bytes(text).decode(): ids.get(text, 0) for text in texts})
        return self._specials[texts]

    # ---- names that users of tiktoken reach for --------------------------------------------------------------------

    @property
    def _pat_str(self) -> patterns.Pattern:
        return self._vocab.pattern

    @property
    def _special_token_values(self) -> set[int]:
        return set(self._special_ids)

    @cached_property
    def _special_tokens(self) -> dict[str, int]:
        return dict(self._vocab.special_tokens)

    @cached_property
    def _mergeable_ranks(self) -> dict[bytes, int]:
        return dict(self._vocab.ranks)

    def _encode_single_piece(self, text_or_bytes: Text) -> list[int]:
        return self._encoder.encode_piece(as_bytes(text_or_bytes))

    def _encode_only_native_bpe(self, text: str) -> list[int]:
        return self.encode_ordinary(text)

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
        FileNotFoundError: there is no such file.
        FormatError: the file is in no known format, or pattern and special tokens are needed.
        CorruptionError: the file is not as it was written.
        VocabError: the vocabulary breaks its own rules.
    """
    return Tokenizer(formats.read(Path(path), pattern=pattern, special_tokens=special_tokens), cache_mb=cache_mb)


class Encoding(Tokenizer):
    r"""`tiktoken.Encoding`: a `Tokenizer` that is made as tiktoken makes it. `get_encoding` gives one.

    What differs from tiktoken on purpose stands in the README, under "In place of tiktoken".

    >>> ranks = {bytes([byte]): byte for byte in range(256)} | {b"lo": 256}
    >>> encoding = Encoding("mine", pat_str=r"\w+|\s+", mergeable_ranks=ranks, special_tokens={"<s>": 257})
    >>> encoding, encoding.encode("<s>low", allowed_special="all")
    (<Encoding 'mine'>, [257, 256, 119])
    """

    def __init__(
        self,
        name: str,
        *,
        pat_str: str,
        mergeable_ranks: Mapping[bytes, int],
        special_tokens: Mapping[str, int],
        explicit_n_vocab: int | None = None,
    ) -> None:
        """The tokenizer of a table of ranks.

        Args:
            name: what to call it.
            pat_str: the split pattern: a regular expression, or a name of `bpetok.patterns`.
            mergeable_ranks: the bytes of each token that merges, and its rank, which is its id.
            special_tokens: the text and the id of each special token.
            explicit_n_vocab: how many tokens there must be, and so the highest id plus one; None or 0 to ask nothing.

        Raises:
            VocabError: as `Vocab`.
            PatternError: the pattern does not compile.
            AssertionError: there are not `explicit_n_vocab` tokens, as in tiktoken.
        """
        if not isinstance(pat_str, str):
            raise TypeError(f"{name}: pat_str must be a regular expression, got {pat_str!r:.80}")
        super().__init__(Vocab(mergeable_ranks, special_tokens, pat_str, name=name))
        if explicit_n_vocab:
            tokens = len(mergeable_ranks) + len(special_tokens)
            if not tokens == self.n_vocab == explicit_n_vocab:
                raise AssertionError(
                    f"{name}: explicit_n_vocab must be the number of tokens ({tokens}) and the highest id plus one "
                    f"({self.n_vocab}), got {explicit_n_vocab}"
                )

    def __repr__(self) -> str:
        """As tiktoken's."""
        return f"<Encoding {self.name!r}>"


def _checked_span(span: tuple[Text, bool]) -> tuple[Text, bool]:
    if not (isinstance(span, tuple | list) and len(span) == 2 and isinstance(span[1], bool)):
        raise TypeError(f"encode_spans: a span must be a text and True or False, got {span!r:.80}")
    return span[0], span[1]


def _which_text(error: SpecialTokenError, texts: Iterable[Text], refused: _core.Specials | None) -> SpecialTokenError:
    """The error, with the place in the batch of the first text that it is about."""
    found = (i for i, text in enumerate(texts) if refused is not None and refused.find(as_bytes(text)) is not None)
    message = error.message.replace("the text holds", f"text {next(found, '?')} of the batch holds")
    return SpecialTokenError(message, hint=error.hint)


def _names(argument: str, value: Collection[str]) -> frozenset[str]:
    if not isinstance(value, str) and isinstance(value, Iterable):
        names = frozenset(value)
        if all(isinstance(name, str) for name in names):
            return names
    raise TypeError(f"{argument} must be 'all' or a collection of str, got {value!r}")
