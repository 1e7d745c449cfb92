"""The MLP with BatchNorm: what the hidden layer gets is normalised over the batch, whatever the weights are.

Source: Ioffe, Szegedy, *Batch Normalization* (2015), section 3; Karpathy, *Neural Networks: Zero to Hero*, makemore
part 3, the network whose run is in the notebook.
Adds: normalisation, so that the start matters less and depth becomes possible.
Lacks: independence of the examples in a batch (in training each sees the others), depth, a long window.
Parameters: V*E + W*E*H + 2*H + (H + 1)*V; the hidden layer has no bias, since BatchNorm would take it away.

At the start a hidden unit is the tanh of a unit normal, whose mean square is .394; the head is .01 * N(0, 1). A
logit has the variance v = .394 * H * 1e-4, and the loss is ln V + v / 2.
"""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from lm.errors import require
from lm.models.contract import FirstLoss, WindowModel
from lm.models.layers import Embedding, FlattenConsecutive, Linear, require_examples

HEAD_SCALE = 0.01
TANH_MEAN_SQUARE = 0.394
"""E[tanh(z)^2] of a standard normal z."""


@dataclass(frozen=True, kw_only=True)
class BatchNormMLPConfig:
    """The keys of rung "batchnorm" in `[model]`.

    Args:
        context: the longest row T, in ids.
        window: W, how many last ids are seen.
        embedding: E, the width of an id's vector.
        hidden: H, the width of the hidden layer.
    """

    context: int
    window: int
    embedding: int
    hidden: int

    def __post_init__(self) -> None:
        """Checks the values; raises ConfigError."""
        for key in ("context", "window", "embedding", "hidden"):
            require(getattr(self, key) >= 1, f"model.{key}", "at least 1", getattr(self, key))


@final
class BatchNorm(nn.Module):
    """The lecture's first BatchNorm: by the standard deviation itself, with no epsilon, and slow running means.

    `lm.models.layers.BatchNorm1d` is what it becomes there.
    """

    running_mean: Tensor
    running_std: Tensor

    def __init__(self, width: int, *, momentum: float = 0.001) -> None:
        """A layer that changes nothing of what is normalised already."""
        super().__init__()
        self.momentum = momentum
        self.gain = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_std", torch.ones(width))

    def forward(self, x_NH: Tensor) -> Tensor:
        """x_NH with each channel normalised over the N examples, at least two in training."""
        mean_H, std_H = self.running_mean, self.running_std
        if self.training:
            require_examples(x_NH)
            mean_H, std_H = x_NH.mean(0), x_NH.std(0)
            self._follow(mean_H.detach(), std_H.detach())
        return self.gain * (x_NH - mean_H) / std_H + self.bias

    @torch.no_grad()
    def _follow(self, mean_H: Tensor, std_H: Tensor) -> None:
        for running_H, now_H in ((self.running_mean, mean_H), (self.running_std, std_H)):
            running_H.copy_((1 - self.momentum) * running_H + self.momentum * now_H)


@final
class BatchNormMLP(WindowModel):
    """Embedding, hidden layer, BatchNorm, tanh, head.

    >>> model = BatchNormMLP(BatchNormMLPConfig(context=16, window=3, embedding=10, hidden=200), vocab_size=27)
    >>> model(torch.tensor([[0, 5, 13]])).shape, model.expected_parameters()
    (torch.Size([1, 3, 27]), 12097)
    """

    def __init__(self, config: BatchNormMLPConfig, vocab_size: int) -> None:
        """Untrained weights, drawn from the global generator in the lecture's order."""
        super().__init__()
        self.config = config
        self.context = config.context
        self.window = config.window
        self.vocab_size = vocab_size
        inputs = config.window * config.embedding
        self.embedding = Embedding(vocab_size, config.embedding)
        self.flatten = FlattenConsecutive(config.window)
        self.hidden = Linear(torch.randn(inputs, config.hidden) * (5 / 3) / inputs**0.5)
        self.batchnorm = BatchNorm(config.hidden)
        self.tanh = nn.Tanh()
        # The lecture draws the head's bias too, and takes it times 0: the generator moves on as it does there.
        self.head = Linear(torch.randn(config.hidden, vocab_size) * HEAD_SCALE, bias=torch.randn(vocab_size) * 0)

    def predict(self, windows_NW: Tensor) -> Tensor:
        """logits_NV."""
        x_NI = self.flatten(self.embedding(windows_NW))
        h_NH = self.tanh(self.batchnorm(self.hidden(x_NI)))
        logits_NV: Tensor = self.head(h_NH)
        return logits_NV

    def expected_parameters(self) -> int:
        """V*E + W*E*H + 2*H + (H + 1)*V; 12,097 in the lecture."""
        config, vocab = self.config, self.vocab_size
        inputs = config.window * config.embedding
        return vocab * config.embedding + inputs * config.hidden + 2 * config.hidden + (config.hidden + 1) * vocab

    def expected_first_loss(self) -> FirstLoss:
        """ln V + .394 * H * 1e-4 / 2; derived in the module's docstring."""
        variance = TANH_MEAN_SQUARE * self.config.hidden * HEAD_SCALE**2
        return FirstLoss(nats=math.log(self.vocab_size) + variance / 2, tolerance=0.05)
