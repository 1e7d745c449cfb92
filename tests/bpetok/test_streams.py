"""Streams: any chunking gives the ids, and the text, of the whole."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bpetok
from bpetok import UnknownIdError, streams
from bpetok.streams import TextChunks, Window, chunks_of

_TEXT = ["lo", "wer", " the", "ʰA", "東京", "'LL", "123", "  ", "\n", "🙂"]
PARTS = st.lists(st.sampled_from([*_TEXT, "<|fim|>", "<|fi", "m|>", "<|", "|>"]))
SPECIALS = {"<|fim|>": 300, "<|fim|><|fim|>": 301, "m|>": 302}


@pytest.fixture(scope="module")
def overlapping(small):
    """Special tokens that begin alike, and one that is the end of another."""
    ranks = {token: rank for token, rank in small.vocab.ranks.items() if rank < 300}
    return bpetok.Tokenizer(bpetok.Vocab(ranks, SPECIALS, small.vocab.pattern))


def whole(arrays):
    return [token for array in arrays for token in array.tolist()]


@given(parts=PARTS, data=st.data())
def test_special_tokens_cut_anywhere_are_found_as_in_the_whole(overlapping, parts, data):
    text = "".join(parts)
    allowed = data.draw(st.sets(st.sampled_from(sorted(SPECIALS))))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    chunks = [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    want = overlapping.encode(text, allowed_special=allowed, disallowed_special=())
    assert whole(overlapping.encode_stream(chunks, allowed_special=allowed)) == want
    one_by_one = list(text.encode())
    assert whole(overlapping.encode_stream((bytes([byte]) for byte in one_by_one), allowed_special=allowed)) == want


@given(parts=PARTS)
def test_a_fed_encoder_holds_what_it_has_not_given_out(overlapping, parts):
    stream = overlapping.stream_encoder(allowed_special="all")
    ids, text = [], b""
    for part in parts:
        text += part.encode()
        ids += stream.feed(part).tolist()
        assert overlapping.decode_bytes(ids) + stream.pending == text
    ids += stream.finish().tolist()
    assert ids == overlapping.encode(text, allowed_special="all")
    assert stream.pending == b"" and stream.finish().tolist() == []


@given(text=st.text(st.characters(codec=None), max_size=20), cut=st.integers(0, 20))
def test_the_halves_of_a_surrogate_pair_may_come_in_two_chunks(small, text, cut):
    assert whole(small.encode_stream([text[:cut], text[cut:]])) == small.encode_ordinary(text)


def test_half_a_pair_before_bytes_or_the_end_is_a_lone_surrogate():
    chunks = TextChunks()
    assert chunks.add("a\ud83d") == b"a"
    assert chunks.add(b"b") == "\ufffdb".encode()
    assert chunks.add("\ud83d") + chunks.finish() == "\ufffd".encode()


def test_an_endless_stream_takes_no_more_memory_than_a_window(small):
    stream = small.stream_encoder(allowed_special="all")
    most = 0
    for _ in range(2000):
        stream.feed("lower the 12 <|fim|> quin\n" * 20)
        most = max(most, len(stream.pending))
    assert most < 2000


@given(parts=PARTS)
def test_a_decoder_fed_in_any_way_gives_the_text_of_the_whole(overlapping, parts):
    text = "".join(parts)
    ids = overlapping.encode_to_numpy(text, allowed_special="all")
    assert "".join(overlapping.decode_stream(ids)) == text  # one by one
    assert "".join(overlapping.decode_stream(ids.tolist())) == text
    assert "".join(overlapping.decode_stream([ids, ids[:0]])) == text  # an array at a time
    assert "".join(overlapping.decode_stream(overlapping.encode_stream([text], allowed_special="all"))) == text


def test_a_fed_decoder_holds_half_a_character_back(small):
    stream = small.stream_decoder()
    assert [stream.feed(byte) for byte in "é!".encode()[:2]] == ["", "é"]
    assert stream.feed(np.array([0xF0, 0x9F], np.uint16)) == ""
    assert stream.finish() == "\ufffd" and stream.finish() == ""
    assert small.stream_decoder(errors="ignore").feed([0xC3, 0x41]) == "A"
    with pytest.raises(UnknownIdError):
        stream.feed(small.n_vocab)


@given(parts=PARTS)
def test_a_counter_counts_the_text_so_far_after_each_part(small, parts):
    counter, text = small.counter(), ""
    assert counter.total == 0
    for part in parts:
        text += part
        assert counter.append(part) == counter.total == small.count(text)


def test_a_counter_counts_half_a_surrogate_pair_as_it_would_count_alone(small):
    counter = small.counter()
    assert counter.append("a\ud83d") == small.count("a\ud83d")
    assert counter.append("\ude42") == small.count("a🙂")


def test_what_is_pending_stays_short_behind_a_long_chunk(small):
    counter = small.counter()
    counter.append("a " + "1 " * 100_000)
    assert len(counter._encoder.pending) < 20


@pytest.mark.parametrize("pattern", [None, r"\w+|\W"])
def test_streams_of_patterns_without_a_scanner_are_whole_too(pattern, small_text):
    tok = bpetok.train(small_text, 300, pattern=pattern, special_tokens=["<s>"])
    chunks = [small_text[:50], "<s>", small_text[50:99]]
    want = tok.encode("".join(chunks), allowed_special="all")
    assert whole(tok.encode_stream(chunks, allowed_special="all")) == want
    counter = tok.counter()
    assert [counter.append(chunk) for chunk in chunks][-1] == tok.count("".join(chunks))


# ---- chunks and windows ----------------------------------------------------------------------------------------------


def test_chunks_are_the_file_cut_at_the_size():
    assert list(chunks_of(io.BytesIO(b"abcdefg"), 3)) == [b"abc", b"def", b"g"]
    assert list(chunks_of(io.BytesIO(b""))) == []
    assert [len(chunk) for chunk in chunks_of(io.BytesIO(bytes(streams.CHUNK_BYTES + 1)))] == [streams.CHUNK_BYTES, 1]


def test_a_window_holds_what_was_added_and_not_dropped():
    window = Window()
    assert window.text == b""
    window.add(b"one ")
    window.add(b"two")
    assert window.text == b"one two"
    window.drop(4)
    assert window.text == b"two"
    window.add(b" three")
    assert window.text == b"two three"
    window.drop(9)
    assert window.text == b""


def test_a_text_that_does_not_come_loose_is_looked_at_only_when_it_has_doubled():
    window = Window()
    looks = 0
    for _ in range(4096):
        if window.add(b"x" * 10):
            looks += 1
            assert len(window.text) >= 10
            window.drop(0)
    assert looks <= 14
    assert len(window.text) == 40960
