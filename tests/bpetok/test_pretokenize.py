"""text -> pretokens: the core's scanners obey `reference.split`, and know which pretokens are final."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpetok import _core, reference

PATTERNS = ["gpt2", "gpt4", "gpt4o"]

# One or two of each kind that a pattern can tell apart.
ALPHABET = "aAǅʰ中\u0301\u09031²٣ \t\u00a0\n\r\u0085\u2028\u3000'sſtlLrRevVEdDmM!/_🙂\ufeff\u200d"
STRUCTURED = st.lists(
    st.one_of(
        st.sampled_from(ALPHABET),
        st.sampled_from(
            ["'s", "'S", "'ſ", "'ll", "'LL", "'Re", "'vE", "  ", "\r\n", "ABC", "abc", "ʰA", "123", "!?", "/"]
        ),
        st.builds(lambda char, n: char * n, st.sampled_from(ALPHABET), st.integers(2, 9)),
    ),
    max_size=25,
).map("".join)

# 0x80 alone, an overlong lead, a broken second byte, a surrogate, above U+10FFFF, cut sequences
BAD = [b"\x80", b"\xc0\x80", b"\xc1", b"\xe2\x28", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xf5", b"\xff"]
BAD += ["é".encode()[:1], "中".encode()[:2], "🙂".encode()[:3], b"\xe0\x80\x80", b"\xf0\x8f\xbf\xbf"]
BROKEN = st.lists(st.one_of(st.sampled_from(ALPHABET).map(str.encode), st.sampled_from(BAD)), max_size=20).map(b"".join)


def pretokens(pattern, text):
    data = text.encode() if isinstance(text, str) else text
    ends = _core.pretoken_ends(pattern, data).tolist()
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def changed_by(shorter, longer):
    """How many pretokens at the end of the shorter text are others in the longer one."""
    same = next(
        (i for i, (a, b) in enumerate(zip(shorter, longer, strict=False)) if a != b), min(len(shorter), len(longer))
    )
    return len(shorter) - same


@pytest.mark.parametrize("pattern", PATTERNS)
@given(text=STRUCTURED)
@settings(max_examples=1000)
def test_scanner_cuts_structured_text_as_the_expression_does(pattern, text):
    assert pretokens(pattern, text) == reference.split(pattern, text)


@pytest.mark.parametrize("pattern", PATTERNS)
@given(text=st.text(max_size=40))
def test_scanner_cuts_any_text_as_the_expression_does(pattern, text):
    data = reference.as_bytes(text)
    assert pretokens(pattern, data) == reference.split(pattern, text)


@pytest.mark.parametrize(
    ("pattern", "alphabet"),
    [
        ("gpt2", "a中1²\u0301 \t\n's!lr"),
        ("gpt4", "a中1\u0301 \t\r\n's!ſLe"),
        ("gpt4o", "aAʰ\u03011 \n'sſ/lE\u3000"),
    ],
)
def test_scanner_cuts_every_short_string_as_the_expression_does(pattern, alphabet):
    strings = ["".join(chars) for length in range(1, 5) for chars in product(alphabet, repeat=length)]
    wrong = [text for text in strings if pretokens(pattern, text) != reference.split(pattern, text)]
    assert not wrong, f"{len(wrong)} of {len(strings)}, the first {wrong[0]!r}"


@pytest.mark.parametrize("pattern", PATTERNS)
@given(data=BROKEN)
@settings(max_examples=500)
def test_scanner_cuts_bytes_that_are_not_utf8_as_the_reference_does(pattern, data):
    assert pretokens(pattern, data) == reference.split(pattern, data)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("bad", BAD)
def test_bytes_that_are_not_utf8_are_cut_out_wherever_they_stand(pattern, bad):
    text = "Aʰ's 12\n\u3000!é"
    for position in range(len(text) + 1):
        data = text[:position].encode() + bad + text[position:].encode()
        assert pretokens(pattern, data) == reference.split(pattern, data)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize(
    "first", [0x00, 0x7F, 0x80, 0xBF, 0xC0, 0xC2, 0xDF, 0xE0, 0xE1, 0xED, 0xEF, 0xF0, 0xF3, 0xF4, 0xF5, 0xFF]
)
def test_every_second_byte_after_a_lead_is_judged_as_python_judges_it(pattern, first):
    for second in range(256):
        data = bytes([97, first, second, 0x80, 0x80, 98])
        assert pretokens(pattern, data) == reference.split(pattern, data)


def test_a_run_of_invalid_bytes_is_one_pretoken():
    assert pretokens("gpt4", b"a\xff\xfe\x80b c") == [b"a", b"\xff\xfe\x80", b"b", b" c"]


def test_text_beside_invalid_bytes_is_cut_as_if_it_stood_alone():
    # Three spaces at the end of a text are one pretoken; before a word they would be two and one.
    assert pretokens("gpt4", b"a   \xffb") == [b"a", b"   ", b"\xff", b"b"]


@pytest.mark.parametrize("pattern", [*PATTERNS, "none"])
@given(data=st.one_of(BROKEN, st.binary(max_size=60)))
def test_pretokens_cover_every_byte(pattern, data):
    ends = _core.pretoken_ends(pattern, data).tolist()
    assert ends == sorted(set(ends))
    assert [0, *ends][-1] == len(data)
    assert 0 not in ends


def test_the_pattern_none_does_not_cut():
    assert pretokens("none", "a b\n\nc 1") == [b"a b\n\nc 1"]
    assert pretokens("none", b"a\xffb") == [b"a\xffb"]
    assert pretokens("none", "") == []


def test_a_scanner_that_does_not_exist_is_refused():
    import bpetok

    with pytest.raises(bpetok.BpetokError, match="pattern must be the name of one that has a scanner, got gpt5"):
        _core.pretoken_ends("gpt5", "a")


def test_only_text_can_be_cut():
    with pytest.raises(TypeError, match="text must be str or bytes, got int"):
        _core.pretoken_ends("gpt4", 5)


# ---- which pretokens are final --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pattern", "reach"), [("gpt2", 1), ("gpt4", 1), ("gpt4o", 2)])
def test_further_text_moves_no_border_but_those_of_the_last_pretokens(pattern, reach):
    # csrc/pretokenize.h keeps four open: at most these two, a character cut in half, and one to spare.
    known = {
        "".join(chars): pretokens(pattern, "".join(chars))
        for length in range(7)
        for chars in product("aAʰ' s\n1!"[: 9 if length < 6 else 8], repeat=length)
    }
    worst = max(
        (changed_by(known[text[:cut]], cut_whole), text, cut)
        for text, cut_whole in known.items()
        for cut in range(1, len(text))
    )
    assert worst[0] == reach, worst


@pytest.fixture(scope="module")
def encoders():
    """The bytes and some pairs, with every pattern."""
    tokens = {bytes([byte]): byte for byte in range(256)} | {b"ab": 256, b" a": 257, b"  ": 258, b"'s": 259, b"AA": 260}
    return {pattern: _core.Encoder(tokens, pattern) for pattern in PATTERNS}


def stable_then_rest(encoder, data, cut):
    ids, covered = encoder.encode_stable(data[:cut])
    assert covered <= cut
    return ids.tolist() + encoder.encode(data[covered:])


@pytest.mark.parametrize("pattern", PATTERNS)
@given(text=STRUCTURED, cut=st.floats(0, 1))
@settings(max_examples=1000)
def test_stable_ids_and_the_rest_are_the_ids_of_the_whole(encoders, pattern, text, cut):
    data = text.encode()
    assert stable_then_rest(encoders[pattern], data, round(cut * len(data))) == encoders[pattern].encode(data)


@pytest.mark.parametrize("pattern", PATTERNS)
@given(data=BROKEN, cut=st.floats(0, 1))
@settings(max_examples=500)
def test_stable_ids_of_bytes_that_are_not_utf8_are_final_too(encoders, pattern, data, cut):
    assert stable_then_rest(encoders[pattern], data, round(cut * len(data))) == encoders[pattern].encode(data)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_short_ending_cut_at_every_byte_leaves_the_stable_ids_as_they_are(encoders, pattern):
    encoder = encoders[pattern]
    head = b"x 1 y 2"
    for ending in product("ʰA'ſ \n\u3000中", repeat=4):
        data = head + "".join(ending).encode()
        whole = encoder.encode(data)
        for cut in range(len(head) + 1, len(data)):
            assert stable_then_rest(encoder, data, cut) == whole, (ending, cut)


def test_the_stable_part_of_a_long_text_is_all_but_its_end(encoders):
    for encoder in encoders.values():
        _, covered = encoder.encode_stable(b"word " * 1000)
        assert 4900 < covered < 5000
