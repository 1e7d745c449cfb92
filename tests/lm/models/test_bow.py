import pytest
import torch

from lm.errors import ConfigError
from lm.models.attention import average_by_loop
from lm.models.bow import BagOfWords, BagOfWordsConfig, running_mean


@pytest.fixture
def model() -> BagOfWords:
    torch.manual_seed(1)
    return BagOfWords(BagOfWordsConfig(context=8), 27)


def test_the_running_mean_is_the_mean_of_what_stands_at_and_before_each_position() -> None:
    x_BTC = torch.randn(2, 7, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(running_mean(x_BTC), average_by_loop(x_BTC))


def test_a_bag_of_words_computed_by_hand() -> None:
    # Width 1, and an MLP whose tanh is nearly the identity: 1e4 * tanh(1e-4 * y) = y, so y becomes 2y.
    model = BagOfWords(BagOfWordsConfig(context=2, width=1, hidden=1), 2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.token_embedding.weight.copy_(torch.tensor([[1.0], [5.0]]))
        model.position_embedding.weight.copy_(torch.tensor([[0.0], [2.0]]))
        model.expand.weight.fill_(1e-4)
        model.project.weight.fill_(1e4)
        model.head.weight.copy_(torch.tensor([[1.0], [-1.0]]))
        model.head.bias.copy_(torch.tensor([0.0, 3.0]))
    # Vectors 1, 5 + 2; with their means 1 + 1, 7 + 4; after the MLP 4, 22.
    expected_1TV = torch.tensor([[[4.0, -4.0 + 3], [22.0, -22.0 + 3]]])
    torch.testing.assert_close(model(torch.tensor([[0, 1]])), expected_1TV, rtol=1e-4, atol=1e-4)


def test_the_order_of_the_ids_before_the_last_makes_no_difference(model: BagOfWords) -> None:
    one_V = model(torch.tensor([[1, 2, 3, 4]]))[0, -1]
    other_V = model(torch.tensor([[3, 1, 2, 4]]))[0, -1]
    torch.testing.assert_close(other_V, one_V, rtol=0, atol=1e-5)
    assert not torch.allclose(model(torch.tensor([[1, 2, 4, 3]]))[0, -1], one_V, atol=1e-2)


def test_it_has_as_many_parameters_as_makemores() -> None:
    # Counted in makemore.py itself (--type bow, names.txt).
    assert BagOfWords(BagOfWordsConfig(context=16, width=64, hidden=64), 27).expected_parameters() == 12_827


@pytest.mark.parametrize("key", ["context", "width", "hidden"])
def test_a_size_of_nothing_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"model.{key} must be at least 1, got 0"):
        BagOfWordsConfig(**{"context": 4, key: 0})
