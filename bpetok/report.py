r"""Measures of a vocabulary: what is in it, what it does to a text, how a token came to be, where two of them differ.

>>> import bpetok
>>> tok = bpetok.train("low lower lowest", vocab_size=260, pattern="gpt2")
>>> [(readable(node.token), node.id) for node in derive(tok.vocab, b"low")[0].walk()]
[('low', 257), ('lo', 256), ('l', 108), ('o', 111), ('w', 119)]
>>> use = measure_text(tok, [b"slow low"])
>>> use.tokens, round(use.bytes_per_token, 2), use.scripts[0].script
(3, 2.67, 'Latin')
"""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from bpetok import semantics
from bpetok.errors import DataError, IncompatibleError
from bpetok.tokenizer import Tokenizer
from bpetok.vocab import Pair, Vocab

if TYPE_CHECKING:
    import numpy as np
    import regex
    from numpy.typing import NDArray

# fmt: off
SCRIPTS = (
    "Latin", "Greek", "Cyrillic", "Armenian", "Hebrew", "Arabic", "Syriac", "Thaana", "Devanagari", "Bengali",
    "Gurmukhi", "Gujarati", "Oriya", "Tamil", "Telugu", "Kannada", "Malayalam", "Sinhala", "Thai", "Lao",
    "Tibetan", "Myanmar", "Georgian", "Hangul", "Ethiopic", "Cherokee", "Khmer", "Mongolian", "Hiragana",
    "Katakana", "Bopomofo", "Han",
)
# fmt: on
"""The scripts of Unicode that are told apart; letters of all others are "other scripts"."""
UNSPACED = frozenset({"Thai", "Lao", "Khmer", "Myanmar", "Hiragana", "Katakana", "Han"})
"""Scripts that put no blanks between words, so that tokens per word means nothing."""
OTHER_SCRIPTS, NO_SCRIPT = "other scripts", "no script"
LONGEST_DERIVED = 512  # bytes; the work grows with their square
RENYI_ORDER = 2.5
_PIECE = 1 << 20  # ids that are looked at together
_ESCAPES = {"\n": r"\n", "\r": r"\r", "\t": r"\t", "\\": r"\\"}
_UNESCAPES = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"\\": b"\\"}


# ---- tokens as people read them --------------------------------------------------------------------------------------


def readable(token: bytes) -> str:
    r"""The token as text on one line: what cannot be shown, half a character too, as \xHH a byte; \n, \r, \t and \\.

    >>> readable("né\n".encode() + b"\xe4\xb8")
    'né\\n\\xe4\\xb8'
    """
    shown = []
    for char in token.decode("utf-8", "surrogateescape"):
        raw = "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))
        shown.append(_ESCAPES.get(char) or (char if char.isprintable() else raw))
    return "".join(shown)


def from_readable(text: str) -> bytes:
    r"""The bytes that `readable` shows as this text. A backslash before anything else is a backslash.

    >>> from_readable(r"n\xc3\xa9\n") == "né\n".encode()
    True
    """

    def unescape(match: re.Match[bytes]) -> bytes:
        return _UNESCAPES.get(match[1]) or bytes.fromhex(match[1][1:].decode())

    return re.sub(rb"\\(x[0-9a-fA-F]{2}|[nrt\\])", unescape, text.encode("utf-8", "surrogateescape"))


# ---- how a token came to be ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Derivation:
    """A token and the two that were merged into it, and so on down to the single bytes.

    Attributes:
        token: its bytes.
        id: its id.
        rank: what decided when it was merged: its id by "rank", the place in the list of merges, from 0, by "merges".
            None for a single byte.
        parts: the two tokens; none for a single byte.
    """

    token: bytes
    id: int
    rank: int | None = None
    parts: tuple[Derivation, ...] = ()

    def walk(self) -> Iterator[Derivation]:
        """This token, and all those that it was merged from, the left ones first."""
        yield self
        for part in self.parts:
            yield from part.walk()

    def to_dict(self) -> dict[str, Any]:
        """As JSON values: `token` as `readable` shows it, `id`, `rank`, `parts`."""
        parts = [part.to_dict() for part in self.parts]
        return {"token": readable(self.token), "id": self.id, "rank": self.rank, "parts": parts}


def derive(vocab: Vocab, data: bytes) -> list[Derivation]:
    """What merging turns the bytes into, and how: one derivation where it ends in a single token.

    The bytes are merged as one pretoken is. That a pretoken which is itself a token has its id at once, is left out:
    so a token that no merge makes is seen as the several that its bytes become.

    Args:
        vocab: the vocabulary.
        data: the bytes, 512 at most.

    Raises:
        DataError: there are no bytes, or too many.
    """
    if not 1 <= len(data) <= LONGEST_DERIVED:
        raise DataError(f"derive: data must be 1 to {LONGEST_DERIVED} bytes, got {len(data)}")
    ranks = vocab.ranks
    listed: dict[Pair, int] = {}
    if vocab.semantics == "merges":
        listed = {pair: place for place, pair in enumerate(vocab.merges or ())}
    nodes = [Derivation(bytes([byte]), ranks[bytes([byte])]) for byte in data]

    def rank_of(left: Derivation, right: Derivation) -> int | None:
        by_list = vocab.semantics == "merges"
        return listed.get((left.id, right.id)) if by_list else ranks.get(left.token + right.token)

    while True:
        pairs = [(rank_of(left, right), at) for at, (left, right) in enumerate(pairwise(nodes))]
        rank, at = min(((rank, at) for rank, at in pairs if rank is not None), default=(None, 0))
        if rank is None:
            return nodes
        token = nodes[at].token + nodes[at + 1].token
        nodes[at : at + 2] = [Derivation(token, ranks[token], rank, (nodes[at], nodes[at + 1]))]


# ---- what a vocabulary holds -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class VocabUse:
    """What is in a vocabulary, whatever the text.

    Attributes:
        tokens: how many tokens merge, the 256 bytes among them; special tokens do not count.
        unreachable: tokens that no merge makes, by id. They are ids only where they are a whole pretoken.
        partial: how many tokens of several bytes are not whole characters.
        near_duplicates: groups of tokens that are the same but for one leading blank or for case, the largest first.
        longest: the ten longest tokens, in bytes.
    """

    tokens: int
    unreachable: tuple[bytes, ...]
    partial: int
    near_duplicates: tuple[tuple[bytes, ...], ...]
    longest: tuple[bytes, ...]

    @property
    def in_near_duplicates(self) -> int:
        """How many tokens a vocabulary would have less if of each such group only one was kept."""
        return sum(len(group) - 1 for group in self.near_duplicates)


def measure_vocab(tok: Tokenizer) -> VocabUse:
    """What is in a tokenizer's vocabulary.

    Cost: a second for 200,000 tokens.
    """
    groups: dict[str, list[bytes]] = defaultdict(list)
    ranks = tok.vocab.ranks
    partial = 0
    for token in sorted(ranks, key=ranks.__getitem__):
        try:
            key = token.decode().removeprefix(" ").lower()
        except UnicodeDecodeError:
            partial += len(token) > 1
        else:
            groups[key].append(token)
    near = sorted((tuple(group) for key, group in groups.items() if key and len(group) > 1), key=len, reverse=True)
    unreachable = sorted(tok._encoder.unreachable(), key=ranks.__getitem__)
    return VocabUse(len(ranks), tuple(unreachable), partial, tuple(near), longest(tok.vocab))


def longest(vocab: Vocab, how_many: int = 10) -> tuple[bytes, ...]:
    """The longest tokens in bytes, of equally long ones those of lower id."""
    return tuple(sorted(vocab.ranks, key=lambda token: (-len(token), vocab.ranks[token]))[:how_many])


# ---- what it does to a text ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ScriptUse:
    """The part of a text in one script.

    Attributes:
        script: Unicode's name of it, "other scripts" for letters of the rest, "no script" for digits, punctuation,
            blanks and symbols.
        tokens: tokens of which this is the first script; so a blank before a word counts with the word.
        bytes: the bytes of those tokens.
        characters: characters of the script.
        words: words that begin in it: letters and marks in a row.
    """

    script: str
    tokens: int
    bytes: int
    characters: int
    words: int

    @property
    def bytes_per_token(self) -> float:
        """Bytes per token, NaN where there are none."""
        return _ratio(self.bytes, self.tokens)

    @property
    def fertility(self) -> float | None:
        """Tokens per word; None for a script that puts no blanks between words, and where there are none."""
        spaced = self.script not in UNSPACED and self.script != NO_SCRIPT
        return self.tokens / self.words if spaced and self.words else None

    @property
    def tokens_per_character(self) -> float:
        """Tokens per character of the script, NaN where there are none."""
        return _ratio(self.tokens, self.characters)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        fertility = None if self.fertility is None else round(self.fertility, 4)
        return dataclasses.asdict(self) | {
            "bytes_per_token": round(self.bytes_per_token, 4) if self.tokens else None,
            "fertility": fertility,
        }


@dataclass(frozen=True, slots=True, eq=False)
class TextUse:
    """What a tokenizer does to a text, in which special tokens are text.

    Attributes:
        bytes: bytes of the text.
        characters: characters of the text; a byte that is not UTF-8 counts as one.
        tokens: how many ids it has.
        scripts: by script, that with most tokens first.
        counts: how often each id occurs, int64, shape (ids,).
    """

    bytes: int
    characters: int
    tokens: int
    scripts: tuple[ScriptUse, ...]
    counts: NDArray[np.int64]

    @property
    def bytes_per_token(self) -> float:
        """Bytes per token, NaN for no text."""
        return _ratio(self.bytes, self.tokens)

    @property
    def fertility(self) -> float:
        """Tokens per word over the scripts that put blanks between words, NaN where there are none."""
        spaced = [use for use in self.scripts if use.fertility is not None]
        return _ratio(sum(use.tokens for use in spaced), sum(use.words for use in spaced))

    def renyi_efficiency(self, tokens: int) -> float:
        """How evenly a vocabulary of so many tokens is used: 1 if all are equally frequent, 0 if only one occurs.

        The Rényi entropy of order 2.5 of the ids, as a share of the greatest possible one.
        Source: Zouhar et al. 2023, "Tokenization and the Noiseless Channel".
        """
        import numpy as np

        if self.tokens == 0 or tokens < 2:
            return float("nan")
        share = self.counts[self.counts > 0] / self.tokens
        entropy = np.log((share**RENYI_ORDER).sum()) / (1 - RENYI_ORDER)
        return float(entropy / np.log(tokens))


def measure_text(tok: Tokenizer, chunks: Iterable[bytes]) -> TextUse:
    """What a tokenizer does to a text that comes in chunks, cut anywhere.

    Cost: some 10 MB a second; memory as `Tokenizer.encode_stream`.
    """
    import numpy as np

    names = [NO_SCRIPT, *SCRIPTS, OTHER_SCRIPTS]
    lengths = tok.token_byte_lengths()
    counts = np.zeros(tok.n_vocab, np.int64)
    sums = np.zeros((4, len(names)), np.int64)  # tokens, bytes, characters, words
    size = characters = 0
    in_word = False
    for ids, data in _pieces(tok, chunks):
        counts += np.bincount(ids, minlength=tok.n_vocab)
        text = data.decode("utf-8", "surrogateescape")
        scripts, letters, widths = _classify(text)
        begins = letters & ~np.concatenate([[in_word], letters[:-1]])
        of_token = _first_scripts(np.repeat(scripts, widths), lengths[ids])
        sums[0] += np.bincount(of_token, minlength=len(names))
        sums[1] += np.bincount(of_token, lengths[ids], minlength=len(names)).astype(np.int64)
        sums[2] += np.bincount(scripts, minlength=len(names))
        sums[3] += np.bincount(scripts[begins], minlength=len(names))
        size += len(data)
        characters += len(text)
        in_word = bool(letters[-1])
    uses = [ScriptUse(name, *map(int, column)) for name, column in zip(names, sums.T, strict=True) if column.any()]
    uses.sort(key=lambda use: -use.tokens)
    return TextUse(size, characters, int(counts.sum()), tuple(uses), counts)


def _pieces(tok: Tokenizer, chunks: Iterable[bytes]) -> Iterator[tuple[NDArray[np.uint32], bytes]]:
    """The ids of a text and their bytes, some at a time; no piece begins within a character."""
    for ids in tok.encode_stream(chunks):
        begin = 0
        while begin < len(ids):
            end = min(begin + _PIECE, len(ids))
            while end < len(ids) and tok.decode_single_token_bytes(int(ids[end]))[0] & 0xC0 == 0x80:
                end += 1
            yield ids[begin:end], tok.decode_bytes(ids[begin:end])
            begin = end


def _first_scripts(scripts: NDArray[np.uint8], lengths: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The first script in each token, given that of each byte; 0 where a token has none."""
    import numpy as np

    ends = np.cumsum(lengths)
    with_one = np.append(np.flatnonzero(scripts), len(scripts))
    first = with_one[np.searchsorted(with_one, ends - lengths)]
    return np.where(first < ends, np.append(scripts, np.uint8(0))[first], np.uint8(0))


def _classify(text: str) -> tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.int64]]:
    """For each character: its script by number, whether it is a letter or mark, and its bytes in UTF-8."""
    import numpy as np

    table = _class_table()
    code_points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    for code_point in np.unique(code_points[table[code_points] == _UNSEEN]).tolist():
        table[code_point] = _class_of(chr(code_point))
    classes = table[code_points]
    widths = 1 + (code_points >= 0x80).astype(np.int64) + (code_points >= 0x800) + (code_points >= 0x10000)
    widths[(code_points >= 0xDC80) & (code_points <= 0xDCFF)] = 1  # a byte that is not UTF-8
    return classes & np.uint8(0x7F), classes >= _LETTER, widths


_LETTER, _UNSEEN = 0x80, 0x7F


@cache
def _class_table() -> NDArray[np.uint8]:
    """By code point: the script's number, and 0x80 more for letters and marks; 0x7F where nobody has looked."""
    import numpy as np

    return np.full(0x110000, _UNSEEN, np.uint8)


def _class_of(char: str) -> int:
    script = next((number for number, one in enumerate(_script_patterns()) if one.match(char)), len(SCRIPTS) + 1)
    return script + _LETTER * bool(_letter_pattern().match(char))


@cache
def _script_patterns() -> list[regex.Pattern[str]]:
    import regex

    without = regex.compile(r"[\p{Script=Common}\p{Script=Inherited}\p{Script=Unknown}]")
    return [without, *(regex.compile(rf"\p{{Script={name}}}") for name in SCRIPTS)]


@cache
def _letter_pattern() -> regex.Pattern[str]:
    import regex

    return regex.compile(r"[\p{L}\p{M}]")


def _ratio(over: float, under: float) -> float:
    return over / under if under else float("nan")


# ---- both together ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Report:
    """A vocabulary and what it does to a text: `bpetok report`, and its page.

    Attributes:
        vocab: the vocabulary.
        holds: what is in it.
        use: what it does to the text.
    """

    vocab: Vocab
    holds: VocabUse
    use: TextUse

    @property
    def never_used(self) -> list[bytes]:
        """The tokens of several bytes that the text never needs, by id."""
        ranks, counts = self.vocab.ranks, self.use.counts
        return sorted((token for token in ranks if len(token) > 1 and counts[ranks[token]] == 0), key=ranks.__getitem__)

    def most_used(self, how_many: int = 20) -> list[tuple[bytes, int]]:
        """The most frequent tokens and how often each occurs."""
        import numpy as np

        order = np.argsort(-self.use.counts, kind="stable")[:how_many]
        return [(self.vocab[int(i)], int(self.use.counts[i])) for i in order if self.use.counts[i] > 0]

    def to_dict(self, how_many: int = 20) -> dict[str, Any]:
        """As JSON values; of each list of tokens the first `how_many`, as `readable` shows them, beside its length."""
        never = self.never_used
        groups = self.holds.near_duplicates
        return {
            "tokenizer": self.vocab.name,
            "fingerprint": self.vocab.fingerprint,
            "tokens_in_vocabulary": self.holds.tokens,
            "text": {
                "bytes": self.use.bytes,
                "characters": self.use.characters,
                "tokens": self.use.tokens,
                "bytes_per_token": _json_number(self.use.bytes_per_token),
                "fertility": _json_number(self.use.fertility),
                "renyi_efficiency": _json_number(self.use.renyi_efficiency(self.holds.tokens)),
                "scripts": [use.to_dict() for use in self.use.scripts],
                "most_used": [{"token": readable(token), "count": n} for token, n in self.most_used(how_many)],
            },
            "never_used": _listed(never, how_many),
            "unreachable": _listed(self.holds.unreachable, how_many),
            "partial_characters": self.holds.partial,
            "near_duplicates": {
                "groups": len(groups),
                "tokens": sum(map(len, groups)),
                "largest": [[readable(token) for token in group] for group in groups[:how_many]],
            },
            "longest": [readable(token) for token in self.holds.longest],
        }


def measure(tok: Tokenizer, chunks: Iterable[bytes]) -> Report:
    """What is in a tokenizer's vocabulary, and what it does to a text that comes in chunks."""
    return Report(tok.vocab, measure_vocab(tok), measure_text(tok, chunks))


def _listed(tokens: Sequence[bytes], how_many: int) -> dict[str, Any]:
    return {"count": len(tokens), "first": [readable(token) for token in tokens[:how_many]]}


def _json_number(value: float) -> float | None:
    return None if value != value else round(value, 4)


# ---- where several differ --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Difference:
    """A span of text that not all tokenizers cut alike; they agree on where it begins and ends.

    Attributes:
        byte: where it begins, in bytes.
        line: likewise, in lines from 1.
        cuts: the tokens of each tokenizer.
    """

    byte: int
    line: int
    cuts: tuple[tuple[bytes, ...], ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """How several tokenizers cut one text.

    Attributes:
        bytes: bytes of the text.
        tokens: how many ids it has in each.
        spans: how many spans they do not cut alike.
        span_bytes: the bytes of all those spans.
        first: the first of them.
    """

    bytes: int
    tokens: tuple[int, ...]
    spans: int
    span_bytes: int
    first: tuple[Difference, ...]


def compare(toks: Sequence[Tokenizer], data: bytes, *, how_many: int = 10) -> Comparison:
    """How several tokenizers cut a text, special tokens in it being text.

    Args:
        toks: the tokenizers.
        data: the text.
        how_many: so many of the differences are shown.

    Raises:
        IncompatibleError: one of them changes the text before it cuts it, so that its tokens have other places.
    """
    import numpy as np

    borders = [_borders(tok, data) for tok in toks]
    common = borders[0]
    for one in borders[1:]:
        common = np.intersect1d(common, one, assume_unique=True)
    inside = np.max([np.diff(np.searchsorted(one, common)) for one in borders], axis=0) if len(common) > 1 else common
    spans = np.flatnonzero(inside > 1)
    sizes = common[spans + 1] - common[spans]
    first = []
    for span in spans[:how_many].tolist():
        begin, end = int(common[span]), int(common[span + 1])
        first.append(
            Difference(begin, data.count(b"\n", 0, begin) + 1, tuple(_cut(data, begin, end, b) for b in borders))
        )
    return Comparison(len(data), tuple(len(one) - 1 for one in borders), len(spans), int(sizes.sum()), tuple(first))


def _borders(tok: Tokenizer, data: bytes) -> NDArray[np.int64]:
    """Where the tokens of a text begin, and its end."""
    import numpy as np

    ids = tok.encode_to_numpy(data, disallowed_special=())
    if tok.vocab.normalization and tok.decode_bytes(ids) != data:
        raise IncompatibleError(
            f"{tok.name}: brings text to {tok.vocab.normalization} and so changes this one",
            hint=f"bring the text to {tok.vocab.normalization} first",
        )
    return np.concatenate([[0], np.cumsum(tok.token_byte_lengths()[ids])])


def _cut(data: bytes, begin: int, end: int, borders: NDArray[np.int64]) -> tuple[bytes, ...]:
    import numpy as np

    inner = borders[np.searchsorted(borders, begin) : np.searchsorted(borders, end) + 1].tolist()
    return tuple(data[left:right] for left, right in pairwise(inner))


def with_other_semantics(vocab: Vocab) -> Vocab:
    """The same tokens under the other way of merging, by a list of merges instead of by rank or by rank instead.

    Where `compare` finds the two to cut alike, the vocabulary may be taken to libraries of either kind.

    Raises:
        VocabError: a token has no merge, so there is no list; or the other way is not possible.
    """
    other = semantics.as_list(vocab) if vocab.semantics == "rank" else semantics.as_ranks(vocab)
    return dataclasses.replace(other, name=f"{vocab.name}, {other.semantics}")
