import math

import pytest
import torch
from torch import Tensor

from lm.errors import ConfigError
from lm.loss import cross_entropy
from lm.models.mlp import MLP, MLPConfig

LECTURE = {"context": 16, "window": 3, "embedding": 10, "hidden": 200}
"""Part 2's sizes."""


def first_loss(model: MLP) -> float:
    ids_BT: Tensor = torch.randint(model.vocab_size, (40, 17))
    return cross_entropy(model(ids_BT[:, :-1]), ids_BT[:, 1:]).item()


def test_the_lectures_network_has_11897_parameters() -> None:
    model = MLP(MLPConfig(**LECTURE), 27)
    assert model.expected_parameters() == sum(parameter.numel() for parameter in model.parameters()) == 11_897


@pytest.mark.parametrize("init", ["unit", "kaiming"])
@pytest.mark.parametrize(("vocab_size", "hidden", "window"), [(27, 200, 3), (256, 64, 8), (1000, 300, 1)])
def test_the_first_loss_is_the_one_on_paper_for_20_seeds(init: str, vocab_size: int, hidden: int, window: int) -> None:
    losses = []
    for seed in range(20):
        torch.manual_seed(seed)
        model = MLP(MLPConfig(**{**LECTURE, "hidden": hidden, "window": window, "init": init}), vocab_size)
        losses.append(first_loss(model))
    expected = model.expected_first_loss()
    assert all(abs(loss - expected.nats) < expected.tolerance for loss in losses), (expected, losses)
    assert sum(losses) / 20 == pytest.approx(expected.nats, rel=0.03), "the mean of all is nearer to it"


def test_a_bad_start_costs_many_times_what_a_good_one_does() -> None:
    torch.manual_seed(0)
    unit, kaiming = (first_loss(MLP(MLPConfig(**LECTURE, init=init), 27)) for init in ("unit", "kaiming"))
    assert unit > 7 * math.log(27) and kaiming == pytest.approx(math.log(27), abs=0.05)


def test_a_bad_start_saturates_the_hidden_layer_and_a_good_one_does_not() -> None:
    for init, least, most in (("unit", 0.5, 0.9), ("kaiming", 0.0, 0.3)):
        torch.manual_seed(0)
        model = MLP(MLPConfig(**LECTURE, init=init), 27)
        x_NI = model.flatten(model.embedding(torch.randint(27, (500, 3))))
        saturated = (model.tanh(model.hidden(x_NI)).abs() > 0.97).float().mean().item()
        assert least < saturated < most, init


def test_a_logit_is_the_one_computed_by_hand() -> None:
    torch.manual_seed(1)
    model = MLP(MLPConfig(context=4, window=2, embedding=3, hidden=5), 7)
    x_I = torch.cat([model.embedding.weight[4], model.embedding.weight[6]])
    h_H = torch.tanh(x_I @ model.hidden.weight + model.hidden.bias)
    expected_V = h_H @ model.head.weight + model.head.bias
    torch.testing.assert_close(model(torch.tensor([[1, 4, 6]]))[0, 2], expected_V)
    torch.testing.assert_close(model.next_logits(torch.tensor([[4, 6]]))[0], expected_V)
    torch.testing.assert_close(model.next_logits(torch.tensor([[5, 3, 4, 6]]))[0], expected_V)


def test_a_row_shorter_than_the_window_is_filled_up_on_the_left() -> None:
    model = MLP(MLPConfig(**LECTURE), 27)
    logits_1V = model.next_logits(torch.tensor([[5]]))
    torch.testing.assert_close(logits_1V, model.next_logits(torch.tensor([[0, 0, 5]])))
    torch.testing.assert_close(model(torch.tensor([[5]]))[:, 0], logits_1V)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"window": 0}, r"model.window must be at least 1, got 0"),
        ({"hidden": -1}, r"model.hidden must be at least 1, got -1"),
        ({"embedding": 0}, r"model.embedding must be at least 1, got 0"),
        ({"context": 0}, r"model.context must be at least 1, got 0"),
        ({"init": "xavier"}, r"model.init must be one of unit, kaiming, got 'xavier'"),
    ],
)
def test_impossible_sizes_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MLPConfig(**{**LECTURE, **wrong})
