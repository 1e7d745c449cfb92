"""Every Unicode scalar value, in every neighbourhood that a pattern can tell apart, has tiktoken's ids."""

import random
import unicodedata
from importlib.metadata import version
from itertools import product

import numpy as np
import pytest
import regex

from bpetok import _core

PATTERNS = ["gpt2", "gpt4", "gpt4o"]
PUBLISHED = {"gpt2": "gpt2", "gpt4": "cl100k_base", "gpt4o": "o200k_base"}
SCALARS = [*range(0xD800), *range(0xE000, 0x110000)]
MANY_BYTES = [code_point for code_point in SCALARS if code_point >= 0x80]

# Around {c}: each class of characters, by ones of many bytes, and the ASCII that the patterns name. Everything in
# ASCII is in the list BETWEEN of conftest.py, so that the vocabulary "borders" sees every border.
CONTEXTS = ["{c}", "{c}{c}", "a{c}", "{c}a", "A{c}", "{c}A", "1{c}", "{c}1", " {c}", "{c} ", "\n{c}", "{c}\n"]
CONTEXTS += ["'{c}", "{c}'s", "é{c}'s", "{c}/", "/{c}", "é{c}", "{c}é", "É{c}", "{c}É", "É{c}é", "é{c}É"]
CONTEXTS += ["ʰ{c}", "{c}ʰ", "٣{c}", "{c}٣", "\u0301{c}", "{c}\u0301", "☃{c}", "{c}☃", "\u3000{c}", "{c}\u3000"]
CONTEXTS += ["中{c}", "{c}中", "\u3000{c}é", " {c}É", "é{c}{c}", "É{c}{c}é"]
ALL_AROUND = "٣".join(CONTEXTS) + "٣"  # a digit borders on all but digits

CLASSES = [r"\p{Lu}", r"\p{Lt}", r"\p{Ll}", r"\p{Lm}", r"\p{Lo}", r"\p{M}", r"\p{N}", r"\s"]


def classes_by_regex():
    """For each code point the number of its class in CLASSES plus one, 0 where it has none; surrogates too."""
    text = "".join(map(chr, range(0x110000)))
    classes = np.zeros(0x110000, np.uint8)
    for number, expression in enumerate(CLASSES, start=1):
        for match in regex.finditer(f"{expression}+", text):
            classes[slice(*match.span())] = number
    return classes


def with_all_borders(size):
    """Every border of every class and general category, every border of a 64-block near them, and a sample of all."""
    classes = classes_by_regex()
    categories = np.array([unicodedata.category(chr(code_point)) for code_point in range(0x110000)])
    borders = np.flatnonzero((np.diff(classes) != 0) | (categories[1:] != categories[:-1]))
    near = {int(border) + step for border in borders for step in (0, 1, 2)} | {0x80, 0xFFFF, 0x10000, 0x10FFFF}
    near |= {code_point for plane in range(0, 0x110000, 0x1000) for code_point in (plane - 1, plane)}
    near |= set(random.Random("code points").sample(MANY_BYTES, max(0, size - len(near))))
    return sorted(near & set(MANY_BYTES))


@pytest.fixture(scope="module")
def sample():
    return with_all_borders(16_000)


@pytest.fixture(scope="module")
def known(twins, sample, expected_of):
    """pattern -> (text, its ids in tiktoken), computed once for all tiers."""
    text = "".join(ALL_AROUND.replace("{c}", chr(code_point)) for code_point in sample)
    return {pattern: (text, twins("borders", pattern).theirs.encode_to_numpy(text)) for pattern in PATTERNS}


def assert_same_borders(ours, text, expected):
    ids = ours.encode_to_numpy(text)
    if np.array_equal(ids, expected):
        return
    size = min(len(ids), len(expected))
    same = int(np.flatnonzero(np.append(ids[:size] != expected[:size], True))[0])
    begin = ours.decode_bytes(ids[:same])
    after = ours.decode_bytes(ids[same : same + 8])
    shown = (begin[-40:] + b"<here>" + after).decode("utf-8", "replace")
    pytest.fail(f"id number {same} differs: {ids[same : same + 5]} against {expected[same : same + 5]}, in {shown!a}")


@pytest.mark.parametrize("pattern", PATTERNS)
def test_characters_at_the_borders_of_all_classes_are_cut_as_in_tiktoken_beside_every_class(
    tier, twins, known, pattern
):
    text, expected = known[pattern]
    assert_same_borders(twins("borders", pattern).ours, text, expected)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_code_point_between_small_and_capital_letters_is_cut_as_in_tiktoken(twins, pattern):
    ours, theirs = twins("borders", pattern)
    text = "".join(f"é{chr(code_point)}É{chr(code_point)}é" for code_point in MANY_BYTES)
    assert_same_borders(ours, text, theirs.encode_to_numpy(text))


@pytest.mark.slow
@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_code_point_is_cut_as_in_tiktoken_beside_every_class(tier, twins, pattern):
    ours, theirs = twins("borders", pattern)
    for start in range(0, len(MANY_BYTES), 20_000):
        chunk = MANY_BYTES[start : start + 20_000]
        text = "".join(ALL_AROUND.replace("{c}", chr(code_point)) for code_point in chunk)
        assert_same_borders(ours, text, theirs.encode_to_numpy(text))


ALONE = ["{c}", "{c}{c}", "x{c}", "{c} ", " {c}"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_characters_that_are_a_whole_text_have_tiktokens_ids(
    encoding, tiktoken_encoding, sample, expected_of, assert_ids, pattern
):
    ours, theirs = encoding(PUBLISHED[pattern]), tiktoken_encoding(PUBLISHED[pattern])
    texts = [form.replace("{c}", chr(code_point)) for code_point in [*range(128), *sample[::2]] for form in ALONE]
    assert_ids(ours, texts, expected_of(theirs, texts), theirs)


@pytest.mark.slow
@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_character_that_is_a_whole_text_has_tiktokens_ids(
    encoding, tiktoken_encoding, expected_of, assert_ids, pattern
):
    ours, theirs = encoding(PUBLISHED[pattern]), tiktoken_encoding(PUBLISHED[pattern])
    for start in range(0, len(SCALARS), 20_000):
        chunk = SCALARS[start : start + 20_000]
        texts = [form.replace("{c}", chr(code_point)) for code_point in chunk for form in ALONE]
        assert_ids(ours, texts, expected_of(theirs, texts), theirs)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_pair_of_ascii_characters_is_cut_as_in_tiktoken(
    tier, twins, expected_of, assert_ids, ends_by_expression, pattern
):
    ours, theirs = twins("pairs", pattern)
    texts = [f"aB {chr(one)}{chr(two)}c" for one, two in product(range(128), repeat=2)]
    assert_ids(ours, texts, expected_of(theirs, texts), theirs)
    for text in texts[:: 1 if tier == "only" else 3]:
        assert _core.pretoken_ends(pattern, text).tolist() == ends_by_expression(pattern, text), ascii(text)


@pytest.mark.parametrize(
    ("pattern", "text", "pretokens"),
    [
        ("gpt2", "x'ſy", ["x", "'", "ſy"]),
        ("gpt4", "x'ſy", ["x", "'ſ", "y"]),
        ("gpt4o", "x'ſy", ["x'ſ", "y"]),
        ("gpt4", "x'ſſ", ["x", "'ſ", "ſ"]),
        ("gpt4o", "X'ſ\r'ſ", ["X'ſ", "\r", "'ſ"]),
        ("gpt4", "x'ŧx'ƨx", ["x", "'ŧx", "'ƨx"]),  # no other letter's second byte will do
        ("gpt4o", "x'ſſ's", ["x'ſ", "ſ's"]),
    ],
)
def test_the_long_s_makes_a_contraction_where_case_does_not_count(tier, pattern, text, pretokens):
    for blanks in range(0, 140):
        prefix = "\n" * blanks
        data = (prefix + text).encode()
        ends = _core.pretoken_ends(pattern, data).tolist()
        pieces = [data[start:end].decode() for start, end in zip([0, *ends], ends, strict=False)]
        assert pieces[-len(pretokens) :] == pretokens, blanks
        assert "".join(pieces[: -len(pretokens)]) == prefix, blanks


def test_the_core_and_the_installed_regex_module_differ_only_in_code_points_that_unicode_16_lacks(capsys):
    ours = np.array([_core.char_class(code_point) for code_point in range(0x110000)], np.uint8)
    # Of CLASSES, the core has Lu with Lt, and Lm with Lo.
    theirs = np.array([0, 1, 1, 2, 3, 3, 4, 5, 6], np.uint8)[classes_by_regex()]
    differing = np.flatnonzero(ours != theirs)
    ranges = np.split(differing, np.flatnonzero(np.diff(differing) > 1) + 1) if len(differing) else []
    with capsys.disabled():
        print(f"\nregex {version('regex')} and the core's Unicode {_core.unicode_version}: {len(ranges)} ranges differ")
        for codes in ranges:
            begin, end = int(codes[0]), int(codes[-1])
            print(f"  U+{begin:04X}..U+{end:04X}: core {ours[begin]}, regex {theirs[begin]}")
    if version("regex") == "2024.11.6":
        assert not ranges
    assert not ours[differing].any(), "a code point without a class in the core is one that Unicode 16.0 lacks"
    if tuple(map(int, unicodedata.unidata_version.split(".")[:2])) <= (16, 0):
        assigned = [hex(code) for code in differing if unicodedata.category(chr(code)) != "Cn"]
        assert not assigned, f"Unicode {unicodedata.unidata_version} has {assigned}"


def test_the_vocabulary_that_shows_borders_shows_them_all(twins):
    # What the tests above rest on: cut anywhere, the ids of the parts are not those of the whole.
    ours = twins("borders", "gpt4").ours
    for between in ["", " ", "\n", "'", "'s", "/", "a", "A", "1"]:
        for text in (f"é{between}中", f"🙂{between}é", f"中{between}"):
            whole = ours._encode_single_piece(text)
            for i in range(1, len(text)):
                parts = ours._encode_single_piece(text[:i]) + ours._encode_single_piece(text[i:])
                assert parts != whole, (text, i)
