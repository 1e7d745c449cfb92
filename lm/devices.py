"""What GPUs can compute at most, by the names that torch gives them.

All figures are dense. Many data sheets print in their place those for 2:4 sparse matrices, which are twice as high:
half of those stands here. A name that is not here word for word is unknown: a slice of a card (MIG), a laptop's or a
regional version has other peaks.
"""

import re
from dataclasses import dataclass
from typing import final

import torch


@final
@dataclass(frozen=True, kw_only=True)
class Peaks:
    """The dense peaks of a device, in FLOP/s; None where it has no such unit.

    Args:
        half: float16 products, summed in float32.
        bfloat16: bfloat16 products, summed in float32.
        tf32: float32 products with operands rounded to TF32.
        float32: float32 products outside of the tensor cores.
        source: where the figures stand.
    """

    half: float
    bfloat16: float | None
    tf32: float | None
    float32: float
    source: str


def dense_peak(device_name: str, dtype: torch.dtype, *, tf32: bool = False) -> float | None:
    """The most that a device computes, in FLOP/s.

    Args:
        device_name: as `torch.cuda.get_device_name` gives it.
        dtype: of the matrix products.
        tf32: whether float32 products may use TF32 (`torch.get_float32_matmul_precision()` is not "highest").

    Returns:
        None for a device that is not in the table, CPUs among them, and for a dtype that it has no unit for.

    >>> dense_peak("NVIDIA H200", torch.bfloat16)
    989000000000000.0
    >>> dense_peak("NVIDIA H200 MIG 1g.18gb", torch.bfloat16) is None
    True
    """
    peaks = next((peaks for pattern, peaks in PEAKS.items() if re.fullmatch(pattern, device_name)), None)
    if peaks is None:
        return None
    if dtype == torch.float32:
        return peaks.tf32 if tf32 and peaks.tf32 is not None else peaks.float32
    return {torch.bfloat16: peaks.bfloat16, torch.float16: peaks.half}.get(dtype)


def device_name(device: torch.device) -> str:
    """The name of a device: of a CUDA device the card's, else the kind's ("cpu", "mps")."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _sheet(half: float, tf32: float | None, float32: float, source: str, *, bfloat16: bool = True) -> Peaks:
    """Peaks from figures in TFLOP/s."""
    peak = half * 1e12
    return Peaks(
        half=peak,
        bfloat16=peak if bfloat16 else None,
        tf32=None if tf32 is None else tf32 * 1e12,
        float32=float32 * 1e12,
        source=source,
    )


_SPARSE = "; it prints the sparse figures for tensor cores"
_AMPERE = "NVIDIA, Ampere GA102 GPU Architecture whitepaper, appendix A"
_ADA = "NVIDIA, Ada GPU Architecture whitepaper, appendix A"
_BLACKWELL = "NVIDIA, RTX Blackwell GPU Architecture whitepaper, appendix A"

PEAKS: dict[str, Peaks] = {
    # Tesla and NVIDIA are left out of some names by older drivers.
    r"(Tesla )?V100-SXM2-(16|32)GB": _sheet(125, None, 15.7, "NVIDIA V100 data sheet", bfloat16=False),
    r"(Tesla )?V100-PCIE-(16|32)GB": _sheet(112, None, 14, "NVIDIA V100 data sheet", bfloat16=False),
    r"(Tesla |NVIDIA )?T4": _sheet(65, None, 8.1, "NVIDIA T4 data sheet", bfloat16=False),
    r"(NVIDIA )?A100(-SXM4|-SXM|-PCIE)?[- ][48]0GB( PCIe)?": _sheet(312, 156, 19.5, "NVIDIA A100 data sheet"),
    r"(NVIDIA )?A30": _sheet(165, 82, 10.3, "NVIDIA A30 data sheet"),
    r"(NVIDIA )?A40": _sheet(149.7, 74.8, 37.4, "NVIDIA A40 data sheet"),
    r"(NVIDIA )?A10": _sheet(125, 62.5, 31.2, "NVIDIA A10 data sheet"),
    r"NVIDIA L4": _sheet(121, 60, 30.3, "NVIDIA L4 data sheet" + _SPARSE),
    r"NVIDIA L40": _sheet(181.05, 90.5, 90.5, "NVIDIA L40 data sheet"),
    r"NVIDIA L40S": _sheet(362.05, 183, 91.6, "NVIDIA L40S data sheet"),
    r"NVIDIA H100 80GB HBM3": _sheet(989, 494.5, 67, "NVIDIA H100 data sheet, SXM" + _SPARSE),
    r"NVIDIA H100 PCIe": _sheet(756.5, 378, 51, "NVIDIA H100 data sheet, PCIe" + _SPARSE),
    r"NVIDIA H100 NVL": _sheet(835.5, 417.5, 60, "NVIDIA H100 data sheet, NVL" + _SPARSE),
    r"NVIDIA H200": _sheet(989, 494.5, 67, "NVIDIA H200 data sheet, SXM" + _SPARSE),
    r"NVIDIA H200 NVL": _sheet(835.5, 417.5, 60, "NVIDIA H200 data sheet, NVL" + _SPARSE),
    r"NVIDIA GH200 (480GB|96GB|144G HBM3e)": _sheet(989, 494.5, 67, "NVIDIA GH200 data sheet" + _SPARSE),
    r"NVIDIA B200": _sheet(2250, 1125, 75, "NVIDIA HGX B200 data sheet, an eighth" + _SPARSE),
    r"NVIDIA GB200": _sheet(2500, 1250, 80, "NVIDIA GB200 NVL72 data sheet, a 72nd" + _SPARSE),
    r"NVIDIA RTX A6000": _sheet(154.8, 77.4, 38.7, _AMPERE),
    r"NVIDIA GeForce RTX 3090": _sheet(71, 35.6, 35.6, _AMPERE),
    r"NVIDIA GeForce RTX 4090": _sheet(165.2, 82.6, 82.6, _ADA),
    r"NVIDIA GeForce RTX 5090": _sheet(209.5, 104.8, 104.8, _BLACKWELL),
}
"""The peaks of devices, by a pattern of the whole name. In the three GeForce cards, and only there, products that are
summed in float16 would be twice as fast; torch sums in float32.
"""
