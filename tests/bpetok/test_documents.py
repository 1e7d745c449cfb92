"""What the core does for shards: the hash of documents, where a long one may be cut, and laying out their ids."""

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

import bpetok
from bpetok import _core, patterns

NAMED = sorted({split.scanner for split in map(patterns.resolve, patterns.SPELLINGS) if split.scanner} - {"none"})


@given(st.binary(max_size=200))
def test_the_hash_is_xxh64(data):
    assert _core.xxh64(data) == xxhash.xxh64_intdigest(data)


@pytest.mark.parametrize("size", [0, 1, 3, 4, 7, 8, 31, 32, 33, 63, 64, 65_535, 65_536, 100_003])
def test_the_hash_is_xxh64_of_every_size(size):
    data = bytes(i * 7919 % 251 for i in range(size))
    assert _core.xxh64(data) == xxhash.xxh64_intdigest(data)


def test_the_hash_is_the_published_one():
    # From the test vectors of xxHash: the empty input, and "abc", with seed 0.
    assert (_core.xxh64(b""), _core.xxh64(b"abc")) == (0xEF46DB3751D8E999, 0x44BC2CF5AD770999)


def laid_out(texts, marks, end_of_text):
    """The slow twin."""
    ids = []
    for text, mark in zip(texts, marks, strict=True):
        ids += [end_of_text] * (mark & 1) + text + [end_of_text] * (mark >> 1 & 1)
    return ids


@given(
    documents=st.lists(st.tuples(st.lists(st.integers(0, 65_535), max_size=5), st.integers(0, 3)), max_size=8),
    dtype=st.sampled_from(["uint16", "uint32"]),
)
def test_documents_are_laid_out_with_end_of_text_where_it_is_marked(documents, dtype):
    texts, marks = [text for text, _ in documents], [mark for _, mark in documents]
    expected = laid_out(texts, marks, 7)
    out = np.full(len(expected), 9, dtype)
    ids = np.array([token_id for text in texts for token_id in text], np.uint32)
    offsets = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    _core.lay_out(ids, offsets, np.array(marks, np.uint8), 7, out)
    assert out.tolist() == expected


@pytest.mark.parametrize(
    ("offsets", "marks", "room"),
    [
        ([0, 3], [0], 2),
        ([0, 3], [1], 3),
        ([0, 3], [0], 4),
        ([0, 2], [0], 3),
        ([0, 4], [0], 3),
        ([0, 2, 1], [0, 0], 3),
        ([0, -1, 3], [0, 0], 3),
        ([0, 3], [], 3),
        ([], [], 3),
    ],
)
def test_what_does_not_fit_together_is_not_laid_out(offsets, marks, room):
    ids, out = np.zeros(3, np.uint32), np.zeros(room, np.uint16)
    with pytest.raises(bpetok.DataError, match="shards: "):
        _core.lay_out(ids, np.array(offsets, np.int64), np.array(marks, np.uint8), 7, out)


def test_room_of_another_type_is_refused():
    for room in (np.zeros(3, np.int64), np.zeros(6, np.uint16)[::2], [0, 0, 0]):
        with pytest.raises(TypeError):
            _core.lay_out(np.zeros(3, np.uint32), np.array([0, 3]), np.zeros(1, np.uint8), 7, room)


@pytest.mark.parametrize("scanner", NAMED)
@settings(max_examples=30)
@given(text=st.text("ab é東\n\r\t 1'.!", max_size=30), start=st.integers(0, 40))
def test_a_text_may_be_cut_at_a_sure_border(scanner, text, start):
    data = text.encode()
    place = _core.first_sure_border(scanner, data, start)
    assert min(start, len(data)) <= place <= len(data)
    whole = _core.pretoken_ends(scanner, data).tolist()
    parts = [
        *_core.pretoken_ends(scanner, data[:place]).tolist(),
        *(place + _core.pretoken_ends(scanner, data[place:])).tolist(),
    ]
    assert parts == whole


@pytest.mark.parametrize("scanner", NAMED)
@given(before=st.text("ab é東\n 1'", max_size=12), text=st.text("ab é東\n 1'", max_size=12), cut=st.integers(0, 20))
def test_a_sure_border_is_the_same_in_a_part_of_the_text(scanner, before, text, cut):
    """Who looks at a window finds what others find in the whole text."""
    whole = (before + text).encode()
    start = max(len(before.encode()), 1)
    place = _core.first_sure_border(scanner, whole, start)
    window = whole[max(0, start - 4) :]
    assert _core.first_sure_border(scanner, window, start - max(0, start - 4)) + max(0, start - 4) == place


def test_a_text_that_is_not_split_has_no_border():
    assert _core.first_sure_border("none", b"one two\nthree", 1) == 13


@given(
    start=st.binary(max_size=3),
    text=st.lists(st.sampled_from([b"\n", b"a", b"b", b"\r", b"\0"]), max_size=30).map(b"".join),
    begin=st.integers(0, 40),
)
def test_lines_are_found_by_how_they_begin(start, text, begin):
    places = range(min(begin, len(text)), len(text))
    expected = [place + 1 for place in places if text[place] == 10 and text.startswith(start, place + 1)]
    assert _core.lines_that_begin_with(start, text, begin).tolist() == expected
