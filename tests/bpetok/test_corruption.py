"""Whatever happens to the files of finished shards, `verify` finds it and names the file.

The table of the slow test is printed with `pytest -m slow -s tests/bpetok/test_corruption.py`.
"""

import hashlib
import json
import os
import random
import re
import shutil
import threading
from collections import Counter
from dataclasses import replace

import pytest

import bpetok
from bpetok.errors import BpetokError, CorruptionError, FormatError, IncompatibleError
from bpetok.shards import manifest, reader
from bpetok.shards.digest import BLOCK_BYTES

FILES = [
    f"{split}_{number:06d}.{suffix}" for split in ("train", "val") for number in (0, 1) for suffix in ("bin", "idx")
]


@pytest.fixture(scope="module")
def tok():
    return bpetok.train("the cat sat on the mat, the dog did not" * 3, 280, special_tokens=["<|endoftext|>"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory, slow_shards, tok):
    """Two files of either split, all four of different documents but of equal sizes."""
    folder = tmp_path_factory.mktemp("whole")
    draw = random.Random(6)
    texts = {name: [[draw.randrange(tok.eot_token) for _ in range(79)] for _ in range(20)] for name in ("train", "val")}
    slow_shards(folder, texts, shard_tokens=800, end_of_text=tok.eot_token, tokenizer=tok)
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", *FILES]
    return folder


@pytest.fixture
def folder(tmp_path, whole):
    """A copy of them."""
    return shutil.copytree(whole, tmp_path / "shards")


def found(folder, name):
    """Whether the folder is refused with an error of the right kind that names the file."""
    try:
        reader.open(folder).verify(num_threads=1)
    except (CorruptionError, FormatError) as error:
        assert str(folder / name) in error.message, (name, error.message)
        return True
    return False


def damage(folder, *, flips, truncations, seed):
    """Flips one bit, or cuts the end off, again and again; how many of each kind were tried and found."""
    draw = random.Random(seed)
    tried, caught, missed = Counter(), Counter(), []
    contents = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    kinds = ["bit flipped"] * flips + ["cut off"] * truncations
    for kind in kinds:
        name = draw.choice(list(contents))
        data = contents[name]
        place = draw.randrange(len(data))
        bit = draw.randrange(8)
        if kind == "cut off":
            os.truncate(folder / name, place)
        else:
            with open(folder / name, "rb+") as file:
                file.seek(place)
                file.write(bytes([data[place] ^ 1 << bit]))
        kind = f"{kind}, {name[-4:] if name in FILES else name}"
        tried[kind] += 1
        if found(folder, name):
            caught[kind] += 1
        else:
            missed.append((kind, name, place, bit))
        (folder / name).write_bytes(data)
    reader.open(folder).verify()
    return tried, caught, missed


def test_three_hundred_damages_are_all_found(folder):
    tried, caught, missed = damage(folder, flips=250, truncations=50, seed=None)
    assert not missed and tried == caught and tried.total() == 300


@pytest.mark.slow
def test_ten_thousand_flipped_bits_and_a_thousand_truncations_are_all_found(folder):
    tried, caught, missed = damage(folder, flips=10_000, truncations=1_000, seed=20261121)
    print(f"\n{'kind':<28} {'tried':>6} {'found':>6}")
    for kind in sorted(tried):
        print(f"{kind:<28} {tried[kind]:>6} {caught[kind]:>6}")
    assert not missed and tried == caught and tried.total() == 11_000


def test_every_bit_of_the_manifest_counts(folder):
    path = folder / manifest.MANIFEST
    data = path.read_bytes()
    for place in range(0, len(data), 7):
        for bit in range(8):
            path.write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
            assert found(folder, path.name), (place, bit)


def test_every_missing_file_is_found(folder):
    for name in [*FILES, manifest.MANIFEST]:
        data = (folder / name).read_bytes()
        (folder / name).unlink()
        with pytest.raises((CorruptionError, FormatError), match=re.escape(name)):
            reader.open(folder)
        (folder / name).write_bytes(data)


@pytest.mark.parametrize("name", ["train_000002.bin", "train_000002.idx", "val_000002.bin", "other.bin"])
def test_a_file_that_does_not_belong_there_is_found(folder, name):
    shutil.copy(folder / f"train_000000{name[-4:]}", folder / name)
    assert found(folder, name)


def test_files_that_changed_places_are_found(folder):
    for suffix in (".bin", ".idx"):
        names = [name for name in FILES if name.endswith(suffix)]
        for i, one in enumerate(names):
            for other in names[:i]:
                if (folder / one).read_bytes() == (folder / other).read_bytes():
                    assert suffix == ".idx"  # documents of the same lengths: changing places changes nothing
                    continue
                swap(folder, one, other)
                assert found(folder, other)  # the first of the two in the manifest's order
                swap(folder, one, other)
    swap(folder, "train_000000.bin", "train_000000.idx")
    assert found(folder, "train_000000.bin")


def swap(folder, one, other):
    (folder / one).rename(folder / "kept")
    (folder / other).rename(folder / one)
    (folder / "kept").rename(folder / other)


def test_a_truncated_file_is_named_with_the_length_that_it_has(folder):
    os.truncate(folder / "val_000001.bin", 1234)
    with pytest.raises(CorruptionError, match=r"val_000001\.bin: must be 2,624 bytes long, got 1,234"):
        reader.open(folder)


def test_a_file_that_goes_or_shrinks_after_it_was_opened_is_found(folder):
    opened = reader.open(folder)
    os.truncate(folder / "train_000001.idx", 40)
    with pytest.raises(CorruptionError, match=r"train_000001\.idx: must be \d+ bytes long, got 40"):
        opened.verify()
    (folder / "train_000000.bin").unlink()
    with pytest.raises(CorruptionError, match=r"train_000000\.bin: is named in manifest\.json but is not there"):
        opened.verify()


def test_another_manifest_is_not_taken_for_the_folders_own(folder, tmp_path, slow_shards, tok):
    slow_shards(tmp_path / "other", {"train": [[1, 2]]}, end_of_text=tok.eot_token, tokenizer=tok)
    shutil.copy(tmp_path / "other" / "manifest.json", folder / "manifest.json")
    with pytest.raises(CorruptionError, match=r"train_000000\.bin: must be 1,030 bytes long, got 2,624"):
        reader.open(folder)


# ---- a manifest by a forger, whose checksum is right -----------------------------------------------------------------

FORGED = [
    None,
    True,
    -1,
    0,
    1,
    3,
    1 << 31,
    1 << 63,
    10**40,
    1.5,
    "",
    "..",
    "\0",
    "a/b",
    "uint64",
    [],
    [[]],
    {},
    [1],
    ["x"],
]


def test_whatever_a_forged_manifest_says_the_error_is_one_of_ours(folder):
    path = folder / manifest.MANIFEST
    whole = json.loads(path.read_bytes())
    places = [(None, name) for name in whole] + [(i, name) for i in (0, 3) for name in whole["shards"][i]]
    refused = 0
    for i, name in places:
        for value in FORGED:
            forged = json.loads(json.dumps(whole))
            del forged["sha256"]
            (forged if i is None else forged["shards"][i])[name] = value
            body = json.dumps(forged, indent=1).encode().removesuffix(b"\n}")
            seal = hashlib.sha256(body).hexdigest().encode()
            path.write_bytes(body + b',\n "sha256": "%s"\n}\n' % seal)
            try:
                opened = reader.open(folder)
                for split in opened.splits.values():
                    for number in range(split.documents):
                        split.document(number)
                opened.verify()
            except (CorruptionError, FormatError):
                refused += 1
    assert refused > len(places) * len(FORGED) // 2


def test_as_many_ids_as_no_header_can_hold_are_refused(tmp_path, slow_shards):
    slow_shards(tmp_path, {"train": [[1]]})
    path = tmp_path / manifest.MANIFEST
    forged = manifest.Manifest.read(tmp_path)
    shard = replace(forged.shards[0], tokens=1 << 31)
    replace(forged, shards=(shard,)).write(tmp_path)
    os.truncate(tmp_path / "train_000000.bin", 1024 + (1 << 32))
    with pytest.raises(
        FormatError, match=f"{re.escape(str(path))}: train_000000.bin must hold fewer than 2,147,483,648"
    ):
        reader.open(tmp_path)


# ---- where a large file was altered ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(tmp_path_factory, slow_shards):
    """A file of three blocks and a bit."""
    folder = tmp_path_factory.mktemp("large")
    ids = random.Random(1).randbytes(3 * BLOCK_BYTES + 5000)
    slow_shards(folder, {"train": [memoryview(ids).cast("H").tolist()]}, shard_tokens=10**8, end_of_text=7)
    return folder


@pytest.mark.parametrize(
    ("place", "begin", "end"),
    [
        (2000, "0", "4,194,304"),
        (BLOCK_BYTES - 1, "0", "4,194,304"),
        (BLOCK_BYTES, "4,194,304", "8,388,608"),
        (3 * BLOCK_BYTES - 1, "8,388,608", "12,582,912"),
        (3 * BLOCK_BYTES, "12,582,912", "12,588,938"),
        (3 * BLOCK_BYTES + 6025, "12,582,912", "12,588,938"),
    ],
)
def test_an_altered_byte_of_a_large_file_is_placed_within_4_mib(large, place, begin, end):
    path = large / "train_000000.bin"
    with open(path, "rb+") as file:
        file.seek(place)
        before = file.read(1)
        file.seek(place)
        file.write(bytes([before[0] ^ 1]))
    try:
        with pytest.raises(CorruptionError, match=rf"\.bin: sha256 must .* altered between byte {begin} and {end}\b"):
            reader.open(large).verify()
    finally:
        with open(path, "rb+") as file:
            file.seek(place)
            file.write(before)
    reader.open(large).verify()


# ---- how it is done --------------------------------------------------------------------------------------------------


def test_progress_adds_up_to_all_bytes_and_is_never_told_twice_at_once(folder):
    opened, lock, seen = reader.open(folder), threading.Lock(), []

    def progress(amount):
        assert lock.acquire(blocking=False)
        seen.append(amount)
        lock.release()

    opened.verify(num_threads=4, progress=progress)
    assert sum(seen) == opened.file_bytes == sum((folder / name).stat().st_size for name in FILES)


def test_of_several_faults_the_first_in_the_manifests_order_is_named(folder):
    for name in ("val_000000.bin", "train_000001.bin"):
        data = bytearray((folder / name).read_bytes())
        data[-1] ^= 1
        (folder / name).write_bytes(data)
    for num_threads in (1, 2, 8):
        with pytest.raises(CorruptionError, match=r"train_000001\.bin: sha256 must be"):
            reader.open(folder).verify(num_threads=num_threads)


def test_a_file_that_cannot_be_read_is_an_os_error_with_its_name(folder):
    opened = reader.open(folder)
    (folder / "val_000000.bin").unlink()
    (folder / "val_000000.bin").mkdir()
    with pytest.raises(OSError, match=r"val_000000\.bin"):
        opened.verify()


# ---- another tokenizer, another policy -------------------------------------------------------------------------------


def drifted(tok):
    """Tokenizers that are nearly the one that made the shards."""
    vocab, ranks, specials = tok.vocab, dict(tok.vocab.ranks), dict(tok.vocab.special_tokens)
    tokens = list(ranks)
    swapped = {**ranks, tokens[-2]: ranks[tokens[-1]], tokens[-1]: ranks[tokens[-2]]}
    return {
        "a special token more": bpetok.Vocab(ranks, {**specials, "<|pad|>": 301}, pattern=vocab.pattern),
        "another end-of-text id": bpetok.Vocab(ranks, {"<|endoftext|>": 301}, pattern=vocab.pattern),
        "two merges in another order": bpetok.Vocab(swapped, specials, pattern=vocab.pattern),
        "a merge fewer": bpetok.Vocab({one: ranks[one] for one in tokens[:-1]}, specials, pattern=vocab.pattern),
        "another pattern": bpetok.Vocab(ranks, specials, pattern="gpt2"),
        "no pattern": bpetok.Vocab(ranks, specials, pattern=None),
    }


DRIFTS = ["a special token more", "another end-of-text id", "two merges in another order", "a merge fewer"]


@pytest.mark.parametrize("drift", [*DRIFTS, "another pattern", "no pattern"])
def test_a_tokenizer_that_drifted_is_refused_with_both_fingerprints(folder, tok, drift):
    other = bpetok.Tokenizer(drifted(tok)[drift])
    with pytest.raises(IncompatibleError, match=f"(?s){tok.fingerprint}.*{other.fingerprint}"):
        reader.open(folder).check(other)


def test_a_tokenizer_that_encodes_otherwise_is_refused_although_its_fingerprint_is_right(folder, tok, monkeypatch):
    monkeypatch.setattr(manifest, "PROBE", manifest.PROBE + "!")
    with pytest.raises(IncompatibleError, match="encodes a fixed text otherwise than when the shards were made"):
        reader.open(folder).check(tok)


def test_a_reader_that_expects_the_end_of_text_id_elsewhere_is_refused(folder, tok):
    opened = reader.open(folder)
    opened.check(tok, end_of_text="before")
    with pytest.raises(BpetokError, match="the end-of-text id must stand after each document, got before it"):
        opened.check(tok, end_of_text="after")
