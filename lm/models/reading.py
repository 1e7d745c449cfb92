"""How the positions of a row read each other: the only place where attention is computed.

A transformer's blocks hand their queries, keys and values to a `Reading` and get back what each position read. Which
positions those are, the model does not know: all before it (`Past`), those of its own document (`Documents`), or
those that were fed long ago and are kept (the caches).
"""

from typing import Protocol, final

import torch
import torch.nn.functional as F
from torch import Tensor


class Reading(Protocol):
    """What a transformer asks while it reads a row of T ids."""

    def positions(self, ids_BT: Tensor) -> Tensor:
        """Where in their row the ids stand, from 0, int64: positions_T, or positions_BT where rows differ."""

    def attend(self, layer: int, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, *, dropout: float = 0.0) -> Tensor:
        """y_BHTD: the values that each position may read, averaged by how well their keys meet its query.

        Args:
            layer: which block asks, from 0.
            q_BHTD: queries of the T new positions.
            k_BHTD: their keys.
            v_BHTD: their values.
            dropout: the chance that a weight is dropped.
        """


@final
class Past:
    """Each position reads itself and all before it in the row."""

    def positions(self, ids_BT: Tensor) -> Tensor:
        """positions_T, 0 to T - 1."""
        return torch.arange(ids_BT.shape[1], device=ids_BT.device)

    def attend(self, layer: int, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, *, dropout: float = 0.0) -> Tensor:
        """Causal attention by torch's fused kernel, flash attention where the device has it."""
        return F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, dropout_p=dropout, is_causal=True)


PAST = Past()


@final
class Documents:
    """Each position reads itself and what stands before it in its own document; positions stay those of the row.

    Args:
        documents_BT: which document of its row each position belongs to, equal within one and only there.

    Cost: a mask of B * T * T bytes. On CUDA flex attention passes over what is masked instead.
    """

    def __init__(self, documents_BT: Tensor) -> None:
        """Makes the mask, once for all layers."""
        self._mask_B1TT = document_mask(documents_BT)

    def positions(self, ids_BT: Tensor) -> Tensor:
        """positions_T, 0 to T - 1."""
        return torch.arange(ids_BT.shape[1], device=ids_BT.device)

    def attend(self, layer: int, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, *, dropout: float = 0.0) -> Tensor:
        """Attention under the mask."""
        return F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, attn_mask=self._mask_B1TT, dropout_p=dropout)


def document_mask(documents_BT: Tensor) -> Tensor:
    """mask_B1TT, bool: whether a position (the first T) may read another: it is not after it, and in the same document.

    It is the `attn_mask` of `torch.nn.functional.scaled_dot_product_attention`, in the place of
    `is_causal=True` and the same for all heads; each position reads at least itself, so no row is empty.

    Cost: B * T * T bytes on the device of documents_BT (67 MB for B = 64, T = 1024), twice that while it is made.

    >>> document_mask(torch.tensor([[0, 0, 1]])).int().tolist()
    [[[[1, 0, 0], [1, 1, 0], [0, 0, 1]]]]
    """
    same_BTT = documents_BT[:, :, None] == documents_BT[:, None, :]
    return same_BTT.tril()[:, None]
