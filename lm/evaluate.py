"""Evaluation: the loss on fixed batches, the same figure every time for the same weights."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lm.batches import AnySplit, in_order
from lm.loss import bits_per_byte, count_targets, token_losses
from lm.models.contract import LanguageModel
from lm.parallel import autocast


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


def evaluate(
    model: LanguageModel,
    split: AnySplit,
    *,
    token_bytes: NDArray[np.int64],
    rows: int,
    batches: int,
    dtype: torch.dtype = torch.float32,
) -> Evaluation:
    """The loss of a model on the first `rows * batches` blocks of a split, or on all of a shorter one.

    The blocks are read in the order of the text, in eval mode and without gradients; the model's mode is put
    back.

    Args:
        model: on the device where it is to run.
        split: the ids, usually `shards.val`.
        token_bytes: the length in bytes of each id, V numbers; 0 for special tokens.
        rows: B.
        batches: the most batches to read.
        dtype: of the matrix products.

    Raises:
        DataError: if the split has fewer than two ids, or its targets no bytes.

    Source: bits per byte as in nanochat/loss_eval.py of karpathy/nanochat.
    """
    device = next(model.parameters()).device
    lengths_V = torch.from_numpy(token_bytes)
    nats, counts = [], []
    text_nats, text_bytes = 0.0, 0
    was_training = model.training
    model.eval()
    try:
        for inputs_BT, targets_BT in in_order(split, rows=rows, context=model.context, batches=batches):
            with torch.inference_mode(), autocast(device, dtype):
                logits_BTV = logits_for(model, inputs_BT.to(device), targets_BT)
                losses_BT = token_losses(logits_BTV, targets_BT.to(device))
            losses_BT = losses_BT.cpu().double()  # summed in float64, which not every device has
            # A masked target has a negative id; its loss is 0, and so must its bytes be.
            bytes_BT = lengths_V[targets_BT.clamp(min=0)] * (targets_BT >= 0)
            nats += losses_BT.sum(dim=1).tolist()
            counts += [count_targets(targets_T) for targets_T in targets_BT]
            text_nats += float(losses_BT[bytes_BT > 0].sum())
            text_bytes += int(bytes_BT.sum())
    finally:
        model.train(was_training)
    loss, error = _mean_of_rows(np.array(nats), np.array(counts))
    bits = bits_per_byte(text_nats, text_bytes)
    return Evaluation(loss=loss, bits_per_byte=bits, tokens=sum(counts), bytes=text_bytes, standard_error=error)


def logits_for(model: LanguageModel, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
    """The logits at the places of the targets: of the whole row, or, where a row has one target, of its last place.

    Returns:
        logits_BTV, with T that of the targets.
    """
    if targets_BT.shape[1] == 1:
        return model.next_logits(inputs_BT)[:, None]
    logits_BTV: Tensor = model(inputs_BT)
    return logits_BTV


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
