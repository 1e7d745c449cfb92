"""Processes that share a run: this file is also the script that each of them runs (see `processes`)."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lm.batches import IGNORE
from lm.config import OptimizerConfig
from lm.errors import ConfigError, LmError
from lm.loss import Objective
from lm.models.batchnorm import BatchNormMLP, BatchNormMLPConfig
from lm.models.gpt2 import GPT2, GPT2Config
from lm.models.mlp import MLP, MLPConfig
from lm.optim import adamw
from lm.world import (
    World,
    accumulating,
    agree,
    barrier,
    broadcast_text,
    clip_gradients,
    gathered,
    is_cut,
    joined,
    main_first,
    shared,
    sum_over,
    together,
    whole,
)

ALONE = World(device=torch.device("cpu"))
VOCAB = 37
# eps is large since the gradient of a key's bias is 0 but for rounding, which Adam would blow up to a whole step.
OPTIMIZER = OptimizerConfig(lr=1e-2, eps=1e-4, grad_clip=0.5)
PLACES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def objective(*, recompute: bool = False) -> Objective:
    torch.manual_seed(3)
    model = GPT2(GPT2Config(context=8, layers=2, heads=2, width=20, vocab_multiple=1), VOCAB)
    model.recompute = recompute
    return Objective(model)


def micro_batches(step: int, count: int) -> list[tuple[Tensor, Tensor]]:
    """Some batches of 2 rows whose targets end early, each elsewhere; the second batch has none at all."""
    generator = torch.Generator().manual_seed(step)
    batches = []
    for index in range(count):
        ids_BT = torch.randint(VOCAB, (2, 9), generator=generator)
        inputs_BT, targets_BT = ids_BT[:, :-1], ids_BT[:, 1:].clone()
        for row, length in enumerate(torch.randint(1, 9, (2,), generator=generator).tolist()):
            targets_BT[row, 0 if index == 1 else length :] = IGNORE
        batches.append((inputs_BT, targets_BT))
    return batches


def trained(
    world: World, kind: str, *, accumulation: int, steps: int = 3, recompute: bool = False
) -> dict[str, Tensor]:
    """Everything about some steps that must not depend on how many processes made them.

    Args:
        accumulation: micro batches of a step, of all processes together.
    """
    whole_objective = objective(recompute=recompute)
    module = shared(whole_objective, kind, world, torch.float32)  # type: ignore[arg-type]
    optimizer = adamw(whole_objective.model, OPTIMIZER)
    seen = {}
    for step in range(steps):
        mine = micro_batches(step, accumulation)[world.rank :: world.size]
        (count,) = agree(world, sum(int((targets_BT != IGNORE).sum()) for _, targets_BT in mine))
        optimizer.zero_grad(set_to_none=True)
        nats = torch.zeros(())
        for index, (inputs_BT, targets_BT) in enumerate(mine):
            with accumulating(module, last=index == len(mine) - 1):
                loss = module(inputs_BT, targets_BT).sum() / count
                loss.backward()
            nats += loss.detach()
        seen[f"loss {step}"] = sum_over(world, nats)
        gradients = {name: parameter.grad for name, parameter in whole_objective.model.named_parameters()}
        seen |= {f"gradient {step} {name}": whole(gradient).clone() for name, gradient in gradients.items()}
        seen[f"norm {step}"] = clip_gradients(module, OPTIMIZER.grad_clip).clone()
        seen |= {f"clipped {step} {name}": whole(gradient).clone() for name, gradient in gradients.items()}
        optimizer.step()
    weights = {name: whole(tensor.detach()) for name, tensor in whole_objective.model.state_dict().items()}
    return seen | {f"weight {name}": tensor for name, tensor in weights.items()}


# ---- what runs in each process ---------------------------------------------------------------------------------------

RUNS = {
    "ddp": {"kind": "ddp", "accumulation": 4},
    "ddp-8": {"kind": "ddp", "accumulation": 8},
    "fsdp": {"kind": "fsdp", "accumulation": 4},
    "fsdp-8": {"kind": "fsdp", "accumulation": 8},
    "fsdp-recompute": {"kind": "fsdp", "accumulation": 8, "recompute": True},
}


def share_a_run(world: World, folder: Path) -> None:
    """Trains in every way; leaves what was seen by main and by the last one."""
    for name, settings in RUNS.items():
        seen = trained(world, **settings)
        if world.rank in (0, world.size - 1):
            save_file(seen, folder / f"{name}-{world.rank}.safetensors")


def talk(world: World, folder: Path) -> None:
    """Says and hears; leaves what each one understood."""
    heard: dict[str, object] = {"agree": agree(world, 1, 10**12 * world.rank)}
    heard["sum"] = sum_over(world, torch.tensor([0.5, float(world.rank)])).tolist()
    heard["texts"] = [broadcast_text(world, text if world.is_main else "?") for text in ("", "step 7 größer")]
    with main_first(world):
        heard["made"] = (folder / "made").exists()
        (folder / "made").touch()
    try:
        with together(world):
            if world.rank == 1:
                raise ValueError("the disk is full")
    except (ValueError, LmError) as error:
        heard["error"] = str(error)
    try:
        with main_first(world):
            heard["came"] = True
            if world.is_main:
                raise ValueError("no cache")
    except (ValueError, LmError) as error:
        heard["main error"] = str(error)
    barrier(world)
    model = objective().model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    parts = shared(Objective(model), "fsdp", world, torch.float32)
    optimized = set(parts.parameters())
    at_once: list[list[bool]] = []  # which blocks lie whole in memory while the first works
    blocks = list(model.blocks)  # type: ignore[arg-type]
    blocks[0].feedforward.register_forward_pre_hook(
        lambda *_: at_once.append([not any(map(is_cut, block.parameters())) for block in blocks])
    )
    with torch.no_grad():
        parts(*micro_batches(0, 1)[0])
    heard["blocks at once"] = at_once
    heard["parameters stay"] = set(parts.parameters()) == optimized
    for last in (False, True):
        with accumulating(parts, last=last):
            parts(*micro_batches(0, 1)[0]).sum().backward()
        heard[f"gradients of all, {last}"] = all(parameter.grad is not None for parameter in parts.parameters())
    heard["parameters here"] = sum(parameter.to_local().numel() for parameter in parts.parameters())
    got = gathered(model, world)
    heard["gathered"] = sorted(got) == sorted(before) and all(torch.equal(got[name], before[name]) for name in got)
    (folder / f"heard-{world.rank}.json").write_text(json.dumps(heard))


def lose_one(world: World, folder: Path) -> None:
    """The last one dies, the others wait for it."""
    if world.rank == world.size - 1:
        raise ValueError("killed")
    _wait_in_vain(world, folder)


def wait_for_one(world: World, folder: Path) -> None:
    """The last one is busy for longer than anybody waits."""
    if world.rank == world.size - 1:
        for _ in range(100):
            time.sleep(0.1)
            if (folder / "gave up").exists():
                return
    else:
        _wait_in_vain(world, folder)


def _wait_in_vain(world: World, folder: Path) -> None:
    started = time.monotonic()
    try:
        agree(world, 1)
    except RuntimeError:
        (folder / "gave up").write_text(str(time.monotonic() - started))
        raise


SCRIPTS: dict[str, tuple[Callable[[World, Path], None], float]] = {
    "share_a_run": (share_a_run, 60),
    "talk": (talk, 60),
    "lose_one": (lose_one, 60),
    "wait_for_one": (wait_for_one, 1),
}


def run_rank(script: str, rank: int, size: int, folder: Path) -> int:
    """One process; its exit status."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    function, timeout_s = SCRIPTS[script]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with joined("cpu", init_method=f"file://{folder}/rendezvous", timeout_s=timeout_s) as world:
            function(world, folder)
    except Exception as error:
        (folder / f"error-{rank}").write_text(repr(error))
        return 1
    return 0


def start_all(folder: Path, jobs: list[str]) -> None:
    """Forks the processes of each job `script:size`, one job after the other; torch is imported once, here."""
    import torch._dynamo
    import torch.distributed.fsdp  # noqa: F401

    for job in jobs:
        script, size = job.split(":")
        children = []
        for rank in range(int(size)):
            child = os.fork()
            if child == 0:
                os._exit(run_rank(script, rank, int(size), folder / job))
            children.append(child)
        statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        (folder / job / "statuses.json").write_text(json.dumps(statuses))


# ---- the tests -------------------------------------------------------------------------------------------------------

JOBS = ["share_a_run:2", "share_a_run:4", "talk:2", "talk:4", "lose_one:3", "wait_for_one:2"]


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which all jobs have left what they saw."""
    folder = tmp_path_factory.mktemp("processes")
    environment = {name: value for name, value in os.environ.items() if name not in PLACES}
    environment |= {"GLOO_SOCKET_IFNAME": environment.get("GLOO_SOCKET_IFNAME", "lo"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", __file__, str(folder), *JOBS],
        env=environment,
        timeout=240,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert not done.stderr, done.stderr.decode()
    return folder


def require_success(folder: Path) -> None:
    errors = [file.read_text() for file in sorted(folder.glob("error-*"))]
    assert not errors
    assert set(json.loads((folder / "statuses.json").read_text())) == {0}


@pytest.fixture(scope="module")
def unshared() -> Mapping[str, dict[str, Tensor]]:
    """What one process sees in each of the runs."""
    return {name: trained(ALONE, **settings) for name, settings in RUNS.items()}


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("size", [2, 4])
def test_processes_that_share_a_run_see_what_one_sees(
    processes: Path, unshared: Mapping[str, dict[str, Tensor]], name: str, size: int
) -> None:
    folder = processes / f"share_a_run:{size}"
    require_success(folder)
    for rank in (0, size - 1):
        seen = load_file(folder / f"{name}-{rank}.safetensors")
        assert seen.keys() == unshared[name].keys()
        for what, tensor in unshared[name].items():
            torch.testing.assert_close(
                seen[what], tensor, rtol=0, atol=1e-6, msg=lambda text, what=what: f"{what}: {text}"
            )


def test_the_runs_would_show_a_wrong_weight(unshared: Mapping[str, dict[str, Tensor]]) -> None:
    """The gradients are large, are clipped, and the ranks have different counts: else the test above shows nothing."""
    for seen in unshared.values():
        assert max(tensor.abs().max() for what, tensor in seen.items() if what.startswith("gradient")) > 0.05
        assert all(seen[f"norm {step}"] > OPTIMIZER.grad_clip for step in range(3))
    counts = [int((targets_BT != IGNORE).sum()) for _, targets_BT in micro_batches(0, 4)]
    assert len(set(counts)) > 2 and counts[1] == 0
    assert torch.equal(unshared["ddp"]["loss 2"], unshared["fsdp"]["loss 2"])
    assert not torch.equal(unshared["ddp"]["loss 0"], unshared["ddp-8"]["loss 0"])


@pytest.mark.parametrize("size", [2, 4])
def test_each_process_hears_what_the_others_say(processes: Path, size: int) -> None:
    folder = processes / f"talk:{size}"
    require_success(folder)
    for rank in range(size):
        heard = json.loads((folder / f"heard-{rank}.json").read_text())
        total = sum(range(size))
        assert heard["agree"] == [size, 10**12 * total]
        assert heard["sum"] == [0.5 * size, total]
        assert heard["texts"] == ["", "step 7 größer"]
        assert heard["made"] == (rank > 0), "main goes first"
        failed = f"process {rank} of {size}: the others must succeed, got an error in 1 of them\nhint: "
        assert heard["error"].startswith("the disk is full" if rank == 1 else failed)
        assert heard["main error"].startswith("no cache" if rank == 0 else failed)
        assert heard.get("came") == (True if rank == 0 else None), "nobody goes on where main failed"
        assert heard["gathered"] == (rank == 0)
        assert heard["blocks at once"] == [[True, False]] * 3
        assert heard["parameters stay"], "an evaluation leaves the optimizer its parameters"
        assert [heard[f"gradients of all, {last}"] for last in (False, True)] == [False, True]


@pytest.mark.parametrize("size", [2, 4])
def test_fsdp_leaves_each_process_its_part_alone(processes: Path, size: int) -> None:
    here = [
        json.loads((processes / f"talk:{size}" / f"heard-{rank}.json").read_text())["parameters here"]
        for rank in range(size)
    ]
    everything = objective().model.expected_parameters()  # type: ignore[operator]
    assert sum(here) == everything
    assert max(here) < 1.1 * everything / size


def test_who_waits_for_a_process_that_died_is_told_at_once(processes: Path) -> None:
    folder = processes / "lose_one:3"
    assert json.loads((folder / "statuses.json").read_text()) == [1, 1, 1]
    assert (folder / "error-2").read_text() == "ValueError('killed')"
    assert "Connection closed by peer" in (folder / "error-0").read_text()
    assert float((folder / "gave up").read_text()) < 10


def test_who_waits_for_a_process_that_hangs_gives_up_in_time(processes: Path) -> None:
    folder = processes / "wait_for_one:2"
    assert json.loads((folder / "statuses.json").read_text()) == [1, 0]
    assert 0.9 < float((folder / "gave up").read_text()) < 10


# ---- one process -----------------------------------------------------------------------------------------------------


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets torchrun's variables, and those alone."""

    def set_places(**values: str) -> None:
        for name in PLACES:
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return set_places


def test_one_process_has_no_group_and_shares_nothing(places: Callable[..., None]) -> None:
    alone = objective()
    for torchrun in ({}, {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}):
        places(**torchrun)
        with joined("cpu") as world:
            assert world == ALONE
            assert world.is_main
            assert not torch.distributed.is_initialized()
            assert shared(alone, "fsdp", world, torch.float32) is alone
            assert agree(world, 3, 4) == (3, 4)
            assert broadcast_text(world, "here") == "here"
            tensor = torch.ones(2)
            assert sum_over(world, tensor) is tensor
            barrier(world)
            with pytest.raises(ValueError, match="mine"), main_first(world):
                raise ValueError("mine")
            with accumulating(alone, last=False):
                alone(*micro_batches(0, 1)[0]).sum().backward()
            state = alone.model.state_dict()
            assert all(torch.equal(tensor, state[name]) for name, tensor in gathered(alone.model, world).items())


@pytest.mark.parametrize("limit", [0.5, 1e9, float("inf")])
def test_clipping_is_torchs_own_to_the_last_bit(limit: float) -> None:
    ours, theirs = objective(), objective()
    for one in (ours, theirs):
        one(*micro_batches(0, 1)[0]).mean().backward()
    wanted = torch.nn.utils.clip_grad_norm_(theirs.parameters(), limit)
    assert torch.equal(clip_gradients(ours, limit), wanted)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert mine.grad is not None and other.grad is not None
        assert torch.equal(mine.grad, other.grad)


@pytest.mark.parametrize(
    ("torchrun", "message"),
    [
        ({"WORLD_SIZE": "2"}, "RANK must be set to a number, as torchrun does, got None"),
        ({"RANK": "0"}, "WORLD_SIZE must be set to a number"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "LOCAL_RANK must be set to a number"),
        ({"RANK": "x", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "RANK must be set to a number, .* got 'x'"),
        ({"RANK": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, r"RANK must be in \[0, 2\), with WORLD_SIZE = 2, got 2"),
        ({"RANK": "0", "WORLD_SIZE": "0", "LOCAL_RANK": "0"}, r"RANK must be in \[0, 0\)"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}, "LOCAL_RANK must be at most RANK = 0, got 1"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "MASTER_ADDR must be set where WORLD_SIZE is above 1"),
    ],
)
def test_half_of_torchruns_variables_are_refused(
    places: Callable[..., None], torchrun: dict[str, str], message: str
) -> None:
    places(**torchrun)
    with pytest.raises(ConfigError, match=f"{message}(.|\n)*hint: .*torchrun"), joined("cpu"):
        pass


def test_each_process_needs_a_cuda_device_of_its_own(
    places: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    places(RANK="1", WORLD_SIZE="2", LOCAL_RANK="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    few = r"LOCAL_RANK must be below the 1 CUDA devices .* got 1\nhint: torchrun --nproc"
    with pytest.raises(ConfigError, match=few), joined("cuda"):
        pass
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(ConfigError, match=r"run.device must be cpu or cuda in several .* got 'mps'"), joined("mps"):
        pass


def test_what_cannot_be_shared_is_refused() -> None:
    two = World(device=torch.device("cpu"), size=2)
    batchnorm = BatchNormMLP(BatchNormMLPConfig(context=8, window=3, embedding=4, hidden=16), VOCAB)
    with pytest.raises(
        ConfigError, match=r"WORLD_SIZE must be 1 for BatchNormMLP, whose batchnorm.running_mean .* got 2"
    ):
        shared(Objective(batchnorm), "ddp", two, torch.float32)
    mlp = MLP(MLPConfig(context=8, window=3, embedding=4, hidden=16, init="kaiming"), VOCAB)
    with pytest.raises(
        ConfigError, match=r"run.parallel must be ddp for MLP, got 'fsdp'\nhint: --set run.parallel=ddp"
    ):
        shared(Objective(mlp), "fsdp", two, torch.float32)


# ---- CUDA ------------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize(("kind", "dtype"), [("ddp", "float32"), ("fsdp", "float32"), ("fsdp", "bfloat16")])
def test_on_cuda_each_kind_gives_the_gradients_of_the_bare_model(tmp_path: Path, kind: str, dtype: str) -> None:
    """A group of one process is enough to send all messages through NCCL, those of the CPU through gloo."""
    import torch.distributed as dist

    from lm.world import _fsdp, _sum_up

    device = torch.device("cuda", 0)
    world = World(device=device)
    where = {"init_method": f"file://{tmp_path}/rendezvous", "rank": 0, "world_size": 1, "device_id": device}
    dist.init_process_group("cpu:gloo,cuda:nccl", **where)
    try:
        for tensor in (torch.ones(2), torch.ones(2, device=device)):
            dist.all_reduce(tensor)
        bare, mine = objective().to(device), objective().to(device)
        if kind == "fsdp":
            module = _fsdp(mine, world, getattr(torch, dtype))
        else:
            module = torch.nn.parallel.DistributedDataParallel(mine, gradient_as_bucket_view=True)
            module.register_comm_hook(None, _sum_up)
        batches = [(inputs_BT.to(device), targets_BT.to(device)) for inputs_BT, targets_BT in micro_batches(0, 3)]
        for index, batch in enumerate(batches):
            bare(*batch).sum().backward()
            with accumulating(module, last=index == 2):
                module(*batch).sum().backward()
        for wanted, got in zip(bare.parameters(), mine.parameters(), strict=True):
            assert wanted.grad is not None and got.grad is not None and got.grad.dtype == torch.float32
            atol = 1e-5 if dtype == "float32" else 0.05 * wanted.grad.abs().max().item() + 1e-3
            torch.testing.assert_close(whole(got.grad), wanted.grad, rtol=0, atol=atol)
        torch.testing.assert_close(clip_gradients(module, 1.0), clip_gradients(bare, 1.0), rtol=0.05, atol=0)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    start_all(Path(sys.argv[1]), sys.argv[2:])
