"""The WaveNet tree as causal dilated convolutions: every window of a row at once, and no node twice.

Source: van den Oord et al., *WaveNet: A Generative Model for Raw Audio* (2016), section 2.1, figure 3.
Adds: sharing. The trees of two windows that overlap have nodes in common; level l of a position joins its own node
with the one 2^l positions back, so a row of T costs L products per position instead of W - 1.
Lacks: gates, residuals and skip connections of the paper; attention.
Parameters: those of `lm.models.wavenet`, under the same names, so that one's weights load into the other.

The two are equal in evaluation (tested). In training BatchNorm sees each node once here, and there once for every
window that it is in, so the figures of a batch, and with them the runs, differ. Like every rung with BatchNorm it
counts in the places that fill rows up behind a short document, which have no target.
"""

import math
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from lm.models.contract import PAD, FirstLoss, LanguageModel
from lm.models.wavenet import HEAD_GAIN, TANH_MEAN_SQUARE, WaveNet, WaveNetConfig


class DilatedWaveNetConfig(WaveNetConfig):
    """The tree's own keys."""


@final
class DilatedWaveNet(LanguageModel):
    """The layers of a tree, applied along a row.

    >>> model = DilatedWaveNet(DilatedWaveNetConfig(context=16, levels=3, embedding=24, hidden=128), vocab_size=27)
    >>> model(torch.tensor([[0, 5, 13]])).shape, model.expected_parameters()
    (torch.Size([1, 3, 27]), 76579)
    """

    def __init__(self, config: DilatedWaveNetConfig, vocab_size: int) -> None:
        """Untrained weights, the tree's own."""
        super().__init__()
        self.config = config
        self.context = config.context
        self.window = config.window
        self.vocab_size = vocab_size
        tree = WaveNet(config, vocab_size)
        self.embedding, self.levels, self.head = tree.embedding, tree.levels, tree.head

    def forward(self, ids_BT: Tensor) -> Tensor:
        """logits_BTV; the row is padded on the left to a whole window, and each level is as much shorter as it looks
        back.
        """
        self.require_fits(ids_BT)
        x_BTC = self.embedding(F.pad(ids_BT, (self.window - 1, 0), value=PAD))
        for number, level in enumerate(self.levels):
            back = 2**number
            x_BTC = torch.cat([x_BTC[:, :-back], x_BTC[:, back:]], dim=2)
            _, *layers = level.children()  # the first joins pairs of neighbours, as was just done along the row
            for layer in layers:
                x_BTC = layer(x_BTC)
        logits_BTV: Tensor = self.head(x_BTC)
        return logits_BTV

    def expected_parameters(self) -> int:
        """As the tree's."""
        return self.config.parameters(self.vocab_size)

    def expected_first_loss(self) -> FirstLoss:
        """As the tree's."""
        return FirstLoss(nats=math.log(self.vocab_size) + TANH_MEAN_SQUARE * HEAD_GAIN**2 / 2, tolerance=0.05)
