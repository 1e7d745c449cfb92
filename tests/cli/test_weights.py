"""`lm export` on the command line."""

import shutil
from pathlib import Path

import pytest

import bpetok

GPT = """
[data]
text = "corpus.txt"
tokenizer = "gpt2.bpetok"

[model]
rung = "gpt2"
context = 8
layers = 1
heads = 2
width = 16

[batch]
rows = 4

[optimizer]
lr = 1e-3

[schedule]
warmup_steps = 0
min_lr = 1e-3

[run]
steps = 1
eval_every = 1
eval_batches = 1
checkpoint_every = 1
device = "cpu"
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, furnish) -> Path:
    """A folder with two runs of a step: `gpt`, whose split pattern llama.cpp has, and `bytes`."""
    from lm.config import load_config
    from lm.train import train

    folder = furnish(tmp_path_factory.mktemp("weights"))
    text = (folder / "corpus.txt").read_text()
    bpetok.train(text, vocab_size=300, pattern="gpt2", special_tokens=["<|endoftext|>"]).save(folder / "gpt2.bpetok")
    (folder / "gpt.toml").write_text(GPT)
    train(load_config(folder / "gpt.toml"), folder / "gpt")
    train(load_config(folder / "gpt.toml", ["data.alphabet=bytes"]), folder / "bytes")
    return folder


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> Path:
    """The same, of the test's own."""
    return Path(shutil.copytree(trained, tmp_path / "runs"))


def test_a_folder_for_transformers_by_default(call, runs: Path) -> None:
    done = call("lm", "export", "gpt", "-o", "out", cwd=runs)
    assert (done.code, done.out) == (0, b"")
    assert done.err.startswith("out: huggingface, 8,256 parameters in float32 and its tokenizer, ")
    assert (runs / "out" / "tokenizer.json").is_file() and (runs / "out" / "model.safetensors").is_file()


def test_a_gguf_file_by_its_name_or_by_the_option(call, runs: Path) -> None:
    about = call("lm", "export", "gpt", "-o", "gpt.gguf", "--dtype", "float16", "--json", cwd=runs).json
    size = (runs / "gpt.gguf").stat().st_size
    assert about == {
        "output": "gpt.gguf",
        "format": "gguf",
        "dtype": "float16",
        "parameters": 301 * 16 + 8 * 16 + 12 * 16**2 + 13 * 16 + 2 * 16,
        "tokenizer": True,
        "bytes": size,
    }
    assert bpetok.load(runs / "gpt.gguf").encode("cats") == bpetok.load(runs / "gpt2.bpetok").encode("cats")
    assert call("lm", "export", "gpt", "-o", "other", "--format", "gguf", "-q", cwd=runs).err == ""
    assert (runs / "other").read_bytes()[:4] == b"GGUF"


def test_the_weights_alone(call, runs: Path) -> None:
    done = call("lm", "export", "bytes", "-o", "bytes.gguf", cwd=runs)
    assert (done.code, done.out) == (3, b"")
    assert "hint: --no-tokenizer" in done.err and not (runs / "bytes.gguf").exists()
    done = call("lm", "export", "bytes", "-o", "bytes.gguf", "--no-tokenizer", cwd=runs)
    assert done.code == 0 and "in float32 and no tokenizer" in done.err


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["gpt", "-o", "gpt"], 3, "gpt: must not be there yet, but is"),
        (["gpt", "-o", "corpus.txt"], 3, "corpus.txt: must not be there yet, but is"),
        (["gpt"], 2, "Missing option '-o' / '--output'"),
        (["gpt", "-o", "out", "--format", "onnx"], 2, "'onnx' is not one of 'huggingface', 'gguf'"),
        (["books", "-o", "out"], 1, "a run must have a checkpoint, got none"),
        (["none", "-o", "out"], 2, "'none' does not exist"),
    ],
)
def test_a_mistake_gives_its_exit_code_and_writes_nothing(
    call, runs: Path, args: list[str], code: int, message: str
) -> None:
    before = sorted(runs.rglob("*"))
    done = call("lm", "export", *args, cwd=runs)
    assert (done.code, message in done.err) == (code, True), done.err
    assert sorted(runs.rglob("*")) == before
