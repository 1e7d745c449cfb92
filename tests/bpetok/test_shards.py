"""Shards: the bytes on disk, the split, the reader, and what is refused."""

import hashlib
import json
import os
import random
import struct

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

import bpetok
from bpetok import shards
from bpetok.sources import Document

EOT = 258  # of the fixture `tok`

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")


@pytest.fixture(scope="module")
def tok():
    return bpetok.train("ab" * 8, 258, pattern="gpt4", special_tokens=["<|endoftext|>"])


@pytest.fixture(scope="module")
def wide():
    """A vocabulary whose ids do not fit 16 bits."""
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"ab": 70_000}
    return bpetok.Tokenizer(bpetok.Vocab(ranks, {"<|endoftext|>": 70_001}))


def ids_of(path, width="H"):
    contents = path.read_bytes()
    return list(struct.unpack(f"<{(len(contents) - 1024) // struct.calcsize(width)}{width}", contents[1024:]))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def lines(number):
    return [f"document number {i}\n".encode() for i in range(number)]


# ---- the bytes ------------------------------------------------------------------------------------------------------


def test_a_small_vocabulary_is_written_as_llm_c_reads_it_with_16_bits(tmp_path, tok):
    shards.write(["ab", "ba"], tok, tmp_path, val_fraction=0)
    header = struct.pack("<256i", 20240520, 1, 5, *[0] * 253)
    assert (tmp_path / "train_000000.bin").read_bytes() == header + struct.pack("<5H", EOT, 256, EOT, 98, 97)
    assert names(tmp_path) == ["manifest.json", "train_000000.bin", "train_000000.idx"]


def test_the_index_is_megatrons_with_pointers_behind_the_header_of_llm_c(tmp_path, tok):
    shards.write(["ab", "ba"], tok, tmp_path, val_fraction=0)
    head = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8, 2, 3)
    lengths, pointers, documents = struct.pack("<2i", 2, 3), struct.pack("<2q", 1024, 1028), struct.pack("<3q", 0, 1, 2)
    assert (tmp_path / "train_000000.idx").read_bytes() == head + lengths + pointers + documents


def test_the_index_of_ids_of_32_bits_says_int32(tmp_path, wide):
    shards.write(["ab", "a"], wide, tmp_path, val_fraction=0)
    assert (tmp_path / "train_000000.idx").read_bytes()[9:18] == struct.pack("<QB", 1, 4)


def test_a_vocabulary_beyond_16_bits_is_written_with_32_bits(tmp_path, wide):
    shards.write(["ab", "a"], wide, tmp_path, val_fraction=0)
    header = struct.pack("<256i", 20240801, 7, 4, *[0] * 253)
    ids = struct.pack("<4I", 70_001, 70_000, 70_001, 97)
    assert (tmp_path / "train_000000.bin").read_bytes() == header + ids
    assert shards.open(tmp_path).train.read(0, 4).tolist() == [70_001, 70_000, 70_001, 97]


@pytest.mark.parametrize(("highest", "dtype"), [(65_535, "uint16"), (65_536, "uint32")])
def test_ids_take_16_bits_up_to_65535(tmp_path, highest, dtype):
    ranks = {bytes([byte]): byte for byte in range(256)}
    tok = bpetok.Tokenizer(bpetok.Vocab(ranks, {"<|endoftext|>": highest}))
    assert shards.write(["abc"], tok, tmp_path, val_fraction=0).dtype == dtype
    assert shards.open(tmp_path).train.read(0, 1).tolist() == [highest]


def test_the_manifest_says_what_is_there(tmp_path, tok):
    written = shards.write(["ab", "ba"], tok, tmp_path, val_fraction=0)
    document = json.loads((tmp_path / "manifest.json").read_text())
    contents = (tmp_path / "train_000000.bin").read_bytes()
    assert document["shards"] == [
        {
            "file": "train_000000.bin",
            "split": "train",
            "tokens": 5,
            "documents": 2,
            "continues": False,
            "text_bytes": 4,
            "sha256": hashlib.sha256(contents).hexdigest(),
            "marks": "",
            "index_sha256": hashlib.sha256((tmp_path / "train_000000.idx").read_bytes()).hexdigest(),
            "index_marks": "",
        }
    ]
    expected = {
        "format": "bpetok shards",
        "version": 2,
        "complete": True,
        "tokenizer": "bpetok",
        "fingerprint": tok.fingerprint,
        "dtype": "uint16",
    }
    expected |= {"vocab_size": 259, "end_of_text": EOT, "end_of_text_stands": "before", "skipped": 0}
    assert {key: document[key] for key in expected} == expected
    assert shards.Manifest.read(tmp_path) == written == shards.open(tmp_path).manifest


def test_the_probe_is_the_checksum_of_the_ids_of_a_fixed_text(tok):
    ids = tok.encode_ordinary(shards.PROBE)
    for stands, held in (("before", [EOT, *ids]), ("after", [*ids, EOT])):
        assert shards.probe_digest(tok, EOT, stands) == hashlib.sha256(struct.pack(f"<{len(held)}I", *held)).hexdigest()


def test_the_end_of_text_id_stands_behind_each_document_where_it_is_asked_for(tmp_path, tok):
    written = shards.write(["ab", "ba"], tok, tmp_path, val_fraction=0, end_of_text="after")
    assert ids_of(tmp_path / "train_000000.bin") == [256, EOT, 98, 97, EOT]
    assert (written.end_of_text_stands, written.probe) == ("after", shards.probe_digest(tok, EOT, "after"))


def test_special_tokens_in_the_text_are_text(tmp_path, tok):
    shards.write(["a<|endoftext|>b"], tok, tmp_path, val_fraction=0)
    assert ids_of(tmp_path / "train_000000.bin") == [EOT, *tok.encode_ordinary("a<|endoftext|>b")]


def test_a_document_goes_on_in_the_next_file(tmp_path, tok):
    written = shards.write(
        ["ccccc", "", b"d\xff", Document(b"e", "x:1")], tok, tmp_path, shard_tokens=4, val_fraction=0
    )
    assert [ids_of(tmp_path / f"train_00000{i}.bin") for i in range(3)] == [
        [EOT, 99, 99, 99],
        [99, 99, EOT, 100],
        [255, EOT, 101],
    ]
    assert [(shard.tokens, shard.documents, shard.text_bytes) for shard in written.shards] == [
        (4, 1, 3),
        (4, 1, 3),
        (3, 1, 2),
    ]


@settings(max_examples=60)  # each example waits for the disk
@given(texts=st.lists(st.text("ab é\n", max_size=20), min_size=1, max_size=8).filter(any), size=st.integers(1, 9))
def test_files_of_any_size_hold_every_document_once(tmp_path_factory, tok, texts, size):
    folder = tmp_path_factory.mktemp("shards")
    written = shards.write(texts, tok, folder, shard_tokens=size, val_fraction=0)
    train = shards.open(folder).train
    expected = [token_id for text in texts if text for token_id in (EOT, *tok.encode_ordinary(text))]
    assert train.read(0, len(train)).tolist() == expected
    assert (
        sum(shard.text_bytes for shard in written.shards)
        == train.text_bytes
        == sum(len(text.encode()) for text in texts)
    )
    assert sum(shard.documents for shard in written.shards) == train.documents == sum(map(bool, texts))
    assert all(shard.tokens == size for shard in written.shards[:-1])


@settings(max_examples=60)  # each example waits for the disk
@given(
    texts=st.lists(st.text("ab é\n", max_size=20), min_size=1, max_size=8).filter(any),
    size=st.integers(1, 9),
    stands=st.sampled_from(["before", "after"]),
)
def test_every_byte_is_that_of_the_slow_twin(tmp_path_factory, tok, slow_shards, texts, size, stands):
    folder, twin = tmp_path_factory.mktemp("shards"), tmp_path_factory.mktemp("twin")
    shards.write(texts, tok, folder, shard_tokens=size, val_fraction=0, end_of_text=stands)
    ids = [tok.encode_ordinary(text) for text in texts if text]
    slow_shards(twin, {"train": ids}, shard_tokens=size, end_of_text=EOT, stands=stands, tokenizer=tok)
    assert names(folder) == names(twin)
    for name in names(folder):
        if name != "manifest.json":
            assert (folder / name).read_bytes() == (twin / name).read_bytes(), name
    assert shards.open(folder).manifest.shards == shards.open(twin).manifest.shards


@given(start=st.integers(0, 50), stop=st.integers(0, 50))
def test_any_range_is_read_across_files(shard_folder, start, stop):
    train = shards.open(shard_folder).train
    every = [token_id for i in range(10) for token_id in ids_of(shard_folder / f"train_{i:06d}.bin")]
    assert len(train) == train.tokens == len(every) == 50
    if start <= stop:
        ids = train.read(start, stop)
        assert (ids.tolist(), ids.dtype) == (every[start:stop], np.uint16)
    else:
        with pytest.raises(IndexError, match=f"train: a range must lie in 0 to 50, got {start} to {stop}"):
            train.read(start, stop)


@pytest.fixture(scope="module")
def shard_folder(tmp_path_factory, tok):
    """50 ids in ten files, and no validation."""
    folder = tmp_path_factory.mktemp("ten")
    shards.write(["cdefghijk"] * 5, tok, folder, shard_tokens=5, val_fraction=0)
    return folder


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (0, 51), (51, 51)])
def test_a_range_outside_the_split_is_refused(shard_folder, start, stop):
    with pytest.raises(IndexError, match=f"train: a range must lie in 0 to 50, got {start} to {stop}"):
        shards.open(shard_folder).train.read(start, stop)


def test_what_was_read_is_a_copy(shard_folder):
    train = shards.open(shard_folder).train
    ids = train.read(0, 3)
    ids[:] = 0
    assert train.read(0, 3).tolist() == [EOT, 99, 100]


# ---- training and validation ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def split_of(tmp_path_factory, tok):
    """`split_of(texts, fraction)`: which texts train and which validate, as `write` decides."""

    def split_of(texts, fraction=None):
        folder = tmp_path_factory.mktemp("split")
        shards.write(texts, tok, folder, val_fraction=fraction)
        splits = shards.open(folder).splits.values()
        return tuple([tok.decode_bytes(split.document(n)[1:]) for n in range(split.documents)] for split in splits)

    return split_of


def by_hash(text, fraction=0.01):
    return xxhash.xxh64_intdigest(text[:65_536]) < fraction * 2**64


def test_of_many_documents_about_one_in_a_hundred_validates(split_of):
    train, val = split_of(lines(20_000))
    assert 140 < len(val) < 260
    assert sorted(train + val) == sorted(lines(20_000))


def test_which_document_validates_depends_on_its_bytes_alone(split_of):
    texts = lines(1000)
    _, val = split_of(texts)
    assert val
    random.Random(1).shuffle(texts)
    assert sorted(split_of(texts)[1]) == sorted(val)
    assert set(val) <= set(split_of(texts[:500])[1]) | set(split_of(texts[500:])[1])


def test_the_documents_that_validate_are_those_of_this_hash(split_of):
    assert split_of(lines(1000), 0.25)[1] == [text for text in lines(1000) if by_hash(text, 0.25)]


def test_of_a_long_document_the_first_65536_bytes_decide(split_of):
    heads = [b"%03d" % i + b"a" * 65_533 for i in range(100)]
    _, val = split_of([head + b"b" for head in heads], 0.5)
    assert [text[:-1] for text in val] == [head for head in heads if by_hash(head, 0.5)]
    assert val != [head + b"b" for head in heads if xxhash.xxh64_intdigest(head + b"b") < 2**63]


def test_where_the_hash_picks_none_the_last_document_validates(split_of):
    texts = [text for text in lines(400) if not by_hash(text)]
    assert len(texts) >= 100
    assert split_of(texts) == (texts[:-1], texts[-1:])


def test_of_99_documents_the_last_tenth_validates_and_of_100_the_hash_decides(split_of):
    texts = [b"%03d\n" % i for i in range(100)]
    train, val = split_of(texts[:99])
    assert train + val == texts[:99]
    assert len(val) in (9, 10)
    assert split_of(texts, 0.5)[1] == [text for text in texts if by_hash(text, 0.5)]


@pytest.mark.parametrize("count", [1, 2, 5, 99, 100, 300])
def test_nothing_validates_where_nothing_shall(split_of, count):
    assert split_of(lines(count), 0) == (lines(count), [])


def test_another_share_of_one_document_validates_where_it_is_asked_for(split_of):
    text = b"".join(b"line %02d\n" % i for i in range(40))
    assert split_of([text], 0.5) in [([text[: cut * 8]], [text[cut * 8 :]]) for cut in (20, 21)]


def test_one_document_is_cut_at_the_line_at_nine_tenths(split_of):
    text = b"".join(b"line %02d\n" % i for i in range(40))
    train, val = split_of([text])
    assert (train, val) in [([text[: cut * 8]], [text[cut * 8 :]]) for cut in (36, 37)]


@pytest.mark.parametrize("count", [2, 3, 5, 9, 10, 11, 40])
def test_a_text_of_two_lines_or_more_both_trains_and_validates(split_of, count):
    text = b"".join(b"line %02d\n" % i for i in range(count))
    train, val = split_of([text])
    assert b"".join(train + val) == text
    assert train
    assert val
    assert train[-1].endswith(b"\n")


@pytest.mark.parametrize("text", ["é" * 11, "🙂" * 7, "東" * 5, "a" + "é" * 20])
def test_a_text_without_lines_is_not_cut_inside_a_character(split_of, text):
    train, val = split_of([text.encode()])
    assert [part.decode() for part in train + val] == [text[: len(train[0].decode())], text[len(train[0].decode()) :]]


@given(texts=st.lists(st.text("ab\né", min_size=1, max_size=30), min_size=1, max_size=10))
def test_the_split_of_few_documents_loses_nothing_and_keeps_the_order(split_of, texts):
    data = [text.encode() for text in texts]
    train, val = split_of(data)
    assert b"".join(train + val) == b"".join(data)
    assert b"" not in train + val


@given(texts=st.lists(st.text("ab\n", min_size=4, max_size=30), min_size=1, max_size=10))
def test_few_documents_always_train(split_of, texts):
    train, _ = split_of([text.encode() for text in texts])
    assert train


def test_both_splits_are_written_and_numbered_apart(tmp_path, tok):
    shards.write([b"%04d\n" % i for i in range(60)], tok, tmp_path, shard_tokens=200)
    stems = ["train_000000", "train_000001", "val_000000"]
    assert names(tmp_path) == ["manifest.json", *(stem + suffix for stem in stems for suffix in (".bin", ".idx"))]
    opened = shards.open(tmp_path)
    assert (opened.train.documents, opened.val.documents) == (54, 6)
    assert (opened.train.text_bytes, opened.val.text_bytes) == (270, 30)
    assert opened.val.name == "val"


# ---- what cannot be written -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("documents", [[], [""], ["", b""]])
def test_documents_without_text_are_refused(tmp_path, tok, documents):
    with pytest.raises(bpetok.DataError, match="the documents must hold text, got none"):
        shards.write(documents, tok, tmp_path / "new")
    assert names(tmp_path / "new") == []


@pytest.mark.parametrize("fraction", [-0.1, 1, 2, float("nan")])
def test_the_fraction_that_validates_must_be_below_one(tmp_path, tok, fraction):
    with pytest.raises(bpetok.DataError, match="val_fraction must be in 0 to below 1, got"):
        shards.write(["a"], tok, tmp_path, val_fraction=fraction)


@pytest.mark.parametrize("tokens", [0, -1, 1 << 29])
def test_a_file_must_hold_a_token_and_stay_under_two_gibibytes(tmp_path, tok, tokens):
    with pytest.raises(bpetok.DataError, match="shard_tokens must be in 1 to 536,870,400, got"):
        shards.write(["a"], tok, tmp_path, shard_tokens=tokens)
    assert 1024 + 4 * shards.MAX_SHARD_TOKENS < 2**31


def test_a_tokenizer_without_end_of_text_is_refused(tmp_path):
    with pytest.raises(bpetok.UnknownTokenError, match=r"has no special token '<\|endoftext\|>'") as caught:
        shards.write(["a"], bpetok.train("ab", 256), tmp_path)
    assert "special_tokens=" in caught.value.hint


def test_a_folder_that_holds_shards_is_left_alone(shard_folder, tok):
    before = {path.name: path.read_bytes() for path in shard_folder.iterdir()}
    with pytest.raises(bpetok.FormatError, match="holds shards already") as caught:
        shards.write(["other"], tok, shard_folder)
    assert "another folder" in caught.value.hint
    assert {path.name: path.read_bytes() for path in shard_folder.iterdir()} == before


def failing(documents):
    yield from documents
    raise RuntimeError("the source broke")


def test_an_interrupted_write_leaves_nothing_and_can_be_run_again(tmp_path, tok):
    with pytest.raises(RuntimeError, match="the source broke"):
        shards.write(failing(lines(150)), tok, tmp_path, shard_tokens=500)
    assert not list(tmp_path.iterdir())
    with pytest.raises(bpetok.FormatError, match=r"must hold manifest\.json, which is written last") as caught:
        shards.open(tmp_path)
    assert "run it again" in caught.value.hint
    shards.write(lines(150), tok, tmp_path, shard_tokens=500)
    shards.open(tmp_path).verify()


def test_what_a_killed_call_left_is_taken_away_and_what_it_did_not_leave_is_not_mixed_in(tmp_path, tok):
    (tmp_path / ".build").mkdir()
    (tmp_path / ".build" / "train_000000.bin").write_bytes(b"half")
    shards.write(lines(150), tok, tmp_path)
    assert not list(tmp_path.glob(".*"))
    for name in ("train_000007.bin", "val_000000.idx"):
        (tmp_path / name[:5]).mkdir()
        (tmp_path / name[:5] / name).write_bytes(b"")
        with pytest.raises(bpetok.FormatError, match=f"must hold no shards yet, got {name}"):
            shards.write(lines(150), tok, tmp_path / name[:5])
        assert (tmp_path / name[:5] / name).exists()


def test_after_an_interrupted_write_a_second_run_leaves_only_its_own_files(tmp_path, tok):
    # llm.c and its kin read whatever matches train_*.bin, manifest or not.
    with pytest.raises(RuntimeError, match="the source broke"):
        shards.write(failing(lines(150)), tok, tmp_path, shard_tokens=500)
    written = shards.write(lines(150), tok, tmp_path, shard_tokens=100_000)
    files = [shard.file for shard in written.shards]
    assert names(tmp_path) == sorted(["manifest.json", *files, *(file.replace(".bin", ".idx") for file in files)])


@pytest.mark.parametrize("broken", ["replace", "fsync"])
def test_a_full_disk_leaves_no_partial_file(tmp_path, tok, monkeypatch, broken):
    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"bpetok.files.os.{broken}", fail)
    with pytest.raises(OSError, match="No space left"):
        shards.write(lines(150), tok, tmp_path, shard_tokens=500)
    assert [name for name in names(tmp_path) if name.endswith(".partial")] == []
    assert not (tmp_path / "manifest.json").exists()


# ---- what cannot be read --------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, tok):
    """A training file of 9 ids and a validation file."""
    shards.write([b"cdefghij\n" + b"k"], tok, tmp_path)
    assert len(names(tmp_path)) == 5
    return tmp_path


def rewrite_manifest(folder, change):
    """Changes the manifest, and its checksum with it."""
    document = json.loads((folder / "manifest.json").read_text())
    del document["sha256"]
    change(document)
    body = json.dumps(document, indent=1).encode().removesuffix(b"\n}")
    seal = f',\n "sha256": "{hashlib.sha256(body).hexdigest()}"\n}}\n'
    (folder / "manifest.json").write_bytes(body + seal.encode())


def alter(path, change):
    contents = bytearray(path.read_bytes())
    change(contents)
    path.write_bytes(contents)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda c: c.__delitem__(slice(-1, None)), r"train_000000\.bin: must be [\d,]+ bytes long, got [\d,]+"),
        (lambda c: c.__delitem__(slice(0, None)), r"train_000000\.bin: must be [\d,]+ bytes long, got 0"),
        (lambda c: c.extend(b"\0\0"), r"train_000000\.bin: must be [\d,]+ bytes long, got [\d,]+"),
        (
            lambda c: c.__setitem__(0, c[0] ^ 1),
            r"the header must begin with \(20240520, 1, \d+\) and zeros, got \(20240521, 1, \d+\)",
        ),
        (
            lambda c: c.__setitem__(4, 2),
            r"the header must begin with \(20240520, 1, \d+\) and zeros, got \(20240520, 2, \d+\)",
        ),
        (lambda c: c.__setitem__(8, 99), r"the header must begin with .* got \(20240520, 1, 99\)"),
    ],
)
def test_a_file_whose_size_or_header_is_wrong_is_refused_on_opening(folder, change, match):
    alter(folder / "train_000000.bin", change)
    with pytest.raises(bpetok.CorruptionError, match=match):
        shards.open(folder)


def test_a_missing_file_is_refused(folder):
    (folder / "val_000000.bin").unlink()
    with pytest.raises(bpetok.CorruptionError, match=r"val_000000\.bin: is named in the manifest but is not there"):
        shards.open(folder)


def test_verify_finds_every_flipped_bit(folder):
    draw = random.Random(2)
    good = {path: path.read_bytes() for path in folder.glob("*.bin")}
    shards.open(folder).verify()
    for _ in range(200):
        path = draw.choice(sorted(good))
        opened = shards.open(folder)
        place, bit = draw.randrange(len(good[path])), 1 << draw.randrange(8)
        alter(path, lambda c, place=place, bit=bit: c.__setitem__(place, c[place] ^ bit))
        with pytest.raises(
            bpetok.CorruptionError, match=rf"{path.name}: sha256 must be [0-9a-f]{{64}}, got [0-9a-f]{{64}}"
        ):
            opened.verify()
        path.write_bytes(good[path])


def test_two_files_that_changed_places_are_found(tmp_path, tok):
    shards.write(["cdefghij", "klmnopqr"], tok, tmp_path, shard_tokens=9, val_fraction=0)
    (tmp_path / "train_000000.bin").rename(tmp_path / "x")
    (tmp_path / "train_000001.bin").rename(tmp_path / "train_000000.bin")
    (tmp_path / "x").rename(tmp_path / "train_000001.bin")
    with pytest.raises(bpetok.CorruptionError, match=r"train_000000\.bin: sha256 must be"):
        shards.open(tmp_path).verify()


def test_the_tokenizer_that_made_the_shards_is_accepted(folder, tok):
    shards.open(folder).check(tok)


def test_another_tokenizer_is_refused_with_both_fingerprints(folder, tok):
    other = bpetok.train("cd" * 8, 258, pattern="gpt4", special_tokens=["<|endoftext|>"])
    assert other.n_vocab == tok.n_vocab
    with pytest.raises(
        bpetok.IncompatibleError,
        match=rf"made with the vocabulary {tok.fingerprint} \(bpetok\), got .* with {other.fingerprint}",
    ):
        shards.open(folder).check(other)


def test_a_tokenizer_that_encodes_otherwise_than_it_did_is_refused(folder, tok):
    rewrite_manifest(folder, lambda document: document.update(probe="0" * 64))
    with pytest.raises(bpetok.IncompatibleError, match=r"right fingerprint .* but encodes a fixed text otherwise"):
        shards.open(folder).check(tok)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda d: d.update(format="other"), "must be a complete manifest of version 2"),
        (lambda d: d.update(version=1), "must be a complete manifest of version 2"),
        (lambda d: d.update(complete=False), "must be a complete manifest of version 2"),
        (lambda d: d.pop("complete"), "is no manifest of shards"),
        (lambda d: d.pop("fingerprint"), "is no manifest of shards: KeyError"),
        (lambda d: d.update(shards=5), "is no manifest of shards"),
        (lambda d: d["shards"][0].pop("tokens"), "is no manifest of shards"),
        (lambda d: d["shards"][0].update(more=1), "is no manifest of shards"),
        (lambda d: d["shards"][0].update(tokens="9"), r"manifest\.json: "),
        (lambda d: d["shards"][0].update(tokens=-1), r"must be"),
        (lambda d: d["shards"][0].update(file=5), r"manifest\.json: "),
        (lambda d: d.update(dtype="float64"), r"manifest\.json: "),
        (lambda d: d.update(dtype="nonsense"), r"manifest\.json: "),
        (lambda d: d.update(dtype=5), r"manifest\.json: "),
        (lambda d: d.update(end_of_text_stands="behind"), r"end_of_text_stands must be before or after"),
        (lambda d: d["shards"][0].update(file="../train_000000.bin"), r"a shard must be a file of a split"),
        (lambda d: d["shards"][0].update(split="test"), r"a shard must be a file of a split"),
        (lambda d: d["shards"][0].update(continues=1), r"continues must be of type bool"),
    ],
)
def test_a_manifest_that_breaks_the_format_is_refused(folder, change, match):
    rewrite_manifest(folder, change)
    with pytest.raises(bpetok.BpetokError, match=match):
        shards.open(folder)


def test_a_manifest_that_was_altered_is_found_wherever_it_was(folder):
    path, draw = folder / "manifest.json", random.Random(3)
    good = path.read_bytes()
    for _ in range(200):
        place, bit = draw.randrange(len(good)), 1 << draw.randrange(8)
        path.write_bytes(good[:place] + bytes([good[place] ^ bit]) + good[place + 1 :])
        with pytest.raises((bpetok.CorruptionError, bpetok.FormatError), match=r"manifest\.json: "):
            shards.open(folder)
        path.write_bytes(good[:place])
        with pytest.raises((bpetok.CorruptionError, bpetok.FormatError), match=r"manifest\.json: "):
            shards.open(folder)


@pytest.mark.parametrize("contents", ["", "{", "[]", "5", "null", "[" * 100_000])
def test_a_manifest_that_is_no_json_object_is_refused(folder, contents):
    (folder / "manifest.json").write_text(contents)
    with pytest.raises(bpetok.FormatError, match=r"manifest\.json: is no manifest of shards"):
        shards.open(folder)


def test_a_folder_that_is_not_there_holds_no_manifest(tmp_path):
    with pytest.raises(bpetok.FormatError, match=r"nowhere: must hold manifest\.json"):
        shards.open(tmp_path / "nowhere")


@pytest.mark.parametrize("call", range(9))  # three for each of two files and the manifest
def test_an_interrupt_after_any_operation_leaves_nothing(tmp_path, tok, monkeypatch, call):
    calls = iter(range(100))
    plain = {name: getattr(os, name) for name in ("fsync", "replace")}

    def interrupted(name):
        def operation(*args):
            result = plain[name](*args)
            if next(calls) == call:
                raise KeyboardInterrupt
            return result

        return operation

    for name in plain:
        monkeypatch.setattr(os, name, interrupted(name))
    with pytest.raises(KeyboardInterrupt):
        shards.write(lines(150), tok, tmp_path)
    monkeypatch.undo()
    assert not list(tmp_path.iterdir())
    shards.write(lines(150), tok, tmp_path)
    shards.open(tmp_path).verify()


def test_shards_with_the_end_of_text_elsewhere_are_refused_with_both_digests(folder, tok):
    opened = shards.open(folder)
    opened.check(tok, end_of_text="before")
    after, before = (shards.probe_digest(tok, EOT, stands) for stands in ("after", "before"))
    with pytest.raises(bpetok.IncompatibleError, match=f"must stand after each document, .*{after} and {before}"):
        opened.check(tok, end_of_text="after")
