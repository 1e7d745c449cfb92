import dataclasses
from collections.abc import Callable
from typing import get_args, get_type_hints

import pytest

from lm.config import Config, ScheduleConfig
from lm.schedule import dropping_rate, learning_rate, rate_at, stable_rate


def rate(step: int, *, warmup: int = 10, decay: int = 110) -> float:
    return learning_rate(step, peak=1.0, floor=0.1, warmup_steps=warmup, decay_steps=decay)


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.1), (8, 0.9), (9, 1.0), (10, 1.0), (60, 0.55), (35, 0.1 + 0.9 * (1 + 0.5**0.5) / 2), (110, 0.1), (999, 0.1)],
)
def test_the_rate_at_its_corners(step: int, expected: float) -> None:
    assert rate(step) == pytest.approx(expected)


def test_without_a_warmup_the_first_rate_is_the_highest() -> None:
    assert rate(0, warmup=0) == 1.0


def test_a_warmup_as_long_as_the_run_ends_at_the_floor_without_a_division_by_zero() -> None:
    assert [round(rate(step, warmup=2, decay=2), 3) for step in range(4)] == [0.5, 1.0, 0.1, 0.1]


def test_the_rate_rises_then_falls() -> None:
    rates = [rate(step) for step in range(120)]
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)


# ---- warmup, stable, decay -------------------------------------------------------------------------------------------


def stable(step: int, *, warmup: int = 10, decay: int = 110, since: int) -> float:
    return stable_rate(step, peak=1.0, floor=0.1, warmup_steps=warmup, decay_steps=decay, decay_from=since)


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.1), (9, 1.0), (10, 1.0), (60, 1.0), (61, 0.982), (85, 0.55), (109, 0.118), (110, 0.1), (999, 0.1)],
)
def test_the_stable_rate_at_its_corners(step: int, expected: float) -> None:
    assert stable(step, since=60) == pytest.approx(expected)


def test_unless_told_the_stable_rate_falls_over_the_last_fifth(small_run: Callable[..., Config]) -> None:
    schedule = ScheduleConfig(kind="wsd", warmup_steps=10, min_lr=1e-3)
    config = dataclasses.replace(small_run(steps=110), schedule=schedule)
    rates = [rate_at(step, config) for step in range(111)]
    assert rates[10:89] == [1e-2] * 79 and rates[88:] == sorted(rates[88:], reverse=True) and rates[89] < 1e-2
    assert rates[99] == pytest.approx(5.5e-3)


@pytest.mark.parametrize(("warmup", "decay", "since"), [(0, 1, 1), (5, 5, 5), (5, 6, 5), (0, 5, 0), (0, 1, 0)])
def test_stretches_without_a_step_divide_by_nothing(warmup: int, decay: int, since: int) -> None:
    rates = [stable(step, warmup=warmup, decay=decay, since=since) for step in range(8)]
    assert all(0.1 <= rate <= 1.0 for rate in rates) and rates[decay:] == [0.1] * (8 - decay)
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)


# ---- the lectures' drop ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "expected"), [(0, 0.1), (99_999, 0.1), (100_000, 0.01), (199_999, 0.01)])
def test_the_lectures_rate_drops_once(step: int, expected: float) -> None:
    assert dropping_rate(step, peak=0.1, floor=0.01, warmup_steps=0, decay_steps=100_000) == expected


def test_before_a_drop_there_may_be_a_warmup() -> None:
    rates = [dropping_rate(step, peak=1.0, floor=0.5, warmup_steps=2, decay_steps=4) for step in range(6)]
    assert rates == [0.5, 1.0, 1.0, 1.0, 0.5, 0.5]
    rates = [dropping_rate(step, peak=1.0, floor=0.1, warmup_steps=2, decay_steps=2) for step in range(4)]
    assert rates == [0.5, 1.0, 0.1, 0.1]


KINDS = get_args(get_type_hints(ScheduleConfig)["kind"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_floor_as_high_as_the_peak_is_a_constant_rate(small_run: Callable[..., Config], kind: str) -> None:
    schedule = ScheduleConfig(kind=kind, warmup_steps=0, min_lr=1e-2, decay_steps=5)  # type: ignore[arg-type]
    config = dataclasses.replace(small_run(steps=9), schedule=schedule)
    assert {rate_at(step, config) for step in range(9)} == {1e-2}


# ---- a run's ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_rate_of_a_run_is_that_of_its_settings(small_run: Callable[..., Config], kind: str) -> None:
    curve = {
        "cosine": learning_rate,
        "drop": dropping_rate,
        "wsd": lambda step, decay_steps, **rest: stable_rate(
            step, decay_steps=decay_steps, decay_from=round(0.8 * decay_steps), **rest
        ),
    }[kind]
    schedule = ScheduleConfig(kind=kind, warmup_steps=3, min_lr=1e-3, decay_steps=15)  # type: ignore[arg-type]
    config = dataclasses.replace(small_run(steps=20), schedule=schedule)
    for step in range(20):
        assert rate_at(step, config) == curve(step, peak=1e-2, floor=1e-3, warmup_steps=3, decay_steps=15)
    untold = dataclasses.replace(config, schedule=dataclasses.replace(schedule, decay_steps=None))
    assert rate_at(19, untold) == curve(19, peak=1e-2, floor=1e-3, warmup_steps=3, decay_steps=20)


def test_the_rate_of_a_run_falls_from_where_it_says(small_run: Callable[..., Config]) -> None:
    schedule = ScheduleConfig(kind="wsd", warmup_steps=3, min_lr=0.0, decay_share=0.5)
    config = dataclasses.replace(small_run(steps=20), schedule=schedule)
    assert [rate_at(step, config) for step in (10, 15, 20)] == [1e-2, 5e-3, 0.0]
