"""Texts that Python prepares for the core: several expressions in turn, and normal forms of Unicode."""

import unicodedata

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import normalizers, pre_tokenizers

import bpetok
from bpetok import PatternError, Vocab, patterns, reference

CHAIN = (r"\p{N}{1,3}", r"[一-龥぀-ゟ゠-ヿ]+", r"[A-Za-z]+|\s+(?!\S)|\s+|[^\sA-Za-z]+")
TEXTS = st.one_of(
    st.text(max_size=40),
    st.lists(
        st.sampled_from(["ab", "東京", "1234", " ", "\n ", "é", "e\u0301", "Å", "\u212b", "ᄀ", "ᅡ", "≯", "\u0338"])
    ).map("".join),
)


@pytest.fixture(scope="module")
def chained():
    return bpetok.train("ab abab 東京 1234 12 ab 東京", 270, pattern=CHAIN, special_tokens=["<s>"])


@pytest.fixture(scope="module")
def nfc(small):
    parts = (small.vocab.ranks, small.vocab.special_tokens, small.vocab.pattern)
    return bpetok.Tokenizer(Vocab(*parts, normalization="NFC"))


@given(text=TEXTS)
def test_several_expressions_cut_as_tokenizers_cuts(text):
    splits = [pre_tokenizers.Split(tokenizers.Regex(step), "isolated") for step in CHAIN]
    theirs = [piece for piece, _ in pre_tokenizers.Sequence(splits).pre_tokenize_str(text)]
    split = patterns.resolve(CHAIN)
    assert [*patterns.cut_text(split, text)] == theirs
    assert reference.split(CHAIN, text) == [piece.encode() for piece in theirs]


def test_each_expression_sees_one_pretoken_alone():
    assert reference.split((r" ", r"a(?!b)|."), "ab a") == [b"a", b"b", b" ", b"a"]
    assert reference.split((r"(?<=a)b", r"a(?!b)|."), "ab") == [b"a", b"b"]


@pytest.mark.parametrize("steps", [(), ("gpt2", "none"), ("gpt2", "(")])
def test_a_step_that_does_not_cut_is_refused(steps):
    with pytest.raises(PatternError):
        patterns.resolve(steps)


@pytest.mark.parametrize("wrong", [3, [65, 66], None, 2.5])
def test_what_is_no_text_is_refused_by_every_way_in(chained, nfc, wrong):
    for tok in (chained, nfc):
        for call in (tok.encode, tok.encode_ordinary, tok.encode_to_numpy, tok.count):
            with pytest.raises(TypeError, match="text must be str or bytes"):
                call(wrong)
        for call in (tok.encode_batch, tok.encode_ordinary_batch, tok.count_batch, tok.encode_batch_to_numpy):
            with pytest.raises(TypeError, match="text must be str or bytes"):
                call([wrong])


def test_one_step_is_that_pattern():
    assert patterns.resolve(("gpt4",)) == patterns.resolve("gpt4")


@given(text=TEXTS)
def test_text_comes_back_whole_from_several_expressions(chained, text):
    assert chained.decode(chained.encode(text, disallowed_special=())) == text
    assert chained.count(text) == len(chained.encode_ordinary(text))


@given(text=TEXTS)
def test_normalized_text_has_the_ids_of_its_normal_form(nfc, small, text):
    form = unicodedata.normalize("NFC", text)
    assert nfc.encode_ordinary(text) == small.encode_ordinary(form)
    assert nfc.decode(nfc.encode_ordinary(text)) == form
    assert [part for array in nfc.encode_stream(text) for part in array] == nfc.encode_ordinary(text)


@given(text=TEXTS)
def test_normal_forms_are_those_of_tokenizers(text):
    assert unicodedata.normalize("NFC", text) == normalizers.NFC().normalize_str(text)


def test_text_is_normalized_between_special_tokens_not_across_them(nfc):
    fim = nfc.encode_single_token("<|fim|>")
    assert nfc.encode("<|fim|>\u0338", allowed_special="all")[0] == fim  # ">" and U+0338 make one character
    assert nfc.encode_batch(["e\u0301"] * 2) == [nfc.encode("é")] * 2
    ids, offsets = nfc.encode_batch_to_numpy(["e\u0301", "é"])
    assert offsets.tolist() == [0, len(ids) // 2, len(ids)]


def test_bytes_that_are_not_utf8_survive_normalization(nfc):
    assert nfc.decode_bytes(nfc.encode(b"e\xcc\x81\xff\xc3")) == "é".encode() + b"\xff\xc3"


def test_offsets_are_those_in_the_normalized_text(nfc):
    encoded = nfc.encode_with_offsets("e\u0301e\u0301")
    assert encoded.data == "éé".encode()
    assert encoded.char_spans.max() == 2


def test_a_vocabulary_that_normalizes_is_saved_and_pickled_whole(nfc, chained, tmp_path):
    for tok in (nfc, chained):
        tok.save(tmp_path / "x.bpetok")
        assert bpetok.load(tmp_path / "x.bpetok") == tok
        text = "e\u0301 12"
        assert np.array_equal(bpetok.load(tmp_path / "x.bpetok").encode_to_numpy(text), tok.encode_to_numpy(text))
