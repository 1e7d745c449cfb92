import itertools
import math
from pathlib import Path

import pytest
import torch

from lm.config import Config, load_config, shipped_configs
from lm.errors import ConfigError
from lm.find_lr import Trial, find_learning_rate, smoothed

WORDS = "".join(f"word{n}\n" for n in range(60))


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "words.txt").write_text(WORDS)
    overrides = [f"data.text={tmp_path / 'words.txt'}", "model.hidden=8"]
    return load_config(shipped_configs()["04-kaiming"], overrides)


def test_the_rate_grows_by_the_same_factor_at_each_step_and_the_loss_falls_where_it_is_right(config: Config) -> None:
    trials = find_learning_rate(config, low=1e-3, high=1.0, steps=200)
    rates = [trial.rate for trial in trials]
    assert (rates[0], rates[-1]) == (pytest.approx(1e-3), pytest.approx(1.0))
    factors = [after / before for before, after in itertools.pairwise(rates)]
    assert max(factors) == pytest.approx(min(factors))
    first, last = (sum(trial.loss for trial in part) / 40 for part in (trials[:40], trials[-40:]))
    assert first == pytest.approx(math.log(15), abs=0.1) and last < first - 0.5


def test_it_is_the_run_of_a_plain_loop(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    trials = find_learning_rate(config, low=0.1, high=0.2, steps=3, on_step=steps.append)
    assert steps == [1, 2, 3]
    assert trials == find_learning_rate(config, low=0.1, high=0.2, steps=3), "the same each time"


def test_the_search_ends_where_the_loss_is_no_number(config: Config) -> None:
    trials = find_learning_rate(config, low=1e30, high=1e39, steps=50)
    assert 0 < len(trials) < 50 and all(math.isfinite(trial.loss) for trial in trials)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"low": 0.0}, r"low and high must be above 0 and rising, got \(0.0, 1.0\)"),
        ({"low": 2.0}, r"low and high must be above 0 and rising"),
        ({"high": math.inf}, r"low and high must be above 0 and rising"),
        ({"low": 1e-300, "high": 1e300}, r"high / low must be finite, got inf"),
        ({"steps": 1}, r"steps must be at least 2, got 1"),
    ],
)
def test_impossible_searches_are_refused(config: Config, wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_learning_rate(config, **wrong)  # type: ignore[arg-type]


def test_the_threads_are_as_they_were(config: Config) -> None:
    before = torch.get_num_threads()
    find_learning_rate(config, steps=2)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("count", [1, 2, 19, 20, 21, 100])
def test_every_trial_is_in_one_stretch(count: int) -> None:
    trials = [Trial(rate=1.5**n, loss=float(n)) for n in range(count)]
    points = smoothed(trials)
    assert len(points) == min(20, count)
    assert [point.rate for point in points] == sorted(point.rate for point in points)
    assert points[0].loss >= 0 and points[-1].loss <= count - 1
    assert smoothed([]) == []
