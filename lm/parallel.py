"""Where a run computes, in which precision and with how many threads. Several processes (torchrun) are still to
come, and refused until then.

The only file that asks the machine which devices it has.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from lm.errors import require


def require_one_process() -> None:
    """Nothing, where this process is alone.

    Raises:
        ConfigError: if torchrun started several; each would train the whole run, into one folder.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    require(world_size == 1, "WORLD_SIZE", "1, since lm trains in one process so far", world_size)


def pick_device(name: str) -> torch.device:
    """The device of that name.

    Args:
        name: "cpu", "cuda", "mps", or "auto" for the first of CUDA, MPS and the CPU that this machine has.

    Raises:
        ConfigError: if the name is no device, or the machine has none of that kind.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    names = ["auto", *present]
    require(name in names, "run.device", f"one of {', '.join(names)}", name)
    if name == "auto":
        name = next(kind for kind, here in present.items() if here)
    here = [kind for kind in present if present[kind]]
    require(
        present[name],
        "run.device",
        f"one that this machine has ({', '.join(here)})",
        name,
        "take auto or cpu",
    )
    return torch.device(name)


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of matrix products on a device.

    Args:
        name: "float32", "bfloat16" (CUDA only), or "auto": bfloat16 where CUDA has it, else float32.
        device: where the run computes.

    Raises:
        ConfigError: if bfloat16 is asked of another device than CUDA; nothing was measured to be gained
            there.
    """
    require(name in ("auto", "float32", "bfloat16"), "run.dtype", "one of auto, float32, bfloat16", name)
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    fits = name == "float32" or device.type == "cuda"
    require(fits, "run.dtype", f"auto or float32 on run.device = {device.type}", name, "--set run.dtype=auto")
    return torch.float32 if name == "float32" else torch.bfloat16


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """A context in which matrix products run in `dtype`; weights, gradients and the loss stay float32."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype)


WORTH_SHARING = 200_000_000
"""The products of a step's forward pass from which on threads gain time on a CPU.

Below, they wait for each other longer than they work: on two busy cores the MLP's step takes 0.7 ms with one thread and
4.9 ms with two (benchmarks/LOG.md).
"""


@contextmanager
def fitting_threads(products: int) -> Iterator[None]:
    """Within, torch computes with one thread on the CPU if the work is too small to share, else with those it has.

    Args:
        products: of one forward pass, about parameters times targets.
    """
    before = torch.get_num_threads()
    if products < WORTH_SHARING:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
