"""The modern rung: GPT-2's blocks with what was found after 2019, at GPT-2's shapes.

Adds, each with its source:

    RMSNorm, without weights   Zhang, Sennrich, *Root Mean Square Layer Normalization* (2019); a gain before a matrix is
                               the matrix's own, so none is kept (karpathy/nanochat, KellerJordan/modded-nanogpt)
    rotary positions           Su et al., *RoFormer* (2021): queries and keys are turned by an angle that grows with the
                               position, so that their product knows the distance and no table ends
    QK-norm                    Henry et al., *Query-Key Normalization for Transformers* (2020); Dehghani et al.,
                               *Scaling Vision Transformers to 22 Billion Parameters* (2023): no logit of attention
                               runs away, and learning rates may be higher
    ReLU squared               So et al., *Primer* (2021): cheaper than GELU, and better there
    untied head                modded-nanogpt and nanochat: reading ids and predicting them want other vectors
    no biases                  Chowdhery et al., *PaLM* (2022), section 2
    zero-initialised           modded-nanogpt: each block adds nothing at the start, so depth costs no signal; Zhang et
    projections                al., *Fixup Initialization* (2019) has the argument
    norm after the embedding   modded-nanogpt and nanochat: the stream begins with vectors of one length

Lacks: dropout (one epoch of much text wants none), value embeddings, sliding windows, soft caps.
Parameters: 2*P*C + 12*L*C*C, with P the vocabulary rounded up to `vocab_multiple`.

At the start all blocks add zero, the last norm gives vectors of length sqrt(C), and the head's rows are N(0, .02), so
a logit is N(0, .02 * .02 * C) and the loss is ln V plus half that variance, as in GPT-2. A head of zeros would start at
ln V itself, but for one step no other weight would get a gradient.
"""

import math
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm.errors import require
from lm.models.contract import CausalTransformer, FirstLoss
from lm.models.reading import PAST, Reading

HEAD_STD = 0.02
"""Of the head's first weights, as GPT-2's."""

ROTARY_BASE = 10_000
"""The slowest pair of a head turns once in about 2 * pi * ROTARY_BASE positions (RoFormer, section 3.2.2)."""


@dataclass(frozen=True, kw_only=True)
class ModernConfig:
    """The modern rung's keys in `[model]`.

    Args:
        context: the longest T, in ids.
        layers: L, the number of blocks.
        heads: H; the head size D is width / heads, and even.
        width: C, a multiple of 2 * heads.
        vocab_multiple: the vocabulary is padded to a multiple of this.
    """

    context: int
    layers: int
    heads: int
    width: int
    vocab_multiple: int = 64

    def __post_init__(self) -> None:
        """Checks the values; raises ConfigError."""
        for key in ("context", "layers", "heads", "width", "vocab_multiple"):
            require(getattr(self, key) >= 1, f"model.{key}", "at least 1", getattr(self, key))
        divides = self.width % (2 * self.heads) == 0
        require(divides, "model.width", f"a multiple of 2 * model.heads = {2 * self.heads}", self.width)


def rms_norm(x: Tensor) -> Tensor:
    """x with each vector of its last axis scaled to a mean square of 1."""
    return F.rms_norm(x, (x.shape[-1],))


@final
class Turning:
    """A reading that also turns queries and keys by their positions; its angles serve all layers.

    Args:
        reading: whose positions and attention are used.
        ids_BT: the row.
        head_size: D; component i and component i + D / 2 are one pair, turned together.
    """

    def __init__(self, reading: Reading, ids_BT: Tensor, head_size: int) -> None:
        """Makes the angles, in float32: bfloat16 cannot tell position 257 from 256."""
        self.reading = reading
        half = head_size // 2
        positions = reading.positions(ids_BT)
        # Made here and not kept in a buffer: one that no checkpoint holds is easily left unset (karpathy/nanochat#686).
        steps_E = torch.arange(half, device=ids_BT.device, dtype=torch.float32) / half
        angles = positions[..., None].float() * ROTARY_BASE**-steps_E
        # positions_T: (T, D/2) serves every row and head; positions_BT: (B, 1, T, D/2) every head.
        angles = angles if positions.dim() == 1 else angles[:, None]
        cos, sin = angles.cos(), angles.sin()
        self._cos = torch.cat((cos, cos), dim=-1)
        self._sin = torch.cat((sin, -sin), dim=-1)

    def positions(self, ids_BT: Tensor) -> Tensor:
        """Those of the inner reading."""
        return self.reading.positions(ids_BT)

    def turned(self, x_BHTD: Tensor) -> Tensor:
        """Each pair (a, b) as (a cos + b sin, b cos - a sin)."""
        swapped_BHTD = x_BHTD.roll(x_BHTD.shape[-1] // 2, dims=-1)
        return torch.addcmul(x_BHTD * self._cos, swapped_BHTD, self._sin)

    def attend(self, layer: int, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, *, dropout: float = 0.0) -> Tensor:
        """The inner reading's attention; `turned` comes before, for queries and keys at once."""
        return self.reading.attend(layer, q_BHTD, k_BHTD, v_BHTD, dropout=dropout)


@final
class Attention(nn.Module):
    """Self-attention with queries and keys of one length, so that a logit is at most sqrt(D)."""

    def __init__(self, config: ModernConfig) -> None:
        """Weights as torch draws them; `Modern` draws them anew."""
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.project = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x_BTC: Tensor, layer: int, reading: Turning) -> Tensor:
        """x_BTC after attention, before the residual sum."""
        batch, time, width = x_BTC.shape
        # Queries and keys go side by side, as twice the heads: what is done to both is done once.
        heads_BHTD = self.qkv(x_BTC).view(batch, time, 3 * self.heads, -1).transpose(1, 2)
        qk_BHTD, v_BHTD = heads_BHTD.split(2 * self.heads, dim=1)
        # Norm and angles are float32 under autocast; attention wants one dtype.
        q_BHTD, k_BHTD = reading.turned(rms_norm(qk_BHTD)).type_as(v_BHTD).chunk(2, dim=1)
        y_BHTD = reading.attend(layer, q_BHTD, k_BHTD, v_BHTD)
        y_BTC: Tensor = self.project(y_BHTD.transpose(1, 2).reshape(batch, time, width))
        return y_BTC


@final
class Feedforward(nn.Module):
    """Two linear layers, four times as wide in between, each position for itself."""

    def __init__(self, config: ModernConfig) -> None:
        """Weights as torch draws them; `Modern` draws them anew."""
        super().__init__()
        self.expand = nn.Linear(config.width, 4 * config.width, bias=False)
        self.relu = nn.ReLU()  # a module, so that a diagnosis sees what comes out of it
        self.project = nn.Linear(4 * config.width, config.width, bias=False)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """x_BTC after the two layers, before the residual sum."""
        y_BTC: Tensor = self.project(self.relu(self.expand(x_BTC)).square())
        return y_BTC


@final
class Block(nn.Module):
    """One layer: attention, then feedforward, each on a normed copy and added back to the residual stream."""

    def __init__(self, config: ModernConfig) -> None:
        """Weights as torch draws them; `Modern` draws them anew."""
        super().__init__()
        self.attention = Attention(config)
        self.feedforward = Feedforward(config)

    def forward(self, x_BTC: Tensor, layer: int, reading: Turning) -> Tensor:
        """The residual stream x_BTC after this layer, the layer-th from 0."""
        x_BTC = x_BTC + self.attention(rms_norm(x_BTC), layer, reading)
        x_BTC = x_BTC + self.feedforward(rms_norm(x_BTC))
        return x_BTC


@final
class Modern(CausalTransformer):
    """The modern rung at any size.

    >>> import torch
    >>> model = Modern(ModernConfig(context=8, layers=2, heads=2, width=16), vocab_size=100)
    >>> model(torch.tensor([[1, 2, 3]])).shape
    torch.Size([1, 3, 100])
    """

    def __init__(self, config: ModernConfig, vocab_size: int) -> None:
        """Untrained weights, drawn from the global generator."""
        super().__init__()
        self.config = config
        self.context = config.context
        self.window = config.context
        self.vocab_size = vocab_size
        self.layers, self.heads, self.head_size = config.layers, config.heads, config.width // config.heads
        padded = math.ceil(vocab_size / config.vocab_multiple) * config.vocab_multiple
        self.token_embedding = nn.Embedding(padded, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.head = nn.Linear(config.width, padded, bias=False)
        self._draw_weights()

    @torch.no_grad()
    def _draw_weights(self) -> None:
        # Unit vectors in, vectors of unit mean square out: the norms want no other scale.
        for name, parameter in self.blocks.named_parameters():
            if name.endswith("project.weight"):
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=1 / math.sqrt(self.config.width))
        nn.init.normal_(self.token_embedding.weight)
        nn.init.normal_(self.head.weight, std=HEAD_STD)
        for weight_PC in (self.token_embedding.weight, self.head.weight):
            weight_PC[self.vocab_size :].zero_()

    def features(self, ids_BT: Tensor, reading: Reading = PAST) -> Tensor:
        """x_BTC after all blocks and the last norm."""
        self.require_fits(ids_BT)
        x_BTC: Tensor = self.token_embedding(ids_BT)
        turning = Turning(reading, ids_BT, self.head_size)
        return rms_norm(self.run_blocks(self.blocks, rms_norm(x_BTC), turning))

    @property
    def head_PC(self) -> Tensor:
        """The head, a matrix of its own."""
        weight_PC: Tensor = self.head.weight
        return weight_PC

    def expected_parameters(self) -> int:
        """2*P*C + 12*L*C*C."""
        width, padded = self.config.width, self.token_embedding.num_embeddings
        return 2 * padded * width + 12 * self.config.layers * width**2

    def expected_first_loss(self) -> FirstLoss:
        """ln V + .02 * .02 * C / 2; derived in the module's docstring."""
        return FirstLoss(nats=math.log(self.vocab_size) + HEAD_STD**2 * self.config.width / 2, tolerance=0.1)
