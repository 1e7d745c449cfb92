"""quickstart: the whole road in one call. Text -> tokenizer -> shards -> a small GPT -> samples.

Everything lands in one run folder. Each stage's result appears there whole or not at all, so a call that was stopped
goes on where it was when it is made again.
"""

import dataclasses
import hashlib
import json
import math
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import bpetok
from bpetok import shards
from bpetok.errors import IncompatibleError
from bpetok.files import write_atomically
from bpetok.sources import expand
from bpetok.vocab import END_OF_TEXT
from lm.checkpoint import latest, read_state
from lm.config import Config, config_from_toml, load_config
from lm.errors import require
from lm.estimate import seconds_per_step
from lm.events import Event, TrainResult
from lm.parallel import pick_device
from lm.report import loss_curve
from lm.run import RunFolder
from lm.sample import generate, load_run
from lm.train import train

NAME = "quickstart"
TEXT = "text.json"
VOCAB_SIZE = 4096
MIN_STEPS, MAX_STEPS = 40, 10_000
SAMPLE_TOKENS = 160
PATIENCE, START_SECONDS = 1.5, 20
"""Training ends after so many times the minutes asked for, where the machine got slower than it was measured; the
seconds on top are for what does not depend on the steps."""

# The number of steps and the warmup are set to fit the time.
CONFIG = """
[data]
shards = "shards"
tokenizer = "tokenizer.bpetok"

[model]
rung = "gpt2"
context = 64
layers = 2
heads = 4
width = 128

[batch]
rows = 8

[optimizer]
lr = 3e-3
betas = [0.9, 0.99]

[schedule]
warmup_steps = 0
min_lr = 3e-4

[run]
steps = 1
eval_every = 500
eval_batches = 128
checkpoint_every = 250
"""


@dataclass(frozen=True, kw_only=True)
class StageEvent:
    """A stage began: "tokenizer", "shards", "measure" or "train"; `detail` says more."""

    stage: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class ProgressEvent:
    """So much more of a stage is done, of `total`: bytes read or merges made."""

    stage: str
    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class QuickstartResult:
    """What a quickstart came to.

    Args:
        run: the run's folder.
        text_bytes: bytes of text, both splits.
        train: what training came to.
        finished: whether it came to the end of its steps; if not, it took too long.
        samples: texts drawn from the model.
        curve: the picture of the losses.
        seconds: of this call.
    """

    run: Path
    text_bytes: int
    train: TrainResult
    finished: bool
    samples: list[str]
    curve: Path
    seconds: float


OnEvent = Callable[[Event | StageEvent | ProgressEvent], None]


def quickstart(
    texts: Sequence[Path],
    run_dir: Path,
    *,
    minutes: float = 2.0,
    device: str = "auto",
    seed: int = 1337,
    on_event: OnEvent | None = None,
) -> QuickstartResult:
    """Trains a tokenizer and a small GPT on some text, and samples from it.

    Args:
        texts: text files, `.jsonl` files or folders; none for the sources of Python's standard library.
        run_dir: the run's folder. If a call with the same text was stopped there, this one goes on, with that call's
            settings; if it was done, its results are given again.
        minutes: how long to train the model; the steps that fit are measured before it begins.
        device: "auto", "cpu", "cuda" or "mps".
        seed: of weights, data order and samples.
        on_event: called with each event as it happens.

    Raises:
        ConfigError: `minutes` is not above 0.
        DataError: the text is too small.
        IncompatibleError: the folder holds a run on another text.
        KeyboardInterrupt: after Ctrl-C; call again to go on.
    """
    started = time.perf_counter()
    require(0 < minutes < math.inf, "quickstart: minutes", "above 0", minutes)
    report: OnEvent = on_event or (lambda event: None)
    folder = RunFolder(run_dir)
    files = expand(texts) if texts else standard_library()
    names = _source_names(texts, files)
    _prepare_data(files, names, folder, report)
    config = _config(folder, minutes=minutes, device=device, seed=seed, report=report)
    checkpoint = latest(folder.checkpoints)
    done = read_state(checkpoint).step if checkpoint else 0
    report(
        StageEvent(stage="train", detail=f"{config.run.steps:,} steps" + (f", {done:,} of them done" if done else ""))
    )
    max_seconds = PATIENCE * (minutes * 60 + START_SECONDS)
    result = train(config, folder.path, resume=checkpoint is not None, max_seconds=max_seconds, on_event=report)
    return QuickstartResult(
        run=folder.path,
        text_bytes=sum(split.text_bytes for split in shards.open(folder.path / "shards").splits.values()),
        train=result,
        finished=result.steps == config.run.steps,
        samples=list(_samples(folder.path, pick_device(device), seed)),
        curve=loss_curve(folder.path),
        seconds=time.perf_counter() - started,
    )


def standard_library() -> list[Path]:
    """The source files of Python's standard library, without its tests: text that every machine has."""
    root = Path(sysconfig.get_paths()["stdlib"])
    left_out = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
    return sorted(path for path in root.rglob("*.py") if not left_out & set(path.relative_to(root).parts))


def _source_names(texts: Sequence[Path], files: Sequence[Path]) -> list[str]:
    """What is kept of the text in the run's folder; the digest tells it from any other."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    size = sum(path.stat().st_size for path in files)
    python = f"the standard library of Python {sys.version_info.major}.{sys.version_info.minor}"
    named = [path.name for path in texts] if texts else [python]
    return [*named, f"{len(files)} files, {size} bytes, sha256 of their sha256 {digest.hexdigest()}"]


def _prepare_data(files: Sequence[Path], names: list[str], folder: RunFolder, report: OnEvent) -> None:
    """Tokenizer and shards, unless a call before made them of the same text."""
    shard_folder = folder.path / "shards"
    if (shard_folder / shards.MANIFEST).exists():
        text = folder.path / TEXT
        made_of = json.loads(text.read_bytes()) if text.exists() else ["another"]
        if made_of != names:
            raise IncompatibleError(
                f"{folder.path}: the run's text must be {', '.join(made_of)}, got {', '.join(names)}",
                hint="name another folder with -o, or remove this one",
            )
        return
    if folder.tokenizer.exists() and bpetok.load(folder.tokenizer).name != NAME:
        raise IncompatibleError(
            f"{folder.path}: a quickstart's folder must not hold another run or tokenizer", hint="name another with -o"
        )
    folder.path.mkdir(parents=True, exist_ok=True)
    size = sum(path.stat().st_size for path in files)
    report(StageEvent(stage="tokenizer", detail=f"{VOCAB_SIZE:,} tokens from {size:,} bytes in {len(files):,} files"))
    tokenizer = bpetok.train(
        list(files),
        VOCAB_SIZE,
        special_tokens=[END_OF_TEXT],
        name=NAME,
        progress=_counter({"scan": size, "merge": VOCAB_SIZE - 256}, report),
    )
    tokenizer.save(folder.tokenizer)
    report(StageEvent(stage="shards", detail=f"into {shard_folder}"))
    write_atomically(folder.path / TEXT, json.dumps(names, indent=1).encode())

    def show(now: shards.Progress) -> None:
        report(ProgressEvent(stage="shards", done=now.done, total=size))

    shards.build(files, tokenizer, shard_folder, restart=True, progress=show)


def _counter(totals: dict[str, int], report: OnEvent) -> Callable[[str, int], None]:
    done = dict.fromkeys(totals, 0)

    def advance(stage: str, amount: int) -> None:
        done[stage] += amount
        report(ProgressEvent(stage=stage, done=done[stage], total=totals[stage]))

    return advance


def _config(folder: RunFolder, *, minutes: float, device: str, seed: int, report: OnEvent) -> Config:
    """The run's settings: those of the call that was stopped, else new ones that fit the time."""
    if folder.config.exists():
        config = load_config(folder.config, [f"run.device={device}"])
        detail = f"goes on with the settings that the run began with ({folder.config})"
        report(StageEvent(stage="measure", detail=detail))
        return config
    overrides = [f"run.seed={seed}", f"run.device={device}"]
    config = config_from_toml(CONFIG, folder=folder.path, overrides=overrides)
    report(StageEvent(stage="measure", detail="how long a step takes here"))
    vocab_size = bpetok.load(folder.tokenizer).n_vocab
    seconds = seconds_per_step(config, vocab_size, pick_device(device))
    steps = max(MIN_STEPS, min(MAX_STEPS, round(minutes * 60 / seconds)))
    # A short warmup at this rate leaves the model on a plateau; see benchmarks/LOG.md.
    schedule = dataclasses.replace(config.schedule, warmup_steps=steps // 12)
    return dataclasses.replace(config, schedule=schedule, run=dataclasses.replace(config.run, steps=steps))


def _samples(run_dir: Path, device: torch.device, seed: int) -> Iterator[str]:
    model, tokenizer, _ = load_run(run_dir, device)
    assert isinstance(tokenizer, bpetok.Tokenizer)  # this run has shards
    for i in range(2):
        prompt = [tokenizer.eot_token]
        ids = generate(model, prompt, max_new_tokens=SAMPLE_TOKENS, temperature=0.8, top_k=50, seed=seed + i)
        yield tokenizer.decode([token_id for token_id in ids if token_id != tokenizer.eot_token])
