"""How the positions of a row read each other: the only place where attention is computed.

A transformer's blocks hand their queries, keys and values to a `Reading` and get back what each position read. Which
positions those are, the model does not know: all before it (`Past`), those of its own document (`Documents`), or
those that were fed long ago and are kept (the caches).
"""

from typing import Any, Protocol, final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention


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
        return _attention(q_BHTD, k_BHTD, v_BHTD, dropout_p=dropout, is_causal=True)


PAST = Past()


@final
class Documents:
    """Each position reads itself and what stands before it in its own document; positions stay those of the row.

    Args:
        documents_BT: which document of its row each position belongs to, equal within one and only there.
        flex: whether flex attention passes over what is masked; unless told, where CUDA is compiled for, since else it
            is no gain. Dropout of weights it cannot do: there the mask is used.

    Cost: the mask takes B * T * T bytes; flex attention the blocks of 128 positions that have something to read.
    """

    def __init__(self, documents_BT: Tensor, *, flex: bool | None = None) -> None:
        """Makes mask or blocks, once for all layers."""
        self._documents_BT = documents_BT
        self._mask_B1TT: Tensor | None = None
        self._blocks: BlockMask | None = None
        if flex is None:
            flex = documents_BT.device.type == "cuda" and torch.compiler.is_compiling()
        if flex:
            self._blocks = _blocks_of(documents_BT)

    def positions(self, ids_BT: Tensor) -> Tensor:
        """positions_T, 0 to T - 1."""
        return torch.arange(ids_BT.shape[1], device=ids_BT.device)

    def attend(self, layer: int, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, *, dropout: float = 0.0) -> Tensor:
        """Attention over the blocks, or under the mask."""
        if self._blocks is not None and dropout == 0:
            y_BHTD: Tensor = flex_attention(q_BHTD.to(v_BHTD), k_BHTD.to(v_BHTD), v_BHTD, block_mask=self._blocks)
            return y_BHTD
        if self._mask_B1TT is None:
            self._mask_B1TT = document_mask(self._documents_BT)
        return _attention(q_BHTD, k_BHTD, v_BHTD, attn_mask=self._mask_B1TT, dropout_p=dropout)


def _attention(q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, **how: Any) -> Tensor:
    """torch's attention; on the CPU bfloat16 in float32, since its own takes five times as long there."""
    if v_BHTD.device.type != "cpu" or v_BHTD.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, **how)
    with torch.autocast("cpu", enabled=False):
        y_BHTD = F.scaled_dot_product_attention(q_BHTD.float(), k_BHTD.float(), v_BHTD.float(), **how)
    return y_BHTD.to(v_BHTD.dtype)


def _blocks_of(documents_BT: Tensor) -> BlockMask:
    def readable(batch: Tensor, head: Tensor, reader: Tensor, read: Tensor) -> Tensor:
        return (read <= reader) & (documents_BT[batch, reader] == documents_BT[batch, read])

    batch, time = documents_BT.shape
    return create_block_mask(readable, batch, None, time, time, device=documents_BT.device)


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
