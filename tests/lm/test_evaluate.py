import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from bpetok.errors import DataError
from lm.batches import IGNORE
from lm.errors import ConfigError
from lm.evaluate import Evaluation, Sliding, evaluate
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


def test_whoever_asks_is_given_the_targets_of_each_batch_in_the_order_of_the_text(split_of: SplitOf) -> None:
    seen = []
    split = split_of([0, 1, 2, 2, 1, 0, 1, 1])
    evaluate(coin([0.25] * 4), split, token_bytes=TOKEN_BYTES, rows=2, batches=10, on_batch=seen.append)
    assert [targets_BT.tolist() for targets_BT in seen] == [[[1, 2, 2], [1, 0, 1]], [[1, IGNORE, IGNORE], [IGNORE] * 3]]


def test_perplexity_is_the_number_of_equally_likely_tokens_and_never_an_overflow(split_of: SplitOf) -> None:
    assert measure(coin([0.25] * 4), split_of([0, 1, 2, 2])).perplexity == pytest.approx(4)
    huge = Evaluation(loss=1e4, bits_per_byte=1.0, tokens=1, bytes=1, standard_error=None)
    assert huge.perplexity == math.inf


# ---- sliding -----------------------------------------------------------------------------------------------------


def small_gpt2() -> GPT2:
    torch.manual_seed(0)
    return GPT2(GPT2Config(context=6, layers=1, heads=1, width=8), 4)


def test_a_stride_of_the_context_is_the_plain_evaluation(split_of: SplitOf) -> None:
    split = split_of(torch.randint(3, (40,), generator=torch.Generator().manual_seed(1)).tolist())
    model = small_gpt2()
    assert measure(model, Sliding(split, 6), batches=99) == measure(model, split, batches=99)


@pytest.mark.parametrize("tokens", [2, 5, 13, 40])
@pytest.mark.parametrize("stride", [1, 2, 4, 5, 6])
def test_with_any_stride_each_target_comes_once_behind_as_much_of_its_past_as_was_promised(
    split_of: SplitOf, tokens: int, stride: int
) -> None:
    ids = list(range(100, 100 + tokens))  # all different, so each row tells where it is from
    rows = Sliding(split_of(ids), stride).cut(6)
    inputs_BT, targets_BT = rows.stack(range(rows.count), rows.count)
    found = []
    for inputs_T, targets_T in zip(inputs_BT.tolist(), targets_BT.tolist(), strict=True):
        for place, target in enumerate(targets_T):
            if target != IGNORE:
                found.append(target)
                left = place + 1  # how many ids this target sees
                assert inputs_T[:left] == ids[target - 100 - left : target - 100], "the ids just before it"
                assert left >= min(6 - stride + 1, target - 100)
    assert found == ids[1:]


def test_more_of_the_past_makes_a_model_that_uses_it_surer(split_of: SplitOf) -> None:
    # The ids come in pairs: which of a pair one id is, a row does not tell where it is all that is seen.
    text = [0, 0, 1, 1, 2, 2] * 30
    model = small_gpt2()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    rows_BT = torch.tensor([text[phase : phase + 7] for phase in range(6)])
    for _ in range(150):
        loss = torch.nn.functional.cross_entropy(model(rows_BT[:, :-1]).flatten(0, 1), rows_BT[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    split = split_of(text)
    plain, sliding = measure(model, split, batches=99), measure(model, Sliding(split, 1), batches=99)
    assert sliding.tokens == plain.tokens == 179
    assert plain.loss == pytest.approx(math.log(2) / 6, abs=0.02) and sliding.loss < 0.02


@pytest.mark.parametrize("stride", [0, 7])
def test_a_stride_must_be_between_one_and_the_context(split_of: SplitOf, stride: int) -> None:
    with pytest.raises(ConfigError, match=rf"evaluate: stride must be at .*, got {stride}"):
        measure(small_gpt2(), Sliding(split_of([0, 1, 2]), stride))


@pytest.mark.gpu
def test_on_cuda_the_figures_are_those_of_the_cpu(split_of: SplitOf) -> None:
    split = split_of(torch.randint(3, (400,), generator=torch.Generator().manual_seed(1)).tolist())
    model = small_gpt2()
    expected = measure(model, split, rows=8)
    on_cuda = measure(model.to("cuda"), split, rows=8)
    assert on_cuda.loss == pytest.approx(expected.loss, abs=1e-5)
    assert (on_cuda.tokens, on_cuda.bytes) == (expected.tokens, expected.bytes)
    half = evaluate(model, split, token_bytes=TOKEN_BYTES, rows=8, batches=10, dtype=torch.bfloat16)
    assert half.loss == pytest.approx(expected.loss, abs=0.02)
