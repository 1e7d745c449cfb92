"""The lecture's network with its gradients by hand: 26 of them in small steps, then trained.

Source: Karpathy, *Neural Networks: Zero to Hero*, makemore part 4 ("Becoming a Backprop Ninja"), exercises 1 to 4. The
network is that of part 3: Bengio et al., *A Neural Probabilistic Language Model* (2003), section 2, with BatchNorm
(Ioffe, Szegedy 2015) before the tanh.
Adds: a training loop without autograd, on the formulas of `lm/backward.py`.
Lacks: more than one hidden layer; its backward pass is written for this network alone.
Parameters: V*E + F*C + C + C*V + V + 2*C, with E the size of an embedding, W the window, F = W*E and C the hidden
width: 4,137 for C = 64, 12,297 for C = 200 (V = 27, E = 10, W = 3).

A gradient has the type of the value that it belongs to: `Weights` of weights, `Steps` of steps. So `d_steps.h_NC` is
the derivative of the loss by `steps.h_NC`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bpetok.errors import DataError
from lm.backward import (
    BATCHNORM_EPS,
    BatchNormSteps,
    CrossEntropySteps,
    batchnorm_backward,
    batchnorm_forward,
    batchnorm_steps,
    batchnorm_steps_backward,
    cross_entropy_backward,
    cross_entropy_steps,
    cross_entropy_steps_backward,
    embedding_backward,
    linear_backward,
    require_ids,
    tanh_backward,
)
from lm.errors import NonFiniteError, require

SEED = 2147483647
"""The seed of the lectures."""


class Weights(NamedTuple):
    """What is learnt, or the gradient of it; the lecture's C, W1, b1, W2, b2, bngain, bnbias."""

    table_VE: Tensor
    W1_FC: Tensor
    b1_C: Tensor
    W2_CV: Tensor
    b2_V: Tensor
    gain_C: Tensor
    bias_C: Tensor


class Steps(NamedTuple):
    """The values between inputs and loss, or the gradients of these values, by the lecture's names."""

    emb_NWE: Tensor
    embcat_NF: Tensor
    hprebn_NC: Tensor
    batchnorm: BatchNormSteps
    hpreact_NC: Tensor
    h_NC: Tensor
    logits_NV: Tensor
    cross_entropy: CrossEntropySteps


def draw_weights(
    generator: torch.Generator, *, hidden: int, vocab_size: int = 27, window: int = 3, embedding: int = 10
) -> Weights:
    """Untrained weights, as the lecture draws them: small numbers where zeros could hide a wrong gradient.

    Gain and bias of BatchNorm come from torch's unseeded generator in the lecture. Here they have a generator of their
    own, seeded with the next number: they are fixed, and the batches drawn after the weights are the lecture's own.

    >>> weights = draw_weights(torch.Generator().manual_seed(SEED), hidden=64)
    >>> sum(weight.numel() for weight in weights)
    4137

    Args:
        generator: gives the weights, and is then ready to give the batches.
        hidden: C, the number of tanh units.
        vocab_size: V.
        window: W, how many ids the network sees.
        embedding: E, the numbers per id.
    """
    inputs = window * embedding
    gains = torch.Generator().manual_seed(generator.initial_seed() + 1)
    return Weights(
        table_VE=torch.randn(vocab_size, embedding, generator=generator),
        W1_FC=torch.randn(inputs, hidden, generator=generator) * (5 / 3) / inputs**0.5,
        b1_C=torch.randn(hidden, generator=generator) * 0.1,  # useless: BatchNorm takes it away again
        W2_CV=torch.randn(hidden, vocab_size, generator=generator) * 0.1,
        b2_V=torch.randn(vocab_size, generator=generator) * 0.1,
        gain_C=torch.randn(hidden, generator=gains) * 0.1 + 1.0,
        bias_C=torch.randn(hidden, generator=gains) * 0.1,
    )


# ---- in small steps (exercise 1) -------------------------------------------------------------------------------------


def forward_steps(weights: Weights, inputs_NW: Tensor, targets_N: Tensor) -> tuple[Tensor, Steps]:
    """The mean loss of a batch in nats, a scalar, and every value on the way to it.

    Raises:
        ConfigError: if the shapes do not fit, or there are fewer than two examples.
        DataError: if an id is out of range.
    """
    _require_examples("forward_steps", weights, inputs_NW, targets_N)
    emb_NWE = weights.table_VE[inputs_NW]
    embcat_NF = emb_NWE.view(len(inputs_NW), -1)
    hprebn_NC = embcat_NF @ weights.W1_FC + weights.b1_C
    hpreact_NC, batchnorm = batchnorm_steps(hprebn_NC, weights.gain_C, weights.bias_C)
    h_NC = torch.tanh(hpreact_NC)
    logits_NV = h_NC @ weights.W2_CV + weights.b2_V
    loss, cross_entropy = cross_entropy_steps(logits_NV, targets_N)
    return loss, Steps(emb_NWE, embcat_NF, hprebn_NC, batchnorm, hpreact_NC, h_NC, logits_NV, cross_entropy)


def backward_steps(weights: Weights, inputs_NW: Tensor, targets_N: Tensor, steps: Steps) -> tuple[Weights, Steps]:
    """The gradients of the 7 weights and the 19 steps, each equal to autograd's to the last bit.

    Args:
        weights: of the forward pass.
        inputs_NW: of the forward pass.
        targets_N: of the forward pass.
        steps: what `forward_steps` gave.
    """
    d_logits_NV, d_cross_entropy = cross_entropy_steps_backward(steps.logits_NV, targets_N, steps.cross_entropy)
    d_h_NC, d_W2_CV, d_b2_V = linear_backward(d_logits_NV, steps.h_NC, weights.W2_CV)
    d_hpreact_NC = tanh_backward(d_h_NC, steps.h_NC)
    d_hprebn_NC, d_gain_C, d_bias_C, d_batchnorm = batchnorm_steps_backward(
        d_hpreact_NC, steps.batchnorm, weights.gain_C
    )
    d_embcat_NF, d_W1_FC, d_b1_C = linear_backward(d_hprebn_NC, steps.embcat_NF, weights.W1_FC)
    d_emb_NWE = d_embcat_NF.view_as(steps.emb_NWE)
    d_table_VE = embedding_backward(d_emb_NWE, inputs_NW, len(weights.table_VE))
    return (
        Weights(d_table_VE, d_W1_FC, d_b1_C, d_W2_CV, d_b2_V, d_gain_C, d_bias_C),
        Steps(d_emb_NWE, d_embcat_NF, d_hprebn_NC, d_batchnorm, d_hpreact_NC, d_h_NC, d_logits_NV, d_cross_entropy),
    )


# ---- in one formula each (exercises 2 to 4) --------------------------------------------------------------------------


def loss_and_gradients(weights: Weights, inputs_NW: Tensor, targets_N: Tensor) -> tuple[Tensor, Weights]:
    """The mean loss of a batch in nats, a scalar, and the gradient of each weight.

    Raises:
        ConfigError: if the shapes do not fit, or there are fewer than two examples.
        DataError: if an id is out of range.
    """
    _require_examples("loss_and_gradients", weights, inputs_NW, targets_N)
    emb_NWE = weights.table_VE[inputs_NW]
    embcat_NF = emb_NWE.view(len(inputs_NW), -1)
    hprebn_NC = embcat_NF @ weights.W1_FC + weights.b1_C
    hpreact_NC, raw_NC, var_inv_1C = batchnorm_forward(hprebn_NC, weights.gain_C, weights.bias_C)
    h_NC = torch.tanh(hpreact_NC)
    logits_NV = h_NC @ weights.W2_CV + weights.b2_V
    loss = F.cross_entropy(logits_NV, targets_N)

    d_logits_NV = cross_entropy_backward(logits_NV, targets_N)
    d_h_NC, d_W2_CV, d_b2_V = linear_backward(d_logits_NV, h_NC, weights.W2_CV)
    d_hpreact_NC = tanh_backward(d_h_NC, h_NC)
    d_hprebn_NC, d_gain_C, d_bias_C = batchnorm_backward(d_hpreact_NC, raw_NC, var_inv_1C, weights.gain_C)
    d_embcat_NF, d_W1_FC, d_b1_C = linear_backward(d_hprebn_NC, embcat_NF, weights.W1_FC)
    d_table_VE = embedding_backward(d_embcat_NF.view_as(emb_NWE), inputs_NW, len(weights.table_VE))
    return loss, Weights(d_table_VE, d_W1_FC, d_b1_C, d_W2_CV, d_b2_V, d_gain_C, d_bias_C)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What `train_by_hand` gives.

    Args:
        weights: after the last step.
        mean_C: BatchNorm's mean over the whole training split, with these weights.
        var_C: and its variance.
        losses: of each step's batch, before the step's update, in nats.
    """

    weights: Weights
    mean_C: Tensor
    var_C: Tensor
    losses: list[float]


@torch.no_grad()
def train_by_hand(
    inputs_NW: Tensor,
    targets_N: Tensor,
    *,
    steps: int = 200_000,
    seed: int = SEED,
    vocab_size: int = 27,
    hidden: int = 200,
    batch: int = 32,
    rate: float = 0.1,
    late_rate: float = 0.01,
    late_from: int = 100_000,
    progress: Callable[[int, float], None] | None = None,
) -> Trained:
    """Weights trained by plain gradient descent, without autograd anywhere; the defaults are the lecture's.

    Args:
        inputs_NW: the training split's contexts, ids in [0, V).
        targets_N: the id that follows each.
        steps: batches to learn from.
        seed: of weights and batches.
        vocab_size: V.
        hidden: C, the number of tanh units.
        batch: the examples of a step, at least 2.
        rate: the learning rate.
        late_rate: the learning rate from step `late_from` on.
        late_from: see `late_rate`.
        progress: called after each step with the number of steps done and the step's loss.

    Raises:
        ConfigError: if the shapes do not fit or a number is out of its range.
        DataError: if there are no examples, or an id is out of range.
        NonFiniteError: if a loss is nan or infinite; the weights are not updated with it.
    """
    require(inputs_NW.ndim == 2, "train_by_hand: inputs", "of shape (N, W)", tuple(inputs_NW.shape))
    for name, number, least in (("steps", steps, 1), ("hidden", hidden, 1), ("batch", batch, 2)):
        require(number >= least, f"train_by_hand: {name}", f"at least {least}", number)
    generator = torch.Generator().manual_seed(seed)
    weights = draw_weights(generator, hidden=hidden, vocab_size=vocab_size, window=inputs_NW.shape[1])
    _require_examples("train_by_hand", weights, inputs_NW, targets_N)
    losses = []
    for step in range(steps):
        chosen = torch.randint(0, len(inputs_NW), (batch,), generator=generator)
        loss, gradients = loss_and_gradients(weights, inputs_NW[chosen], targets_N[chosen])
        losses.append(loss.item())
        if not torch.isfinite(loss):
            raise NonFiniteError(
                f"train_by_hand: the loss of step {step} must be finite, got {losses[-1]}", hint="a lower rate"
            )
        for weight, gradient in zip(weights, gradients, strict=True):
            weight -= (rate if step < late_from else late_rate) * gradient
        if progress is not None:
            progress(step + 1, losses[-1])
    # A batch's own mean and variance are noise; once the weights are fixed, the whole split has better ones.
    hprebn_NC = weights.table_VE[inputs_NW].flatten(1) @ weights.W1_FC + weights.b1_C
    var_C, mean_C = torch.var_mean(hprebn_NC, 0)
    return Trained(weights=weights, mean_C=mean_C, var_C=var_C, losses=losses)


@torch.no_grad()
def split_loss(trained: Trained, inputs_NW: Tensor, targets_N: Tensor) -> float:
    """The mean loss of a whole split in nats, each example for itself: BatchNorm takes the training split's figures.

    Raises:
        ConfigError: if the shapes do not fit.
        DataError: if there are no examples, or an id is out of range.
    """
    weights = trained.weights
    _require_examples("split_loss", weights, inputs_NW, targets_N)
    hprebn_NC = weights.table_VE[inputs_NW].flatten(1) @ weights.W1_FC + weights.b1_C
    raw_NC = (hprebn_NC - trained.mean_C) * (trained.var_C + BATCHNORM_EPS) ** -0.5
    h_NC = torch.tanh(weights.gain_C * raw_NC + weights.bias_C)
    return F.cross_entropy(h_NC @ weights.W2_CV + weights.b2_V, targets_N).item()


def _require_examples(where: str, weights: Weights, inputs_NW: Tensor, targets_N: Tensor) -> None:
    vocab_size, embedding = weights.table_VE.shape
    window = len(weights.W1_FC) // embedding
    fits = inputs_NW.ndim == 2 and inputs_NW.shape[1] == window
    require(fits, f"{where}: inputs", f"of shape (N, {window})", tuple(inputs_NW.shape))
    require(
        targets_N.shape == inputs_NW.shape[:1], f"{where}: targets", f"{len(inputs_NW)} ids", tuple(targets_N.shape)
    )
    if not len(inputs_NW):
        raise DataError(f"{where}: inputs must be at least one example, got none")
    require_ids(f"{where}: inputs", inputs_NW, vocab_size)
    require_ids(f"{where}: targets", targets_N, vocab_size)
