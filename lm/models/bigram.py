"""The bigram: the next id by the last id alone, one row of a table.

Source: Karpathy, *Neural Networks: Zero to Hero*, makemore part 1 ("The spelled-out intro to language
modeling", the neural bigram), and `bigram.py` of karpathy/ng-video-lecture.
Adds: the ladder begins here; a loss, a gradient, an optimizer.
Lacks: any view of what stands before the last id.
Parameters: V * V.

The weights are drawn from N(0, 1), as in both sources. Row v is then a sample of V normals z, whose expected
loss is E[ln sum exp z] - E[z]: ln V + 1/2 for a large V, less (e - 1) / 2V by the second-order term of the
logarithm.
"""

import math
from dataclasses import dataclass
from typing import final

from torch import Tensor, nn

from lm.errors import require
from lm.models.contract import FirstLoss, LanguageModel


@dataclass(frozen=True, kw_only=True)
class BigramConfig:
    """The bigram's keys in `[model]`.

    Args:
        context: the length T of a training row, in ids; the model itself looks at one id.
    """

    context: int

    def __post_init__(self) -> None:
        """Checks the values; raises ConfigError."""
        require(self.context >= 1, "model.context", "at least 1", self.context)


@final
class Bigram(LanguageModel):
    """A table of V x V logits: row = the last id, column = the next one.

    >>> import torch
    >>> model = Bigram(BigramConfig(context=8), vocab_size=5)
    >>> model(torch.tensor([[0, 3, 1]])).shape
    torch.Size([1, 3, 5])
    """

    def __init__(self, config: BigramConfig, vocab_size: int) -> None:
        """Untrained weights, drawn from the global generator."""
        super().__init__()
        self.context = config.context
        self.window = 1
        self.vocab_size = vocab_size
        self.table = nn.Embedding(vocab_size, vocab_size)

    def forward(self, ids_BT: Tensor) -> Tensor:
        """logits_BTV: for each id its row of the table."""
        self.require_fits(ids_BT)
        logits_BTV: Tensor = self.table(ids_BT)
        return logits_BTV

    def expected_parameters(self) -> int:
        """V * V."""
        return self.vocab_size**2

    def expected_first_loss(self) -> FirstLoss:
        """ln V + 1/2 - (e - 1) / 2V; derived in the module's docstring."""
        nats = math.log(self.vocab_size) + 0.5 - (math.e - 1) / (2 * self.vocab_size)
        return FirstLoss(nats=nats, tolerance=0.25)
