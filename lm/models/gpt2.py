"""GPT-2: a stack of pre-norm transformer blocks with learned positions and a tied head.

Source: Radford, Wu, Child, Luan, Amodei, Sutskever, *Language Models are Unsupervised Multitask Learners*
(2019), section 2.3; where the paper is silent, OpenAI's code (openai/gpt-2, src/model.py): GELU by its tanh
form, biases everywhere but in the head, N(0, .02) for weights and positions alike.
Adds: attention over the whole context, depth, residual streams, LayerNorm before each sublayer and after the
last.
Lacks: rotary positions, everything found after 2019.
Parameters: P*C + T*C + L*(12*C*C + 13*C) + 2*C, with P the vocabulary rounded up to `vocab_multiple`.

The vocabulary is padded inside: matrix products like sizes that divide by 64 (50,257 becomes 50,304).
`logits` gives the V real columns only, so neither loss nor sampling can see the padding; its rows start at
zero and get no gradient.

At the start the last LayerNorm gives vectors of length sqrt(C) and the head has rows of N(0, .02), so a logit
is N(0, .02 * .02 * C) and the loss is ln V plus half that variance.
"""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from lm.errors import require
from lm.models.contract import CausalTransformer, FirstLoss
from lm.models.reading import PAST, Reading

INIT_STD = 0.02


@dataclass(frozen=True, kw_only=True)
class GPT2Config:
    """GPT-2's keys in `[model]`.

    Args:
        context: the longest T, in ids.
        layers: L, the number of blocks.
        heads: H; the head size D is width / heads.
        width: C, a multiple of heads.
        dropout: the chance that a value is dropped after the embeddings, in the attention and before each
            residual sum, in [0, 1).
        vocab_multiple: the vocabulary is padded to a multiple of this; 1 for the published count of
            parameters.
    """

    context: int
    layers: int
    heads: int
    width: int
    dropout: float = 0.0
    vocab_multiple: int = 64

    def __post_init__(self) -> None:
        """Checks the values; raises ConfigError."""
        for key in ("context", "layers", "heads", "width", "vocab_multiple"):
            require(getattr(self, key) >= 1, f"model.{key}", "at least 1", getattr(self, key))
        require(0 <= self.dropout < 1, "model.dropout", "in [0, 1)", self.dropout)
        divides = self.width % self.heads == 0
        require(divides, "model.width", f"a multiple of model.heads = {self.heads}", self.width)


SIZES = {
    "gpt2-124m": GPT2Config(context=1024, layers=12, heads=12, width=768),
    "gpt2-355m": GPT2Config(context=1024, layers=24, heads=16, width=1024),
    "gpt2-774m": GPT2Config(context=1024, layers=36, heads=20, width=1280),
    "gpt2-1558m": GPT2Config(context=1024, layers=48, heads=25, width=1600),
}
"""The four published sizes (table 2 of the paper, named by their real parameter counts), without dropout."""


@final
class Attention(nn.Module):
    """Self-attention: each position reads the values of those that the reading lets it."""

    def __init__(self, config: GPT2Config) -> None:
        """Weights as torch draws them; `GPT2` draws them anew."""
        super().__init__()
        self.heads = config.heads
        self.dropout = config.dropout
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.project = nn.Linear(config.width, config.width)

    def forward(self, x_BTC: Tensor, layer: int = 0, reading: Reading = PAST) -> Tensor:
        """x_BTC after attention, before the residual sum."""
        batch, time, width = x_BTC.shape
        heads_BTHD = [part.view(batch, time, self.heads, -1) for part in self.qkv(x_BTC).split(width, dim=2)]
        q_BHTD, k_BHTD, v_BHTD = (part.transpose(1, 2) for part in heads_BTHD)
        dropout = self.dropout if self.training else 0.0
        y_BHTD = reading.attend(layer, q_BHTD, k_BHTD, v_BHTD, dropout=dropout)
        y_BTC: Tensor = self.project(y_BHTD.transpose(1, 2).reshape(batch, time, width))
        return y_BTC


@final
class Feedforward(nn.Module):
    """Two linear layers, four times as wide in between, each position for itself."""

    def __init__(self, config: GPT2Config) -> None:
        """Weights as torch draws them; `GPT2` draws them anew."""
        super().__init__()
        self.expand = nn.Linear(config.width, 4 * config.width)
        self.gelu = nn.GELU(approximate="tanh")
        self.project = nn.Linear(4 * config.width, config.width)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """x_BTC after the two layers, before the residual sum."""
        y_BTC: Tensor = self.project(self.gelu(self.expand(x_BTC)))
        return y_BTC


@final
class Block(nn.Module):
    """One layer: attention, then feedforward, each on a normed copy and added back to the residual stream."""

    def __init__(self, config: GPT2Config) -> None:
        """Weights as torch draws them; `GPT2` draws them anew."""
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = Attention(config)
        self.feedforward_norm = nn.LayerNorm(config.width)
        self.feedforward = Feedforward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTC: Tensor, layer: int = 0, reading: Reading = PAST) -> Tensor:
        """The residual stream x_BTC after this layer, the layer-th from 0."""
        x_BTC = x_BTC + self.dropout(self.attention(self.attention_norm(x_BTC), layer, reading))
        x_BTC = x_BTC + self.dropout(self.feedforward(self.feedforward_norm(x_BTC)))
        return x_BTC


@final
class GPT2(CausalTransformer):
    """GPT-2 at any size.

    >>> import torch
    >>> model = GPT2(GPT2Config(context=8, layers=2, heads=2, width=16), vocab_size=100)
    >>> model(torch.tensor([[1, 2, 3]])).shape
    torch.Size([1, 3, 100])
    """

    def __init__(self, config: GPT2Config, vocab_size: int) -> None:
        """Untrained weights, drawn from the global generator."""
        super().__init__()
        self.config = config
        self.context = config.context
        self.window = config.context
        self.vocab_size = vocab_size
        self.layers, self.heads, self.head_size = config.layers, config.heads, config.width // config.heads
        padded = math.ceil(vocab_size / config.vocab_multiple) * config.vocab_multiple
        self.token_embedding = nn.Embedding(padded, config.width)
        self.position_embedding = nn.Embedding(config.context, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self._draw_weights()

    @torch.no_grad()
    def _draw_weights(self) -> None:
        # Each block adds twice to the residual stream; the factor keeps the stream's variance from growing
        # with the depth (the paper, section 2.3).
        residual_std = INIT_STD / math.sqrt(2 * self.config.layers)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=residual_std if name.endswith(".project") else INIT_STD)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=INIT_STD)
        self.token_embedding.weight[self.vocab_size :].zero_()

    def features(self, ids_BT: Tensor, reading: Reading = PAST) -> Tensor:
        """x_BTC after all blocks and the last norm."""
        self.require_fits(ids_BT)
        x_BTC = self.dropout(self.token_embedding(ids_BT) + self.position_embedding(reading.positions(ids_BT)))
        normed_BTC: Tensor = self.norm(self.run_blocks(self.blocks, x_BTC, reading))
        return normed_BTC

    @property
    def head_PC(self) -> Tensor:
        """The embedding itself (tied): one parameter, so no copy of it can drift in a checkpoint."""
        weight_PC: Tensor = self.token_embedding.weight
        return weight_PC

    def expected_parameters(self) -> int:
        """P*C + T*C + L*(12*C*C + 13*C) + 2*C; 124,439,808 for the published 124M, where P is 50,257."""
        width, padded = self.config.width, self.token_embedding.num_embeddings
        block = 12 * width**2 + 13 * width
        return (padded + self.context) * width + self.config.layers * block + 2 * width

    def expected_first_loss(self) -> FirstLoss:
        """ln V + .02 * .02 * C / 2; derived in the module's docstring."""
        return FirstLoss(nats=math.log(self.vocab_size) + INIT_STD**2 * self.config.width / 2, tolerance=0.1)
