import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import bpetok
from bpetok.errors import DataError
from lm.alphabet import BYTES, Alphabet
from lm.batches import Batches, in_order
from lm.config import BatchConfig, Config, OptimizerConfig, RunConfig, ScheduleConfig, TextConfig
from lm.data import open_data
from lm.errors import ConfigError
from lm.examples import Lines, Stream, Windows
from lm.models.batchnorm import BatchNormMLPConfig
from lm.models.bigram import BigramConfig
from lm.models.contract import RungConfig
from lm.models.mlp import MLPConfig
from lm.models.wavenet import WaveNetConfig
from lm.train import train

LINES = [f"{'abcdefghij'[n % 10]}{'xyz'[n % 3]}{'ké'[n % 2] * (n % 4)}" for n in range(40)]
TEXT = "\n".join(LINES) + "\n"
MLP = MLPConfig(context=8, window=3, embedding=4, hidden=8)
OpenText = Callable[..., Config]


@pytest.fixture
def run_on(tmp_path: Path) -> OpenText:
    """`run_on(text, model=..., documents=..., ...)`: a run on a text; other keywords go to `[data]`."""

    def make(
        text: str | bytes = TEXT, *, rung: str = "bigram", model: RungConfig | None = None, **data: object
    ) -> Config:
        path = tmp_path / "text.txt"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return Config(
            data=TextConfig(**{"text": path, **data}),
            rung=rung,
            model=model or BigramConfig(context=8),
            batch=BatchConfig(rows=4),
            optimizer=OptimizerConfig(kind="sgd", lr=0.1, grad_clip=0.0),
            schedule=ScheduleConfig(warmup_steps=0, min_lr=0.1),
            run=RunConfig(steps=2, eval_every=10, eval_batches=2, checkpoint_every=10, device="cpu"),
        )

    return make


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "small.bpetok"
    bpetok.train([TEXT], vocab_size=270, special_tokens=["<|endoftext|>"]).save(path)
    return path


@pytest.fixture(scope="module")
def tokenizer_without_end(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "bare.bpetok"
    bpetok.train([TEXT], vocab_size=270).save(path)
    return path


# ---- what is read ----------------------------------------------------------------------------------------------------


def test_a_text_as_a_whole_is_cut_in_two_and_nothing_is_lost(run_on: OpenText) -> None:
    data = open_data(run_on())
    assert isinstance(data.train, Stream) and isinstance(data.val, Stream) and data.test is None
    assert data.train.tokens == int(len(TEXT) * 0.9)
    assert data.vocabulary.decode([*data.train.ids.tolist(), *data.val.ids.tolist()]) == TEXT


@pytest.mark.parametrize("rows", ["windows", "lines", "blocks"])
def test_lines_are_in_one_of_three_parts_however_they_become_rows(run_on: OpenText, rows: str) -> None:
    data = open_data(run_on(documents="lines", rows=rows, rung="mlp", model=MLP))
    kinds = {"windows": Windows, "lines": Lines, "blocks": Stream}
    seen = []
    for split in (data.train, data.val, data.test):
        assert split is not None and type(split) is kinds[rows]
        targets = [targets_BT for _, targets_BT in in_order(split, rows=1, context=8, batches=999)]
        ids = [id_ for targets_BT in targets for id_ in targets_BT.flatten().tolist() if id_ >= 0]
        seen += data.vocabulary.decode(ids).split("\n")[:-1]
    assert sorted(seen) == sorted(LINES)
    assert data.separator == 0 and data.vocabulary.decode([0]) == "\n"


def test_bytes_are_an_alphabet_whose_separator_is_the_newlines_own_value(run_on: OpenText) -> None:
    data = open_data(run_on(alphabet="bytes", documents="lines", rows="windows", rung="mlp", model=MLP))
    assert data.vocabulary is BYTES and data.separator == 10
    assert isinstance(data.train, Windows) and data.train.inputs_NW[0].tolist() == [0, 0, 10]
    whole = open_data(run_on(alphabet="bytes"))
    assert isinstance(whole.train, Stream) and whole.train.ids.tolist() == list(TEXT.encode())[: whole.train.tokens]


def test_tokens_of_a_tokenizer_have_its_end_of_text_between_documents(run_on: OpenText, tokenizer: Path) -> None:
    data = open_data(run_on(tokenizer=tokenizer, documents="lines", rows="blocks"))
    vocabulary = bpetok.load(tokenizer)
    assert data.vocabulary.fingerprint == vocabulary.fingerprint and data.separator == vocabulary.eot_token
    assert isinstance(data.train, Stream)
    ids = data.train.ids.tolist()
    assert ids[0] == ids[-1] == vocabulary.eot_token and ids.count(vocabulary.eot_token) == 32 + 1


def test_a_whole_text_needs_no_end_of_text_in_its_tokenizer(run_on: OpenText, tokenizer_without_end: Path) -> None:
    data = open_data(run_on(tokenizer=tokenizer_without_end))
    assert data.separator is None and data.train.tokens > 8


@pytest.mark.parametrize(
    ("rung", "model", "window"),
    [
        ("mlp", MLPConfig(context=8, window=3, embedding=4, hidden=8), 3),
        ("wavenet", WaveNetConfig(context=8, levels=3, embedding=4, hidden=8), 8),
    ],
)
def test_windows_are_as_long_as_the_models(run_on: OpenText, rung: str, model: RungConfig, window: int) -> None:
    for documents in ("lines", "whole"):
        data = open_data(run_on(rung=rung, model=model, rows="windows", documents=documents))
        assert isinstance(data.train, Windows) and data.train.inputs_NW.shape[1] == window


def test_windows_of_a_whole_text_are_its_characters_one_by_one(run_on: OpenText) -> None:
    data = open_data(run_on(rung="mlp", model=MLP, rows="windows"))
    assert isinstance(data.train, Windows) and isinstance(data.val, Windows)
    read = data.vocabulary.decode(data.train.targets_N.tolist())
    assert read == TEXT[: int(len(TEXT) * 0.9)]
    assert torch.equal(data.train.inputs_NW[3:, -1], data.train.targets_N[2:-1])
    assert data.train.tokens + data.val.tokens == len(TEXT)


def test_line_ends_of_windows_and_empty_lines_make_no_documents(run_on: OpenText) -> None:
    plain = open_data(run_on(documents="lines", rows="windows", rung="mlp", model=MLP))
    other = "\r\n\r\n" + TEXT.replace("\n", "\r\n\r\n").rstrip("\r\n")
    again = open_data(run_on(other, documents="lines", rows="windows", rung="mlp", model=MLP))
    assert again.vocabulary == plain.vocabulary
    assert again.train.checksum == plain.train.checksum


def test_the_names_are_the_lectures_data(run_on: OpenText) -> None:
    folder = os.environ.get("BPETOK_DATA")
    if not folder or not Path(folder, "names.txt").is_file():
        pytest.skip("BPETOK_DATA is not set to a folder with names.txt")
    config = run_on(rung="mlp", model=MLP, documents="lines", rows="windows")
    data = open_data(dataclasses.replace(config, data=dataclasses.replace(config.data, text=Path("names.txt"))))
    assert data.vocabulary == Alphabet("\nabcdefghijklmnopqrstuvwxyz") and data.separator == 0
    assert data.test is not None
    assert (data.train.tokens, data.val.tokens, data.test.tokens) == (182_625, 22_655, 22_866)


def test_tiny_shakespeare_is_cut_as_in_nanogpt(run_on: OpenText) -> None:
    folder = os.environ.get("BPETOK_DATA")
    if not folder or not Path(folder, "tinyshakespeare.txt").is_file():
        pytest.skip("BPETOK_DATA is not set to a folder with tinyshakespeare.txt")
    config = run_on()
    data = open_data(dataclasses.replace(config, data=TextConfig(text=Path("tinyshakespeare.txt"))))
    assert (data.vocabulary.n_vocab, data.train.tokens, data.val.tokens) == (65, 1_003_854, 111_540)


# ---- what is refused, before the first step --------------------------------------------------------------------------

WIDE = BatchNormMLPConfig(context=2, window=3, embedding=4, hidden=8)
DEEP = WaveNetConfig(context=4, levels=3, embedding=4, hidden=8)
# Of ten lines the lectures' order puts line 0 in validation and line 1 in the test.
LONG = {
    part: "\n".join("y" * 9 if n == place else str(n) for n in range(10))
    for part, place in {"train": 7, "val": 0, "test": 1}.items()
}

BAD: dict[str, tuple[dict[str, object], type[Exception], str]] = {
    "shorter than the context": (
        {"text": "abcdefgh"},
        DataError,
        r"text.txt: training text must be longer than the context of 8, got 7 ids\nhint: give more text, or --set",
    ),
    "as long as the context": (
        {"text": "abcdefghi"},
        DataError,
        r"text.txt: training text must be longer than the context of 8, got 8 ids",
    ),
    "nothing to validate": (
        {"text": "abcdefghijklmno", "held_out": 0.05},
        DataError,
        r"text.txt: validation text must have at least 2 ids, got 1\nhint: give more text, or --set data.held_out",
    ),
    "a long line in training": (
        {"text": LONG["train"], "documents": "lines", "rows": "lines"},
        DataError,
        r"a line must fit the context of 8 with its end, got one of 9 ids\nhint: --set model.context=10",
    ),
    "a long line in validation": (
        {"text": LONG["val"], "documents": "lines", "rows": "lines"},
        DataError,
        r"a line must fit the context of 8 with its end, got one of 9 ids\nhint: --set model.context=10",
    ),
    "a long line in the test": (
        {"text": LONG["test"], "documents": "lines", "rows": "lines"},
        DataError,
        r"a line must fit the context of 8 with its end, got one of 9 ids\nhint: --set model.context=10",
    ),
    "too few lines": (
        {"text": "a\nb\n\n\nc\n", "documents": "lines", "rows": "lines"},
        DataError,
        r"examples: lines must be enough for three parts, got 3 with held_out = 0.1\nhint: 10 lines are enough",
    ),
    "empty": ({"text": ""}, DataError, r"text.txt: text must have characters, got 0 blank ones"),
    "blank": ({"text": "\n \n"}, DataError, r"text.txt: text must have characters, got 3 blank ones"),
    "not UTF-8": (
        {"text": b"abc\xe9def"},
        DataError,
        r"text.txt: text must be UTF-8, got invalid continuation byte at byte 3",
    ),
    "windows for a rung without one": (
        {"rung": "bigram", "model": BigramConfig(context=8), "rows": "windows"},
        ConfigError,
        r"data.rows must be blocks or lines for the rung 'bigram', which has no window, got 'windows'",
    ),
    "a window longer than the context": (
        {"rung": "batchnorm", "model": WIDE, "rows": "windows"},
        ConfigError,
        r"model.context must be at least the window of 3, got 2",
    ),
    "a tree wider than the context": (
        {"rung": "wavenet", "model": DEEP, "rows": "windows", "documents": "lines"},
        ConfigError,
        r"model.context must be at least the window of 8, got 4",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_text_that_does_not_do_is_refused_before_the_run_begins(tmp_path: Path, run_on: OpenText, kind: str) -> None:
    settings, error, message = BAD[kind]
    config = run_on(**settings)
    with pytest.raises(error, match=message):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_text_that_is_not_there_is_refused_with_the_names_of_those_that_always_are(
    tmp_path: Path, run_on: OpenText
) -> None:
    message = r"data.text must be a readable file, got {}: {}\nhint: --set data.text=my.txt, or one of names.txt, tiny"
    for path, reason in ((tmp_path / "none.txt", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigError, match=message.format(path, reason)):
            train(dataclasses.replace(run_on(), data=TextConfig(text=path)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_documents_that_are_lines_need_a_tokenizer_with_an_end_of_text(
    tmp_path: Path, run_on: OpenText, tokenizer_without_end: Path
) -> None:
    message = (
        rf"data.tokenizer must have an end-of-text token for data.documents = lines, got {tokenizer_without_end}\n"
        "hint: bpetok train adds"
    )
    with pytest.raises(ConfigError, match=message):
        train(run_on(tokenizer=tokenizer_without_end, documents="lines", rows="lines"), tmp_path / "run")


def test_a_tokenizer_that_is_not_there_is_refused(tmp_path: Path, run_on: OpenText) -> None:
    with pytest.raises(ConfigError, match=r"data.tokenizer must be a file, got .*none\nhint: --set data.tokenizer=my"):
        train(run_on(tokenizer=tmp_path / "none"), tmp_path / "run")
    message = r"data.tokenizer must be a file, got .*gpt2\nhint: .*: bpetok export -t gpt2 -o gpt2.bpetok"
    with pytest.raises(ConfigError, match=message):
        train(run_on(tokenizer=tmp_path / "gpt2"), tmp_path / "run")


@pytest.mark.parametrize("alphabet", ["characters", "bytes"])
@pytest.mark.parametrize("rows", ["blocks", "windows", "lines"])
def test_every_kind_of_rows_and_alphabet_can_be_batched(run_on: OpenText, alphabet: str, rows: str) -> None:
    model = dataclasses.replace(MLP, context=16)
    data = open_data(run_on(rung="mlp", model=model, documents="lines", rows=rows, alphabet=alphabet))
    inputs_BT, targets_BT = next(Batches(data.train, rows=3, context=16, seed=0))
    assert inputs_BT.shape == ((3, 3) if rows == "windows" else (3, 16))
    assert targets_BT.shape == ((3, 1) if rows == "windows" else (3, 16))
    assert inputs_BT.max() < data.vocabulary.n_vocab
