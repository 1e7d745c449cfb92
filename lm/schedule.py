"""The learning rate as a function of the step: a linear warmup, then half a cosine down, or a stable stretch and a
straight line down, or one drop.

Sources: the cosine is that of train_gpt2.py in karpathy/build-nanogpt (`get_lr`), after Brown et al., *Language Models
are Few-Shot Learners* (2020), appendix B. Warmup-stable-decay is Hu et al., *MiniCPM* (2024), section 4; that its last
stretch is a straight line and a fifth of the run, Hägele et al., *Scaling Laws and Compute-Optimal Training Beyond
Fixed Training Durations* (2024).
"""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lm.config import Config


def rate_at(step: int, config: "Config") -> float:
    """The learning rate of one update of a run, as its `[optimizer]` and `[schedule]` say; for `set_learning_rate`.

    Args:
        step: how many updates were made before this one, from 0.
        config: the run.
    """
    schedule, peak = config.schedule, config.optimizer.lr
    floor, warmup, end = schedule.min_lr, schedule.warmup_steps, config.decay_steps
    if schedule.kind == "wsd":
        since = max(warmup, round(end * (1 - schedule.decay_share)))
        return stable_rate(step, peak=peak, floor=floor, warmup_steps=warmup, decay_steps=end, decay_from=since)
    rate = learning_rate if schedule.kind == "cosine" else dropping_rate
    return rate(step, peak=peak, floor=floor, warmup_steps=warmup, decay_steps=end)


def learning_rate(step: int, *, peak: float, floor: float, warmup_steps: int, decay_steps: int) -> float:
    """The learning rate of one update.

    Args:
        step: how many updates were made before this one, from 0.
        peak: the highest rate, first used at step `warmup_steps`.
        floor: the rate from step `decay_steps` on.
        warmup_steps: updates with a rising rate; the first is at peak / warmup_steps, never at zero.
        decay_steps: not below `warmup_steps`.

    >>> [round(learning_rate(s, peak=1.0, floor=0.1, warmup_steps=2, decay_steps=6), 3) for s in range(8)]
    [0.5, 1.0, 1.0, 0.868, 0.55, 0.232, 0.1, 0.1]
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if step >= decay_steps:
        return floor
    done = (step - warmup_steps) / (decay_steps - warmup_steps)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * done))


def stable_rate(step: int, *, peak: float, floor: float, warmup_steps: int, decay_steps: int, decay_from: int) -> float:
    """Warmup-stable-decay: `peak` from step `warmup_steps` to `decay_from`, then a straight line down to `floor`.

    Args:
        step: how many updates were made before this one, from 0.
        peak: the highest rate.
        floor: the rate from step `decay_steps` on.
        warmup_steps: updates with a rising rate; the first is at peak / warmup_steps, never at zero.
        decay_steps: not below `decay_from`.
        decay_from: the last step at the highest rate, not below `warmup_steps`.

    >>> rates = [stable_rate(s, peak=1.0, floor=0.0, warmup_steps=2, decay_steps=8, decay_from=4) for s in range(9)]
    >>> rates
    [0.5, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if step >= decay_steps:
        return floor
    if step <= decay_from:
        return peak
    return floor + (peak - floor) * (decay_steps - step) / (decay_steps - decay_from)


def dropping_rate(step: int, *, peak: float, floor: float, warmup_steps: int, decay_steps: int) -> float:
    """The lectures' rate: `peak`, and from step `decay_steps` on `floor`; before it a linear warmup, if any.

    >>> [dropping_rate(s, peak=0.1, floor=0.01, warmup_steps=0, decay_steps=2) for s in range(4)]
    [0.1, 0.1, 0.01, 0.01]
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    return peak if step < decay_steps else floor
