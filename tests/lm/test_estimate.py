import dataclasses
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import lm.estimate
from lm.config import Config
from lm.estimate import Duration, estimate, measure_pace, seconds_per_step
from lm.models import LADDER
from lm.models.gpt2 import GPT2Config
from lm.train import train

CPU = torch.device("cpu")


class Clocked:
    """Parts of a run that take the time that they are told to."""

    def __init__(self, micro_batch: float, update: float, first: float = 0.0) -> None:
        self.now, self.waits = 0.0, 0
        self._micro_batch, self._update, self._first = micro_batch, update, first

    def clock(self) -> float:
        return self.now

    def accumulate(self, micro_batches: int) -> None:
        self.now += micro_batches * self._micro_batch + self._first
        self._first = 0.0

    def update(self) -> None:
        self.now += self._update

    def synchronize(self) -> None:
        self.waits += 1


def test_a_step_is_its_micro_batches_and_its_update_and_the_first_one_apart() -> None:
    parts = Clocked(micro_batch=0.5, update=0.25, first=30.0)
    seen: list[tuple[int, int]] = []
    pace = measure_pace(
        parts, 64, most_seconds=1000, clock=parts.clock, on_step=lambda done, total: seen.append((done, total))
    )
    assert (pace.micro_batch, pace.update) == (0.5, 0.25)
    assert pace.step(64) == 64 * 0.5 + 0.25
    assert pace.first == 30 + 64 * 0.5 + 0.25
    assert seen == [(done, 20) for done in range(1, 21)] and parts.waits == 40


def test_a_slow_machine_is_measured_on_three_steps() -> None:
    parts = Clocked(micro_batch=100.0, update=50.0)
    pace = measure_pace(parts, 1, clock=parts.clock)
    assert parts.waits == 6 and pace.step(1) == 150


def test_a_run_is_the_sum_of_its_parts() -> None:
    duration = Duration(
        opening=1.0, first_step=5.0, step=2.0, evaluation=10.0, checkpoint=3.0, steps=11, evaluations=2, checkpoints=4
    )
    assert duration.total == 1 + 5 + 20 + 20 + 12


def test_an_estimate_tells_what_the_run_then_is(small_run: Callable[..., Config], tmp_path: Path) -> None:
    config = small_run(steps=6, rows=4, accumulation=2, eval_every=2, eval_batches=1000, checkpoint_every=4)
    told = estimate(config)
    result = train(config, tmp_path / "run")
    assert told.tokens_per_step == 4 * 2 * 8 and told.tokens == 6 * told.tokens_per_step
    assert result.tokens <= told.tokens
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert told.duration is not None
    assert told.duration.evaluations == sum('"eval"' in line for line in lines) == 4
    saved = sorted((tmp_path / "run" / "checkpoints").iterdir())
    assert told.duration.checkpoints == len(saved) == 2
    size = sum((saved[0] / name).stat().st_size for name in ("model.safetensors", "optimizer.safetensors"))
    assert told.checkpoint_bytes == pytest.approx(size, rel=0.1)  # tiny tensors have long names
    assert told.parameters == LADDER["gpt2"].build(config.model, 300).expected_parameters()
    assert told.fits and told.mfu is None and told.tokens_per_second is not None and told.flops is not None
    assert told.device == "cpu" and told.dtype == "float32"


def test_epochs_are_counted_as_the_batches_go_through_them(small_run: Callable[..., Config]) -> None:
    from lm.data import open_data
    from lm.opening import open_batches

    config = small_run(steps=50, rows=4, accumulation=2)
    rows = open_batches(config, open_data(config)).blocks
    assert estimate(config, probe=False).epochs == pytest.approx(50 * 8 / rows)


def test_without_a_probe_no_step_is_made(small_run: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm.estimate, "_probe", lambda *_: pytest.fail("a probe"))
    told = estimate(small_run(), probe=False)
    assert told.duration is None and told.tokens_per_second is None and told.measured is None
    assert told.memory.peak > 0


def test_what_does_not_fit_is_not_tried_and_the_rows_that_fit_are_named(
    small_run: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_run(rows=12, accumulation=2)
    sizes = {
        rows: estimate(
            dataclasses.replace(config, batch=dataclasses.replace(config.batch, rows=rows)), probe=False
        ).memory.peak
        for rows in (6, 12)
    }
    monkeypatch.setattr(lm.estimate, "free_memory", lambda device: sizes[6])
    monkeypatch.setattr(lm.estimate, "_probe", lambda *_: pytest.fail("a probe"))
    told = estimate(config)
    assert (told.fits, told.rows) == (False, 6)
    monkeypatch.setattr(lm.estimate, "free_memory", lambda device: 1)
    assert estimate(config).rows == 0
    monkeypatch.setattr(lm.estimate, "free_memory", lambda device: None)
    assert estimate(config, probe=False).fits, "nobody knows"


@pytest.mark.parametrize("rung", ["bigram", "mlp", "batchnorm", "rnn", "attention", "modern"])
def test_rungs_of_all_kinds_are_estimated(small_run: Callable[..., Config], rung: str) -> None:
    told = estimate(small_run(rung, steps=3))
    assert told.duration is not None and told.duration.total > 0
    assert (told.flops is None) == (rung != "modern")


def test_a_step_of_two_micro_batches_takes_about_twice_as_long(small_run: Callable[..., Config]) -> None:
    model = GPT2Config(context=64, layers=2, heads=2, width=64)
    one, two = (dataclasses.replace(small_run(rows=8, accumulation=count), model=model) for count in (1, 4))
    ratio = seconds_per_step(two, 300, CPU) / seconds_per_step(one, 300, CPU)
    assert 1.5 < ratio < 8  # the machine may be busy


@pytest.mark.slow
def test_a_run_takes_the_time_that_was_told(small_run: Callable[..., Config], tmp_path: Path) -> None:
    config = small_run(steps=60, rows=16, accumulation=2, eval_every=30, eval_batches=8, checkpoint_every=30)
    config = dataclasses.replace(config, model=GPT2Config(context=64, layers=2, heads=2, width=128))
    ratios = []
    for turn in range(5):  # on a busy machine one pair says nothing
        told = estimate(config).duration
        began = time.perf_counter()
        train(config, tmp_path / str(turn))
        assert told is not None
        ratios.append(told.total / (time.perf_counter() - began))
    assert statistics.median(ratios) == pytest.approx(1, abs=0.2), ratios
