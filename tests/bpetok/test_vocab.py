"""Vocab: its rules, its fingerprint, its merges."""

import pickle
import random
import time

import pytest

import bpetok
from bpetok import Vocab, VocabError
from bpetok.vocab import MAX_ID

BYTES = {bytes([byte]): byte for byte in range(256)}


# ---- rules ----------------------------------------------------------------------------------------------------------


def test_every_single_byte_must_be_a_token():
    ranks = {token: rank for token, rank in BYTES.items() if token != b"\x80"}
    with pytest.raises(bpetok.VocabError, match=r"every single byte must be a token, missing b'\\x80'"):
        Vocab(ranks)


def test_a_token_must_not_be_empty():
    with pytest.raises(bpetok.VocabError, match="a token must not be empty, got id 256"):
        Vocab(BYTES | {b"": 256})


@pytest.mark.parametrize("bad", [-1, MAX_ID + 1, 2**40])
def test_an_id_must_be_in_range(bad):
    with pytest.raises(bpetok.VocabError, match=f"an id must be in 0 to {MAX_ID}, got {bad}"):
        Vocab(BYTES | {b"ab": bad})
    with pytest.raises(bpetok.VocabError, match=f"an id must be in 0 to {MAX_ID}, got {bad}"):
        Vocab(BYTES, {"<s>": bad})


@pytest.mark.parametrize(
    ("tokens", "specials"), [({b"ab": 97}, {}), ({b"ab": 256, b"cd": 256}, {}), ({b"ab": 256}, {"<s>": 256})]
)
def test_an_id_must_belong_to_one_token(tokens, specials):
    with pytest.raises(bpetok.VocabError, match="an id must belong to one token, got two for id"):
        Vocab(BYTES | tokens, specials)


def test_an_id_given_twice_is_found_fast_in_a_large_table():
    # A hostile file must not cost minutes: 40,000 tokens, the last two of one id.
    ranks = BYTES | {b"%06d" % i: 256 + i for i in range(40_000)} | {b"last": 40_255}
    start = time.perf_counter()
    with pytest.raises(bpetok.VocabError, match="got two for id 40255"):
        Vocab(ranks)
    assert time.perf_counter() - start < 2


def test_a_special_token_must_have_text_and_must_not_merge():
    with pytest.raises(bpetok.VocabError, match="a special token must not be empty"):
        Vocab(BYTES, {"": 256})
    with pytest.raises(bpetok.VocabError, match="a special token must not also merge, got 'ab'"):
        Vocab(BYTES | {b"ab": 256}, {"ab": 257})


def test_a_special_token_must_be_text_that_utf8_can_hold():
    with pytest.raises(bpetok.VocabError, match="special token"):
        Vocab(BYTES, {"\ud800": 256})


@pytest.mark.parametrize("pair", [(97, 99), (97, 999), (999, 97), (999, 999), (-1, 97)])
def test_a_merge_must_make_a_token(pair):
    left, right = pair
    with pytest.raises(bpetok.VocabError, match=rf"a merge must make a token, got \({left}, {right}\)"):
        Vocab(BYTES | {b"ab": 256}, merges=[(97, 98), pair])


@pytest.mark.parametrize("pair", [(97, 256), (256, 97), (257, 257), (-1, 97), (97, -1)])
def test_a_merge_of_training_must_join_earlier_tokens(pair):
    with pytest.raises(bpetok.VocabError, match="a merge must join earlier tokens"):
        Vocab.from_merges([pair], pattern=None)


def test_two_merges_must_not_make_the_same_token():
    with pytest.raises(bpetok.VocabError, match="two merges must not make the same token"):
        Vocab.from_merges([(97, 97), (97, 256), (256, 97)], pattern=None)


def test_a_special_token_must_be_named_once():
    with pytest.raises(bpetok.VocabError, match="must be named once, got '<s>' twice"):
        Vocab.from_merges([], pattern=None, special_tokens=["<s>", "<t>", "<s>"])


def test_the_pattern_must_be_known():
    with pytest.raises(bpetok.PatternError, match="must be a known name or a regular expression, got 'gpt5'"):
        Vocab(BYTES, pattern="gpt5")


# ---- a table --------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny():
    """All bytes, "ab", a gap, two special tokens."""
    return Vocab(BYTES | {b"ab": 256}, {"<|endoftext|>": 300, "<pad>": 299}, "gpt2", [(97, 98)], name="tiny")


def test_the_table_is_read_by_id(tiny):
    assert (tiny[97], tiny[256], tiny[299], tiny[300]) == (b"a", b"ab", b"<pad>", b"<|endoftext|>")
    assert len(tiny) == 301
    assert sorted(tiny) == [*range(257), 299, 300]
    assert 256 in tiny
    assert 257 not in tiny
    with pytest.raises(bpetok.UnknownIdError, match="no token has the id 257"):
        tiny[257]


def test_the_table_does_not_change(tiny):
    with pytest.raises(TypeError, match="does not support item assignment"):
        tiny.ranks[b"cd"] = 400
    with pytest.raises(TypeError, match="does not support item assignment"):
        tiny.special_tokens["<x>"] = 400
    with pytest.raises(AttributeError, match="cannot assign to field"):
        tiny.name = "other"


def test_the_table_keeps_a_copy_of_what_it_was_given():
    ranks = dict(BYTES)
    vocab = Vocab(ranks)
    ranks[b"ab"] = 256
    assert len(vocab) == 256


def test_two_special_tokens_of_one_id_decode_to_the_one_that_sorts_first_in_whatever_order_they_came():
    one, other = Vocab(BYTES, {"<b>": 256, "<a>": 256}), Vocab(BYTES, {"<a>": 256, "<b>": 256})
    assert one == other and one[256] == other[256] == b"<a>"


def test_pickle_gives_an_equal_table(tiny):
    again = pickle.loads(pickle.dumps(tiny))
    assert again == tiny
    assert (again.name, again.merges, again.special_tokens) == (tiny.name, tiny.merges, tiny.special_tokens)
    assert repr(again) == repr(tiny) == f"<Vocab 'tiny': 301 ids, gpt2, {tiny.fingerprint[:12]}>"
    assert hash(again) == hash(tiny)


# ---- the fingerprint ------------------------------------------------------------------------------------------------


def test_the_fingerprint_does_not_change_with_name_provenance_merges_or_order(tiny):
    twin = Vocab(
        dict(reversed(tiny.ranks.items())),
        dict(reversed(tiny.special_tokens.items())),
        "r50k_base",
        None,
        "another name",
        {"from": "elsewhere"},
    )
    assert twin.fingerprint == tiny.fingerprint
    assert twin == tiny


@pytest.mark.parametrize(
    "changed",
    [
        Vocab(BYTES | {b"ab": 256}, {"<|endoftext|>": 300, "<pad>": 299}, "gpt4"),
        Vocab(BYTES | {b"ab": 256}, {"<|endoftext|>": 300, "<pad>": 299}, None),
        Vocab(BYTES | {b"ab": 256}, {"<|endoftext|>": 300, "<pad>": 299}, r"\w+|\W"),
        Vocab(BYTES | {b"ac": 256}, {"<|endoftext|>": 300, "<pad>": 299}, "gpt2"),
        Vocab(BYTES | {b"ab": 257}, {"<|endoftext|>": 300, "<pad>": 299}, "gpt2"),
        Vocab(BYTES | {b"ab": 256, b"cd": 257}, {"<|endoftext|>": 300, "<pad>": 299}, "gpt2"),
        Vocab(BYTES | {b"ab": 256}, {"<|endoftext|>": 299, "<pad>": 300}, "gpt2"),
        Vocab(BYTES | {b"ab": 256}, {"<|endoftext|>": 300}, "gpt2"),
        Vocab(BYTES | {b"ab": 256, b"<pad>": 299}, {"<|endoftext|>": 300}, "gpt2"),
        Vocab(BYTES | {b"ab": 97, b"a": 256}, {"<|endoftext|>": 300, "<pad>": 299}, "gpt2"),
    ],
    ids=["pattern", "no pattern", "expression", "bytes", "id", "more", "ids of specials", "fewer", "kind", "swapped"],
)
def test_the_fingerprint_changes_with_whatever_decides_the_ids(tiny, changed):
    assert changed.fingerprint != tiny.fingerprint
    assert changed != tiny


def test_the_fingerprint_of_a_tiny_vocabulary_is_what_it_was_in_version_1(tiny):
    # Changing this makes every shard and checkpoint of every user foreign to its tokenizer.
    assert tiny.fingerprint == "039f35aef6067251053a17d4b523617ca6ea9863fb8ff007629f8fe2d6198877"


def test_a_named_pattern_and_its_spelling_are_the_same(tiny):
    from bpetok.patterns import OTHER_SPELLINGS, SPELLINGS

    for spelling in (SPELLINGS["gpt2"], *(other for other, name in OTHER_SPELLINGS.items() if name == "gpt2")):
        assert Vocab(tiny.ranks, tiny.special_tokens, spelling).fingerprint == tiny.fingerprint


# ---- merges ---------------------------------------------------------------------------------------------------------


def test_the_merges_of_a_trained_vocabulary_come_back_from_its_ranks(small):
    assert small.vocab.merges
    bare = Vocab(small.vocab.ranks, small.vocab.special_tokens, small.vocab.pattern)
    assert bare.merges is None
    assert bare.recover_merges() == small.vocab.recover_merges() == list(small.vocab.merges)


@pytest.mark.parametrize("name", ["r50k_base", "cl100k_base"])
def test_the_recovered_merges_of_a_published_vocabulary_make_its_tokens_in_order(encoding, name):
    vocab = encoding(name).vocab
    longer = [token for token, _ in sorted(vocab.ranks.items(), key=lambda item: item[1]) if len(token) > 1]
    assert [vocab[left] + vocab[right] for left, right in vocab.recover_merges()] == longer


def test_a_token_that_no_merge_reaches_has_no_merge():
    with pytest.raises(bpetok.VocabError, match=r"no merge of two tokens of lower rank makes b'abc' \(id 256\)"):
        Vocab(BYTES | {b"abc": 256}).recover_merges()


def test_a_large_vocabulary_with_its_merges_is_checked_in_linear_time():
    pairs = [(a, b) for a in range(200) for b in range(200)][:30_000]
    began = time.perf_counter()
    vocab = Vocab.from_merges(pairs, pattern=None)
    assert len(vocab) == 256 + len(pairs)
    assert time.perf_counter() - began < 2, "0.05 s here; a look at every id for each merge took 10"


def test_merges_may_be_lists_and_must_be_pairs():
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"ab": 256}
    assert Vocab(ranks, merges=[[97, 98]], semantics="merges").merges == ((97, 98),)
    for wrong in ([97], [(97,)], [5, 6]):
        with pytest.raises(VocabError, match="merges must be pairs of ids"):
            Vocab(ranks, merges=wrong)


def test_a_long_token_that_nothing_makes_costs_little():
    ranks = {bytes([byte]): byte for byte in range(256)} | {random.Random(1).randbytes(1_000_000): 256}
    start = time.perf_counter()
    bpetok.Tokenizer(Vocab(ranks, pattern=None))
    assert time.perf_counter() - start < 5  # every cut of it looked up took minutes
