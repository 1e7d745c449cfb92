"""A run that is stopped anywhere and goes on ends like one that was never stopped, bit for bit.

In this process an exception that no code catches stands for a SIGKILL: nothing is written after it. It comes at one of
the moments that `Moments` counts: between two micro batches, before an update, in an evaluation, in the middle of a
line of the log, before any change of a file in the run's folder, in the middle of a file of tensors. At the same
moments a signal may come, which lets the step be finished. The slow tests stop real processes at random times.
"""

import collections
import contextlib
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch

import lm.train
from lm.checkpoint import latest, read_state
from lm.config import Config, dump_config
from lm.errors import Preempted
from lm.loss import Objective
from lm.run import RunFolder
from lm.train import train

SmallRun = Callable[..., Config]

STEPS = 10
CASES = [(rung, kind, order) for rung in ("gpt2", "modern") for kind in ("adamw", "muon", "sgd") for order in
         ("epochs", "draws")]  # fmt: skip
KINDS = ("micro batch", "update", "evaluation", "log", "file", "tensors")
STOPS = [(kind, "SIGKILL") for kind in KINDS] + [
    (kind, how) for how in ("SIGTERM", "SIGINT") for kind in ("micro batch", "evaluation")
]
TRIALS = 24
TIMES = ("seconds", "tokens_per_second", "mfu")


class Killed(BaseException):
    """Stands for the end of the process."""


# ---- the moments of a run --------------------------------------------------------------------------------------------


@dataclass
class Moments:
    """Counts the moments of each kind; at number `at` of `kind` the process gets a signal, SIGKILL as `Killed`."""

    kind: str = ""
    at: int = -1
    how: str = "SIGKILL"
    seen: collections.Counter[str] = field(default_factory=collections.Counter)
    reached: bool = False
    updates_before: int = 0
    thread: int = field(default_factory=threading.get_ident)

    def come(self, kind: str, half: Callable[[], object] | None = None) -> None:
        """One more moment; what it is in the middle of has been done by `half` when the process is killed."""
        self.seen[kind] += 1
        if self.reached or kind != self.kind or self.seen[kind] != self.at + 1:
            return
        self.reached, self.updates_before = True, self.seen["update"]
        if self.how != "SIGKILL":
            signal.raise_signal(signal.Signals[self.how])
            return
        if half:
            half()
        raise Killed(f"{kind} {self.at}")


_watching: Moments | None = None


def _on_audit(event: str, arguments: tuple[Any, ...]) -> None:
    """Sees what changes a file, before it is done. Python keeps a hook for ever, so it does nothing by itself."""
    if _watching is None or threading.get_ident() != _watching.thread:
        return
    if event == "open":
        _, mode, flags = arguments
        writes = any(letter in mode for letter in "wax+") if mode else flags & (os.O_WRONLY | os.O_RDWR)
        if not writes:
            return
    elif event not in ("os.mkdir", "os.rename", "os.remove", "os.rmdir"):
        return
    _watching.come("file")


@pytest.fixture(scope="module", autouse=True)
def _hook() -> None:
    sys.addaudithook(_on_audit)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Callable[[Moments], contextlib.AbstractContextManager[Moments]]:
    """`with watched(moments)`: a run within goes through these moments."""
    # To walk all that torch has made takes most of the time of so small a run, and changes nothing.
    quiet = SimpleNamespace(isenabled=lambda: True, **dict.fromkeys(NAMES_OF_GC, lambda: None))
    monkeypatch.setattr(lm.train, "gc", quiet)
    monkeypatch.setattr(lm.train, "SAMPLE_IDS", 4)
    monkeypatch.setattr(os, "fsync", lambda file: None)  # what a killed process wrote is not lost, only slow to flush

    @contextlib.contextmanager
    def watch(moments: Moments) -> Iterator[Moments]:
        global _watching
        with pytest.MonkeyPatch.context() as patch:
            _go_through(moments, patch)
            _watching = moments
            try:
                yield moments
            finally:
                _watching = None

    return watch


NAMES_OF_GC = ("collect", "freeze", "disable", "unfreeze", "enable")


def _go_through(moments: Moments, patch: pytest.MonkeyPatch) -> None:
    """Lets the loop come by the moments that are no changes of files."""
    real_forward, real_append, real_save = Objective.forward, lm.train.append_metric, safetensors.torch.save_file

    def before(kind: str, name: str) -> None:
        real = getattr(lm.train, name)

        def wrapped(*arguments: Any, **settings: Any) -> Any:
            moments.come(kind)
            return real(*arguments, **settings)

        patch.setattr(lm.train, name, wrapped)

    def forward(self: Objective, *arguments: Any, **settings: Any) -> torch.Tensor:
        if settings.get("each"):
            moments.come("evaluation")
        return real_forward(self, *arguments, **settings)

    def append(folder: RunFolder, line: dict[str, object]) -> None:
        def half() -> None:
            text = json.dumps(line)
            with folder.metrics.open("a", encoding="utf-8") as file:
                file.write(text[: len(text) // 2])

        moments.come("log", half)
        real_append(folder, line)

    def save_file(tensors: dict[str, torch.Tensor], path: Path) -> None:
        def half() -> None:
            real_save(tensors, path)
            os.truncate(path, path.stat().st_size // 2)

        moments.come("tensors", half)
        real_save(tensors, path)

    before("micro batch", "to_device")
    before("update", "clip_gradients")
    patch.setattr(Objective, "forward", forward)
    patch.setattr(lm.train, "append_metric", append)
    patch.setattr(safetensors.torch, "save_file", save_file)


# ---- what is compared ------------------------------------------------------------------------------------------------


def log_without_times(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def require_the_same(broken: Path, unbroken: Path, *, signals: int = 0) -> None:
    """The checkpoints are the same to the byte, but for one more for each signal; and so is the log."""
    assert log_without_times(broken) == log_without_times(unbroken)
    names = sorted(path.name for path in (unbroken / "checkpoints").iterdir())
    assert names and len(list((broken / "checkpoints").iterdir())) <= len(names) + signals
    for name in names:
        mine, wanted = broken / "checkpoints" / name, unbroken / "checkpoints" / name
        assert read_state(mine) == read_state(wanted)
        for file in ("model.safetensors", "optimizer.safetensors"):
            assert (mine / file).read_bytes() == (wanted / file).read_bytes(), f"{name}/{file}"
    assert not list((broken / "checkpoints").glob(".*")), "what a killed save left behind is gone"


def go_on(config: Config, folder: Path, moments: Moments) -> bool:
    """One call of `lm train --resume auto`; whether it came to the end."""
    torch.manual_seed(moments.at)  # another process would have other random numbers, too
    try:
        train(config, folder, resume=latest(folder / "checkpoints") is not None)
    except (Killed, Preempted, KeyboardInterrupt):
        assert moments.reached
        return False
    return True


def make_config(small_run: SmallRun, case: tuple[str, str, str]) -> Config:
    """Two and a half epochs, whose edges lie within steps, with everything that happens between steps."""
    rung, kind, order = case
    every = {"eval_every": 2, "checkpoint_every": 4, "sample_every": 5, "diagnose_every": 5, "keep_checkpoints": 0}
    config = small_run(rung, steps=STEPS, rows=8, accumulation=4, keep_best=kind != "sgd", **every)
    batch = dataclasses.replace(config.batch, order=order, documents="joined" if order == "draws" else "apart")
    optimizer = dataclasses.replace(config.optimizer, kind=kind, lr=0.1)  # too high for some, whose best comes early
    return dataclasses.replace(config, batch=batch, optimizer=optimizer)


@dataclass
class Unbroken:
    """Runs that nobody stops, made when they are asked for."""

    folder: Path
    made: dict[tuple[str, str, str], Moments] = field(default_factory=dict)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Unbroken:
    return Unbroken(tmp_path_factory.mktemp("unbroken"))


Watched = Callable[[Moments], contextlib.AbstractContextManager[Moments]]


def never_stopped(unbroken: Unbroken, config: Config, case: tuple[str, str, str], watched: Watched) -> Path:
    folder = unbroken.folder / "-".join(case)
    if case not in unbroken.made:
        with watched(Moments()) as moments:
            train(config, folder)
        unbroken.made[case] = moments
    return folder


# ---- stops at random moments -----------------------------------------------------------------------------------------


def try_one(
    number: int, small_run: SmallRun, unbroken: Unbroken, watched: Watched, folder: Path
) -> list[tuple[str, str]]:
    """Stops a run up to twice where the number says, and lets it go on; which stops it has met."""
    drawn = random.Random(number)
    case = CASES[number % len(CASES)]
    config = make_config(small_run, case)
    wanted = never_stopped(unbroken, config, case, watched)
    first = STOPS[(number + number // len(STOPS)) % len(STOPS)]
    met = []
    for kind, how in (first, drawn.choice(STOPS)):
        at = drawn.randrange(max(1, unbroken.made[case].seen[kind] // (2 if met else 1)))
        with watched(Moments(kind, at, how)) as moments:
            done = go_on(config, folder, moments)
        if moments.reached:
            met.append((kind, how))
            assert moments.seen["update"] - moments.updates_before <= 1, "at most the step is finished"
        if done:
            break
    go_on(config, folder, Moments())
    require_the_same(folder, wanted, signals=sum(how != "SIGKILL" for _, how in met))
    return met


@pytest.mark.parametrize("number", range(TRIALS))
def test_a_run_that_is_stopped_at_a_random_moment_ends_like_one_that_never_was(
    tmp_path: Path, small_run: SmallRun, unbroken: Unbroken, watched: Watched, number: int
) -> None:
    assert try_one(number, small_run, unbroken, watched, tmp_path)


@pytest.mark.slow
def test_it_does_so_a_hundred_times(tmp_path: Path, small_run: SmallRun, unbroken: Unbroken, watched: Watched) -> None:
    met: collections.Counter[tuple[str, str]] = collections.Counter()
    for number in range(TRIALS, TRIALS + 100):
        met.update(try_one(number, small_run, unbroken, watched, tmp_path / f"{number}"))
    for (kind, how), times in sorted(met.items()):
        print(f"{how} in {kind}: {times} times")
    assert met.keys() == set(STOPS)
    assert sum(met.values()) > 150


def test_the_trials_would_show_what_is_not_saved(small_run: SmallRun, unbroken: Unbroken, watched: Watched) -> None:
    """The runs have all that a resume could lose: else the tests above show nothing."""
    folders = [never_stopped(unbroken, make_config(small_run, case), case, watched) for case in CASES[:3]]
    states = {path.name: read_state(path) for path in (folders[0] / "checkpoints").iterdir()}
    assert set(states) > {"step_000004", "step_000008", "step_000010"}, "the best are saved beside those that are due"
    assert states["step_000010"].tokens > 2 * 1015, "more than two epochs of the split"
    log = log_without_times(folders[0])
    assert {line["event"] for line in log} == {"step", "eval", "sample", "diagnostics"}
    losses = [line["loss"] for line in log if line["event"] == "eval"]
    assert losses != sorted(losses, reverse=True), "not every evaluation is the best so far"
    weights = [safetensors.torch.load_file(folder / LAST / "model.safetensors") for folder in folders]
    assert not any(torch.equal(weights[0][name], weights[1][name]) for name in weights[0]), "the order counts"
    assert not any(torch.equal(weights[0][name], weights[2][name]) for name in weights[0]), "so does the optimizer"


LAST = Path("checkpoints", f"step_{STEPS:06d}")


# ---- killed in every operation ---------------------------------------------------------------------------------------


def count_around(name: str, moments: Moments, patch: pytest.MonkeyPatch) -> list[int]:
    """The number of changes of files so far, before and after each call of a function of the loop."""
    counts: list[int] = []
    real = getattr(lm.train, name)

    def wrapped(*arguments: Any, **settings: Any) -> Any:
        counts.append(moments.seen["file"])
        result = real(*arguments, **settings)
        counts.append(moments.seen["file"])
        return result

    patch.setattr(lm.train, name, wrapped)
    return counts


def test_a_save_may_be_killed_before_each_of_its_operations(
    tmp_path: Path, small_run: SmallRun, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_run(steps=3, rows=2, checkpoint_every=1, keep_checkpoints=1)
    with watched(Moments()) as moments, monkeypatch.context() as patch:
        counts = count_around("save", moments, patch)
        train(config, tmp_path / "unbroken")
    first, end = counts[2:4]  # of the second save, which takes the first checkpoint away
    assert end - first >= 10, "a folder, three files and their flushes, two folders less, a rename"
    left = set()
    for at in range(first, end):
        broken = tmp_path / f"{at}"
        with watched(Moments("file", at)) as moments:
            assert not go_on(config, broken, moments)
        newest = latest(broken / "checkpoints")
        assert newest is not None
        left.add(read_state(newest).step)
        with watched(Moments()) as moments:
            assert go_on(config, broken, moments)
        require_the_same(broken, tmp_path / "unbroken")
        assert [path.name for path in (broken / "checkpoints").iterdir()] == ["step_000003"]
    assert left == {1, 2}, "it was killed before and after the new one was there"


def test_a_start_may_be_killed_before_each_of_its_operations(
    tmp_path: Path, small_run: SmallRun, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_run(steps=2, rows=2, checkpoint_every=1)
    with watched(Moments()) as moments, monkeypatch.context() as patch:
        counts = count_around("open_run", moments, patch)
        train(config, tmp_path / "unbroken")
    for at in range(counts[1]):
        broken = tmp_path / f"new {at}"
        with watched(Moments("file", at)) as moments:
            assert not go_on(config, broken, moments)
        assert latest(broken / "checkpoints") is None
        with watched(Moments()) as moments:
            assert go_on(config, broken, moments)
        require_the_same(broken, tmp_path / "unbroken")
    half = tmp_path / "half"
    with watched(Moments("log", 2)) as moments:  # in the line of the second step
        assert not go_on(config, half, moments)
    with watched(Moments()) as moments, monkeypatch.context() as patch:
        shutil.copytree(half, tmp_path / "copy")
        counts = count_around("open_run", moments, patch)
        assert go_on(config, tmp_path / "copy", moments)
    assert counts[1] >= 6, "the log is cut, the tokenizer and the settings are written"
    for at in range(counts[1]):
        with watched(Moments("file", at)) as moments:
            assert not go_on(config, half, moments)
    with watched(Moments()) as moments:
        assert go_on(config, half, moments)
    require_the_same(half, tmp_path / "unbroken")


def test_what_a_killed_save_left_behind_goes_with_the_next_one(
    tmp_path: Path, small_run: SmallRun, watched: Watched
) -> None:
    """A save that was asked for by a signal comes at a step that no other run saves at."""
    config = small_run(steps=4, rows=2, checkpoint_every=2)
    with watched(Moments("tensors", 0)) as moments, pytest.raises(Killed):

        def stop(event: object) -> None:
            if getattr(event, "step", 0) == 1:
                signal.raise_signal(signal.SIGTERM)

        train(config, tmp_path, on_event=stop)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [".step_000001.tmp"]
    with watched(Moments()) as moments:
        assert go_on(config, tmp_path, moments)
    assert not list((tmp_path / "checkpoints").glob(".*"))


# ---- real processes --------------------------------------------------------------------------------------------------


def started(config: Path, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "lm", "train", str(config), "-o", str(folder), "--resume", "auto", "-q"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def wait_for(process: subprocess.Popen[str], ready: Callable[[], bool]) -> None:
    """Returns when it is ready, or the process has ended."""
    deadline = time.monotonic() + 120
    while process.poll() is None and not ready():
        assert time.monotonic() < deadline, "no progress"
        time.sleep(0.002)


def lines_of(log: Path) -> int:
    return log.read_bytes().count(b"\n") if log.exists() else 0


def changed_at(log: Path) -> int:
    return log.stat().st_mtime_ns if log.exists() else 0


def stop_at_work(process: subprocess.Popen[str], kind: signal.Signals, log: Path, since: int, lines: int) -> None:
    """Sends the signal when the log has been cut, and has grown by some lines since."""
    wait_for(process, lambda: changed_at(log) != since)
    before = lines_of(log)
    wait_for(process, lambda: lines_of(log) >= before + lines)
    process.send_signal(kind)


WAYS = {signal.SIGKILL: -9, signal.SIGTERM: 75, signal.SIGINT: 130}


@pytest.mark.slow
@pytest.mark.parametrize("case", [("gpt2", "adamw", "epochs"), ("modern", "muon", "draws")])
def test_a_process_that_is_stopped_at_10_random_times_ends_like_one_that_never_was(
    tmp_path: Path, small_run: SmallRun, case: tuple[str, str, str]
) -> None:
    """Real signals, while it works and, each fifth time, while it starts; the command is always the same."""
    config = make_config(small_run, case)
    often = {"steps": 700, "eval_every": 25, "checkpoint_every": 17, "sample_every": 200, "diagnose_every": 100}
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, keep_checkpoints=3, **often))
    file = tmp_path / "config.toml"
    file.write_text(dump_config(config), encoding="utf-8")
    whole = started(file, tmp_path / "unbroken")
    _, error = whole.communicate(timeout=300)
    assert whole.returncode == 0, error
    folder, drawn, met = tmp_path / "broken", random.Random(case[0]), []
    log = folder / "metrics.jsonl"
    for stop in range(10):
        kind, since = list(WAYS)[stop % 3], changed_at(log)
        process = started(file, folder)
        if stop % 5 == 4:
            kind = signal.SIGKILL
            time.sleep(drawn.uniform(0, 5))
            process.send_signal(kind)
        else:
            stop_at_work(process, kind, log, since, drawn.randrange(1, 50))
        _, error = process.communicate(timeout=120)
        assert process.returncode == WAYS[kind], (kind, error)
        newest = latest(folder / "checkpoints")
        met.append((kind.name, read_state(newest).step if newest else 0))
    last = started(file, folder)
    _, error = last.communicate(timeout=300)
    assert last.returncode == 0, error
    print(case, met)
    assert len({step for _, step in met}) > 5, met
    assert log_without_times(folder) == log_without_times(tmp_path / "unbroken")
    for name in ("model.safetensors", "optimizer.safetensors"):
        mine, wanted = (run / "checkpoints" / "step_000700" / name for run in (folder, tmp_path / "unbroken"))
        assert mine.read_bytes() == wanted.read_bytes()
