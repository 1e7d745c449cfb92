"""Truncated texts: within the budget, part of the text, no character broken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bpetok

TEXTS = st.one_of(
    st.text(max_size=60),
    st.lists(st.sampled_from(["lo", "wer", " the", "東京", "'LL", "123", "  ", "\n", "🙂", "é", "\r\n"])).map("".join),
)


@given(text=TEXTS, tokens=st.integers(0, 40))
def test_the_start_is_a_beginning_that_fits(small, text, tokens):
    part = small.truncate(text, tokens)
    assert text.startswith(part)
    assert small.count(part) <= tokens
    assert part == text or small.count(text) > tokens
    assert is_far_out(small, text, part, tokens)


def is_far_out(tok, text, part, tokens):
    """Whether a part has about as many ids as it may: a character, and what is split otherwise, may be missing."""
    return part == text or tok.count(part) >= tokens - 5


@given(text=TEXTS, tokens=st.integers(0, 40))
def test_the_end_is_an_end_that_fits(small, text, tokens):
    part = small.truncate(text, tokens, keep="end")
    assert text.endswith(part)
    assert small.count(part) <= tokens
    assert part == text or small.count(text) > tokens
    assert is_far_out(small, text, part, tokens)


@given(text=TEXTS, tokens=st.integers(3, 40))
def test_both_ends_stay_around_the_marker(small, text, tokens):
    part = small.truncate(text, tokens, keep="both", marker="~|~")
    assert small.count(part) <= tokens
    if part != text:
        before, after = part.split("~|~", 1)
        assert text.startswith(before) and text.endswith(after)
        assert len(before) + len(after) < len(text)


def test_no_more_is_cut_off_than_must_be():
    tok = bpetok.train("a", 256)
    text = "abcdefghij"
    assert [tok.truncate(text, n) for n in (0, 3, 10, 11)] == ["", "abc", text, text]
    assert [tok.truncate(text, n, keep="end") for n in (0, 3, 10)] == ["", "hij", text]
    assert [tok.truncate(text, n, keep="both") for n in (3, 4, 9)] == ["abj", "abij", "abcdeghij"]
    assert tok.truncate(text, 5, keep="both", marker="~") == "ab~ij"
    assert tok.truncate(text, 5, marker="~") == "abcd~"
    assert tok.truncate(text, 5, keep="end", marker="~") == "~ghij"
    assert tok.truncate("a東b", 3) == "a"  # three bytes would break the character
    assert tok.truncate("a東b", 3, keep="end") == "b"
    assert tok.truncate("東", 2) == tok.truncate("東", 2, keep="end") == ""


def test_bytes_stay_bytes_even_if_they_are_not_utf8(small):
    data = b"lower\xff\xfe the \xc3\xa9" * 20
    part = small.truncate(data, 10)
    assert isinstance(part, bytes) and data.startswith(part) and 0 < small.count(part) <= 10
    assert isinstance(small.truncate(bytearray(data), 10), bytearray)


def test_a_long_text_is_read_only_as_far_as_it_is_kept(small, monkeypatch):
    text = "lower the quin " * 1_000_000
    seen = []
    plain = type(small.stream_encoder()).feed

    def feed(self, chunk):
        seen.append(len(chunk))
        return plain(self, chunk)

    monkeypatch.setattr("bpetok.streams.StreamEncoder.feed", feed)
    assert small.count(small.truncate(text, 100)) <= 100
    assert sum(seen) < 1_000_000


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"max_tokens": -1}, "max_tokens must be at least 0, got -1"),
        ({"max_tokens": 5, "keep": "middle"}, "keep must be 'start', 'end' or 'both', got 'middle'"),
        ({"max_tokens": 1, "marker": " a marker that is too long"}, "marker must fit in max_tokens, which are 1"),
    ],
)
def test_what_cannot_be_is_refused(small, arguments, match):
    with pytest.raises(ValueError, match=match):
        small.truncate("lower the " * 20, **arguments)


def test_a_text_that_fits_comes_back_itself(small):
    text = "lower\ud83d"
    assert small.truncate(text, 100, marker="much longer than the text is, but not needed") is text
