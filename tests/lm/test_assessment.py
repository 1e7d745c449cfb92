import hashlib
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import bpetok
import bpetok.shards
from bpetok.errors import CorruptionError, DataError, IncompatibleError
from lm.assessment import evaluate_run, fitting_tokens
from lm.batches import in_order
from lm.config import BatchConfig, Config, DataConfig, OptimizerConfig, RunConfig, ScheduleConfig, TextConfig
from lm.errors import ConfigError, NonFiniteError
from lm.evaluate import evaluate
from lm.models.gpt2 import GPT2, GPT2Config
from lm.models.mlp import MLPConfig
from lm.sample import load_run
from lm.train import train

NAMES = ["emma", "olivia", "ava", "isabella", "sophia", "charlotte", "mia", "amelia", "harper", "evelyn", "ab", "cé"]


@pytest.fixture(scope="module")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`make_run("gpt2" or "mlp", data)`: the folder of a run of one step."""
    models = {
        "gpt2": GPT2Config(context=16, layers=1, heads=2, width=16),
        "mlp": MLPConfig(context=16, window=3, embedding=4, hidden=16, init="kaiming"),
    }

    def make(rung: str, data: DataConfig | TextConfig) -> Path:
        folder = tmp_path_factory.mktemp("run")
        config = Config(
            data=data,
            rung=rung,
            model=models[rung],
            batch=BatchConfig(rows=4),
            optimizer=OptimizerConfig(lr=1e-2),
            schedule=ScheduleConfig(warmup_steps=0, min_lr=1e-3),
            run=RunConfig(steps=1, eval_every=1, eval_batches=1, checkpoint_every=1, device="cpu"),
        )
        train(config, folder)
        return folder

    return make


@pytest.fixture(scope="module")
def shards_run(data: DataConfig, make_run: Callable[..., Path]) -> Path:
    """A run on shards."""
    return make_run("gpt2", data)


@pytest.fixture
def names(tmp_path: Path) -> Path:
    path = tmp_path / "names.txt"
    path.write_text("\n".join(NAMES) + "\n")
    return path


# ---- the run's own data ------------------------------------------------------------------------------------------


def test_the_whole_split_is_read_named_and_hashed(shards_run: Path, data: DataConfig) -> None:
    found = evaluate_run(shards_run, device="cpu")
    model, vocabulary, _ = load_run(shards_run, torch.device("cpu"))
    val = bpetok.shards.open(data.shards).val
    ids = val.read(0, val.tokens)
    assert found.split == "val" and found.source == str(data.shards) and found.checkpoint == "step_000001"
    assert found.vocabulary == vocabulary.fingerprint
    assert found.ids_sha256 == hashlib.sha256(ids[1:].astype("<u4").tobytes()).hexdigest()
    text = b"".join(
        bpetok.shards.open(data.shards).text("val", number, vocabulary)
        for number in range(sum(shard.documents for shard in val_shards(data)))
    )
    assert found.text_sha256 == hashlib.sha256(text).hexdigest(), "the documents' own bytes, end of text left out"
    assert (found.evaluation.tokens, found.evaluation.bytes) == (val.tokens - 1, len(text))
    direct = evaluate(model, val, token_bytes=vocabulary.token_byte_lengths(), rows=3, batches=10**6)
    assert found.evaluation.loss == pytest.approx(direct.loss, abs=1e-6)
    assert found.evaluation.standard_error == pytest.approx(direct.standard_error, rel=1e-4)
    assert (found.rows_are, found.context, found.stride, found.device, found.dtype) == (
        "blocks",
        16,
        16,
        "cpu",
        "float32",
    )


def val_shards(data: DataConfig) -> list[bpetok.shards.Shard]:
    return bpetok.shards.open(data.shards).manifest.of_split("val")


def test_every_call_gives_the_same_figures_and_rows_only_round_otherwise(shards_run: Path) -> None:
    one = evaluate_run(shards_run, device="cpu")
    assert evaluate_run(shards_run, device="cpu") == one
    other = evaluate_run(shards_run, rows=1, device="cpu")
    assert (other.ids_sha256, other.text_sha256) == (one.ids_sha256, one.text_sha256)
    assert other.evaluation.loss == pytest.approx(one.evaluation.loss, abs=1e-6)


def test_a_part_of_a_split_has_another_hash_than_the_whole(shards_run: Path) -> None:
    told: list[tuple[int, int]] = []
    part = evaluate_run(
        shards_run, split="train", rows=2, batches=3, device="cpu", on_progress=lambda *so_far: told.append(so_far)
    )
    assert part.evaluation.tokens == 2 * 3 * 16 and part.split == "train"
    assert told == [(32, 96), (64, 96), (96, 96)]
    whole = evaluate_run(shards_run, split="train", device="cpu")
    assert whole.ids_sha256 != part.ids_sha256 and whole.text_sha256 != part.text_sha256


def test_with_a_stride_the_same_ids_are_predicted_and_progress_ends_with_all(shards_run: Path) -> None:
    told: list[tuple[int, int]] = []
    plain = evaluate_run(shards_run, device="cpu")
    sliding = evaluate_run(shards_run, stride=4, device="cpu", on_progress=lambda *so_far: told.append(so_far))
    assert (sliding.ids_sha256, sliding.stride) == (plain.ids_sha256, 4)
    assert sliding.evaluation.loss != plain.evaluation.loss
    assert told[-1] == (plain.evaluation.tokens, plain.evaluation.tokens)
    assert evaluate_run(shards_run, stride=16, device="cpu") == plain


@pytest.mark.parametrize("rows", ["windows", "lines", "blocks"])
def test_a_run_on_lines_is_evaluated_in_its_own_rows_on_each_of_its_splits(
    names: Path, make_run: Callable[..., Path], rows: str
) -> None:
    text = TextConfig(text=names, documents="lines", rows=rows, held_out=0.2)
    run = make_run("mlp" if rows == "windows" else "gpt2", text)
    found = {split: evaluate_run(run, split=split, device="cpu") for split in ("train", "val", "test")}
    assert {one.rows_are for one in found.values()} == {rows}
    assert sum(one.evaluation.bytes for one in found.values()) == len(names.read_bytes())
    assert len({one.text_sha256 for one in found.values()}) == 3
    whole = evaluate_run(run, names, device="cpu")
    assert whole.text_sha256 == hashlib.sha256(names.read_bytes()).hexdigest()
    assert whole.evaluation.tokens == sum(one.evaluation.tokens for one in found.values())


def test_rows_of_windows_and_of_lines_predict_the_same_ids(names: Path, make_run: Callable[..., Path]) -> None:
    windows, lines = (
        evaluate_run(make_run("mlp", TextConfig(text=names, documents="lines", rows=rows, held_out=0.2)), device="cpu")
        for rows in ("windows", "lines")
    )
    assert windows.ids_sha256 == lines.ids_sha256 and windows.text_sha256 == lines.text_sha256


# ---- another text ------------------------------------------------------------------------------------------------


def test_the_hash_of_a_file_of_text_is_the_files_own_with_every_tokenizer(
    shards_run: Path, names: Path, make_run: Callable[..., Path], tmp_path: Path
) -> None:
    digest = hashlib.sha256(names.read_bytes()).hexdigest()
    by_tokens = evaluate_run(shards_run, names, split="train", device="cpu")
    by_bytes = evaluate_run(make_run("gpt2", TextConfig(text=names, alphabet="bytes")), names, device="cpu")
    by_characters = evaluate_run(make_run("gpt2", TextConfig(text=names)), names, rows=1, device="cpu")
    windows = evaluate_run(make_run("mlp", TextConfig(text=names, rows="windows")), names, device="cpu")
    for found in (by_tokens, by_bytes, by_characters, windows):
        assert found.text_sha256 == digest and found.evaluation.bytes == len(names.read_bytes())
        assert (found.split, found.source) == ("text", str(names))
    assert by_tokens.ids_sha256 != by_bytes.ids_sha256 != by_characters.ids_sha256
    assert windows.ids_sha256 == by_characters.ids_sha256


def test_a_text_is_read_behind_the_end_of_text_id(shards_run: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("The")
    model, vocabulary, _ = load_run(shards_run, torch.device("cpu"))
    assert isinstance(vocabulary, bpetok.Tokenizer)
    ids = [vocabulary.eot_token, *vocabulary.encode_ordinary("The")]
    logits_TV = model(torch.tensor([ids[:-1]]))[0].detach().double().log_softmax(dim=1)
    nats = -sum(float(logits_TV[t, id_]) for t, id_ in enumerate(ids[1:]))
    found = evaluate_run(shards_run, tmp_path / "a.txt", device="cpu").evaluation
    assert found.loss * found.tokens == pytest.approx(nats, abs=1e-5)
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / 3, abs=1e-5)


def test_a_folder_of_shards_may_stand_in_the_place_of_the_runs_own(
    shards_run: Path, data: DataConfig, tmp_path: Path
) -> None:
    tokenizer = bpetok.load(data.tokenizer)
    bpetok.shards.write(["Two cats.", "A dog sat on 3 mats."], tokenizer, tmp_path / "shards", val_fraction=0.5)
    found = evaluate_run(shards_run, tmp_path / "shards", device="cpu")
    assert (found.split, found.source) == ("val", str(tmp_path / "shards"))
    assert found.evaluation.tokens == bpetok.shards.open(tmp_path / "shards").val.tokens - 1


# ---- what is refused ---------------------------------------------------------------------------------------------


def test_a_shard_that_was_altered_is_named(shards_run: Path, data: DataConfig, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(data.shards, tmp_path / "shards"))
    file = folder / "val_000000.bin"
    contents = bytearray(file.read_bytes())
    contents[-2] ^= 1
    file.write_bytes(contents)
    with pytest.raises(CorruptionError, match=r"val_000000.bin: sha256 must be [0-9a-f]{64}, got [0-9a-f]{64}"):
        evaluate_run(shards_run, folder, device="cpu")
    evaluate_run(shards_run, folder, split="train", rows=1, batches=1, device="cpu")  # which is whole


def test_shards_of_another_vocabulary_are_refused(
    shards_run: Path, names: Path, make_run: Callable[..., Path], data: DataConfig, tmp_path: Path
) -> None:
    other = bpetok.train("abc", vocab_size=257, special_tokens=["<|endoftext|>"])
    bpetok.shards.write(["abc", "bc"], other, tmp_path / "shards", val_fraction=0.5)
    with pytest.raises(IncompatibleError, match="the shards were made with the vocabulary"):
        evaluate_run(shards_run, tmp_path / "shards", device="cpu")
    with pytest.raises(IncompatibleError, match=r"shards: a run on shards must have a tokenizer, got one whose ids"):
        evaluate_run(make_run("gpt2", TextConfig(text=names)), data.shards, device="cpu")


def test_a_text_that_has_changed_since_the_run_is_refused(names: Path, make_run: Callable[..., Path]) -> None:
    run = make_run("gpt2", TextConfig(text=names))
    names.write_text("xyz\n" * 30)
    with pytest.raises(IncompatibleError, match=r"names.txt: the text must have the vocabulary [0-9a-f]{64} that the"):
        evaluate_run(run, device="cpu")
    with pytest.raises(DataError, match=r"alphabet: character 0 must be one of .*, got 'x'"):
        evaluate_run(run, names, device="cpu")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "test"}, r"evaluate: split must be one of train, val, got 'test'"),
        ({"batches": 0}, r"evaluate: batches must be at least 1, got 0"),
        ({"rows": 0}, r"evaluate: rows must be at least 1, got 0"),
        ({"stride": 17}, r"evaluate: stride must be at most the context of 16, got 17"),
        ({"data": "nowhere.txt"}, r"nowhere.txt: data must be a readable file or a folder of shards, got No such file"),
    ],
)
def test_impossible_arguments_are_refused(shards_run: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate_run(shards_run, device="cpu", **settings)


def test_windows_have_no_stride(names: Path, make_run: Callable[..., Path]) -> None:
    run = make_run("mlp", TextConfig(text=names, rows="windows"))
    with pytest.raises(ConfigError, match=r"evaluate: stride must be left out where rows are windows, got 2"):
        evaluate_run(run, stride=2, device="cpu")
    with pytest.raises(ConfigError, match=r"evaluate: split must be one of train, val, got 'test'"):
        evaluate_run(run, split="test", device="cpu")


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"\xff\xfe", r"a.txt: text must be UTF-8, got invalid start byte at byte 0"),
        (b" \n", r"a.txt: text must have characters, got 2 blank ones"),
        (b"", r"a.txt: text must have characters, got 0 blank ones"),
    ],
)
def test_a_file_that_is_no_text_is_refused(shards_run: Path, tmp_path: Path, contents: bytes, message: str) -> None:
    (tmp_path / "a.txt").write_bytes(contents)
    with pytest.raises(DataError, match=message):
        evaluate_run(shards_run, tmp_path / "a.txt", device="cpu")


def test_a_run_that_has_diverged_has_no_loss(shards_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, vocabulary, config = load_run(shards_run, torch.device("cpu"))
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    monkeypatch.setattr("lm.assessment.load_run", lambda run, device, best: (model, vocabulary, config))
    with pytest.raises(NonFiniteError, match=r"evaluate: loss must be finite, got nan\nhint: the run has diverged"):
        evaluate_run(shards_run, device="cpu")


# ---- how much goes at once ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("context", "vocab", "tokens"),
    [(1024, 50_257, 1335), (64, 65, 32_768), (2048, 50_257, 2048)],
    ids=["logits bound it", "ids bound it", "one row at least"],
)
def test_on_a_cpu_no_more_ids_go_at_once_than_fit_easily(context: int, vocab: int, tokens: int) -> None:
    model = GPT2(GPT2Config(context=context, layers=1, heads=1, width=2), vocab)
    assert fitting_tokens(model, 64) == tokens


def test_ids_of_the_last_rows_are_those_of_the_split(shards_run: Path, data: DataConfig) -> None:
    # Rows that a batch lacks have no target, and so no part in any hash.
    val = bpetok.shards.open(data.shards).val
    batches = list(in_order(val, rows=5, context=16, batches=10**6))
    ids = np.concatenate([targets_BT[targets_BT >= 0].numpy() for _, targets_BT in batches])
    expected = hashlib.sha256(ids.astype("<u4").tobytes()).hexdigest()
    assert evaluate_run(shards_run, rows=5, device="cpu").ids_sha256 == expected
