"""The loss: nats per token, and bits per byte, which no choice of tokenizer can flatter."""

import math
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bpetok.errors import DataError
from lm.batches import IGNORE
from lm.linear_loss import CHUNK_LOGITS, head_loss, head_losses
from lm.models.contract import CausalTransformer, LanguageModel
from lm.models.reading import PAST, Documents


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

    def forward(
        self, inputs_BT: Tensor, targets_BT: Tensor, documents_BT: Tensor | None = None, *, each: bool = False
    ) -> Tensor:
        """The nats of the targets in float32: their sum, a scalar, to be divided by the count of the whole step.

        Args:
            inputs_BT: ids. Where the targets are of T = 1, the logits are those behind each row.
            targets_BT: the ids to predict, or `IGNORE`.
            documents_BT: which document of its row each position belongs to, for a `CausalTransformer`.
            each: give losses_BT instead, 0 where a target is `IGNORE`; for evaluation.

        Cost: where the logits are more than `lm.linear_loss.CHUNK_LOGITS` and the model is a `CausalTransformer`, they
        never exist whole. losses_BT with a gradient needs all of them.
        """
        model = self.model
        if isinstance(model, CausalTransformer) and targets_BT.shape[1] > 1:
            reading = PAST if documents_BT is None else Documents(documents_BT)
            x_BTC, head_PC = model.features(inputs_BT, reading), model.head_PC
            chunked = targets_BT.numel() * head_PC.shape[0] > CHUNK_LOGITS
            if chunked and not each:
                return head_loss(x_BTC, head_PC, targets_BT, model.vocab_size)
            if chunked and not torch.is_grad_enabled():
                return head_losses(x_BTC, head_PC, targets_BT, model.vocab_size)
            losses_BT = token_losses(model.logits(x_BTC), targets_BT)
        elif targets_BT.shape[1] == 1:
            losses_BT = token_losses(model.next_logits(inputs_BT)[:, None], targets_BT)
        else:
            losses_BT = token_losses(model(inputs_BT), targets_BT)
        return losses_BT if each else losses_BT.sum()


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
