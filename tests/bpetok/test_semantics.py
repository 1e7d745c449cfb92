"""Where the two semantics of merging differ, against what the texts' ids say."""

import random

import pytest

import bpetok
from bpetok import Vocab
from bpetok.semantics import as_list, as_ranks, semantic_differences

BYTES = {bytes([byte]): byte for byte in range(256)}


def random_vocab(seed):
    rng = random.Random(f"semantics {seed}")
    tokens, pairs = [bytes([byte]) for byte in range(256)], []
    for _ in range(rng.choice([2, 6, 15])):
        pair = tuple(rng.choice([97, 98, 99, *range(256, len(tokens))]) for _ in range(2))
        made = tokens[pair[0]] + tokens[pair[1]]
        if made not in tokens and len(made) < 8:
            tokens.append(made)
            pairs.append(pair)
    if rng.random() < 0.5:
        i, j = rng.randrange(len(pairs)), rng.randrange(len(pairs))
        pairs[i], pairs[j] = pairs[j], pairs[i]
    return Vocab({token: i for i, token in enumerate(tokens)}, {}, "none", pairs, semantics="merges"), rng


def test_no_text_differs_where_the_two_are_said_to_be_the_same():
    same = different = 0
    for seed in range(300):
        vocab, rng = random_vocab(seed)
        by_rank, by_list = bpetok.Tokenizer(as_ranks(vocab)), bpetok.Tokenizer(vocab)
        texts = ["".join(rng.choice("abc") for _ in range(rng.randint(1, 12))) for _ in range(200)]
        differing = [text for text in texts if by_rank.encode(text) != by_list.encode(text)]
        if semantic_differences(vocab).same:
            assert not differing, (seed, differing[:1])
            same += 1
        else:
            different += bool(differing)
    assert same > 20 and different > 20


def test_a_trained_vocabulary_is_the_same_function_either_way(small):
    assert semantic_differences(small.vocab).same
    by_list = bpetok.Tokenizer(as_list(small.vocab))
    text = "lower the quin ʰA 東京 " * 20
    assert by_list.encode(text) == small.encode(text)
    assert as_ranks(by_list.vocab) == small.vocab


def test_each_token_that_is_made_otherwise_is_named():
    ranks = BYTES | {b"ab": 256, b"bc": 257, b"abc": 258, b"bcd": 259}
    merges = [(98, 99), (97, 98), (97, 257)]
    differences = semantic_differences(Vocab(ranks, {}, "none", merges, semantics="merges"))
    assert [(d.token, d.by_rank, d.by_list) for d in differences.tokens] == [
        (b"abc", (b"ab", b"c"), (b"a", b"bc")),
        (b"bcd", (b"bc", b"d"), None),
    ]
    assert differences.out_of_order == (256,) and not differences.same


@pytest.mark.parametrize("name", ["gpt2", pytest.param("cl100k_base", marks=pytest.mark.slow)])
def test_published_ranks_are_the_same_function_as_the_merges_recovered_from_them(encoding, name):
    assert semantic_differences(encoding(name).vocab).same
