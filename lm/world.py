"""The processes of a run: torchrun starts them, each has a rank and a device, and they agree on what they do.

What they say to each other about the run itself (counts, signals, errors) are numbers on the CPU, by gloo; gradients
and weights take the device's own way, NCCL on CUDA. So no word about the run waits for the device.

One process alone is a world of size 1: there is no group, and nothing here costs it anything.
"""

import inspect
import itertools
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from lm.errors import ConfigError, LmError, require
from lm.models.contract import CausalTransformer
from lm.parallel import pick_device

TIMEOUT_S = 600.0
"""How long a process waits for the others before it gives up; longer than main may write or sample alone."""


@dataclass(frozen=True, kw_only=True)
class World:
    """The processes of a run, as one of them sees them.

    Args:
        rank: which one this is, in [0, size).
        size: how many there are.
        local_rank: which one it is on its machine.
        device: where it computes.
    """

    device: torch.device
    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes and reports."""
        return self.rank == 0


ALONE = World(device=torch.device("cpu"))
"""This process by itself, on the CPU."""


@contextmanager
def joined(device_name: str, *, init_method: str = "env://", timeout_s: float = TIMEOUT_S) -> Iterator[World]:
    """Within, this process is one of those that torchrun started; without torchrun a world of its own.

    Args:
        device_name: as `lm.parallel.pick_device` takes it. Of several CUDA devices, a process takes that of its local
            rank.
        init_method: where the processes meet; torchrun says it by MASTER_ADDR and MASTER_PORT.
        timeout_s: how long each waits for the others, in seconds.

    Raises:
        ConfigError: if torchrun's variables are only in part there or contradict each other, or the machine lacks the
            devices.
    """
    rank, size, local_rank = _places(os.environ, by_environment=init_method == "env://")
    device = pick_device(device_name)
    if size == 1:
        yield World(device=device, local_rank=local_rank)
        return
    device = _device_of(device, local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    timeout = timedelta(seconds=timeout_s)
    store, _, _ = next(rendezvous(init_method, rank, size, timeout=timeout))
    # torchrun's store outlives the processes: no address of an attempt that died, or of a run before, may be found.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        store=PrefixStore(f"{attempt}/{next(_JOINS)}", store),
        rank=rank,
        world_size=size,
        timeout=timeout,
        device_id=device if device.type == "cuda" else None,
    )
    _GROUPS.append(dist.group.WORLD)
    try:
        yield World(rank=rank, size=size, local_rank=local_rank, device=device)
    except BaseException:
        # NCCL's end is a meeting of all, and the others may never come: the message would wait for them.
        if device.type != "cuda":
            dist.destroy_process_group()
        raise
    dist.destroy_process_group()


_JOINS = itertools.count()
_GROUPS: list[object] = []
"""Groups that were left. DDP's reducer may be the last to let go of one, and gloo's end then waits for a thread that
waits for the interpreter (torch 2.13)."""


def _places(environment: Mapping[str, str], *, by_environment: bool) -> tuple[int, int, int]:
    """Rank, size and local rank, as torchrun has set them; (0, 1, 0) where it was not used."""
    names = ["RANK", "WORLD_SIZE", "LOCAL_RANK"]
    if not any(name in environment for name in names):
        return 0, 1, 0
    hint = "start several processes with torchrun, and one without; unset what is left of another launcher"
    for name in names:
        value = environment.get(name)
        require(value is not None and value.isdecimal(), name, "set to a number, as torchrun does", value, hint)
    rank, size, local_rank = (int(environment[name]) for name in names)
    require(0 <= rank < size, "RANK", f"in [0, {size}), with WORLD_SIZE = {size}", rank, hint)
    require(local_rank <= rank, "LOCAL_RANK", f"at most RANK = {rank}", local_rank, hint)
    if size > 1 and by_environment:
        for name in ("MASTER_ADDR", "MASTER_PORT"):
            require(name in environment, name, "set where WORLD_SIZE is above 1", environment.get(name), hint)
    return rank, size, local_rank


def _device_of(device: torch.device, local_rank: int) -> torch.device:
    """The device of one of several processes.

    Raises:
        ConfigError: if there is none for it.
    """
    if device.type == "mps":
        message = "run.device must be cpu or cuda in several processes, got 'mps'"
        raise ConfigError(message, hint="start one process, without torchrun")
    if device.type == "cpu":
        return device
    count = torch.cuda.device_count()
    hint = f"torchrun --nproc-per-node={count}, or run.device=cpu"
    require(local_rank < count, "LOCAL_RANK", f"below the {count} CUDA devices of this machine", local_rank, hint)
    return torch.device("cuda", local_rank)


def agree(world: World, *counts: int) -> tuple[int, ...]:
    """The sum of each of some whole numbers over all processes, the same for all of them.

    It is what a step needs to know of the others: how many targets there are, and whether somebody got a signal.

    Cost: one message between the CPUs, some 0.1 ms on one machine; the device is not waited for.
    """
    if world.size == 1:
        return counts
    total_N = torch.tensor(counts, dtype=torch.int64)
    dist.all_reduce(total_N)
    return tuple(int(count) for count in total_N)


def sum_over(world: World, tensor: Tensor) -> Tensor:
    """The tensor itself, which then holds the sum over all processes; on CUDA nobody waits for it."""
    if world.size > 1:
        dist.all_reduce(tensor)
    return tensor


def barrier(world: World) -> None:
    """Returns when all processes have come here."""
    agree(world, 0)


def broadcast_text(world: World, text: str) -> str:
    """Main's text, for all of them; what the others pass counts for nothing."""
    if world.size == 1:
        return text
    data = text.encode() if world.is_main else b""
    (length,) = agree(world, len(data))
    data_N = torch.zeros(length, dtype=torch.uint8)
    if world.is_main and data:
        data_N = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    dist.broadcast(data_N, src=0)
    return data_N.numpy().tobytes().decode()


@contextmanager
def together(world: World) -> Iterator[None]:
    """What each process does by itself, with no word to the others within; where one of them fails, all do.

    An error goes up in the process that it happened in; the others raise that somebody failed, in place of waiting in
    vain or going on alone.

    Raises:
        LmError: if it failed in another process.
    """
    try:
        yield
    except BaseException:
        with suppress(RuntimeError):  # the others may be gone; what went wrong here says more than that
            agree(world, 1)
        raise
    (failed,) = agree(world, 0)
    if failed:
        raise LmError(
            f"process {world.rank} of {world.size}: the others must succeed, got an error in {failed} of them",
            hint="the message of the process that failed first says why",
        )


@contextmanager
def main_first(world: World) -> Iterator[None]:
    """Main goes through alone, and then the others all at once: for what is made once and found by the rest.

    Raises:
        LmError: in the others, if main failed.
    """
    if world.is_main:
        with together(world):
            yield
        return
    with together(world):
        pass
    yield


def shared(objective: nn.Module, kind: Literal["ddp", "fsdp"], world: World, dtype: torch.dtype) -> nn.Module:
    """The objective, shared out over all processes; call it in its place. Build the optimizer after it.

    After a backward pass each parameter's gradient is the SUM of those of all processes. So where each divides the
    nats of its own targets by the count of all targets of the step, it is the gradient of the mean over all of them.

    Args:
        objective: a `lm.loss.Objective` with the same weights in each process, on its device; compiled or not.
        kind: "ddp", each process holds the whole model, or "fsdp", each holds a part of every tensor of it and of the
            gradients and the optimizer, and the whole of one block at a time.
        world: one process gets the objective itself.
        dtype: of the products, with "fsdp": the weights travel in it; gradients travel, and all is kept, in float32.

    Raises:
        ConfigError: if training changes buffers of the model, which would then be those of a part of the batch; or if
            "fsdp" is asked for a model that is not made of blocks.
    """
    if world.size == 1:
        return objective
    _require_no_statistics(cast("nn.Module", objective.model), world)
    if kind == "fsdp":
        return _fsdp(objective, world, dtype)
    # No buffer ever changes, so none is sent along; torch 2.13 has another name for that.
    names = inspect.signature(DistributedDataParallel.__init__).parameters
    sending = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
    settings: dict[str, Any] = {"gradient_as_bucket_view": True, sending: False}
    ddp = DistributedDataParallel(objective, **settings)
    ddp.register_comm_hook(None, _sum_up)  # in the place of DDP's own, which takes the mean
    return ddp


def _require_no_statistics(model: nn.Module, world: World) -> None:
    saved = model.state_dict()
    changing = [name for name, _ in model.named_buffers() if name in saved]
    if changing:
        kind = type(model).__name__
        message = f"WORLD_SIZE must be 1 for {kind}, whose {changing[0]} is of the whole batch, got {world.size}"
        raise ConfigError(message, hint="start one process, without torchrun")


def _sum_up(_: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore[name-defined]
    """The sum of a bucket of gradients over all processes.

    gloo adds in an order that depends on the place in the bucket, and DDP makes other buckets after the first step. One
    gradient at a time, a resumed run has the sums of an unbroken one.
    """
    buffer = bucket.buffer()
    if buffer.is_cuda:
        work = dist.all_reduce(buffer, async_op=True)
        summed: torch.futures.Future[Tensor] = work.get_future().then(lambda done: done.value()[0])
        return summed
    for gradient in bucket.gradients():
        dist.all_reduce(gradient)
    summed = torch.futures.Future()
    summed.set_result(buffer)
    return summed


def _fsdp(objective: nn.Module, world: World, dtype: torch.dtype) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    model = objective.model
    blocks = getattr(model, "blocks", None) if isinstance(model, CausalTransformer) else None
    hint = "--set run.parallel=ddp"
    require(isinstance(blocks, nn.ModuleList), "run.parallel", f"ddp for {type(model).__name__}", "fsdp", hint)
    mesh = init_device_mesh(world.device.type, (world.size,))
    mixed = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    # A copy, since FSDP waits at what goes out, and warns of views: what were written into one would pass by it.
    objective.register_forward_hook(lambda module, inputs, losses_BT: losses_BT.clone())
    for module in (*blocks, objective):  # type: ignore[misc]
        fully_shard(module, mesh=mesh, mp_policy=MixedPrecisionPolicy() if dtype == torch.float32 else mixed)
    # What is only evaluated gets no backward pass, which would give the outermost tensors back.
    objective.register_forward_hook(lambda module, *_: None if torch.is_grad_enabled() else module.reshard())
    for module in objective.modules():
        if isinstance(module, FSDPModule):  # the sum, where FSDP would take the mean
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    return objective


@contextmanager
def accumulating(module: nn.Module, *, last: bool) -> Iterator[None]:
    """Within, forward and backward of one micro batch; only those of the last send gradients to the others.

    Args:
        module: what `shared` gave.
        last: whether it is the last micro batch of its step.
    """
    with_others: AbstractContextManager[object] = nullcontext()
    if isinstance(module, DistributedDataParallel):
        with_others = nullcontext() if last else module.no_sync()
    else:
        sync: Any = getattr(module, "set_requires_gradient_sync", None)  # FSDP's; importing its class takes long
        if sync is not None:
            sync(last)
    with with_others:
        yield


@torch.no_grad()
def clip_gradients(module: nn.Module, limit: float) -> Tensor:
    """The norm of the whole gradient before it was scaled down to `limit`, a scalar; nobody waits for the device.

    Args:
        module: what `shared` gave, or any other.
        limit: the highest norm; infinite to clip nothing.
    """
    parameters = list(module.parameters())
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    norm = whole(norm)
    torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return norm


def is_cut(tensor: Tensor) -> bool:
    """Whether other processes hold parts of it (a `DTensor`, whose import takes long)."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Any) -> Tensor:
    """The tensor with the parts that other processes hold; all must ask. One that is not cut up stays as it is."""
    full: Tensor = tensor.full_tensor() if is_cut(tensor) else tensor
    return full


def own_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: all of it, where it is not cut up."""
    local: Any = getattr(tensor, "to_local", None)
    return tensor if local is None else local()


def gathered(model: nn.Module, world: World) -> dict[str, Tensor]:
    """All tensors of a model's state, whole, for main, one after the other; nothing for the others. All must ask.

    It is how main samples from a model of which it holds only a part: out of a bare one that loads them.
    """
    tensors = {}
    for name, tensor in model.state_dict().items():
        full = whole(tensor.detach())
        if world.is_main:
            tensors[name] = full
    return tensors
