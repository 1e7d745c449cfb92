"""Reading shards: what is read is what the slow twin wrote, and what does not fit together is refused."""

import hashlib
import json
import os
import struct
from functools import cache
from itertools import accumulate, chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bpetok
from bpetok import shards
from bpetok.errors import CorruptionError, FormatError, IncompatibleError
from bpetok.shards import layout, manifest, reader

IDS = st.lists(st.integers(1, 60_000), max_size=12)
DOCUMENTS = st.lists(IDS, max_size=12)


@pytest.fixture
def small(tmp_path, slow_shards):
    """A folder of seven files, and the ids of its documents."""
    documents = {"train": [[10 * i + j for j in range(1, i + 1)] for i in range(8)], "val": [[7, 8], []]}
    return tmp_path, slow_shards(tmp_path, documents, shard_tokens=7)


# ---- the twin --------------------------------------------------------------------------------------------------------


@settings(max_examples=80)
@given(
    st.fixed_dictionaries({"train": DOCUMENTS, "val": DOCUMENTS}),
    st.integers(1, 30),
    st.sampled_from(["before", "after"]),
    st.sampled_from(["uint16", "uint32"]),
)
def test_documents_are_those_that_were_written(tmp_path_factory, slow_shards, documents, size, stands, dtype):
    folder = tmp_path_factory.mktemp("shards")
    written = slow_shards(folder, documents, shard_tokens=size, stands=stands, dtype=dtype)
    opened = reader.open(folder)
    opened.verify(num_threads=1)
    for name, expected in written.items():
        split = opened.splits[name]
        assert (split.documents, len(split)) == (len(expected), sum(map(len, expected)))
        assert [split.document(i).tolist() for i in range(split.documents)] == expected
        ends = list(accumulate(map(len, expected), initial=0))
        ranges = [split.document_range(i) for i in range(split.documents)]
        assert ranges == list(zip(ends, ends[1:], strict=False))  # noqa: RUF007
        assert split.read(0, len(split)).dtype == dtype


@settings(max_examples=60)
@given(DOCUMENTS, st.integers(1, 30), st.data())
def test_any_range_and_any_windows_are_slices_of_all_ids(tmp_path_factory, slow_shards, documents, size, data):
    folder = tmp_path_factory.mktemp("shards")
    written = slow_shards(folder, {"train": documents}, shard_tokens=size)
    ids = list(chain.from_iterable(written["train"]))
    train = reader.open(folder).train
    start = data.draw(st.integers(0, len(ids)))
    stop = data.draw(st.integers(start, len(ids)))
    assert train.read(start, stop).tolist() == ids[start:stop]
    length = data.draw(st.integers(1, 20))
    windows = [window.tolist() for window in train.windows(length)]
    assert windows == [ids[at : at + length] for at in range(0, len(ids), length)]
    stride = data.draw(st.integers(1, length))
    windows = [window.tolist() for window in train.windows(length, stride)]
    assert windows == [
        ids[at : at + length] for at in range(0, len(ids), stride) if at == 0 or at - stride + length < len(ids)
    ]
    assert set(chain.from_iterable(windows)) == set(ids)


@settings(max_examples=25)
@given(
    st.lists(st.binary(min_size=1, max_size=12), min_size=1, max_size=10),
    st.integers(1, 12),
    st.sampled_from(["before", "after"]),
)
def test_the_writer_writes_the_files_and_the_entries_of_the_slow_twin(
    tmp_path_factory, slow_shards, texts, size, stands
):
    tok, folder = ab(), tmp_path_factory.mktemp("twins")
    documents = [tok.encode_ordinary(text) for text in texts]
    how = {"shard_tokens": size, "end_of_text": tok.eot_token, "stands": stands, "tokenizer": tok}
    slow_shards(folder / "slow", {"train": documents}, **how)
    made = shards.write(texts, tok, folder / "fast", shard_tokens=size, val_fraction=0, end_of_text=stands)
    slow = reader.open(folder / "slow").manifest
    assert (made.shards, made.probe, made.dtype) == (slow.shards, slow.probe, slow.dtype)
    for path in (folder / "slow").iterdir():
        if path.name != manifest.MANIFEST:
            assert (folder / "fast" / path.name).read_bytes() == path.read_bytes()


@cache
def ab():
    return bpetok.train("ab" * 8, 258, special_tokens=["<|endoftext|>"])


def test_a_document_over_files_of_one_id_each_is_whole(tmp_path, slow_shards):
    slow_shards(tmp_path, {"train": [[5, 6, 7], [], [8]]}, shard_tokens=1)
    train = reader.open(tmp_path).train
    assert [shard.continues for shard in train.shards] == [False, True, True, True, False, False, True]
    assert [train.document(i).tolist() for i in range(3)] == [[0, 5, 6, 7], [0], [0, 8]]


def test_what_is_read_is_a_copy_and_may_be_changed(small):
    folder, written = small
    train = reader.open(folder).train
    for ids in (train.read(0, 3), train.document(1), next(train.windows(3))):
        ids[:] = 9
    assert train.document(1).tolist() == written["train"][1]


@pytest.mark.parametrize("ask", [(-1, 2), (3, 2), (0, 1000), (1000, 1000)])
def test_a_range_outside_is_refused(small, ask):
    with pytest.raises(IndexError, match="train: a range must lie in 0 to 36, got"):
        reader.open(small[0]).train.read(*ask)


@pytest.mark.parametrize("number", [-1, 8])
def test_a_document_that_is_not_there_is_refused(small, number):
    with pytest.raises(IndexError, match=f"train: a document must be in 0 to 7, got {number}"):
        reader.open(small[0]).train.document(number)


def test_windows_of_no_length_are_refused(small):
    for args in ((0,), (3, 0)):
        with pytest.raises(ValueError, match="train: length and stride must be at least 1, got"):
            reader.open(small[0]).train.windows(*args)


def test_an_empty_split_has_neither_documents_nor_windows(tmp_path, slow_shards):
    slow_shards(tmp_path, {"train": [[1]]})
    val = reader.open(tmp_path).val
    assert (len(val), val.documents, val.read(0, 0).tolist(), list(val.windows(4))) == (0, 0, [], [])


def test_more_files_than_a_process_may_open_are_read(tmp_path, slow_shards):
    resource = pytest.importorskip("resource", reason="needs limits on open files, which this system does not have")
    written = slow_shards(tmp_path, {"train": [[i] for i in range(1, 301)]}, shard_tokens=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 64
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, used + 400), hard))
    try:
        train = reader.open(tmp_path).train
        assert [train.document(i).tolist() for i in range(train.documents)] == written["train"]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# ---- text ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stands", ["before", "after"])
def test_text_is_the_documents_bytes_without_the_end_of_text_token(tmp_path, slow_shards, stands):
    tok = ab()
    texts = [b"abab", b"", b"\xff b<|endoftext|>a"]
    ids = [tok.encode_ordinary(text) for text in texts]
    slow_shards(tmp_path, {"val": ids}, shard_tokens=3, tokenizer=tok, end_of_text=tok.eot_token, stands=stands)
    opened = reader.open(tmp_path)
    assert [opened.text("val", i, tok) for i in range(3)] == texts
    assert opened.val.text_bytes == sum(map(len, texts))
    opened.check(tok, end_of_text=stands)
    other = bpetok.train("ba" * 8, 258, special_tokens=["<|endoftext|>"])
    with pytest.raises(IncompatibleError, match=f"(?s){tok.fingerprint}.*{other.fingerprint}"):
        opened.text("val", 0, other)


def test_a_document_without_its_end_of_text_id_is_no_text(tmp_path, slow_shards):
    tok = ab()
    slow_shards(tmp_path, {"train": [[97, 98]]}, tokenizer=tok, end_of_text=tok.eot_token)
    path = tmp_path / "train_000000.bin"
    path.write_bytes(path.read_bytes().replace(struct.pack("<H", tok.eot_token), struct.pack("<H", 99)))
    with pytest.raises(CorruptionError, match="train document 0 must begin with the id 258, got 99"):
        reader.open(tmp_path).text("train", 0, tok)


# ---- what does not fit together --------------------------------------------------------------------------------------


def reseal(folder, change):
    """Writes the manifest anew, as a forger would: with a checksum that is right."""
    document = json.loads((folder / "manifest.json").read_bytes())
    del document["sha256"]
    change(document)
    body = json.dumps(document, indent=1).encode().removesuffix(b"\n}")
    (folder / "manifest.json").write_bytes(
        body + b',\n "sha256": "%s"\n}\n' % hashlib.sha256(body).hexdigest().encode()
    )


@pytest.mark.parametrize("documents", [0, 5, 10**30])
def test_a_manifest_with_impossible_numbers_of_documents_is_refused(tmp_path, slow_shards, documents):
    slow_shards(tmp_path, {"train": [[1, 2, 3]]})
    reseal(tmp_path, lambda about: about["shards"][0].update(documents=documents))
    with pytest.raises((FormatError, CorruptionError), match=r"a document for each at most, got 4 and|must be \d"):
        reader.open(tmp_path)


@pytest.mark.parametrize(
    ("lengths", "pointers"),
    [([4, -1], [1024, 1032]), ([2, 2], [1024, 1028]), ([1, 2], [1024, 1 << 40]), ([0, 3], [1024, 1024])],
)
def test_an_index_that_contradicts_itself_is_refused_before_it_is_followed(tmp_path, slow_shards, lengths, pointers):
    slow_shards(tmp_path, {"train": [[], [1]]})
    path = tmp_path / "train_000000.idx"
    head = path.read_bytes()[: layout.INDEX_HEADER_BYTES]
    path.write_bytes(head + struct.pack("<2i2q3q", *lengths, *pointers, 0, 1, 2))
    with pytest.raises(CorruptionError, match="lengths and pointers must follow each other"):
        reader.open(tmp_path).train.document(1)


def test_a_folder_of_shards_is_known_also_where_it_is_not_whole(small):
    folder, _ = small
    assert reader.is_folder(folder)
    (folder / "manifest.json").unlink()
    assert reader.is_folder(folder) and not reader.is_folder(folder / "train_000000.bin")
    for path in folder.iterdir():
        path.unlink()
    assert not reader.is_folder(folder)
    (folder / ".build").mkdir()
    assert reader.is_folder(folder)


# ---- past 2^31 and 4 GiB, in files that are mostly holes -------------------------------------------------------------


@pytest.fixture
def sparse(tmp_path):
    """`sparse(dtype, sizes, lengths)`: files of so many ids, zero but where they are written, with these documents."""

    def make(dtype, sizes, lengths_of):
        found = []
        for number, (size, lengths) in enumerate(zip(sizes, lengths_of, strict=True)):
            name = layout.bin_name("train", number)
            with open(tmp_path / name, "wb") as file:
                file.write(layout.bin_header(dtype, size))
                file.truncate(layout.bin_bytes(dtype, size))
            parts = layout.index_parts(dtype, np.array(lengths, np.int32))
            (tmp_path / layout.index_name(name)).write_bytes(b"".join(parts))
            continues = number > 0
            shard = manifest.Shard(name, "train", size, len(lengths) - continues, continues, 0, "", "", "", "")
            found.append(shard)
        manifest.Manifest("none", "", "", 1, dtype, 0, "before", {}, (), tuple(found)).write(tmp_path)
        return tmp_path

    return make


def poke(path, dtype, place, *ids):
    with open(path, "rb+") as file:
        file.seek(layout.bin_bytes(dtype, place))
        file.write(np.array(ids, dtype).tobytes())


SIZE = 536_870_400  # as many as a file may hold


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_a_split_of_more_than_2_to_the_31_ids_is_read_at_its_far_end(sparse, dtype):
    folder = sparse(dtype, [SIZE] * 5, [[SIZE - 3, 3], [SIZE], [1, SIZE - 1], [SIZE - 2, 2], [5, SIZE - 7, 2]])
    poke(folder / "train_000003.bin", dtype, SIZE - 2, 11, 12)
    poke(folder / "train_000004.bin", dtype, 0, 13, 14, 15, 16, 17)
    poke(folder / "train_000004.bin", dtype, SIZE - 2, 18, 19)
    train = reader.open(folder).train
    assert (train.tokens, train.documents) == (5 * SIZE, 6) and train.tokens > 2**31 + 2**29 - 10_000
    end = 5 * SIZE
    assert train.document_range(1) == (SIZE - 3, 2 * SIZE + 1)  # over two borders
    assert train.document_range(2) == (2 * SIZE + 1, 4 * SIZE - 2)
    assert train.document_range(5) == (end - 2, end) and train.document(5).tolist() == [18, 19]
    assert (
        train.document(3).tolist() == [11, 12, 13, 14, 15, 16, 17] and 4 * SIZE - 2 < 2**31 < train.document_range(4)[1]
    )
    assert train.read(4 * SIZE - 3, 4 * SIZE + 2).tolist() == [0, 11, 12, 13, 14]
    assert train.read(end - 3, end).tolist() == [0, 18, 19]
    last = list(train.windows(1 << 20, SIZE))
    assert len(last) == 5 and last[4][:6].tolist() == [13, 14, 15, 16, 17, 0]


def test_pointers_past_4_gib_are_written_and_followed(sparse):
    size, long = 1_610_612_736, 1_500_000_000  # 6 GiB of uint32
    folder = sparse("uint32", [size], [[long, size - long - 3, 3]])
    poke(folder / "train_000000.bin", "uint32", size - 3, 70_001, 70_002, 70_003)
    _, pointers = layout.map_index(folder / "train_000000.idx", "uint32", 3)
    assert pointers.tolist() == [1024, 1024 + 4 * long, 1024 + 4 * (size - 3)] and int(pointers[1]) > 2**32
    train = reader.open(folder).train
    assert train.document(2).tolist() == [70_001, 70_002, 70_003]
    assert train.document_range(1) == (long, size - 3)


@pytest.mark.parametrize(("dtype", "width"), [("uint16", 2), ("uint32", 4)])
def test_an_index_of_lengths_that_sum_past_2_to_the_32_has_pointers_of_64_bits(dtype, width):
    lengths = np.full(40, 2**31 - 1, np.int32)
    written = b"".join(layout.index_parts(dtype, lengths))
    pointers = np.frombuffer(written, "<i8", 40, layout.INDEX_HEADER_BYTES + 160)
    assert pointers.tolist() == [1024 + width * (2**31 - 1) * i for i in range(40)] and pointers[-1] > 2**36


def test_an_index_of_more_sequences_than_fit_one_piece_has_no_seam():
    lengths = np.arange(1, (1 << 20) + 1001, dtype=np.int32) % 9 + 1
    written = b"".join(layout.index_parts("uint16", lengths))
    assert len(written) == layout.index_bytes(len(lengths))
    pointers = np.frombuffer(written, "<i8", len(lengths), layout.INDEX_HEADER_BYTES + 4 * len(lengths))
    expected = 1024 + 2 * np.concatenate([[0], np.cumsum(lengths[:-1], dtype=np.int64)])
    assert np.array_equal(pointers, expected)
    boundaries = np.frombuffer(written, "<i8", offset=layout.INDEX_HEADER_BYTES + 12 * len(lengths))
    assert np.array_equal(boundaries, np.arange(len(lengths) + 1))
