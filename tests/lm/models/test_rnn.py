import math

import pytest
import torch
from torch import nn

from lm.errors import ConfigError
from lm.models.rnn import GRU, RNN, GRUCell, GRUConfig, RNNCell, RNNConfig

CONFIG = RNNConfig(context=9, embedding=5, hidden=7)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@torch.no_grad()
def test_the_rnn_cell_is_torchs_own() -> None:
    ours, torchs = RNNCell(CONFIG), nn.RNNCell(5, 7)
    torchs.weight_ih.copy_(ours.xh_to_h.weight[:, :5])
    torchs.weight_hh.copy_(ours.xh_to_h.weight[:, 5:])
    torchs.bias_ih.copy_(ours.xh_to_h.bias)
    torchs.bias_hh.zero_()
    x_BE, h_BH = random(4, 5), random(4, 7)
    torch.testing.assert_close(ours(x_BE, h_BH), torchs(x_BE, h_BH))


@torch.no_grad()
def test_the_gru_cell_is_torchs_own_while_nothing_is_reset() -> None:
    # Torch resets after its product, we before it: with the reset gate open (bias 50) that is no difference. And
    # torch's z is the share of the old state, ours of the new one: the gate's weights change their sign.
    ours, torchs = GRUCell(CONFIG), nn.GRUCell(5, 7)
    ours.xh_to_r.bias.fill_(50)
    gates = [(ours.xh_to_r, 1), (ours.xh_to_z, -1), (ours.xh_to_hbar, 1)]
    torchs.weight_ih.copy_(torch.cat([sign * gate.weight[:, :5] for gate, sign in gates]))
    torchs.weight_hh.copy_(torch.cat([sign * gate.weight[:, 5:] for gate, sign in gates]))
    torchs.bias_ih.copy_(torch.cat([sign * gate.bias for gate, sign in gates]))
    torchs.bias_hh.zero_()
    x_BE, h_BH = random(4, 5), random(4, 7)
    torch.testing.assert_close(ours(x_BE, h_BH), torchs(x_BE, h_BH))


@torch.no_grad()
def test_a_gru_step_computed_by_hand() -> None:
    cell = GRUCell(RNNConfig(context=1, embedding=1, hidden=1))
    for gate, (of_x, of_h, bias) in zip(
        (cell.xh_to_z, cell.xh_to_r, cell.xh_to_hbar),
        [(0.5, -1.0, 0.1), (1.0, 2.0, -0.3), (0.7, -0.4, 0.2)],
        strict=True,
    ):
        gate.weight.copy_(torch.tensor([[of_x, of_h]]))
        gate.bias.fill_(bias)
    x, h = 2.0, -0.5
    z, reset = sigmoid(0.5 * x - 1.0 * h + 0.1), sigmoid(1.0 * x + 2.0 * h - 0.3)
    candidate = math.tanh(0.7 * x - 0.4 * (reset * h) + 0.2)
    by_hand = (1 - z) * h + z * candidate
    assert cell(torch.tensor([[x]]), torch.tensor([[h]])).item() == pytest.approx(by_hand, abs=1e-6)


@torch.no_grad()
def test_the_rnn_over_a_row_is_torchs_own_from_its_learned_start() -> None:
    torch.manual_seed(1)
    model = RNN(CONFIG, 11)
    model.start.copy_(random(1, 7))
    assert isinstance(model.cell, RNNCell)
    torchs = nn.RNN(5, 7, batch_first=True)
    weight_HX, bias_H = model.cell.xh_to_h.weight, model.cell.xh_to_h.bias
    torchs.load_state_dict(
        {
            "weight_ih_l0": weight_HX[:, :5],
            "weight_hh_l0": weight_HX[:, 5:],
            "bias_ih_l0": bias_H,
            "bias_hh_l0": torch.zeros(7),
        }
    )
    ids_BT = torch.randint(11, (3, 9), generator=torch.Generator().manual_seed(2))
    states_BTH, _ = torchs(model.token_embedding(ids_BT), model.start.expand(1, 3, 7).contiguous())
    torch.testing.assert_close(model(ids_BT), model.head(states_BTH))


@torch.no_grad()
def test_a_gru_whose_gate_is_shut_keeps_its_start_for_ever() -> None:
    model = GRU(GRUConfig(context=9, embedding=5, hidden=7), 11)
    model.start.copy_(random(1, 7))
    assert isinstance(model.cell, GRUCell)
    model.cell.xh_to_z.bias.fill_(-100)
    logits_1TV = model(torch.arange(9).unsqueeze(0))
    torch.testing.assert_close(logits_1TV, model.head(model.start).expand(1, 9, 11))


def test_they_have_as_many_parameters_as_makemores() -> None:
    # Counted in makemore.py itself (--type rnn and gru, names.txt).
    assert RNN(RNNConfig(context=16, embedding=64, hidden=64), 27).expected_parameters() == 11_803
    assert GRU(GRUConfig(context=16, embedding=64, hidden=64), 27).expected_parameters() == 28_315


@pytest.mark.parametrize("config", [RNNConfig, GRUConfig])
@pytest.mark.parametrize("key", ["context", "embedding", "hidden"])
def test_a_size_of_nothing_is_refused(config: type[RNNConfig], key: str) -> None:
    with pytest.raises(ConfigError, match=rf"model.{key} must be at least 1, got 0"):
        config(**{"context": 4, key: 0})
