"""Text in chunks."""

import io

from bpetok import streams
from bpetok.streams import Window, chunks_of


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
