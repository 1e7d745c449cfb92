"""Runs under torchrun: as many processes as one likes, stopped and started as one likes, make the same run.

This file is also the script that the processes of a shared run execute (`make_all`), one run after the other, since to
start them takes longest. Those that are killed are started as a user starts them, by `torchrun -m lm train`.
"""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from lm.checkpoint import read_state
from lm.config import Config, dump_config, load_config
from lm.errors import LmError
from lm.events import Event, StepEvent
from lm.train import train

SmallRun = Callable[..., Config]
PLACES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
TOLERANCE = 1e-6
STEPS, LONG = 6, 240
TIMES = ("seconds", "tokens_per_second", "mfu")
WEIGHTS, OPTIMIZER = "model.safetensors", "optimizer.safetensors"


# ---- what runs in each process ---------------------------------------------------------------------------------------


def make_all(jobs: Path) -> None:
    """Trains each run of a file of jobs `[config, folder, resume]`; an error is left in the folder, for each rank."""
    torch.set_num_threads(1)
    for config, folder, resume in json.loads(jobs.read_text(encoding="utf-8")):
        try:
            train(load_config(Path(config)), folder, resume=resume)
        except LmError as error:
            Path(f"{folder}.error-{os.environ['RANK']}").write_text(f"{type(error).__name__}: {error}")


# ---- how they are started --------------------------------------------------------------------------------------------


def torchrun(size: int, *arguments: str | Path, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Starts `size` processes by torchrun, which ends with them."""
    environment = {name: value for name, value in os.environ.items() if name not in PLACES}
    environment |= {"GLOO_SOCKET_IFNAME": environment.get("GLOO_SOCKET_IFNAME", "lo"), "OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}", *options]
    return subprocess.Popen(
        [*launcher, *map(str, arguments)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen[str], timeout_s: float = 240) -> str:
    """What it said, when it has ended; it does not outlive the test."""
    try:
        said, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun ends its processes, too
        said, _ = process.communicate(timeout=60)
        raise AssertionError(f"it hangs: {said}") from None
    return said


@dataclasses.dataclass
class Runs:
    """Runs by name, and how to make some more."""

    folder: Path
    configs: dict[str, Config]

    def path(self, name: str) -> Path:
        return self.folder / name

    def make(self, size: int, jobs: Mapping[str, tuple[str, str, str | None]]) -> None:
        """Makes runs `name: (config, parallel, a run to go on with from the checkpoint in its middle, or None)`."""
        lines = []
        for name, (config_name, parallel, begun) in jobs.items():
            config = self.configs[config_name]
            config = dataclasses.replace(config, run=dataclasses.replace(config.run, parallel=parallel))
            file = self.folder / f"{name}.toml"
            file.write_text(dump_config(config), encoding="utf-8")
            if begun:
                shutil.copytree(self.path(begun), self.path(name))
                shutil.rmtree(self.path(name) / "checkpoints" / f"step_{STEPS:06d}")
            lines.append([str(file), str(self.path(name)), bool(begun)])
        if size == 1:
            for file_name, folder, resume in lines:
                train(load_config(Path(file_name)), folder, resume=resume)
            return
        jobs_file = self.folder / f"jobs-{size}-{len(list(self.folder.glob('jobs-*')))}.json"
        jobs_file.write_text(json.dumps(lines), encoding="utf-8")
        process = torchrun(size, __file__, jobs_file)
        said = finish(process)
        assert process.returncode == 0, said


if __name__ == "__main__":
    make_all(Path(sys.argv[1]))
