"""Merge-list semantics: the core against the plain twin and the `tokenizers` library."""

import dataclasses
import random

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

import bpetok
from bpetok import Vocab, VocabError, _core, reference
from bpetok.text import BYTE_LEVEL_ORDER

_ORDER = sorted(range(256), key=BYTE_LEVEL_ORDER.__getitem__)
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [chr(256 + i) for i in range(256 - len(_PRINTABLE))]
CHARACTER = dict(zip(_ORDER, [*map(chr, _PRINTABLE), *_OTHERS], strict=True))


def random_list(seed):
    """A vocabulary of tokens over few letters, and some of the pairs that make them, in any order."""
    rng = random.Random(seed)
    tokens = [bytes([byte]) for byte in range(256)]
    pairs = []
    for _ in range(rng.choice([3, 10, 40])):
        left, right = (rng.choice([97, 98, 99, *range(256, len(tokens))]) for _ in range(2))
        made = tokens[left] + tokens[right]
        if len(made) > 12:
            continue
        if made not in tokens:
            tokens.append(made)
        if (left, right) not in pairs:
            pairs.append((left, right))
    rng.shuffle(pairs)
    ids = list(range(len(tokens)))
    if rng.random() < 0.5:
        rng.shuffle(ids)  # of the vocabulary; no order may follow from them
    ranks = {token: ids[i] for i, token in enumerate(tokens)}
    merges = [(ids[left], ids[right]) for left, right in pairs]
    return Vocab(ranks, {}, r"[^ ]+| ", merges, semantics="merges", ignore_merges=rng.random() < 0.5)


def texts(seed, size=30):
    rng = random.Random(f"text {seed}")
    return ["".join(rng.choice("aabc ") for _ in range(rng.choice([1, 5, size, 200]))) for _ in range(20)]


def by_twin(vocab, text):
    merges = {(left, right): vocab.ranks[vocab[left] + vocab[right]] for left, right in vocab.merges}
    ids = []
    for pretoken in reference.split(vocab.pattern, text):
        if vocab.ignore_merges and pretoken in vocab.ranks:
            ids.append(vocab.ranks[pretoken])
        else:
            ids += reference.merge_by_list([vocab.ranks[bytes([byte])] for byte in pretoken], merges)
    return ids


def by_tokenizers(vocab):
    spelled = {token: "".join(CHARACTER[byte] for byte in token) for token in vocab.ranks}
    model = models.BPE(
        {spelled[token]: token_id for token, token_id in vocab.ranks.items()},
        [(spelled[vocab[left]], spelled[vocab[right]]) for left, right in vocab.merges],
        ignore_merges=vocab.ignore_merges,
    )
    tokenizer = tokenizers.Tokenizer(model)
    split = pre_tokenizers.Split(tokenizers.Regex("[^ ]+| "), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    return tokenizer


@pytest.mark.parametrize("seed", range(150))
def test_any_list_of_merges_gives_the_ids_of_the_twin_and_of_tokenizers(seed):
    vocab = random_list(seed)
    tok, theirs = bpetok.Tokenizer(vocab), by_tokenizers(vocab)
    for text in texts(seed):
        want = by_twin(vocab, text)
        assert tok.encode(text) == want, text
        assert theirs.encode(text).ids == want, text


def test_long_pretokens_and_every_tier_follow_the_list(tier):
    vocab = random_list(7)
    tok = bpetok.Tokenizer(vocab)
    for text in texts("long", 3000):
        assert tok.encode_ordinary(text.replace(" ", "")) == by_twin(vocab, text.replace(" ", ""))
        assert tok.decode(tok.encode(text)) == text


def test_a_token_that_no_merge_makes_is_a_whole_pretoken_only_where_merges_are_ignored():
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"ab": 256, b"abc": 257}
    parts = {"pattern": r"\w+|\W", "merges": [(97, 98)], "semantics": "merges"}
    plain = bpetok.Tokenizer(Vocab(ranks, **parts))
    ignoring = bpetok.Tokenizer(Vocab(ranks, ignore_merges=True, **parts))
    assert plain.encode("abc abcd") == [256, 99, 32, 256, 99, 100]
    assert ignoring.encode("abc abcd") == [257, 32, 256, 99, 100]
    assert plain._encoder.unreachable() == ignoring._encoder.unreachable() == [b"abc"]


def test_a_cache_that_begins_with_the_vocabulary_holds_no_token_that_is_never_found():
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"ab": 256, b"abc": 257}
    tok = bpetok.Tokenizer(Vocab(ranks, {}, "gpt2", [(97, 98)], semantics="merges"))
    text = "abc\n" * (1 << 21)  # 8 MiB
    assert tok.encode_to_numpy(text)[:4].tolist() == [256, 99, 10, 256]
    assert set(tok.encode("abc abc ab")) == {256, 99, 32}


@pytest.mark.parametrize("pattern", ["gpt2", "gpt4", "gpt4o"])
def test_the_scanners_and_every_way_in_follow_the_list(pattern, small_text, tier):
    learnt = bpetok.train(small_text, 600, pattern=pattern).vocab
    merges = list(learnt.merges)
    random.Random(1).shuffle(merges)  # another function than that of the ranks
    tok = bpetok.Tokenizer(dataclasses.replace(learnt, merges=merges, semantics="merges"))
    text = small_text[:3000] + "東京東京ไทยไทย" * 20 + "x" * 300 + "мир" * 40
    want = by_twin(tok.vocab, text)
    assert want != bpetok.Tokenizer(learnt).encode(text)
    assert tok.encode(text) == want == tok.encode(text.encode())
    assert tok.count(text) == len(want)
    assert [token for part in tok.encode_stream([text[:777], text[777:]]) for token in part] == want
    assert tok.encode_batch([text] * 40, num_threads=2) == [want] * 40
    assert tok.decode(want) == text


def test_the_order_of_the_list_decides_and_not_that_of_the_ids():
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"ab": 256, b"bc": 257}
    late_first = Vocab(ranks, {}, "none", [(98, 99), (97, 98)], semantics="merges")
    assert bpetok.Tokenizer(late_first).encode("abc") == [97, 257]
    assert bpetok.Tokenizer(Vocab(ranks, {}, "none")).encode("abc") == [256, 99]


def test_of_several_pairs_that_make_one_token_one_does():
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"ab": 256, b"bc": 257, b"abc": 258}
    pairs = [(97, 98), (98, 99), (97, 257), (256, 99)]
    assert _core.ordered_merges(ranks, pairs) == [(97, 98), (98, 99), (256, 99)]


def test_the_fingerprint_tells_semantics_lists_and_normalization_apart():
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"ab": 256, b"bc": 257}
    lists = [[(97, 98), (98, 99)], [(98, 99), (97, 98)]]
    vocabs = [
        Vocab(ranks),
        Vocab(ranks, normalization="NFC"),
        *(Vocab(ranks, merges=merges, semantics="merges") for merges in lists),
        Vocab(ranks, merges=lists[0], semantics="merges", ignore_merges=True),
        Vocab(ranks, pattern=("gpt2", r"\d")),
        Vocab(ranks, pattern="gpt2"),
    ]
    assert len({vocab.fingerprint for vocab in vocabs}) == len(vocabs)


@pytest.mark.parametrize(
    ("parts", "match"),
    [
        ({"semantics": "merges"}, "merges must be given"),
        ({"semantics": "list"}, "semantics must be 'rank' or 'merges', got 'list'"),
        ({"ignore_merges": True}, "ignore_merges must be False by rank"),
        ({"normalization": "NFKC"}, "normalization must be 'NFC' or None, got 'NFKC'"),
        ({"semantics": "merges", "merges": [(97, 98), (97, 98)]}, r"a merge must stand once, got \(97, 98\) again"),
        ({"semantics": "merges", "merges": [(97, 99)]}, r"a merge must make a token, got \(97, 99\)"),
    ],
)
def test_a_vocabulary_that_contradicts_itself_is_refused(parts, match):
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"ab": 256}
    with pytest.raises(VocabError, match=match):
        Vocab(ranks, **parts)


@pytest.mark.parametrize(
    ("merges", "match"),
    [
        ([(97, 99)], r"must make a token of two, got \(97, 99\)"),
        ([(97, 5000)], r"must make a token of two, got \(97, 5000\)"),
        ([(97, 98), (97, 98)], r"must stand once, got \(97, 98\) again"),
    ],
)
def test_the_core_refuses_a_broken_list(merges, match):
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"ab": 256}
    with pytest.raises(VocabError, match=match):
        _core.Encoder(ranks, "none", 0, merges)


def test_extending_asks_for_rank_semantics():
    with pytest.raises(VocabError, match="must merge by rank"):
        bpetok.extend(bpetok.Tokenizer(random_list(1)), "text", 400)
