r"""Byte-pair encoding in plain Python: the definition that the core obeys, and a place to learn it.

A tokenizer turns text into ids in two steps: the text is cut into pretokens, and within each pretoken neighbouring
tokens are merged, beginning with single bytes. The rungs:

- `BasicTokenizer`: no cutting; the whole text is one pretoken.
- `RegexTokenizer`: cuts with a pattern first, so that no token spans two words, and knows special tokens.
- `GPT4Tokenizer`: a `RegexTokenizer` whose tokens are those of GPT-4 (cl100k_base).

The classes have the interface of minbpe (https://github.com/karpathy/minbpe), so its exercises work here. It is
slow, about 0.7 MB a second, and short: `bpetok.Tokenizer` gives the same ids at many times the speed.

The Wikipedia article's example, "aaabdaaabac" with three merges, which it writes XdXac with X=ZY, Y=ab, Z=aa:

>>> tokenizer = BasicTokenizer()
>>> tokenizer.train("aaabdaaabac", vocab_size=256 + 3)
>>> tokenizer.encode("aaabdaaabac")
[258, 100, 258, 97, 99]
>>> print(tokenizer.render(258))
[aa][ab] -> [aaab] 258
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Literal

from bpetok import patterns
from bpetok.errors import SpecialTokenError, UnknownIdError, VocabError
from bpetok.text import BYTE_LEVEL_ORDER, Text, as_bytes

Pair = tuple[int, int]
TieBreak = Literal["smallest", "huggingface", "largest", "first"]

logger = logging.getLogger(__name__)

NEVER = float("inf")  # the rank of a pair that does not merge


# ---- the two steps of the algorithm ------------------------------------------------------------------------------


def count_pairs(ids: list[int], counts: Counter[Pair] | None = None) -> Counter[Pair]:
    """How often each pair of neighbours occurs; adds to `counts` where given. Places that overlap count each.

    >>> count_pairs([1, 2, 3, 1, 2])
    Counter({(1, 2): 2, (2, 3): 1, (3, 1): 1})
    >>> count_pairs([7, 7, 7])
    Counter({(7, 7): 2})
    """
    counts = Counter() if counts is None else counts
    counts.update(pairwise(ids))
    return counts


def merge(ids: list[int], pair: Pair, new_id: int) -> list[int]:
    """The ids with every occurrence of `pair`, from left to right, replaced by `new_id`.

    >>> merge([1, 2, 3, 1, 2], (1, 2), 4)
    [4, 3, 4]
    >>> merge([7, 7, 7], (7, 7), 8)
    [8, 7]
    """
    merged = []
    i = 0
    while i < len(ids):
        if tuple(ids[i : i + 2]) == pair:
            merged.append(new_id)
            i += 2
        else:
            merged.append(ids[i])
            i += 1
    return merged


def merge_pretoken(pretoken: bytes, ranks: Mapping[bytes, int]) -> list[int]:
    """The ids of one pretoken: its own if it is a token, else what merging its bytes leaves.

    Of all neighbours whose concatenation is a token, those with the lowest rank merge first, the leftmost of equal
    ones, until there are none.

    >>> ranks = {b"a": 0, b"b": 1, b"c": 2, b"ab": 3, b"bc": 4}
    >>> merge_pretoken(b"abc", ranks)
    [3, 2]
    >>> merge_pretoken(b"bc", ranks)
    [4]
    """
    if pretoken in ranks:
        return [ranks[pretoken]]
    parts = [bytes([byte]) for byte in pretoken]
    while (lowest := min(_pair_ranks(parts, ranks), default=NEVER)) != NEVER:
        parts = _merge_rank(parts, lowest, ranks)
    return [ranks[part] for part in parts]


def _pair_ranks(parts: list[bytes], ranks: Mapping[bytes, int]) -> list[float]:
    return [ranks.get(left + right, NEVER) for left, right in pairwise(parts)]


def _merge_rank(parts: list[bytes], rank: float, ranks: Mapping[bytes, int]) -> list[bytes]:
    """Merges what has this rank, from left to right, as long as no merge makes a pair of lower rank.

    Training never gives a longer token a lower rank than its parts, so there the pass always goes to the end.
    """
    merged: list[bytes] = []
    i = 0
    while i < len(parts):
        if ranks.get(b"".join(parts[i : i + 2]), NEVER) != rank or i + 1 == len(parts):
            merged.append(parts[i])
            i += 1
            continue
        merged.append(parts[i] + parts[i + 1])
        i += 2
        if min(_pair_ranks([*merged[-2:], *parts[i : i + 1]], ranks), default=NEVER) < rank:
            break
    return merged + parts[i:]


def merge_by_list(ids: list[int], merges: Mapping[Pair, int]) -> list[int]:
    """What the listed merges leave of ids: the earliest of the list first, the leftmost of equal ones.

    These are Hugging Face's semantics; those above are tiktoken's. `merges`: pair -> id, in order.

    >>> merge_by_list([0, 1, 2], {(1, 2): 4, (0, 1): 3})
    [0, 4]
    """
    order = {pair: place for place, pair in enumerate(merges)}
    while places := [(order[pair], at) for at, pair in enumerate(pairwise(ids)) if pair in order]:
        _, at = min(places)
        ids = [*ids[:at], merges[ids[at], ids[at + 1]], *ids[at + 2 :]]
    return ids


def split(pattern: patterns.Pattern, text: Text) -> list[bytes]:
    r"""The pretokens of a text, which cover every byte of it.

    Text that the pattern skips is a pretoken of its own. So is each maximal run of bytes that are not UTF-8; the
    valid text on either side of it is cut as if it stood alone.

    >>> split("gpt2", "Hello, world!")
    [b'Hello', b',', b' world', b'!']
    >>> split("gpt2", b"a \xff\xff b")
    [b'a', b' ', b'\xff\xff', b' b']
    """
    data = as_bytes(text)
    if pattern is None:
        return [data] if data else []
    expressions = [patterns.pinned(patterns.resolve(step)) for step in patterns.resolve(pattern).steps]
    pretokens = []
    # Bytes that are no UTF-8 decode, one by one, to the lone surrogates U+DC80 to U+DCFF.
    for part in re.split("([\udc80-\udcff]+)", data.decode("utf-8", "surrogateescape")):
        if "\udc80" <= part[:1] <= "\udcff":
            pretokens.append(part.encode("utf-8", "surrogateescape"))
        else:
            pieces = [part]
            for expression in expressions:
                pieces = [cut for piece in pieces for cut in patterns.cut(expression, piece)]
            pretokens += [piece.encode() for piece in pieces if piece]
    return pretokens


# ---- the tokenizers ----------------------------------------------------------------------------------------------


class BasicTokenizer:
    """Byte-pair encoding of the whole text as one pretoken.

    Attributes:
        merges: (left id, right id) -> id, in the order in which they were learned.
        vocab: id -> bytes, special tokens included.
        ranks: bytes -> id of the tokens that merge.
        pattern: the split pattern's name or expression, None here.
        special_tokens: text -> id.
    """

    def __init__(self) -> None:
        """256 single bytes, no merges."""
        self.merges: dict[Pair, int] = {}
        self.pattern: str | None = None
        self.special_tokens: dict[str, int] = {}
        self._derive()

    def _derive(self) -> None:
        self.vocab = {byte: bytes([byte]) for byte in range(256)}
        for (left, right), new_id in self.merges.items():
            self.vocab[new_id] = self.vocab[left] + self.vocab[right]
        self.ranks = {token: token_id for token_id, token in self.vocab.items()}
        self.vocab.update({token_id: text.encode() for text, token_id in self.special_tokens.items()})

    def train(self, text: Text, vocab_size: int, verbose: bool = False, *, tie_break: TieBreak = "smallest") -> None:
        """Learns merges from a text until there are `vocab_size` tokens, or no pair is left.

        Each step merges the pair that occurs most often. Among equal counts `smallest` takes the smallest left id,
        then right id (rustbpe), `huggingface` the same with the bytes in the order of its byte-level alphabet,
        `largest` the left token with the greatest bytes, then the right one (subword-nmt), `first` the pair met first
        in the text (minbpe). `verbose` logs each step.

        Raises:
            VocabError: `vocab_size` is under 256.
        """
        if vocab_size < 256:
            raise VocabError(f"train: vocab_size must be at least 256, one for each byte, got {vocab_size}")
        chunks = [list(pretoken) for pretoken in split(self.pattern, text)]
        self.merges = {}
        self._derive()
        for new_id in range(256, vocab_size):
            counts: Counter[Pair] = Counter()
            for ids in chunks:
                count_pairs(ids, counts)
            if not counts:
                break
            pair = self._best_pair(counts, tie_break)
            chunks = [merge(ids, pair, new_id) for ids in chunks]
            self.merges[pair] = new_id
            self.vocab[new_id] = self.vocab[pair[0]] + self.vocab[pair[1]]
            if verbose:
                logger.info("merge %d: %s, which occurred %d times", new_id, pair, counts[pair])
        self._derive()

    def _best_pair(self, counts: Counter[Pair], tie_break: TieBreak) -> Pair:
        most = max(counts.values())
        best = [pair for pair, count in counts.items() if count == most]  # in the order in which they were met
        if tie_break == "first":
            return best[0]
        if tie_break == "largest":
            return max(best, key=lambda pair: (self.vocab[pair[0]], self.vocab[pair[1]]))
        if tie_break == "huggingface":
            return min(best, key=lambda pair: [BYTE_LEVEL_ORDER[i] if i < 256 else i for i in pair])
        return min(best)

    def encode(self, text: Text) -> list[int]:
        """The ids of a text."""
        return [token_id for pretoken in split(self.pattern, text) for token_id in merge_pretoken(pretoken, self.ranks)]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes that the ids stand for.

        Raises:
            UnknownIdError: no token has one of the ids.
        """
        try:
            return b"".join([self.vocab[token_id] for token_id in ids])
        except KeyError as error:
            raise UnknownIdError(f"decode: no token has the id {error.args[0]}") from None

    def decode(self, ids: Iterable[int]) -> str:
        """The text that the ids stand for; bytes that are no UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def render(self, token_id: int) -> str:
        """One token for the eye: its two parts, itself and its id, control characters escaped."""
        shown = {i: _printable(self.vocab[i]) for i in (token_id, *self._parts(token_id))}
        parts = "".join(f"[{shown[i]}]" for i in self._parts(token_id))
        return f"{parts} -> [{shown[token_id]}] {token_id}" if parts else f"[{shown[token_id]}] {token_id}"

    def _parts(self, token_id: int) -> tuple[int, ...]:
        return next((pair for pair, new_id in self.merges.items() if new_id == token_id), ())

    def save(self, file_prefix: str | Path) -> None:
        """Writes `PREFIX.model`, which `load` reads, and `PREFIX.vocab`, one rendered token a line."""
        from bpetok.formats import minbpe

        minbpe.write_model(Path(f"{file_prefix}.model"), self.pattern, self.special_tokens, list(self.merges))
        lines = [self.render(token_id) for token_id in self.vocab]
        Path(f"{file_prefix}.vocab").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def load(self, model_file: str | Path) -> None:
        """Takes over the pattern, the special tokens and the merges of a `.model` file."""
        from bpetok.formats import minbpe

        self.pattern, self.special_tokens, pairs = minbpe.read_model(Path(model_file))
        self.merges = {pair: 256 + i for i, pair in enumerate(pairs)}
        self._derive()


class RegexTokenizer(BasicTokenizer):
    """Byte-pair encoding within the pretokens of a split pattern, with special tokens.

    >>> tokenizer = RegexTokenizer("gpt2")
    >>> tokenizer.train("low lower lowest", vocab_size=256 + 4)
    >>> [tokenizer.vocab[token_id] for token_id in tokenizer.encode("slow low")]
    [b's', b'low', b' low']
    >>> tokenizer.register_special_tokens({"<|endoftext|>": 260})
    >>> tokenizer.encode("low<|endoftext|>", allowed_special="all")
    [257, 260]
    """

    def __init__(self, pattern: str | None = "gpt4") -> None:
        """`pattern`: a name, a regular expression, or None; GPT-4's unless told."""
        super().__init__()
        self.pattern = pattern

    def register_special_tokens(self, special_tokens: Mapping[str, int]) -> None:
        """Sets the special tokens: texts that are never merged, each with its id."""
        self.special_tokens = dict(special_tokens)
        self._derive()

    def encode_ordinary(self, text: Text) -> list[int]:
        """The ids of a text in which special tokens are nothing special."""
        return super().encode(text)

    def encode(
        self, text: Text, allowed_special: Literal["all", "none", "none_raise"] | Collection[str] = "none_raise"
    ) -> list[int]:
        """The ids of a text.

        Args:
            text: the text.
            allowed_special: which special tokens become their id: "all", the named ones, or "none", where they are
                text; "none_raise" refuses a text that holds one.

        Raises:
            SpecialTokenError: the text holds a special token and `allowed_special` is "none_raise".
        """
        data = as_bytes(text)
        if allowed_special == "none_raise":
            if found := [special for special in self.special_tokens if special.encode() in data]:
                raise SpecialTokenError(
                    f"encode: the text holds the special token {found[0]!r}, which was not allowed",
                    hint='pass allowed_special="all" to make it an id, "none" to take it as text',
                )
            allowed_special = "none"
        named = {"all": self.special_tokens, "none": ()}.get(str(allowed_special), allowed_special)
        allowed = {text.encode(): token_id for text, token_id in self.special_tokens.items() if text in named}
        if not allowed:
            return self.encode_ordinary(data)
        longest_first = sorted(map(re.escape, allowed), key=len, reverse=True)
        ids = []
        for i, part in enumerate(re.split(b"(" + b"|".join(longest_first) + b")", data)):
            ids += [allowed[part]] if i % 2 else self.encode_ordinary(part)
        return ids


class GPT4Tokenizer(RegexTokenizer):
    """GPT-4's tokenizer, from the published ranks of cl100k_base; it cannot be trained or saved.

    GPT-4's ids of the single bytes are not the bytes' own values, which is why `ranks`, and not `merges`, leads here.
    """

    def __init__(self) -> None:
        """Reads cl100k_base as `bpetok.get_encoding` does."""
        from bpetok.encodings import get_encoding

        super().__init__("gpt4")
        vocab = get_encoding("cl100k_base").vocab
        self.ranks = dict(vocab.ranks)
        self.special_tokens = dict(vocab.special_tokens)
        self.merges = {pair: self.ranks[vocab[pair[0]] + vocab[pair[1]]] for pair in vocab.recover_merges()}
        self.vocab = {token_id: token for token, token_id in vocab.ranks.items()}
        self.vocab |= {token_id: text.encode() for text, token_id in self.special_tokens.items()}

    def train(self, *args: object, **kwargs: object) -> None:
        """Refused."""
        raise NotImplementedError("GPT4Tokenizer is a trained tokenizer; train a RegexTokenizer")

    def save(self, file_prefix: str | Path) -> None:
        """Refused: the format gives byte b the id b."""
        raise NotImplementedError("minbpe's format cannot hold GPT-4's byte order; use bpetok.get_encoding(...).save")

    def load(self, model_file: str | Path) -> None:
        """Refused."""
        raise NotImplementedError("GPT4Tokenizer cannot be loaded; load a RegexTokenizer")


# ---- small parts -------------------------------------------------------------------------------------------------


def _printable(token: bytes) -> str:
    text = token.decode("utf-8", "replace")
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)
