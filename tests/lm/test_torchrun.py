"""Runs under torchrun: as many processes as one likes, stopped and started as one likes, make the same run.

This file is also the script that the processes of a shared run execute (`make_all`), one run after the other, since to
start them takes longest. Those that are killed are started as a user starts them, by `torchrun -m lm train`.
"""

import contextlib
import dataclasses
import faulthandler
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest
import safetensors.torch
import torch

from lm.checkpoint import read_state
from lm.config import (
    BatchConfig,
    Config,
    DataConfig,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
    dump_config,
    load_config,
)
from lm.errors import LmError
from lm.models.batchnorm import BatchNormMLPConfig
from lm.models.gpt2 import GPT2Config
from lm.models.modern import ModernConfig
from lm.train import train

PLACES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
TOLERANCE = 1e-6
STEPS, LONG = 6, 200
LAST = Path("checkpoints", f"step_{STEPS:06d}")
TIMES = ("seconds", "tokens_per_second", "mfu")
WEIGHTS, OPTIMIZER = "model.safetensors", "optimizer.safetensors"


# ---- what runs in each process ---------------------------------------------------------------------------------------


def make_all(jobs: Path) -> None:
    """Makes each run of a file of jobs, in a process of its own; torch is imported once, here."""
    import torch._dynamo
    import torch.distributed.fsdp  # noqa: F401

    for job in json.loads(jobs.read_text(encoding="utf-8")):
        child = os.fork()
        if child == 0:
            make_and_exit(*job)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code != 0:
            sys.exit(f"rank {os.environ['RANK']}: {job} ended with {code}")


def make_and_exit(config: str, folder: str, begun: str | None, port: int) -> NoReturn:
    """One run; an error is left beside its folder, for each rank."""
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(60, exit=True)
    # torchrun's own store still has the addresses of the run before, where nobody answers any more.
    os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "False", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        make_one(Path(config), Path(folder), begun, is_main=os.environ["RANK"] == "0")
    except (LmError, RuntimeError) as error:
        Path(f"{folder}.error-{os.environ['RANK']}").write_text(f"{type(error).__name__}: {error}")
    os._exit(0)


def make_one(config: Path, folder: Path, begun: str | None, *, is_main: bool = True) -> None:
    """Trains from the beginning, or from the checkpoint that a run has in its middle."""
    if begun and is_main:  # the others cannot meet before main has done it
        shutil.copytree(begun, folder)
        shutil.rmtree(folder / LAST)
    train(load_config(config), folder, resume=begun is not None)


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


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


@dataclasses.dataclass
class Runs:
    """Runs by name, and how to make some more."""

    folder: Path
    configs: dict[str, Config]

    def path(self, name: str) -> Path:
        return self.folder / name

    def make(self, size: int, runs: Mapping[str, tuple[str, str, str | None]]) -> None:
        """Makes runs `name: (config, parallel, a run to go on with from the checkpoint in its middle, or None)`."""
        lines = []
        for name, (config_name, parallel, begun) in runs.items():
            config = self.configs[config_name]
            config = dataclasses.replace(config, run=dataclasses.replace(config.run, parallel=parallel))
            file = self.folder / f"{name}.toml"
            file.write_text(dump_config(config), encoding="utf-8")
            lines.append((str(file), str(self.path(name)), str(self.path(begun)) if begun else None))
        if size == 1:
            for config_file, folder, begun in lines:
                make_one(Path(config_file), Path(folder), begun)
            return
        jobs_file = self.folder / f"jobs-{len(list(self.folder.glob('jobs-*')))}.json"
        jobs = [(*line, port) for line, port in zip(lines, free_ports(len(lines)), strict=True)]
        jobs_file.write_text(json.dumps(jobs), encoding="utf-8")
        process = torchrun(size, __file__, jobs_file)
        said = finish(process)
        assert process.returncode == 0, said

    def log(self, name: str) -> list[dict[str, Any]]:
        """Its log without the times."""
        lines = [json.loads(line) for line in (self.path(name) / "metrics.jsonl").read_text().splitlines()]
        return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]

    def errors(self, name: str) -> list[str]:
        """What each process has raised."""
        return [path.read_text() for path in sorted(self.folder.glob(f"{name}.error-*"))]


# ---- the runs --------------------------------------------------------------------------------------------------------


def make_configs(data: DataConfig) -> dict[str, Config]:
    """Two runs with everything that could depend on the number of processes, a long one, and three that are refused."""
    sizes = {"context": 8, "layers": 2, "heads": 2, "width": 16}
    every = {"eval_every": 3, "eval_batches": 5, "checkpoint_every": 3, "sample_every": STEPS, "keep_checkpoints": 0}
    gpt2 = Config(
        data=data,
        rung="gpt2",
        model=GPT2Config(**sizes, dropout=0.1),
        batch=BatchConfig(rows=2, accumulation=8, documents="apart"),
        # The gradient of a key's bias is 0 but for rounding, which Adam would blow up to a step with a tiny eps.
        optimizer=OptimizerConfig(lr=1e-2, eps=1e-5),
        schedule=ScheduleConfig(warmup_steps=2, min_lr=1e-3),
        run=RunConfig(steps=STEPS, device="cpu", **every),
    )
    muon = dataclasses.replace(
        gpt2,
        rung="modern",
        model=ModernConfig(**sizes),
        batch=BatchConfig(rows=2, accumulation=8, order="draws"),
        optimizer=OptimizerConfig(kind="muon", lr=1e-2, eps=1e-5),
    )
    long = {"steps": LONG, "eval_every": 100, "checkpoint_every": 20, "sample_every": 0, "keep_checkpoints": 2}
    return {
        "gpt2": gpt2,
        "muon": muon,
        "long": dataclasses.replace(gpt2, run=dataclasses.replace(gpt2.run, **long)),
        "undivided": dataclasses.replace(gpt2, batch=BatchConfig(rows=2, accumulation=6)),
        "diagnosed": dataclasses.replace(gpt2, run=dataclasses.replace(gpt2.run, diagnose_every=2)),
        "batchnorm": dataclasses.replace(
            gpt2,
            rung="batchnorm",
            model=BatchNormMLPConfig(context=8, window=3, embedding=4, hidden=16),
            batch=BatchConfig(rows=2, accumulation=8),
        ),
    }


@pytest.fixture(scope="module")
def runs(data: DataConfig, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """All runs, by the name `CONFIG-PARALLEL-PROCESSES`, and `…-from-…` for those that go on with another one."""
    made = Runs(tmp_path_factory.mktemp("torchrun"), make_configs(data))
    (made.folder / "taken").mkdir()
    (made.folder / "taken" / "config.toml").write_text(dump_config(made.configs["muon"]), encoding="utf-8")
    made.make(1, {f"{name}-ddp-1": (name, "ddp", None) for name in ("gpt2", "muon")})
    made.make(
        4,
        {
            **{f"{name}-{kind}-4": (name, kind, None) for name in ("gpt2", "muon") for kind in ("ddp", "fsdp")},
            "gpt2-ddp-4-from-ddp-4": ("gpt2", "ddp", "gpt2-ddp-4"),
            "muon-fsdp-4-from-fsdp-4": ("muon", "fsdp", "muon-fsdp-4"),
            "undivided": ("undivided", "ddp", None),
            "diagnosed": ("diagnosed", "ddp", None),
            "batchnorm": ("batchnorm", "ddp", None),
        },
    )
    made.make(
        2,
        {
            "gpt2-ddp-2": ("gpt2", "ddp", None),
            "gpt2-fsdp-2": ("gpt2", "fsdp", None),
            "muon-fsdp-2": ("muon", "fsdp", None),
            "gpt2-fsdp-2-from-one": ("gpt2", "fsdp", "gpt2-ddp-1"),
            "gpt2-fsdp-2-from-ddp-4": ("gpt2", "fsdp", "gpt2-ddp-4"),
            "muon-ddp-2-from-fsdp-4": ("muon", "ddp", "muon-fsdp-4"),
            "taken": ("gpt2", "ddp", None),
        },
    )
    made.make(
        1,
        {
            "gpt2-ddp-1-from-ddp-4": ("gpt2", "ddp", "gpt2-ddp-4"),
            "gpt2-ddp-1-from-fsdp-2": ("gpt2", "ddp", "gpt2-fsdp-2"),
            "muon-ddp-1-from-fsdp-4": ("muon", "ddp", "muon-fsdp-4"),
        },
    )
    return made


SHARED = [f"{name}-{kind}-4" for name in ("gpt2", "muon") for kind in ("ddp", "fsdp")]
SHARED += ["gpt2-ddp-2", "gpt2-fsdp-2", "muon-fsdp-2"]
WENT_ON = [
    "gpt2-fsdp-2-from-one",
    "gpt2-fsdp-2-from-ddp-4",
    "muon-ddp-2-from-fsdp-4",
    "gpt2-ddp-1-from-ddp-4",
    "gpt2-ddp-1-from-fsdp-2",
    "muon-ddp-1-from-fsdp-4",
]


def largest_differences(runs: Runs, name: str, other: str) -> dict[str, float]:
    """How far the figures of two runs lie apart; what is no figure must be equal."""
    far: dict[str, float] = {}
    mine, wanted = runs.log(name), runs.log(other)
    for line, expected in zip(mine, wanted, strict=True):
        for key in expected:
            what = f"{expected['event']} {key}"
            if isinstance(expected[key], float):
                far[what] = max(far.get(what, 0.0), abs(line[key] - expected[key]))
            else:
                assert line[key] == expected[key], what
    for file in (WEIGHTS, OPTIMIZER):
        tensors, others = (safetensors.torch.load_file(runs.path(run) / LAST / file) for run in (name, other))
        assert tensors.keys() == others.keys()
        for key in tensors:
            assert (tensors[key].dtype, tensors[key].shape) == (others[key].dtype, others[key].shape)
            far[file] = max(far.get(file, 0.0), (tensors[key] - others[key]).abs().max().item())
    return far


@pytest.mark.parametrize("name", [*SHARED, *WENT_ON])
def test_a_shared_run_is_that_of_one_process(runs: Runs, name: str) -> None:
    """Each step's loss and gradient norm, the evaluations, the sample, the weights and the optimizer's tensors."""
    assert not runs.errors(name)
    one = name.partition("-")[0] + "-ddp-1"
    far = largest_differences(runs, name, one)
    print(name, {what: f"{value:.1e}" for what, value in far.items()})
    assert {"step loss", "step grad_norm", "eval loss", "eval bits_per_byte", WEIGHTS, OPTIMIZER} <= far.keys()
    assert all(value <= TOLERANCE for value in far.values()), far
    states = [dataclasses.asdict(read_state(runs.path(run) / LAST)) for run in (name, one)]
    for state in states:
        state["config"] = state["config"].replace('parallel = "fsdp"', 'parallel = "ddp"')
        assert abs(state.pop("val_loss") - runs.log(one)[-2]["loss"]) <= TOLERANCE
    assert states[0] == states[1], "the cursor counts the rows of all processes"


@pytest.mark.parametrize("name", SHARED)
def test_the_files_of_a_shared_run_are_laid_out_as_those_of_one_process(runs: Runs, name: str) -> None:
    for file in (WEIGHTS, OPTIMIZER):
        headers = []
        for run in (name, name.partition("-")[0] + "-ddp-1"):
            data = (runs.path(run) / LAST / file).read_bytes()
            length = int.from_bytes(data[:8], "little")
            headers.append((len(data), json.loads(data[8 : 8 + length])))
        assert headers[0] == headers[1]
    names = [sorted(path.name for path in (runs.path(run) / "checkpoints").rglob("*")) for run in (name, "gpt2-ddp-1")]
    assert names[0] == names[1], "no parts are left"


@pytest.mark.parametrize("name", ["gpt2-ddp-4-from-ddp-4", "muon-fsdp-4-from-fsdp-4"])
def test_a_shared_run_goes_on_to_the_very_bits(runs: Runs, name: str) -> None:
    far = largest_differences(runs, name, name.partition("-from")[0])
    assert not any(far.values()), far


def test_the_runs_would_show_a_wrong_share(runs: Runs) -> None:
    """The steps are large, are clipped, and differ from run to run: else the tests above show nothing."""
    for name in ("gpt2", "muon"):
        norms = [line["grad_norm"] for line in runs.log(f"{name}-ddp-1") if line["event"] == "step"]
        assert len(norms) == STEPS and max(norms) > 1
        tensors = [
            safetensors.torch.load_file(runs.path(f"{name}-ddp-1") / "checkpoints" / step / WEIGHTS)
            for step in ("step_000003", "step_000006")
        ]
        assert max((tensors[0][key] - tensors[1][key]).abs().max().item() for key in tensors[0]) > 1e-2
    assert largest_differences(runs, "gpt2-ddp-4", "gpt2-ddp-1")["step loss"] > 0, "they are shared at all"


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("undivided", 4, "ConfigError: batch.accumulation must be a multiple of the 4 processes, got 6\nhint: --set"),
        ("diagnosed", 4, "ConfigError: run.diagnose_every must be 0 in 4 processes, got 2\nhint: --set run.diagnose"),
        ("batchnorm", 4, "ConfigError: WORLD_SIZE must be 1 for BatchNormMLP, whose "),
    ],
)
def test_what_several_processes_cannot_do_is_refused_by_each(runs: Runs, name: str, size: int, message: str) -> None:
    errors = runs.errors(name)
    assert len(errors) == size
    assert all(error.startswith(message) for error in errors), errors
    assert not runs.path(name).exists(), "nothing was written"


def test_what_main_refuses_alone_ends_the_others_too(runs: Runs) -> None:
    first, second = runs.errors("taken")
    assert first.startswith("CheckpointError: ") and "must not hold another run's settings" in first
    assert second.startswith(("LmError: process 1 of 2: the others must succeed", "RuntimeError: ")), second


# ---- stopped, by the command line ------------------------------------------------------------------------------------


def worker(process: subprocess.Popen[str], rank: int) -> int:
    """The pid of one of torchrun's processes."""
    for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        if f"\0RANK={rank}\0".encode() in Path(f"/proc/{pid}/environ").read_bytes():
            return int(pid)
    raise AssertionError(f"no process of rank {rank}")


def last_step(folder: Path) -> int:
    """The step of the last line of the log, or 0."""
    log = folder / "metrics.jsonl"
    lines = log.read_text().split("\n")[:-1] if log.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def wait_for(process: subprocess.Popen[str], ready: Callable[[], bool], *, timeout_s: float = 120) -> float:
    """Returns when it is ready: after how many seconds."""
    started = time.monotonic()
    while not ready():
        waited = time.monotonic() - started
        if process.poll() is not None or waited > timeout_s:
            raise AssertionError(f"ended or hangs: {finish(process, 1)}")
        time.sleep(0.002)
    return time.monotonic() - started


needs_proc = pytest.mark.skipif(
    not Path(f"/proc/self/task/{os.getpid()}/children").exists(), reason="needs /proc, to find torchrun's processes"
)


@pytest.mark.slow
@needs_proc
def test_a_run_whose_process_is_killed_and_whose_torchrun_is_stopped_ends_on_the_same_bits(runs: Runs) -> None:
    whole, folder, file = runs.path("long"), runs.path("broken"), runs.folder / "long.toml"
    file.write_text(dump_config(runs.configs["long"]), encoding="utf-8")
    process = torchrun(2, "-m", "lm", "train", file, "-o", whole, "-q")
    said = finish(process)
    assert process.returncode == 0, said
    command = ("-m", "lm", "train", file, "-o", folder, "--resume", "auto", "-q")
    process = torchrun(2, *command, options=("--max-restarts=1",))
    wait_for(process, lambda: last_step(folder) >= 45)
    inode = (folder / "metrics.jsonl").stat().st_ino
    os.kill(worker(process, 1), signal.SIGKILL)
    waited = wait_for(process, lambda: (folder / "metrics.jsonl").stat().st_ino != inode)
    print(f"goes on {waited:.1f} s after a process was killed")
    wait_for(process, lambda: last_step(folder) >= 110)
    process.send_signal(signal.SIGTERM)
    said = finish(process)
    print(f"after SIGTERM torchrun exits {process.returncode}")
    assert process.returncode != 0 and "checkpoint saved" in said, said
    stopped = last_step(folder)
    assert 110 <= stopped < LONG and (folder / "checkpoints" / f"step_{stopped:06d}" / "state.json").exists(), said
    process = torchrun(2, *command)
    said = finish(process)
    assert process.returncode == 0, said
    assert runs.log("broken") == runs.log("long")
    for name in (WEIGHTS, OPTIMIZER):
        mine, wanted = (run / "checkpoints" / f"step_{LONG:06d}" / name for run in (folder, whole))
        assert mine.read_bytes() == wanted.read_bytes()


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_four_processes_of_which_one_is_killed_end_on_the_same_bits_or_end_at_once(runs: Runs, parallel: str) -> None:
    whole, folder = runs.path(f"long-{parallel}-4"), runs.path(f"broken-{parallel}-4")
    options = ["--set", f"run.parallel={parallel}", "--resume", "auto", "-q"]
    file = runs.folder / "long.toml"
    file.write_text(dump_config(runs.configs["long"]), encoding="utf-8")
    process = torchrun(4, "-m", "lm", "train", file, "-o", whole, *options)
    said = finish(process)
    assert process.returncode == 0, said
    command = ("-m", "lm", "train", file, "-o", folder, *options)
    for rank, step in ((0, 30), (3, 75)):  # main, which writes, and one that does not
        process = torchrun(4, *command)
        wait_for(process, lambda step=step: last_step(folder) >= step)
        os.kill(worker(process, rank), signal.SIGKILL)
        killed = time.monotonic()
        said = finish(process, 60)
        print(f"{parallel}: ended {time.monotonic() - killed:.1f} s after rank {rank} was killed")
        assert process.returncode == 1 and "exitcode  : -9" in said, said
    process = torchrun(4, *command, options=("--max-restarts=1",))
    wait_for(process, lambda: last_step(folder) >= 130)
    os.kill(worker(process, 2), signal.SIGKILL)
    said = finish(process)
    assert process.returncode == 0, said
    for name in (WEIGHTS, OPTIMIZER):
        mine, wanted = (run / "checkpoints" / f"step_{LONG:06d}" / name for run in (folder, whole))
        assert mine.read_bytes() == wanted.read_bytes()


if __name__ == "__main__":
    make_all(Path(sys.argv[1]))
