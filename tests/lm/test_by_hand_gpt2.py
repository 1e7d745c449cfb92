"""GPT-2 by hand: every gradient of the real model is autograd's, and the slope of its loss."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bpetok.errors import DataError
from lm.by_hand_gpt2 import block_backward, loss_and_gradients
from lm.errors import ConfigError
from lm.models.gpt2 import GPT2, Block, GPT2Config

V = 30


def build(seed: int = 0, *, layers: int = 2, heads: int = 2, dropout: float = 0.0) -> GPT2:
    """A small GPT-2 in float64 whose biases and gains are drawn too, so that none hides a wrong gradient."""
    torch.manual_seed(seed)
    config = GPT2Config(context=7, layers=layers, heads=heads, width=4 * heads, dropout=dropout, vocab_multiple=8)
    model = GPT2(config, V).double()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.2 * torch.randn_like(weight)
    return model


def batch(seed: int = 0, *, rows: int = 3, time: int = 5) -> tuple[Tensor, Tensor]:
    ids = torch.randint(V, (rows, time + 1), generator=torch.Generator().manual_seed(seed))
    return ids[:, :-1], ids[:, 1:]


def loss_of(model: GPT2, ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
    return F.cross_entropy(model(ids_BT).flatten(0, 1), targets_BT.flatten())


@settings(max_examples=15)
@given(
    layers=st.integers(1, 3),
    heads=st.integers(1, 3),
    rows=st.integers(1, 3),
    time=st.integers(1, 7),
    seed=st.integers(0, 9),
)
def test_every_gradient_of_gpt2_is_that_of_autograd(layers: int, heads: int, rows: int, time: int, seed: int) -> None:
    model, (ids_BT, targets_BT) = build(seed, layers=layers, heads=heads), batch(seed, rows=rows, time=time)
    for dtype, rtol, atol in ((torch.float64, 1e-9, 1e-12), (torch.float32, 1e-5, 5e-6)):
        model.to(dtype).zero_grad()
        loss, gradients = loss_and_gradients(model, ids_BT, targets_BT)
        expected = loss_of(model, ids_BT, targets_BT)
        expected.backward()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
        assert gradients.keys() == dict(model.named_parameters()).keys()
        for name, weight in model.named_parameters():
            torch.testing.assert_close(gradients[name], weight.grad, rtol=rtol, atol=atol, msg=name)


@torch.no_grad()
def test_every_gradient_of_gpt2_is_the_slope_of_the_loss() -> None:
    # Along a random direction in each weight; a wrong gradient is right along one by accident only.
    model, (ids_BT, targets_BT) = build(), batch()
    _, gradients = loss_and_gradients(model, ids_BT, targets_BT)
    for name, weight in model.named_parameters():
        direction, step = torch.randn_like(weight), 1e-5
        weight += step * direction
        above = loss_of(model, ids_BT, targets_BT)
        weight -= 2 * step * direction
        slope = (above - loss_of(model, ids_BT, targets_BT)) / (2 * step)
        weight += step * direction
        torch.testing.assert_close((gradients[name] * direction).sum(), slope, rtol=1e-6, atol=1e-8, msg=name)


@torch.no_grad()
def test_the_gradient_of_a_block_s_input_is_its_slope_and_keeps_out_of_the_future() -> None:
    block, x_BTC, d_out_BTC = build().blocks[0], torch.randn(2, 4, 8).double(), torch.randn(2, 4, 8).double()
    assert isinstance(block, Block)
    d_x_BTC, _ = block_backward(d_out_BTC, x_BTC, block)
    for place in range(x_BTC.numel()):
        ends = []
        for side in (1e-5, -1e-5):
            moved_BTC = x_BTC.clone()
            moved_BTC.view(-1)[place] += side
            ends.append((block(moved_BTC) * d_out_BTC).sum())
        assert d_x_BTC.view(-1)[place].item() == pytest.approx(((ends[0] - ends[1]) / 2e-5).item(), rel=1e-6, abs=1e-6)
    d_out_BTC[:, 2:] = 0
    d_x_BTC, _ = block_backward(d_out_BTC, x_BTC, block)
    assert d_x_BTC[:, 2:].abs().max() == 0 < d_x_BTC[:, :2].abs().min()


def test_what_was_not_used_gets_no_gradient() -> None:
    model, (ids_BT, targets_BT) = build(), batch(time=5)
    _, gradients = loss_and_gradients(model, ids_BT, targets_BT)
    assert len(gradients["token_embedding.weight"]) == 32  # 30 ids and the padding of the vocabulary
    assert gradients["token_embedding.weight"][V:].abs().max() == 0
    assert gradients["position_embedding.weight"][5:].abs().max() == 0


def test_gpt2_learns_a_batch_by_gradients_by_hand_alone() -> None:
    model, (ids_BT, targets_BT) = build().float(), batch()
    losses = []
    for _ in range(60):
        loss, gradients = loss_and_gradients(model, ids_BT, targets_BT)
        losses.append(loss.item())
        with torch.no_grad():
            for name, weight in model.named_parameters():
                weight -= 0.3 * gradients[name]
    assert losses[0] > 3 and losses[-1] < 0.5


def test_dropout_is_refused_in_training_and_ignored_in_evaluation() -> None:
    model, (ids_BT, targets_BT) = build(dropout=0.1), batch()
    with pytest.raises(ConfigError, match=r"loss_and_gradients: dropout must be 0 in training mode, got 0.1"):
        loss_and_gradients(model, ids_BT, targets_BT)
    loss, _ = loss_and_gradients(model.eval(), ids_BT, targets_BT)
    assert loss.item() == pytest.approx(loss_of(model, ids_BT, targets_BT).item())


def test_bad_input_is_refused() -> None:
    model, (ids_BT, targets_BT) = build(), batch()
    with pytest.raises(DataError, match=r"loss_and_gradients: ids must be in \[0, 30\), got 31"):
        loss_and_gradients(model, ids_BT.clamp(min=31), targets_BT)
    with pytest.raises(DataError, match=r"loss_and_gradients: targets must be in \[0, 30\), got -1"):
        loss_and_gradients(model, ids_BT, targets_BT.clamp(max=-1))
    with pytest.raises(ConfigError, match=r"loss_and_gradients: targets must be of shape \(3, 5\), got \(3, 4\)"):
        loss_and_gradients(model, ids_BT, targets_BT[:, 1:])
    with pytest.raises(ConfigError, match=r"GPT2: T must be at most the context of 7, got 8"):
        loss_and_gradients(model, *batch(time=8))
