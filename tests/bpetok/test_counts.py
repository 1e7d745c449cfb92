"""PretokenCounts: the same for any number of threads and any way the text comes in, merged, saved and read again."""

import json
import random
import subprocess
import sys
import textwrap
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bpetok
from bpetok import counts as counting
from bpetok import streams
from bpetok.counts import PretokenCounts

# ---- counting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 1000])
@pytest.mark.parametrize("pattern", ["gpt2", "gpt4", "gpt4o", None, r"\w+|\s+"])
def test_a_file_read_in_chunks_of_any_size_is_counted_as_a_whole(tmp_path, small_text, pattern, size):
    text = small_text[:3000].encode()
    chunked, whole = PretokenCounts(pattern), PretokenCounts(pattern)
    chunked.add_chunks(text[i : i + size] for i in range(0, len(text), size))
    whole.add_text(text)
    assert chunked.items() == whole.items()
    assert (chunked.total, chunked.bytes, chunked.documents) == (whole.total, whole.bytes, whole.documents)


@pytest.mark.parametrize("num_threads", [1, 3])
def test_a_file_larger_than_a_chunk_is_counted_as_a_whole(tmp_path, monkeypatch, num_threads):
    monkeypatch.setattr(counting, "BATCH_BYTES", 2 << 20)
    file = tmp_path / "long.txt"
    text = b"some words, and more of them\n" * (streams.CHUNK_BYTES // 20)
    file.write_bytes(text)
    counts, whole, read = PretokenCounts(), PretokenCounts(), []
    counts.add_file(file, num_threads=num_threads, progress=read.append)
    whole.add_text(text)
    assert counts.items() == whole.items()
    assert (counts.bytes, counts.documents) == (len(text), 1)
    assert sum(read) == len(text)
    assert len(read) > 1


@pytest.mark.parametrize("pattern", ["gpt2", "gpt4", "gpt4o", None, r"\w+|\s+"])
def test_counts_and_their_order_do_not_depend_on_the_number_of_threads(small_text, pattern):
    texts = [
        small_text * 20,
        "",
        "\u0436\u0443\u043a \u5b57\u5b57\u3002" * 90_000,
        b"word \xff\xfe\xe4\xb8 end " * 40_000,
        "\U0001f642 \ud83d\ude42 \ud83d",
        small_text,
    ]
    one_by_one = PretokenCounts(pattern)
    for text in texts:
        one_by_one.add_text(text)
    for num_threads in (1, 2, 5, None):
        counts, told = PretokenCounts(pattern), []
        counts.add_texts(texts, num_threads=num_threads, progress=told.append)
        assert counts.items() == one_by_one.items()
        assert (counts.total, counts.bytes, counts.documents) == (
            one_by_one.total,
            one_by_one.bytes,
            one_by_one.documents,
        )
        assert sum(told) == counts.bytes


def test_who_hears_of_the_counting_may_stop_it(small_text):
    def stop(amount):
        raise RuntimeError("enough")

    counts = PretokenCounts()
    with pytest.raises(RuntimeError, match="enough"):
        counts.add_texts([small_text], progress=stop)
    with pytest.raises(TypeError, match="str"):
        counts.add_texts([small_text, 3])
    assert (counts.documents, counts.bytes, counts.total) == (0, 0, 0)


@given(
    texts=st.lists(st.text("ab 1'é", min_size=1, max_size=60), min_size=1, max_size=5),
    order=st.randoms(use_true_random=False),
)
def test_counts_of_the_parts_merge_in_any_order_to_those_of_the_whole(texts, order):
    whole = PretokenCounts("gpt2")
    parts = []
    for text in texts:
        whole.add_text(text)
        part = PretokenCounts("gpt2")
        part.add_text(text)
        parts.append(part)
    order.shuffle(parts)
    merged = PretokenCounts("gpt2")
    for part in parts:
        merged.merge(part)
    assert sorted(merged.items()) == sorted(whole.items())
    assert (merged.total, merged.bytes, merged.documents, len(merged)) == (
        whole.total,
        whole.bytes,
        whole.documents,
        len(whole),
    )
    assert bpetok.train(merged, 300) == bpetok.train(whole, 300)


def test_counts_know_how_often_each_pretoken_occurs():
    counts = PretokenCounts("gpt2")
    counts.add_text("to be or not to be")
    counts.add_text("to")
    assert counts.items() == [(b"to", 2), (b" be", 2), (b" or", 1), (b" not", 1), (b" to", 1)]
    assert (len(counts), counts.total, counts.documents, counts.bytes) == (5, 7, 2, 20)


def test_many_distinct_pretokens_are_kept_apart():
    counts = PretokenCounts("gpt2")
    counts.add_text(" ".join(map(str, range(50_000))))
    assert len(counts) == 50_000
    assert {count for _, count in counts.items()} == {1}


@pytest.mark.parametrize("times", [0, -1])
def test_a_count_must_be_at_least_one(times):
    with pytest.raises(bpetok.DataError, match=f"a count must be at least 1, got {times}"):
        PretokenCounts().add(b"a", times)


def test_counts_beyond_63_bits_are_refused_and_leave_the_table_as_it_was():
    counts = PretokenCounts()
    counts.add(b"ab", 2**62)
    with pytest.raises(bpetok.DataError, match="the total must fit 64 bits"):
        counts.add(b"ab", 2**62)
    assert counts.items() == [(b"ab", 2**62)]
    assert counts.total == 2**62


def test_counts_that_several_threads_add_to_are_whole():
    # In a process of its own: adding lets go of the GIL, and a table that two threads grow at once may end it.
    program = """
        from concurrent.futures import ThreadPoolExecutor
        import bpetok
        counts = bpetok.PretokenCounts("gpt2")
        texts = [" ".join(str(i) for i in range(part, 400_000, 20)) for part in range(20)]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(counts.add_text, texts))
            list(pool.map(lambda text: counts.add_texts([text] * 9), texts))
        print(counts.total, counts.documents)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["4000000", "200"]), done.stderr


def test_counts_cut_by_another_pattern_do_not_merge():
    with pytest.raises(bpetok.IncompatibleError, match="both must be cut by one pattern, got gpt2 and gpt4"):
        PretokenCounts("gpt2").merge(PretokenCounts("gpt4"))


def test_pretokens_that_were_cut_elsewhere_are_counted_too():
    counts = PretokenCounts("gpt2")
    counts.add(b"low", 5)
    counts.add(b"low")
    assert counts.items() == [(b"low", 6)]
    with pytest.raises(bpetok.DataError, match="empty"):
        counts.add(b"")


@pytest.mark.parametrize("text", ["ab12 " * 300_000, "ab12 é " * 200_000 + "end", "12ab" * 400_000])
def test_a_long_text_under_a_custom_pattern_is_counted_as_a_short_one(text):
    expected = PretokenCounts("[a-z]+")
    for pretoken in bpetok.reference.split("[a-z]+", text):
        expected.add(pretoken)
    counts = PretokenCounts("[a-z]+")
    counts.add_text(text)
    assert counts.items() == expected.items()


# ---- files of counts ------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path, small_text):
    file = tmp_path / "text.txt"
    file.write_text(small_text)
    counts = PretokenCounts("gpt2")
    counts.add_file(file)
    counts.add_text(b"\xff\xfe" * 40)
    counts.save(tmp_path / "part.counts")
    return counts, tmp_path / "part.counts"


def test_counts_come_back_from_their_file_as_they_were(saved):
    counts, path = saved
    again = PretokenCounts.load(path)
    assert again.items() == counts.items()
    assert (again.split, again.documents, again.bytes, again.total) == (
        counts.split,
        counts.documents,
        counts.bytes,
        counts.total,
    )
    assert again.sources == counts.sources
    assert [source["bytes"] for source in counts.sources] == [path.with_name("text.txt").stat().st_size]


def test_the_same_counts_make_the_same_file(saved):
    counts, path = saved
    counts.save(path.with_name("again.counts"))
    assert path.with_name("again.counts").read_bytes() == path.read_bytes()


def test_a_file_of_counts_says_what_it_holds(saved):
    counts, path = saved
    with np.load(path) as archive:
        assert json.loads(archive["about"].tobytes())["pattern"] == counts.split.regex
        first = archive["pretokens"][: archive["sizes"][0]].tobytes()
        assert (first, archive["counts"][0]) == counts.items()[0]


def test_files_of_counts_train_as_the_text_does(tmp_path, small_text):
    half = len(small_text) // 2
    for name, text in (("a", small_text[:half]), ("b", small_text[half:])):
        part = PretokenCounts()
        part.add_text(text)
        part.save(tmp_path / f"{name}.counts")
    expected = bpetok.train([small_text[:half], small_text[half:]], 400)
    assert bpetok.train([tmp_path / "b.counts", tmp_path / "a.counts"], 400) == expected
    assert bpetok.train([tmp_path / "a.counts", small_text[half:]], 400) == expected
    with pytest.raises(bpetok.IncompatibleError, match=r"a\.counts: counts must be cut by gpt2, got gpt4"):
        bpetok.train([tmp_path / "a.counts"], 400, pattern="gpt2")


def test_a_file_of_counts_must_be_named_so(tmp_path):
    with pytest.raises(bpetok.FormatError, match=r"the suffix must be \.counts, got '\.npz'"):
        PretokenCounts().save(tmp_path / "a.npz")


def test_a_file_that_was_altered_is_found_out(saved):
    _, path = saved
    contents = bytearray(path.read_bytes())
    place = contents.index(b" the") if b" the" in contents else len(contents) // 2
    contents[place] ^= 1
    path.write_bytes(contents)
    with pytest.raises(bpetok.CorruptionError, match="CRC"):
        PretokenCounts.load(path)


@pytest.mark.parametrize("cut", [0, 10, 400])
def test_a_file_that_was_cut_short_is_refused(saved, cut):
    _, path = saved
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(bpetok.FormatError, match="must be a file of counts"):
        PretokenCounts.load(path)


def test_a_file_that_is_not_there_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.counts"):
        PretokenCounts.load(tmp_path / "none.counts")


def test_any_byte_that_is_changed_gives_an_error_of_ours_or_the_same_counts(saved):
    counts, path = saved
    contents = path.read_bytes()
    draw = random.Random(1)
    for _ in range(300):
        changed = bytearray(contents)
        for place in draw.choices(range(len(contents)), k=draw.randint(1, 3)):
            changed[place] = draw.randrange(256)
        path.write_bytes(changed)
        try:
            assert PretokenCounts.load(path).items() == counts.items()
        except (bpetok.FormatError, bpetok.CorruptionError, bpetok.IncompatibleError) as error:
            assert str(path) in str(error)


def test_an_archive_of_something_else_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.counts", "w") as archive:
        archive.writestr("a.txt", "text")
    with pytest.raises(bpetok.FormatError, match="must be a file of counts"):
        PretokenCounts.load(tmp_path / "other.counts")


@pytest.mark.parametrize("entries", [65_535, 65_536, 65_537, 200_000])
def test_a_file_is_read_block_by_block(tmp_path, entries):
    counts = PretokenCounts("gpt2")
    for i in range(entries):
        counts.core.add(b"%d" % i, i % 7 + 1)
    counts.core.add(b"a" * (5 << 20), 3)
    counts.core.add(b"end", 2)
    counts.save(tmp_path / "a.counts")
    told = []
    again = PretokenCounts("gpt2")
    again.add_file(tmp_path / "a.counts", progress=told.append)
    assert again.items() == counts.items() and len(told) >= 3
    assert 0 < (tmp_path / "a.counts").stat().st_size - sum(told) < 2000


def test_a_file_that_numpy_has_compressed_is_read_too(saved):
    counts, path = saved
    with np.load(path) as archive:
        arrays = dict(archive)
    with open(path, "wb") as file:
        np.savez_compressed(file, **arrays)
    assert PretokenCounts.load(path) == counts


def test_an_array_that_claims_to_be_larger_than_any_is_refused(saved):
    _, path = saved
    for size in ("9" * 15, "9" * 30):
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        header = members["sizes.npy"][:128]
        before = header.index(b"(") + 1
        after = header.index(b",)", before)
        claimed = (
            header[:before] + size.encode() + header[after:].replace(b" " * (len(size) - (after - before)), b"", 1)
        )
        members["sizes.npy"] = claimed + members["sizes.npy"][128:]
        with zipfile.ZipFile(path.with_name("b.counts"), "w") as archive:
            for name, contents in members.items():
                archive.writestr(name, contents)
        with pytest.raises(bpetok.FormatError, match=r"b\.counts: must be a file of counts, got"):
            PretokenCounts.load(path.with_name("b.counts"))


def test_counts_that_were_taken_are_no_longer_there(small_text):
    counts = PretokenCounts()
    counts.add_text(small_text)
    before = counts.items()
    assert counts.take().items() == before
    assert (len(counts), counts.total, counts.documents, counts.bytes) == (0, 0, 1, len(small_text.encode()))
    counts.add_text(small_text)
    assert counts.items() == before


def about(**changed):
    head = {"format": "bpetok counts", "version": 1, "pattern": "gpt2", "unicode": "16.0"}
    document = {**head, "documents": 1, "bytes": 12, "sources": [], **changed}
    return np.frombuffer(json.dumps(document).encode(), np.uint8)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"sizes": np.array([1, 1])}, "a size and a count for each"),
        ({"sizes": np.array([3])}, "a size and a count for each"),
        ({"sizes": np.array([9])}, "sizes must be those of the pretokens"),
        ({"sizes": np.array([-1])}, "sizes must be those of the pretokens"),
        ({"counts": np.array([0])}, "a count must be at least 1, got 0"),
        ({"counts": np.array([1.5])}, "counts must be a list of int64, got float64"),
        ({"counts": np.array([[1]])}, r"got int64, shape \(1, 1\)"),
        ({"about": about(version=2)}, "'version': 1}, got"),
        ({"about": about(pattern=5)}, "pattern must be of"),
        ({"about": about(documents=None)}, "documents must be of"),
        ({"about": about(sources=[5])}, "TypeError"),
        ({"about": about(pattern="gpt5")}, "PatternError"),
        ({"about": np.frombuffer(b"{}", np.uint8)}, "must begin with"),
        ({"about": np.frombuffer(b"[1]", np.uint8)}, "AttributeError"),
        ({"about": np.frombuffer(b"{", np.uint8)}, "JSONDecodeError"),
        ({"about": np.frombuffer(b"[" * 100_000, np.uint8)}, "RecursionError"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(tmp_path, changed, match):
    counts = PretokenCounts("gpt2")
    counts.add(b"word", 3)
    counts.save(tmp_path / "a.counts")
    with np.load(tmp_path / "a.counts") as archive:
        arrays = dict(archive) | changed
    with open(tmp_path / "a.counts", "wb") as file:
        np.savez(file, **arrays)
    with pytest.raises(bpetok.FormatError, match=f"a.counts: must be a file of counts, got .*{match}"):
        PretokenCounts.load(tmp_path / "a.counts")


def test_counts_are_equal_by_value_and_pickle_by_value():
    import pickle

    counts = PretokenCounts("gpt2")
    counts.add_texts(["low lower", "lowest 東京"])
    again = pickle.loads(pickle.dumps(counts))
    assert again == counts and again.items() == counts.items()
    assert (again.documents, again.bytes) == (counts.documents, counts.bytes)
    other_order = PretokenCounts("gpt2")
    other_order.add_texts(["lowest 東京", "low lower"])
    assert dict(other_order.items()) == dict(counts.items()) and other_order == counts
    other_order.add_text("low")
    assert other_order != counts
    assert PretokenCounts("gpt2") != PretokenCounts("gpt4") and PretokenCounts() != 5
    with pytest.raises(TypeError, match="unhashable"):
        hash(counts)


def test_a_folder_stands_for_the_files_below_it(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.txt").write_text("low lower")
    (tmp_path / "deep" / "b.jsonl").write_text('{"text": "lowest"}\n')
    (tmp_path / "deep" / "c.bin").write_text("not read")
    counts = PretokenCounts("gpt2")
    counts.add_file(tmp_path)
    assert dict(counts.items()) == {b"low": 1, b" lower": 1, b"lowest": 1}
    assert bpetok.train(tmp_path, 258, pattern="gpt2") == bpetok.train(["low lower", "lowest"], 258, pattern="gpt2")
