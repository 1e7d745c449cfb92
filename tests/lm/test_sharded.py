"""Files of tensors that several processes hold: this file is also the script that each runs (see `processes`)."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lm.config import OptimizerConfig
from lm.loss import Objective
from lm.models.gpt2 import GPT2, GPT2Config
from lm.optim import adamw
from lm.sharded import fill, read_like, write
from lm.world import World, joined, shared, sum_over, whole

ALONE = World(device=torch.device("cpu"))
OPTIMIZER = OptimizerConfig(lr=1e-2)
WEIGHTS, MOMENTS = "model.safetensors", "optimizer.safetensors"


def opened(world: World, seed: int, kind: str = "fsdp") -> tuple[Objective, torch.nn.Module, torch.optim.AdamW]:
    """A model with fewer rows in some tensors than there are processes; what to call for it; its optimizer."""
    torch.manual_seed(seed)
    objective = Objective(GPT2(GPT2Config(context=3, layers=2, heads=1, width=2, vocab_multiple=1), 11))
    module = shared(objective, kind, world, torch.float32)  # type: ignore[arg-type]
    return objective, module, adamw(objective.model, OPTIMIZER)


def step(world: World, module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Tensor:
    """Learns from the same rows on each process; the loss before."""
    optimizer.zero_grad()
    loss = module(torch.tensor([[1, 2, 3]]), torch.tensor([[2, 3, 10]])).sum() / 3 / world.size
    loss.backward()
    optimizer.step()
    return sum_over(world, loss.detach())


def kept(objective: Objective, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's tensors, by `<parameter>.<what>`."""
    parameters = objective.model.named_parameters()
    return {f"{name}.{what}": value for name, tensor in parameters for what, value in optimizer.state[tensor].items()}


def fill_all(folder: Path, objective: Objective, optimizer: torch.optim.Optimizer) -> None:
    """Goes on from the two files."""
    fill(folder / WEIGHTS, objective.model.state_dict())
    parameters = dict(objective.model.named_parameters())
    tensors = read_like(folder / MOMENTS, parameters)
    names = {parameter: name for name, parameter in parameters.items()}
    order = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    state = {
        index: {key.rpartition(".")[2]: value for key, value in tensors.items() if key.rpartition(".")[0] == name}
        for index, name in enumerate(order)
    }
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


# ---- what runs in each process ---------------------------------------------------------------------------------------


def save_parts(world: World, folder: Path) -> None:
    """Takes two steps and writes the files; main writes once more what one process would."""
    objective, module, optimizer = opened(world, seed=0)
    for _ in range(2):
        step(world, module, optimizer)
    for name, tensors in ((WEIGHTS, objective.model.state_dict()), (MOMENTS, kept(objective, optimizer))):
        write(folder / name, tensors, world)
        plain = {key: whole(tensor).contiguous() for key, tensor in tensors.items()}
        if world.is_main:
            save_file(plain, folder / f"{name}.wanted")
    (folder / f"loss-{world.rank}").write_text(step(world, module, optimizer).item().hex())


def go_on(world: World, folder: Path) -> None:
    """Goes on from the files that others wrote, in parts and whole."""
    source = folder.parent / "save_parts:2"
    seen: dict[str, Any] = {}
    for kind in ("fsdp", "ddp"):
        objective, module, optimizer = opened(world, seed=9, kind=kind)
        fill_all(source, objective, optimizer)
        for name, tensors in ((WEIGHTS, objective.model.state_dict()), (MOMENTS, kept(objective, optimizer))):
            saved = load_file(source / name)
            equal = [torch.equal(whole(tensor), saved[key]) for key, tensor in tensors.items()]
            seen[f"{kind} {name}"] = [len(equal) == len(saved), all(equal)]
        seen[f"{kind} loss"] = step(world, module, optimizer).item().hex()
    (folder / f"seen-{world.rank}.json").write_text(json.dumps(seen))


def save_others(world: World, folder: Path) -> None:
    """Writes tensors of all dtypes, cut up and not, over a file and over parts that lie about; and none at all."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard

    mesh = init_device_mesh("cpu", (world.size,))
    torch.manual_seed(1)
    plain = {str(dtype): torch.randn(5, 2, 3).mul(9).to(dtype) for dtype in DTYPES}
    plain |= {f"scalar {dtype}": torch.tensor(3).to(dtype) for dtype in DTYPES}
    plain |= {"größe": torch.randn(1, 7), "empty": torch.zeros(0, 3)}
    parts = {}
    for name, tensor in plain.items():
        if tensor.dim() > 1:  # as FSDP cuts; gloo cannot send all dtypes around
            mine = [*tensor.chunk(world.size), *[tensor[:0]] * world.size][world.rank]
            shape, stride = tensor.shape, tensor.stride()
            parts[name] = DTensor.from_local(mine, mesh, [Shard(0)], run_check=False, shape=shape, stride=stride)
    path = folder / "all.safetensors"
    if world.is_main:
        path.write_text("an old file")
        (folder / ".all.safetensors.parts").mkdir()
        (folder / ".all.safetensors.parts" / "shard-00009-model-00001-of-00001.safetensors").write_text("an old part")
    write(path, plain | parts, world)
    write(folder / "none.safetensors", {}, world)
    if world.is_main:
        save_file(plain, folder / "all.safetensors.wanted")
        save_file({}, folder / "none.safetensors.wanted")


DTYPES = (
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.float16,
    torch.bfloat16,
    torch.int32,
    torch.float32,
    torch.float64,
    torch.int64,
)


def fill_the_disk(world: World, folder: Path) -> None:
    """Has no room: first one process for its part, then main for the file; and looks for a tensor that is not there."""
    objective, _, _ = opened(world, seed=0)
    told = []
    full = OSError(errno.ENOSPC, "No space left on device")

    def refuse(*arguments: object, **settings: object) -> None:
        raise full

    patch = pytest.MonkeyPatch()
    if world.rank == 1:
        patch.setattr("torch.distributed.checkpoint.filesystem._write_files_from_queue", refuse)
    for _ in range(2):
        try:
            write(folder / WEIGHTS, objective.model.state_dict(), world)
        except Exception as error:
            told.append([type(error).__name__, str(error)])
        patch.undo()
        patch.setattr("lm.sharded._join", refuse)
    patch.undo()
    write(folder / WEIGHTS, objective.model.state_dict(), world)
    try:
        fill(folder / WEIGHTS, {"nobody": torch.zeros(2)})
    except Exception as error:
        told.append([type(error).__name__, str(error)])
    (folder / f"told-{world.rank}.json").write_text(json.dumps(told))


SCRIPTS: Mapping[str, Callable[[World, Path], None]] = {
    "save_parts": save_parts,
    "go_on": go_on,
    "save_others": save_others,
    "fill_the_disk": fill_the_disk,
}


def run_rank(script: str, rank: int, size: int, folder: Path) -> int:
    """One process; its exit status."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with joined("cpu", init_method=f"file://{folder}/rendezvous", timeout_s=60) as world:
            SCRIPTS[script](world, folder)
    except BaseException as error:
        (folder / f"error-{rank}").write_text(repr(error))
        return 1
    return 0


def start_all(folder: Path, jobs: list[str]) -> None:
    """Forks the processes of each job `script:size`, one job after the other; torch is imported once, here."""
    import torch._dynamo
    import torch.distributed.checkpoint.hf_storage
    import torch.distributed.fsdp  # noqa: F401

    for job in jobs:
        script, size = job.split(":")
        children = []
        for rank in range(int(size)):
            child = os.fork()
            if child == 0:
                os._exit(run_rank(script, rank, int(size), folder / job))
            children.append(child)
        for child in children:
            os.waitpid(child, 0)


# ---- the tests -------------------------------------------------------------------------------------------------------

JOBS = ["save_parts:2", "save_parts:4", "go_on:4", "save_others:3", "fill_the_disk:2"]


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which all jobs have left what they wrote."""
    folder = tmp_path_factory.mktemp("processes")
    places = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    environment = {name: value for name, value in os.environ.items() if name not in places}
    environment |= {"GLOO_SOCKET_IFNAME": environment.get("GLOO_SOCKET_IFNAME", "lo"), "OMP_NUM_THREADS": "1"}
    strict = ["-W", "error", "-W", "ignore:TypedStorage is deprecated"]  # by torch 2.10, to itself
    done = subprocess.run(
        [sys.executable, *strict, __file__, str(folder), *JOBS],
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


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", [WEIGHTS, MOMENTS])
def test_processes_write_the_very_file_that_one_would(processes: Path, name: str, size: int) -> None:
    folder = processes / f"save_parts:{size}"
    require_success(folder)
    assert (folder / name).read_bytes() == (folder / f"{name}.wanted").read_bytes()
    assert not [file.name for file in folder.iterdir() if file.name.startswith(".")], "no part is left"


def test_what_is_saved_is_worth_reading(processes: Path) -> None:
    moments = load_file(processes / "save_parts:2" / MOMENTS)
    assert moments["norm.weight.step"].shape == () and moments["norm.weight.step"] == 2
    assert {name.rpartition(".")[2] for name in moments} == {"step", "exp_avg", "exp_avg_sq"}
    assert all(tensor.any() for name, tensor in moments.items() if "key" not in name)


def test_tensors_of_all_dtypes_and_shapes_are_written_as_the_format_has_them(processes: Path) -> None:
    folder = processes / "save_others:3"
    require_success(folder)
    for name in ("all.safetensors", "none.safetensors"):
        assert (folder / name).read_bytes() == (folder / f"{name}.wanted").read_bytes(), name


def test_other_numbers_of_processes_go_on_with_the_same_bits(processes: Path) -> None:
    require_success(processes / "go_on:4")
    for rank in range(4):
        seen = json.loads((processes / "go_on:4" / f"seen-{rank}.json").read_text())
        assert [seen[f"{kind} {name}"] for kind in ("fsdp", "ddp") for name in (WEIGHTS, MOMENTS)] == [[True, True]] * 4
        went_on = float.fromhex((processes / "save_parts:2" / "loss-0").read_text())
        for kind in ("fsdp", "ddp"):
            assert float.fromhex(seen[f"{kind} loss"]) == pytest.approx(went_on, abs=1e-6)


def test_one_process_goes_on_with_the_same_bits(processes: Path) -> None:
    source = processes / "save_parts:4"
    objective, module, optimizer = opened(ALONE, seed=5)
    fill_all(source, objective, optimizer)
    for name, tensors in ((WEIGHTS, objective.model.state_dict()), (MOMENTS, kept(objective, optimizer))):
        saved = load_file(source / name)
        assert saved.keys() == tensors.keys()
        assert all(torch.equal(tensor, saved[key]) for key, tensor in tensors.items())
    went_on = float.fromhex((source / "loss-0").read_text())
    assert step(ALONE, module, optimizer).item() == pytest.approx(went_on, abs=1e-6)


def test_one_process_writes_the_file_at_once(tmp_path: Path) -> None:
    objective, _, _ = opened(ALONE, seed=5)
    write(tmp_path / WEIGHTS, objective.model.state_dict(), ALONE)
    wanted = safetensors.torch.save(dict(objective.model.state_dict()))
    assert (tmp_path / WEIGHTS).read_bytes() == wanted
    assert [file.name for file in tmp_path.iterdir()] == [WEIGHTS]


def test_where_one_cannot_write_all_are_told_why(processes: Path) -> None:
    folder = processes / "fill_the_disk:2"
    require_success(folder)
    main, other = (json.loads((folder / f"told-{rank}.json").read_text()) for rank in (0, 1))
    assert main[0] == other[0] == ["OSError", "[Errno 28] No space left on device"]
    assert main[1] == ["OSError", "[Errno 28] No space left on device"]
    assert other[1][0] == "LmError" and "the others must succeed, got an error in 1 of them" in other[1][1]
    assert main[2] == other[2] and "nobody" in main[2][1]


if __name__ == "__main__":
    start_all(Path(sys.argv[1]), sys.argv[2:])
