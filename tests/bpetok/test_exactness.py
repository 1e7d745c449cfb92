"""The ids are tiktoken's and the slow twin's: on the whole corpus, under hypothesis, on hard inputs."""

import random
import time

import numpy as np
import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

import bpetok
from bpetok import reference

ENCODINGS = ["gpt2", "r50k_base", "cl100k_base", "o200k_base"]
OTHERS = ["p50k_base", "p50k_edit", "o200k_harmony"]
ALPHABET = "aAǅʰ中\u0301\u09031² \t\u00a0\n\r\u0085\u2028\u3000'sſtlrevdmLREVDM!/_🙂\ufeff\u200d"


@pytest.fixture(scope="session")
def corpus(data):
    return {file.name: file.read_bytes().decode() for file in sorted((data / "corpus").glob("*.txt"))}


def first_difference(ours, theirs):
    if len(ours) != len(theirs):
        return f"{len(ours)} ids against {len(theirs)}"
    return f"id number {np.flatnonzero(ours != theirs)[0]}"


@pytest.mark.parametrize("name", ENCODINGS + OTHERS)
def test_ids_are_tiktokens_on_the_whole_corpus(encoding, tiktoken_encoding, corpus, capsys, name):
    ours, theirs = encoding(name), tiktoken_encoding(name)
    compared = 0
    for file, text in corpus.items():
        ids = ours.encode_to_numpy(text, disallowed_special=())
        expected = theirs.encode_to_numpy(text, disallowed_special=())
        assert np.array_equal(ids, expected), f"{file}: {first_difference(ids, expected)}"
        assert ours.decode_bytes(ids) == text.encode(), file
        compared += len(text.encode())
    assert compared > 20_000_000
    with capsys.disabled():
        print(f"\n{name}: {compared:,} bytes of {len(corpus)} files have tiktoken's ids and decode to themselves")


@pytest.mark.parametrize("name", ["gpt2", "cl100k_base", "o200k_base"])
def test_ids_are_the_slow_twins_on_a_sample_of_the_corpus(encoding, corpus, capsys, name):
    tok = encoding(name)
    slow = reference.RegexTokenizer(tok.vocab.split.name)
    slow.ranks = dict(tok.vocab.ranks)
    share = 1_000_000 // len(corpus)
    compared = 0
    for file, text in corpus.items():
        sample = text[len(text) // 3 :].encode()[:share].decode(errors="ignore")
        assert tok.encode_ordinary(sample) == slow.encode_ordinary(sample), file
        compared += len(sample.encode())
    assert compared > 900_000
    with capsys.disabled():
        print(f"\n{name}: {compared:,} bytes of {len(corpus)} files have the ids of reference.py")


@pytest.mark.parametrize("name", ENCODINGS)
@given(
    text=st.one_of(st.text(max_size=100), st.text(ALPHABET, max_size=60)), cuts=st.lists(st.integers(0, 60), max_size=3)
)
def test_ids_of_any_text_with_special_tokens_are_tiktokens(encoding, tiktoken_encoding, name, text, cuts):
    ours, theirs = encoding(name), tiktoken_encoding(name)
    for cut, special in zip(cuts, sorted(ours.special_tokens_set) * 3, strict=False):
        text = text[:cut] + special + text[cut:]
    assert ours.encode(text, allowed_special="all") == theirs.encode(text, allowed_special="all")
    assert ours.encode_ordinary(text) == theirs.encode_ordinary(text)


UNITS = [
    "a",
    "A",
    "é",
    "ʰ",
    "中",
    "\u0301",
    "1",
    "²",
    " ",
    "\n",
    "\r\n",
    "\t",
    "\u3000",
    "'",
    "'s",
    "!",
    "/",
    "🙂",
    "aA",
    "a ",
    " \n",
    "a'",
    "1!",
    " 1",
    "!\n",
    "ʰA",
    "ab1 ",
    "\n a!",
]


@pytest.mark.parametrize("unit", UNITS)
def test_long_runs_have_tiktokens_ids_with_every_pattern(small, small_tiktoken, unit):
    for times in (10, 127, 128, 129, 1000, 20_000):
        text = unit * times
        assert small.encode(text) == small_tiktoken.encode(text), times


@pytest.mark.parametrize("name", ["cl100k_base", "o200k_base"])
@pytest.mark.parametrize("unit", UNITS)
def test_runs_of_a_hundred_thousand_have_tiktokens_ids(encoding, tiktoken_encoding, name, unit):
    text = unit * (100_000 // len(unit))
    ours = encoding(name).encode(text)
    try:
        theirs = tiktoken_encoding(name).encode(text)
    except ValueError:  # its regex engine gives up on long runs of blanks
        theirs = None
    if theirs is not None:
        assert ours == theirs
    else:
        assert encoding(name).decode(ours) == text


@pytest.mark.parametrize("unit", [" ", "\n", "a", "中", "1", "!", "\u0301", "A", "ʰ", "'"])
def test_a_run_ten_times_as_long_takes_about_ten_times_as_long(small, unit):
    def seconds(times):
        text = unit * times
        tries = []
        for _ in range(3):
            start = time.perf_counter()
            small.count(text)
            tries.append(time.perf_counter() - start)
        return min(tries)

    # Quadratic time would be 100 times as long.
    assert seconds(1_000_000) < 40 * seconds(100_000) + 0.01


@pytest.mark.parametrize("name", ["gpt4", "gpt2", "gpt4o"])
def test_long_pretokens_merge_as_in_the_slow_twin(small_text, name):
    tok = bpetok.train(small_text, 600, pattern=name)
    draw = random.Random(7)
    for length in (100, 126, 127, 128, 129, 130, 300):
        piece = "".join(draw.choices(["lo", "wer", "the", "qu", "in", "東京", "é"], k=length)).encode()[:length]
        assert tok._encode_single_piece(piece) == reference.merge_pretoken(piece, tok.vocab.ranks)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "cl100k_base", "o200k_base"])
def test_a_million_structured_strings_have_tiktokens_ids(encoding, tiktoken_encoding, name):
    ours, theirs = encoding(name), tiktoken_encoding(name)
    draw = random.Random(f"{name} 1")
    for _ in range(1000):
        texts = ["".join(draw.choices(ALPHABET, k=draw.randint(1, 30))) for _ in range(1000)]
        assert ours.encode_ordinary_batch(texts) == theirs.encode_ordinary_batch(texts, num_threads=2)


def test_tiktoken_here_is_the_version_whose_patterns_these_are():
    assert tuple(map(int, tiktoken.__version__.split(".")[:2])) >= (0, 14)
