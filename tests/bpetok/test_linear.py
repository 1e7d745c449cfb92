"""Time and memory grow as the text does, whatever it holds: no text makes the encoder slow."""

import subprocess
import sys
import time
from functools import cache

import numpy as np
import pytest

import bpetok

NAMES = ["gpt2", "cl100k_base", "o200k_base"]  # one for each pattern
MB = 1_000_000


def seconds(tok, texts):
    """Of this process, not of the clock: what else runs on the machine does not count."""
    begin = time.process_time()
    tok.encode_batch_to_numpy(texts, num_threads=1)
    return time.process_time() - begin


# ---- families: number of bytes -> text -------------------------------------------------------------------------------


def again(unit):
    data = unit if isinstance(unit, bytes) else unit.encode()
    return lambda size: (data * (size // len(data) + 1))[:size]


def from_alphabet(alphabet):
    """Random characters of an alphabet, all with equally many bytes."""
    code_points = np.array([ord(char) for char in alphabet], np.uint32)
    width = len(alphabet[0].encode())

    def make(size):
        drawn = np.random.default_rng(1).choice(code_points, size // width)
        return drawn.astype("<u4").tobytes().decode("utf-32-le").encode()

    return make


def distinct(head, tail=""):
    """Pretokens that hardly come again: seven random letters between `head` and `tail`."""
    first, last = head.encode(), tail.encode()

    def make(size):
        words = np.zeros((size // (len(first) + 7 + len(last)), len(first) + 7 + len(last)), np.uint8)
        words[:] = np.frombuffer(first + b"-" * 7 + last, np.uint8)
        letters = np.frombuffer(b"etaoinshrdlucmfw", np.uint8)
        words[:, len(first) : len(first) + 7] = np.random.default_rng(2).choice(letters, (len(words), 7))
        return words.tobytes()

    return make


def once(head, unit, tail=""):
    return lambda size: head.encode() + again(unit)(size) + tail.encode()


HAN = [chr(code_point) for code_point in range(0x4E00, 0x5E00)]
IN_NORMAL = {
    "spaces": again(" "),
    "line ends": again("\n"),
    "a thousand spaces, then a word": again(" " * 1000 + "a"),
    "letters and bytes that are not UTF-8 in turn": again(b"a\xff"),
    "distinct words": distinct(" "),
    "one word": again("a"),
    "random Han": from_alphabet(HAN),
    "capitals behind one letter without case": once("ʰ", "A"),
    "a mark, then many capitals, again and again": again("\u0301" + "A" * 1000),
    "words of 127 to 130 letters": again("".join(" " + "etaoinsh" * 16 + "a" * n for n in range(-1, 3))),
}
FAMILIES = IN_NORMAL | {
    "capitals": again("A"),
    "one Han character": again("中"),
    "marks": again("\u0301"),
    "modifier letters": again("ʰ"),
    "digits": again("1"),
    "tabs": again("\t"),
    "ideographic spaces": again("\u3000"),
    "line ends of Windows": again("\r\n"),
    "exclamation marks": again("!"),
    "emoji": again("🙂"),
    "apostrophes": again("'"),
    "slashes": again("/"),
    "NULs": again("\0"),
    "spaces and line ends in turn": again(" \n"),
    "spaces, then one word at the end": once("", " ", "a"),
    "line ends, then spaces to the end": lambda size: again("\n")(size // 2) + again(" ")(size // 2),
    "spaces, then a line end at the end": once("a", " ", "\na"),
    "a thousand spaces, then a line end": again(" " * 1000 + "\n"),
    "small and capital in turn": again("aA"),
    "capital and letter without case in turn": again("Aʰ"),
    "a letter without case, then many capitals, again and again": again("ʰ" + "A" * 1000),
    "contractions": again("'s"),
    "letters and apostrophes in turn": again("a'"),
    "half contractions": again("'l'v'r"),
    "exclamation marks, then line ends and slashes": once("!", "\n/"),
    "digits and letters in turn": again("1a"),
    "random letters in one word": from_alphabet("etaoinshrdlucmfw"),
    "random letters of four bytes": from_alphabet("𐐀𐐁𐐂𐐃𐐨𐐩𐐪𐐫"),
    "distinct words of forty letters": distinct(" commonbeginningofthem", "theircommonend"),
    "distinct words with a NUL": distinct(" ", "\0"),
    "distinct words between Han": distinct("，中", "文字"),
    "one word, again and again": again(" word"),
    "random bytes": lambda size: np.random.default_rng(3).bytes(size),
    "bytes that are not UTF-8": again(b"\xff"),
    "bytes of the middle": again(b"\x80"),
    "characters cut in half": again(b"\xe4\xb8"),
    "a kilobyte of letters, then a bad byte": again(b"e" * 1000 + b"\xff"),
    "spaces, then a bad byte": again(b" " * 1000 + b"\xff"),
    "base64": from_alphabet("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"),
    "almost special tokens": again("<|endoftext"),
    "Korean": from_alphabet([chr(code_point) for code_point in range(0xAC00, 0xB400)]),
}


def cold_seconds(tok, texts):
    """With empty caches: full ones may hold the words of a text, and not those of one twice as long."""
    tok.clear_cache()
    return seconds(tok, texts)


def growth(tok, make, size, times, enough=0.0, seconds=seconds):
    """How many times as long `times` the text takes; the best of five each, of fewer once that is `enough`."""
    one, many = make(size), make(times * size)
    seconds(tok, [one])
    best_one = best_many = float("inf")
    for _ in range(5):
        best_one = min(best_one, seconds(tok, [one]))
        best_many = min(best_many, seconds(tok, [many]))
        if best_many <= enough * best_one or best_many > 10:
            break
    return best_many / best_one


def test_there_are_forty_families_and_each_makes_texts_of_the_size_asked_for():
    assert len(FAMILIES) >= 40
    for family, make in FAMILIES.items():
        assert 0.95 * 10_000 < len(make(10_000)) < 1.3 * 10_000, family
        assert len(make(20_000)) > 1.9 * len(make(10_000)) - 20, family


@pytest.mark.parametrize(
    ("name", "family"),
    [("o200k_base", family) for family in IN_NORMAL]
    + [(name, family) for name in NAMES[:2] for family in list(IN_NORMAL)[:5]],
)
def test_eight_times_the_text_takes_about_eight_times_the_time(encoding, name, family):
    # Three at each doubling leaves room for memory that no longer fits a cache; quadratic time would be 64 times.
    assert growth(encoding(name), FAMILIES[family], MB // 4, times=8, enough=24) <= 24


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", NAMES)
def test_twice_the_text_takes_at_most_2_3_times_the_time_in_every_family(encoding, name, family):
    # Of shorter texts it is a matter of luck how much of their memory is cleared anew and how much of them stays near
    # the processor, so that one of 32 MB may take 2.7 times as long as one of 16.
    assert growth(encoding(name), FAMILIES[family], 32 * MB, times=2, enough=2.3, seconds=cold_seconds) <= 2.3


@pytest.mark.parametrize("name", NAMES)
def test_twice_as_many_short_texts_take_about_twice_the_time(encoding, name):
    tok = encoding(name)
    texts = [text.encode() for text in ("a", "b", "c", "d", "ab", "1", "!", "中", "é")] * 20_000
    assert min(seconds(tok, texts * 2) for _ in range(4)) <= 3 * min(seconds(tok, texts) for _ in range(4))


@pytest.mark.parametrize("name", NAMES)
def test_a_stream_of_one_long_pretoken_takes_linear_time(encoding, name):
    def stream_seconds(chunks):
        begin = time.process_time()
        for _ in encoding(name).encode_stream([b"a" * 1000] * chunks):
            pass
        return time.process_time() - begin

    assert min(stream_seconds(200) for _ in range(3)) <= 3 * min(stream_seconds(100) for _ in range(3)) + 0.01


# ---- a hundred megabytes of one kind -------------------------------------------------------------------------------

HUNDRED = {
    "spaces": again(" "),
    "letters": again("a"),
    "digits": again("1"),
    "Han": from_alphabet(HAN),
    "line ends": again("\n"),
    "emoji": from_alphabet([chr(code_point) for code_point in range(0x1F600, 0x1F640)]),
    "two characters in turn": again("a "),
    "small and capital in turn": again("aB"),
    "one word": again("word"),
    "words": again(" word"),
}


def seconds_per_byte(tok, text):
    return min(seconds(tok, [text]) for _ in range(3)) / len(text)


@pytest.fixture(scope="module")
def per_byte_of_english(encoding, corpus):
    """`per_byte_of_english(name)`: seconds for a byte of the corpus's English prose, a hundred megabytes of it."""

    @cache
    def measure(name):
        text = corpus["en_prose.txt"].encode()
        text *= 100 * MB // len(text)
        return seconds_per_byte(encoding(name), text)

    return measure


@pytest.mark.slow
@pytest.mark.parametrize("kind", HUNDRED)
@pytest.mark.parametrize("name", NAMES)
def test_a_hundred_megabytes_of_one_kind_take_at_most_three_times_as_long_as_english(
    encoding, per_byte_of_english, capsys, name, kind
):
    text = HUNDRED[kind](100 * MB)
    times = seconds_per_byte(encoding(name), text) / per_byte_of_english(name)
    with capsys.disabled():
        speed = 1e-6 / per_byte_of_english(name)
        print(f"\n{name}, {kind}: {times:.2f} times as long as English, which has {speed:.0f} MB/s")
    assert times <= 3


MEASURE = """
import resource, sys, bpetok
unit, size = bytes.fromhex(sys.argv[2]), int(sys.argv[3])
tok = bpetok.get_encoding(sys.argv[1])
text = unit * (size // len(unit))
tok.encode_batch_to_numpy([text[:1000]], num_threads=1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tok.encode_batch_to_numpy([text], num_threads=int(sys.argv[4]))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / size)
"""
UNITS = {"spaces": " ", "a word": "a", "symbols": "!", "Han": "中", "emoji": "🙂", "English": " the fox"}
UNITS |= {"distinct ends": "\u0301A", "bad bytes": b"\xff", "line ends": "\n", "in turn": "a1"}


def peak_bytes_per_byte(name, unit, size, num_threads=1):
    """How much the memory of a process grows over what holds the text, by the byte of text."""
    data = unit if isinstance(unit, bytes) else unit.encode()
    arguments = [name, data.hex(), str(size), str(num_threads)]
    done = subprocess.run([sys.executable, *INTERPRETER, "-c", MEASURE, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


# A test run under other flags (`make asan`) hands them on.
INTERPRETER = [flag for flag, on in (("-S", sys.flags.no_site), ("-P", sys.flags.safe_path)) if on]


@pytest.mark.parametrize("kind", ["English", "a word"])
def test_four_megabytes_take_no_more_memory_than_their_ids_and_some(encoding, kind):
    encoding("cl100k_base")  # skips without it
    # At worst an id of four bytes a byte, in a buffer of twice the size and its copy, and what merging a pretoken of
    # this size takes. Quadratic memory would be a thousand times as much.
    assert peak_bytes_per_byte("cl100k_base", UNITS[kind], 4 * MB) < 64


@pytest.mark.slow
@pytest.mark.parametrize("kind", UNITS)
@pytest.mark.parametrize("name", NAMES)
def test_memory_grows_as_the_text_does(encoding, capsys, name, kind):
    encoding(name)
    small = peak_bytes_per_byte(name, UNITS[kind], 20 * MB)
    large = peak_bytes_per_byte(name, UNITS[kind], 80 * MB)
    with capsys.disabled():
        print(f"\n{name}, {kind}: {small:.1f} and {large:.1f} bytes of memory for a byte of text")
    assert large < 64
    assert large <= 1.5 * small + 4


def test_this_file_measures_a_tokenizer_that_merges(encoding):
    assert isinstance(encoding("cl100k_base"), bpetok.Tokenizer)
    assert len(encoding("cl100k_base").encode("aaaaaaaa")) < 8
