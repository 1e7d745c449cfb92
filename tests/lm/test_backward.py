"""Gradients by hand: computed on paper, equal to autograd, and equal to finite differences."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bpetok.errors import DataError
from lm import backward
from lm.errors import ConfigError

# ---- on paper --------------------------------------------------------------------------------------------------------


def test_a_linear_layer_computed_by_hand() -> None:
    # out = 2 * 3 + 1 * 5; each factor is the other's gradient, times the 10 that comes in.
    d_x, d_weight, d_bias = backward.linear_backward(
        torch.tensor([[10.0]]), torch.tensor([[2.0, 1.0]]), torch.tensor([[3.0], [5.0]])
    )
    assert (d_x.tolist(), d_weight.tolist(), d_bias.tolist()) == ([[30.0, 50.0]], [[20.0], [10.0]], [10.0])


def test_the_gradient_of_cross_entropy_is_what_the_model_says_less_what_is_true() -> None:
    # Chances 1/4 and 3/4; the truth is the first; two examples share the mean.
    logits_NV = torch.tensor([[1.0, 3.0], [1.0, 3.0]]).log()
    d_logits_NV = backward.cross_entropy_backward(logits_NV, torch.tensor([0, 1]))
    torch.testing.assert_close(d_logits_NV, torch.tensor([[-0.375, 0.375], [0.125, -0.125]]))


def test_batchnorm_of_two_rows_lets_almost_nothing_through_but_gain_and_bias() -> None:
    # Whatever two numbers come in, +-sqrt(1/2) comes out: only epsilon lets a change be seen.
    out_NC, raw_NC, var_inv_1C = backward.batchnorm_forward(torch.tensor([[1.0], [5.0]]), torch.ones(1), torch.zeros(1))
    torch.testing.assert_close(out_NC, torch.tensor([[-(0.5**0.5)], [0.5**0.5]]))
    d_x_NC, d_gain_C, d_bias_C = backward.batchnorm_backward(
        torch.tensor([[1.0], [3.0]]), raw_NC, var_inv_1C, torch.ones(1)
    )
    assert d_x_NC.abs().max() < 1e-6
    assert d_gain_C.item() == pytest.approx(2 * 0.5**0.5) and d_bias_C.item() == 4


def test_the_first_position_attends_to_itself_alone() -> None:
    q_TD, k_TD, v_TD, d_out_TD = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0))
    out_TD, probs_TT = backward.attention_forward(q_TD, k_TD, v_TD)
    assert torch.equal(out_TD[0], v_TD[0]) and probs_TT[0].tolist() == [1.0, 0.0, 0.0]
    d_q_TD, _, _ = backward.attention_backward(d_out_TD, probs_TT, q_TD, k_TD, v_TD)
    assert d_q_TD[0].abs().max() < 1e-6  # there is no choice, so nothing to learn about it


# ---- against autograd and finite differences -------------------------------------------------------------------------

Tensors = Sequence[Tensor]


@dataclass(frozen=True)
class Part:
    """A part as torch has it, and its gradient by hand."""

    shapes: Callable[[int, int, int], list[tuple[int, ...]]]
    forward: Callable[..., Tensor]
    by_hand: Callable[..., Tensors]


def ids_of(rows: int, size: int) -> Tensor:
    """Ids that repeat, so that gradients meet in a row."""
    return torch.arange(rows) * 2 % size


def batchnorm_by_torch(x_NC: Tensor, gain_C: Tensor, bias_C: Tensor) -> Tensor:
    return gain_C * (x_NC - x_NC.mean(0)) / torch.sqrt(x_NC.var(0) + backward.BATCHNORM_EPS) + bias_C


def batchnorm_in_steps(d_out_NC: Tensor, x_NC: Tensor, gain_C: Tensor, bias_C: Tensor) -> Tensors:
    out_NC, steps = backward.batchnorm_steps(x_NC, gain_C, bias_C)
    torch.testing.assert_close(out_NC, batchnorm_by_torch(x_NC, gain_C, bias_C), rtol=1e-5, atol=1e-5)
    return backward.batchnorm_steps_backward(d_out_NC, steps, gain_C)[:3]


def batchnorm_fused(d_out_NC: Tensor, x_NC: Tensor, gain_C: Tensor, bias_C: Tensor) -> Tensors:
    out_NC, raw_NC, var_inv_1C = backward.batchnorm_forward(x_NC, gain_C, bias_C)
    torch.testing.assert_close(out_NC, batchnorm_by_torch(x_NC, gain_C, bias_C), rtol=1e-5, atol=1e-5)
    return backward.batchnorm_backward(d_out_NC, raw_NC, var_inv_1C, gain_C)


def cross_entropy_by_torch(logits_NV: Tensor) -> Tensor:
    return F.cross_entropy(logits_NV, ids_of(*logits_NV.shape))


def cross_entropy_in_steps(d_loss: Tensor, logits_NV: Tensor) -> Tensors:
    targets_N = ids_of(*logits_NV.shape)
    loss, steps = backward.cross_entropy_steps(logits_NV, targets_N)
    torch.testing.assert_close(loss, cross_entropy_by_torch(logits_NV), rtol=1e-5, atol=1e-6)
    return [d_loss * backward.cross_entropy_steps_backward(logits_NV, targets_N, steps)[0]]


def layer_norm_by_hand(d_out_BTC: Tensor, x_BTC: Tensor, gain_C: Tensor, bias_C: Tensor) -> Tensors:
    out_BTC, raw_BTC, std_inv_BT1 = backward.layer_norm_forward(x_BTC, gain_C, bias_C)
    torch.testing.assert_close(out_BTC, F.layer_norm(x_BTC, x_BTC.shape[-1:], gain_C, bias_C), rtol=1e-5, atol=1e-5)
    return backward.layer_norm_backward(d_out_BTC, raw_BTC, std_inv_BT1, gain_C)


def attention_by_torch(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def attention_by_hand(d_out: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensors:
    out, probs = backward.attention_forward(q, k, v)
    torch.testing.assert_close(out, attention_by_torch(q, k, v), rtol=1e-5, atol=1e-5)
    return backward.attention_backward(d_out, probs, q, k, v)


PARTS = {
    "linear": Part(
        lambda n, t, c: [(n, c), (c, t), (t,)],
        lambda x, weight, bias: x @ weight + bias,
        lambda d_out, x, weight, bias: backward.linear_backward(d_out, x, weight),
    ),
    "linear with three axes": Part(
        lambda n, t, c: [(n, t, c), (c, 3), (3,)],
        lambda x, weight, bias: x @ weight + bias,
        lambda d_out, x, weight, bias: backward.linear_backward(d_out, x, weight),
    ),
    "tanh": Part(
        lambda n, t, c: [(n, t, c)], torch.tanh, lambda d_out, x: [backward.tanh_backward(d_out, torch.tanh(x))]
    ),
    "embedding": Part(
        lambda n, t, c: [(n + 1, c)],
        lambda table: table[ids_of(6, len(table)).view(2, 3)],
        lambda d_out, table: [backward.embedding_backward(d_out, ids_of(6, len(table)).view(2, 3), len(table))],
    ),
    "cross-entropy in steps": Part(lambda n, t, c: [(n, c)], cross_entropy_by_torch, cross_entropy_in_steps),
    "cross-entropy": Part(
        lambda n, t, c: [(n, c)],
        cross_entropy_by_torch,
        lambda d_loss, logits: [d_loss * backward.cross_entropy_backward(logits, ids_of(*logits.shape))],
    ),
    "batchnorm in steps": Part(lambda n, t, c: [(n + 2, c), (c,), (c,)], batchnorm_by_torch, batchnorm_in_steps),
    "batchnorm": Part(lambda n, t, c: [(n + 2, c), (c,), (c,)], batchnorm_by_torch, batchnorm_fused),
    "layer norm": Part(
        lambda n, t, c: [(n, t, c + 2), (c + 2,), (c + 2,)],
        lambda x, gain, bias: F.layer_norm(x, x.shape[-1:], gain, bias),
        layer_norm_by_hand,
    ),
    "gelu": Part(lambda n, t, c: [(n, t, c)], F.gelu, lambda d_out, x: [backward.gelu_backward(d_out, x)]),
    "gelu by tanh": Part(
        lambda n, t, c: [(n, t, c)],
        lambda x: F.gelu(x, approximate="tanh"),
        lambda d_out, x: [backward.gelu_tanh_backward(d_out, x)],
    ),
    "softmax": Part(
        lambda n, t, c: [(n, t, c)],
        lambda x: x.softmax(-1),
        lambda d_out, x: [backward.softmax_backward(d_out, x.softmax(-1))],
    ),
    "attention with one head": Part(lambda n, t, c: [(n, t, c)] * 3, attention_by_torch, attention_by_hand),
    "attention with many heads": Part(lambda n, t, c: [(n, 2, t, c)] * 3, attention_by_torch, attention_by_hand),
}


def drawn(part: Part, size: tuple[int, int, int], dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
    """Inputs of a part, and what comes back to its output."""
    generator = torch.Generator().manual_seed(sum(size))
    inputs = [torch.randn(shape, generator=generator, dtype=dtype) for shape in part.shapes(*size)]
    out = part.forward(*inputs)
    return inputs, torch.randn(out.shape, generator=generator, dtype=dtype)


def finite_difference(function: Callable[[], float], tensor: Tensor, step: float = 1e-5) -> Tensor:
    """The slope of a function by each element of a tensor, which is moved a little to both sides and put back."""
    slopes, flat = torch.empty_like(tensor), tensor.view(-1)
    for place in range(flat.numel()):
        here = flat[place].item()
        flat[place] = here + step
        above = function()
        flat[place] = here - step
        slopes.view(-1)[place] = (above - function()) / (2 * step)
        flat[place] = here
    return slopes


sizes = st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 7))


@pytest.mark.parametrize("name", PARTS)
@settings(max_examples=15)
@given(size=sizes)
def test_each_part_gives_the_gradients_of_autograd(name: str, size: tuple[int, int, int]) -> None:
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        inputs, d_out = drawn(PARTS[name], size, dtype)
        by_hand = PARTS[name].by_hand(d_out, *inputs)
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        by_torch = torch.autograd.grad(PARTS[name].forward(*leaves), leaves, d_out)
        for gradient, expected in zip(by_hand, by_torch, strict=True):
            # Of the largest element: a row of nearly equal numbers makes a norm's gradient large, and its error too.
            largest = max(1.0, expected.abs().max().item())
            torch.testing.assert_close(gradient, expected, rtol=tolerance, atol=tolerance * largest)


@pytest.mark.parametrize("name", PARTS)
@settings(max_examples=4)
@given(size=sizes)
def test_each_part_gives_the_slopes_of_finite_differences(name: str, size: tuple[int, int, int]) -> None:
    part = PARTS[name]
    inputs, d_out = drawn(part, size, torch.float64)
    for tensor, gradient in zip(inputs, part.by_hand(d_out, *inputs), strict=True):
        slopes = finite_difference(lambda: float((part.forward(*inputs) * d_out).sum()), tensor)
        torch.testing.assert_close(gradient, slopes, rtol=1e-6, atol=1e-6)


@given(time=st.integers(2, 6), data=st.data())
@settings(max_examples=20)
def test_the_future_gets_no_gradient_and_gives_none(time: int, data: st.DataObject) -> None:
    now = data.draw(st.integers(0, time - 2))
    q, k, v, d_out = torch.randn(4, 2, 3, time, 4, generator=torch.Generator().manual_seed(time))
    d_out[:, :, now + 1 :] = 0
    before = backward.attention_backward(d_out, backward.attention_forward(q, k, v)[1], q, k, v)
    for gradient in before:
        assert gradient[:, :, now + 1 :].abs().max() == 0
    assert before[2][:, :, : now + 1].abs().min() > 0
    for tensor in (q, k, v):
        tensor[:, :, now + 1 :] += 7
    after = backward.attention_backward(d_out, backward.attention_forward(q, k, v)[1], q, k, v)
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(old, new)


# ---- steps against formula -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_the_formulas_are_the_steps_multiplied_out(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits_NV, targets_N = torch.randn(32, 27, generator=generator), torch.randint(27, (32,), generator=generator)
    loss, steps = backward.cross_entropy_steps(logits_NV, targets_N)
    assert loss.item() == pytest.approx(F.cross_entropy(logits_NV, targets_N).item(), abs=1e-6)
    in_steps, _ = backward.cross_entropy_steps_backward(logits_NV, targets_N, steps)
    assert (in_steps - backward.cross_entropy_backward(logits_NV, targets_N)).abs().max() <= 1e-8

    x_NC, gain_C, bias_C = (torch.randn(shape, generator=generator) for shape in ((32, 64), (64,), (64,)))
    d_out_NC = torch.randn(32, 64, generator=generator)
    _, batch = backward.batchnorm_steps(x_NC, gain_C, bias_C)
    in_steps = backward.batchnorm_steps_backward(d_out_NC, batch, gain_C)[0]
    _, raw_NC, var_inv_1C = backward.batchnorm_forward(x_NC, gain_C, bias_C)
    formula = backward.batchnorm_backward(d_out_NC, raw_NC, var_inv_1C, gain_C)[0]
    assert (in_steps - formula).abs().max() <= 1e-6 * in_steps.abs().max()


def test_of_equal_logits_one_is_the_maximum_as_in_autograd() -> None:
    logits_NV = torch.zeros(3, 4, requires_grad=True)
    targets_N = torch.tensor([0, 1, 3])
    loss, steps = backward.cross_entropy_steps(logits_NV, targets_N)
    loss.backward()
    with torch.no_grad():
        assert torch.equal(backward.cross_entropy_steps_backward(logits_NV, targets_N, steps)[0], logits_NV.grad)


def test_huge_logits_do_not_overflow() -> None:
    logits_NV = torch.tensor([[1e4, -1e4]])
    loss, steps = backward.cross_entropy_steps(logits_NV, torch.tensor([0]))
    assert loss.item() == 0 and steps.probs_NV.tolist() == [[1.0, 0.0]]
    assert backward.cross_entropy_backward(logits_NV, torch.tensor([1])).tolist() == [[1.0, -1.0]]


@pytest.mark.parametrize("gelu", [backward.gelu_backward, backward.gelu_tanh_backward])
def test_gelu_is_the_identity_far_above_zero_and_nothing_far_below(gelu: Callable[[Tensor, Tensor], Tensor]) -> None:
    assert gelu(torch.ones(3), torch.tensor([-50.0, 0.0, 50.0])).tolist() == [0.0, 0.5, 1.0]
    assert math.isclose(gelu(torch.ones(1), torch.tensor([1.0])).item(), 1.083, abs_tol=1e-3)


# ---- bad input -------------------------------------------------------------------------------------------------------

ZEROS_23, ZEROS_3 = torch.zeros(2, 3), torch.zeros(3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: backward.linear_backward(torch.zeros(2, 4), ZEROS_23, torch.zeros(5, 4)),
            ConfigError,
            r"linear_backward: x must be 5 wide, got 3",
        ),
        (
            lambda: backward.linear_backward(torch.zeros(2, 5), ZEROS_23, torch.zeros(3, 4)),
            ConfigError,
            r"linear_backward: d_out must be of shape \(2, 4\), got \(2, 5\)",
        ),
        (
            lambda: backward.tanh_backward(ZEROS_3, ZEROS_23),
            ConfigError,
            r"tanh_backward: d_out must be of shape \(2, 3\), got \(3,\)",
        ),
        (
            lambda: backward.embedding_backward(ZEROS_23, torch.tensor([0, 9]), rows=9),
            DataError,
            r"embedding_backward: ids must be in \[0, 9\), got 9",
        ),
        (
            lambda: backward.embedding_backward(ZEROS_23, torch.tensor([0, -1]), rows=9),
            DataError,
            r"embedding_backward: ids must be in \[0, 9\), got -1",
        ),
        (
            lambda: backward.embedding_backward(ZEROS_23, torch.tensor([0.0, 1.0]), rows=9),
            DataError,
            r"embedding_backward: ids must be int64, got torch.float32",
        ),
        (
            lambda: backward.embedding_backward(ZEROS_23, torch.tensor([1]), rows=9),
            ConfigError,
            r"embedding_backward: d_out must be of shape \(1, 3\), got \(2, 3\)",
        ),
        (
            lambda: backward.cross_entropy_backward(ZEROS_23, torch.tensor([0, 3])),
            DataError,
            r"cross_entropy_backward: targets must be in \[0, 3\), got 3",
        ),
        (
            lambda: backward.cross_entropy_steps(ZEROS_23, torch.tensor([0])),
            ConfigError,
            r"cross_entropy_steps: targets must be of shape \(2,\), got \(1,\)",
        ),
        (
            lambda: backward.cross_entropy_steps(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)),
            ConfigError,
            r"cross_entropy_steps: logits must be of at least one example, got \(0, 3\)",
        ),
        (
            lambda: backward.cross_entropy_backward(ZEROS_3, torch.tensor([0])),
            ConfigError,
            r"cross_entropy_backward: logits must be of shape \(N, V\), got \(3,\)",
        ),
        (
            lambda: backward.batchnorm_steps(torch.zeros(1, 3), ZEROS_3, ZEROS_3),
            ConfigError,
            r"batchnorm_steps: x must be of at least two rows, got \(1, 3\)\nhint: one row has no variance",
        ),
        (
            lambda: backward.batchnorm_forward(ZEROS_23, torch.zeros(2), ZEROS_3),
            ConfigError,
            r"batchnorm_forward: gain must be of shape \(3,\), got \(2,\)",
        ),
        (
            lambda: backward.batchnorm_backward(ZEROS_3, ZEROS_23, torch.zeros(1, 3), ZEROS_3),
            ConfigError,
            r"batchnorm_backward: d_out must be of shape \(2, 3\), got \(3,\)",
        ),
        (
            lambda: backward.layer_norm_forward(ZEROS_23, torch.zeros(2), ZEROS_3),
            ConfigError,
            r"layer_norm_forward: gain must be of shape \(3,\), got \(2,\)",
        ),
        (
            lambda: backward.layer_norm_backward(ZEROS_3, ZEROS_23, torch.zeros(2, 1), ZEROS_3),
            ConfigError,
            r"layer_norm_backward: d_out must be of shape \(2, 3\), got \(3,\)",
        ),
        (
            lambda: backward.gelu_backward(ZEROS_3, ZEROS_23),
            ConfigError,
            r"gelu_backward: d_out must be of shape \(2, 3\), got \(3,\)",
        ),
        (
            lambda: backward.gelu_tanh_backward(ZEROS_3, ZEROS_23),
            ConfigError,
            r"gelu_tanh_backward: d_out must be of shape \(2, 3\), got \(3,\)",
        ),
        (
            lambda: backward.softmax_backward(ZEROS_3, ZEROS_23),
            ConfigError,
            r"softmax_backward: d_probs must be of shape \(2, 3\), got \(3,\)",
        ),
        (
            lambda: backward.attention_forward(ZEROS_23, ZEROS_23, ZEROS_3),
            ConfigError,
            r"attention_forward: v must be of shape \(2, 3\), got \(3,\)",
        ),
        (
            lambda: backward.attention_backward(ZEROS_23, ZEROS_23, ZEROS_23, ZEROS_23, ZEROS_23),
            ConfigError,
            r"attention_backward: probs must be of shape \(2, 2\), got \(2, 3\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_any_arithmetic(
    call: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call()
