"""A run's folder: what lies in it, and its log.

run/
  config.toml          every setting; paths within the folder are relative to it, so that it can be moved
  tokenizer.bpetok     a copy of the tokenizer, so that the run can be sampled when the original is gone;
  alphabet.json        in its place where the ids are characters or bytes
  metrics.jsonl        the truth: one JSON object a line, for each logged step and each evaluation
  tensorboard/         the same for TensorBoard, where run.tensorboard wishes it
  checkpoints/
    step_000500/       see checkpoint.py
"""

import errno
import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from bpetok.files import write_atomically
from lm.errors import CheckpointError


@final
@dataclass(frozen=True)
class RunFolder:
    """The folder of one run, by the names of what is in it."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self.path / "config.toml"

    @property
    def tokenizer(self) -> Path:
        """The copy of the tokenizer."""
        return self.path / "tokenizer.bpetok"

    @property
    def alphabet(self) -> Path:
        """The characters, where ids are characters."""
        return self.path / "alphabet.json"

    @property
    def metrics(self) -> Path:
        """The log."""
        return self.path / "metrics.jsonl"

    @property
    def lock(self) -> Path:
        """What a process holds that trains here."""
        return self.path / ".lock"

    @property
    def tensorboard(self) -> Path:
        """The log as TensorBoard reads it."""
        return self.path / "tensorboard"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"


@contextmanager
def held(folder: RunFolder) -> Iterator[None]:
    """Within, no other process trains in a run's folder. The system lets go of it however this process ends.

    Where the system or the file system has no such locks (Windows, some network shares), nothing is held.

    Raises:
        CheckpointError: if another process trains there.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    with folder.lock.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            message = f"{folder.path}: no other process may train there, got process {file.read().strip()}"
            raise CheckpointError(message, hint="wait for it, or end it") from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP):
                raise
        file.truncate(0)
        file.write(f"{os.getpid()} on {platform.node()}")
        file.flush()
        yield


def append_metric(folder: RunFolder, metric: Mapping[str, object]) -> None:
    """Adds one line to the log."""
    with folder.metrics.open("a", encoding="utf-8") as file:
        file.write(json.dumps(metric) + "\n")


def read_metrics(folder: RunFolder) -> list[dict[str, Any]]:
    """The lines of the log, in order: `{"event": "step" | "eval", "step": ..., ...}`.

    A last line without its newline was cut off by a crash and is left out.

    Raises:
        CheckpointError: if there is no log, or a line in it is no JSON object.
    """
    try:
        text = folder.metrics.read_text(encoding="utf-8")
    except FileNotFoundError:
        message = f"{folder.metrics}: the log must be there, got no file"
        raise CheckpointError(message, hint="is this the folder of a run?") from None
    lines = text.split("\n")[:-1]
    metrics = []
    for number, line in enumerate(lines, start=1):
        try:
            metric = json.loads(line)
        except ValueError:
            metric = None
        if not isinstance(metric, dict) or not isinstance(metric.get("step"), int):
            raise CheckpointError(f"{folder.metrics}: line {number} must be a JSON object with a step, got {line!r}")
        metrics.append(metric)
    return metrics


def cut_metrics(folder: RunFolder, step: int) -> None:
    """Takes the lines past `step` off the log, so that a resumed run's log reads like an unbroken run's.

    Where the log is gone, an empty one begins.
    """
    folder.metrics.touch()
    kept = [metric for metric in read_metrics(folder) if metric["step"] <= step]
    write_atomically(folder.metrics, "".join(json.dumps(metric) + "\n" for metric in kept).encode())
