"""The demo of the scalar engine: two half moons told apart by a network of 337 parameters.

Source: karpathy/micrograd, demo.ipynb. The points are those of scikit-learn's `make_moons(100, noise=0.1)` after
`np.random.seed(1337)`, drawn here without it: numpy's legacy generator is frozen, so they stay the same.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bpetok.errors import DataError
from lm.autograd import MLP, Value
from lm.errors import require

SEED = 1337
DECAY = 1e-4  # of the squared weights, added to the loss


@dataclass(frozen=True, kw_only=True)
class Moons:
    """Points of the plane, each with its side: 1 or -1."""

    points: list[list[float]]
    sides: list[int]


@dataclass(frozen=True, kw_only=True)
class MoonsStep:
    """What a step of training saw, before it changed the weights.

    Args:
        loss: the margin loss and the decay.
        accuracy: the share of points on their right side, in [0, 1].
    """

    loss: float
    accuracy: float


def make_moons(count: int = 100, noise: float = 0.1, seed: int = SEED) -> Moons:
    """Two interleaved half circles, shuffled, moved by normal noise; those of scikit-learn for the same seed.

    Args:
        count: how many points in all, an even number.
        noise: the standard deviation of what moves each coordinate.
        seed: of numpy's legacy generator.

    Raises:
        ConfigError: if the count is odd or below 2, or the noise negative.
    """
    require(count >= 2 and count % 2 == 0, "make_moons: count", "an even number, 2 or more", count)
    require(noise >= 0, "make_moons: noise", "at least 0", noise)
    draw = np.random.RandomState(seed)
    angle_N = np.linspace(0, np.pi, count // 2)
    upper_N2 = np.stack([np.cos(angle_N), np.sin(angle_N)], axis=1)
    lower_N2 = np.stack([1 - np.cos(angle_N), 1 - np.sin(angle_N) - 0.5], axis=1)
    order_N = np.arange(count)
    draw.shuffle(order_N)
    points_N2 = np.concatenate([upper_N2, lower_N2])[order_N]
    points_N2 += draw.normal(scale=noise, size=points_N2.shape)
    sides_N = np.where(order_N < count // 2, -1, 1)
    return Moons(points=points_N2.tolist(), sides=sides_N.tolist())


def margin_loss(scores: Sequence[Value], sides: Sequence[int]) -> Value:
    """The mean of max(0, 1 - side * score): 0 once every point is 1 or more on its right side.

    Source: the hinge loss of support vector machines (Cortes, Vapnik, *Support-Vector Networks*, 1995).

    Raises:
        DataError: if there are no scores, or not as many as sides.
    """
    if not scores or len(scores) != len(sides):
        raise DataError(f"margin_loss: scores must be {len(sides)} and not none, got {len(scores)}")
    losses = [(score * -side + 1.0).relu() for score, side in zip(scores, sides, strict=True)]
    return sum(losses, Value(0.0)) * (1.0 / len(losses))


def demo_model() -> MLP:
    """The demo's network, 2-16-16-1 with relu, untrained; its weights are those of `random.seed(1337)`.

    >>> len(demo_model().parameters())
    337
    """
    return MLP(2, [16, 16, 1], uniform=random.Random(SEED).uniform)


def train(model: MLP, moons: Moons, steps: int = 100) -> Iterator[MoonsStep]:
    """Trains on all points at each step, the rate falling from 1.0 by 0.009 a step of 100.

    Yields:
        what each step saw; the weights are already updated then.

    Raises:
        NonFiniteError: if loss or gradient is not finite.

    >>> first = next(train(demo_model(), make_moons()))
    >>> round(first.loss, 10), first.accuracy
    (0.8958441029, 0.5)
    """
    for step in range(steps):
        # In a function of its own, so that a step's graph is gone before the next is built.
        yield _train_step(model, moons, learning_rate=1.0 - 0.9 * step / steps)


def _train_step(model: MLP, moons: Moons, learning_rate: float) -> MoonsStep:
    scores = [model(point)[0] for point in moons.points]
    decay = sum((weight * weight for weight in model.parameters()), Value(0.0)) * DECAY
    loss = margin_loss(scores, moons.sides) + decay
    model.zero_grad()
    loss.backward()
    for weight in model.parameters():
        weight.data -= learning_rate * weight.grad
    right = sum((score.data > 0) == (side > 0) for score, side in zip(scores, moons.sides, strict=True))
    return MoonsStep(loss=loss.data, accuracy=right / len(scores))
