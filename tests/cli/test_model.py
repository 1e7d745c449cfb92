"""lm sample, on two small runs: a tokenizer's whole texts, and lines of characters."""

import shutil
from pathlib import Path

import pytest

import bpetok
from bpetok import shards

TOML = """
[data]
{data}

[model]
rung = "gpt2"
context = 16
layers = 1
heads = 2
width = 16

[batch]
rows = 4

[optimizer]
lr = 1e-2

[schedule]
warmup_steps = 1
min_lr = 1e-3

[run]
steps = 3
eval_every = 3
eval_batches = 1
checkpoint_every = 3
device = "cpu"
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, furnish, tok: bpetok.Tokenizer) -> Path:
    from lm.config import load_config
    from lm.train import train

    folder: Path = furnish(tmp_path_factory.mktemp("runs"))
    shards.write([(folder / "corpus.txt").read_bytes()], tok, folder / "shards")
    (folder / "names.txt").write_text("emma\nava\nmia\nzoe\n" * 40)
    for name, data in (
        ("text", f'shards = "{folder}/shards"\ntokenizer = "{folder}/my.bpetok"'),
        ("lines", f'text = "{folder}/names.txt"\ndocuments = "lines"'),
    ):
        (folder / f"{name}.toml").write_text(TOML.format(data=data))
        train(load_config(folder / f"{name}.toml"), folder / name)
    return folder


def test_text_is_printed_as_it_is_drawn_and_the_same_for_the_same_seed(call, runs: Path) -> None:
    done = call("lm", "sample", "text", "--prompt", "The cats", "--max-new-tokens", 9, cwd=runs)
    assert done.code == 0 and done.text.startswith("The cats") and done.text.endswith("\n") and done.err == ""
    assert call("lm", "sample", "text", "--prompt", "The cats", "--max-new-tokens", 9, cwd=runs) == done
    assert call("lm", "sample", "text", "--prompt", "The cats", "--seed", 2, cwd=runs).out != done.out


def test_several_samples_are_drawn_at_once_and_the_first_is_the_one_alone(call, runs: Path) -> None:
    alone = call("lm", "sample", "text", "--max-new-tokens", 12, cwd=runs).text
    done = call("lm", "sample", "text", "--max-new-tokens", 12, "--num-samples", 3, cwd=runs)
    assert done.code == 0
    parts = [done.text.split(f"--- sample {i} ---\n")[1].split("--- sample")[0] for i in (1, 2, 3)]
    assert parts[0] == alone and len(set(parts)) == 3


def test_samples_of_lines_are_the_lines_of_the_whole_text(call, runs: Path) -> None:
    whole = call("lm", "sample", "lines", "--max-new-tokens", 400, "--temperature", 1, cwd=runs).text.split("\n")
    done = call("lm", "sample", "lines", "--num-samples", 5, "--temperature", 1, cwd=runs)
    assert done.text.splitlines() == whole[:5]


def test_json_has_text_ids_and_rate(call, runs: Path, tok: bpetok.Tokenizer) -> None:
    given = ("--prompt", "The", "--max-new-tokens", 6, "--min-p", 0.01, "--repetition-penalty", 1.2, "--json")
    done = call("lm", "sample", "text", *given, "--num-samples", 2, cwd=runs)
    assert done.code == 0 and done.err == ""
    answer = done.json
    assert len(answer["samples"]) == 2 and answer["ids"] == sum(len(one["ids"]) for one in answer["samples"])
    for one in answer["samples"]:
        assert one["text"] == "The" + tok.decode(one["ids"]) and one["ended"] == (len(one["ids"]) < 6)
    assert answer["ids_per_second"] == pytest.approx(answer["ids"] / answer["seconds"])
    assert len(call("lm", "sample", "text", *given, cwd=runs).json["samples"]) == 1


@pytest.mark.parametrize("given", [b"The cats", b"The cats\n"])
def test_a_prompt_comes_from_a_file_or_standard_input(call, runs: Path, tmp_path: Path, given: bytes) -> None:
    expected = call("lm", "sample", "text", "--prompt", "The cats", "--max-new-tokens", 5, cwd=runs).out
    (tmp_path / "prompt.txt").write_bytes(given)
    for file, piped in ((tmp_path / "prompt.txt", b""), ("-", given)):
        done = call("lm", "sample", "text", "--prompt-file", file, "--max-new-tokens", 5, cwd=runs, given=piped)
        assert (done.code, done.out) == (0, expected)


def test_how_fast_it_went_is_said_where_it_is_asked_for(call, runs: Path) -> None:
    done = call("lm", "sample", "text", "--max-new-tokens", 5, "-v", cwd=runs)
    assert done.err.startswith("5 ids in ") and done.err.endswith(" ids/s\n")
    nothing = call("lm", "sample", "text", "--max-new-tokens", 0, "-v", cwd=runs)
    assert nothing.code == 0 and nothing.err == "0 ids in 0.0 s, 0.0 ids/s\n"


@pytest.mark.parametrize(
    ("given", "code", "message"),
    [
        (["--prompt", "a", "--prompt-file", "-"], 2, "--prompt and --prompt-file: give one of them"),
        (["--prompt-file", "bad.txt"], 3, "bad.txt: a prompt must be UTF-8, got 0xff"),
        (["--num-samples", "0"], 2, "--num-samples"),
        (["--min-p", "2"], 2, "sample: min_p must be in [0, 1], got 2.0"),
        (["--repetition-penalty", "0"], 2, "sample: repetition_penalty must be finite and above 0, got 0.0"),
        (["--top-k", "0", "--num-samples", "2"], 2, "sample: top_k must be at least 1, got 0"),
    ],
)
def test_what_is_wrong_is_one_line(call, runs: Path, tmp_path: Path, given: list[str], code: int, message: str) -> None:
    folder = Path(shutil.copytree(runs, tmp_path / "runs"))
    (folder / "bad.txt").write_bytes(b"a\xff")
    done = call("lm", "sample", "text", *given, cwd=folder)
    assert done.code == code and message in done.err and done.text == ""
