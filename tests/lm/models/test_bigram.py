import math

import pytest
import torch

from lm.errors import ConfigError
from lm.loss import cross_entropy
from lm.models.bigram import Bigram, BigramConfig


def test_the_logits_of_an_id_are_its_row_of_the_table() -> None:
    model = Bigram(BigramConfig(context=4), 3)
    with torch.no_grad():
        model.table.weight.copy_(torch.arange(9.0).view(3, 3))
    assert model(torch.tensor([[2, 0]])).tolist() == [[[6, 7, 8], [0, 1, 2]]]


def test_a_table_of_log_counts_has_the_loss_of_the_counts() -> None:
    # Counts after 0: 3 zeros, 1 one. Loss of the row 0 0 0 0 1: three times -ln 3/4, once -ln 1/4.
    model = Bigram(BigramConfig(context=4), 2)
    with torch.no_grad():
        model.table.weight[0] = torch.tensor([3.0, 1.0]).log()
    loss = cross_entropy(model(torch.tensor([[0, 0, 0, 0]])), torch.tensor([[0, 0, 0, 1]]))
    assert loss.item() == pytest.approx(-(3 * math.log(3 / 4) + math.log(1 / 4)) / 4)


def test_a_context_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model.context must be at least 1, got 0"):
        BigramConfig(context=0)
