"""The one contract that every rung of the ladder keeps, and the legend of its tensor names.

A tensor's name ends in its shape:

    B batch   T time   C width   H heads   D head size   V vocab   L layers
    W window  N examples, each for itself   E width of an embedding   H hidden units, where there are no heads

so `q_BHTD` is (batch, heads, time, head size). A model is tensors in, tensors out: it knows no file, no
tokenizer and no optimizer. `tests/lm/models/test_contract.py` holds every rung in `LADDER` against what is
written here.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lm.errors import require
from lm.models.reading import PAST, Documents, Reading

PAD = 0
"""The id that fills a window up on the left, where a row has begun only just before."""


class RungConfig(Protocol):
    """What the config of every rung has; each rung's own frozen dataclass adds its keys."""

    @property
    def context(self) -> int:
        """The longest T that the model is trained on, in ids."""


@dataclass(frozen=True, kw_only=True)
class FirstLoss:
    """The loss that untrained weights must show on at least 500 uniform random ids.

    It is derived for sums of many terms: for widths of some tens, and windows and vocabularies of more than a few.

    Args:
        nats: the expected loss, in nats per token.
        tolerance: how far a right implementation may be from it, in nats (about four standard deviations).
    """

    nats: float
    tolerance: float


class LanguageModel(nn.Module, ABC):
    """A rung: `forward(ids_BT) -> logits_BTV`, causal, with its own facts on paper beside it.

    A rung is built from its config and the size of the vocabulary, and draws its weights from torch's global
    generator, so `torch.manual_seed` before building fixes them.

    Attributes:
        context: the longest T that `forward` takes, in ids.
        window: how many ids a position sees, itself included: 1 for a bigram, `context` for a transformer. It
            bounds how far a batch can be learnt by heart.
        vocab_size: V, the number of logits.
    """

    context: int
    window: int
    vocab_size: int

    @abstractmethod
    def forward(self, ids_BT: Tensor) -> Tensor:
        """The logits of the next id at each position.

        Args:
            ids_BT: int64 ids in [0, V), with 1 <= T <= context.

        Returns:
            logits_BTV; row t depends on ids up to and including t only (in eval mode).

        Raises:
            ConfigError: if T is longer than the context.
        """

    def next_logits(self, ids_BT: Tensor) -> Tensor:
        """logits_BV: the logits of the id behind each row, the last row of `forward`; rungs that can leave out the
        others do.
        """
        logits_BTV: Tensor = self(ids_BT)
        return logits_BTV[:, -1]

    @abstractmethod
    def expected_parameters(self) -> int:
        """The number of parameters, by the formula in the rung's docstring."""

    @abstractmethod
    def expected_first_loss(self) -> FirstLoss:
        """The loss of the untrained weights, derived from how they are drawn."""

    def require_fits(self, ids_BT: Tensor) -> None:
        """Nothing, where T <= context; the error that `forward` owes its caller otherwise.

        Raises:
            ConfigError: if T is longer than the context.
        """
        time = ids_BT.shape[1]
        require(time <= self.context, f"{type(self).__name__}: T", f"at most the context of {self.context}", time)


class CausalTransformer(LanguageModel, ABC):
    """A rung whose positions meet in attention alone: blocks over a residual stream, then one matrix, the head.

    Apart, `features` and `head_PC` let a loss be taken without all logits in memory at once, and a `Reading` lets a row
    be fed piece by piece, or kept within its documents.

    Attributes:
        layers: L, how many blocks there are.
        heads: H, in each of them.
        head_size: D.
        recompute: drop what lies within a block after the forward pass and compute it again in the backward pass: about
            a third more work, and only one vector a position and layer is kept.
    """

    layers: int
    heads: int
    head_size: int
    recompute: bool = False

    @abstractmethod
    def features(self, ids_BT: Tensor, reading: Reading = PAST) -> Tensor:
        """x_BTC, what the head reads: the residual stream after the last norm.

        Args:
            ids_BT: int64 ids in [0, V).
            reading: how the positions read each other.

        Raises:
            ConfigError: if T is longer than the context.
        """

    @property
    @abstractmethod
    def head_PC(self) -> Tensor:
        """The head: a row for each id of the vocabulary, and P - V behind them that stand for none."""

    def logits(self, x_BTC: Tensor) -> Tensor:
        """logits_BTV of some features, the V real columns: neither loss nor sampling can see the padding."""
        return F.linear(x_BTC, self.head_PC)[..., : self.vocab_size]

    def forward(self, ids_BT: Tensor, documents_BT: Tensor | None = None) -> Tensor:
        """logits_BTV.

        Args:
            ids_BT: as every rung's.
            documents_BT: which document of its row each position belongs to; attention then stays within it.
        """
        return self.logits(self.features(ids_BT, PAST if documents_BT is None else Documents(documents_BT)))

    def next_logits(self, ids_BT: Tensor) -> Tensor:
        """logits_BV: the head reads the last position alone."""
        return self.logits(self.features(ids_BT)[:, -1:])[:, 0]

    def run_blocks(self, blocks: nn.ModuleList, x_BTC: Tensor, reading: Reading) -> Tensor:
        """x_BTC after `block(x_BTC, layer, reading)` for each of the blocks, in order."""
        for layer, block in enumerate(blocks):
            if self.recompute and self.training:
                x_BTC = checkpoint(block, x_BTC, layer, reading, use_reentrant=False)
            else:
                x_BTC = block(x_BTC, layer, reading)
        return x_BTC


class WindowModel(LanguageModel, ABC):
    """A rung that predicts from a window of W = `window` ids, the last W, filled up on the left with `PAD`.

    In training by `forward` every position of a row is such a window, those behind a short document too: they have no
    target, but BatchNorm counts them in. The lectures train otherwise, on windows drawn
    from all of the text: `next_logits`, whose rows are the windows, is theirs.
    """

    @abstractmethod
    def predict(self, windows_NW: Tensor) -> Tensor:
        """logits_NV: of the id behind each of N windows."""

    def forward(self, ids_BT: Tensor) -> Tensor:
        """logits_BTV: each position's left window, predicted from by itself."""
        self.require_fits(ids_BT)
        batch, time = ids_BT.shape
        windows_BTW = F.pad(ids_BT, (self.window - 1, 0), value=PAD).unfold(1, self.window, 1)
        return self.predict(windows_BTW.reshape(batch * time, self.window)).view(batch, time, -1)

    def next_logits(self, ids_BT: Tensor) -> Tensor:
        """logits_BV: from the last window of each row alone."""
        self.require_fits(ids_BT)
        missing = self.window - ids_BT.shape[1]
        return self.predict(F.pad(ids_BT, (missing, 0), value=PAD))  # a negative padding cuts off
