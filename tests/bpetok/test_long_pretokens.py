"""Pretokens longer than a window of 64 bytes: merged window by window, they have the ids of the definition."""

import random
import time
from itertools import pairwise

import pytest

import bpetok
from bpetok import reference

BYTES = [bytes([byte]) for byte in range(256)]


def tokenizer(tokens, draw=None):
    """Of single bytes and these tokens, without a split; ids in the order given, or drawn."""
    tokens = [*BYTES, *dict.fromkeys(token for token in tokens if len(token) > 1)]
    ids = draw.sample(range(2 * len(tokens)), len(tokens)) if draw else range(len(tokens))
    return bpetok.Tokenizer(bpetok.Vocab(dict(zip(tokens, ids, strict=True)), pattern=None))


def parts_of(draw, text, number, longest):
    for _ in range(number):
        begin = draw.randrange(len(text))
        yield text[begin : begin + draw.randint(2, longest)]


# ---- families: a random source -> a tokenizer and texts --------------------------------------------------------------


def random_parts(draw):
    """Tokens of every length, drawn from texts of few letters; many are unreachable."""
    letters = draw.choice([b"ab", b"abc", b"abcdefgh"])
    sample = bytes(draw.choices(letters, k=2000)) + draw.choice([b"a", b"ab", b"abc"]) * 300
    tokens = parts_of(draw, sample, draw.choice([5, 40, 400]), draw.choice([2, 4, 10, 40, 200]))
    return tokenizer(tokens, draw), [bytes(draw.choices(letters, k=size)) for size in (65, 130, 500, 1500)]


def trained(draw):
    """What training finds in texts of few letters."""
    letters = draw.choice([b"ab", b"abc", b"aaab", b"abcdefgh"])
    tok = bpetok.train([bytes(draw.choices(letters, k=3000)).decode()], vocab_size=400, pattern=None)
    return tok, [bytes(draw.choices(letters, k=size)) for size in (65, 200, 1500)]


def periods(draw):
    """Texts of one period, longer than the window or shorter, and tokens of its parts."""
    period = bytes(draw.choices(b"abc", k=draw.choice([1, 2, 3, 7, 30, 63, 64, 65, 90])))
    tokens = parts_of(draw, period * 300, draw.choice([3, 30, 200]), draw.choice([3, 20, 150]))
    return tokenizer(tokens, draw), [(period * 2000)[: draw.randint(65, 2000)] for _ in range(3)]


def runs(draw):
    """Tokens that are runs of one letter, up to many windows long, among other letters."""
    sizes = draw.sample(range(2, draw.choice([9, 70, 400])), k=draw.choice([2, 5]))
    made = [b"a" * size for size in sorted(sizes) for size in {size // 2, size}]
    texts = [b"a" * draw.randint(65, 3000), b"b" + b"a" * draw.randint(65, 3000)]
    texts.append(b"".join(b"a" * draw.randint(1, 500) + b"b" for _ in range(6)))
    return tokenizer([*made, b"ab", b"ba"], draw if draw.random() < 0.5 else None), texts


def chains(draw):
    """The pair at the end of a long chain merges first, so that where the chain ends says how it begins."""
    chain = bytes(draw.sample(range(256), k=draw.choice([50, 65, 100, 199, 256])))
    pairs = [chain[i : i + 2] for i in range(len(chain) - 1)]
    fours = [chain[i : i + 4] for i in range(len(chain) - 3)]
    cuts = sorted(draw.choices(range(len(chain)), k=20))
    texts = [chain * 5, b"".join(chain[cut:] for cut in cuts), b"".join(chain[: cut + 1] for cut in cuts)]
    return tokenizer([*reversed(pairs), *draw.sample(fours, k=len(fours) // 2)]), texts


def chains_of_long_tokens(draw):
    """Chains whose links are tokens of some dozens of bytes: no window of a few times 64 holds one."""
    links = [bytes(draw.choices(b"ab", k=draw.randint(20, 40))) + bytes([200 + i]) for i in range(20)]
    made = [link[:end] for link in links for end in range(2, len(link) + 1)]
    pairs = [left + right for left, right in pairwise(links)]
    return tokenizer([*made, *reversed(pairs)]), [b"".join(links) * 3, b"".join(draw.choices(links, k=60))]


def wide_characters(draw):
    """Characters of two to four bytes, and tokens of halves of them, across their borders or not."""
    alphabet = draw.choice(["🙂🙃😀", "🙂é", "中🙂a", "é中", "🙂🙃!", "𐐀𐐁"])
    sample = "".join(draw.choices(alphabet, k=500)).encode()
    whole = [char.encode() for char in alphabet]
    tokens = draw.choice([whole, [*whole, *parts_of(draw, sample, 10, 3)], parts_of(draw, sample, 60, 9)])
    return tokenizer(tokens, draw), ["".join(draw.choices(alphabet, k=size)).encode() for size in (40, 300)]


FAMILIES = [random_parts, trained, periods, runs, chains, chains_of_long_tokens, wide_characters]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_long_pretoken_has_the_ids_of_the_definition(tier, family):
    for seed in range(12):
        tok, texts = family(random.Random(f"{family.__name__} {seed}"))
        for text in texts:
            expected = reference.merge_pretoken(text, tok.vocab.ranks)
            for _ in range(2):  # with what the first call left in the caches, too
                assert tok.encode_ordinary(text) == expected, (seed, text)
            assert tok.count(text) == len(expected), (seed, text)


def chain_of(size):
    """A chain of so many letters, whose end decides how all of it is merged; and its tokenizer."""
    chain = bytes(range(size))
    return chain, tokenizer([chain[i : i + 2] for i in reversed(range(size - 1))])


def test_a_window_within_a_chain_is_wrong_by_itself():
    # Else the tests here would not see a merger step back.
    chain, tok = chain_of(199)
    assert tok.encode_ordinary(chain[:64]) != tok.encode_ordinary(chain)[:32]


def test_text_whose_windows_are_all_wrong_takes_linear_time():
    chain, tok = chain_of(199)

    def seconds(times):
        text = chain * times
        begin = time.process_time()
        assert tok.count(text) == 100 * times
        return time.process_time() - begin

    assert min(seconds(8000) for _ in range(3)) < 3 * min(seconds(4000) for _ in range(3))


@pytest.mark.parametrize("name", ["gpt2", "cl100k_base", "o200k_base"])
def test_text_without_any_blank_has_tiktokens_ids(encoding, tiktoken_encoding, corpus, name):
    tok, peer = encoding(name), tiktoken_encoding(name)
    for file, text in corpus.items():
        letters = "".join(char for char in text[:60_000] if char.isalpha())
        for one in (letters, letters.lower(), "".join(text[:60_000].split())):
            assert tok.encode_ordinary(one) == peer.encode_ordinary(one), file
