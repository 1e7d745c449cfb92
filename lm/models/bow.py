"""Bag of words: the mean of all embeddings so far, and an MLP that reads it.

Source: Karpathy, makemore.py, `CausalBoW`, `BoWBlock` and `BoW` (his names stand in the comments below). The mean
of embeddings as a context is the CBOW of Mikolov, Chen, Corrado, Dean, *Efficient Estimation of Word Representations
in Vector Space* (2013), section 3.1, which takes both sides of a word; here it is the left one alone.
Adds: a view of everything that stands before, whatever its length, for the price of a mean; positions.
Lacks: order. Two contexts of the same ids in another order, with the same last id, are one to it. And every id weighs
the same: which ids matter is what attention learns (`average_by_softmax` in `attention.py` is this mean).
Parameters: V*C + T*C + (C*H + H) + (H*C + C) + (C*V + V), with C the width and H the hidden size.

At the start: embedding and position are N(0, 1) each, so a vector has variance 2 before the mean, and 2 * (1 + 3/t)
after it is added, at the t-th position: its own share is 1 + 1/t, that of each of the t - 1 others 1/t. The head's
weights are uniform in +-1/sqrt(C), of variance 1 / 3C, as are its biases: a logit's variance is a third of the
vector's, and 1 / 3C. The loss is ln V (for a large V) plus half that variance, on average over the T positions. What
the MLP adds to the vector is left out: its share of the loss is below 1/18.
"""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from lm.errors import require
from lm.models.contract import FirstLoss, LanguageModel


@dataclass(frozen=True, kw_only=True)
class BagOfWordsConfig:
    """The bag of words' keys in `[model]`.

    Args:
        context: the longest T, in ids.
        width: C, of an embedding and of the residual stream (makemore's n_embd).
        hidden: the size of the MLP's hidden layer (makemore's n_embd2).
    """

    context: int
    width: int = 64
    hidden: int = 64

    def __post_init__(self) -> None:
        """Checks the values; raises ConfigError."""
        for key in ("context", "width", "hidden"):
            require(getattr(self, key) >= 1, f"model.{key}", "at least 1", getattr(self, key))


@final
class BagOfWords(LanguageModel):
    """The mean of the embeddings up to each position, then an MLP, each added to the residual stream.

    >>> model = BagOfWords(BagOfWordsConfig(context=8), vocab_size=27)
    >>> model(torch.tensor([[1, 2, 3]])).shape
    torch.Size([1, 3, 27])
    """

    def __init__(self, config: BagOfWordsConfig, vocab_size: int) -> None:
        """Untrained weights, drawn from the global generator as torch draws them, in makemore's order."""
        super().__init__()
        self.config = config
        self.context = config.context
        self.window = config.context
        self.vocab_size = vocab_size
        self.token_embedding = nn.Embedding(vocab_size, config.width)  # wte
        self.position_embedding = nn.Embedding(config.context, config.width)  # wpe
        self.expand = nn.Linear(config.width, config.hidden)  # c_fc
        self.tanh = nn.Tanh()
        self.project = nn.Linear(config.hidden, config.width)  # c_proj
        self.head = nn.Linear(config.width, vocab_size)  # lm_head

    def forward(self, ids_BT: Tensor) -> Tensor:
        """logits_BTV from the mean of what stands at and before each position."""
        self.require_fits(ids_BT)
        positions_T = torch.arange(ids_BT.shape[1], device=ids_BT.device)
        x_BTC = self.token_embedding(ids_BT) + self.position_embedding(positions_T)
        x_BTC = x_BTC + running_mean(x_BTC)
        x_BTC = x_BTC + self.project(self.tanh(self.expand(x_BTC)))
        logits_BTV: Tensor = self.head(x_BTC)
        return logits_BTV

    def expected_parameters(self) -> int:
        """V*C + T*C + (C*H + H) + (H*C + C) + (C*V + V)."""
        width, hidden, vocab = self.config.width, self.config.hidden, self.vocab_size
        mlp = width * hidden + hidden + hidden * width + width
        return vocab * width + self.context * width + mlp + width * vocab + vocab

    def expected_first_loss(self) -> FirstLoss:
        """ln V + half the mean of 2/3 * (1 + 3/t) + 1/3C over t; derived in the module's docstring."""
        mean_of_inverses = sum(1 / t for t in range(1, self.context + 1)) / self.context
        variance = 2 / 3 * (1 + 3 * mean_of_inverses) + 1 / (3 * self.config.width)
        return FirstLoss(nats=math.log(self.vocab_size) + variance / 2, tolerance=0.25)


def running_mean(x_BTC: Tensor) -> Tensor:
    """x_BTC, each position the mean of itself and of all before it.

    >>> running_mean(torch.tensor([[[3.0], [5.0], [1.0]]])).flatten().tolist()
    [3.0, 4.0, 3.0]
    """
    seen_T1 = torch.arange(1, x_BTC.shape[1] + 1, device=x_BTC.device).unsqueeze(1)
    return x_BTC.cumsum(1) / seen_T1
