"""train: the merges of the slow twin, whatever way the text comes in."""

import json
import random
import signal
import subprocess
import sys
import textwrap
import threading
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bpetok
from bpetok import _core, reference, streams
from bpetok import counts as counting
from bpetok.counts import PretokenCounts
from bpetok.text import BYTE_LEVEL_ORDER

RUNS = st.lists(st.builds(lambda char, n: char * n, st.sampled_from("ab "), st.integers(1, 9)), max_size=12).map(
    "".join
)
SMALL_TEXTS = st.one_of(
    RUNS, st.text("ab", min_size=1, max_size=60), st.text("abc 1'é", min_size=1, max_size=80)
).filter(len)


def merges_of(tok):
    return list(tok.vocab.merges)


def slow_merges(text, vocab_size, pattern, tie_break="smallest"):
    twin = reference.RegexTokenizer(pattern)
    twin.train(text, vocab_size, tie_break=tie_break)
    return list(twin.merges)


# ---- equal to the slow twin -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["gpt2", "gpt4", "gpt4o", None, r"\w+|\W"])
@given(text=SMALL_TEXTS, vocab_size=st.integers(256, 300))
def test_merges_are_those_of_the_slow_twin(pattern, text, vocab_size):
    assert merges_of(bpetok.train(text, vocab_size, pattern=pattern)) == slow_merges(text, vocab_size, pattern)


@given(text=st.text("ab 1é\n", min_size=1, max_size=80), vocab_size=st.integers(256, 300))
def test_merges_in_hugging_faces_order_are_those_of_the_slow_twin(text, vocab_size):
    merges = merges_of(bpetok.train(text, vocab_size, pattern="gpt2", tie_break="huggingface"))
    assert merges == slow_merges(text, vocab_size, "gpt2", "huggingface")


def test_pairs_that_are_equally_frequent_merge_in_the_order_that_was_named():
    # A space is byte 32; in the byte-level alphabet it stands behind all letters.
    assert merges_of(bpetok.train(" a bc", 257, pattern=r"[ ]a|[ ]|bc")) == [(32, 97)]
    assert merges_of(bpetok.train(" a bc", 257, pattern=r"[ ]a|[ ]|bc", tie_break="huggingface")) == [(98, 99)]


@pytest.mark.parametrize("file", ["en_web.txt", "ru.txt", "zh.txt", "json.txt"])
def test_merges_in_hugging_faces_order_are_those_of_its_trainer(data, file):
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    text = (data / "corpus" / file).read_text(encoding="utf-8")[:400_000]
    theirs = Tokenizer(models.BPE())
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    theirs.train_from_iterator(
        [text], trainers.BpeTrainer(vocab_size=6000, initial_alphabet=alphabet, show_progress=False)
    )
    byte_of = {char: BYTE_LEVEL_ORDER.index(place) for place, char in enumerate(alphabet)}
    vocab = theirs.get_vocab()
    tokens = [bytes(byte_of[char] for char in token) for token in sorted(vocab, key=vocab.__getitem__)]
    ours = bpetok.train(text, 6000, pattern="gpt2", tie_break="huggingface").vocab
    assert [ours[i] for i in range(256, 6000)] == tokens[256:]


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
        assert sum(told) == (counts.bytes if counts.split.scanner else 0)


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


def test_who_hears_of_the_counting_may_stop_it(small_text):
    def stop(amount):
        raise RuntimeError("enough")

    counts = PretokenCounts()
    with pytest.raises(RuntimeError, match="enough"):
        counts.add_texts([small_text], progress=stop)
    with pytest.raises(TypeError, match="str"):
        counts.add_texts([small_text, 3])
    assert (counts.documents, counts.bytes, counts.total) == (0, 0, 0)


@given(texts=st.lists(SMALL_TEXTS, min_size=1, max_size=5), order=st.randoms(use_true_random=False))
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


def test_the_order_of_the_documents_does_not_matter(small_text):
    lines = small_text.splitlines(keepends=True)
    first = bpetok.train(lines, 350)
    random.Random(3).shuffle(lines)
    assert bpetok.train(lines, 350) == first


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


# ---- counts beyond 32 and 53 bits -----------------------------------------------------------------------------------


def core_counts(**times):
    counts = _core.PretokenCounts()
    for pretoken, count in times.items():
        counts.add(pretoken.encode(), count)
    return counts


@pytest.mark.parametrize("limit", [2**31, 2**32, 2**53, 2**61])
def test_counts_are_exact_at_and_beyond(limit):
    # cd occurs once more than ab, which comes first if the difference is lost.
    counts = core_counts(ab=limit, cd=limit + 1)
    counts.add(b"ab", 1)
    counts.add(b"cd", 1)
    assert dict(counts.items()) == {b"ab": limit + 1, b"cd": limit + 2}
    assert counts.total == 2 * limit + 3
    assert _core.train(counts, 2, 1) == [(99, 100, limit + 2), (97, 98, limit + 1)]
    assert _core.train(counts, 2, limit + 2) == [(99, 100, limit + 2)]


@given(
    weights=st.lists(st.tuples(st.text("ab", min_size=1, max_size=6), st.integers(1, 2**40)), min_size=1, max_size=6)
)
def test_a_weighted_pretoken_is_that_many_pretokens(weights):
    counts = _core.PretokenCounts()
    for pretoken, times in weights:
        counts.add(pretoken.encode(), times)
    assert _core.train(counts, 20, 1) == weighted_merges(weights, 20)


@given(
    weights=st.dictionaries(st.text("abc", min_size=1, max_size=12), st.integers(1, 9), min_size=1, max_size=12),
    min_count=st.integers(1, 12),
)
def test_pairs_too_rare_to_merge_change_no_merge_before(weights, min_count):
    expected = [merge for merge in weighted_merges(list(weights.items()), 60) if merge[2] >= min_count]
    assert _core.train(core_counts(**weights), 60, min_count) == expected


@pytest.mark.parametrize("seed", range(6))
def test_counts_on_both_sides_of_a_thousand_are_drawn_in_order(seed):
    # The queue keeps low counts and high ones apart.
    draw = random.Random(seed)
    weights = {"".join(draw.choices("abcd", k=draw.randint(2, 9))): draw.choice([1, 5, 400, 900]) for _ in range(60)}
    assert _core.train(core_counts(**weights), 150, 1) == weighted_merges(list(weights.items()), 150)


def weighted_merges(weights, wanted):
    """Byte-pair encoding of weighted pretokens, as plainly as it goes."""
    words = [(list(pretoken.encode()), times) for pretoken, times in weights]
    made = []
    while len(made) < wanted:
        counts = {}
        for ids, times in words:
            for pair in pairwise(ids):
                counts[pair] = counts.get(pair, 0) + times
        if not counts:
            break
        pair = min(counts, key=lambda pair: (-counts[pair], pair))
        made.append((*pair, counts[pair]))
        words = [(reference.merge(ids, pair, 255 + len(made)), times) for ids, times in words]
    return made


@pytest.mark.parametrize("order", [b"", b"a" * 256, bytes(range(256)) + b"a"])
def test_a_byte_order_must_be_one(order):
    with pytest.raises(bpetok.DataError, match="each of the 256 bytes once"):
        _core.train(core_counts(ab=1), 1, 1, None, order)


@pytest.mark.parametrize("times", [0, -1])
def test_a_count_must_be_at_least_one(times):
    with pytest.raises(bpetok.DataError, match=f"a count must be at least 1, got {times}"):
        _core.PretokenCounts().add(b"a", times)


def test_counts_beyond_63_bits_are_refused_and_leave_the_table_as_it_was():
    counts = core_counts(ab=2**62)
    with pytest.raises(bpetok.DataError, match="the total must fit 64 bits"):
        counts.add(b"ab", 2**62)
    assert counts.items() == [(b"ab", 2**62)]
    assert counts.total == 2**62


def test_a_pair_that_occurs_more_often_than_63_bits_hold_is_refused_not_forgotten():
    with pytest.raises(bpetok.DataError, match="64 bits"):
        _core.train(core_counts(aaaa=2**62), 2, 1)  # (a, a) occurs 3 * 2**62 times


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


# ---- errors, progress, interrupts -----------------------------------------------------------------------------------


def test_there_must_be_room_for_the_bytes():
    with pytest.raises(bpetok.VocabError, match="vocab_size must be at least 256, one for each byte, got 255"):
        bpetok.train("a", 255)


def test_only_one_way_to_break_ties_is_known_here():
    with pytest.raises(bpetok.DataError, match="tie_break must be one of smallest, huggingface, got 'first'"):
        bpetok.train("a", 256, tie_break="first")


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


def test_ctrl_c_from_outside_stops_a_training_without_progress_at_once():
    program = """
        import os, random, signal, threading, time
        import bpetok
        draw = random.Random(1)
        counts = bpetok.PretokenCounts("gpt2")
        counts.add_text(" ".join("".join(draw.choices("abcdefghij", k=9)) for _ in range(200_000)))
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
    assert float(done.stdout.split()[-1]) < 2


def test_training_lets_other_threads_run(small_text):
    ticks = []
    stop = threading.Event()

    def tick():
        while not stop.wait(0.001):
            ticks.append(1)

    thread = threading.Thread(target=tick)
    thread.start()
    bpetok.train(small_text * 20, 500)
    stop.set()
    thread.join()
    assert ticks
