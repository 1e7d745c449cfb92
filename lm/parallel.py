"""Where a process computes, in which precision and with how many threads; `lm.world` is what several are together.

The only file that asks the machine which devices it has.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from lm.errors import require


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
        name: "float32"; "tf32", float32 whose products round to TensorFloat-32 (CUDA only, see `set_tf32`); "bfloat16"
            (CUDA, and CPUs with AMX); or "auto": bfloat16 where CUDA has it, else float32.
        device: where the run computes.

    Raises:
        ConfigError: if tf32 is asked of another device than CUDA, or bfloat16 of a CPU without AMX, where it loses.
    """
    names = ("auto", "float32", "tf32", "bfloat16")
    require(name in names, "run.dtype", f"one of {', '.join(names)}", name)
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    fits = name == "float32" or device.type == "cuda" or (name == "bfloat16" and _has_amx(device))
    require(fits, "run.dtype", f"auto or float32 on run.device = {device.type}", name, "--set run.dtype=auto")
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def _has_amx(device: torch.device) -> bool:
    """Whether a CPU has instructions for products of bfloat16 matrices: six times as fast (benchmarks/LOG.md)."""
    probe = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return device.type == "cpu" and probe is not None and bool(probe())


def set_tf32(name: str, device: torch.device) -> None:
    """Lets CUDA round the factors of float32 products to 10 bits of mantissa, unless `run.dtype` is "float32".

    With bfloat16 it reaches only what autocast leaves in float32. It is a setting of the whole process.
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision("highest" if name == "float32" else "high")


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
