import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch", reason='needs torch: pip install "bpetok[lm]"')

from lm.config import BatchConfig, Config, OptimizerConfig, RunConfig, ScheduleConfig, TextConfig
from lm.models.gpt2 import GPT2Config
from lm.train import train

Run = Callable[..., object]
TEXT = "The cats sat on mats, and the dogs did not.\n" * 60
ITEMS = [
    {"ctx": "The cats", "endings": ["sat on mats.", "did not.", "and dogs.", "the the."], "label": label}
    for label in (0, 1, 2, 3, 0)
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text, a run on its bytes, and items of HellaSwag."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "text.txt").write_text(TEXT)
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in ITEMS))
    config = Config(
        data=TextConfig(text=folder / "text.txt", alphabet="bytes"),
        rung="gpt2",
        model=GPT2Config(context=16, layers=1, heads=1, width=8),
        batch=BatchConfig(rows=4),
        optimizer=OptimizerConfig(lr=1e-3),
        schedule=ScheduleConfig(warmup_steps=0, min_lr=1e-3),
        run=RunConfig(steps=1, eval_every=1, eval_batches=1, checkpoint_every=1, device="cpu"),
    )
    train(config, folder / "run")
    return folder


def test_eval_prints_the_loss_of_the_whole_validation_text_and_which_it_was(call: Run, runs: Path) -> None:
    done = call("lm", "eval", runs / "run", "--json", "--device", "cpu")
    assert done.code == 0, done.err
    about = done.json
    held_out = TEXT.encode()[int(len(TEXT) * 0.9) :]
    assert about["tokens"] == about["bytes"] == len(held_out) - 1
    assert about["text_sha256"] == hashlib.sha256(held_out[1:]).hexdigest()
    assert about["perplexity"] == pytest.approx(2.718281828459045 ** about["loss"])
    assert {"bits_per_byte", "standard_error", "ids_sha256", "vocabulary", "checkpoint", "device"} <= about.keys()
    told = call("lm", "eval", runs / "run", "--device", "cpu").text
    assert f"loss           {about['loss']:.4f} ± {about['standard_error']:.4f} nats per token\n" in told
    assert f"split          val of {runs / 'text.txt'}\n" in told and about["ids_sha256"] in told


def test_eval_takes_a_text_and_every_setting(call: Run, runs: Path) -> None:
    settings = ("--stride", "8", "--rows", "3", "--device", "cpu", "--dtype", "float32", "--json")
    whole = call("lm", "eval", runs / "run", runs / "text.txt", *settings).json
    assert whole["text_sha256"] == hashlib.sha256(TEXT.encode()).hexdigest()
    assert (whole["split"], whole["stride"], whole["dtype"]) == ("text", 8, "float32")
    part = call("lm", "eval", runs / "run", "--split", "train", "--batches", "2", *settings).json
    assert (part["split"], part["tokens"]) == ("train", 2 * 3 * 8)


def test_eval_asks_hellaswags_items(call: Run, runs: Path) -> None:
    command = ("lm", "eval", runs / "run", "--hellaswag", runs / "items.jsonl", "--device", "cpu")
    about = call(*command, "--json").json
    assert (about["items"], about["of_items"]) == (5, 5)
    assert about["sha256"] == hashlib.sha256((runs / "items.jsonl").read_bytes()).hexdigest()
    # Four equal questions have each ending as the right one once, so one of them is right.
    assert about["acc"] in (0.2, 0.4)
    told = call(*command, "--limit", "4").text
    assert "acc             0.2500 ± 0.2500  by log-likelihood\n" in told
    assert "asked           4 of 5 items, " in told
    assert call(*command, "--limit", "1", "--rows", "1").text.startswith("acc             ")


def test_eval_runs_tasks_of_the_harness(call: Run, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval", reason='needs lm-evaluation-harness: pip install "bpetok[eval]"')
    asked = []

    def run_tasks(model: object, tasks: list[str], *, limit: int | None) -> dict[str, dict[str, float]]:
        asked.append((type(model).__name__, tasks, limit))
        return {"arc_easy": {"acc,none": 0.25}}

    monkeypatch.setattr("lm.harness.run_tasks", run_tasks)
    command = ("lm", "eval", runs / "run", "--tasks", "hellaswag, arc_easy", "--limit", "2", "--device", "cpu")
    done = call(*command, "--json")
    assert done.code == 0 and done.json == {"arc_easy": {"acc,none": 0.25}}
    assert asked == [("HarnessModel", ["hellaswag", "arc_easy"], 2)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--hellaswag", "x", "--tasks", "y"), "--hellaswag and --tasks do not go together"),
        (("--hellaswag", "x", "--stride", "2"), "--hellaswag and --stride do not go together"),
        (("--tasks", "x", "--split", "train"), "--tasks and --split do not go together"),
        (("--limit", "2"), "--limit is for --hellaswag and --tasks"),
        (("--split", "test"), "evaluate: split must be one of train, val, got 'test'"),
        (("--stride", "17"), "evaluate: stride must be at most the context of 16, got 17"),
        (("--rows", "0"), "--rows: must be at least 1, got 0"),
        (("--hellaswag", "items.jsonl", "--rows", "0"), "--rows: must be at least 1, got 0"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_a_usage_error(
    call: Run, runs: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = call("lm", "eval", runs / "run", "--device", "cpu", *arguments, cwd=runs)
    assert (done.code, done.out) == (2, b"") and message in done.err


def test_bad_data_has_the_exit_code_of_bad_data(call: Run, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_text("{}\n")
    done = call("lm", "eval", runs / "run", "--hellaswag", tmp_path / "items.jsonl", "--device", "cpu")
    assert done.code == 3 and "items.jsonl: line 1 must be a JSON object" in done.err
    (tmp_path / "bytes.txt").write_bytes(b"\xff")
    done = call("lm", "eval", runs / "run", tmp_path / "bytes.txt", "--device", "cpu")
    assert done.code == 3 and "text must be UTF-8" in done.err


def test_a_folder_that_is_no_run_is_told(call: Run, tmp_path: Path) -> None:
    done = call("lm", "eval", tmp_path, "--device", "cpu")
    assert done.code == 1 and "a run must have a checkpoint, got none" in done.err
