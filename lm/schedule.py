"""The learning rate as a function of the step: linear warmup and half a cosine down, or one drop.

Source: train_gpt2.py of karpathy/build-nanogpt (`get_lr`), after Brown et al., *Language Models are Few-Shot
Learners* (2020), appendix B.
"""

import math


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


def dropping_rate(step: int, *, peak: float, floor: float, warmup_steps: int, decay_steps: int) -> float:
    """The lectures' rate: `peak`, and from step `decay_steps` on `floor`; before it a linear warmup, if any.

    >>> [dropping_rate(s, peak=0.1, floor=0.01, warmup_steps=0, decay_steps=2) for s in range(4)]
    [0.1, 0.1, 0.01, 0.01]
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    return peak if step < decay_steps else floor


KINDS = {"cosine": learning_rate, "drop": dropping_rate}
"""The schedules by the name that `schedule.kind` gives."""
