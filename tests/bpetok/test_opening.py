"""Names, folders, patterns, URLs and packed files."""

import bz2
import gzip
import lzma
import os
import random
import sys
import threading
import time
from pathlib import Path

import pytest
import zstandard

import bpetok
from bpetok.sources import Reading, open_sources, opening, packing, read_documents, text_chunks, units_of

zstd = zstandard.ZstdCompressor(write_checksum=True).compress
PACK = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}
TEXT = random.Random(1).randbytes(150_000) + b"text, and much of it\n" * 20_000


def contents(given, **reading):
    opened = open_sources(given, Reading(**reading))
    batches = [unit.read() for group in units_of(opened) for unit in group.units]
    return b"".join(text for batch in batches for text in batch.texts)


# ---- packed files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("padding", [b"", b"\0" * 8])
def test_packed_parts_one_after_the_other_are_one_file(tmp_path, suffix, padding):
    if padding and suffix == ".zst":
        padding = (0x184D2A53).to_bytes(4, "little") + (8).to_bytes(4, "little") + b"anything"  # a skippable frame
    pack = PACK[suffix]
    file = tmp_path / f"a.txt{suffix}"
    file.write_bytes(pack(TEXT) + padding + pack(b"") + pack(b"second") + padding + pack(TEXT))
    assert contents([file]) == TEXT + b"second" + TEXT
    assert b"".join(text_chunks(file)) == TEXT + b"second" + TEXT
    assert [document.text for document in read_documents([file])] == [TEXT + b"second" + TEXT]


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("before", [False, True])
def test_a_packed_file_that_ends_too_early_is_refused_wherever_it_ends(tmp_path, suffix, before):
    text = TEXT[-3000:]
    packed = PACK[suffix](text)
    file = tmp_path / f"a.txt{suffix}"
    first = PACK[suffix](text) if before else b""
    places = sorted({1, 2, 3, 5, len(packed) - 1, len(packed) - 5, len(packed) // 2, len(packed) // 3})
    for place in [0, *places] if not before else places:
        file.write_bytes(first + packed[:place])
        with pytest.raises(bpetok.DataError, match=rf"a\.txt\{suffix}: must be a whole \w+ file, got"):
            contents([file])


@pytest.mark.parametrize("suffix", PACK)
def test_a_damaged_packed_file_is_refused_or_was_damaged_where_nothing_depends_on_it(tmp_path, suffix):
    packed = PACK[suffix](TEXT[-5000:])
    file = tmp_path / f"a.txt{suffix}"
    draw = random.Random(suffix)
    refused = 0
    for _ in range(100):
        place = draw.randrange(len(packed))
        file.write_bytes(packed[:place] + bytes([packed[place] ^ 1 << draw.randrange(8)]) + packed[place + 1 :])
        try:
            assert contents([file]) == TEXT[-5000:]
        except bpetok.DataError as error:
            refused += 1
            assert "a.txt" in error.message
    assert refused > 70


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("after", [b"garbage", b"\0\0garbage", b"PK\x03\x04"])
def test_what_is_not_packed_behind_what_is_is_refused(tmp_path, suffix, after):
    file = tmp_path / f"a.txt{suffix}"
    for first in (PACK[suffix](TEXT), b""):
        file.write_bytes(first + after)
        with pytest.raises(bpetok.DataError, match="must be a whole"):
            contents([file])


@pytest.mark.parametrize("suffix", PACK)
def test_what_unpacks_to_far_more_than_it_is_comes_in_pieces(tmp_path, suffix):
    zeros = bytes(1 << 25)
    packed = PACK[suffix](zeros) if suffix != ".zst" else zstandard.ZstdCompressor(level=19).compress(zeros)
    with open(tmp_path / "a", "wb+") as file:
        file.write(packed)
        file.seek(0)
        sizes = [len(piece) for piece in packing.unpacked(file, opening.PACKINGS[suffix], "a")]
    assert sum(sizes) == 1 << 25
    assert max(sizes) <= (1 << 25 if suffix == ".zst" else 1 << 20)


def test_zstd_without_its_package_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "a.txt.zst").write_bytes(zstd(b"text"))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(bpetok.MissingExtraError, match=r"bpetok\[data\]"):
        contents([tmp_path / "a.txt.zst"])


def test_an_error_while_reading_a_packed_file_comes_through(tmp_path, monkeypatch):
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(TEXT))

    def fail(self, size, /):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(opening.Watched, "read", fail)
    with pytest.raises(OSError, match="Input/output error"):
        contents([tmp_path / "a.txt.gz"])


# ---- reading ahead ---------------------------------------------------------------------------------------------------


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "bpetok-unpack"]


def numbers(count, made):
    for number in range(count):
        made.append(number)
        yield number


def test_the_thread_is_at_most_so_far_ahead_and_ends_when_nobody_wants_more():
    made = []
    items = packing.ahead(numbers(1000, made), 4)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    for _ in range(100):
        time.sleep(0.001)
        assert len(made) <= 3 + 4
    items.close()
    assert threads() == []
    assert len(made) <= 3 + 4


def test_all_items_come_in_order_and_the_thread_ends():
    assert list(packing.ahead(numbers(1000, []), 4)) == list(range(1000))
    assert threads() == []


def test_an_error_in_the_thread_comes_behind_the_items_before_it():
    def items():
        yield 1
        raise bpetok.DataError("broken")

    ahead = packing.ahead(items(), 4)
    assert next(ahead) == 1
    with pytest.raises(bpetok.DataError, match="broken"):
        next(ahead)
    assert threads() == []


def test_no_thread_outlives_a_source_that_is_left_in_the_middle(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "x"}\n' * 10_000))
    groups = units_of(open_sources([tmp_path], Reading(unit_bytes=100)))
    next(groups)
    assert len(threads()) == 1
    del groups
    assert threads() == []


# ---- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "form", "packed", "known"),
    [
        ("a.txt", ".txt", None, True),
        ("a", ".txt", None, False),
        ("a.bin", ".txt", None, False),
        ("a.gz", ".txt", "gzip", False),
        ("a.TXT.GZ", ".txt", "gzip", True),
        ("dir.jsonl/a.csv", ".txt", None, False),
        ("a.jsonl.zst", ".jsonl", "zstd", True),
        ("a.parquet", ".parquet", None, True),
        ("s3://b/a.jsonl.xz", ".jsonl", "xz", True),
        (".gz", ".txt", None, False),
    ],
)
def test_a_name_says_what_a_file_is(name, form, packed, known):
    assert opening.kind_of(name) == opening.Kind(form, packed, known)


def test_a_zip_file_is_refused_with_a_way_out(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK")
    with pytest.raises(bpetok.DataError, match=r"a file must be unpacked, or packed as .gz, .zst, .xz, .bz2, got .zip"):
        open_sources([tmp_path / "a.zip"])


def names(given):
    return [source.name for source in open_sources(given)]


def tree(folder):
    for name in ["b.txt", "a/c.jsonl.gz", "a/b.txt.zst", "ignored.bin", "x.zip", ".hidden.txt", ".h/a.txt", "a/x.gz"]:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def test_a_folder_stands_for_the_packed_files_below_it_too(tmp_path):
    found = ["a/b.txt.zst", "a/c.jsonl.gz", "b.txt"]
    assert names([tree(tmp_path)]) == [str(tmp_path / name) for name in found]
    assert names([str(tmp_path)]) == names([Path(tmp_path)])


def test_a_pattern_stands_for_the_files_that_fit_it_and_a_file_of_that_name_for_itself(tmp_path):
    tree(tmp_path)
    assert names([f"{tmp_path}/*.txt"]) == [str(tmp_path / "b.txt")]
    assert names([f"{tmp_path}/**/*.[jt]*"]) == [
        str(tmp_path / name) for name in ["a/b.txt.zst", "a/c.jsonl.gz", "b.txt"]
    ]
    assert names([f"{tmp_path}/[a]"]) == [str(tmp_path / name) for name in ["a/b.txt.zst", "a/c.jsonl.gz"]]
    (tmp_path / "*.txt").write_bytes(b"")
    assert names([f"{tmp_path}/*.txt"]) == [f"{tmp_path}/*.txt"]
    with pytest.raises(bpetok.DataError, match=r"\*\.csv: no file fits the pattern"):
        names([f"{tmp_path}/*.csv"])
    with pytest.raises(bpetok.DataError, match="nowhere: no such file"):
        names([tmp_path / "nowhere"])


def test_the_stamp_tells_whether_a_file_is_still_the_same(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"one")
    os.utime(file, ns=(1, 1))
    before = open_sources([file])[0].stamp
    assert open_sources([file])[0].stamp == before
    os.utime(file, ns=(2, 2))
    assert open_sources([file])[0].stamp != before
    os.utime(file, ns=(1, 1))
    with open(file, "ab") as opened:
        opened.write(b"!")
    os.utime(file, ns=(1, 1))
    assert open_sources([file])[0].stamp != before


def test_an_open_file_of_text_is_refused_and_one_of_bytes_says_by_its_name_what_it_is(tmp_path):
    file = tmp_path / "a.jsonl.gz"
    file.write_bytes(gzip.compress(b'{"text": "one"}\n'))
    with open(file, "rb") as opened:
        assert contents([opened]) == b"one"
    (tmp_path / "b.txt").write_bytes(b"two")
    with open(tmp_path / "b.txt") as opened, pytest.raises(bpetok.DataError, match="open for reading bytes"):
        open_sources([opened])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes with names")
def test_a_pipe_with_a_name_is_read_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    thread = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(TEXT))
    thread.start()
    [source] = open_sources([tmp_path / "pipe"], Reading(unit_bytes=100))
    assert (source.size, source.stamp) == (None, "")
    assert next(source.outlines()).size == len(TEXT)
    assert b"".join(text for unit in source.units() for text in unit.read().texts) == TEXT
    thread.join()


# ---- URLs ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def memory():
    import fsspec

    fs = fsspec.filesystem("memory")
    fs.pipe(
        {
            "/d/a.txt": TEXT,
            "/d/b.jsonl": b'{"text": "one"}\n{"text": "two"}\n' * 1000,
            "/d/e/c.jsonl.gz": gzip.compress(b'{"text": "three"}\n'),
            "/d/x.bin": b"",
        }
    )
    yield fs
    fs.rm("/d", recursive=True)


def test_urls_plain_and_packed_are_sources(memory):
    for unit_bytes in (100, 1 << 20):
        assert contents(["memory://d/a.txt"], unit_bytes=unit_bytes, scanner="gpt4") == TEXT
        assert contents(["memory://d/b.jsonl"], unit_bytes=unit_bytes) == b"onetwo" * 1000
        assert contents(["memory://d/e/c.jsonl.gz"], unit_bytes=unit_bytes) == b"three"
    [source] = open_sources(["memory://d/b.jsonl"], Reading(unit_bytes=1000))
    assert (source.name, source.size) == ("memory://d/b.jsonl", 32_000)
    assert len(list(source.units())) == 32
    stamp = source.stamp
    assert stamp == open_sources(["memory://d/b.jsonl"])[0].stamp
    memory.pipe("/d/b.jsonl", b"other")
    assert stamp != open_sources(["memory://d/b.jsonl"])[0].stamp


def test_folders_and_patterns_in_urls(memory):
    expected = ["memory:///d/a.txt", "memory:///d/b.jsonl", "memory:///d/e/c.jsonl.gz"]
    assert names(["memory://d"]) == expected
    assert names(["memory://d/*.[jt]*"]) == expected[:2]
    for nothing in ("memory://d/*.csv", "memory://nowhere/*"):
        with pytest.raises(bpetok.DataError, match="no file fits the pattern"):
            names([nothing])
    with pytest.raises(FileNotFoundError):
        names(["memory://d/none.txt"])


def test_a_file_url_and_parquet_at_a_url(tmp_path):
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"text": ["one", "two"]}), tmp_path / "a.parquet")
    assert contents([f"file://{tmp_path}/a.parquet"]) == b"onetwo"
    assert contents([f"file://{tmp_path}/*.parquet"]) == b"onetwo"


def test_what_cannot_be_entered_anywhere_is_read_from_its_beginning(memory, monkeypatch):
    import fsspec.implementations.memory as module

    monkeypatch.setattr(module.MemoryFile, "seekable", lambda self: False)
    [source] = open_sources(["memory://d/b.jsonl"], Reading(unit_bytes=1000))
    assert source.size is None
    assert len(list(source.units())) > 10
    assert contents(["memory://d/b.jsonl"], unit_bytes=1000) == b"onetwo" * 1000


def test_a_url_of_no_known_kind_and_one_without_fsspec_are_refused(monkeypatch):
    with pytest.raises(bpetok.DataError, match="nothing://a: must be a URL that fsspec can open"):
        names(["nothing://a"])
    monkeypatch.setitem(sys.modules, "fsspec", None)
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(bpetok.MissingExtraError, match=r"bpetok\[data\]"):
        names(["memory://d/a.txt"])
