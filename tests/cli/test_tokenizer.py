import os
import random
import subprocess
import sys

import click
import numpy as np
import pytest

import bpetok
from cli import manners


def test_encode_prints_the_ids_on_one_line_and_decode_gives_the_text_back(run, folder, tok) -> None:
    text = (folder / "text.txt").read_bytes()
    done = run("bpetok", "encode", "-t", "my.bpetok", cwd=folder, given=text)
    assert done.text == " ".join(map(str, tok.encode_ordinary(text))) + "\n"
    assert run("bpetok", "decode", "-t", "my.bpetok", cwd=folder, given=done.out).out == text
    assert run("bpetok", "encode", "-t", "my.bpetok", "text.txt", "--json", cwd=folder).json == {
        "ids": tok.encode_ordinary(text)
    }


def test_a_special_token_in_text_is_text_unless_it_is_named(call, folder, tok) -> None:
    text = b"a<|endoftext|>b"
    plain = call("bpetok", "encode", "-t", "my.bpetok", cwd=folder, given=text)
    assert tok.eot_token not in map(int, plain.text.split())
    args = ("-t", "my.bpetok", "--allow-special", "<|endoftext|>")
    for extra in ([], ["--json"], ["--binary"]):
        done = call("bpetok", "encode", *args, *extra, cwd=folder, given=text)
        ids = done.json["ids"] if extra == ["--json"] else None
        ids = np.frombuffer(done.out, "<u4").tolist() if extra == ["--binary"] else ids
        assert (ids or [int(word) for word in done.text.split()]) == tok.encode(text, allowed_special="all")
    refused = call("bpetok", "encode", "-t", "my.bpetok", "--allow-special", "<|nope|>", cwd=folder)
    assert refused.code == 2 and "must be a special token of my (<|endoftext|>)" in refused.err


@pytest.mark.parametrize("seed", range(6))
def test_any_bytes_come_back_through_binary_and_decimal_pipes(call, folder, seed) -> None:
    pieces = [b"\xff", b"\x00", b"abc ", " é中🙂".encode(), b"\r\n", b"\xe4\xb8", b"<|endoftext|>", b"  ", b"don't"]
    data = b"".join(random.Random(seed).choices(pieces, k=seed * 500))
    for flags in (["--binary"], []):
        ids = call("bpetok", "encode", "-t", "my.bpetok", *flags, cwd=folder, given=data).out
        assert call("bpetok", "decode", "-t", "my.bpetok", *flags, cwd=folder, given=ids).out == data


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


def test_count_prints_one_number_or_one_for_each_file(call, folder, tok) -> None:
    tokens = {name: tok.count((folder / name).read_bytes()) for name in ("corpus.txt", "text.txt")}
    given = (folder / "corpus.txt").read_bytes()
    assert call("bpetok", "count", "-t", "my.bpetok", cwd=folder, given=given).text == f"{tokens['corpus.txt']}\n"
    done = call("bpetok", "count", "-t", "my.bpetok", "corpus.txt", "text.txt", cwd=folder)
    assert [line.split() for line in done.text.splitlines()] == [
        [str(tokens["corpus.txt"]), "corpus.txt"],
        [str(tokens["text.txt"]), "text.txt"],
        [str(sum(tokens.values())), "total"],
    ]
    twice = call("bpetok", "count", "-t", "my.bpetok", "text.txt", "text.txt", "-", "-", cwd=folder)
    assert [int(line.split()[0]) for line in twice.text.splitlines()] == [tokens["text.txt"]] * 2 + [0, 0] + [
        2 * tokens["text.txt"]
    ]
    done = call("bpetok", "count", "-t", "my.bpetok", "corpus.txt", "text.txt", "--json", cwd=folder)
    assert done.json == {"files": tokens, "total": sum(tokens.values())}


def test_text_may_be_given_on_the_command_line(call, folder, tok) -> None:
    text = "The naïve cats"
    done = call("bpetok", "encode", "-t", "my.bpetok", "--text", text, cwd=folder)
    assert done.text.split() == [str(i) for i in tok.encode_ordinary(text)]
    assert call("bpetok", "count", "-t", "my.bpetok", "--text", text, cwd=folder).text == f"{tok.count(text)}\n"
    counted = call("bpetok", "count", "-t", "my.bpetok", "--text", text, "--json", cwd=folder).json
    assert counted == {"files": {}, "total": tok.count(text)}
    for command in ("encode", "count"):
        both = call("bpetok", command, "-t", "my.bpetok", "--text", text, "text.txt", cwd=folder)
        assert both.code == 2 and "--text and a file: give one of them" in both.err


def test_all_special_tokens_may_be_allowed_at_once(call, folder, tok) -> None:
    text = "a<|endoftext|>"
    done = call("bpetok", "encode", "-t", "my.bpetok", "--allow-special", "all", "--text", text, cwd=folder)
    assert done.text.split() == [str(i) for i in tok.encode(text, allowed_special="all")]


def test_decode_gives_text_and_bytes_that_are_no_text_as_json(call, folder) -> None:
    for data, base64 in (("né 中".encode(), None), (b"a\xffb", "Yf9i")):
        ids = call("bpetok", "encode", "-t", "my.bpetok", cwd=folder, given=data).out
        decoded = call("bpetok", "decode", "-t", "my.bpetok", "--json", cwd=folder, given=ids).json
        assert decoded == {"text": data.decode(errors="replace"), "base64": base64}


def test_truncate_writes_what_the_library_keeps(call, folder, tok) -> None:
    data = (folder / "corpus.txt").read_bytes()
    for args, keep, marker in (((), "start", ""), (("--keep", "both", "--marker", " … "), "both", " … ")):
        done = call("bpetok", "truncate", "-t", "my.bpetok", "-n", 50, *args, "corpus.txt", cwd=folder)
        assert done.out == tok.truncate(data, 50, keep=keep, marker=marker)
        assert len(tok.encode_ordinary(done.out)) <= 50
    same = call("bpetok", "truncate", "-t", "my.bpetok", "-n", 99, cwd=folder, given=b"short\xff")
    assert same.out == b"short\xff", "what fits is not changed"
    about = call("bpetok", "truncate", "-t", "my.bpetok", "-n", 2, "--text", "zzzz", "--json", cwd=folder).json
    assert about == {"text": "zz", "base64": None, "tokens": 2, "truncated": True}
    long = call("bpetok", "truncate", "-t", "my.bpetok", "-n", 1, "--marker", "zz", "--text", "zzzz", cwd=folder)
    assert long.code == 2 and "--marker: must fit into -n 1, got 2 ids" in long.err


# ---- tokens ----------------------------------------------------------------------------------------------------------

SHOWN = "The 中\n<|endoftext|>"


def test_tokens_of_running_text_are_parted_by_bars_and_half_characters_are_bytes(call, folder, tok) -> None:
    done = call("bpetok", "tokens", "-t", "my.bpetok", "--allow-special", "all", "--text", SHOWN, cwd=folder)
    assert done.text == "The│ │\\xe4│\\xb8│\\xad│\\n\n<|endoftext|>\n"
    done = call("bpetok", "tokens", "-t", "my.bpetok", "--ids", "The 1", cwd=folder)
    assert done.text == "│".join(f"{tok.decode([i])}({i})" for i in tok.encode("The 1")) + "\n"


def test_tokens_takes_a_file_standard_input_or_the_text_itself(call, folder) -> None:
    text = (folder / "text.txt").read_text()
    by_name = call("bpetok", "tokens", "-t", "my.bpetok", "text.txt", cwd=folder)
    for args, given in (((), text.encode()), (("-",), text.encode()), ((text,), b"")):
        assert call("bpetok", "tokens", "-t", "my.bpetok", *args, cwd=folder, given=given).out == by_name.out
    assert call("bpetok", "tokens", "-t", "my.bpetok", "texd.txt", cwd=folder).text.replace("│", "") == "texd.txt\n"


def test_tokens_as_a_table_and_as_json_hold_ids_bytes_and_places(call, folder, tok) -> None:
    args = ("-t", "my.bpetok", "--allow-special", "all", "--text", SHOWN)
    encoded = tok.encode_with_offsets(SHOWN, allowed_special="all")
    rows = call("bpetok", "tokens", *args, "--table", cwd=folder).text.splitlines()[1:]
    assert [int(row.split()[0]) for row in rows] == encoded.ids.tolist()
    assert rows[0].split() == [str(encoded.ids[0]), "0", "3", "0", "3", "'The'", "54", "68", "65"]
    assert rows[2].split()[1:] == ["4", "5", "4", "5", r"'\xe4'", "e4"]
    assert rows[-1].endswith("special") and not rows[0].endswith("special")
    tokens = call("bpetok", "tokens", *args, "--json", cwd=folder).json["tokens"]
    assert [one["id"] for one in tokens] == encoded.ids.tolist()
    assert [one["bytes"][0] for one in tokens] == encoded.byte_offsets[:-1].tolist()
    assert [one["characters"] for one in tokens] == encoded.char_spans.tolist()
    assert [one["special"] for one in tokens] == encoded.special.tolist()
    assert (tokens[0]["text"], tokens[2]["base64"]) == ("The", "5A==")


def test_colour_is_for_terminals_or_where_it_is_asked_for(call, folder) -> None:
    args = ("bpetok", "tokens", "-t", "my.bpetok", "--text", "The cat")
    assert "\x1b" not in call(*args, cwd=folder).text
    colored = call(*args, "--color", "always", cwd=folder).text
    assert "\x1b[38;5;16m\x1b[48;5;151mThe\x1b[0m" in colored and "│" not in colored


@pytest.mark.parametrize(("more", "colored"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_a_terminal_has_colours_unless_it_or_its_user_wants_none(folder, more, colored) -> None:
    pty = pytest.importorskip("pty", reason="this system has no pseudo-terminals")
    ours, theirs = pty.openpty()
    env = {key: value for key, value in os.environ.items() if key != "NO_COLOR"} | {"TERM": "xterm"} | more
    command = [sys.executable, "-m", "bpetok", "tokens", "-t", "my.bpetok", "--text", "The cat"]
    subprocess.run(command, cwd=folder, env=env, stdout=theirs, check=True)
    os.close(theirs)
    shown = os.read(ours, 10_000)
    os.close(ours)
    assert (b"\x1b[" in shown) is colored and b"The" in shown


# ---- which tokenizer -------------------------------------------------------------------------------------------------


def test_a_model_of_openai_stands_for_its_encoding(call, encoding) -> None:
    expected = encoding("o200k_base").count("hello there")
    done = call("bpetok", "count", "-t", "gpt-4o-mini", "--text", "hello there")
    assert done.text == f"{expected}\n"


@pytest.mark.parametrize(
    ("name", "hint"),
    [("gpt4", "cl100k_base"), ("GPT4o", "o200k_base"), ("cl100k_bse", "cl100k_base"), ("harmony", "o200k_harmony")],
)
def test_a_name_that_is_nearly_right_is_answered_with_the_right_one(name: str, hint: str) -> None:
    with pytest.raises(click.UsageError, match=rf"got '{name}'\nhint: did you mean {hint}\?"):
        manners.open_tokenizer(name)


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
    "a file that is none": (("count", "-t", "my.bpetok", "gone.txt"), 2, "hint: --text takes text itself\n"),
    "ranks for a tokenizer": (("count", "-t", "my.tiktoken", "text.txt"), 3, "hint: bpetok import my.tiktoken --pat"),
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
def test_a_mistake_gives_its_exit_code_and_a_line_without_a_traceback(call, folder, mistake) -> None:
    altered = (folder / "my.bpetok").read_text().replace('"name": "my"', '"name": "his"')
    (folder / "altered.bpetok").write_text(altered)
    bpetok.load(folder / "my.bpetok").save(folder / "my.tiktoken")
    (folder / "high.ids").write_text("65 999999")
    (folder / "huge.ids").write_text("99999999999")
    (folder / "long.ids").write_text("1" * 5000)
    (folder / "half.ids").write_bytes(b"A\0\0\0B\0")
    args, code, message = MISTAKES[mistake]
    done = call("bpetok", *args, cwd=folder)
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
