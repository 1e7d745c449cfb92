"""GPT-2's gradients by hand: every weight of `lm/models/gpt2.py`, without autograd anywhere.

Source: the method of makemore part 4 (see `lm/backward.py`) on the model of Radford et al. (2019); llm.c's
`train_gpt2.c` has the same backward pass in C.
Adds: to the lecture's network attention, LayerNorm, GELU, residual sums, and one weight in two places (the tied head).
Lacks: dropout, and speed: each part computes its forward pass again from its input, so that only the inputs of the
blocks are kept (as activation checkpointing does).
Parameters: those of the model.

Every function but the last has the shape `d_out, x, module -> d_x, gradients`, where the gradients bear the names of
`module.named_parameters()`. Two rules come on top of those in `lm/backward.py`: a residual sum x + f(x) passes its
gradient on as it is and adds what comes back through f; a tied weight gets the sum of both its places.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm.backward import (
    attention_backward,
    attention_forward,
    cross_entropy_backward,
    embedding_backward,
    gelu_tanh_backward,
    layer_norm_backward,
    layer_norm_forward,
    linear_backward,
    require_ids,
)
from lm.errors import require
from lm.models.gpt2 import GPT2, Attention, Block, Feedforward

Gradients = dict[str, Tensor]
"""The gradient of each parameter, by the parameter's name."""


def block_backward(d_out_BTC: Tensor, x_BTC: Tensor, block: Block) -> tuple[Tensor, Gradients]:
    """d_x and the gradients of a block: two residual sums, each with a LayerNorm and a sublayer beside the stream.

    Raises:
        ConfigError: if the shapes do not fit.
    """
    attention_in_BTC, attention_kept = _norm_forward(x_BTC, block.attention_norm)
    middle_BTC = x_BTC + block.attention(attention_in_BTC)
    feedforward_in_BTC, feedforward_kept = _norm_forward(middle_BTC, block.feedforward_norm)

    d_normed_BTC, feedforward = feedforward_backward(d_out_BTC, feedforward_in_BTC, block.feedforward)
    d_side_BTC, feedforward_norm = _norm_backward(d_normed_BTC, feedforward_kept, block.feedforward_norm)
    d_middle_BTC = d_out_BTC + d_side_BTC
    d_normed_BTC, attention = self_attention_backward(d_middle_BTC, attention_in_BTC, block.attention)
    d_side_BTC, attention_norm = _norm_backward(d_normed_BTC, attention_kept, block.attention_norm)
    return d_middle_BTC + d_side_BTC, {
        **_named("attention_norm", attention_norm),
        **_named("attention", attention),
        **_named("feedforward_norm", feedforward_norm),
        **_named("feedforward", feedforward),
    }


def self_attention_backward(d_out_BTC: Tensor, x_BTC: Tensor, attention: Attention) -> tuple[Tensor, Gradients]:
    """d_x and the gradients of `Attention`: the two linear layers around `attention_backward`.

    Raises:
        ConfigError: if the shapes do not fit.
    """
    q_BHTD, k_BHTD, v_BHTD = (_split_heads(part, attention.heads) for part in attention.qkv(x_BTC).chunk(3, dim=2))
    y_BHTD, probs_BHTT = attention_forward(q_BHTD, k_BHTD, v_BHTD)
    d_y_BTC, project = _linear_backward(d_out_BTC, _merge_heads(y_BHTD), attention.project)
    d_parts = attention_backward(_split_heads(d_y_BTC, attention.heads), probs_BHTT, q_BHTD, k_BHTD, v_BHTD)
    d_x_BTC, qkv = _linear_backward(torch.cat([_merge_heads(part) for part in d_parts], 2), x_BTC, attention.qkv)
    return d_x_BTC, {**_named("qkv", qkv), **_named("project", project)}


def feedforward_backward(d_out_BTC: Tensor, x_BTC: Tensor, feedforward: Feedforward) -> tuple[Tensor, Gradients]:
    """d_x and the gradients of `Feedforward`: a GELU between two linear layers.

    Raises:
        ConfigError: if the shapes do not fit.
    """
    wide_BTF = feedforward.expand(x_BTC)
    d_gelu_BTF, project = _linear_backward(d_out_BTC, F.gelu(wide_BTF, approximate="tanh"), feedforward.project)
    d_x_BTC, expand = _linear_backward(gelu_tanh_backward(d_gelu_BTF, wide_BTF), x_BTC, feedforward.expand)
    return d_x_BTC, {**_named("expand", expand), **_named("project", project)}


@torch.no_grad()
def loss_and_gradients(model: GPT2, ids_BT: Tensor, targets_BT: Tensor) -> tuple[Tensor, Gradients]:
    """The mean loss of a batch in nats, a scalar, and the gradient of each parameter of the model.

    Args:
        model: in eval mode, or without dropout.
        ids_BT: ids in [0, V).
        targets_BT: the next ids, each in [0, V).

    Raises:
        ConfigError: if the shapes do not fit, or the model would drop values.
        DataError: if an id is out of range.
    """
    where, time = "loss_and_gradients", ids_BT.shape[-1]
    drops = model.training and model.config.dropout > 0
    require(not drops, f"{where}: dropout", "0 in training mode", model.config.dropout, "model.eval()")
    require(ids_BT.ndim == 2, f"{where}: ids", "of shape (B, T)", tuple(ids_BT.shape))
    require(
        targets_BT.shape == ids_BT.shape,
        f"{where}: targets",
        f"of shape {tuple(ids_BT.shape)}",
        tuple(targets_BT.shape),
    )
    model.require_fits(ids_BT)
    require_ids(f"{where}: ids", ids_BT, model.vocab_size)
    require_ids(f"{where}: targets", targets_BT, model.vocab_size)
    table_PC, positions = model.token_embedding.weight, model.position_embedding.weight
    head_VC = table_PC[: model.vocab_size]

    streams = [table_PC[ids_BT] + positions[:time]]
    for block in model.blocks:
        streams.append(block(streams[-1]))
    final_BTC, kept = _norm_forward(streams.pop(), model.norm)
    logits_NV = (final_BTC @ head_VC.T).flatten(0, 1)
    loss = F.cross_entropy(logits_NV, targets_BT.flatten())

    d_logits_BTV = cross_entropy_backward(logits_NV, targets_BT.flatten()).view(*ids_BT.shape, -1)
    d_final_BTC, d_head_CV, _ = linear_backward(d_logits_BTV, final_BTC, head_VC.T)
    d_x_BTC, norm = _norm_backward(d_final_BTC, kept, model.norm)
    gradients = _named("norm", norm)
    for index, block in reversed(list(enumerate(model.blocks))):
        assert isinstance(block, Block)
        d_x_BTC, inner = block_backward(d_x_BTC, streams[index], block)
        gradients |= _named(f"blocks.{index}", inner)
    d_table_PC = embedding_backward(d_x_BTC, ids_BT, len(table_PC))
    d_table_PC[: model.vocab_size] += d_head_CV.T
    d_positions = torch.zeros_like(positions)
    d_positions[:time] = d_x_BTC.sum(0)
    return loss, {"token_embedding.weight": d_table_PC, "position_embedding.weight": d_positions, **gradients}


def _linear_backward(d_out_BTC: Tensor, x_BTC: Tensor, linear: nn.Linear) -> tuple[Tensor, Gradients]:
    d_x_BTC, d_weight, d_bias = linear_backward(d_out_BTC, x_BTC, linear.weight.T)
    return d_x_BTC, {"weight": d_weight.T, "bias": d_bias}


def _norm_forward(x_BTC: Tensor, norm: nn.LayerNorm) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    out_BTC, raw_BTC, std_inv_BT1 = layer_norm_forward(x_BTC, norm.weight, norm.bias)
    return out_BTC, (raw_BTC, std_inv_BT1)


def _norm_backward(d_out_BTC: Tensor, kept: tuple[Tensor, Tensor], norm: nn.LayerNorm) -> tuple[Tensor, Gradients]:
    d_x_BTC, d_gain_C, d_bias_C = layer_norm_backward(d_out_BTC, *kept, norm.weight)
    return d_x_BTC, {"weight": d_gain_C, "bias": d_bias_C}


def _split_heads(x_BTC: Tensor, heads: int) -> Tensor:
    return x_BTC.view(*x_BTC.shape[:2], heads, -1).transpose(1, 2)


def _merge_heads(x_BHTD: Tensor) -> Tensor:
    return x_BHTD.transpose(1, 2).flatten(2)


def _named(prefix: str, gradients: Gradients) -> Gradients:
    return {f"{prefix}.{name}": gradient for name, gradient in gradients.items()}
