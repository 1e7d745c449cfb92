import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from bpetok.errors import DataError
from lm.evaluate import Evaluation, evaluate
from lm.models.bigram import Bigram, BigramConfig
from lm.models.gpt2 import GPT2, GPT2Config

SplitOf = Callable[..., object]
# Ids 0..3 stand for 1, 2, 3 bytes and a special token.
TOKEN_BYTES = np.array([1, 2, 3, 0])


def coin(chances: list[float]) -> Bigram:
    """A bigram that gives the same chances after every id."""
    model = Bigram(BigramConfig(context=3), 4)
    with torch.no_grad():
        model.table.weight.copy_(torch.tensor(chances).log().expand(4, 4))
    return model


def measure(model: Bigram | GPT2, split: object, *, rows: int = 2, batches: int = 10) -> Evaluation:
    return evaluate(model, split, token_bytes=TOKEN_BYTES, rows=rows, batches=batches)


def test_the_figures_are_those_computed_by_hand(split_of: SplitOf) -> None:
    # Targets 1 2 3 | 0: losses ln 4, ln 8, ln 8 | ln 2; bytes 2 3 and none | 1.
    result = measure(coin([1 / 2, 1 / 4, 1 / 8, 1 / 8]), split_of([0, 1, 2, 3, 0]))
    ln2 = math.log(2)
    assert result.loss == pytest.approx(9 * ln2 / 4)
    assert result.bits_per_byte == pytest.approx((2 + 3 + 1) / 6), "the special token is in neither sum"
    assert (result.tokens, result.bytes) == (4, 6)
    # Rows of 3 and 1 tokens: sums 8 ln 2 and ln 2, against 3 and 1 times the mean 9/4 ln 2.
    deviation = math.sqrt(((8 - 27 / 4) ** 2 + (1 - 9 / 4) ** 2) * 2 / (2 - 1)) / 4 * ln2
    assert result.standard_error == pytest.approx(deviation)


def test_a_single_row_has_no_standard_error(split_of: SplitOf) -> None:
    assert measure(coin([0.25] * 4), split_of([0, 1, 2])).standard_error is None


def test_batch_size_does_not_change_the_figures_and_a_limit_does(split_of: SplitOf) -> None:
    torch.manual_seed(0)
    model, split = Bigram(BigramConfig(context=3), 4), split_of(torch.randint(3, (40,)).tolist())
    one, four = measure(model, split, rows=1, batches=40), measure(model, split, rows=4, batches=40)
    assert one.loss == pytest.approx(four.loss, abs=1e-12) and one.tokens == four.tokens == 39
    assert measure(model, split, rows=4, batches=2).tokens == 24


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_the_figure_the_same_each_time_and_the_mode_put_back(split_of: SplitOf, training: bool) -> None:
    torch.manual_seed(0)
    model = GPT2(GPT2Config(context=3, layers=1, heads=1, width=8, dropout=0.5), 4).train(training)
    split = split_of([0, 1, 2, 2, 1, 0, 3, 1])
    before = torch.get_rng_state()
    assert measure(model, split) == measure(model, split)
    assert model.training is training
    assert torch.equal(torch.get_rng_state(), before), "an evaluation must not move the training's random numbers"


def test_a_text_of_special_tokens_only_has_no_bits_per_byte(split_of: SplitOf) -> None:
    with pytest.raises(DataError, match=r"bits per byte: bytes must be at least 1, got 0"):
        measure(coin([0.25] * 4), split_of([3, 3, 3]))
