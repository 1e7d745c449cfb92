from itertools import islice

import numpy as np
import pytest

from bpetok.errors import DataError
from lm.autograd import MLP, Value
from lm.errors import ConfigError, NonFiniteError
from lm.moons import demo_model, make_moons, margin_loss, train

# Source: the printed output of karpathy/micrograd, demo.ipynb.
LOSSES = [0.8958441028683222, 1.7235905336972022, 0.7429006313851131, 0.7705641260584198, 0.3692793385976538]
ACCURACIES = [0.50, 0.81, 0.77, 0.82, 0.84]
LAST_LOSS = 0.010978370135492717


def tell(ours: list[float], theirs: list[float]) -> None:
    """Which agree to the last bit; micrograd adds gradients in an order that changes from run to run."""
    same = sum(a == b for a, b in zip(ours, theirs, strict=True))
    print(f"{same} of {len(ours)} losses agree to the last bit")


def test_the_demo_has_337_parameters_and_its_published_first_losses() -> None:
    model = demo_model()
    assert len(list(model.parameters())) == 337
    steps = list(islice(train(model, make_moons()), 5))
    tell([step.loss for step in steps], LOSSES)
    assert [step.loss for step in steps] == pytest.approx(LOSSES, abs=1e-12)
    assert [step.accuracy for step in steps] == ACCURACIES


@pytest.mark.slow
def test_the_demo_ends_at_its_published_loss_with_every_point_on_its_side() -> None:
    steps = list(train(demo_model(), make_moons()))
    tell([steps[-1].loss], [LAST_LOSS])
    assert len(steps) == 100
    assert steps[-1].loss == pytest.approx(LAST_LOSS, abs=1e-9)
    assert steps[-1].accuracy == 1


def test_the_moons_without_noise_are_two_half_circles() -> None:
    moons = make_moons(count=200, noise=0.0, seed=3)
    points_N2, sides_N = np.array(moons.points), np.array(moons.sides)
    upper_N2, lower_N2 = points_N2[sides_N == -1], points_N2[sides_N == 1]
    assert len(upper_N2) == len(lower_N2) == 100
    assert np.hypot(upper_N2[:, 0], upper_N2[:, 1]) == pytest.approx(1) and upper_N2[:, 1].min() >= 0
    assert np.hypot(lower_N2[:, 0] - 1, lower_N2[:, 1] - 0.5) == pytest.approx(1) and lower_N2[:, 1].max() <= 0.5
    assert sorted(moons.sides) != moons.sides, "not shuffled"


def test_the_moons_are_those_of_their_seed() -> None:
    assert make_moons(seed=1) == make_moons(seed=1) != make_moons(seed=2)


def test_the_margin_loss_computed_by_hand() -> None:
    # 1 - 3 < 0 costs nothing, 1 - 0.25 costs 0.75, 1 + 0.5 costs 1.5.
    scores = [Value(3.0), Value(-0.25), Value(-0.5)]
    loss = margin_loss(scores, [1, -1, 1])
    loss.backward()
    assert loss.data == pytest.approx(0.75)
    assert [score.grad for score in scores] == pytest.approx([0, 1 / 3, -1 / 3])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^make_moons: count must be an even number, 2 or more, got 3"):
        make_moons(3)
    with pytest.raises(ConfigError, match=r"^make_moons: noise must be at least 0, got -1"):
        make_moons(noise=-1)
    with pytest.raises(DataError, match=r"^margin_loss: scores must be 2 and not none, got 1"):
        margin_loss([Value(1.0)], [1, -1])
    with pytest.raises(DataError, match=r"got 0"):
        margin_loss([], [])


def test_a_weight_that_is_nan_ends_the_training_before_an_update() -> None:
    model = MLP(2, [2, 1])
    weight, other, *_ = model.parameters()
    weight.data = float("nan")
    before = other.data
    with pytest.raises(NonFiniteError, match="must be finite, got nan"):
        next(train(model, make_moons(count=4)))
    assert other.data == before
