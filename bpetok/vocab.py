"""Vocab: the immutable table of a tokenizer, checked when it is made, known by its fingerprint.

>>> vocab = Vocab.from_merges([(97, 98)], pattern="gpt2", special_tokens=["<|endoftext|>"])
>>> vocab[256], dict(vocab.special_tokens), len(vocab)
(b'ab', {'<|endoftext|>': 257}, 258)
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal, overload

from bpetok import _core, patterns
from bpetok.errors import UnknownIdError, VocabError
from bpetok.patterns import Pattern
from bpetok.text import as_bytes

END_OF_TEXT = "<|endoftext|>"
MAX_ID = (1 << 24) - 2  # kMaxId in csrc/pair_table.h
Pair = tuple[int, int]
Semantics = Literal["rank", "merges"]
Normalization = Literal["NFC"]


class RankTable(Mapping[bytes, int]):
    """The ranks of a file as the core has read them; a dict is made of them when somebody looks.

    Args:
        core: what the core read.
    """

    def __init__(self, core: _core.Ranks) -> None:
        """Takes what the core read."""
        self.core = core

    @cached_property
    def _dict(self) -> dict[bytes, int]:
        return self.core.to_dict()

    def __getitem__(self, token: bytes) -> int:
        """The rank of a token."""
        return self._dict[token]

    def __iter__(self) -> Iterator[bytes]:
        """The tokens, in the file's order."""
        return iter(self._dict)

    def __len__(self) -> int:
        """How many tokens there are."""
        return len(self.core)


class MergeList(Sequence[Pair]):
    """The merges of a vocabulary as the core has made them; a tuple is made of them when somebody looks.

    Args:
        core: what the core made.
    """

    def __init__(self, core: _core.Ranks) -> None:
        """Takes what the core made."""
        self.core = core

    @cached_property
    def _tuple(self) -> tuple[Pair, ...]:
        return tuple((left, right) for left, right, _ in self.core.merges())

    @overload
    def __getitem__(self, index: int) -> Pair: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Pair, ...]: ...

    def __getitem__(self, index: int | slice) -> Pair | tuple[Pair, ...]:
        """The pair of ids of a merge."""
        return self._tuple[index]

    def __len__(self) -> int:
        """How many merges there are."""
        return len(self.core) - 256

    def __eq__(self, other: object) -> bool:
        """Whether the other has the same merges, as a list of the core's or as a tuple."""
        return isinstance(other, MergeList | tuple) and self._tuple == tuple(other)

    def __hash__(self) -> int:
        """As the tuple."""
        return hash(self._tuple)

    def __repr__(self) -> str:
        """As the tuple."""
        return repr(self._tuple)


@dataclass(frozen=True, eq=False)
class Vocab:
    """Everything that decides which ids a text has.

    Which neighbours merge first, is one of two semantics. By "rank", the merges follow from the ids: of all neighbours
    whose concatenation is a token, those whose concatenation has the lowest id merge first. (tiktoken's, and those of
    the vocabularies that bpetok trains.) By "merges", only the listed pairs merge, the earliest of the list first.
    (Hugging Face's and llama.cpp's.)

    Args:
        ranks: the bytes of each token and its id, which by "rank" is also its rank. Ids may leave gaps.
        special_tokens: the text of each token that is never merged, and its id. Two may share an id (o200k_harmony
            has such a pair), which then decodes to the one that sorts first.
        pattern: how text is cut: a name, a regular expression, several of them one after the other, or None. See
            `bpetok.patterns`.
        merges: the pairs of ids that training merged, in order, where they are known.
        name: what to call it; not part of its identity.
        provenance: where it comes from, as JSON values; not part of its identity.
        semantics: "rank" or "merges", which needs the merges.
        ignore_merges: by "merges" alone: whether a pretoken that is a token has its id, whatever the merges say.
        normalization: "NFC" if text is brought to that form of Unicode before it is cut, and so does not come back as
            it was; None if it is taken as it is.

    Raises:
        VocabError: a single byte is missing; a token is empty; an id is negative, above 16,777,214 or given to two
            tokens; a special token is also a token that merges; a merge does not make a token.
        PatternError: the pattern is unknown or does not compile.
    """

    ranks: Mapping[bytes, int]
    special_tokens: Mapping[str, int] = field(default_factory=dict)
    pattern: Pattern = "gpt4"
    merges: Sequence[Pair] | None = None
    name: str = "bpetok"
    provenance: Mapping[str, Any] = field(default_factory=dict)
    semantics: Semantics = "rank"
    ignore_merges: bool = False
    normalization: Normalization | None = None

    def __post_init__(self) -> None:
        """Freezes and checks."""
        object.__setattr__(self, "ranks", MappingProxyType(dict(self.ranks)))
        object.__setattr__(self, "special_tokens", MappingProxyType(dict(self.special_tokens)))
        object.__setattr__(self, "provenance", MappingProxyType(dict(self.provenance)))
        object.__setattr__(self, "merges", None if self.merges is None else _pairs(self.merges))
        object.__setattr__(self, "pattern", patterns.resolve(self.pattern).regex)
        self._check_texts()
        self._check_tokens()
        self._check_special_tokens()
        for text in self.special_tokens:
            if text.encode() in self.ranks:
                raise _also_merges(text)
        self._check_merges()
        self._check_manners()

    @classmethod
    def of_known_file(
        cls,
        ranks: RankTable,
        special_tokens: Mapping[str, int],
        pattern: Pattern,
        name: str,
        provenance: Mapping[str, Any],
        merges: Sequence[Pair] | None = None,
    ) -> Vocab:
        """The vocabulary of a file whose sha256 is that of a published one: what the class checks is known to hold."""
        return cls._unchecked(ranks, special_tokens, pattern, merges, name, provenance)

    @classmethod
    def of_training(
        cls,
        made: _core.Ranks,
        special_tokens: Iterable[str],
        pattern: Pattern,
        name: str,
        provenance: Mapping[str, Any],
    ) -> Vocab:
        """As `from_merges`, of what the core has learnt; its tokens and merges are known to keep the rules."""
        specials = _numbered(special_tokens, len(made))
        vocab = cls._unchecked(RankTable(made), specials, pattern, MergeList(made), name, provenance)
        vocab._check_texts()
        vocab._check_special_tokens()
        clash = made.first_token([text.encode() for text in specials])
        if clash is not None:
            raise _also_merges(clash.decode())
        return vocab

    @classmethod
    def _unchecked(
        cls,
        ranks: RankTable,
        special_tokens: Mapping[str, int],
        pattern: Pattern,
        merges: Sequence[Pair] | None,
        name: str,
        provenance: Mapping[str, Any],
    ) -> Vocab:
        vocab = object.__new__(cls)
        parts = {
            "ranks": ranks,
            "special_tokens": MappingProxyType(dict(special_tokens)),
            "pattern": patterns.resolve(pattern).regex,
            "merges": merges,
            "name": name,
            "provenance": MappingProxyType(dict(provenance)),
            "semantics": "rank",
            "ignore_merges": False,
            "normalization": None,
        }
        for part, value in parts.items():
            object.__setattr__(vocab, part, value)
        return vocab

    def _check_texts(self) -> None:
        for text in self.special_tokens:
            if as_bytes(text).decode() != text:
                raise VocabError(f"vocab: a special token must be text without lone surrogates, got {text!r}")

    def _check_tokens(self) -> None:
        for byte in range(256):
            if bytes([byte]) not in self.ranks:
                raise VocabError(f"vocab: every single byte must be a token, missing {bytes([byte])!r}")
        if b"" in self.ranks:
            raise VocabError(f"vocab: a token must not be empty, got id {self.ranks[b'']}")
        ids = [*self.ranks.values(), *self.special_tokens.values()]
        for value in (min(ids), max(ids)):
            if not 0 <= value <= MAX_ID:
                got = value if value.bit_length() < 128 else f"one of {value.bit_length():,} bits"
                raise VocabError(f"vocab: an id must be in 0 to {MAX_ID}, got {got}")
        ids = [*self.ranks.values(), *set(self.special_tokens.values())]
        if len(self._by_id) != len(ids):
            twice, _ = Counter(ids).most_common(1)[0]
            raise VocabError(f"vocab: an id must belong to one token, got two for id {twice}")

    def _check_special_tokens(self) -> None:
        if "" in self.special_tokens:
            raise VocabError("vocab: a special token must not be empty")

    def _check_merges(self) -> None:
        ranks, token_of = self.ranks, self._by_id
        for left, right in self.merges or ():
            if left not in token_of or right not in token_of or token_of[left] + token_of[right] not in ranks:
                raise VocabError(f"vocab: a merge must make a token, got ({left}, {right})")

    def _check_manners(self) -> None:
        if self.semantics not in ("rank", "merges"):
            raise VocabError(f"vocab: semantics must be 'rank' or 'merges', got {self.semantics!r}")
        if self.normalization not in (None, "NFC"):
            raise VocabError(f"vocab: normalization must be 'NFC' or None, got {self.normalization!r}")
        if self.semantics == "rank" and self.ignore_merges:
            raise VocabError("vocab: ignore_merges must be False by rank, where there are no merges to ignore")
        if self.semantics == "merges" and self.merges is None:
            raise VocabError("vocab: merges must be given where semantics is 'merges'")
        if self.semantics == "merges" and len(set(self.merges or ())) != len(self.merges or ()):
            twice, _ = Counter(self.merges or ()).most_common(1)[0]
            raise VocabError(f"vocab: a merge must stand once, got {twice} again")

    @property
    def _manners(self) -> dict[str, Any]:
        return {
            "semantics": self.semantics,
            "ignore_merges": self.ignore_merges,
            "normalization": self.normalization,
        }

    @classmethod
    def from_merges(
        cls,
        merges: Sequence[Pair],
        *,
        pattern: Pattern,
        special_tokens: Iterable[str] = (),
        name: str = "bpetok",
        provenance: Mapping[str, Any] | None = None,
    ) -> Vocab:
        """The vocabulary that training gives: bytes 0 to 255, then the merges in order, then the special tokens.

        Raises:
            VocabError: as the class, and where a special token is named twice.
        """
        tokens = [bytes([byte]) for byte in range(256)]
        for made, (left, right) in enumerate(merges, start=256):
            if not (0 <= left < made and 0 <= right < made):
                raise VocabError(f"vocab: a merge must join earlier tokens, got ({left}, {right}) for id {made}")
            tokens.append(tokens[left] + tokens[right])
        ranks = {token: rank for rank, token in enumerate(tokens)}
        if len(ranks) != len(tokens):
            raise VocabError("vocab: two merges must not make the same token")
        return cls(ranks, _numbered(special_tokens, len(tokens)), pattern, merges, name, provenance or {})

    @cached_property
    def _by_id(self) -> dict[int, bytes]:
        by_id = {token_id: token for token, token_id in self.ranks.items()}
        return by_id | {token_id: text.encode() for text, token_id in sorted(self.special_tokens.items(), reverse=True)}

    def __getitem__(self, token_id: int) -> bytes:
        """The bytes of an id, special tokens included.

        Raises:
            UnknownIdError: no token has the id.
        """
        try:
            return self._by_id[token_id]
        except KeyError:
            raise UnknownIdError(f"vocab: no token has the id {token_id}") from None

    def __iter__(self) -> Iterator[int]:
        """The ids that tokens have."""
        return iter(self._by_id)

    def __contains__(self, token_id: object) -> bool:
        """Whether a token has this id."""
        return token_id in self._by_id

    def __len__(self) -> int:
        """The highest id plus one, so the size of a table by id; gaps count."""
        return max(self._by_id) + 1

    def __eq__(self, other: object) -> bool:
        """Whether both give the same ids for every text."""
        return isinstance(other, Vocab) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        """By fingerprint, as equality."""
        return hash(self.fingerprint)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickles by value."""
        merges = None if self.merges is None else list(self.merges)
        parts = (dict(self.ranks), dict(self.special_tokens), self.pattern, merges, self.name, dict(self.provenance))
        return _rebuild, (type(self), parts, self._manners)

    def __repr__(self) -> str:
        """Name, size and the start of the fingerprint."""
        return f"<Vocab {self.name!r}: {len(self)} ids, {self.split}, {self.fingerprint[:12]}>"

    @property
    def split(self) -> patterns.SplitPattern:
        """The split pattern, resolved."""
        return patterns.resolve(self.pattern)

    @cached_property
    def fingerprint(self) -> str:
        """sha256, in hexadecimal, over pattern, Unicode version, bytes by id, merge semantics and special tokens.

        Two vocabularies with the same fingerprint give the same ids for every text. Name and provenance are not in
        it, nor is the order in which the tables were given.
        """
        digest = hashlib.sha256(b"bpetok vocab 1")

        def feed(*parts: bytes) -> None:
            for part in parts:
                digest.update(len(part).to_bytes(8, "little") + part)

        steps = (self.pattern,) if isinstance(self.pattern, str) else self.pattern or ("",)
        feed("\0".join(steps).encode(), (self.split.unicode_version or "").encode(), self.semantics.encode())
        for token_id, token in sorted((rank, token) for token, rank in self.ranks.items()):
            feed(token_id.to_bytes(4, "little"), token)
        feed(b"special tokens")
        for token_id, text in sorted((special, text) for text, special in self.special_tokens.items()):
            feed(token_id.to_bytes(4, "little"), text.encode())
        if self.semantics == "merges":
            feed(b"merges", b"ignored for tokens" if self.ignore_merges else b"")
            for pair in self.merges or ():
                feed(*(token_id.to_bytes(4, "little") for token_id in pair))
        if self.normalization:
            feed(b"normalization", self.normalization.encode())
        return digest.hexdigest()

    def recover_merges(self) -> list[Pair]:
        """The pair of ids that makes each token of more than one byte, in the order of the ranks.

        Each is found by merging the token's bytes with the lower ranks alone, which must leave two parts.

        Raises:
            VocabError: a token cannot be reached so.
        """
        from bpetok.reference import merge_pretoken

        if self.merges is not None:
            return list(self.merges)
        merges: list[Pair] = []
        lower: dict[bytes, int] = {}
        for token, rank in sorted(self.ranks.items(), key=lambda item: (len(item[0]) > 1, item[1])):
            if len(token) > 1:
                parts = merge_pretoken(token, lower)
                if len(parts) != 2:
                    raise VocabError(f"vocab: no merge of two tokens of lower rank makes {token!r} (id {rank})")
                merges.append((parts[0], parts[1]))
            lower[token] = rank
        return merges


def _pairs(merges: Iterable[Iterable[int]]) -> tuple[Pair, ...]:
    try:
        return tuple([(left, right) for left, right in merges])
    except (TypeError, ValueError):
        raise VocabError("vocab: merges must be pairs of ids") from None


def _rebuild(kind: type[Vocab], parts: Sequence[Any], manners: Mapping[str, Any]) -> Vocab:
    return kind(*parts, **manners)


def _also_merges(special: str) -> VocabError:
    return VocabError(f"vocab: a special token must not also merge, got {special!r}")


def _numbered(special_tokens: Iterable[str], first: int) -> dict[str, int]:
    specials: dict[str, int] = {}
    for text in special_tokens:
        if text in specials:
            raise VocabError(f"vocab: a special token must be named once, got {text!r} twice")
        specials[text] = first + len(specials)
    return specials
