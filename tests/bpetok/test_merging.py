"""The merge loop: every order of ties, every limit, every start, against an oracle as plain as it goes."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bpetok
from bpetok import _core, reference
from bpetok.text import BYTE_LEVEL_ORDER
from bpetok.training import TIE_BREAKS

BYTES = [(bytes([byte]), byte) for byte in range(256)]
BYTE_LEVEL = [(bytes([byte]), byte) for byte in sorted(range(256), key=BYTE_LEVEL_ORDER.__getitem__)]
WORDS = st.dictionaries(st.text("abc", min_size=1, max_size=12), st.integers(1, 9), min_size=1, max_size=12)


def core_counts(weights):
    counts = _core.PretokenCounts()
    for pretoken, times in weights:
        counts.add(pretoken.encode() if isinstance(pretoken, str) else pretoken, times)
    return counts


def core_merges(weights, merges, **rules):
    tokens = BYTE_LEVEL if rules.get("tie_break") == "huggingface" else BYTES
    return _core.train(core_counts(weights), tokens, 256, merges, **rules).ranks.merges()


def slow_merges(weights, merges, *, tie_break="smallest", min_count=1, max_token_bytes=10**9, may_make=None):
    """Byte-pair encoding of weighted pretokens, counted anew for each step."""
    tokens = [bytes([byte]) for byte in range(256)]
    words = [(list(word.encode() if isinstance(word, str) else word), times) for word, times in weights]
    order = {
        "smallest": lambda pair: pair,
        "huggingface": lambda pair: [BYTE_LEVEL_ORDER[i] if i < 256 else i for i in pair],
        "largest": lambda pair: [[-byte for byte in tokens[i]] + [1] for i in pair],
        "first": lambda pair: 0,  # `min` takes the first of equal ones
    }[tie_break]
    made = []
    while len(made) < merges:
        counts = {}
        for ids, times in words:
            for pair in pairwise(ids):
                counts[pair] = counts.get(pair, 0) + times
        for left, right in list(counts):
            token = tokens[left] + tokens[right]
            if len(token) > max_token_bytes or counts[left, right] < min_count or (may_make and not may_make(token)):
                del counts[left, right]
        if not counts:
            break
        most = max(counts.values())
        pair = min((pair for pair in counts if counts[pair] == most), key=order)
        made.append((*pair, most))
        tokens.append(tokens[pair[0]] + tokens[pair[1]])
        words = [(reference.merge(ids, pair, 255 + len(made)), times) for ids, times in words]
    return made


# ---- ties -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tie_break", TIE_BREAKS)
@given(text=st.text("ab 1é\n", min_size=1, max_size=80), vocab_size=st.integers(256, 300))
def test_merges_in_every_order_of_ties_are_those_of_the_slow_twin(tie_break, text, vocab_size):
    twin = reference.RegexTokenizer("gpt2")
    twin.train(text, vocab_size, tie_break=tie_break)
    assert list(bpetok.train(text, vocab_size, pattern="gpt2", tie_break=tie_break).vocab.merges) == list(twin.merges)


@pytest.mark.parametrize("tie_break", TIE_BREAKS)
@given(weights=WORDS, merges=st.integers(0, 60))
def test_merges_in_every_order_of_ties_are_those_of_the_oracle(tie_break, weights, merges):
    weights = list(weights.items())
    assert core_merges(weights, merges, tie_break=tie_break) == slow_merges(weights, merges, tie_break=tie_break)


@pytest.mark.parametrize(
    ("tie_break", "first"),
    [("smallest", b" a"), ("huggingface", b"bc"), ("largest", b"xb"), ("first", b"cx")],
)
def test_pairs_that_are_equally_frequent_merge_in_the_order_that_was_named(tie_break, first):
    # A space is byte 32; in the byte-level alphabet it stands behind all letters.
    tok = bpetok.train("cx a bcxb", 257, pattern=r"cx|xb|bc|[ ]a|[ ]", tie_break=tie_break)
    assert tok.vocab[256] == first


def test_the_largest_pair_goes_by_the_bytes_of_its_tokens_not_by_their_ids():
    # (low, e) and (wi, d) occur as often: "wi" was made first, so its id is smaller, but its bytes are greater.
    weights = [("wi", 9), ("lo", 8), ("wid", 2), ("loe", 2)]
    made = core_merges(weights, 3, tie_break="largest")
    assert made[2] == (256, ord("d"), 2)
    assert core_merges([("wi", 8), ("lo", 9), ("wid", 2), ("loe", 2)], 3, tie_break="largest")[2] == (257, ord("d"), 2)


def test_the_pair_that_stands_first_is_found_anew_when_its_first_place_is_gone():
    # (b, c) stands first in abc; when ab has merged, its first place is behind (d, e).
    weights = [("abc", 1), ("ab", 5), ("de", 3), ("bc", 2)]
    assert slow_merges(weights, 3, tie_break="first")[1][:2] == (ord("d"), ord("e"))
    weights = [("abc", 1), ("ab", 5), ("de", 2), ("bc", 2)]
    assert core_merges(weights, 3, tie_break="first") == [(97, 98, 6), (100, 101, 2), (98, 99, 2)]


def test_ties_by_place_refuse_counts(tmp_path):
    counts = bpetok.PretokenCounts()
    counts.add_text("a b c")
    counts.save(tmp_path / "a.counts")
    for source in (counts, tmp_path / "a.counts", ["a", tmp_path / "a.counts"]):
        with pytest.raises(bpetok.DataError, match='"first" must see the text itself, got counts'):
            bpetok.train(source, 300, tie_break="first")


def test_ties_by_place_do_not_depend_on_threads_or_chunks(tmp_path, small_text):
    file = tmp_path / "a.txt"
    file.write_text(small_text * 30)
    expected = bpetok.train(small_text * 30, 400, tie_break="first", num_threads=1)
    assert bpetok.train(small_text * 30, 400, tie_break="first", num_threads=3) == expected
    assert bpetok.train(file, 400, tie_break="first") == expected


def test_an_unknown_order_of_ties_is_refused():
    match = "tie_break must be one of smallest, huggingface, largest, first, got 'last'"
    with pytest.raises(bpetok.DataError, match=match):
        bpetok.train("a", 256, tie_break="last")


# ---- the peers' own trainers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["en_web.txt", "ru.txt", "zh.txt", "json.txt"])
def test_merges_in_hugging_faces_order_are_those_of_its_trainer(data, file):
    text = (data / "corpus" / file).read_text(encoding="utf-8")[:400_000]
    ours = bpetok.train(text, 6000, pattern="gpt2", tie_break="huggingface").vocab
    assert [ours[i] for i in range(256, 6000)] == tokens_of_hugging_face(text, 6000)


def tokens_of_hugging_face(text, vocab_size):
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    theirs = Tokenizer(models.BPE())
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    theirs.train_from_iterator([text], trainer)
    byte_of = {char: BYTE_LEVEL_ORDER.index(place) for place, char in enumerate(alphabet)}
    vocab = theirs.get_vocab()
    tokens = [bytes(byte_of[char] for char in token) for token in sorted(vocab, key=vocab.__getitem__)]
    return tokens[256:]


def test_merges_with_ties_by_place_are_those_of_tiktokens_educational_code(data, capsys):
    from tiktoken._educational import bpe_train

    text = (data / "corpus" / "en_web.txt").read_text(encoding="utf-8")[:8_000]
    pattern = bpetok.patterns.resolve("gpt2").regex
    theirs = bpe_train(text, 500, pattern, visualise=None)
    ours = bpetok.train(text, 500, pattern="gpt2", tie_break="first")
    assert dict(ours.vocab.ranks) == theirs


# ---- what must not change a merge -----------------------------------------------------------------------------------


@given(weights=WORDS, min_count=st.integers(1, 12))
def test_pairs_too_rare_to_merge_change_no_merge_before(weights, min_count):
    weights = list(weights.items())
    expected = [merge for merge in slow_merges(weights, 60) if merge[2] >= min_count]
    assert core_merges(weights, 60, min_count=min_count) == expected


@pytest.mark.parametrize("seed", range(6))
def test_counts_on_both_sides_of_a_thousand_are_drawn_in_order(seed):
    # The queue keeps low counts and high ones apart.
    draw = random.Random(seed)
    weights = [("".join(draw.choices("abcd", k=draw.randint(2, 9))), draw.choice([1, 5, 400, 900])) for _ in range(60)]
    assert core_merges(weights, 150) == slow_merges(weights, 150)


@pytest.mark.parametrize("tie_break", TIE_BREAKS)
@pytest.mark.parametrize("merges", [1, 3, 10, 40, 200])
@pytest.mark.parametrize("seed", range(4))
def test_pairs_that_were_not_kept_at_first_come_back(merges, seed, tie_break):
    # With few merges and much text, the trainer keeps frequent pairs only, and lists the others when those run out.
    draw = random.Random(seed)
    alphabet = ["ab", "abcdefgh", "abcdefghijklmnopqrstuvwxyz0123456789"][seed % 3]
    weights = [("".join(draw.choices(alphabet, k=draw.randint(1, 200))), draw.randint(1, 3)) for _ in range(12)]
    assert core_merges(weights, merges, tie_break=tie_break) == slow_merges(weights, merges, tie_break=tie_break)


@given(
    weights=st.lists(st.tuples(st.text("ab", min_size=1, max_size=6), st.integers(1, 2**40)), min_size=1, max_size=6)
)
def test_a_weighted_pretoken_is_that_many_pretokens(weights):
    assert core_merges(weights, 20) == slow_merges(weights, 20)


@given(weights=WORDS, merges=st.integers(0, 40))
def test_the_tokens_that_are_left_are_counted(weights, merges):
    weights = list(weights.items())
    words = [list(word.encode()) for word, _ in weights]
    for i, (left, right, _) in enumerate(slow_merges(weights, merges)):
        words = [reference.merge(ids, (left, right), 256 + i) for ids in words]
    left = sum(len(ids) * times for ids, (_, times) in zip(words, weights, strict=True))
    assert _core.train(core_counts(weights), BYTES, 256, merges).tokens == left


# ---- counts beyond 31, 32 and 53 bits -------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [2**31 - 1, 2**31, 2**32, 2**53, 2**60])
def test_counts_are_exact_at_and_beyond(limit):
    # Each pair occurs once more than the one before; the last comes first, if no difference is lost.
    weights = [("ab", limit - 1), ("cd", limit), ("ef", limit + 1)]
    assert core_merges(weights, 3) == [(101, 102, limit + 1), (99, 100, limit), (97, 98, limit - 1)]
    assert core_merges(weights, 3, min_count=limit + 1) == [(101, 102, limit + 1)]


def test_counts_that_add_up_beyond_31_bits_are_exact():
    # Each count fits 31 bits, their sum does not.
    weights = [("xab", 2**30), ("yab", 2**30), ("cd", 2**31 - 1)]
    assert core_merges(weights, 2)[0] == (97, 98, 2**31)
    assert core_merges(weights, 2, tie_break="huggingface")[1] == (99, 100, 2**31 - 1)


def test_a_pair_that_occurs_more_often_than_63_bits_hold_is_refused_not_forgotten():
    with pytest.raises(bpetok.DataError, match="64 bits"):
        core_merges([("aaaa", 2**62)], 2)  # (a, a) occurs 3 * 2**62 times


@pytest.mark.slow
def test_a_pair_that_occurs_more_often_than_31_bits_hold_is_learnt_where_hugging_face_forgets_it():
    # 4.3 GB of text pass through both trainers: "ab" occurs 2,147,486,000 times, more than 2**31; "ba" does not.
    from tokenizers import Tokenizer, models, trainers

    text, times = "ab" * 2000, 1_073_743
    counts = bpetok.PretokenCounts(None)
    for _ in range(times // 1000):
        counts.add_texts([text] * 1000)
    counts.add_texts([text] * (times % 1000))
    assert counts.items() == [(text.encode(), times)]
    assert bpetok.train(counts, 257).vocab[256] == b"ab"
    theirs = Tokenizer(models.BPE())
    theirs.train_from_iterator(
        (text for _ in range(times)), trainers.BpeTrainer(vocab_size=3, show_progress=False), length=times
    )
    assert set(theirs.get_vocab()) == {"a", "b", "ba"}  # the second most frequent pair


# ---- limits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tie_break", TIE_BREAKS)
@given(weights=WORDS, max_token_bytes=st.integers(1, 6))
def test_no_token_is_longer_than_allowed(tie_break, weights, max_token_bytes):
    weights = list(weights.items())
    rules = {"tie_break": tie_break, "max_token_bytes": max_token_bytes}
    assert core_merges(weights, 60, **rules) == slow_merges(weights, 60, **rules)


@given(weights=WORDS, forbidden=st.sets(st.text("abc", min_size=2, max_size=4).map(str.encode), max_size=6))
def test_tokens_that_are_forbidden_are_not_made(weights, forbidden):
    weights = list(weights.items())
    rules = {"may_make": lambda token: token not in forbidden}
    assert core_merges(weights, 60, **rules) == slow_merges(weights, 60, **rules)


def test_tokens_are_allowed_and_forbidden_by_a_collection_or_a_function():
    text = "low low low slow"
    plain = bpetok.train(text, 270, pattern="gpt2")
    assert b"low" in plain.vocab.ranks
    for rules in (
        {"forbidden_merges": [b"low"]},
        {"forbidden_merges": {"low"}},
        {"forbidden_merges": lambda token: token == b"low"},
        {"allowed_merges": lambda token: token != b"low"},
        {"allowed_merges": [b"lo", b"ow", " l", " lo"], "forbidden_merges": [b" l"]},
    ):
        made = bpetok.train(text, 270, pattern="gpt2", **rules).vocab
        assert b"low" not in made.ranks
        assert b"lo" in made.ranks or b"ow" in made.ranks
    assert set(made.ranks) - {bytes([i]) for i in range(256)} <= {b"lo", b"ow", b" lo"}
    assert made.provenance["allowed_merges"] == 4
    assert bpetok.train(text, 270, allowed_merges=bool).vocab.provenance["allowed_merges"] == "a function"


def test_an_exception_of_the_function_stops_the_training():
    def refuse(token):
        raise RuntimeError(f"what is {token!r}?")

    with pytest.raises(RuntimeError, match="what is b'ab'"):
        bpetok.train("abab", 300, allowed_merges=refuse)


@pytest.mark.parametrize("max_token_bytes", [0, -1])
def test_the_longest_token_must_have_a_byte(max_token_bytes):
    with pytest.raises(bpetok.DataError, match=f"max_token_bytes must be at least 1, got {max_token_bytes}"):
        bpetok.train("a", 256, max_token_bytes=max_token_bytes)


@pytest.mark.parametrize("tokens", [BYTES[:-1], [*BYTES, (b"ab", 255)], [*BYTES[:-1], (b"a", 255)]])
def test_an_alphabet_must_have_every_byte_once(tokens):
    with pytest.raises(bpetok.DataError, match="each of the 256 bytes once"):
        _core.train(core_counts([("ab", 1)]), tokens, 256, 1)


# ---- the vocabulary that comes of it --------------------------------------------------------------------------------


@given(text=st.text("aab c1é", min_size=1, max_size=120), vocab_size=st.integers(256, 330))
def test_what_the_trainer_knows_of_its_merges_is_what_a_file_of_ranks_would_tell(text, vocab_size):
    tok = bpetok.train(text, vocab_size, pattern="gpt2", special_tokens=["<s>"])
    ranks = dict(tok.vocab.ranks)
    apart = bpetok.Tokenizer(bpetok.Vocab(ranks, tok.vocab.special_tokens, "gpt2", list(tok.vocab.merges)))
    assert apart == tok
    assert apart.vocab.merges == tok.vocab.merges
    assert len(tok.vocab.merges) == len(ranks) - 256
    assert tok.vocab.merges == tuple(bpetok.Vocab(ranks, {}, "gpt2").recover_merges())
    again = text + text[::-1]
    assert tok.encode(again) == apart.encode(again) == reference_ids(ranks, again)


def reference_ids(ranks, text):
    return [i for pretoken in reference.split("gpt2", text) for i in reference.merge_pretoken(pretoken, ranks)]
