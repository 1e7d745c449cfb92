"""The search for a learning rate: one short run in which the rate grows from step to step.

While it is too small the loss hardly falls, where it is right it falls fast, and where it is too large it climbs
again. What is good lies somewhat before the lowest loss.

Source: Karpathy, *Neural Networks: Zero to Hero*, makemore part 2 (`lre = torch.linspace(-3, 0, 1000)`); Smith,
*Cyclical Learning Rates for Training Neural Networks* (2017), section 3.3.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from lm.config import Config
from lm.data import open_data
from lm.errors import require
from lm.evaluate import logits_for
from lm.loss import cross_entropy
from lm.models import LADDER
from lm.opening import open_batches
from lm.optim import build, set_learning_rate
from lm.parallel import fitting_threads


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One step of the search: its learning rate, and the loss of its batch before the update, in nats."""

    rate: float
    loss: float


def find_learning_rate(
    config: Config,
    *,
    low: float = 1e-3,
    high: float = 1.0,
    steps: int = 1000,
    on_step: Callable[[int], None] = lambda done: None,
) -> list[Trial]:
    """The losses of a run whose rate grows from `low` to `high`, by the same factor at each step.

    It seeds torch's global generator, runs on the CPU and writes nothing.

    Args:
        config: the run; its schedule, clipping and accumulation are left out.
        low: the first rate.
        high: the last one.
        steps: how many.
        on_step: called with the number of steps made.

    Returns:
        a trial for each step; fewer where the loss ceased to be a number, which ends the search.

    Raises:
        ConfigError: if a rate or the number of steps is out of its range, or a file is not there.
        DataError: as `lm.data.open_data`.
    """
    require(0 < low < high < math.inf, "find_lr: low and high", "above 0 and rising", (low, high))
    require(high / low < math.inf, "find_lr: high / low", "finite", high / low)
    require(steps >= 2, "find_lr: steps", "at least 2", steps)
    data = open_data(config)
    torch.manual_seed(config.run.seed)
    model = LADDER[config.rung].build(config.model, data.vocabulary.n_vocab)
    optimizer, batches = build(model, config.optimizer), open_batches(config, data)
    trials = []
    with fitting_threads(config.batch.rows * config.model.context * model.expected_parameters()):
        for step in range(steps):
            rate = low * (high / low) ** (step / (steps - 1))
            inputs_BT, targets_BT = next(batches)
            loss = cross_entropy(logits_for(model, inputs_BT, targets_BT), targets_BT)
            if not math.isfinite(loss.item()):
                break
            trials.append(Trial(rate=rate, loss=loss.item()))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            set_learning_rate(optimizer, rate)
            optimizer.step()
            on_step(step + 1)
    return trials


def smoothed(trials: Sequence[Trial], points: int = 20) -> list[Trial]:
    """The trials in as many stretches of neighbours: each one's mean loss at its geometric mean rate.

    >>> some = [Trial(rate=10.0**-n, loss=float(n)) for n in range(4)]
    >>> [(round(trial.rate, 4), trial.loss) for trial in smoothed(some, points=2)]
    [(0.3162, 0.5), (0.0032, 2.5)]
    """
    means = []
    points = min(points, len(trials))
    for point in range(points):
        part = trials[point * len(trials) // points : (point + 1) * len(trials) // points]
        rate = math.exp(sum(math.log(trial.rate) for trial in part) / len(part))
        means.append(Trial(rate=rate, loss=sum(trial.loss for trial in part) / len(part)))
    return means
