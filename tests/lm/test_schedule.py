import pytest

from lm.schedule import learning_rate


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
