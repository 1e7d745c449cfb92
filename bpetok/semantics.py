"""Where a vocabulary makes the two semantics of merging differ: by the rank of the result, and by a list of merges.

By rank, whatever two neighbours make a token may merge, the lowest id first (tiktoken). By list, only listed pairs may,
in the order of the list (Hugging Face, llama.cpp). A token is made of one pair only, whatever stands around it: what
merging its bytes alone leaves before the last merge. So if each token has the same pair either way, and the pairs
stand in the same order, the two are one function of the text; where they do not, it depends on the text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from bpetok import _core
from bpetok.vocab import Pair, Vocab


@dataclass(frozen=True, slots=True)
class DifferentToken:
    """A token that the two semantics make of other parts.

    Attributes:
        token_id: its id.
        token: its bytes.
        by_rank: the two tokens that merge to it by rank; None if merging never gives it.
        by_list: the same by list.
    """

    token_id: int
    token: bytes
    by_rank: tuple[bytes, bytes] | None
    by_list: tuple[bytes, bytes] | None


@dataclass(frozen=True, slots=True)
class SemanticDifferences:
    """What of a vocabulary the two semantics treat differently.

    Attributes:
        tokens: those made of other parts, or by one of the two alone, in the order of their ids.
        out_of_order: the ids of tokens that merge later by list than one of a higher id does.
    """

    tokens: tuple[DifferentToken, ...]
    out_of_order: tuple[int, ...]

    @property
    def same(self) -> bool:
        """Whether the two give the same ids for every text."""
        return not self.tokens and not self.out_of_order


def semantic_differences(vocab: Vocab) -> SemanticDifferences:
    """Compares a vocabulary by rank with its list of merges, or one by list with its ids as ranks.

    A vocabulary by rank that does not know its merges is compared with those that `Vocab.recover_merges` finds.
    A token that merging its bytes gives neither way counts as different: by rank it is found where it is a whole
    pretoken, by list only where merges are ignored for those.

    Raises:
        VocabError: the vocabulary goes by rank, and no merge of two tokens makes one of its tokens.

    >>> ranks = {bytes([byte]): byte for byte in range(256)} | {b"ab": 256, b"bc": 257, b"abc": 258}
    >>> merges = [(98, 99), (97, 98), (97, 257)]
    >>> differences = semantic_differences(Vocab(ranks, merges=merges, semantics="merges"))
    >>> differences.tokens[0]
    DifferentToken(token_id=258, token=b'abc', by_rank=(b'ab', b'c'), by_list=(b'a', b'bc'))
    >>> differences.out_of_order
    (256,)
    """
    listed = vocab.merges if vocab.merges is not None else vocab.recover_merges()
    by_list = _core.ordered_merges(dict(vocab.ranks), list(listed))
    made_by_list = _by_result(vocab, by_list)
    made_by_rank = _by_result(vocab, _rank_merges(vocab))
    tokens = tuple(
        DifferentToken(token_id, vocab[token_id], _parts(vocab, made_by_rank.get(token_id)), _parts(vocab, pair))
        for token_id in sorted(vocab.ranks.values())
        if len(vocab[token_id]) > 1
        and ((pair := made_by_list.get(token_id)) is None or pair != made_by_rank.get(token_id))
    )
    return SemanticDifferences(tokens, tuple(_out_of_order(list(made_by_list))))


def as_ranks(vocab: Vocab) -> Vocab:
    """The same tokens and ids, merged by rank."""
    return replace(vocab, semantics="rank", ignore_merges=False)


def as_list(vocab: Vocab) -> Vocab:
    """The same tokens and ids, merged by the list of the vocabulary's merges, recovered where they are not known."""
    return replace(vocab, semantics="merges", merges=vocab.recover_merges())


def _rank_merges(vocab: Vocab) -> list[Pair]:
    """The pair that makes each token by rank, in the order of the ranks."""
    unreachable = set(_core.Encoder(dict(vocab.ranks), "none", 0).unreachable())
    by_rank = sorted((rank, token) for token, rank in vocab.ranks.items() if len(token) > 1)
    return [_last_pair(token, rank, vocab.ranks) for rank, token in by_rank if token not in unreachable]


def _last_pair(token: bytes, rank: int, ranks: Mapping[bytes, int]) -> Pair:
    """The two parts that merging a token's bytes by the ranks below its own leaves."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        found = [ranks.get(left + right, rank) for left, right in pairwise(parts)]
        at = found.index(min(found))
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return ranks[parts[0]], ranks[parts[1]]


def _by_result(vocab: Vocab, pairs: Sequence[Pair]) -> dict[int, Pair]:
    return {vocab.ranks[vocab[left] + vocab[right]]: (left, right) for left, right in pairs}


def _parts(vocab: Vocab, pair: Pair | None) -> tuple[bytes, bytes] | None:
    return None if pair is None else (vocab[pair[0]], vocab[pair[1]])


def _out_of_order(ids: list[int]) -> list[int]:
    """The ids that stand behind a higher one."""
    highest, late = -1, []
    for token_id in ids:
        if token_id < highest:
            late.append(token_id)
        highest = max(highest, token_id)
    return late
