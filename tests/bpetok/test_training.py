"""train: the merges of the slow twin, whatever way the text comes in."""

import gzip
import hashlib
import io
import json
import random
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bpetok
from bpetok import counts as counting
from bpetok import memory, reference
from bpetok.counts import PretokenCounts

pytestmark = pytest.mark.usefixtures("_lean_process")

RUNS = st.lists(st.builds(lambda char, n: char * n, st.sampled_from("ab "), st.integers(1, 9)), max_size=12).map(
    "".join
)
SMALL_TEXTS = st.one_of(
    RUNS, st.text("ab", min_size=1, max_size=60), st.text("abc 1'é", min_size=1, max_size=80)
).filter(len)


def merges_of(tok):
    return list(tok.vocab.merges)


def slow_merges(text, vocab_size, pattern):
    twin = reference.RegexTokenizer(pattern)
    twin.train(text, vocab_size)
    return list(twin.merges)


# ---- equal to the slow twin -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["gpt2", "gpt4", "gpt4o", None, r"\w+|\W"])
@given(text=SMALL_TEXTS, vocab_size=st.integers(256, 300))
def test_merges_are_those_of_the_slow_twin(pattern, text, vocab_size):
    assert merges_of(bpetok.train(text, vocab_size, pattern=pattern)) == slow_merges(text, vocab_size, pattern)


@pytest.mark.parametrize(
    "text", ["aaaa", "a" * 17, "ab" * 9, "aabaab" * 5, "abababa" * 3, "aaabaaab aaab", "a" * 64 + "b" * 63]
)
def test_runs_and_overlaps_merge_as_in_the_slow_twin(text):
    assert merges_of(bpetok.train(text, 300, pattern=None)) == slow_merges(text, 300, None)


def test_merges_of_a_real_article_are_those_of_the_slow_twin(data):
    text = (data / "corpus" / "minbpe_taylorswift.txt").read_text(encoding="utf-8")[:20_000]
    assert merges_of(bpetok.train(text, 400, pattern="gpt4")) == slow_merges(text, 400, "gpt4")


def test_merges_of_made_text_are_those_of_the_slow_twin(small):
    # `small` is trained on text of several scripts; the slow twin needs only its beginning.
    text = "東京タワー 東京 مرحبا مرحبا éé🙂🙂 ไทยไทย\r\n\r\n  12 123 1234 " * 3
    name = small.vocab.split.name
    assert merges_of(bpetok.train(text, 290, pattern=name)) == slow_merges(text, 290, name)


@given(data=st.binary(min_size=1, max_size=60))
def test_bytes_that_are_not_utf8_are_learned_as_in_the_slow_twin(data):
    assert merges_of(bpetok.train(data, 280)) == slow_merges(data, 280, "gpt4")


# ---- the ids --------------------------------------------------------------------------------------------------------


def test_ids_are_bytes_then_merges_then_special_tokens():
    tok = bpetok.train("abab", 258, pattern="gpt2", special_tokens=["<z>", "<a>"], name="mine")
    assert [tok.vocab[i] for i in range(256)] == [bytes([i]) for i in range(256)]
    assert (tok.vocab[256], tok.vocab[257]) == (b"ab", b"abab")
    assert dict(tok.vocab.special_tokens) == {"<z>": 258, "<a>": 259}
    assert (tok.n_vocab, tok.name) == (260, "mine")


def test_training_stops_early_when_no_pair_is_left():
    tok = bpetok.train("aaaa", 1000, special_tokens=["<s>"])
    assert merges_of(tok) == [(97, 97), (256, 256)]
    assert tok.vocab.special_tokens["<s>"] == 258


def test_no_merge_is_learned_without_room_for_one():
    assert merges_of(bpetok.train("aaaa", 256)) == []


def test_a_pair_below_the_minimum_count_does_not_merge():
    assert merges_of(bpetok.train("ab ab cd", 300, pattern="gpt2", min_count=2)) == [(97, 98)]
    assert merges_of(bpetok.train("ab ab cd", 300, pattern="gpt2", min_count=3)) == []
    assert bpetok.train("ab", 300, min_count=3).vocab.provenance["min_count"] == 3


def test_a_text_without_pattern_is_not_split():
    assert merges_of(bpetok.train("a1a1", 257, pattern=None)) == [(97, 49)]
    assert merges_of(bpetok.train("a1a1", 257, pattern="gpt2")) == []


def test_where_it_comes_from_is_recorded():
    provenance = bpetok.train(["one two", "two"], 258, pattern="gpt2").vocab.provenance
    expected = {
        "documents": 2,
        "bytes": 10,
        "pretokens": 3,
        "distinct pretokens": 3,
        "tie_break": "smallest",
        "min_count": 1,
    }
    assert {key: provenance[key] for key in expected} == expected


def test_the_files_it_comes_from_are_recorded_with_their_sizes_and_digests(tmp_path):
    files = [tmp_path / "a.txt", tmp_path / "b.jsonl"]
    files[0].write_bytes(b"one two\xff" * 1000)
    files[1].write_text('{"text": "one"}\n' * 100)
    with open(files[0], "rb") as opened:
        made = bpetok.train([*files, "text", opened], 258, tie_break="largest", max_token_bytes=9).vocab.provenance
    about = [
        {"file": str(file), "bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        for file in files
    ]
    assert made["sources"] == [*about, about[0]]
    assert (made["documents"], made["bytes"]) == (103, 2 * 8000 + 300 + 4)
    assert (made["tie_break"], made["max_token_bytes"], made["vocab_size"]) == ("largest", 9, 258)
    assert made["trained by"] == f"bpetok {bpetok.__version__}"


def test_it_is_recorded_that_training_stopped_early():
    made = bpetok.train("ab ab ab", 1000, min_count=3).vocab
    assert made.provenance["stopped"] == "at 257 tokens: no pair was left that occurs 3 times"
    assert "stopped" not in bpetok.train("ab ab ab", 257).vocab.provenance


# ---- sources --------------------------------------------------------------------------------------------------------


@pytest.fixture
def expected(small_text):
    return bpetok.train(small_text, 400)


def test_text_bytes_file_rows_and_counts_give_the_same(tmp_path, small_text, expected):
    file = tmp_path / "a.txt"
    file.write_bytes(small_text.encode())
    rows = tmp_path / "a.jsonl"
    rows.write_text(json.dumps({"body": small_text}))
    counts = PretokenCounts()
    counts.add_text(small_text)
    for source in (small_text.encode(), [small_text], iter([small_text]), file, [file], rows, counts):
        tok = bpetok.train(source, 400, field="body")
        assert merges_of(tok) == merges_of(expected), source
        assert tok == expected


def test_training_takes_texts_and_files_in_turn_and_any_number_of_threads(tmp_path, small_text, monkeypatch):
    monkeypatch.setattr(counting, "BATCH_BYTES", 5000)
    file = tmp_path / "a.txt"
    file.write_text(small_text)
    sources = [small_text, file, small_text.encode(), small_text, file]
    expected = merges_of(bpetok.train([small_text] * 5, 350))
    for num_threads in (1, 2, None):
        tok = bpetok.train(iter(sources), 350, num_threads=num_threads)
        assert merges_of(tok) == expected
        assert tok.vocab.provenance["documents"] == 5
        assert tok.vocab.provenance["bytes"] == 5 * len(small_text.encode())
    with pytest.raises(ValueError, match="num_threads must be at least 1, got 0"):
        bpetok.train(small_text, 300, num_threads=0)


def test_rows_and_splits_of_datasets_are_sources(tmp_path, small_text, expected):
    import datasets

    rows = [{"id": 1, "text": small_text[:500]}, {"id": 2, "text": small_text[500:]}]
    expected = bpetok.train([row["text"] for row in rows], 400)
    split = datasets.Dataset.from_list(rows)
    split.to_parquet(tmp_path / "rows.parquet")
    split.save_to_disk(tmp_path / "saved")
    for source in (
        rows,
        split,
        split["text"],
        datasets.load_from_disk(str(tmp_path / "saved")),
        split.to_iterable_dataset(),
        tmp_path / "rows.parquet",
        [rows[0], small_text[500:]],
    ):
        assert bpetok.train(source, 400) == expected, source
    with pytest.raises(bpetok.DataError, match="must be texts, files or rows, got DatasetDict of train, test"):
        bpetok.train(datasets.DatasetDict({"train": split, "test": split}), 400)
    with pytest.raises(bpetok.DataError, match=r"row 1: a row must have its text .* 'body', got \['id', 'text'\]"):
        bpetok.train(split, 400, field="body")


def test_an_open_file_or_pipe_is_one_text(tmp_path, small_text):
    file = tmp_path / "a.txt.gz"
    file.write_bytes(gzip.compress(small_text.encode()))
    with gzip.open(file) as opened:
        tok = bpetok.train(opened, 400)
    assert tok == bpetok.train(small_text, 400)
    assert tok.vocab.provenance["documents"] == 1
    assert bpetok.train(file, 400) == tok  # what it holds, also without opening it
    assert bpetok.train(io.BytesIO(small_text.encode()), 400) == tok
    assert bpetok.train(io.StringIO(small_text), 400) == tok
    assert bpetok.train([io.StringIO(small_text[:99]), PretokenCounts()], 400) == bpetok.train(small_text[:99], 400)


def test_the_order_of_the_documents_does_not_matter(small_text):
    lines = small_text.splitlines(keepends=True)
    first = bpetok.train(lines, 350)
    random.Random(3).shuffle(lines)
    assert bpetok.train(lines, 350) == first


# ---- memory ---------------------------------------------------------------------------------------------------------


def test_training_refuses_to_take_more_memory_than_it_may(tmp_path):
    text = " ".join(map(str, range(300_000)))
    (tmp_path / "a.txt").write_text(text)
    memory.give_back()  # as training does before it refuses
    limit = memory.in_use() + 20_000_000
    for source in (text, [text[:1000], text], tmp_path / "a.txt", io.BytesIO(text.encode())):
        with pytest.raises(bpetok.MemoryLimitError, match=r"memory must stay under .* bytes of the whole process, but"):
            bpetok.train(source, 1000, pattern="gpt2", memory_limit=limit)
    assert bpetok.train(text, 300, pattern="gpt2", memory_limit=memory.in_use() + 400_000_000).n_vocab == 300


WORDS = "' '.join(map(str, range(10**6, 10**6 + 400_000)))"
TWICE = "' '.join([''.join(random.Random(1).choices('abcdefghijklmnopqrstuvwxyz', k=9_000))] * 2)"
LETTERS = "'abcdefghijklmnop' * 300_000"
RANDOM = "random.Random(1).randbytes(4_000_000)"
CHINESE = "''.join(random.Random(2).choices([chr(i) for i in range(0x4e00, 0x9000)], k=1_500_000))"


def memory_of_training(text, pattern, size, allowed):
    """How much a training took, which may take so much, and whether it was refused."""
    program = f"""
        import random
        import bpetok
        from bpetok import memory
        counts = bpetok.PretokenCounts({pattern!r})
        counts.add_text({text})
        open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
        before = memory.in_use()
        try:
            bpetok.train(counts, {size}, memory_limit=before + {int(allowed)})
            print(memory.peak() - before, "done")
        except bpetok.MemoryLimitError:
            print(memory.peak() - before, "refused")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True)
    taken, outcome = done.stdout.split()
    return int(taken), outcome


def test_a_large_size_asked_for_takes_no_memory_that_the_text_does_not_need():
    assert bpetok.train("low lower lowest" * 3, 10_000_000, memory_limit=memory.in_use() + 50_000_000).n_vocab < 300


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets the peak of memory begin anew")
@pytest.mark.parametrize("size", [300, 5_000, 100_000])
@pytest.mark.parametrize(
    ("text", "pattern"), [(WORDS, "gpt2"), (LETTERS, None), (RANDOM, None), (CHINESE, "gpt2"), (TWICE, "gpt2")]
)
def test_training_never_takes_more_memory_than_it_may_and_is_refused_only_when_it_comes_near(text, pattern, size):
    needed, outcome = memory_of_training(text, pattern, size, 10**12)
    assert outcome == "done"
    allowed = 2.5 * needed + 16e6
    taken, outcome = memory_of_training(text, pattern, size, allowed)
    assert (taken <= allowed, outcome) == (True, "done")
    allowed = 0.8 * needed - 4e6
    taken, outcome = memory_of_training(text, pattern, size, allowed)
    assert (taken <= allowed + 4e6, outcome) == (True, "refused")


# ---- errors, progress, interrupts -----------------------------------------------------------------------------------


def test_there_must_be_room_for_the_bytes():
    with pytest.raises(bpetok.VocabError, match="vocab_size must be at least 256, one for each byte, got 255"):
        bpetok.train("a", 255)


@pytest.mark.parametrize("source", ["", b"", [], [""], iter([])])
def test_a_source_without_text_is_refused(source):
    with pytest.raises(bpetok.DataError, match="the source must hold text, got none"):
        bpetok.train(source, 256)


def test_counts_of_nothing_are_refused():
    with pytest.raises(bpetok.DataError, match="the source must hold text, got none"):
        bpetok.train(PretokenCounts(), 256)


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "empty.txt").touch()
    with pytest.raises(bpetok.DataError, match="the source must hold text"):
        bpetok.train(tmp_path / "empty.txt", 256)


def test_a_file_that_is_not_there_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.txt"):
        bpetok.train(tmp_path / "none.txt", 256)


def test_a_row_without_text_is_refused_with_its_line(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"body": "b"}\n')
    with pytest.raises(bpetok.DataError, match=r"a\.jsonl:2: a row must have its text in the field 'text'"):
        bpetok.train(tmp_path / "a.jsonl", 256)


def test_a_pattern_that_is_unknown_is_refused():
    with pytest.raises(bpetok.PatternError, match="must be a known name or a regular expression, got 'gpt5'"):
        bpetok.train("a", 256, pattern="gpt5")


@pytest.mark.parametrize(
    ("specials", "match"),
    [
        (["ab"], "must not also merge, got 'ab'"),
        (["<s>", "<s>"], "named once, got '<s>' twice"),
        ([""], "must not be empty"),
    ],
)
def test_special_tokens_that_break_the_rules_are_refused(specials, match):
    with pytest.raises(bpetok.VocabError, match=match):
        bpetok.train("abab", 258, special_tokens=specials)


@pytest.mark.parametrize(
    ("argument", "wrong", "match"),
    [
        ("vocab_size", 500.0, "vocab_size must be an int, got 500.0"),
        ("vocab_size", "500", "vocab_size must be an int, got '500'"),
        ("min_count", 2.5, "min_count must be an int, got 2.5"),
        ("max_token_bytes", "9", "max_token_bytes must be an int, got '9'"),
        ("memory_limit", "4GB", "memory_limit must be an int, got '4GB'"),
        ("special_tokens", [b"<s>"], "a special token must be a str, got b'<s>'"),
        ("forbidden_merges", "the", "forbidden_merges must be a collection of tokens or a function, got 'the'"),
        ("allowed_merges", 7, "allowed_merges must be a collection of tokens or a function, got 7"),
        ("source", None, "a source must be texts, files, rows or counts, got None"),
    ],
)
def test_an_argument_of_another_type_is_named(argument, wrong, match):
    with pytest.raises(TypeError, match=match):
        bpetok.train(**{"source": "text", "vocab_size": 300, argument: wrong})


@pytest.mark.parametrize(
    ("argument", "wrong", "match"),
    [
        ("min_count", 10**30, r"min_count must be under 2\^63"),
        ("memory_limit", -1, "memory_limit must be at least 1, got -1"),
        ("vocab_size", 10**9, "vocab_size must be at most 16777215, got 1000000000"),
        ("special_tokens", {"<s>": 9}, "special_tokens must be a list of texts, got {'<s>': 9}"),
        ("source", Path("a.txt.zip"), r"a\.txt\.zip: a file must be unpacked, or packed as .*, got \.zip"),
    ],
)
def test_an_argument_out_of_range_is_named(argument, wrong, match):
    with pytest.raises(ValueError, match=match):
        bpetok.train(**{"source": "text", "vocab_size": 300, argument: wrong})


def test_a_table_of_columns_is_refused(small_text):
    import pandas

    with pytest.raises(bpetok.DataError, match="must be texts, files or rows, got DataFrame of id, text"):
        bpetok.train(pandas.DataFrame({"id": [1], "text": [small_text]}), 300)
    expected = bpetok.train(small_text, 300)
    assert bpetok.train(pandas.DataFrame({"text": [small_text]})["text"], 300) == expected


@pytest.mark.parametrize("wrong", [[5], [None], [["text"]]])
def test_a_source_of_neither_text_nor_files_is_a_type_error(wrong):
    with pytest.raises(TypeError, match=r"must be|required"):
        bpetok.train(wrong, 256)


def test_progress_adds_up_to_the_bytes_and_the_merges(small_text):
    done = {"scan": 0, "merge": 0}

    def progress(stage, amount):
        done[stage] += amount

    bpetok.train([small_text[:100].encode(), small_text[100:].encode()], 400, progress=progress)
    assert done == {"scan": len(small_text.encode()), "merge": 144}


@pytest.mark.parametrize("stage", ["scan", "merge"])
def test_an_exception_of_progress_stops_the_training_and_comes_through(small_text, stage):
    class Stop(Exception):
        pass

    def progress(now, amount):
        if now == stage:
            raise Stop("enough")

    with pytest.raises(Stop, match="enough"):
        bpetok.train(small_text, 500, progress=progress)


def test_ctrl_c_during_the_merges_stops_the_training(small_text):
    calls = []

    def progress(stage, amount):
        if stage == "merge":
            calls.append(amount)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        bpetok.train(small_text, 500, progress=progress)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("' '.join(''.join(draw.choices('abcdefghij', k=9)) for _ in range(200_000))", "gpt2"),
        ("'a' * 40_000_000", None),  # one step of 20 million places
    ],
)
def test_ctrl_c_from_outside_stops_a_training_without_progress_at_once(text, pattern):
    program = f"""
        import os, random, signal, threading, time
        import bpetok
        draw = random.Random(1)
        counts = bpetok.PretokenCounts({pattern!r})
        counts.add_text({text})
        struck = []
        def strike():
            struck.append(time.perf_counter())
            os.kill(os.getpid(), signal.SIGINT)
        threading.Timer(0.2, strike).start()
        try:
            bpetok.train(counts, 10**6)
        except KeyboardInterrupt:
            print("stopped after", time.perf_counter() - struck[0])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout.startswith("stopped after"), done.stdout + done.stderr
    assert float(done.stdout.split()[-1]) < 1


def test_counts_that_grow_while_they_are_trained_on_are_those_of_the_beginning(small_text):
    counts = PretokenCounts()
    counts.add_text(small_text)
    expected = bpetok.train(counts, 500)

    def add_more(stage, amount):
        if amount > 0:  # the merging has begun
            counts.add_text(" ".join(f"zq{i}" for i in range(20_000)))

    assert bpetok.train(counts, 500, progress=add_more) == expected
    assert counts.total > 20_000


def test_training_lets_other_threads_run():
    ticks = []
    stop = threading.Event()

    def tick():
        while not stop.wait(0.001):
            ticks.append(1)

    thread = threading.Thread(target=tick)
    thread.start()
    bpetok.train("a" * 5_000_000, 500, pattern=None)  # steps of millions of places, a tenth of a second in all
    stop.set()
    thread.join()
    assert ticks


def test_a_source_that_is_the_name_of_a_file_was_meant_as_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("corpus.txt").write_text("low lower lowest")
    with pytest.raises(bpetok.DataError, match=r"must be more than the name of a file, got 'corpus\.txt'") as caught:
        bpetok.train("corpus.txt", 258)
    assert caught.value.hint == "pathlib.Path('corpus.txt') is the file; a str is text"
    assert bpetok.train(["corpus.txt"], 258).vocab.provenance["documents"] == 1
    assert bpetok.train("é" * 200 + "\0", 258).n_vocab == 258  # too long for a name, and with what no name has
