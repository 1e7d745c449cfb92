"""Every rung of the ladder against the one contract of lm/models/contract.py."""

import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from lm.errors import ConfigError
from lm.loss import cross_entropy
from lm.models import LADDER
from lm.models.attention import TransformerConfig
from lm.models.batchnorm import BatchNormMLPConfig
from lm.models.bigram import BigramConfig
from lm.models.bow import BagOfWordsConfig
from lm.models.contract import LanguageModel, RungConfig
from lm.models.dilated import DilatedWaveNetConfig
from lm.models.gpt2 import GPT2Config
from lm.models.mlp import MLPConfig
from lm.models.modern import ModernConfig
from lm.models.rnn import GRUConfig, RNNConfig
from lm.models.wavenet import WaveNetConfig

# One config per rung, small; the rung's own test file has more.
CONFIGS: dict[str, RungConfig] = {
    "bigram": BigramConfig(context=12),
    "mlp": MLPConfig(context=12, window=3, embedding=10, hidden=64),
    "batchnorm": BatchNormMLPConfig(context=12, window=3, embedding=10, hidden=64),
    "wavenet": WaveNetConfig(context=12, levels=3, embedding=8, hidden=32),
    "dilated": DilatedWaveNetConfig(context=12, levels=3, embedding=8, hidden=32),
    "bow": BagOfWordsConfig(context=12, width=32, hidden=64),
    "rnn": RNNConfig(context=12, embedding=16, hidden=32),
    "gru": GRUConfig(context=12, embedding=16, hidden=32),
    "attention": TransformerConfig(context=12, layers=2, heads=4, width=32),
    "gpt2": GPT2Config(context=12, layers=2, heads=4, width=32),
    "modern": ModernConfig(context=12, layers=2, heads=4, width=32),
}
V = 101


@pytest.fixture(params=LADDER)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    torch.manual_seed(1)
    return LADDER[request.param].build(CONFIGS[request.param], V)


def random_ids(*shape: int) -> Tensor:
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(2))


def draw_zero_matrices(model: LanguageModel) -> None:
    """Projections that begin as zeros hide what is behind them: no id, no gradient gets past them."""
    for parameter in model.parameters():
        if parameter.dim() >= 2 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)


def test_every_rung_has_a_config_here() -> None:
    assert CONFIGS.keys() == LADDER.keys()
    for name, config in CONFIGS.items():
        assert type(config) is LADDER[name].config


@pytest.mark.parametrize("time", [1, 5, 12])
def test_logits_have_one_column_for_each_id_of_the_vocabulary(model: LanguageModel, time: int) -> None:
    assert model(random_ids(3, time)).shape == (3, time, V)
    assert model.vocab_size == V


def test_a_row_longer_than_the_context_is_refused(model: LanguageModel) -> None:
    with pytest.raises(ConfigError, match=r"T must be at most the context of 12, got 13"):
        model(random_ids(1, 13))


def test_logits_do_not_depend_on_later_ids(model: LanguageModel) -> None:
    draw_zero_matrices(model)
    model.eval()
    ids_BT = random_ids(2, 12)
    logits_BTV = model(ids_BT)
    for time in range(11):
        changed_BT = ids_BT.clone()
        changed_BT[:, time + 1 :] = (changed_BT[:, time + 1 :] + 1) % V
        torch.testing.assert_close(model(changed_BT)[:, : time + 1], logits_BTV[:, : time + 1], rtol=0, atol=1e-6)


def test_logits_depend_on_every_id_of_the_window_and_on_none_before_it(model: LanguageModel) -> None:
    draw_zero_matrices(model)
    model.eval()
    ids_BT = random_ids(1, 12)
    last_V = model(ids_BT)[0, -1]
    for back in range(1, 13):
        changed_BT = ids_BT.clone()
        changed_BT[0, -back] = (changed_BT[0, -back] + 1) % V
        same = torch.equal(model(changed_BT)[0, -1], last_V)
        assert same == (back > model.window), f"id {back} from the end"


@pytest.mark.parametrize("time", [1, 2, 12])
def test_the_next_logits_are_those_of_the_last_position(model: LanguageModel, time: int) -> None:
    draw_zero_matrices(model)
    model.eval()
    ids_BT = random_ids(4, time)
    torch.testing.assert_close(model.next_logits(ids_BT), model(ids_BT)[:, -1], rtol=0, atol=1e-5)


def test_rows_of_a_batch_do_not_see_each_other(model: LanguageModel) -> None:
    draw_zero_matrices(model)
    model.eval()
    ids_BT = random_ids(3, 12)
    alone_BTV = torch.cat([model(ids_BT[row : row + 1]) for row in range(3)])
    torch.testing.assert_close(model(ids_BT), alone_BTV, rtol=0, atol=1e-5)


def test_the_first_loss_is_the_one_on_paper(model: LanguageModel) -> None:
    ids_BT = random_ids(64, 13)
    loss = cross_entropy(model(ids_BT[:, :-1]), ids_BT[:, 1:]).item()
    expected = model.expected_first_loss()
    assert loss == pytest.approx(expected.nats, abs=expected.tolerance)


def test_the_parameter_formula_is_the_real_count(model: LanguageModel) -> None:
    assert model.expected_parameters() == sum(parameter.numel() for parameter in model.parameters())


def test_every_parameter_gets_a_gradient(model: LanguageModel) -> None:
    draw_zero_matrices(model)
    ids_BT = random_ids(4, 13)
    cross_entropy(model(ids_BT[:, :-1]), ids_BT[:, 1:]).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_equal_seeds_draw_equal_weights(model: LanguageModel) -> None:
    torch.manual_seed(1)
    name = next(name for name, rung in LADDER.items() if rung.model_name == type(model).__name__)
    again = LADDER[name].build(CONFIGS[name], V).state_dict()
    assert all(torch.equal(again[key], value) for key, value in model.state_dict().items())


def test_one_batch_is_learnt_by_heart_down_to_the_rungs_bound(model: LanguageModel) -> None:
    # Few different ids, so that the bigram's bound is well above zero.
    ids_BT = random_ids(4, 13) % 7
    inputs_BT, targets_BT = ids_BT[:, :-1], ids_BT[:, 1:]
    bound = entropy_given_window(ids_BT, model.window)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1 if model.window == 1 else 0.01, weight_decay=0.0)
    for _ in range(250):
        optimizer.zero_grad()
        loss = cross_entropy(model(inputs_BT), targets_BT)
        loss.backward()
        optimizer.step()
    assert bound - 1e-4 <= loss.item() <= bound + 0.05


def entropy_given_window(ids_BT: Tensor, window: int) -> float:
    """The least loss, in nats, of whoever sees `window` ids: the entropy of the target among its equals."""
    pairs = [
        (tuple(row[max(0, t + 1 - window) : t + 1]), row[t + 1]) for row in ids_BT.tolist() for t in range(len(row) - 1)
    ]
    seen = Counter(left for left, _ in pairs)
    return -sum(n * math.log(n / seen[left]) for (left, _), n in Counter(pairs).items()) / len(pairs)


def test_the_bound_of_a_batch_is_right_for_one_computed_by_hand() -> None:
    # After 1: 2, 2, 3; after 2: 1. Two of three and one of three, over four targets.
    ids_BT = torch.tensor([[1, 2, 1, 2], [0, 0, 1, 3]])
    by_hand = -(2 * math.log(2 / 3) + math.log(1 / 3) + 2 * math.log(1 / 2)) / 6
    assert entropy_given_window(ids_BT, 1) == pytest.approx(by_hand)
