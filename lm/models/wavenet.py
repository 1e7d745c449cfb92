"""The WaveNet-like tree: neighbours in the window are joined two by two, level by level.

Source: van den Oord et al., *WaveNet: A Generative Model for Raw Audio* (2016), section 2.1, without gates and
residuals; Karpathy, *Neural Networks: Zero to Hero*, makemore part 5.
Adds: depth, a window of 8 that is not squeezed into one vector at once, BatchNorm over two dimensions.
Lacks: sharing between windows that overlap (`lm.models.dilated` has it), residuals, attention.
Parameters: V*E + 2*E*H + (L - 1)*2*H*H + 2*L*H + (H + 1)*V for L levels and a window of 2^L.

At the start what the head gets is the tanh of a unit normal (mean square .394) and its weights are .1 / sqrt(H), so a
logit has the variance .00394 and the loss is ln V + .00197.
"""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from lm.errors import require
from lm.models.contract import FirstLoss, WindowModel
from lm.models.layers import BatchNorm1d, Embedding, FlattenConsecutive, Linear

HEAD_GAIN = 0.1
TANH_MEAN_SQUARE = 0.394
"""E[tanh(z)^2] of a standard normal z."""


@dataclass(frozen=True, kw_only=True)
class WaveNetConfig:
    """The keys of rungs "wavenet" and "dilated" in `[model]`.

    Args:
        context: the longest row T, in ids.
        levels: L; the window is 2^L ids.
        embedding: E, the width of an id's vector.
        hidden: H, the width of every level.
    """

    context: int
    levels: int
    embedding: int
    hidden: int

    def __post_init__(self) -> None:
        """Checks the values; raises ConfigError."""
        for key in ("context", "levels", "embedding", "hidden"):
            require(getattr(self, key) >= 1, f"model.{key}", "at least 1", getattr(self, key))
        require(self.levels <= 16, "model.levels", "at most 16, a window of 65,536", self.levels)

    @property
    def window(self) -> int:
        """W = 2^L."""
        return int(2**self.levels)

    def parameters(self, vocab_size: int) -> int:
        """V*E + 2*E*H + (L - 1)*2*H*H + 2*L*H + (H + 1)*V; 76,579 in the lecture."""
        embedding, hidden = self.embedding, self.hidden
        products = 2 * embedding * hidden + (self.levels - 1) * 2 * hidden**2
        return vocab_size * embedding + products + 2 * self.levels * hidden + (hidden + 1) * vocab_size


@final
class WaveNet(WindowModel):
    """Embedding; L times join pairs, linear, BatchNorm, tanh; head.

    >>> model = WaveNet(WaveNetConfig(context=16, levels=3, embedding=24, hidden=128), vocab_size=27)
    >>> model(torch.tensor([[0, 5, 13]])).shape, model.expected_parameters()
    (torch.Size([1, 3, 27]), 76579)
    """

    def __init__(self, config: WaveNetConfig, vocab_size: int) -> None:
        """Untrained weights, drawn from the global generator in the lecture's order."""
        super().__init__()
        self.config = config
        self.context = config.context
        self.window = config.window
        self.vocab_size = vocab_size
        self.embedding = Embedding(vocab_size, config.embedding)
        widths = [config.embedding] + [config.hidden] * (config.levels - 1)
        self.levels = nn.Sequential(*(_level(width, config.hidden) for width in widths))
        head = torch.randn(config.hidden, vocab_size) / config.hidden**0.5 * HEAD_GAIN
        self.head = Linear(head, bias=torch.zeros(vocab_size))

    def predict(self, windows_NW: Tensor) -> Tensor:
        """logits_NV."""
        h_NH = self.levels(self.embedding(windows_NW))
        logits_NV: Tensor = self.head(h_NH)
        return logits_NV

    def expected_parameters(self) -> int:
        """V*E + 2*E*H + (L - 1)*2*H*H + 2*L*H + (H + 1)*V; 76,579 in the lecture."""
        return self.config.parameters(self.vocab_size)

    def expected_first_loss(self) -> FirstLoss:
        """ln V + .00197; derived in the module's docstring."""
        return FirstLoss(nats=math.log(self.vocab_size) + TANH_MEAN_SQUARE * HEAD_GAIN**2 / 2, tolerance=0.05)


def _level(width: int, hidden: int) -> nn.Sequential:
    """(N, T, width) -> (N, T/2, hidden)."""
    linear = Linear(torch.randn(2 * width, hidden) / (2 * width) ** 0.5)
    return nn.Sequential(FlattenConsecutive(2), linear, BatchNorm1d(hidden), nn.Tanh())
