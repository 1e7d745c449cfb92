"""`bpetok train`, as its users type it."""

import contextlib
import errno
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import bpetok
from cli import training

pytestmark = pytest.mark.usefixtures("_lean_process")


def test_train_adds_the_end_of_text_token_and_writes_what_the_library_trains(run, folder) -> None:
    done = run("bpetok", "train", "corpus.txt", "--vocab-size", 300, "-o", "new.bpetok", cwd=folder)
    assert (done.code, done.out) == (0, b"")
    expected = bpetok.train(folder / "corpus.txt", 300, special_tokens=["<|endoftext|>"])
    text = (folder / "corpus.txt").read_bytes()
    ratio = f"{len(text) / expected.count(text):.2f} of the training text"
    assert done.err == f"new.bpetok: 300 tokens and 1 special, gpt4; bytes per token: {ratio}\n"
    assert bpetok.load(folder / "new.bpetok") == expected


def test_train_takes_specials_patterns_rows_folders_and_standard_input(run, folder) -> None:
    args = ("--vocab-size", 280, "--pattern", "gpt2", "-q")
    assert run("bpetok", "train", "rows.jsonl", *args, "--no-specials", "-o", "a.bpetok", cwd=folder).code == 0
    assert bpetok.load(folder / "a.bpetok").special_tokens_set == set()
    assert run("bpetok", "train", "books", *args, "--special", "<|user|>", "-o", "b.bpetok", cwd=folder).code == 0
    assert bpetok.load(folder / "b.bpetok").special_tokens_set == {"<|endoftext|>", "<|user|>"}
    given = (folder / "corpus.txt").read_bytes()
    assert run("bpetok", "train", "-", *args, "-o", "c.bpetok", cwd=folder, given=given).code == 0
    assert bpetok.load(folder / "c.bpetok") == bpetok.train(
        given, 280, pattern="gpt2", special_tokens=["<|endoftext|>"]
    )


def test_train_takes_the_tie_break_that_was_named(run, folder) -> None:
    for tie_break in bpetok.training.TIE_BREAKS:
        args = ("--vocab-size", 320, "--tie-break", tie_break, "-o", "t.bpetok")
        assert run("bpetok", "train", "corpus.txt", *args, cwd=folder).code == 0
        expected = bpetok.train(folder / "corpus.txt", 320, special_tokens=["<|endoftext|>"], tie_break=tie_break)
        assert bpetok.load(folder / "t.bpetok") == expected
        assert bpetok.load(folder / "t.bpetok").vocab.provenance["tie_break"] == tie_break
    args = ("--vocab-size", 300, "--tie-break", "x", "-o", "t")
    assert run("bpetok", "train", "corpus.txt", *args, cwd=folder).code == 2


def test_train_says_when_no_pair_is_left(run, folder) -> None:
    done = run("bpetok", "train", "-", "--vocab-size", 1000, "-o", "s.bpetok", "--json", cwd=folder, given=b"ab ab")
    assert done.code == 0 and done.json["vocab_size"] == 258
    done = run("bpetok", "train", "-", "--vocab-size", 1000, "-o", "s.bpetok", cwd=folder, given=b"ab ab")
    assert "stopped at 258 tokens: no pair was left\n" in done.err


def test_train_sums_up_what_it_did(run, folder) -> None:
    (folder / "other.txt").write_text("A dog sat on a mat. " * 50)
    args = ("--vocab-size", 300, "--held-out", "other.txt", "--memory", "2GB", "--json", "-o", "new.bpetok")
    done = run("bpetok", "train", "corpus.txt", *args, cwd=folder)
    assert (done.code, done.err) == (0, "")
    tok = bpetok.load(folder / "new.bpetok")
    about = done.json
    for name, file in (("training", "corpus.txt"), ("held_out", "other.txt")):
        text = (folder / file).read_bytes()
        assert about["bytes_per_token"][name] == pytest.approx(len(text) / tok.count(text), abs=1e-4)
    assert list(about["seconds"]) == ["scan", "merge", "save"]
    assert all(0 <= seconds < 60 for seconds in about["seconds"].values())
    assert 10e6 < about["peak_memory"] < 2e9
    assert (about["vocab_size"], about["ids"], about["fingerprint"]) == (300, 301, tok.fingerprint)
    assert about["provenance"] == json.loads(json.dumps(dict(tok.vocab.provenance)))
    assert about["provenance"]["sources"][0]["file"] == "corpus.txt"


def test_train_goes_on_from_a_tokenizer(run, folder, tok) -> None:
    args = ("--extend", "my.bpetok", "--vocab-size", 320, "-q", "-o", "larger.bpetok")
    assert run("bpetok", "train", "corpus.txt", *args, "--special", "<|user|>", cwd=folder).code == 0
    larger = bpetok.load(folder / "larger.bpetok")
    assert [larger.vocab[i] for i in range(len(tok.vocab))] == [tok.vocab[i] for i in range(len(tok.vocab))]
    expected = bpetok.extend(tok, folder / "corpus.txt", 320, special_tokens=["<|user|>"])
    assert larger == expected
    wrong = run("bpetok", "train", "corpus.txt", *args, "--pattern", "gpt2", cwd=folder)
    assert wrong.code == 2 and "--pattern and --extend: give one of them" in wrong.err


def test_train_takes_rows_of_parquet_and_files_of_counts(run, folder) -> None:
    import pyarrow
    from pyarrow import parquet

    text = (folder / "corpus.txt").read_text()
    parquet.write_table(pyarrow.table({"body": text.splitlines(keepends=True)}), folder / "rows.parquet")
    counts = bpetok.PretokenCounts()
    counts.add_texts(text.splitlines(keepends=True))
    counts.save(folder / "lines.counts")
    args = ("--vocab-size", 300, "-q", "--field", "body")
    assert run("bpetok", "train", "rows.parquet", *args, "-o", "a.bpetok", cwd=folder).code == 0
    assert run("bpetok", "train", "lines.counts", *args, "-o", "b.bpetok", cwd=folder).code == 0
    assert bpetok.load(folder / "a.bpetok") == bpetok.load(folder / "b.bpetok")


def test_counts_of_the_parts_train_to_the_very_file_that_the_text_trains_to(call, folder) -> None:
    for number, file in enumerate(("corpus.txt", "rows.jsonl")):
        done = call("bpetok", "count-words", file, "--pattern", "gpt2", "-o", f"part{number}.counts", cwd=folder)
        assert (done.code, done.out) == (0, b"")
        assert re.fullmatch(r"part\d\.counts: [\d,]+ pretokens, [\d,]+ distinct, of .* documents, gpt2\n", done.err)
    (folder / "a").mkdir()
    (folder / "b").mkdir()
    size = ("--vocab-size", 300, "-q")
    args = (*size, "--pattern", "gpt2", "-o", "a/my.bpetok")
    assert call("bpetok", "train", "corpus.txt", "rows.jsonl", *args, cwd=folder).code == 0
    expected = (folder / "a" / "my.bpetok").read_bytes()
    for given in (
        ("--counts", "part0.counts", "--counts", "part1.counts"),
        ("--counts", "part0.counts", "part1.counts"),  # as the shell makes it of part*.counts
        ("part0.counts", "part1.counts"),
        ("--counts", "part0.counts", "rows.jsonl"),
        ("--counts", "part0.counts", "part1.counts", "--pattern", "gpt2", "--memory", "4GB"),
    ):
        assert call("bpetok", "train", *given, *size, "-o", "b/my.bpetok", cwd=folder).code == 0
        assert (folder / "b" / "my.bpetok").read_bytes() == expected, given


def test_counts_of_another_pattern_are_refused(call, folder) -> None:
    counting = ("count-words", "corpus.txt", "--pattern", "gpt2", "-q", "-o", "a.counts")
    assert call("bpetok", *counting, cwd=folder).code == 0
    args = ("--counts", "a.counts", "--vocab-size", 300, "--pattern", "gpt4", "-o", "b.bpetok")
    done = call("bpetok", "train", *args, cwd=folder)
    assert done.code == 5 and "a.counts: counts must be cut by gpt4, got gpt2" in done.err
    assert not (folder / "b.bpetok").exists()
    done = call("bpetok", "count-words", "a.counts", "--pattern", "gpt4", "-o", "b.counts", cwd=folder)
    assert done.code == 5 and not (folder / "b.counts").exists()
    done = call("bpetok", "train", *args[:4], "--extend", "my.bpetok", "-o", "b.bpetok", cwd=folder)
    assert done.code == 5 and "got gpt2" in done.err
    done = call("bpetok", "train", *args[:4], "--tie-break", "first", "-o", "b.bpetok", cwd=folder)
    assert done.code == 3 and 'tie_break "first" must see the text itself' in done.err


def test_train_needs_files_or_counts(call, folder) -> None:
    done = call("bpetok", "train", "--vocab-size", 300, "-o", "a.bpetok", cwd=folder)
    assert done.code == 2 and "FILES: must be given, or --counts" in done.err
    done = call("bpetok", "train", "--counts", "corpus.txt", "--vocab-size", 300, "-o", "a.bpetok", cwd=folder)
    assert done.code == 2 and "--counts: must be .counts files of count-words, got corpus.txt" in done.err


def test_count_words_sums_up_what_it_did(call, folder) -> None:
    done = call("bpetok", "count-words", "corpus.txt", "-", "--json", "-o", "a.counts", cwd=folder, given=b"one two")
    counts = bpetok.PretokenCounts.load(folder / "a.counts")
    assert (done.code, done.err) == (0, "")
    about = done.json
    assert about["output"] == "a.counts" and about["pattern"] == "gpt4"
    assert (about["documents"], about["bytes"]) == (2, counts.bytes)
    assert (about["pretokens"], about["distinct"], about["runs"]) == (counts.total, len(counts), 0)
    assert [source["bytes"] for source in about["sources"]] == [(folder / "corpus.txt").stat().st_size, 7]
    assert 0 <= about["seconds"] < 60 and about["peak_memory"] > 10e6


def test_the_bar_of_count_words_covers_the_merging_too_and_never_goes_back(monkeypatch) -> None:
    moves: list[float] = []

    @contextlib.contextmanager
    def bar(what: str, total: float | None, **_: object) -> Iterator[Callable[[float], None]]:
        assert (what, total) == ("count", 1000)
        yield moves.append

    monkeypatch.setattr(training, "progress", bar)
    with training._whole_bar(1000, False) as advance:
        for stage, amount in [("scan", 200), ("spill", 9), ("new", 9), ("scan", 800), ("merge", 4), ("merge", 5)]:
            advance(stage, amount)
            assert moves[-1] >= 0
    assert moves[0] == 200 and sum(moves[:4]) < 900
    assert sum(moves) == pytest.approx(1000)


@pytest.mark.parametrize("output", ["a.txt", "none/a.counts"])
def test_count_words_refuses_an_output_that_it_cannot_write_before_the_work(call, folder, output: str) -> None:
    done = call("bpetok", "count-words", "-", "-o", output, cwd=folder)
    assert done.code == 2 and "--output:" in done.err


def test_count_words_keeps_to_its_memory_and_says_when_it_cannot(run, folder) -> None:
    done = run("bpetok", "count-words", "corpus.txt", "--memory", "10MB", "-o", "a.counts", cwd=folder)
    assert (done.code, done.out) == (6, b"")
    assert "error: count-words: memory must stay under 10,000,000 bytes of the whole process, but" in done.err
    assert not list(folder.glob("*a.counts*"))
    done = run("bpetok", "count-words", "corpus.txt", "--memory", "500MB", "-o", "a.counts", cwd=folder)
    assert done.code == 0


def test_count_words_on_a_full_disk_is_exit_code_6_and_leaves_no_file(call, folder, monkeypatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", full)
    done = call("bpetok", "count-words", "corpus.txt", "-o", "a.counts", cwd=folder)
    assert done.code == 6 and "out of space" in done.err
    assert not list(folder.glob("*a.counts*"))


def test_train_refuses_to_take_more_memory_than_it_may(run, folder) -> None:
    args = ("--vocab-size", 300, "--memory", "10MB", "-o", "new.bpetok")
    done = run("bpetok", "train", "corpus.txt", *args, cwd=folder)
    assert (done.code, done.out) == (6, b"")
    assert "train: memory must stay under 10,000,000 bytes of the whole process, but" in done.err
    assert "hint: allow more" in done.err
    assert not (folder / "new.bpetok").exists()
    wrong = run("bpetok", "train", "corpus.txt", "--vocab-size", 300, "--memory", "much", "-o", "x.bpetok", cwd=folder)
    assert wrong.code == 2 and "must be a size such as 512MB, 4GB or 1.5GiB, got 'much'" in wrong.err


def test_interrupting_a_training_is_exit_code_130_and_leaves_no_file(folder) -> None:
    command = [sys.executable, "-m", "bpetok", "train", "-", "--vocab-size", "60000", "-o", "x.bpetok"]
    process = subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    time.sleep(1.5)  # it has begun, and waits for text that does not come
    process.send_signal(signal.SIGINT)
    sent = time.monotonic()
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, b"interrupted\n")
    assert time.monotonic() - sent < 5
    assert not list(Path(folder).glob("*x.bpetok*"))
