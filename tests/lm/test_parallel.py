import pytest
import torch

from lm.errors import ConfigError
from lm.parallel import autocast, pick_device, pick_dtype, set_tf32

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def pretend(monkeypatch: pytest.MonkeyPatch, *, cuda: bool, mps: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_auto_takes_the_best_device_there_is(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, expected: str
) -> None:
    pretend(monkeypatch, cuda=cuda, mps=mps)
    assert pick_device("auto").type == expected


def test_a_device_that_the_machine_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, cuda=False, mps=False)
    assert pick_device("cpu") == CPU
    with pytest.raises(ConfigError, match=r"run.device must be one that this machine has \(cpu\), got 'cuda'\nhint: "):
        pick_device("cuda")
    with pytest.raises(ConfigError, match=r"run.device must be one of auto, cuda, mps, cpu, got 'tpu'"):
        pick_device("tpu")


def test_bfloat16_is_for_cuda_and_for_cpus_with_amx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert pick_dtype("auto", CPU) == pick_dtype("float32", CPU) == pick_dtype("float32", CUDA) == torch.float32
    assert pick_dtype("tf32", CUDA) == torch.float32
    assert pick_dtype("auto", CUDA) == pick_dtype("bfloat16", CUDA) == torch.bfloat16
    with pytest.raises(ConfigError, match=r"run.dtype must be auto or float32 on run.device = cpu, got 'bfloat16'"):
        pick_dtype("bfloat16", CPU)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert (pick_dtype("bfloat16", CPU), pick_dtype("auto", CPU)) == (torch.bfloat16, torch.float32)
    with pytest.raises(ConfigError, match=r"run.dtype must be auto or float32 on run.device = cpu, got 'tf32'"):
        pick_dtype("tf32", CPU)
    with pytest.raises(ConfigError, match=r"run.dtype must be one of auto, float32, tf32, bfloat16, got 'int8'"):
        pick_dtype("int8", CPU)


def test_autocast_changes_products_only_where_it_is_asked_to() -> None:
    matrix = torch.ones(2, 2)
    with autocast(CPU, torch.float32):
        assert (matrix @ matrix).dtype == torch.float32
    with autocast(CPU, torch.bfloat16):
        assert (matrix @ matrix).dtype == torch.bfloat16


def test_products_are_rounded_on_cuda_alone_unless_float32_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    set_to: list[str] = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", set_to.append)
    for name, device in (("tf32", CPU), ("auto", CPU), ("float32", CUDA), ("tf32", CUDA), ("bfloat16", CUDA)):
        set_tf32(name, device)
    assert set_to == ["highest", "high", "high"]
