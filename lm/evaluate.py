"""Evaluation: the loss on fixed batches, the same figure every time for the same weights."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lm.batches import IGNORE, AnySplit, TokenSplit, count_blocks, in_order
from lm.errors import require
from lm.loss import Objective, bits_per_byte
from lm.models.contract import LanguageModel
from lm.parallel import autocast
from lm.world import ALONE, World, sum_over


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a model makes of a text.

    Args:
        loss: nats per token.
        bits_per_byte: over the targets that stand for bytes of text; special tokens have none and are left
            out of both the bits and the bytes, so the figure compares across tokenizers.
        tokens: the targets that were predicted.
        bytes: their bytes of text.
        standard_error: of `loss`, in nats, with rows of T targets as the independent samples; None for a
            single row. Rows of one target, as windows have them, are not quite independent, and it is some tenths
            too small.
    """

    loss: float
    bits_per_byte: float
    tokens: int
    bytes: int
    standard_error: float | None

    @property
    def perplexity(self) -> float:
        """e to the loss: among how many equally likely tokens the model would be as unsure; inf where that is too big
        for a float.
        """
        return math.exp(self.loss) if self.loss < _LARGEST_EXPONENT else math.inf


_LARGEST_EXPONENT = 709.0
DIVERGED = "the run has diverged: train it again with a lower optimizer.lr"


def evaluate(
    model: LanguageModel | Objective,
    split: AnySplit,
    *,
    token_bytes: NDArray[np.int64],
    rows: int,
    batches: int,
    dtype: torch.dtype = torch.float32,
    on_batch: Callable[[Tensor], object] | None = None,
    documents: Callable[[Tensor], Tensor | None] = lambda inputs_BT: None,
    world: World = ALONE,
) -> Evaluation:
    """The loss of a model on the first `rows * batches` blocks of a split, or on all of a shorter one.

    The blocks are read in the order of the text, in eval mode and without gradients; the model's mode is put
    back.

    Args:
        model: on the device where it is to run; or the objective, of which each process may hold a part.
        split: the ids, usually `shards.val`.
        token_bytes: the length in bytes of each id, V numbers; 0 for special tokens.
        rows: B.
        batches: the most batches to read.
        dtype: of the matrix products.
        on_batch: called with the targets_BT of each batch when it is done.
        documents: gives documents_BT of a batch's inputs, where attention is to stay within a document.
        world: the processes that share the batches; each gets the whole result, the same to the last bit for any
            number of them.

    Raises:
        DataError: if the split has fewer than two ids, or its targets no bytes.

    Source: bits per byte as in nanochat/loss_eval.py of karpathy/nanochat.
    """
    objective = model if isinstance(model, Objective) else Objective(model)
    lengths_V = torch.from_numpy(token_bytes)
    # By row: nats, targets, nats of text, bytes of text; in float64, which holds any count.
    turns: list[Tensor] = []
    with eval_mode(objective.model):
        share = in_order(split, rows=rows, context=objective.model.context, batches=batches)
        for turn in _turns(share, world):
            inputs_BT, targets_BT = turn[world.rank]
            losses_BT = _losses(objective, inputs_BT, targets_BT, documents(inputs_BT), dtype)
            # A masked target has a negative id; its loss is 0, and so must its bytes be.
            bytes_BT = lengths_V[targets_BT.clamp(min=0)] * (targets_BT >= 0)
            kept_BT = losses_BT * (bytes_BT > 0)
            figures = losses_BT.sum(1), (targets_BT != IGNORE).sum(1), kept_BT.sum(1), bytes_BT.sum(1)
            turn_WR4 = torch.zeros(world.size, rows, 4, dtype=torch.float64)
            turn_WR4[world.rank] = torch.stack([figure.double() for figure in figures], dim=1)
            turns.append(sum_over(world, turn_WR4).flatten(0, 1))
            if on_batch is not None:
                on_batch(targets_BT)
    nats_R, counts_R, text_R, bytes_R = torch.cat(turns).numpy().T
    tokens, text_bytes = int(counts_R.sum()), int(bytes_R.sum())
    loss, error = _mean_of_rows(nats_R, counts_R.astype(np.int64))
    bits = bits_per_byte(float(text_R.sum()), text_bytes)
    return Evaluation(loss=loss, bits_per_byte=bits, tokens=tokens, bytes=text_bytes, standard_error=error)


def _turns(batches: Iterator[tuple[Tensor, Tensor]], world: World) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """As many batches at a time as there are processes; the last turn is filled up with batches of no target."""
    while turn := list(itertools.islice(batches, world.size)):
        inputs_BT, targets_BT = turn[0]
        yield turn + [(inputs_BT, torch.full_like(targets_BT, IGNORE))] * (world.size - len(turn))


def logits_for(model: LanguageModel, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
    """The logits at the places of the targets: of the whole row, or, where a row has one target, of its last place.

    Returns:
        logits_BTV, with T that of the targets.
    """
    if targets_BT.shape[1] == 1:
        return model.next_logits(inputs_BT)[:, None]
    logits_BTV: Tensor = model(inputs_BT)
    return logits_BTV


def _losses(
    objective: Objective, inputs_BT: Tensor, targets_BT: Tensor, documents_BT: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """losses_BT on the CPU, in float64, which not every device has; 0 where there is no target."""
    device = next(objective.parameters()).device
    if documents_BT is not None:
        documents_BT = documents_BT.to(device)
    with torch.no_grad(), autocast(device, dtype):
        losses_BT: Tensor = objective(inputs_BT.to(device), targets_BT.to(device), documents_BT, each=True)
    return losses_BT.cpu().double()


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Within, the model is in eval mode; behind, in its own again, which the mode of a wrapper would not put back."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _mean_of_rows(nats_R: NDArray[np.float64], counts_R: NDArray[np.int64]) -> tuple[float, float | None]:
    """The mean per token, and its standard error as a ratio of two sums over rows.

    Tokens of a row are correlated, rows hardly are: an error computed from single tokens would be too small.
    """
    nats_R, counts_R = nats_R[counts_R > 0], counts_R[counts_R > 0]
    rows, tokens = len(counts_R), int(counts_R.sum())
    mean = float(nats_R.sum()) / tokens
    if rows < 2:
        return mean, None
    squares = float(((nats_R - mean * counts_R) ** 2).sum())
    return mean, (squares * rows / (rows - 1)) ** 0.5 / tokens


# ---- every target of a text with more of its past ----------------------------------------------------------------


@final
class Sliding:
    """A split of ids in rows that overlap: each has `stride` targets and, before them, as much of the past as fits.

    With a stride of T these are the blocks that an evaluation reads else. With less, no target has fewer than
    T - stride ids to its left, but for those at the beginning, and the loss is lower: T / stride times the work.
    Neighbouring rows share most of what they read, so the standard error is too small.

    Args:
        split: the ids.
        stride: targets per row, in [1, T].
    """

    def __init__(self, split: TokenSplit, stride: int) -> None:
        """Reads nothing yet."""
        require(stride >= 1, "evaluate: stride", "at least 1", stride)
        self._split = split
        self._stride = stride

    @property
    def tokens(self) -> int:
        """The ids to predict: all but the first."""
        return self._split.tokens - 1

    def cut(self, context: int) -> "_SlidingRows":
        """Its rows, each `context` long.

        Raises:
            ConfigError: if the stride is longer.
            DataError: if the split has fewer than two ids.
        """
        require(self._stride <= context, "evaluate: stride", f"at most the context of {context}", self._stride)
        return _SlidingRows(self._split, self._stride, context, count_blocks(self._split, self._stride))


@final
@dataclass(frozen=True)
class _SlidingRows:
    split: TokenSplit
    stride: int
    context: int
    count: int

    def stack(self, places: Sequence[int], rows: int) -> tuple[Tensor, Tensor]:
        inputs_BT = np.zeros((rows, self.context), dtype=np.int64)
        targets_BT = np.full((rows, self.context), IGNORE, dtype=np.int64)
        for row, place in enumerate(places):
            first = place * self.stride  # the input whose target is the row's first
            start = max(0, first - (self.context - self.stride))
            ids = self.split.read(start, min(first + self.stride + 1, self.split.tokens))
            inputs_BT[row, : len(ids) - 1] = ids[:-1]
            targets_BT[row, first - start : len(ids) - 1] = ids[first - start + 1 :]
        return torch.from_numpy(inputs_BT), torch.from_numpy(targets_BT)
