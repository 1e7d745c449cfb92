"""What holds on a CUDA device: one loop, the same figures, nobody waits. `pytest -m gpu tests/lm/test_cuda.py`.

Where it makes sense a test has a twin on the CPU, which shows that the test itself is right.
"""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bpetok
import bpetok.shards
from lm.checkpoint import latest, load
from lm.config import Config, DataConfig
from lm.errors import NonFiniteError, OutOfMemory
from lm.events import StepEvent
from lm.loss import Objective
from lm.models import LADDER
from lm.models.gpt2 import GPT2Config
from lm.models.modern import ModernConfig
from lm.train import train

SmallRun = Callable[..., Config]
ON = [pytest.param("cpu", id="cpu"), pytest.param("cuda", marks=pytest.mark.gpu, id="cuda")]
MODELS = {
    "gpt2": GPT2Config(context=128, layers=1, heads=4, width=128),
    "modern": ModernConfig(context=128, layers=1, heads=4, width=128),
}
VOCAB = 1_000
compiles = pytest.mark.filterwarnings("default")  # torch warns of itself and of TF32 when it compiles


@pytest.fixture(autouse=True)
def _as_it_was() -> Any:
    """Leaves torch's precision as it found it."""
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def on(device: str, config: Config, **run: Any) -> Config:
    return dataclasses.replace(config, run=dataclasses.replace(config.run, device=device, **run))


def losses_of(config: Config, folder: Path) -> list[float]:
    losses = []

    def note(event: object) -> None:
        if isinstance(event, StepEvent):
            losses.append(event.loss)

    train(config, folder, on_event=note)
    return losses


@pytest.mark.parametrize("device", ON)
@pytest.mark.parametrize("rung", ["gpt2", "modern", "attention", "wavenet"])
def test_a_float32_run_has_the_losses_of_the_cpus(tmp_path: Path, small_run: SmallRun, rung: str, device: str) -> None:
    torch.set_float32_matmul_precision("highest")
    config = small_run(rung, steps=8)
    if hasattr(config.model, "dropout"):  # another generator drops other values
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, dropout=0.0))
    expected = losses_of(on("cpu", config, dtype="float32"), tmp_path / "cpu")
    got = losses_of(on(device, config, dtype="float32"), tmp_path / "here")
    assert len(got) == 8 and got == pytest.approx(expected, abs=2e-3)
    assert got[0] == pytest.approx(expected[0], abs=1e-5)


@pytest.mark.parametrize("device", ON)
def test_a_checkpoint_of_one_device_is_read_on_another(tmp_path: Path, small_run: SmallRun, device: str) -> None:
    config = on(device, small_run("gpt2"), dtype="float32")
    train(config, tmp_path)
    checkpoint = latest(tmp_path / "checkpoints")
    assert checkpoint
    tokenizer = bpetok.load(tmp_path / "tokenizer.bpetok") if (tmp_path / "tokenizer.bpetok").exists() else None
    tokenizer = tokenizer or bpetok.load(config.data.tokenizer)
    ids = torch.arange(8)[None]
    logits = []
    for there in ("cpu", device):
        model = LADDER["gpt2"].build(config.model, tokenizer.n_vocab).to(there).eval()
        load(checkpoint, model, rung="gpt2", fingerprint=tokenizer.fingerprint)
        with torch.no_grad():
            logits.append(model(ids.to(there)).cpu())
    assert torch.allclose(logits[0], logits[1], atol=1e-4)


def gradients(objective: torch.nn.Module, ids: torch.Tensor, dtype: torch.dtype) -> tuple[float, list[torch.Tensor]]:
    """The mean loss and its gradients; `objective` may be compiled."""
    parameters = list(objective.parameters())
    for parameter in parameters:
        parameter.grad = None
    inputs_BT, targets_BT = ids
    with torch.autocast(ids.device.type, dtype=dtype, enabled=dtype != torch.float32):
        nats = objective(inputs_BT, targets_BT)
    loss = nats / targets_BT.numel()
    loss.backward()
    return loss.item(), [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]


@compiles
@pytest.mark.parametrize("device", ON)
@pytest.mark.parametrize("rung", MODELS)
def test_the_compiled_objective_is_one_graph_near_the_eager_one_in_bfloat16(
    rung: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lm.loss.CHUNK_LOGITS", 4 * VOCAB)  # so that the chunked head is in the graph
    monkeypatch.setattr("lm.linear_loss.CHUNK_LOGITS", 200 * VOCAB)
    torch.manual_seed(0)
    objective = Objective(LADDER[rung].build(MODELS[rung], VOCAB)).to(device)
    ids = torch.randint(VOCAB, (2, 4, 128), device=device)
    backend = "inductor" if device == "cuda" else "aot_eager"
    compiled = torch.compile(objective, fullgraph=True, dynamic=False, backend=backend)
    loss, exact = gradients(objective, ids, torch.float32)
    near, eager = gradients(objective, ids, torch.bfloat16)
    got, fused = gradients(compiled, ids, torch.bfloat16)
    assert near == pytest.approx(loss, abs=2e-2) and got == pytest.approx(loss, abs=2e-2)
    for one, other, gradient in zip(exact, eager, fused, strict=True):
        if one.norm() > 1e-6:
            rounding = float((other - one).norm() / one.norm())
            assert float((gradient - one).norm() / one.norm()) < 2 * rounding + 1e-2


@pytest.mark.gpu
def test_the_logits_of_a_large_batch_are_never_whole_in_the_devices_memory() -> None:
    torch.manual_seed(0)
    config = GPT2Config(context=1024, layers=1, heads=2, width=128)
    objective = Objective(LADDER["gpt2"].build(config, 50_257)).to("cuda")
    ids = torch.randint(50_257, (2, 32, 1024), device="cuda")
    gradients(objective, ids, torch.bfloat16)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    gradients(objective, ids, torch.bfloat16)
    whole = ids[0].numel() * 50_304 * 4
    assert torch.cuda.max_memory_allocated() - before < 0.6 * whole


@pytest.fixture
def larger_run(tmp_path: Path, small_run: SmallRun) -> Config:
    """A run whose steps keep a card busy for some tens of milliseconds."""
    pairs = [divmod(number, 256) for number in range(VOCAB - 257)]
    tokenizer = bpetok.Tokenizer(bpetok.Vocab.from_merges(pairs, pattern=None, special_tokens=["<|endoftext|>"]))
    tokenizer.save(tmp_path / "tokenizer.bpetok")
    draws = np.random.default_rng(0)
    documents = [draws.integers(0, 256, 3000, dtype=np.uint8).tobytes() for _ in range(400)]
    bpetok.shards.write(documents, tokenizer, tmp_path / "shards")
    config = small_run("gpt2", steps=12, rows=64, accumulation=4, eval_batches=1)
    data = DataConfig(shards=tmp_path / "shards", tokenizer=tmp_path / "tokenizer.bpetok")
    return dataclasses.replace(config, data=data, model=GPT2Config(context=128, layers=12, heads=8, width=1024))


@pytest.mark.gpu
def test_the_host_reports_a_step_while_the_card_computes_the_next(tmp_path: Path, larger_run: Config) -> None:
    """Whatever waits for the stream, an `.item()` or a copy to the host, would find it idle at the event."""
    busy = []

    def note(event: object) -> None:
        if isinstance(event, StepEvent) and 3 < event.step < 11:  # at the end the host waits for all of it
            busy.append(not torch.cuda.current_stream().query())

    train(on("cuda", larger_run, dtype="bfloat16"), tmp_path / "run", on_event=note)
    assert len(busy) == 7 and sum(busy) >= 6, busy


@pytest.mark.gpu
def test_what_does_not_fit_the_card_is_an_error_that_says_what_to_lower(tmp_path: Path, larger_run: Config) -> None:
    total = torch.cuda.get_device_properties(0).total_memory
    held = torch.cuda.memory_allocated()
    config = dataclasses.replace(larger_run, batch=dataclasses.replace(larger_run.batch, rows=512, accumulation=1))
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((held + 6e9) / total)
    try:
        with pytest.raises(OutOfMemory, match=r"must fit the memory of cuda(.|\n)*batch.rows"):
            train(on("cuda", config, dtype="bfloat16"), tmp_path / "run")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


@pytest.mark.parametrize("device", ON)
def test_a_loss_that_is_not_finite_leaves_the_weights_though_the_host_looks_late(
    tmp_path: Path, small_run: SmallRun, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 0
    kept: list[torch.nn.Module] = []
    real = Objective.forward

    def broken(self: Objective, *arguments: Any, **settings: Any) -> torch.Tensor:
        nonlocal steps
        kept[:] = [self.model]
        steps += self.model.training
        nats = real(self, *arguments, **settings)
        return nats * math.nan if self.model.training and steps > 3 else nats

    monkeypatch.setattr(Objective, "forward", broken)
    with pytest.raises(NonFiniteError, match="at step 4"):
        train(on(device, small_run("gpt2", steps=20, accumulation=1), dtype="float32"), tmp_path)
    assert steps <= 6, "the host looks a step late, no more"
    assert all(parameter.isfinite().all() for parameter in kept[0].parameters())


@compiles
@pytest.mark.parametrize("device", ON)
def test_torch_compile_runs_the_loop_to_nearly_the_same_losses(
    tmp_path: Path, small_run: SmallRun, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_float32_matmul_precision("highest")
    if device == "cpu":  # no C++ compiler is asked for
        real = torch.compile
        monkeypatch.setattr(torch, "compile", lambda module, **kind: real(module, backend="aot_eager", **kind))
    config = on(device, small_run("gpt2", steps=5), dtype="float32")
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, dropout=0.0))
    plain = losses_of(config, tmp_path / "plain")
    compiled = losses_of(on(device, config, compile=True), tmp_path / "compiled")
    assert compiled == pytest.approx(plain, abs=1e-4)
