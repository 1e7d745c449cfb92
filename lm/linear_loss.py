"""The head and its loss in one, chunk by chunk: of the logits of 50,000 ids a position, only some rows exist at a time.

Source: the method is that of Hsu et al., *Liger Kernel: Efficient Triton Kernels for LLM Training* (2024), section 3.2
(fused linear cross-entropy): the gradient of a softmax's loss is known as soon as the loss is, so a chunk of rows
leaves behind its gradients instead of its logits, and nothing is computed twice.

The logits of a micro batch of GPT-2 124M, 64 rows of 1,024 ids, are 3.3 billion: 13 GB in float32, and as much again
for their gradient. The widest chunk here has `CHUNK_LOGITS`.
"""

from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from lm.batches import IGNORE

CHUNK_LOGITS = 2**27
"""The most logits that exist at a time, half a gigabyte in float32; fewer are computed in the plain way.

A chunk of 2,668 rows for GPT-2's vocabulary: enough for a matrix product to be as fast as it gets.
"""


def head_loss(
    x_BTC: Tensor, head_PC: Tensor, targets_BT: Tensor, vocab_size: int, *, chunk: int | None = None
) -> Tensor:
    """The sum over the targets of their nats, a float32 scalar: `token_losses(...).sum()` without all logits in memory.

    Args:
        x_BTC: what the head reads.
        head_PC: a row for each id, and P - V behind them that stand for none.
        targets_BT: the ids to predict, or `IGNORE`.
        vocab_size: V.
        chunk: the most logits that exist at a time; `CHUNK_LOGITS` when left out.

    Returns:
        a scalar whose backward pass scales the gradients that were made on the way: all targets weigh the same.

    Cost: a gradient in the place of each input, x in the dtype of the products and the head in float32.
    """
    dtype = _product_dtype(x_BTC)
    rows = _rows(chunk, head_PC)
    total: Tensor = _HeadLoss.apply(  # type: ignore[no-untyped-call]
        x_BTC.flatten(0, 1), head_PC, targets_BT.flatten(), vocab_size, rows, dtype
    )
    return total


@torch.no_grad()
def head_losses(
    x_BTC: Tensor, head_PC: Tensor, targets_BT: Tensor, vocab_size: int, *, chunk: int | None = None
) -> Tensor:
    """losses_BT, the nats of each target, in float32, 0 where it is `IGNORE`; for evaluation: it has no gradient.

    Args:
        x_BTC: as in `head_loss`, and so are the others.
        head_PC: the head.
        targets_BT: the targets.
        vocab_size: V.
        chunk: the most logits that exist at a time.
    """
    dtype, rows = _product_dtype(x_BTC), _rows(chunk, head_PC)
    x_NC, head_PC, targets_N = x_BTC.flatten(0, 1), head_PC.to(dtype), targets_BT.flatten()
    losses = []
    with torch.autocast(x_BTC.device.type, enabled=False):
        for x_RC, targets_R in zip(torch.split(x_NC, rows), torch.split(targets_N, rows), strict=True):
            logits_RV = F.linear(x_RC.to(dtype), head_PC)[:, :vocab_size].float()
            losses.append(F.cross_entropy(logits_RV, targets_R, ignore_index=IGNORE, reduction="none"))
    return torch.cat(losses).view_as(targets_BT) if losses else x_BTC.new_zeros(targets_BT.shape, dtype=torch.float32)


@final
class _HeadLoss(torch.autograd.Function):
    """The summed loss; its forward pass leaves the gradients for a loss of weight 1."""

    @staticmethod
    def forward(
        ctx: Any, x_NC: Tensor, head_PC: Tensor, targets_N: Tensor, vocab_size: int, rows: int, dtype: torch.dtype
    ) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=x_NC.device)
        d_head_PC = torch.zeros(head_PC.shape, dtype=torch.float32, device=head_PC.device)
        weight_PC, d_x = head_PC.to(dtype), []
        with torch.autocast(x_NC.device.type, enabled=False):
            for x_RC, targets_R in zip(torch.split(x_NC, rows), torch.split(targets_N, rows), strict=True):
                x_RC = x_RC.to(dtype)
                nats, d_logits_RP = _loss_and_slope(F.linear(x_RC, weight_PC), targets_R, vocab_size)
                d_logits_RP = d_logits_RP.to(dtype)
                total = total + nats
                d_x.append(d_logits_RP @ weight_PC)
                d_head_PC += d_logits_RP.mT @ x_RC
        d_x_NC = torch.cat(d_x) if d_x else torch.zeros_like(x_NC)
        ctx.save_for_backward(d_x_NC, d_head_PC)
        ctx.dtypes = (x_NC.dtype, head_PC.dtype)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        d_x_NC, d_head_PC = ctx.saved_tensors
        x_dtype, head_dtype = ctx.dtypes
        return (d_x_NC * weight).to(x_dtype), (d_head_PC * weight).to(head_dtype), None, None, None, None


def _loss_and_slope(logits_RP: Tensor, targets_R: Tensor, vocab_size: int) -> tuple[Tensor, Tensor]:
    """The summed nats of some rows, and d_logits_RP: the softmax, minus 1 at the target; 0 in rows without one.

    It overwrites the logits, if they are float32.
    """
    slope_RP = logits_RP.float()
    slope_RP[:, vocab_size:] = -torch.inf
    learnt_R1 = (targets_R != IGNORE)[:, None]
    at_R1 = targets_R.clamp(min=0)[:, None]
    log_sum_R1 = slope_RP.logsumexp(1, keepdim=True)
    nats = ((log_sum_R1 - slope_RP.gather(1, at_R1)) * learnt_R1).sum()
    # In place, for this is the largest tensor there is; without a scatter, so that a compiler makes one pass of it.
    slope_RP.sub_(log_sum_R1).exp_()
    slope_RP.add_(torch.arange(slope_RP.shape[1], device=slope_RP.device) == at_R1, alpha=-1)
    slope_RP.mul_(learnt_R1)
    return nats, slope_RP


def _product_dtype(x: Tensor) -> torch.dtype:
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _rows(chunk: int | None, head_PC: Tensor) -> int:
    return max(1, (CHUNK_LOGITS if chunk is None else chunk) // head_PC.shape[0])
