"""Encoded: ids with the bytes and the characters that they stand for."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import bpetok

TEXTS = st.text(max_size=40)


@given(text=TEXTS)
def test_the_offsets_tile_the_text(small, text):
    encoded = small.encode_with_offsets(text, disallowed_special=())
    assert encoded.ids.tolist() == small.encode_ordinary(text)
    assert encoded.data == text.encode() == b"".join(encoded.tokens)
    assert encoded.tokens == small.decode_tokens_bytes(encoded.ids)
    assert encoded.byte_offsets[0] == 0 and encoded.byte_offsets[-1] == len(encoded.data)
    assert len(encoded) == len(encoded.ids) == len(encoded.char_spans) == len(encoded.special)


@given(text=TEXTS)
def test_the_character_spans_are_those_that_each_token_touches(small, text):
    encoded = small.encode_with_offsets(text, disallowed_special=())
    owner = [i for i, char in enumerate(text) for _ in char.encode()]
    for (begin, end), first, behind in zip(
        encoded.char_spans.tolist(), encoded.byte_offsets, encoded.byte_offsets[1:], strict=False
    ):
        assert (begin, end) == (owner[first], owner[behind - 1] + 1)
        assert encoded.data[first:behind] in text[begin:end].encode()


def test_the_starts_are_those_of_tiktokens_offsets(small):
    text = "lower 東京 é🙂 the"
    encoded = small.encode_with_offsets(text)
    assert encoded.char_spans[:, 0].tolist() == small.decode_with_offsets(encoded.ids)[1]


def test_special_tokens_are_marked(small):
    encoded = small.encode_with_offsets("lo<|fim|>é", allowed_special="all")
    assert encoded.special.sum() == 1
    assert encoded.tokens[encoded.special.argmax()] == b"<|fim|>"
    plain = small.encode_with_offsets("lo<|fim|>", disallowed_special=())
    assert not plain.special.any() and plain.data == b"lo<|fim|>"


def test_a_byte_that_is_not_utf8_counts_as_a_character(small):
    encoded = small.encode_with_offsets(b"a\xff\xc3\xa9\xc3")
    spans = encoded.char_spans
    assert encoded.data == b"a\xff\xc3\xa9\xc3"
    assert spans.max() == 4 and (np.diff(spans[:, 0]) >= 0).all()


def test_an_empty_text_has_no_spans(small):
    encoded = small.encode_with_offsets("")
    assert len(encoded) == 0 and encoded.char_spans.shape == (0, 2) and encoded.byte_offsets.tolist() == [0]


def test_a_notebook_shows_each_token_and_no_markup_of_the_text():
    tok = bpetok.train("a", 256, special_tokens=["<s>"])
    page = tok.encode_with_offsets("<b>é\n<s>", allowed_special="all")._repr_html_()
    assert "<b>" not in page and "&lt;" in page
    assert page.count("<span") == 7 and "7 ids" in page
    assert "\\xc3" in page and "⏎" in page and "outline" in page
    assert "and 1 more" in tok.encode_with_offsets("x" * 2001)._repr_html_()
    assert repr(tok.encode_with_offsets("ab")) == "<Encoded: 2 ids, 2 bytes: b'a' b'b'>"
