import re

import pytest
import torch

from lm.devices import PEAKS, dense_peak, device_name


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA A100-PCIE-40GB", 312),
        ("A100-SXM4-40GB", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H200", 989),
        ("NVIDIA A10", 125),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362.05),
        ("NVIDIA B200", 2250),
        ("NVIDIA GeForce RTX 3090", 71),
        ("NVIDIA GeForce RTX 4090", 165.2),
    ],
)
def test_known_names_have_their_dense_bfloat16_peak(name: str, tera: float) -> None:
    assert dense_peak(name, torch.bfloat16) == pytest.approx(tera * 1e12)


@pytest.mark.parametrize(
    "name",
    [
        "cpu",
        "mps",
        "",
        "NVIDIA H200 MIG 1g.18gb",
        "NVIDIA A100-SXM4-40GB MIG 3g.20gb",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA A10G",
        "NVIDIA A1000",
        "NVIDIA H20",
        "NVIDIA H100",
    ],
)
def test_what_is_not_in_the_table_is_unknown(name: str) -> None:
    assert all(dense_peak(name, dtype) is None for dtype in (torch.bfloat16, torch.float16, torch.float32))


def test_no_name_has_two_peaks_and_every_peak_its_source() -> None:
    names = [re.sub(r"\(([^|)]*)[^)]*\)\??|\[(.)[^]]*\]", r"\1\2", pattern) for pattern in PEAKS]
    for name in names:
        assert sum(re.fullmatch(pattern, name) is not None for pattern in PEAKS) == 1, name
    assert all(peaks.source.startswith("NVIDIA") for peaks in PEAKS.values())


def test_narrower_numbers_are_never_slower() -> None:
    for peaks in PEAKS.values():
        order = [peaks.half, peaks.bfloat16, peaks.tf32, peaks.float32]
        known = [peak for peak in order if peak is not None]
        assert known == sorted(known, reverse=True), peaks


def test_dtypes_have_their_own_peaks() -> None:
    h200 = "NVIDIA H200"
    assert dense_peak(h200, torch.float32) == 67e12
    assert dense_peak(h200, torch.float32, tf32=True) == 494.5e12
    assert dense_peak(h200, torch.float64) is None
    v100 = "Tesla V100-SXM2-16GB"
    assert dense_peak(v100, torch.bfloat16) is None, "it has no such unit"
    assert dense_peak(v100, torch.float16) == 125e12
    assert dense_peak(v100, torch.float32, tf32=True) == 15.7e12, "nor TF32"


def test_a_cpu_is_called_so() -> None:
    assert device_name(torch.device("cpu")) == "cpu"


@pytest.mark.gpu
def test_this_machines_card_is_in_the_table() -> None:
    name = device_name(torch.device("cuda"))
    if "H200" not in name:
        pytest.skip(f"only an H200 is expected in the table, here is {name}")
    assert dense_peak(name, torch.bfloat16) == 989e12
