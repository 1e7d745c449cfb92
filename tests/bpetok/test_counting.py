"""count_words: the same counts at any size, in any number of parts, under any limit of memory."""

import errno
import json
import random
import signal
import subprocess
import sys
import tempfile
import textwrap
import time

import numpy as np
import pytest

import bpetok
from bpetok import counting, memory
from bpetok.counting import Forecast, Limit, count_words
from bpetok.counts import PretokenCounts

NO_LIMIT = 10**15
LETTERS = bytes.maketrans(b"0123456789", b"ghijklmnop")


def distinct_words(size, seed=1):
    """About so many bytes of words of eight letters, hardly any of which is there twice."""
    return random.Random(seed).randbytes(size * 4 // 9).hex(" ", 4).encode().translate(LETTERS)


@pytest.fixture
def spill_often(monkeypatch):
    """Tables of more than 50 pretokens are near the limit, and little room is left to merge them."""
    monkeypatch.setattr(Limit, "is_near", lambda self, counts: len(counts) > 50)
    monkeypatch.setattr(Limit, "left", lambda self: 4_300_000)
    monkeypatch.setattr(counting, "_LEAST_BATCH", 1 << 7)
    monkeypatch.setattr(counting, "_MOST_BATCH", 1 << 7)
    monkeypatch.setattr(counting, "_MEMORY_PER_BATCH", 1)


def as_arrays(path):
    """The pretokens and counts of a file, sorted, by length: quick, and from numpy's own reader."""
    with np.load(path) as archive:
        pretokens, sizes, counts = archive["pretokens"], archive["sizes"], archive["counts"]
    starts = sizes.cumsum() - sizes
    found = {}
    for size in np.unique(sizes).tolist():
        rows = pretokens[starts[sizes == size][:, None] + np.arange(size)].view(f"S{size}").ravel()
        order = rows.argsort()
        found[size] = (rows[order], counts[sizes == size][order])
    return found


def same(a, b):
    return a.keys() == b.keys() and all(
        np.array_equal(x, y) for size in a for x, y in zip(a[size], b[size], strict=True)
    )


# ---- the counts -----------------------------------------------------------------------------------------------------


def test_the_file_is_that_of_the_counts_of_the_text(tmp_path, small_text):
    (tmp_path / "a.txt").write_text(small_text)
    counted = count_words([tmp_path / "a.txt", "more"], tmp_path / "a.counts")
    counts = PretokenCounts()
    counts.add_file(tmp_path / "a.txt")
    counts.add_text("more")
    counts.save(tmp_path / "b.counts")
    assert (tmp_path / "a.counts").read_bytes() == (tmp_path / "b.counts").read_bytes()
    assert (counted.pattern, counted.runs, counted.sources) == ("gpt4", 0, counts.sources)
    assert (counted.documents, counted.bytes) == (2, counts.bytes)
    assert (counted.pretokens, counted.distinct) == (counts.total, len(counts))


@pytest.mark.parametrize("pattern", ["gpt4", None, r"\w+|\s+"])
def test_what_is_spilled_is_counted_as_if_it_were_not(tmp_path, small_text, spill_often, pattern):
    texts = [*small_text.splitlines(keepends=True), small_text, "", b"\xff\xfe"]
    (tmp_path / "a.txt").write_text(small_text)
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[:-1]))
    for number, source in enumerate((texts, [tmp_path / "a.txt"], [tmp_path / "a.jsonl", "one", tmp_path / "a.txt"])):
        whole = PretokenCounts(pattern)
        for one in source:
            whole.add_text(one) if isinstance(one, str | bytes) else whole.add_file(one)
        path = tmp_path / f"{number}.counts"
        counted = count_words(source, path, pattern=pattern, memory_limit=NO_LIMIT)
        again = PretokenCounts.load(path)
        assert again == whole
        assert (again.documents, again.bytes, again.sources) == (whole.documents, whole.bytes, whole.sources)
        assert (counted.pretokens, counted.distinct, counted.documents) == (whole.total, len(whole), whole.documents)
        assert counted.runs > 1 or (number == 1 and pattern != "gpt4")  # those cut a file as a whole


def test_parts_train_to_the_very_file_that_their_texts_train_to(tmp_path, small_text, spill_often):
    lines = small_text.splitlines(keepends=True)
    parts = ["".join(lines[i::3]) for i in range(3)]
    texts = [tmp_path / f"{i}.txt" for i in range(3)]
    for file, text in zip(texts, parts, strict=True):
        file.write_text(text)
        count_words([file], file.with_suffix(".counts"), memory_limit=NO_LIMIT)
    counts = [file.with_suffix(".counts") for file in texts]
    count_words(counts, tmp_path / "all.counts", memory_limit=NO_LIMIT)
    expected = bpetok.train(texts, 400)
    for source in (counts, [tmp_path / "all.counts"], [*counts[:1], *texts[1:]]):
        made = bpetok.train(source, 400)
        assert (made, made.vocab.provenance) == (expected, expected.vocab.provenance)
        made.save(tmp_path / "made.bpetok")
        expected.save(tmp_path / "expected.bpetok")
        assert (tmp_path / "made.bpetok").read_bytes() == (tmp_path / "expected.bpetok").read_bytes()
    assert bpetok.train(counts[::-1], 400) == expected
    with pytest.raises(bpetok.DataError, match='tie_break "first" must see the text itself, got counts'):
        bpetok.train([tmp_path / "all.counts"], 400, tie_break="first")


def test_counts_of_nothing_are_a_part_too(tmp_path):
    counted = count_words([], tmp_path / "none.counts")
    assert (counted.documents, counted.distinct) == (0, 0)
    assert PretokenCounts.load(tmp_path / "none.counts") == PretokenCounts()
    assert bpetok.train(["low lower", tmp_path / "none.counts"], 258) == bpetok.train("low lower", 258)


def test_parts_that_were_cut_by_another_pattern_are_refused(tmp_path):
    count_words(["a text"], tmp_path / "a.counts", pattern="gpt2")
    with pytest.raises(bpetok.IncompatibleError, match=r"a\.counts: counts must be cut by gpt4, got gpt2"):
        count_words([tmp_path / "a.counts"], tmp_path / "b.counts")
    assert not (tmp_path / "b.counts").exists()


def test_a_file_of_counts_must_be_named_so(tmp_path):
    with pytest.raises(bpetok.FormatError, match=r"the suffix must be \.counts, got '\.txt'"):
        count_words(["text"], tmp_path / "a.txt")


@pytest.mark.parametrize("wrong", [{"a": 1}, 5])
def test_what_is_no_source_is_refused(tmp_path, wrong):
    with pytest.raises((bpetok.DataError, TypeError), match="count-words: a source must be texts, files"):
        count_words(wrong, tmp_path / "a.counts")


def test_progress_tells_of_every_byte_and_of_every_pretoken_that_was_spilled_and_merged(
    tmp_path, small_text, spill_often
):
    (tmp_path / "a.txt").write_text(small_text)
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": small_text}) + "\n")
    done = {"scan": 0, "spill": 0, "new": 0, "merge": 0}
    files = [tmp_path / "a.txt", tmp_path / "b.jsonl"]
    forecast = Forecast(sum(file.stat().st_size for file in files))

    def progress(stage, amount):
        done[stage] += amount
        forecast.tell(stage, amount)

    counted = count_words(files, tmp_path / "a.counts", memory_limit=NO_LIMIT, progress=progress)
    assert done["scan"] == sum(file.stat().st_size for file in files)
    assert done["spill"] == done["merge"] > counted.distinct
    assert 0 < done["new"] <= done["spill"]
    assert forecast.share == pytest.approx(1)


# ---- trouble --------------------------------------------------------------------------------------------------------


class Trouble(Exception):
    """What a test throws in."""


@pytest.mark.parametrize("error", [Trouble("enough"), KeyboardInterrupt()])
@pytest.mark.parametrize("stage", ["scan", "spill", "merge"])
def test_what_stops_the_counting_leaves_the_old_file_and_nothing_else(tmp_path, small_text, spill_often, stage, error):
    (tmp_path / "a.counts").write_bytes(b"old")

    def progress(now, amount):
        if now == stage and amount > 0:
            raise error

    with pytest.raises(type(error)):
        count_words([small_text], tmp_path / "a.counts", memory_limit=NO_LIMIT, progress=progress)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("a.counts", b"old")]


class FullDisk:
    """Temporary files on a disk that has room for so many bytes."""

    def __init__(self, room):
        self.room = room

    def __call__(self, **kwargs):
        disk = self
        opened = ORIGINAL(**kwargs)

        class File:
            def __enter__(self):
                return self

            def __exit__(self, *_):
                opened.close()

            def __getattr__(self, name):
                return getattr(opened, name)

            def write(self, data):
                disk.room -= memoryview(data).nbytes
                if disk.room < 0:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return opened.write(data)

        return File()


ORIGINAL = tempfile.TemporaryFile


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, small_text, spill_often, monkeypatch):
    (tmp_path / "a.counts").write_bytes(b"old")
    outcomes = set()
    for room in range(0, 40_000, 4001):
        monkeypatch.setattr(tempfile, "TemporaryFile", FullDisk(room))
        try:
            count_words([small_text[:3000]], tmp_path / "a.counts", memory_limit=NO_LIMIT)
            outcomes.add("done")
            break
        except OSError as error:
            outcomes.add(error.errno)
        assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("a.counts", b"old")]
    assert outcomes == {errno.ENOSPC, "done"}
    assert PretokenCounts.load(tmp_path / "a.counts").total > 0


# ---- memory ---------------------------------------------------------------------------------------------------------

COUNT = """
    import sys
    from pathlib import Path
    import numpy
    from bpetok import counting, memory
    source, path, extra = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    limit = memory.in_use() + extra
    limit_or_none = None if sys.argv[4] == "none" else limit
    counted = counting.count_words([source], path, pattern="gpt2", memory_limit=limit_or_none)
    print(memory.peak() - limit, counted.runs, counted.distinct)
"""


def in_a_child(program, *args):
    command = [sys.executable, "-c", textwrap.dedent(program), *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


@pytest.mark.skipif(not memory.tells_now(), reason="only Linux tells what a process takes now")
def test_a_corpus_larger_than_memory_is_counted_within_it(tmp_path):
    (tmp_path / "a.txt").write_bytes(distinct_words(10_000_000))
    over, runs, distinct = in_a_child(COUNT, tmp_path / "a.txt", tmp_path / "a.counts", 32_000_000, "limit")
    assert over <= 0 and runs > 3
    free_over, none, free_distinct = in_a_child(COUNT, tmp_path / "a.txt", tmp_path / "b.counts", 32_000_000, "none")
    assert free_over > 20_000_000 and none == 0 and distinct == free_distinct > 1_000_000
    whole = as_arrays(tmp_path / "b.counts")
    assert same(as_arrays(tmp_path / "a.counts"), whole)
    # Counts of many machines are merged within it too.
    over, runs, _ = in_a_child(COUNT, tmp_path / "b.counts", tmp_path / "c.counts", 32_000_000, "limit")
    assert over <= 0 and runs > 1
    assert same(as_arrays(tmp_path / "c.counts"), whole)


TRAIN = """
    import sys
    from pathlib import Path
    import numpy, bpetok
    from bpetok import memory
    sources, extra = list(map(Path, sys.argv[1:3])), int(sys.argv[3])
    limit = memory.in_use() + extra
    limit_or_none = None if sys.argv[4] == "none" else limit
    tok = bpetok.train(sources, 1000, pattern="gpt2", memory_limit=limit_or_none)
    print(memory.peak() - limit, int(tok.fingerprint[:12], 16))
"""


@pytest.mark.skipif(not memory.tells_now(), reason="only Linux tells what a process takes now")
def test_training_stays_within_its_memory_where_it_would_take_more_without_a_limit(tmp_path):
    words = distinct_words(500_000).split(b" ")
    (tmp_path / "a.txt").write_bytes(b" ".join([*words, *random.Random(1).choices(words, k=100_000)] * 20))
    count_words([b" ".join(words[:1000])], tmp_path / "b.counts", pattern="gpt2")
    files = (tmp_path / "a.txt", tmp_path / "b.counts")
    over, fingerprint = in_a_child(TRAIN, *files, 26_000_000, "limit")
    assert over <= 0
    free_over, free_fingerprint = in_a_child(TRAIN, *files, 26_000_000, "none")
    assert free_over > 0 and fingerprint == free_fingerprint


def test_a_limit_that_leaves_no_room_is_refused_before_anything_is_read(tmp_path):
    def source():
        raise AssertionError("read")
        yield ""

    with pytest.raises(bpetok.MemoryLimitError, match="count-words: memory must stay under 1,000 bytes of the whole"):
        count_words(source(), tmp_path / "a.counts", memory_limit=1000)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_has_to_be_read_whole_must_have_room(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"word " * 40_000_000)
    limit = memory.in_use() + 150_000_000
    for pattern in (None, r"\w+|\s+"):
        with pytest.raises(bpetok.MemoryLimitError, match=r"but .*a\.txt takes at least"):
            count_words([tmp_path / "a.txt"], tmp_path / "a.counts", pattern=pattern, memory_limit=limit)


def test_ctrl_c_ends_a_counting_that_spills_and_leaves_nothing(tmp_path):
    program = """
        import sys
        from pathlib import Path
        from bpetok import counting, memory
        import numpy
        def progress(stage, amount):
            if stage == "spill":
                print(flush=True)
        counting.count_words([Path("a.txt")], "a.counts", memory_limit=memory.in_use() + 32_000_000, progress=progress)
    """
    (tmp_path / "a.txt").write_bytes(distinct_words(20_000_000))
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout and child.stdout.readline()
        child.send_signal(signal.SIGINT)
        sent = time.monotonic()
        _, err = child.communicate(timeout=30)
    assert b"KeyboardInterrupt" in err and time.monotonic() - sent < 5
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


# ---- how long it takes ----------------------------------------------------------------------------------------------


def test_a_forecast_of_an_even_scan_is_right_from_the_beginning():
    forecast = Forecast(1000)
    assert (forecast.share, forecast.seconds(1)) == (0, 0)
    for done in range(1, 1001):
        forecast.tell("scan", 1)
        assert forecast.seconds(done * 0.5) == pytest.approx(500)


def test_a_forecast_counts_the_merging_that_is_to_come():
    def seconds(new):
        forecast = Forecast(1000)
        forecast.tell("scan", 500)
        alone = forecast.seconds(1)
        forecast.tell("spill", 100)
        forecast.tell("new", new)
        before = forecast.share
        forecast.tell("scan", 500)
        assert forecast.share == pytest.approx(2 * before)
        forecast.tell("merge", 100)
        assert forecast.share == pytest.approx(1)
        return 1 / before / alone

    assert seconds(100) > 1.5  # what is new takes longest
    assert 1 < seconds(0) < 1.2


def test_what_will_be_spilled_is_told_of_before_the_first_run(tmp_path):
    (tmp_path / "a.txt").write_bytes(distinct_words(5_000_000))
    told = []

    def progress(stage, amount):
        told.append((stage, amount))
        if stage == "spill" and amount > 0:
            raise Trouble("enough")

    limit = memory.in_use() + 50_000_000
    with pytest.raises(Trouble):
        count_words([tmp_path / "a.txt"], tmp_path / "a.counts", pattern="gpt2", memory_limit=limit, progress=progress)
    assert sum(amount for stage, amount in told if stage == "scan") < 1_000_000


def predicted_and_true(tmp_path, limit):
    """What was said after a tenth of the time, and how long it took.

    By the time of the processor, and with one thread: others work on this machine too.
    """
    size = (tmp_path / "a.txt").stat().st_size
    program = f"""
        import time
        from pathlib import Path
        from bpetok import counting
        forecast, told, began = counting.Forecast({size}), [], time.process_time()
        def progress(stage, amount):
            forecast.tell(stage, amount)
            now = time.process_time() - began
            told.append((now, forecast.seconds(now)))
        counted = counting.count_words(
            [Path("a.txt")], "a.counts", num_threads=1, memory_limit={limit}, progress=progress
        )
        took = time.process_time() - began
        said = next(seconds for now, seconds in told if now >= took / 10)
        print(int(1000 * said), int(1000 * took), counted.runs)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    return [int(word) for word in done.stdout.split()]


@pytest.mark.slow
@pytest.mark.parametrize(("rare", "limit"), [(0.1, 150), (0.5, 150), (1.0, 150), (0.5, 800)])
def test_after_a_tenth_of_the_time_it_is_known_within_a_fifth_how_long_all_will_take(tmp_path, rare, limit):
    common = b" ".join(random.Random(2).choices(distinct_words(400_000, seed=3).split(b" "), k=100_000))
    with open(tmp_path / "a.txt", "wb") as file:
        share = 0.0  # an even mixture: what the first tenth holds more of than the rest, nobody can foresee
        while file.tell() < 300_000_000:
            share += rare
            file.write(distinct_words(900_000, seed=file.tell()) if share >= 1 else common)
            share %= 1
    errors = []
    for _ in range(3):  # caches and memory are shared with others all the same: one quiet run is enough
        said, took, runs = predicted_and_true(tmp_path, limit * 1_000_000)
        assert runs > 1
        errors.append(abs(said / took - 1))
        if errors[-1] <= 0.2:
            break
    assert min(errors) <= 0.2, errors
