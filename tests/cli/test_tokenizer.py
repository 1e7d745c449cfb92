import os
import random
import subprocess
import sys

import numpy as np
import pytest


def test_encode_prints_the_ids_on_one_line_and_decode_gives_the_text_back(run, folder, tok) -> None:
    text = (folder / "text.txt").read_bytes()
    done = run("bpetok", "encode", "-t", "my.bpetok", cwd=folder, given=text)
    assert done.text == " ".join(map(str, tok.encode_ordinary(text))) + "\n"
    assert run("bpetok", "decode", "-t", "my.bpetok", cwd=folder, given=done.out).out == text
    assert run("bpetok", "encode", "-t", "my.bpetok", "text.txt", "--json", cwd=folder).json == {
        "ids": tok.encode_ordinary(text)
    }


def test_a_special_token_in_text_is_text_unless_it_is_named(run, folder, tok) -> None:
    text = b"a<|endoftext|>b"
    plain = run("bpetok", "encode", "-t", "my.bpetok", cwd=folder, given=text)
    assert tok.eot_token not in map(int, plain.text.split())
    args = ("-t", "my.bpetok", "--allow-special", "<|endoftext|>")
    for extra in ([], ["--json"], ["--binary"]):
        done = run("bpetok", "encode", *args, *extra, cwd=folder, given=text)
        ids = done.json["ids"] if extra == ["--json"] else None
        ids = np.frombuffer(done.out, "<u4").tolist() if extra == ["--binary"] else ids
        assert (ids or [int(word) for word in done.text.split()]) == tok.encode(text, allowed_special="all")
    refused = run("bpetok", "encode", "-t", "my.bpetok", "--allow-special", "<|nope|>", cwd=folder)
    assert refused.code == 2 and "must be a special token of my (<|endoftext|>)" in refused.err


@pytest.mark.parametrize("seed", range(6))
def test_any_bytes_come_back_through_binary_and_decimal_pipes(run, folder, seed) -> None:
    pieces = [b"\xff", b"\x00", b"abc ", " é中🙂".encode(), b"\r\n", b"\xe4\xb8", b"<|endoftext|>", b"  ", b"don't"]
    data = b"".join(random.Random(seed).choices(pieces, k=seed * 500))
    for flags in (["--binary"], []):
        ids = run("bpetok", "encode", "-t", "my.bpetok", *flags, cwd=folder, given=data).out
        assert run("bpetok", "decode", "-t", "my.bpetok", *flags, cwd=folder, given=ids).out == data


def test_a_big_file_streams_through_a_pipe_in_little_memory(folder) -> None:
    size = 40_000_000
    text = (folder / "corpus.txt").read_bytes()
    (folder / "big").write_bytes((text * (size // len(text) + 1))[:size])
    script = """
import resource, subprocess, sys
bpetok = [sys.executable, "-m", "bpetok"]
with open("big", "rb") as big, open("back", "wb") as back:
    encode = subprocess.Popen([*bpetok, "encode", "-t", "my.bpetok", "--binary"], stdin=big, stdout=subprocess.PIPE)
    decode = subprocess.Popen([*bpetok, "decode", "-t", "my.bpetok", "--binary"], stdin=encode.stdout, stdout=back)
    encode.stdout.close()
    assert (encode.wait(), decode.wait()) == (0, 0)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=True)
    assert (folder / "back").read_bytes() == (folder / "big").read_bytes()
    assert int(done.stdout) < 300, "megabytes"


def test_count_prints_one_number_or_one_for_each_file(run, folder, tok) -> None:
    tokens = {name: tok.count((folder / name).read_bytes()) for name in ("corpus.txt", "text.txt")}
    given = (folder / "corpus.txt").read_bytes()
    assert run("bpetok", "count", "-t", "my.bpetok", cwd=folder, given=given).text == f"{tokens['corpus.txt']}\n"
    done = run("bpetok", "count", "-t", "my.bpetok", "corpus.txt", "text.txt", cwd=folder)
    assert [line.split() for line in done.text.splitlines()] == [
        [str(tokens["corpus.txt"]), "corpus.txt"],
        [str(tokens["text.txt"]), "text.txt"],
        [str(sum(tokens.values())), "total"],
    ]
    twice = run("bpetok", "count", "-t", "my.bpetok", "text.txt", "text.txt", "-", "-", cwd=folder)
    assert [int(line.split()[0]) for line in twice.text.splitlines()] == [tokens["text.txt"]] * 2 + [0, 0] + [
        2 * tokens["text.txt"]
    ]
    done = run("bpetok", "count", "-t", "my.bpetok", "corpus.txt", "text.txt", "--json", cwd=folder)
    assert done.json == {"files": tokens, "total": sum(tokens.values())}


def test_info_tells_a_tokenizer_and_a_folder_of_shards(run, folder, tok) -> None:
    about = run("bpetok", "info", "my.bpetok", "--json", cwd=folder).json
    assert about["ids"] == 301 and about["fingerprint"] == tok.fingerprint and about["pattern"] == "gpt4"
    shown = run("bpetok", "info", "my.bpetok", cwd=folder).text
    assert tok.fingerprint in shown and "<|endoftext|> 300" in shown
    run("bpetok", "shard", "corpus.txt", "-t", "my.bpetok", "-o", "shards", cwd=folder)
    about = run("bpetok", "info", "shards", "--json", cwd=folder).json
    assert about["train"]["bytes of text"] + about["val"]["bytes of text"] == (folder / "corpus.txt").stat().st_size


MISTAKES = {
    "no such tokenizer": (("encode", "-t", "gtp2"), 2, "tokenizer: must be a file or one of gpt2, "),
    "no such pattern": (
        ("train", "corpus.txt", "--vocab-size", 300, "--pattern", "gtp4", "-o", "x.bpetok"),
        2,
        "pattern: must be a known name or a regular expression, got 'gtp4'\nhint: did you mean 'gpt4'?\n",
    ),
    "a tiny vocabulary": (
        ("train", "corpus.txt", "--vocab-size", 9, "-o", "x.bpetok"),
        2,
        "not in the range 256<=x",
    ),
    "an unknown suffix": (("train", "corpus.txt", "--vocab-size", 300, "-o", "x.pkl"), 2, "the suffix must be one of"),
    "no such file": (("train", "gone.txt", "--vocab-size", 300, "-o", "x.bpetok"), 2, "'gone.txt' does not exist"),
    "an empty corpus": (("train", "/dev/null", "--vocab-size", 300, "-o", "x.bpetok"), 3, "must hold text, got none"),
    "a text for a tokenizer": (("encode", "-t", "corpus.txt"), 3, "must be a .bpetok file, tiktoken ranks or"),
    "an altered tokenizer": (("encode", "-t", "altered.bpetok"), 4, "sha256 must be"),
    "words for ids": (("decode", "-t", "my.bpetok", "text.txt"), 3, "word 1 must be a decimal id, got b'The'"),
    "an id too high": (("decode", "-t", "my.bpetok", "high.ids"), 3, "no token has the id 999999"),
    "a number of many digits": (("decode", "-t", "my.bpetok", "long.ids"), 3, "word 1 must be a decimal id"),
    "two formats at once": (("encode", "-t", "my.bpetok", "--json", "--binary"), 2, "--json and --binary"),
    "an id past 32 bits": (("decode", "-t", "my.bpetok", "huge.ids"), 3, "must be in 0 to 4294967295"),
    "half an id": (("decode", "-t", "my.bpetok", "--binary", "half.ids"), 3, "must be whole uint32 of 4 bytes"),
    "an unwritable place": (
        ("train", "corpus.txt", "--vocab-size", 300, "-o", "gone/x.bpetok"),
        2,
        "--output: gone must be a folder",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gives_its_exit_code_and_a_line_without_a_traceback(run, folder, mistake) -> None:
    altered = (folder / "my.bpetok").read_text().replace('"name": "my"', '"name": "his"')
    (folder / "altered.bpetok").write_text(altered)
    (folder / "high.ids").write_text("65 999999")
    (folder / "huge.ids").write_text("99999999999")
    (folder / "long.ids").write_text("1" * 5000)
    (folder / "half.ids").write_bytes(b"A\0\0\0B\0")
    args, code, message = MISTAKES[mistake]
    done = run("bpetok", *args, cwd=folder)
    assert (done.code, message in done.err) == (code, True), done.err
    assert "Traceback" not in done.err
    assert len(done.err.splitlines()) <= 5


def test_a_full_disk_is_exit_code_6(folder) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full to write to")
    command = [sys.executable, "-m", "bpetok", "encode", "-t", "my.bpetok", "corpus.txt"]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, cwd=folder, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 6
    assert done.stderr.decode().startswith("error: out of space")
    assert b"Traceback" not in done.stderr and b"Exception" not in done.stderr


def test_a_reader_that_leaves_early_is_no_error(folder) -> None:
    command = f"{sys.executable} -m bpetok encode -t my.bpetok corpus.txt | head -c 5; echo ${{PIPESTATUS[0]}}"
    (folder / "corpus.txt").write_text("many words " * 200_000)
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("0\n")
    assert done.stderr == ""


def test_there_is_no_bar_where_stderr_is_no_terminal_and_quiet_says_nothing(run, folder) -> None:
    args = ("train", "corpus.txt", "--vocab-size", 300, "-o", "x.bpetok")
    assert "%" not in run("bpetok", *args, cwd=folder).err
    assert run("bpetok", *args, "-q", cwd=folder).err == ""
