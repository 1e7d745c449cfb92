"""What the end of a text may become: against brute force over all continuations, on small vocabularies."""

import random
from functools import cache
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bpetok
from bpetok import DataError, SpecialTokenError, VocabError

ALPHABETS = [
    *("ab ", "aB 's", "a1 \n", "a. \n", "é aª", "A.\r\n", "a'ts", "中文a", "a🙂 ", "a'lLvE", "1०२ ", "a\u0301 "),
    *("\r\n \u3000", "/.\n a", "ǅʰaA"),
]
PATTERNS = ["gpt2", "gpt4", "gpt4o", "llama3", "qwen2", "qwen3_5", "tekken", "nanochat", None]


WITNESSES = ["", *map(chr, range(128)), "中", "é", " a", " .", " \x01"]


def is_text(data):
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def cover(tok, text, size):
    """The first ids of a text, as many as cover its first `size` bytes."""
    ids, covered = [], 0
    for token_id in tok.encode_ordinary(text):
        if covered >= size:
            break
        ids.append(token_id)
        covered += len(tok.decode_single_token_bytes(token_id))
    return tuple(ids)


def brute_force(tok, text, alphabet, longest):
    """How all continuations of at most `longest` characters encode the text's end."""
    ends = ("".join(end) for n in range(longest + 1) for end in product(alphabet, repeat=n))
    return {cover(tok, text + end, len(text.encode())) for end in ends}


def ours(tok, text):
    stable, completions = tok.encode_with_unstable(text)
    return {(*stable, *completion) for completion in completions} or {tuple(stable)}


@pytest.mark.parametrize("seed", range(120))
def test_the_ways_to_go_on_are_those_of_all_continuations(seed):
    rng = random.Random(f"unstable {seed}")
    alphabet = rng.choice(ALPHABETS)
    corpus = "".join(rng.choice(alphabet) for _ in range(rng.choice([30, 200])))
    tok = bpetok.train(corpus, 256 + rng.choice([0, 3, 8, 20]), pattern=rng.choice(PATTERNS))
    for _ in range(3):
        text = "".join(rng.choice(alphabet) for _ in range(rng.choice([1, 2, 3, 4, 6])))
        longest = 3 if len(alphabet) > 3 else 4
        every = brute_force(tok, text, sorted({*alphabet, "\x01"}), longest)
        found = ours(tok, text)
        assert every <= found, text
        size = len(text.encode())
        for way in found - every:  # each further one has a witness too: a continuation that begins as it goes on
            begin = tok.decode_bytes(way)
            assert begin.startswith(text.encode())
            if is_text(begin):
                assert any(cover(tok, begin.decode() + end, size) == way for end in WITNESSES), way


@pytest.mark.parametrize("seed", range(300))
def test_tokens_that_end_anywhere_are_thought_of(seed):
    rng = random.Random(f"pieces {seed}")
    alphabet = rng.choice(ALPHABETS)
    words = ("".join(rng.choice(alphabet) for _ in range(rng.randint(2, 4))).encode() for _ in range(8))
    pieces = {word[: rng.randint(2, len(word))] for word in words}
    ranks = {bytes([byte]): byte for byte in range(256)}
    ranks |= {piece: 256 + i for i, piece in enumerate(sorted(pieces))}
    tok = bpetok.Tokenizer(bpetok.Vocab(ranks, {}, rng.choice(PATTERNS)))
    text = "".join(rng.choice(alphabet) for _ in range(rng.randint(1, 3)))
    assert brute_force(tok, text, sorted({*alphabet, "\x01"}), 3) <= ours(tok, text)


@pytest.mark.parametrize("ignore_merges", [False, True])
def test_merges_by_list_are_thought_of_too(ignore_merges):
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"ab": 256, b"bc": 257, b"abc": 258, b" a": 259}
    merges = [(98, 99), (97, 98), (32, 97)]
    vocab = bpetok.Vocab(ranks, {}, "gpt2", merges, semantics="merges", ignore_merges=ignore_merges)
    tok = bpetok.Tokenizer(vocab)
    for text in ("a", "ab", " a", "b", "abc", " "):
        assert brute_force(tok, text, "abc \x01", 4) <= ours(tok, text), text


def test_contractions_may_be_cut_in_two():
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"'v": 256}
    tok = bpetok.Tokenizer(bpetok.Vocab(ranks, {}, "gpt2"))
    assert tok.encode_with_unstable("'") == ([], [[39], [256]])


def test_what_has_no_stable_ids_is_refused(small):
    with pytest.raises(DataError, match=r"text: must be UTF-8 where it may go on, got b'\\xff'"):
        small.heal(b"abc\xff")
    with pytest.raises(DataError, match="must be UTF-8"):
        small.encode_with_unstable("é".encode()[:1])
    nfc = bpetok.Tokenizer(bpetok.Vocab(small.vocab.ranks, {}, "gpt4", normalization="NFC"))
    with pytest.raises(VocabError, match="must take text as it is, got normalization 'NFC'"):
        nfc.heal("e")


@given(st.text(max_size=12))
def test_what_is_stable_and_every_completion_agree_with_the_text(small, text):
    stable, completions = small.encode_with_unstable(text, disallowed_special=())
    data = text.encode()
    assert data.startswith(small.decode_bytes(stable))
    for completion in completions:
        whole = small.decode_bytes([*stable, *completion])
        assert whole.startswith(data)
        assert len(small.decode_bytes([*stable, *completion[:-1]])) < len(data)  # the last one is needed
    ends = [completion for completion in completions if small.decode_bytes([*stable, *completion]) == data]
    assert small.encode_ordinary(text) in [[*stable, *end] for end in ends] or small.encode_ordinary(text) == stable


def test_the_completions_are_those_of_tiktoken_for_gpt2(encoding):
    import tiktoken

    ours_, theirs = bpetok.get_encoding("gpt2"), tiktoken.get_encoding("gpt2")
    for text in ("hello fanta", "hello", "x\n", "https:"):
        stable, completions = theirs.encode_with_unstable(text)
        assert ours(ours_, text) == {(*stable, *completion) for completion in completions}
    assert ours_.encode_with_unstable("hello fanta")[0] == [31373]


def test_special_tokens_follow_the_rules_of_encode(small):
    fim = small.encode_single_token("<|fim|>")
    with pytest.raises(SpecialTokenError):
        small.encode_with_unstable("a<|fim|>b")
    stable, completions = small.encode_with_unstable("lower<|fim|>lo", allowed_special="all")
    assert fim in stable
    assert stable[: stable.index(fim) + 1] == small.encode("lower<|fim|>", allowed_special="all")
    assert all(small.decode(completion).startswith("lo") for completion in completions)


def test_nothing_is_left_of_an_empty_text(small):
    assert small.encode_with_unstable("") == ([], [])
    assert small.heal("") == ([], [])


@cache
def url_tokenizer():
    return bpetok.train("https://a.b http://c.d https://e.f " * 3, 275, pattern="gpt4")


def test_healing_takes_back_what_a_model_would_not_see_at_the_end_of_a_prompt():
    tok = url_tokenizer()
    ids, next_ids = tok.heal("see https:")
    assert tok.decode(ids) == "see https"
    assert sorted(tok.decode([token]) for token in next_ids) == [":", "://"]


@pytest.mark.parametrize("text", ["see http", "https://a", " ", "a.", "x"])
def test_the_ids_that_may_come_next_are_those_of_all_continuations(text):
    tok = url_tokenizer()
    ids, next_ids = tok.heal(text)
    every = brute_force(tok, text, sorted({*"htps:/ab. \n1"}), 3)
    assert {way[: len(ids)] for way in every} == {tuple(ids)}
    assert {way[len(ids)] for way in every if len(way) > len(ids)} <= set(next_ids)
    data = text.encode()
    for token in next_ids:  # each has a witness
        begin = tok.decode_bytes([*ids, token])
        ends = [*WITNESSES, *(data[len(begin) :].decode() + end for end in WITNESSES)] if is_text(begin) else []
        ways = (cover(tok, begin.decode() + end, len(data))[: len(ids) + 1] for end in ends)
        assert not ends or (*ids, token) in ways, token
