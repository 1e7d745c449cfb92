from typing import get_args, get_type_hints

import pytest

from lm.config import ScheduleConfig
from lm.schedule import KINDS, dropping_rate, learning_rate


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


# ---- the lectures' drop ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "expected"), [(0, 0.1), (99_999, 0.1), (100_000, 0.01), (199_999, 0.01)])
def test_the_lectures_rate_drops_once(step: int, expected: float) -> None:
    assert dropping_rate(step, peak=0.1, floor=0.01, warmup_steps=0, decay_steps=100_000) == expected


def test_before_a_drop_there_may_be_a_warmup() -> None:
    rates = [dropping_rate(step, peak=1.0, floor=0.5, warmup_steps=2, decay_steps=4) for step in range(6)]
    assert rates == [0.5, 1.0, 1.0, 1.0, 0.5, 0.5]
    rates = [dropping_rate(step, peak=1.0, floor=0.1, warmup_steps=2, decay_steps=2) for step in range(4)]
    assert rates == [0.5, 1.0, 0.1, 0.1]


def test_a_floor_as_high_as_the_peak_is_a_constant_rate() -> None:
    for kind in KINDS.values():
        rates = {kind(step, peak=0.3, floor=0.3, warmup_steps=0, decay_steps=5) for step in range(9)}
        assert rates == {0.3}


def test_every_kind_that_a_config_may_name_is_there() -> None:
    assert set(get_args(get_type_hints(ScheduleConfig)["kind"])) == KINDS.keys()
