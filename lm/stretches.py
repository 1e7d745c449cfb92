"""Stretches of ids and how likely a model finds their ends: what benchmarks ask for, whatever the rung.

An id is predicted from all that stands before it in its stretch and fits the model's context.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from lm.batches import IGNORE
from lm.errors import NonFiniteError, require
from lm.evaluate import DIVERGED, eval_mode
from lm.loss import token_losses
from lm.models.contract import PAD, CausalTransformer, LanguageModel
from lm.parallel import autocast


@final
@dataclass(frozen=True, slots=True)
class Stretch:
    """Ids of which the last ones are to be predicted.

    Args:
        ids: a context and what follows it.
        first: the place of the first id to predict, in [1, len(ids)].
    """

    ids: Sequence[int]
    first: int


@final
@dataclass(frozen=True, slots=True)
class Score:
    """What a model makes of a stretch.

    Args:
        nats: the summed loss of the ids that were to be predicted; minus their log-likelihood.
        greedy: whether each of them was the likeliest; None unless it was asked.
        cut: whether the model's context was too short for all that stands before them.
    """

    nats: float
    greedy: bool | None
    cut: bool


def score(
    model: LanguageModel,
    stretches: Sequence[Stretch],
    *,
    tokens: int,
    dtype: torch.dtype = torch.float32,
    greedy: bool = False,
    on_progress: Callable[[int, int], object] | None = None,
) -> list[Score]:
    """How likely a model finds the ends of stretches; each id is predicted once, whatever the model's context.

    Of a stretch too long for the context the beginning is left out. Where even the ids to predict are more than fit,
    they are taken T at a time, the last of them with as much before them as fits.

    Args:
        model: on the device where it is to run; in eval mode meanwhile, and back in its own after.
        stretches: what to score; stretches of like length run together, filled up on the right.
        tokens: the most ids of a batch, fillings included; a single row may have more.
        dtype: of the matrix products.
        greedy: also tell whether the ids are what greedy drawing gives: a tenth of a small model's time.
        on_progress: called after each batch with how many rows are done, and of how many.

    Returns:
        a score for each stretch, in their order.

    Raises:
        ConfigError: if `first` is out of its range.
        NonFiniteError: if the model gives nan or infinity.
    """
    rows = [row for number, stretch in enumerate(stretches) for row in _rows_of(number, stretch, model.context)]
    rows.sort(key=lambda row: row.start - row.stop)  # the longest first, so that what does not fit fails at once
    nats, missed = np.zeros(len(stretches)), np.zeros(len(stretches), dtype=np.int64)
    done = 0
    with eval_mode(model):
        while done < len(rows):
            some = rows[done : done + max(1, tokens // rows[done].inputs)]
            inputs_BT, targets_BT = _filled_up(some, stretches)
            losses_N, missed_N = _scored(model, inputs_BT, targets_BT, dtype, greedy)
            if not losses_N.isfinite().all():
                raise NonFiniteError("score: losses must be finite, got nan or infinity", hint=DIVERGED)
            owners_N = np.array([row.stretch for row in some])[(targets_BT != IGNORE).nonzero()[:, 0].numpy()]
            np.add.at(nats, owners_N, losses_N.numpy())
            np.add.at(missed, owners_N, missed_N.numpy())
            done += len(some)
            if on_progress is not None:
                on_progress(done, len(rows))
    cut_short = {row.stretch for row in rows if row.start > 0}
    return [
        Score(float(nats[i]), bool(missed[i] == 0) if greedy else None, i in cut_short) for i in range(len(stretches))
    ]


@final
@dataclass(frozen=True, slots=True)
class _Row:
    """Of a stretch the ids [start, stop), those from `first` on to be predicted."""

    stretch: int
    start: int
    first: int
    stop: int

    @property
    def inputs(self) -> int:
        return self.stop - 1 - self.start


def _rows_of(number: int, stretch: Stretch, context: int) -> Iterator[_Row]:
    ids, first = stretch.ids, stretch.first
    require(1 <= first <= len(ids), "score: first", f"in [1, {len(ids)}], the ids of its stretch", first)
    while first < len(ids):
        stop = min(first + context, len(ids))
        yield _Row(number, max(0, stop - 1 - context), first, stop)
        first = stop


def _filled_up(rows: Sequence[_Row], stretches: Sequence[Stretch]) -> tuple[Tensor, Tensor]:
    """`(inputs_BT, targets_BT)`, T that of the first row, which is the longest."""
    shape = (len(rows), rows[0].inputs)
    inputs_BT = np.full(shape, PAD, dtype=np.int64)
    targets_BT = np.full(shape, IGNORE, dtype=np.int64)
    for b, row in enumerate(rows):
        ids = stretches[row.stretch].ids
        inputs_BT[b, : row.inputs] = ids[row.start : row.stop - 1]
        targets_BT[b, row.first - 1 - row.start : row.inputs] = ids[row.first : row.stop]
    return torch.from_numpy(inputs_BT), torch.from_numpy(targets_BT)


@torch.inference_mode()
def _scored(
    model: LanguageModel, inputs_BT: Tensor, targets_BT: Tensor, dtype: torch.dtype, greedy: bool
) -> tuple[Tensor, Tensor]:
    """`(losses_N, missed_N)` of the targets, row by row, on the CPU: their nats, and whether another id was likelier.

    Logits are made for the places of the targets only.
    """
    device = next(model.parameters()).device
    inputs_BT, targets_BT = inputs_BT.to(device), targets_BT.to(device)
    wanted_BT = targets_BT != IGNORE
    with autocast(device, dtype):
        if isinstance(model, CausalTransformer):
            logits_NV = model.logits(model.features(inputs_BT)[wanted_BT])
        else:
            logits_NV = model(inputs_BT)[wanted_BT]
        targets_N = targets_BT[wanted_BT]
        losses_N = token_losses(logits_NV[None], targets_N[None])[0]
    missed_N = logits_NV.argmax(dim=1) != targets_N if greedy else torch.zeros_like(targets_N, dtype=torch.bool)
    return losses_N.cpu().double(), missed_N.cpu()
