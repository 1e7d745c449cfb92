"""What a call works with: tiers of instructions, caches and their memory, threads and forks, finding special tokens."""

import os
import random
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import bpetok
from bpetok import _core

MEMORY = """
import random, resource, sys
import bpetok, numpy

def megabytes():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 1e6

tok = bpetok.get_encoding(sys.argv[1])
"""


def memory(script, *arguments):
    """The numbers that a fresh process prints."""
    run = subprocess.run(
        [sys.executable, "-c", MEMORY + script, *arguments],
        env=os.environ | {"ASAN_OPTIONS": "detect_leaks=0:quarantine_size_mb=0"},  # `make asan`: freed is free
        capture_output=True,
        text=True,
        check=True,
    )
    return [float(number) for number in run.stdout.split()]


needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads the memory in use from /proc")


# ---- tiers -------------------------------------------------------------------------------------------------------


def test_the_plainest_tier_is_everywhere_and_the_last_is_in_use():
    assert _core.tiers()[0] == "baseline"
    if "BPETOK_TIER" not in os.environ:
        assert _core.tier_in_use() == _core.tiers()[-1]


@pytest.mark.parametrize("name", _core.tiers())
def test_the_environment_forces_a_tier(name):
    run = subprocess.run(
        [sys.executable, "-c", "from bpetok import _core; print(_core.tier_in_use())"],
        env=os.environ | {"BPETOK_TIER": name},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == name


def test_a_tier_that_the_machine_lacks_is_refused():
    with pytest.raises(bpetok.BpetokError, match=r"must be one that this machine has \(baseline.*\), got sse9"):
        _core.use_tier("sse9")


# ---- memory ------------------------------------------------------------------------------------------------------


@needs_proc
def test_a_short_text_takes_little_memory(encoding):
    encoding("o200k_base")  # or skip
    (grown,) = memory("before = megabytes(); tok.encode('a few words'); print(megabytes() - before)", "o200k_base")
    assert grown < 4


RANDOM_TEXT = """
draw = random.Random(1)
def texts(megabytes):
    for _ in range(megabytes):
        yield numpy.random.default_rng(draw.getrandbits(32)).integers(97, 123, 1_000_000, numpy.uint8)

def encode(megabytes):
    for letters in texts(megabytes):
        letters[::7] = 32
        letters[5::97] = 10
        tok.encode_to_numpy(letters.tobytes())
"""


@needs_proc
def test_the_cache_stays_within_what_it_was_given(encoding):
    encoding("cl100k_base")
    script = RANDOM_TEXT + "before = megabytes(); encode(60); print(megabytes() - before)"
    assert memory(script, "cl100k_base")[0] < 64 * 1.05 + 20  # and the ids and text of one call
    smaller = "tok = bpetok.get_encoding(sys.argv[1], cache_mb=4)\n" + script
    assert memory(smaller, "cl100k_base")[0] < 4 * 1.05 + 20


@needs_proc
def test_clearing_the_cache_gives_its_memory_back(encoding):
    encoding("cl100k_base")
    script = RANDOM_TEXT + "before = megabytes(); encode(60); full = megabytes(); tok.clear_cache()\n"
    grown, given_back = memory(script + "print(full - before, full - megabytes())", "cl100k_base")
    assert grown > 30
    assert given_back > 0.8 * grown


@needs_proc
def test_the_memory_of_a_dropped_array_is_kept_for_the_next_until_the_cache_is_cleared(encoding):
    encoding("cl100k_base")
    script = """
texts = ["a b c d e f g "] * 400_000  # ids of 11 MB
ids = tok.encode_batch_to_numpy(texts, num_threads=1)
tok.clear_cache()
full = megabytes()
del ids
kept = megabytes()
tok.clear_cache()
print(full - kept, kept - megabytes())
"""
    dropped, cleared = memory(script, "cl100k_base")
    assert dropped < 5 < 9 < cleared


def test_arrays_that_are_alive_share_no_memory(small, small_text):
    texts = [small_text * 40] * 10
    first, _ = small.encode_batch_to_numpy(texts)
    expected = first.copy()
    for _ in range(3):
        other, _ = small.encode_batch_to_numpy([text[::-1] for text in texts])
        third = small.encode_to_numpy("".join(texts))
        assert not np.shares_memory(first, other)
        assert not np.shares_memory(third, other)
        del other
    assert np.array_equal(first, expected)
    assert np.array_equal(third, small.encode("".join(texts)))


def test_ids_are_the_same_when_the_caches_have_forgotten_them():
    # Words of many ids, short and long, more than a cache of 1 MiB holds; those of the begin come again and again.
    draw = random.Random(1)
    words = ["".join(draw.choices("abcdefgh", k=draw.randint(5, 40))) for _ in range(60_000)]
    text = " ".join(word for i, word in enumerate(words) for word in (word, words[i % 50], words[i % 5000]))
    vocab = bpetok.Vocab({bytes([byte]): byte for byte in range(256)} | {b"ab": 256, b"cd": 257}, pattern="gpt2")
    expected = bpetok.Tokenizer(vocab, cache_mb=0).encode_to_numpy(text)
    for tok in (bpetok.Tokenizer(vocab, cache_mb=1), bpetok.Tokenizer(vocab)):
        for _ in range(2):
            assert np.array_equal(tok.encode_to_numpy(text), expected)
        assert tok.count(text) == len(expected)


@needs_proc
@pytest.mark.slow
def test_ten_gigabytes_of_random_text_do_not_grow_the_memory(encoding):
    encoding("cl100k_base")
    size = int(os.environ.get("BPETOK_RANDOM_MB", "10000"))
    script = f"""
start = megabytes()
encode(1000)  # fills the caches
full = megabytes()
encode({size})
print(full - start, megabytes() - full)
"""
    filled, grown = memory(RANDOM_TEXT + script, "cl100k_base")
    assert filled < 64 * 1.05 + 20  # as above
    assert grown < 5


def test_a_cache_must_not_be_negative(small):
    with pytest.raises(ValueError, match="cache_mb must be 0 to 1048576, got -1"):
        bpetok.Tokenizer(small.vocab, cache_mb=-1)


# ---- threads and forks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["encode_batch", "encode_ordinary_batch", "encode_batch_to_numpy", "count_batch"])
def test_the_number_of_threads_must_be_a_positive_integer(small, method):
    with pytest.raises(ValueError, match="num_threads must be at least 1, got 0"):
        getattr(small, method)(["a"], num_threads=0)
    with pytest.raises(TypeError, match="num_threads must be an int, got '2'"):
        getattr(small, method)(["a"], num_threads="2")
    getattr(small, method)(["a"], num_threads=np.int64(2))


def test_decoding_a_batch_takes_a_positive_number_of_threads(small):
    for method in (small.decode_batch, small.decode_bytes_batch):
        with pytest.raises(ValueError, match="num_threads must be at least 1, got -1"):
            method([[97]], num_threads=-1)


def test_no_thread_is_left_when_a_call_ends(small, small_text):
    small.encode_batch_to_numpy([small_text * 40] * 4, num_threads=4)
    assert threading.active_count() == 1
    if os.path.isdir("/proc/self/task"):
        before = len(os.listdir("/proc/self/task"))
        small.encode_batch_to_numpy([small_text * 40] * 4, num_threads=4)
        assert len(os.listdir("/proc/self/task")) == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.skipif("libasan" in os.environ.get("LD_PRELOAD", ""), reason="libasan's lock may be held in a fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_child_that_was_forked_while_others_encode_can_encode(small, small_text):
    expected = small.encode(small_text)
    stop = threading.Event()

    def encode_on():
        while not stop.is_set():
            small.encode_batch_to_numpy([small_text * 20] * 4, num_threads=2)

    helpers = [threading.Thread(target=encode_on) for _ in range(2)]
    for helper in helpers:
        helper.start()
    try:
        for _ in range(20):
            child = os.fork()
            if child == 0:
                os._exit(0 if small.encode(small_text) == expected else 1)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        for helper in helpers:
            helper.join()


def test_other_python_threads_run_while_one_encodes(small, small_text):
    counted = 0
    done = threading.Event()

    def count():
        nonlocal counted
        while not done.is_set():
            counted += 1
            time.sleep(0)

    counter = threading.Thread(target=count)
    counter.start()
    small.encode_to_numpy(small_text * 400)
    done.set()
    counter.join()
    assert counted > 0


# ---- special tokens ----------------------------------------------------------------------------------------------


def test_of_special_tokens_that_begin_at_one_place_the_longest_wins():
    specials = _core.Specials({"<|a|>": 1, "<|a|>b": 2, "|>b": 3, "[x]": 4})
    assert specials.split(b"<|a|>bc<|a|><|a|[x]") == [2, b"c", 1, b"<|a|", 4]
    assert specials.split(b"") == []
    assert specials.split(b"no special token") == [b"no special token"]


def test_ten_thousand_special_tokens_are_found_in_linear_time():
    texts = {f"<|reserved {i}|>": 1000 + i for i in range(10_000)}
    specials = _core.Specials(texts)
    draw = random.Random(3)
    ids = draw.choices(range(1000, 11_000), k=5000)
    text = b"".join(f"some text <|reserved {i - 1000}|><|reserved ".encode() for i in ids)
    assert [part for part in specials.split(text) if isinstance(part, int)] == ids

    def seconds(times):
        start = time.perf_counter()
        assert len(specials.split(b"<|reserved " * times)) == 1
        return time.perf_counter() - start

    assert seconds(400_000) < 16 * min(seconds(100_000) for _ in range(3)) + 0.05


@pytest.mark.parametrize(
    "text", ["<|endoftext|>", "a<|endoftext|>", "é" * 300 + "<|endoftext|>", "🙂" * 90 + "<|endoftext|>"]
)
def test_a_special_token_is_refused_wherever_it_stands_and_in_every_kind_of_string(small, text):
    for encode in (small.encode, small.encode_to_numpy, lambda one: small.encode_batch(["ok", one])):
        with pytest.raises(bpetok.SpecialTokenError, match=r"holds the special token '<\|endoftext\|>'"):
            encode(text)
    assert small.encode(text, allowed_special="all")[-1] == small.eot_token
    assert small.encode_batch([text] * 3, allowed_special={"<|endoftext|>"})[2][-1] == small.eot_token


def test_a_special_token_in_a_long_text_is_refused_and_found_with_any_number_of_threads(small, small_text):
    text = small_text * 30 + "<|fim|>" + small_text
    for threads in (1, 3):
        with pytest.raises(bpetok.SpecialTokenError, match=r"<.fim.>"):
            small.encode_batch([text], num_threads=threads)
        (ids,) = small.encode_batch([text], num_threads=threads, allowed_special="all")
        assert ids.count(small.vocab.special_tokens["<|fim|>"]) == 1


# ---- long texts, cut and put together again -------------------------------------------------------------------------


WIDTHS = {
    "one byte a character, not ASCII": "caf\xe9 d'\xe9t\xe9\n",
    "two bytes a character": "\u0436\u0443\u043a 12 \u5b57\u5b57\u3002",
    "four bytes a character": "\U0001d400\U0001d401 \U0001f642word ",
    "letters in halves": "word\ud835\udc00",  # together U+1D400, a letter
    "halves that are alone": "word\ud83d word\udc00 ",
}


@pytest.mark.parametrize("pattern", ["gpt2", "gpt4", "gpt4o", None])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_long_string_of_any_width_has_the_ids_of_its_bytes_on_any_number_of_threads(small_text, pattern, width):
    text = WIDTHS[width] * (600_000 // len(WIDTHS[width]))
    utf8 = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()
    tok = bpetok.train([small_text, utf8[:5000]], 600, pattern=pattern)  # so that pretokens are tokens
    expected = tok.encode_to_numpy(utf8)
    for threads in (1, 2, 3):
        ids, offsets = tok.encode_batch_to_numpy(["a", text, "b"], num_threads=threads)
        assert offsets.tolist() == [0, 1, len(expected) + 1, len(expected) + 2]
        assert np.array_equal(ids[1:-1], expected)
        assert tok.count_batch([text], num_threads=threads) == [len(expected)]


def test_more_ids_than_there_was_room_for_are_all_there(small_text):
    tok = bpetok.train(small_text, 256, pattern="gpt4")
    tok.clear_cache()
    text = ("\u5b57" * 7 + "!") * 300_000  # 22 ids take 16 bytes
    ids, _ = tok.encode_batch_to_numpy([text], num_threads=2)
    assert ids.size == 22 * 300_000
    assert tok.decode(ids) == text


def test_texts_of_very_different_lengths_keep_their_order_on_threads(small, small_text):
    sizes = [900_000, 3, 300_000, 0, 40, 600_000, 5, 250_000, 7]
    endless = small_text * 20
    texts = [endless[i : i + size] for i, size in enumerate(sizes)] * 3
    expected = [small.encode_ordinary(text) for text in texts]
    for threads in (2, 3, 8):
        assert small.encode_ordinary_batch(texts, num_threads=threads) == expected


def test_a_cache_that_begins_with_the_vocabulary_gives_the_same_ids(encoding):
    tok, without_cache = encoding("cl100k_base"), bpetok.get_encoding("cl100k_base", cache_mb=0)
    tok.clear_cache()
    tokens = list(tok.vocab.ranks)
    english = b" the cat sat on the mat" * 400_000  # long enough for such a cache
    ids, offsets = tok.encode_batch_to_numpy([english, *tokens], num_threads=1)
    expected, _ = without_cache.encode_batch_to_numpy(tokens)
    assert np.array_equal(ids[offsets[1] :], expected)
