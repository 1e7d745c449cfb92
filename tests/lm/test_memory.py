import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lm.config import Config
from lm.memory import (
    Memory,
    _left_in_group,
    advice_for_out_of_memory,
    free_memory,
    is_out_of_memory,
    memory_of,
    rows_that_fit,
)
from lm.models import LADDER
from lm.models.gpt2 import GPT2Config
from lm.models.modern import ModernConfig
from lm.rehearsal import Rehearsal

CPU, FLOAT = torch.device("cpu"), torch.float32
GPT = GPT2Config(context=64, layers=2, heads=2, width=64)
MODERN = ModernConfig(context=64, layers=2, heads=2, width=64)
VOCAB = 1000


def allocated(config: Config, vocab_size: int) -> int:
    """The most bytes that torch's allocator had given out at a time, by its profiler, in two real steps."""
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        parts = Rehearsal(config, vocab_size, CPU, FLOAT)
        for _ in range(2):
            parts.step(min(config.batch.accumulation, 2))
        parts.evaluate()
    events = profile.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    now = peak = 0
    for _, change in changes:
        now += change
        peak = max(peak, now)
    return peak


@pytest.fixture
def with_model(small_run: Callable[..., Config]) -> Callable[..., Config]:
    def make(model: GPT2Config | ModernConfig, kind: str = "adamw", **settings: object) -> Config:
        rung = "gpt2" if isinstance(model, GPT2Config) else "modern"
        config = small_run(rung, **settings)
        optimizer = dataclasses.replace(config.optimizer, kind=kind)
        return dataclasses.replace(config, model=model, optimizer=optimizer)

    return make


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        (GPT, {"accumulation": 1}),
        (GPT, {"accumulation": 1, "rows": 16}),
        (GPT, {"accumulation": 1, "rows": 32}),
        (GPT, {"accumulation": 4}),
        (GPT, {"rows": 16, "recompute": True}),
        (dataclasses.replace(GPT, dropout=0.1), {"accumulation": 1}),
        (MODERN, {"accumulation": 1}),
        (MODERN, {"accumulation": 2, "kind": "muon", "rows": 1}),
    ],
)
def test_a_step_takes_what_was_counted_without_taking_it(with_model, model, settings) -> None:
    config = with_model(model, **settings)
    counted = memory_of(config, VOCAB, CPU, FLOAT)
    assert counted.tensors == pytest.approx(allocated(config, VOCAB), rel=0.02)
    assert counted == memory_of(config, VOCAB, CPU, FLOAT), "the same each time"


def test_the_masks_of_documents_are_counted(with_model) -> None:
    config = with_model(GPT, accumulation=1)
    apart = dataclasses.replace(config, batch=dataclasses.replace(config.batch, documents="apart"))
    counted = memory_of(apart, VOCAB, CPU, FLOAT)
    assert counted.tensors == pytest.approx(allocated(apart, VOCAB), rel=0.02)
    assert counted.tensors > memory_of(config, VOCAB, CPU, FLOAT).tensors


@pytest.mark.parametrize("rung", LADDER)
def test_every_rung_can_be_counted(small_run, rung: str) -> None:
    config = small_run(rung)
    counted = memory_of(config, 300, CPU, FLOAT)
    weights = LADDER[rung].build(config.model, 300).expected_parameters()
    assert counted.parameters >= 4 * weights
    assert counted.tensors == pytest.approx(allocated(config, 300), rel=0.1)  # next to nothing, so odds and ends count


def test_the_parts_are_told_apart(with_model) -> None:
    weights = 4 * LADDER["gpt2"].build(GPT, VOCAB).expected_parameters()
    one = memory_of(with_model(GPT, accumulation=1), VOCAB, CPU, FLOAT)
    assert one.parameters == weights
    assert one.optimizer == pytest.approx(2 * weights, rel=0.001)  # and a step count for each
    two = memory_of(with_model(GPT, accumulation=2), VOCAB, CPU, FLOAT)
    assert two.gradients == weights, "those of the first micro batch are there while the second is run"
    assert one.peak == one.tensors + one.allocator == sum(dataclasses.asdict(one).values())
    plain = memory_of(with_model(GPT, kind="sgd"), VOCAB, CPU, FLOAT)
    assert plain.optimizer == 0
    assert memory_of(with_model(GPT, rows=16, recompute=True), VOCAB, CPU, FLOAT).activations < (
        memory_of(with_model(GPT, rows=16), VOCAB, CPU, FLOAT).activations
    )


def test_counting_leaves_generator_and_collector_as_they_were(with_model) -> None:
    before = torch.get_rng_state()
    memory_of(with_model(GPT), VOCAB, CPU, FLOAT)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.zeros(1).item() == 0, "tensors have bytes again"


PROCESS = """
import sys, torch, bpetok.memory
from lm.config import load_config
from lm.rehearsal import Rehearsal
from lm.estimate import _warmed_up
config = load_config(sys.argv[1])
before = _warmed_up(torch.device("cpu"))
parts = Rehearsal(config, 4096, torch.device("cpu"), torch.float32)
for _ in range(4):
    parts.step(config.batch.accumulation)
parts.evaluate()
print(before, bpetok.memory.peak())
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the highest mark is read from Linux' /proc")
@pytest.mark.parametrize(("width", "rows", "accumulation"), [(256, 8, 1), (256, 24, 1), (512, 8, 2)])
def test_a_process_grows_by_a_tenth_more_or_less_than_predicted(
    with_model, tmp_path: Path, width: int, rows: int, accumulation: int
) -> None:
    from lm.config import dump_config

    model = GPT2Config(context=128, layers=4, heads=4, width=width)
    config = with_model(model, rows=rows, accumulation=accumulation)
    (tmp_path / "run.toml").write_text(dump_config(config))
    command = [sys.executable, "-c", PROCESS, str(tmp_path / "run.toml")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    before, most = map(int, done.stdout.split())
    predicted = before + memory_of(config, 4096, CPU, FLOAT).peak
    assert predicted == pytest.approx(most, rel=0.1)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("settings", [{}, {"recompute": True}, {"accumulation": 1}])
def test_a_card_takes_what_was_counted(with_model, dtype: torch.dtype, settings: dict[str, object]) -> None:
    config = with_model(GPT2Config(context=512, layers=6, heads=8, width=512), rows=16, **settings)
    device = torch.device("cuda")
    counted = memory_of(config, 50_257, device, dtype)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    parts = Rehearsal(config, 50_257, device, dtype)
    for _ in range(3):
        parts.step(config.batch.accumulation)
    parts.evaluate()
    assert counted.peak == pytest.approx(torch.cuda.max_memory_allocated() - before, rel=0.1)


def test_the_most_rows_that_fit_leave_the_step_as_it_is(small_run) -> None:
    config = small_run(rows=12, accumulation=2)
    asked = []

    def peak_of(rows: int) -> int:
        asked.append(rows)
        return 100 + 10 * rows

    assert rows_that_fit(config, 220, peak_of) == 12
    assert rows_that_fit(config, 219, peak_of) == 8
    assert rows_that_fit(config, 150, peak_of) == 4
    assert rows_that_fit(config, 110, peak_of) == 1
    assert rows_that_fit(config, 109, peak_of) is None
    assert all(24 % rows == 0 for rows in asked)


def test_an_error_for_want_of_memory_is_known_as_one() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError()) and is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("can't allocate memory"))


def test_the_advice_begins_with_what_changes_no_result(with_model, small_run) -> None:
    advice = advice_for_out_of_memory(with_model(GPT, rows=12, accumulation=2), CPU)
    assert advice.startswith("lower --set batch.rows=6 --set batch.accumulation=4 (the same steps); or ")
    assert "--set run.recompute=true" in advice and "model.width or model.layers or model.context" in advice
    assert "batch.rows=5 --set batch.accumulation=6" in advice_for_out_of_memory(with_model(GPT, rows=15), CPU)
    last = advice_for_out_of_memory(with_model(GPT, rows=1, recompute=True), torch.device("cuda"))
    assert "batch.rows" not in last and "recompute" not in last and "nvidia-smi" in last
    assert "recompute" not in advice_for_out_of_memory(small_run("mlp"), CPU)


def test_free_memory_is_what_machine_and_container_leave(tmp_path: Path) -> None:
    assert sys.platform != "linux" or (free_memory(CPU) or 0) > 2**20
    (tmp_path / "memory.current").write_text("30\n")
    (tmp_path / "memory.max").write_text("100\n")
    assert _left_in_group(tmp_path) == 70
    (tmp_path / "memory.max").write_text("max\n")
    assert _left_in_group(tmp_path) is None and _left_in_group(tmp_path / "none") is None


def test_all_of_a_memory_is_its_parts() -> None:
    memory = Memory(parameters=1, gradients=2, optimizer=4, activations=8, allocator=16)
    assert (memory.tensors, memory.peak) == (15, 31)
