"""Gradients by hand: what autograd does in one call, written out for each part of a network.

Source: Karpathy, *Neural Networks: Zero to Hero*, makemore part 4 ("Becoming a Backprop Ninja"), for
cross-entropy, linear, tanh, BatchNorm and embedding; the same method for the parts of GPT. The method is
Rumelhart, Hinton, Williams, *Learning representations by back-propagating errors* (1986).
Adds: to the network with BatchNorm no new model, but its gradient without autograd.
Lacks: a graph. The caller runs the parts backward in the right order; `lm/by_hand.py` does so for the
lecture's network, and `lm/by_hand_gpt2.py` for GPT-2.
Parameters: none of its own.

Every function here has one shape: `<part>_backward(d_out, what the forward pass kept) -> d_inputs`, where `d_x` is
the derivative of the loss by x and has x's shape, and the inputs come in the order of the forward pass. A part whose
forward pass keeps more than torch's own gives has its forward pass beside it. Three rules are behind them all:

    y = f(x), each element for itself    d_x = f'(x) * d_y
    x is used in two places              d_x is the sum of both gradients
    x is broadcast over rows             d_x is the sum over these rows, and the other way round

Cross-entropy and BatchNorm are there twice: in small steps, each with its own gradient, equal to autograd's to the
last bit; and in one formula, which is what remains when the steps are multiplied out on paper.

Beside the legend of `lm/models/contract.py`: N examples, F width of the input. Where a docstring says so, more axes
may stand in the place of those in a name.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bpetok.errors import DataError
from lm.errors import require

BATCHNORM_EPS = 1e-5
LAYER_NORM_EPS = 1e-5


def _require_shape(where: str, tensor: Tensor, shape: torch.Size | tuple[int, ...]) -> None:
    require(tensor.shape == shape, where, f"of shape {tuple(shape)}", tuple(tensor.shape))


def require_ids(where: str, ids: Tensor, size: int) -> None:
    """Nothing, where all ids are in [0, size).

    Raises:
        DataError: if one is not, or if they are no int64.
    """
    if ids.dtype != torch.int64:
        raise DataError(f"{where} must be int64, got {ids.dtype}", hint="`.long()` makes them so")
    if not ids.numel():
        return
    least, most = (int(end) for end in ids.aminmax())
    if not 0 <= least <= most < size:
        raise DataError(f"{where} must be in [0, {size}), got {least if least < 0 else most}")


# ---- linear, tanh, embedding -----------------------------------------------------------------------------------------


def linear_backward(d_out_NC: Tensor, x_NF: Tensor, weight_FC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """d_x, d_weight and d_bias of `x @ weight + bias`.

    out_nc = sum over f of x_nf * w_fc, plus b_c. So x_nf meets each d_out_nc with the factor w_fc, and w_fc each
    d_out_nc with the factor x_nf: both are matrix products, and the shapes leave only one way to write them.

        d_x = d_out @ weight.T      d_weight = x.T @ d_out      d_bias = sum over n of d_out

    Args:
        d_out_NC: more axes may stand in the place of N.
        x_NF: the same axes.
        weight_FC: inputs by outputs, the transpose of `nn.Linear.weight`.

    Raises:
        ConfigError: if the shapes do not fit.
    """
    require(x_NF.shape[-1] == len(weight_FC), "linear_backward: x", f"{len(weight_FC)} wide", x_NF.shape[-1])
    _require_shape("linear_backward: d_out", d_out_NC, (*x_NF.shape[:-1], weight_FC.shape[1]))
    d_x_NF = d_out_NC @ weight_FC.T
    d_out_NC, x_NF = d_out_NC.flatten(0, -2), x_NF.flatten(0, -2)
    return d_x_NF, x_NF.T @ d_out_NC, d_out_NC.sum(0)


def tanh_backward(d_out: Tensor, out: Tensor) -> Tensor:
    """d_x of `tanh(x)`, any shape: tanh' = 1 - tanh**2, so the output is all that must be kept.

        d_x = (1 - out**2) * d_out

    >>> round(tanh_backward(torch.tensor([1.0]), torch.tensor([0.7071])).item(), 4)  # half of the gradient passes
    0.5

    Raises:
        ConfigError: if the shapes differ.
    """
    _require_shape("tanh_backward: d_out", d_out, out.shape)
    # 1 - out * out, rounded once as autograd does it on a CPU that can; `1 - out**2` rounds twice.
    return torch.addcmul(torch.ones_like(out), out, out, value=-1) * d_out


def embedding_backward(d_out_NE: Tensor, ids_N: Tensor, rows: int) -> Tensor:
    """d_table of `table[ids]`: each gradient is added to the row that it was read from.

    A row that was read twice gets both, a row that was not read stays zero.

    >>> embedding_backward(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([2, 0, 2]), rows=3).T
    tensor([[2., 0., 5.]])

    Args:
        d_out_NE: more axes may stand in the place of N.
        ids_N: the same axes.
        rows: the length of the table.

    Raises:
        ConfigError: if the shapes do not fit.
        DataError: if an id has no row.
    """
    _require_shape("embedding_backward: d_out", d_out_NE, (*ids_N.shape, d_out_NE.shape[-1]))
    require_ids("embedding_backward: ids", ids_N, rows)
    d_table_VE = d_out_NE.new_zeros(rows, d_out_NE.shape[-1])
    return d_table_VE.index_add_(0, ids_N.flatten(), d_out_NE.flatten(0, -2))


# ---- cross-entropy ---------------------------------------------------------------------------------------------------


class CrossEntropySteps(NamedTuple):
    """The values between logits and loss, or the gradients of these values, by the lecture's names."""

    logit_maxes_N1: Tensor
    norm_logits_NV: Tensor
    counts_NV: Tensor
    counts_sum_N1: Tensor
    counts_sum_inv_N1: Tensor
    probs_NV: Tensor
    logprobs_NV: Tensor


def cross_entropy_steps(logits_NV: Tensor, targets_N: Tensor) -> tuple[Tensor, CrossEntropySteps]:
    """The mean loss in nats, a scalar, and the steps to it.

    Raises:
        ConfigError: if the shapes do not fit.
        DataError: if a target is no id.
    """
    _require_targets("cross_entropy_steps", logits_NV, targets_N)
    logit_maxes_N1 = logits_NV.max(1, keepdim=True).values
    norm_logits_NV = logits_NV - logit_maxes_N1  # the loss is the same, and exp cannot overflow
    counts_NV = norm_logits_NV.exp()
    counts_sum_N1 = counts_NV.sum(1, keepdim=True)
    counts_sum_inv_N1 = counts_sum_N1**-1  # 1.0 / counts_sum has another gradient in the last bit
    probs_NV = counts_NV * counts_sum_inv_N1
    logprobs_NV = probs_NV.log()
    loss = -logprobs_NV[torch.arange(len(targets_N)), targets_N].mean()
    return loss, CrossEntropySteps(
        logit_maxes_N1, norm_logits_NV, counts_NV, counts_sum_N1, counts_sum_inv_N1, probs_NV, logprobs_NV
    )


def cross_entropy_steps_backward(
    logits_NV: Tensor, targets_N: Tensor, steps: CrossEntropySteps
) -> tuple[Tensor, CrossEntropySteps]:
    """d_logits and the gradient of each step, from the last to the first.

    The loss is the end of the network, so there is no d_out: it is 1.

    Raises:
        ConfigError: if the shapes do not fit.
        DataError: if a target is no id.
    """
    _require_targets("cross_entropy_steps_backward", logits_NV, targets_N)
    examples = len(targets_N)
    d_logprobs_NV = torch.zeros_like(steps.logprobs_NV)
    d_logprobs_NV[torch.arange(examples), targets_N] = -1.0 / examples
    d_probs_NV = (1.0 / steps.probs_NV) * d_logprobs_NV
    d_counts_sum_inv_N1 = (steps.counts_NV * d_probs_NV).sum(1, keepdim=True)
    d_counts_sum_N1 = -(steps.counts_sum_N1**-2) * d_counts_sum_inv_N1
    # The counts are used twice: in the quotient and in its sum.
    d_counts_NV = steps.counts_sum_inv_N1 * d_probs_NV + d_counts_sum_N1
    d_norm_logits_NV = steps.counts_NV * d_counts_NV
    # The maximum is subtracted for the numbers' sake alone; on paper this gradient is 0.
    d_logit_maxes_N1 = (-d_norm_logits_NV).sum(1, keepdim=True)
    d_logits_NV = d_norm_logits_NV.scatter_add(1, logits_NV.max(1, keepdim=True).indices, d_logit_maxes_N1)
    return d_logits_NV, CrossEntropySteps(
        d_logit_maxes_N1,
        d_norm_logits_NV,
        d_counts_NV,
        d_counts_sum_N1,
        d_counts_sum_inv_N1,
        d_probs_NV,
        d_logprobs_NV,
    )


def cross_entropy_backward(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """d_logits of the mean loss in one formula: what the model says less what is true, over N.

    For one example, loss = ln(sum over v of exp z_v) - z_target. The derivative of the first term by z_v is
    exp z_v / sum = p_v, that of the second is 1 at the target and 0 elsewhere.

        d_logits = (softmax(logits) - one_hot(targets)) / N

    >>> cross_entropy_backward(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
    tensor([[ 0.5000, -0.5000]])

    Raises:
        ConfigError: if the shapes do not fit.
        DataError: if a target is no id.
    """
    _require_targets("cross_entropy_backward", logits_NV, targets_N)
    return (torch.softmax(logits_NV, 1) - F.one_hot(targets_N, logits_NV.shape[1])) / len(targets_N)


def _require_targets(where: str, logits_NV: Tensor, targets_N: Tensor) -> None:
    require(logits_NV.ndim == 2, f"{where}: logits", "of shape (N, V)", tuple(logits_NV.shape))
    require(len(logits_NV) > 0, f"{where}: logits", "of at least one example", tuple(logits_NV.shape))
    _require_shape(f"{where}: targets", targets_N, logits_NV.shape[:1])
    require_ids(f"{where}: targets", targets_N, logits_NV.shape[1])


# ---- BatchNorm -------------------------------------------------------------------------------------------------------


class BatchNormSteps(NamedTuple):
    """The values inside BatchNorm, or the gradients of these values, by the lecture's names without `bn`."""

    mean_1C: Tensor
    diff_NC: Tensor
    diff2_NC: Tensor
    var_1C: Tensor
    var_inv_1C: Tensor
    raw_NC: Tensor


def batchnorm_steps(x_NC: Tensor, gain_C: Tensor, bias_C: Tensor) -> tuple[Tensor, BatchNormSteps]:
    """The batch made mean 0 and variance 1 in each column, times gain, plus bias; and the steps to it.

    The variance divides by N - 1 (Bessel's correction), in the lecture as here. The paper divides by N in training.

    Raises:
        ConfigError: if the shapes do not fit, or there are fewer than two rows.

    Source: Ioffe, Szegedy, *Batch Normalization* (2015), algorithm 1.
    """
    _require_batch("batchnorm_steps", x_NC, gain_C)
    _require_shape("batchnorm_steps: bias", bias_C, gain_C.shape)
    examples = len(x_NC)
    mean_1C = 1 / examples * x_NC.sum(0, keepdim=True)
    diff_NC = x_NC - mean_1C
    diff2_NC = diff_NC**2
    var_1C = 1 / (examples - 1) * diff2_NC.sum(0, keepdim=True)
    var_inv_1C = (var_1C + BATCHNORM_EPS) ** -0.5
    raw_NC = diff_NC * var_inv_1C
    return gain_C * raw_NC + bias_C, BatchNormSteps(mean_1C, diff_NC, diff2_NC, var_1C, var_inv_1C, raw_NC)


def batchnorm_steps_backward(
    d_out_NC: Tensor, steps: BatchNormSteps, gain_C: Tensor
) -> tuple[Tensor, Tensor, Tensor, BatchNormSteps]:
    """d_x, d_gain, d_bias and the gradient of each step, from the last to the first.

    Raises:
        ConfigError: if the shapes do not fit.
    """
    _require_batch("batchnorm_steps_backward", steps.raw_NC, gain_C)
    _require_shape("batchnorm_steps_backward: d_out", d_out_NC, steps.raw_NC.shape)
    examples = len(d_out_NC)
    d_gain_C, d_bias_C = (steps.raw_NC * d_out_NC).sum(0), d_out_NC.sum(0)
    d_raw_NC = gain_C * d_out_NC
    d_var_inv_1C = (steps.diff_NC * d_raw_NC).sum(0, keepdim=True)
    d_var_1C = (-0.5 * (steps.var_1C + BATCHNORM_EPS) ** -1.5) * d_var_inv_1C
    d_diff2_NC = (1.0 / (examples - 1) * d_var_1C).expand_as(d_out_NC)
    # The differences are used twice: in the output and in the variance; and x too: in them and in the mean.
    d_diff_NC = steps.var_inv_1C * d_raw_NC + (2 * steps.diff_NC) * d_diff2_NC
    d_mean_1C = (-d_diff_NC).sum(0, keepdim=True)
    d_x_NC = d_diff_NC + 1.0 / examples * d_mean_1C
    gradients = BatchNormSteps(d_mean_1C, d_diff_NC, d_diff2_NC, d_var_1C, d_var_inv_1C, d_raw_NC)
    return d_x_NC, d_gain_C, d_bias_C, gradients


def batchnorm_forward(x_NC: Tensor, gain_C: Tensor, bias_C: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The output of `batchnorm_steps` in one formula, then raw_NC and var_inv_1C, which the way back needs.

    Raises:
        ConfigError: if the shapes do not fit, or there are fewer than two rows.
    """
    _require_batch("batchnorm_forward", x_NC, gain_C)
    _require_shape("batchnorm_forward: bias", bias_C, gain_C.shape)
    diff_NC = x_NC - x_NC.mean(0)
    var_1C = (diff_NC**2).sum(0, keepdim=True) / (len(x_NC) - 1)  # x.var(0) takes four times as long down a column
    var_inv_1C = (var_1C + BATCHNORM_EPS) ** -0.5
    raw_NC = diff_NC * var_inv_1C
    return gain_C * raw_NC + bias_C, raw_NC, var_inv_1C


def batchnorm_backward(
    d_out_NC: Tensor, raw_NC: Tensor, var_inv_1C: Tensor, gain_C: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """d_x, d_gain and d_bias in one formula.

    With d = d_out, r = raw, s = var_inv and column by column: x_i reaches the loss by its own r_i, by the mean and by
    the variance. The first gives s*gain*d_i. The mean moves every r_j by -s/N, which gives -s*gain*mean(d). The
    variance moves s by -s**3/2, and is itself moved by 2*(x_i - mean)/(N - 1), which gives
    -s*gain*r_i*sum(d*r)/(N - 1), since (x_i - mean)*s = r_i.

        d_x = gain * s * (d - mean(d) - r * sum(d * r) / (N - 1))

    Raises:
        ConfigError: if the shapes do not fit.
    """
    _require_batch("batchnorm_backward", raw_NC, gain_C)
    _require_shape("batchnorm_backward: d_out", d_out_NC, raw_NC.shape)
    examples = len(d_out_NC)
    d_gain_C, d_bias_C = (d_out_NC * raw_NC).sum(0), d_out_NC.sum(0)
    d_x_NC = gain_C * var_inv_1C * (d_out_NC - d_bias_C / examples - raw_NC * (d_gain_C / (examples - 1)))
    return d_x_NC, d_gain_C, d_bias_C


def _require_batch(where: str, x_NC: Tensor, gain_C: Tensor) -> None:
    require(x_NC.ndim == 2, f"{where}: x", "of shape (N, C)", tuple(x_NC.shape))
    require(len(x_NC) > 1, f"{where}: x", "of at least two rows", tuple(x_NC.shape), "one row has no variance")
    _require_shape(f"{where}: gain", gain_C, x_NC.shape[1:])


# ---- the parts of GPT ------------------------------------------------------------------------------------------------


def layer_norm_forward(x_BTC: Tensor, gain_C: Tensor, bias_C: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each row made mean 0 and variance 1, times gain, plus bias; then raw_BTC and std_inv_BT1 for the way back.

    Args:
        x_BTC: any axes may stand before C.
        gain_C: a factor for each column.
        bias_C: what is added to each column.

    Raises:
        ConfigError: if the shapes do not fit.

    Source: Ba, Kiros, Hinton, *Layer Normalization* (2016), section 3; the variance divides by C.
    """
    _require_shape("layer_norm_forward: gain", gain_C, x_BTC.shape[-1:])
    _require_shape("layer_norm_forward: bias", bias_C, gain_C.shape)
    var_BT1, mean_BT1 = torch.var_mean(x_BTC, -1, keepdim=True, correction=0)
    std_inv_BT1 = (var_BT1 + LAYER_NORM_EPS) ** -0.5
    raw_BTC = (x_BTC - mean_BT1) * std_inv_BT1
    return gain_C * raw_BTC + bias_C, raw_BTC, std_inv_BT1


def layer_norm_backward(
    d_out_BTC: Tensor, raw_BTC: Tensor, std_inv_BT1: Tensor, gain_C: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """d_x, d_gain and d_bias: BatchNorm's formula along the row in place of the column.

    The gain differs along a row, so it goes into d_raw = gain * d_out first, and C takes the place of N - 1:

        d_x = std_inv * (d_raw - mean(d_raw) - raw * mean(d_raw * raw))

    Raises:
        ConfigError: if the shapes do not fit.
    """
    _require_shape("layer_norm_backward: d_out", d_out_BTC, raw_BTC.shape)
    _require_shape("layer_norm_backward: gain", gain_C, raw_BTC.shape[-1:])
    d_raw_BTC = gain_C * d_out_BTC
    along = (d_raw_BTC * raw_BTC).mean(-1, keepdim=True)
    d_x_BTC = std_inv_BT1 * (d_raw_BTC - d_raw_BTC.mean(-1, keepdim=True) - raw_BTC * along)
    d_gain_C = (d_out_BTC * raw_BTC).flatten(0, -2).sum(0)
    return d_x_BTC, d_gain_C, d_out_BTC.flatten(0, -2).sum(0)


def gelu_backward(d_out: Tensor, x: Tensor) -> Tensor:
    """d_x of the exact GELU, x * Phi(x), any shape; Phi is the normal distribution, phi its density.

        d_x = d_out * (Phi(x) + x * phi(x))
        Phi(x) = (1 + erf(x / sqrt 2)) / 2      phi(x) = exp(-x * x / 2) / sqrt(2 pi)

    Raises:
        ConfigError: if the shapes differ.

    Source: Hendrycks, Gimpel, *Gaussian Error Linear Units* (2016), section 2.
    """
    _require_shape("gelu_backward: d_out", d_out, x.shape)
    distribution = 0.5 * (1.0 + torch.erf(x / math.sqrt(2)))
    density = torch.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)
    return d_out * (distribution + x * density)


def gelu_tanh_backward(d_out: Tensor, x: Tensor) -> Tensor:
    """d_x of GPT-2's GELU, x * (1 + tanh u) / 2 with u = sqrt(2 / pi) * (x + .044715 * x**3), any shape.

    By the product rule and tanh' = 1 - tanh**2:

        d_x = d_out * ((1 + tanh u) / 2 + x / 2 * (1 - tanh(u)**2) * u')
        u' = sqrt(2 / pi) * (1 + 3 * .044715 * x**2)

    Raises:
        ConfigError: if the shapes differ.

    Source: Hendrycks, Gimpel, *Gaussian Error Linear Units* (2016), section 2, the approximation.
    """
    _require_shape("gelu_tanh_backward: d_out", d_out, x.shape)
    slope = math.sqrt(2 / math.pi)
    tanh = torch.tanh(slope * (x + 0.044715 * x**3))
    return d_out * (0.5 * (1 + tanh) + 0.5 * x * (1 - tanh**2) * slope * (1 + 3 * 0.044715 * x**2))


def softmax_backward(d_probs: Tensor, probs: Tensor) -> Tensor:
    """d_scores of a softmax over the last axis: p * (d - sum(d * p)).

    The derivative of p_i by s_j is p_i * ((i = j) - p_j). Summed over i with d_i this is
    p_j * d_j - p_j * sum over i of d_i * p_i. A probability of 0 passes nothing: a mask needs no second look.

    Raises:
        ConfigError: if the shapes differ.
    """
    _require_shape("softmax_backward: d_probs", d_probs, probs.shape)
    return probs * (d_probs - (d_probs * probs).sum(-1, keepdim=True))


def attention_forward(q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor) -> tuple[Tensor, Tensor]:
    """What each position reads of itself and those before it; then probs_BHTT, how much of each.

    One head or many: any axes may stand before T.

    Raises:
        ConfigError: if the three shapes differ.

    Source: Vaswani et al., *Attention Is All You Need* (2017), section 3.2.1.
    """
    _require_shape("attention_forward: k", k_BHTD, q_BHTD.shape)
    _require_shape("attention_forward: v", v_BHTD, q_BHTD.shape)
    time, head_size = q_BHTD.shape[-2:]
    scores_BHTT = q_BHTD @ k_BHTD.mT / math.sqrt(head_size)
    future_TT = torch.ones(time, time, dtype=torch.bool, device=q_BHTD.device).triu(1)
    probs_BHTT = torch.softmax(scores_BHTT.masked_fill(future_TT, -math.inf), -1)
    return probs_BHTT @ v_BHTD, probs_BHTT


def attention_backward(
    d_out_BHTD: Tensor, probs_BHTT: Tensor, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """d_q, d_k and d_v: two matrix products backward, with a softmax between them.

    out = probs @ v and scores = q @ k.T / sqrt(D) are linear parts, so as in `linear_backward`

        d_probs = d_out @ v.T                   d_v = probs.T @ d_out
        d_q = d_scores @ k / sqrt(D)            d_k = d_scores.T @ q / sqrt(D)

    with d_scores by `softmax_backward`. The future has probability 0, hence gradient 0: causality both ways.

    Raises:
        ConfigError: if the shapes do not fit.
    """
    for name, tensor in (("d_out", d_out_BHTD), ("k", k_BHTD), ("v", v_BHTD)):
        _require_shape(f"attention_backward: {name}", tensor, q_BHTD.shape)
    _require_shape("attention_backward: probs", probs_BHTT, (*q_BHTD.shape[:-1], q_BHTD.shape[-2]))
    d_scores_BHTT = softmax_backward(d_out_BHTD @ v_BHTD.mT, probs_BHTT) / math.sqrt(q_BHTD.shape[-1])
    return d_scores_BHTT @ k_BHTD, d_scores_BHTT.mT @ q_BHTD, probs_BHTT.mT @ d_out_BHTD
