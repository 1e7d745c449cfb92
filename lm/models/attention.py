"""Attention: each position asks, and is answered by those before it; built up in named steps to a transformer.

Source: Vaswani, Shazeer, Parmar, Uszkoreit, Jones, Gomez, Kaiser, Polosukhin, *Attention Is All You Need* (2017),
section 3; in the form and the order of Karpathy, *Neural Networks: Zero to Hero*, "Let's build GPT: from scratch, in
code, spelled out" (gpt.py of karpathy/ng-video-lecture): a decoder alone, with learned positions, and LayerNorm
before the sublayers instead of behind them.
Adds: a mean of the past whose weights are learned from what stands there. Nothing waits for the step before it, as in
a recurrent network, and every id of the past is one step away.
Lacks: speed (one head after the other, all T * T weights in memory); GPT-2's tied head, GELU, fewer draws of the
sublayers that close a residual sum: `gpt2.py` has them.
Parameters: V*C + T*C + L*(12*C*C + 10*C) + 2*C + (C*V + V); 10,788,929 in the lecture's last form.

The steps, each in this file, with the loss that they reach on tiny shakespeare's whole validation text (characters;
context 8, width 32, 4 heads; AdamW 1e-3, 32 rows, 5,000 steps; a slow test trains them anew):

    step                    here                      what it brings                                        loss
    no past at all          the embeddings and head   the bigram by another road                            2.496
    the mean of the past    `average_by_loop`         a context
    as a matrix product     `average_by_matrix`       all positions at once
    as a softmax            `average_by_softmax`      weights that may depend on what they weigh
    one head                `Head`                    they do: query times key                              2.405
    many heads              `MultiHead`               several questions at once                             2.265
    feed-forward            `FeedForward`             time to think about the answers                       2.208
    three times over        both, in a row            depth, which cannot be trained like this              2.292
    residual sums           `Block`, x + ...          a straight way for the gradient: now it can           2.073
    LayerNorm               `Block`, the norms        vectors of one length, however deep                   2.064
    the language model      `Transformer`             all of it: the last row is this class, 3 layers

At the start the last LayerNorm gives vectors of length sqrt(C), and the head has rows of N(0, .02) and no bias yet:
a logit is N(0, .02 * .02 * C), and the loss is ln V plus half that variance.
"""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from lm.errors import require
from lm.models.contract import FirstLoss, LanguageModel

INIT_STD = 0.02


def average_by_loop(x_BTC: Tensor) -> Tensor:
    """x_BTC, each position the mean of itself and of all before it: what is meant, spelled out.

    >>> average_by_loop(torch.tensor([[[3.0], [5.0], [1.0]]])).flatten().tolist()
    [3.0, 4.0, 3.0]
    """
    return torch.stack([x_BTC[:, : t + 1].mean(dim=1) for t in range(x_BTC.shape[1])], dim=1)


def average_by_matrix(x_BTC: Tensor) -> Tensor:
    """`average_by_loop` as one product: row t of the matrix has 1/(t + 1) up to t, then zeros.

    >>> average_by_matrix(torch.tensor([[[3.0], [5.0], [1.0]]])).flatten().tolist()
    [3.0, 4.0, 3.0]
    """
    time = x_BTC.shape[1]
    weights_TT = torch.ones(time, time, dtype=x_BTC.dtype, device=x_BTC.device).tril()
    weights_TT = weights_TT / weights_TT.sum(dim=1, keepdim=True)
    return weights_TT @ x_BTC


def average_by_softmax(x_BTC: Tensor) -> Tensor:
    """`average_by_loop` as attention to all alike: the softmax of scores that are 0 for the past, -inf for the rest.

    `Head` is this with scores that depend on x.

    >>> average_by_softmax(torch.tensor([[[3.0], [5.0], [1.0]]])).flatten().tolist()
    [3.0, 4.0, 3.0]
    """
    time = x_BTC.shape[1]
    scores_TT = torch.zeros(time, time, dtype=x_BTC.dtype, device=x_BTC.device)
    return hide_future(scores_TT).softmax(dim=-1) @ x_BTC


def hide_future(scores_TT: Tensor) -> Tensor:
    """scores_TT (any dimensions before them), -inf where the column stands behind the row.

    >>> hide_future(torch.zeros(2, 2)).tolist()
    [[0.0, -inf], [0.0, 0.0]]
    """
    past_TT = torch.ones(scores_TT.shape[-2:], dtype=torch.bool, device=scores_TT.device).tril()
    return scores_TT.masked_fill(~past_TT, float("-inf"))


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """The transformer's keys in `[model]`; the lecture's last form has 256, 6, 6, 384 and 0.2.

    Args:
        context: the longest T, in ids.
        layers: L, the number of blocks.
        heads: H; the head size D is width / heads.
        width: C, a multiple of heads.
        dropout: the chance that a value is dropped: of the attention's weights, and of what each sublayer adds
            to the residual stream; in [0, 1).
    """

    context: int
    layers: int
    heads: int
    width: int
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Checks the values; raises ConfigError."""
        for key in ("context", "layers", "heads", "width"):
            require(getattr(self, key) >= 1, f"model.{key}", "at least 1", getattr(self, key))
        require(0 <= self.dropout < 1, "model.dropout", "in [0, 1)", self.dropout)
        divides = self.width % self.heads == 0
        require(divides, "model.width", f"a multiple of model.heads = {self.heads}", self.width)


@final
class Head(nn.Module):
    """One head of self-attention: a mean of the values of the past, weighted by how well key meets query."""

    def __init__(self, config: TransformerConfig) -> None:
        """Weights as torch draws them; `Transformer` draws them anew."""
        super().__init__()
        size = config.width // config.heads
        self.key = nn.Linear(config.width, size, bias=False)
        self.query = nn.Linear(config.width, size, bias=False)
        self.value = nn.Linear(config.width, size, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """y_BTD, what each position read."""
        k_BTD, q_BTD, v_BTD = self.key(x_BTC), self.query(x_BTC), self.value(x_BTC)
        # A sum of D products of unit variance has the variance D; divided by its root it is 1 again. Otherwise the
        # softmax would begin with nearly all its weight on one position (the paper, section 3.2.1).
        scores_BTT = q_BTD @ k_BTD.transpose(1, 2) / math.sqrt(k_BTD.shape[-1])
        weights_BTT = self.dropout(hide_future(scores_BTT).softmax(dim=-1))
        y_BTD: Tensor = weights_BTT @ v_BTD
        return y_BTD


@final
class MultiHead(nn.Module):
    """Heads beside each other, their answers joined and mixed by one linear layer."""

    def __init__(self, config: TransformerConfig) -> None:
        """Weights as torch draws them; `Transformer` draws them anew."""
        super().__init__()
        self.heads = nn.ModuleList(Head(config) for _ in range(config.heads))
        self.project = nn.Linear(config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """y_BTC, what all heads read."""
        joined_BTC = torch.cat([head(x_BTC) for head in self.heads], dim=-1)
        y_BTC: Tensor = self.dropout(self.project(joined_BTC))
        return y_BTC


@final
class FeedForward(nn.Module):
    """Two linear layers with a ReLU, four times as wide in between, each position for itself (section 3.3)."""

    def __init__(self, config: TransformerConfig) -> None:
        """Weights as torch draws them; `Transformer` draws them anew."""
        super().__init__()
        self.expand = nn.Linear(config.width, 4 * config.width)
        self.relu = nn.ReLU()
        self.project = nn.Linear(4 * config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """y_BTC after the two layers."""
        y_BTC: Tensor = self.dropout(self.project(self.relu(self.expand(x_BTC))))
        return y_BTC


@final
class Block(nn.Module):
    """Communication, then computation: attention and feed-forward, each of a normed copy, added to the stream."""

    def __init__(self, config: TransformerConfig) -> None:
        """Weights as torch draws them; `Transformer` draws them anew."""
        super().__init__()
        self.attention = MultiHead(config)
        self.feedforward = FeedForward(config)
        self.attention_norm = nn.LayerNorm(config.width)
        self.feedforward_norm = nn.LayerNorm(config.width)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """The residual stream x_BTC after this block."""
        x_BTC = x_BTC + self.attention(self.attention_norm(x_BTC))
        x_BTC = x_BTC + self.feedforward(self.feedforward_norm(x_BTC))
        return x_BTC


@final
class Transformer(LanguageModel):
    """The lecture's language model: embeddings, a stack of blocks, a norm, a head.

    >>> model = Transformer(TransformerConfig(context=8, layers=2, heads=2, width=16), vocab_size=65)
    >>> model(torch.tensor([[1, 2, 3]])).shape
    torch.Size([1, 3, 65])
    """

    def __init__(self, config: TransformerConfig, vocab_size: int) -> None:
        """Untrained weights, drawn from the global generator in the lecture's order."""
        super().__init__()
        self.config = config
        self.context = config.context
        self.window = config.context
        self.vocab_size = vocab_size
        self.token_embedding = nn.Embedding(vocab_size, config.width)
        self.position_embedding = nn.Embedding(config.context, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, vocab_size)
        self._draw_weights()

    def _draw_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=INIT_STD)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, ids_BT: Tensor) -> Tensor:
        """logits_BTV after all blocks."""
        self.require_fits(ids_BT)
        positions_T = torch.arange(ids_BT.shape[1], device=ids_BT.device)
        x_BTC = self.token_embedding(ids_BT) + self.position_embedding(positions_T)
        for block in self.blocks:
            x_BTC = block(x_BTC)
        logits_BTV: Tensor = self.head(self.norm(x_BTC))
        return logits_BTV

    def expected_parameters(self) -> int:
        """V*C + T*C + L*(12*C*C + 10*C) + 2*C + (C*V + V)."""
        width, vocab = self.config.width, self.vocab_size
        block = 12 * width**2 + 10 * width
        embeddings = vocab * width + self.context * width
        return embeddings + self.config.layers * block + 2 * width + width * vocab + vocab

    def expected_first_loss(self) -> FirstLoss:
        """ln V + .02 * .02 * C / 2; derived in the module's docstring."""
        return FirstLoss(nats=math.log(self.vocab_size) + INIT_STD**2 * self.config.width / 2, tolerance=0.1)
