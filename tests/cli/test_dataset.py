import gzip
import json
import os
import signal
import subprocess
import sys
import time

import pytest

import bpetok
from bpetok import shards


def contents_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_shard_writes_what_the_library_writes(run, folder, tok) -> None:
    done = run("bpetok", "shard", "rows.jsonl", "-t", "my.bpetok", "-o", "shards", "--json", cwd=folder)
    assert done.code == 0
    opened = shards.open(folder / "shards")
    opened.check(bpetok.load(folder / "my.bpetok"))
    assert done.json["splits"]["train"]["ids"] == opened.train.tokens
    assert opened.train.documents + opened.val.documents == 400
    assert opened.train.read(0, 1).tolist() == [tok.eot_token]
    opened.verify()


def test_shard_says_what_it_wrote_and_cuts_files_as_told(call, folder) -> None:
    done = call("bpetok", "shard", "corpus.txt", "-t", "my.bpetok", "-o", "shards", "--shard-tokens", 1000, cwd=folder)
    assert done.code == 0
    assert "shards train: " in done.err and "shards val: 1" not in done.out.decode()
    assert len(list((folder / "shards").glob("train_*.bin"))) == len(shards.open(folder / "shards").train.arrays) > 3


def test_shard_refuses_what_it_cannot_do(call, folder) -> None:
    args = ("shard", "corpus.txt", "-t", "my.bpetok", "-o", "shards")
    assert call("bpetok", *args, cwd=folder).code == 0
    again = call("bpetok", *args, cwd=folder)
    assert again.code == 3 and "holds shards already\nhint: " in again.err
    bpetok.train("a b", 258).save(folder / "plain.bpetok")
    plain = call("bpetok", "shard", "corpus.txt", "-t", "plain.bpetok", "-o", "other", cwd=folder)
    assert plain.code == 3 and "has no special token '<|endoftext|>'\nhint: " in plain.err
    (folder / "bad.jsonl").write_text('{"text": "fine"}\n{"txt": "not"}\n')
    bad = call("bpetok", "shard", "bad.jsonl", "-t", "my.bpetok", "-o", "bad", cwd=folder)
    assert bad.code == 3 and "bad.jsonl:2: a row must have its text in the field 'text'" in bad.err
    assert not list((folder / "bad").glob("*.bin"))
    skipped = call("bpetok", "shard", "bad.jsonl", "-t", "my.bpetok", "-o", "bad", "--on-error", "skip", cwd=folder)
    assert skipped.code == 0 and "1 rows were left out" in skipped.err and "bad.jsonl, byte 17: " in skipped.err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["-o", "out"], "FILES: must be files, folders, URLs or -, or there must be a --dataset"),
        (["corpus.txt", "-o", "out", "--part", 1], "--num-parts and --part: give both or neither"),
        (["corpus.txt", "-o", "out", "--part", 2, "--num-parts", 2], "--part: must be under --num-parts, 2, got 2"),
        (["a", "b", "-o", "out", "--merge"], "--merge: must be given without -t"),
        (["corpus.txt", "-o", "out", "--end-of-text", "x"], "Invalid value for '--end-of-text'"),
        (["corpus.txt", "-o", "out", "--allow-special", "<|x|>"], "--allow-special: must be a special token of my"),
    ],
)
def test_what_is_typed_wrong_is_a_mistake_of_usage(call, folder, args, message) -> None:
    done = call("bpetok", "shard", "-t", "my.bpetok", *args, cwd=folder)
    assert done.code == 2 and message in done.err
    assert not (folder / "out").exists()


def test_a_file_that_is_not_there_is_named(call, folder) -> None:
    done = call("bpetok", "shard", "nowhere.txt", "-t", "my.bpetok", "-o", "out", cwd=folder)
    assert done.code == 3 and "nowhere.txt" in done.err


def test_packed_files_patterns_separators_and_standard_input_are_read(run, folder, tok) -> None:
    with gzip.open(folder / "more.jsonl.gz", "wt") as file:
        file.write('{"body": "packed"}\n')
    (folder / "stories.txt").write_text("one\n---\ntwo\n")
    args = ("shard", "stor*.txt", "more.jsonl.gz", "-", "-t", "my.bpetok", "-o", "out", "--separator", "---")
    done = run("bpetok", *args, "--field", "body", "--val-fraction", 0, given=b"three\n---\nfour", cwd=folder)
    assert done.code == 0, done.err
    train = shards.open(folder / "out").train
    texts = [tok.decode(train.document(n)[1:]) for n in range(train.documents)]
    assert texts == ["one\n", "two\n", "packed", "three\n", "four"]


def test_a_dataset_by_name_is_read(call, folder, tok) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.DatasetDict({"test": datasets.Dataset.from_dict({"body": ["one", "two"]})}).save_to_disk(folder / "saved")
    args = ("shard", "--dataset", "saved", "-t", "my.bpetok", "--column", "body", "--val-fraction", 0)
    assert call("bpetok", *args, "--split", "test", "-o", "out", cwd=folder).code == 0
    train = shards.open(folder / "out").train
    assert [tok.decode(train.document(n)[1:]) for n in range(train.documents)] == ["one", "two"]
    done = call("bpetok", *args, "-o", "no", cwd=folder)
    assert done.code == 3 and "saved: must be a dataset with the split 'train'" in done.err
    (folder / "files").mkdir()
    (folder / "files" / "a.jsonl").write_text('{"body": "three"}\n')
    done = call("bpetok", *args[:2], "files", *args[3:], "--streaming", "-o", "streamed", cwd=folder)
    assert done.code == 0, done.err
    assert tok.decode(shards.open(folder / "streamed").train.document(0)[1:]) == "three"


def test_parts_are_put_together(call, folder) -> None:
    for part in (0, 1):
        args = ("rows.jsonl", "-t", "my.bpetok", "--num-parts", 2, "--part", part, "-o", f"part-{part}")
        assert call("bpetok", "shard", *args, cwd=folder).code == 0
    done = call("bpetok", "shard", "--merge", "part-0", "part-1", "-o", "all", "--json", cwd=folder)
    assert done.code == 0 and done.json["splits"]["train"]["documents"] + done.json["splits"]["val"]["documents"] == 400
    shards.open(folder / "all").verify()
    done = call("bpetok", "shard", "--merge", "part-0", "-o", "half", cwd=folder)
    assert done.code == 3 and "must be a folder for each part from 0 to 1, got no part 1" in done.err


def test_what_may_surprise_is_said(call, folder) -> None:
    args = ("shard", "-t", "my.bpetok")
    done = call("bpetok", *args, "corpus.txt", "-o", "one", "--separator", "---", cwd=folder)
    assert done.code == 0 and "--separator: no file has a line that is exactly '---'" in done.err
    done = call("bpetok", *args, "corpus.txt", "-o", "part", "--num-parts", 2, "--part", 1, cwd=folder)
    assert done.code == 0 and done.err == "part: no document begins in this part\n"


def test_a_dry_run_writes_nothing(call, folder) -> None:
    done = call("bpetok", "shard", "rows.jsonl", "-t", "my.bpetok", "-o", "out", "--dry-run", "--json", cwd=folder)
    size = (folder / "rows.jsonl").stat().st_size
    assert done.code == 0 and done.json["sources"] == [{"name": "rows.jsonl", "bytes": size}]
    assert not (folder / "out").exists()
    assert "rows.jsonl" in call("bpetok", "shard", "rows.jsonl", "-o", "out", "--dry-run", cwd=folder).text


@pytest.mark.parametrize(
    ("number", "code", "said"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 75, "stopped by SIGTERM")]
)
def test_a_call_that_was_stopped_is_gone_on_with_by_the_same_call(folder, number, code, said) -> None:
    rows = (folder / "rows.jsonl").read_text()
    (folder / "many.jsonl").write_text(rows * 300)
    command = [sys.executable, "-m", "bpetok", "shard", "many.jsonl", "-t", "my.bpetok", "--shard-tokens", "200000"]
    subprocess.run([*command, "-o", "whole"], cwd=folder, check=True, capture_output=True)
    interrupted = 0
    for _ in range(40):
        process = subprocess.Popen([*command, "-o", "out", "--workers", "2"], cwd=folder, stderr=subprocess.PIPE)
        progress = folder / "out" / ".build" / "progress.json"
        before = progress.read_bytes() if progress.exists() else b""
        while process.poll() is None and not (progress.exists() and progress.read_bytes() != before):
            time.sleep(0.001)
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
        if process.returncode == 0:
            break
        assert process.returncode == code, err
        assert err.decode().endswith(f"{said}\nhint: the same command goes on where this one stopped\n")
        assert err.startswith(b"goes on where an earlier call stopped: ") == (
            b'"done": 0' not in before and bool(before)
        )
        interrupted += 1
    assert interrupted > 0
    assert contents_of(folder / "out") == contents_of(folder / "whole")


def test_a_full_disk_is_exit_6_and_can_be_gone_on_with(folder, run) -> None:
    """A limit on the size of files stands for a disk that is full: the write is cut short, the next one fails."""
    rows = json.dumps({"text": "a b c d e f g h " * 100}) + "\n"
    (folder / "many.jsonl").write_text(rows * 300)
    args = ["shard", "many.jsonl", "-t", "my.bpetok", "-o", "out", "--val-fraction", "0"]
    limited = (
        "import os, cli.bpetok, sys; plain = os.write\n"
        "def write(descriptor, data):\n"
        "    if os.lseek(descriptor, 0, os.SEEK_CUR) > 100_000: raise OSError(28, 'No space left on device')\n"
        "    return plain(descriptor, bytes(data)[:50_000])\n"
        f"os.write = write; sys.argv = ['bpetok', *{args!r}]; cli.bpetok.main()"
    )
    done = subprocess.run([sys.executable, "-c", limited], cwd=folder, capture_output=True, check=False)
    assert done.returncode == 6 and b"out of space" in done.stderr, done.stderr
    assert os.listdir(folder / "out") == [".build"]
    assert run("bpetok", *args, cwd=folder).code == 0
    shards.open(folder / "out").verify()
