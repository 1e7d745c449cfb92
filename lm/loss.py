"""The loss: nats per token, and bits per byte, which no choice of tokenizer can flatter."""

import math
from typing import final

import torch.nn.functional as F
from torch import Tensor, nn

from bpetok.errors import DataError
from lm.batches import IGNORE
from lm.models.contract import CausalTransformer, LanguageModel


def token_losses(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """losses_BT, the nats of each target, in float32; 0 where the target is `IGNORE`."""
    logits_NV = logits_BTV.flatten(0, 1).float()
    losses_N = F.cross_entropy(logits_NV, targets_BT.flatten(), ignore_index=IGNORE, reduction="none")
    return losses_N.view_as(targets_BT)


def cross_entropy(logits_BTV: Tensor, targets_BT: Tensor, *, count: int | None = None) -> Tensor:
    """The loss in nats per token: the sum over the targets that are not `IGNORE`, divided by their count.

    Args:
        logits_BTV: the model's output.
        targets_BT: the ids to predict, or `IGNORE`.
        count: what to divide by instead. With gradient accumulation it is the number of targets in the whole
            step, so that the micro batches' losses sum to the mean over all tokens (a mean of means is
            another number).

    Returns:
        a scalar; 0, not nan, where every target is `IGNORE`.

    >>> import torch
    >>> round(cross_entropy(torch.zeros(1, 2, 4), torch.tensor([[3, IGNORE]])).item(), 4)  # ln 4
    1.3863
    """
    total = token_losses(logits_BTV, targets_BT).sum()
    return total / max(1, count_targets(targets_BT) if count is None else count)


@final
class Objective(nn.Module):
    """A model and its loss as one module: what is compiled, shared out over devices, trained and evaluated.

    The names of its parameters begin with `model.`; checkpoints hold those of the model itself.
    """

    def __init__(self, model: LanguageModel) -> None:
        """The model stays where it is."""
        super().__init__()
        self.model = model

    def forward(self, inputs_BT: Tensor, targets_BT: Tensor, documents_BT: Tensor | None = None) -> Tensor:
        """losses_BT, float32: the nats of each target; 0 where it is `IGNORE`.

        Args:
            inputs_BT: ids. Where the targets are of T = 1, the logits are those behind each row.
            targets_BT: the ids to predict, or `IGNORE`.
            documents_BT: which document of its row each position belongs to, for a `CausalTransformer`.
        """
        if targets_BT.shape[1] == 1:
            return token_losses(self.model.next_logits(inputs_BT)[:, None], targets_BT)
        if isinstance(self.model, CausalTransformer):
            return token_losses(self.model(inputs_BT, documents_BT), targets_BT)
        return token_losses(self.model(inputs_BT), targets_BT)


def count_targets(targets_BT: Tensor) -> int:
    """The number of targets that are not `IGNORE`."""
    return int((targets_BT != IGNORE).sum())


def bits_per_byte(nats: float, bytes_: int) -> float:
    """Bits that the model spends on a byte of text.

    Args:
        nats: the summed loss of some targets.
        bytes_: the bytes of text of the same targets.

    Raises:
        DataError: if there are no bytes.

    >>> bits_per_byte(16 * math.log(2), 8)
    2.0
    """
    if bytes_ < 1:
        raise DataError(f"bits per byte: bytes must be at least 1, got {bytes_}", hint="evaluate on a split with text")
    return nats / math.log(2) / bytes_
