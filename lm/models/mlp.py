"""The MLP: a few last ids as vectors, one hidden layer, the next id.

Source: Bengio, Ducharme, Vincent, Jauvin, *A Neural Probabilistic Language Model* (2003), section 2, without its
direct connections; Karpathy, *Neural Networks: Zero to Hero*, makemore parts 2 and 3.
Adds: a window of W ids instead of one, learned vectors that similar characters share, a hidden layer.
Lacks: a good start (`init = "unit"`, part 2's), normalisation, depth.
Parameters: V*E + (W*E + 1)*H + (H + 1)*V.

`init = "unit"` draws everything from N(0, 1): most tanh are saturated, and the first loss is some ten times ln V,
for a logit is a sum of H numbers near plus or minus 1, and the largest of V such logits is far above the target's.
`init = "kaiming"` is part 3's: the hidden layer scaled by (5/3) / sqrt(W*E), biases and head near zero. All logits
are then near 0 and the first loss is ln V.

The largest of V normals is on average near the (V - .375) / (V + .25) quantile (Blom, *Statistical Estimates and
Transformed Beta-Variables*, 1958). A saturated tanh of a normal with deviation s has the mean square
1 - 2 phi(0) / s, phi the normal density.
"""

import math
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor, nn

from lm.errors import require
from lm.models.contract import FirstLoss, WindowModel
from lm.models.layers import Embedding, FlattenConsecutive, Linear


@dataclass(frozen=True, kw_only=True)
class MLPConfig:
    """The MLP's keys in `[model]`.

    Args:
        context: the longest row T, in ids.
        window: W, how many last ids are seen.
        embedding: E, the width of an id's vector.
        hidden: H, the width of the hidden layer.
        init: how the weights are drawn: "unit" as in part 2, "kaiming" as in part 3.
    """

    context: int
    window: int
    embedding: int
    hidden: int
    init: Literal["unit", "kaiming"] = "unit"

    def __post_init__(self) -> None:
        """Checks the values; raises ConfigError."""
        for key in ("context", "window", "embedding", "hidden"):
            require(getattr(self, key) >= 1, f"model.{key}", "at least 1", getattr(self, key))
        require(self.init in ("unit", "kaiming"), "model.init", "one of unit, kaiming", self.init)


@final
class MLP(WindowModel):
    """Embedding, hidden layer with tanh, head.

    >>> model = MLP(MLPConfig(context=16, window=3, embedding=10, hidden=200), vocab_size=27)
    >>> model(torch.tensor([[0, 5, 13]])).shape, model.expected_parameters()
    (torch.Size([1, 3, 27]), 11897)
    """

    def __init__(self, config: MLPConfig, vocab_size: int) -> None:
        """Untrained weights, drawn from the global generator in the lectures' order."""
        super().__init__()
        self.config = config
        self.context = config.context
        self.window = config.window
        self.vocab_size = vocab_size
        inputs = config.window * config.embedding
        self.embedding = Embedding(vocab_size, config.embedding)
        self.flatten = FlattenConsecutive(config.window)
        hidden_IH, hidden_bias_H = torch.randn(inputs, config.hidden), torch.randn(config.hidden)
        head_HV, head_bias_V = torch.randn(config.hidden, vocab_size), torch.randn(vocab_size)
        if config.init == "kaiming":
            # 5/3 makes up for what a tanh squeezes: He et al., "Delving Deep into Rectifiers" (2015), section 2.2.
            hidden_IH, hidden_bias_H = hidden_IH * (5 / 3) / inputs**0.5, hidden_bias_H * 0.01
            head_HV, head_bias_V = head_HV * 0.01, head_bias_V * 0
        self.hidden = Linear(hidden_IH, bias=hidden_bias_H)
        self.tanh = nn.Tanh()
        self.head = Linear(head_HV, bias=head_bias_V)

    def predict(self, windows_NW: Tensor) -> Tensor:
        """logits_NV."""
        x_NI = self.flatten(self.embedding(windows_NW))
        h_NH = self.tanh(self.hidden(x_NI))
        logits_NV: Tensor = self.head(h_NH)
        return logits_NV

    def expected_parameters(self) -> int:
        """V*E + (W*E + 1)*H + (H + 1)*V."""
        config, vocab = self.config, self.vocab_size
        inputs = config.window * config.embedding
        return vocab * config.embedding + (inputs + 1) * config.hidden + (config.hidden + 1) * vocab

    def expected_first_loss(self) -> FirstLoss:
        """ln V for "kaiming"; for "unit" the mean of the largest of V logits. Derived in the module's docstring."""
        if self.config.init == "kaiming":
            return FirstLoss(nats=math.log(self.vocab_size), tolerance=0.05)
        spread = math.sqrt(self.config.window * self.config.embedding + 1)
        mean_square = 1 - 2 / math.sqrt(2 * math.pi) / spread
        logit_std = math.sqrt(self.config.hidden * mean_square + 1)
        quantile = torch.tensor((self.vocab_size - 0.375) / (self.vocab_size + 0.25))
        nats = logit_std * torch.special.ndtri(quantile).item()
        return FirstLoss(nats=nats, tolerance=0.15 * nats)
