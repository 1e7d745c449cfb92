"""Recurrent networks: a state that is carried from id to id, by a plain cell (RNN) or a gated one (GRU).

Source: Elman, *Finding Structure in Time* (1990), for the RNN; Cho, van Merrienboer, Gulcehre, Bahdanau, Bougares,
Schwenk, Bengio, *Learning Phrase Representations using RNN Encoder-Decoder* (2014), section 2.3, for the GRU; both in
the form of Karpathy's makemore.py, `RNNCell`, `GRUCell` and `RNN`, whose names the cells keep.
Where makemore's GRU differs from the paper: its `z` is the share of the *new* state, the paper's that of the old
one; and its gates have biases, which the paper's formulas do not show. `torch.nn.GRU` differs from both: it resets
the old state after its matrix product, not before.
Adds: a past without a window. What is remembered, and in which order it came, is learned.
Lacks: parallel training, for each step waits for the one before it; and a short way to the past: a gradient passes
through every step between, so far ids are forgotten, by the RNN sooner than by the GRU.
Parameters: RNN H + V*E + ((E + H)*H + H) + (H*V + V); GRU the same with three times the bracket of the cell. E is
the size of an embedding, H that of the state (makemore's n_embd and n_embd2); with both 64 and 27 ids, 11,803 and
28,315.

At the start: embeddings are N(0, 1), linear layers as torch draws them, uniform in +-1/sqrt(fan in), hence of
variance 1 / 3(fan in), weights and biases alike. Let q be the variance of the state's values.
RNN: with tanh taken as the identity, which is a little too much, q = (E + H*q + 1) / 3(E + H).
GRU: the gates stand near 1/2. So the old state enters the candidate with q/4, whose variance is p = (E + H*q/4 + 1)
/ 3(E + H); and h = h/2 + candidate/2 has q = q/4 + p/4, that is q = p/3.
A logit then has the variance (H*q + 1) / 3H, and the loss is ln V plus half of it.
"""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from lm.errors import require
from lm.models.contract import FirstLoss, LanguageModel


@dataclass(frozen=True, kw_only=True)
class RNNConfig:
    """The keys of both recurrent rungs in `[model]`.

    Args:
        context: the length T of a training row, in ids; through so many steps the gradient passes.
        embedding: E, the size of an id's vector.
        hidden: H, the size of the state.
    """

    context: int
    embedding: int = 64
    hidden: int = 64

    def __post_init__(self) -> None:
        """Checks the values; raises ConfigError."""
        for key in ("context", "embedding", "hidden"):
            require(getattr(self, key) >= 1, f"model.{key}", "at least 1", getattr(self, key))


@dataclass(frozen=True, kw_only=True)
class GRUConfig(RNNConfig):
    """The GRU's keys in `[model]`: those of the RNN."""


@final
class RNNCell(nn.Module):
    """One step of the RNN: the new state is a tanh layer over the id's vector and the old state."""

    def __init__(self, config: RNNConfig) -> None:
        """Weights as torch draws them."""
        super().__init__()
        self.xh_to_h = nn.Linear(config.embedding + config.hidden, config.hidden)
        self.tanh = nn.Tanh()

    def forward(self, x_BE: Tensor, h_BH: Tensor) -> Tensor:
        """The state h_BH after the id whose vector is x_BE."""
        h_BH = self.tanh(self.xh_to_h(torch.cat([x_BE, h_BH], dim=1)))
        return h_BH


@final
class GRUCell(nn.Module):
    """One step of the GRU: two gates say how much of the old state is read, and how much of it is replaced."""

    def __init__(self, config: RNNConfig) -> None:
        """Weights as torch draws them, in makemore's order."""
        super().__init__()
        both = config.embedding + config.hidden
        self.xh_to_z = nn.Linear(both, config.hidden)
        self.xh_to_r = nn.Linear(both, config.hidden)
        self.xh_to_hbar = nn.Linear(both, config.hidden)
        self.sigmoid_z, self.sigmoid_r, self.tanh = nn.Sigmoid(), nn.Sigmoid(), nn.Tanh()

    def forward(self, x_BE: Tensor, h_BH: Tensor) -> Tensor:
        """The state h_BH after the id whose vector is x_BE."""
        xh = torch.cat([x_BE, h_BH], dim=1)
        reset_BH = self.sigmoid_r(self.xh_to_r(xh))
        candidate_BH = self.tanh(self.xh_to_hbar(torch.cat([x_BE, reset_BH * h_BH], dim=1)))
        z_BH = self.sigmoid_z(self.xh_to_z(xh))
        h_BH = (1 - z_BH) * h_BH + z_BH * candidate_BH
        return h_BH


class Recurrent(LanguageModel):
    """What both rungs share: a learned first state, a cell that walks along the row, and a head on each state."""

    def __init__(self, config: RNNConfig, vocab_size: int, cell: type[RNNCell] | type[GRUCell]) -> None:
        """Untrained weights, drawn from the global generator as torch draws them, in makemore's order."""
        super().__init__()
        self.config = config
        self.context = config.context
        self.window = config.context
        self.vocab_size = vocab_size
        self.start = nn.Parameter(torch.zeros(1, config.hidden))
        self.token_embedding = nn.Embedding(vocab_size, config.embedding)
        self.cell = cell(config)
        self.head = nn.Linear(config.hidden, vocab_size)

    def forward(self, ids_BT: Tensor) -> Tensor:
        """logits_BTV, one step of the cell for each of the T ids."""
        self.require_fits(ids_BT)
        h_BH = self.start.expand(len(ids_BT), -1)
        states = []
        for x_BE in self.token_embedding(ids_BT).unbind(1):
            h_BH = self.cell(x_BE, h_BH)
            states.append(h_BH)
        logits_BTV: Tensor = self.head(torch.stack(states, dim=1))
        return logits_BTV

    def _parameters_with(self, cells: int) -> int:
        embedding, hidden, vocab = self.config.embedding, self.config.hidden, self.vocab_size
        cell = (embedding + hidden) * hidden + hidden
        return hidden + vocab * embedding + cells * cell + hidden * vocab + vocab

    def _first_loss_with(self, state_variance: float) -> FirstLoss:
        variance = (self.config.hidden * state_variance + 1) / (3 * self.config.hidden)
        return FirstLoss(nats=math.log(self.vocab_size) + variance / 2, tolerance=0.05)


@final
class RNN(Recurrent):
    """Elman's network.

    >>> model = RNN(RNNConfig(context=8), vocab_size=27)
    >>> model(torch.tensor([[1, 2, 3]])).shape
    torch.Size([1, 3, 27])
    >>> model.expected_parameters()
    11803
    """

    def __init__(self, config: RNNConfig, vocab_size: int) -> None:
        """Untrained weights, drawn from the global generator."""
        super().__init__(config, vocab_size, RNNCell)

    def expected_parameters(self) -> int:
        """H + V*E + ((E + H)*H + H) + (H*V + V)."""
        return self._parameters_with(cells=1)

    def expected_first_loss(self) -> FirstLoss:
        """ln V + (H*q + 1) / 6H, with q = (E + 1) / (3E + 2H); derived in the module's docstring."""
        embedding, hidden = self.config.embedding, self.config.hidden
        return self._first_loss_with((embedding + 1) / (3 * embedding + 2 * hidden))


@final
class GRU(Recurrent):
    """The gated recurrent unit.

    >>> model = GRU(GRUConfig(context=8), vocab_size=27)
    >>> model(torch.tensor([[1, 2, 3]])).shape
    torch.Size([1, 3, 27])
    >>> model.expected_parameters()
    28315
    """

    def __init__(self, config: GRUConfig, vocab_size: int) -> None:
        """Untrained weights, drawn from the global generator."""
        super().__init__(config, vocab_size, GRUCell)

    def expected_parameters(self) -> int:
        """H + V*E + 3*((E + H)*H + H) + (H*V + V)."""
        return self._parameters_with(cells=3)

    def expected_first_loss(self) -> FirstLoss:
        """ln V + (H*q + 1) / 6H, with q = (E + 1) / (9*(E + H) - H/4); derived in the module's docstring."""
        embedding, hidden = self.config.embedding, self.config.hidden
        return self._first_loss_with((embedding + 1) / (9 * (embedding + hidden) - hidden / 4))
