"""The n-grams: by hand, against the published figures on names.txt, and counting against the network."""

import itertools
import math
import os
import random
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bpetok.errors import DataError
from lm.errors import ConfigError
from lm.ngram import counts, counts_loss, descend, log_probabilities, nll, one_hot_loss, sample, windows

V = 27


@pytest.fixture(scope="module")
def names() -> list[list[int]]:
    """names.txt as ids: a..z are 1..26."""
    folder = os.environ.get("BPETOK_DATA")
    path = Path(folder or "", "names.txt")
    if folder is None or not path.is_file():
        pytest.skip("BPETOK_DATA is not set to a folder with names.txt")
    return [[ord(letter) - ord("a") + 1 for letter in name] for name in path.read_text().split()]


@pytest.fixture(scope="module")
def pairs_N2(names: list[list[int]]) -> Tensor:
    return windows(names, order=2)


@pytest.fixture(scope="module")
def split_windows(names: list[list[int]]) -> dict[int, list[Tensor]]:
    """By order: the windows of the lecture's split, shuffled once with seed 42, then 80, 10 and 10 of a hundred."""
    shuffled = list(names)
    random.Random(42).shuffle(shuffled)
    first, second = int(0.8 * len(shuffled)), int(0.9 * len(shuffled))
    splits = [shuffled[:first], shuffled[first:second], shuffled[second:]]
    return {order: [windows(lines, order) for lines in splits] for order in (2, 3)}


@pytest.fixture
def weights_VV() -> Tensor:
    """The lecture's first weights."""
    return torch.randn((V, V), generator=torch.Generator().manual_seed(2147483647), requires_grad=True)


# By hand.


def test_a_bigram_computed_by_hand() -> None:
    # Lines 1 and 1 1: the end is followed by 1 both times; 1 by the end twice and by 1 once.
    pairs = windows([[1], [1, 1]], order=2)
    log_probs = log_probabilities(counts(pairs, 2))
    by_hand = -(2 * math.log(1) + 2 * math.log(2 / 3) + math.log(1 / 3)) / 5
    assert nll(log_probs, pairs) == pytest.approx(by_hand, abs=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_the_table_has_the_count_of_every_window(order: int) -> None:
    ids_N = torch.randint(5, (200,), generator=torch.Generator().manual_seed(1))
    found = counts(ids_N.unfold(0, order, 1), 5)
    for window in itertools.product(range(5), repeat=order):
        stream = ids_N.tolist()
        by_looking = sum(stream[start : start + order] == list(window) for start in range(len(stream) - order + 1))
        assert found[window] == by_looking


@pytest.mark.parametrize("order", [1, 2, 3])
def test_every_line_of_n_ids_gives_n_plus_one_windows(order: int) -> None:
    lines: list[list[int]] = [[], [3], [1, 2, 3, 4]]
    assert windows(lines, order).shape == (1 + 2 + 5, order)


def test_the_chances_after_each_history_sum_to_one_and_smoothing_makes_them_more_even() -> None:
    table = torch.tensor([[9, 1, 0], [0, 0, 0], [2, 2, 2]])
    even = [log_probabilities(table, smoothing=smoothing).exp()[0, 0].item() for smoothing in (0, 0.1, 1, 1e9)]
    assert even == sorted(even, reverse=True)
    assert even[0] == pytest.approx(0.9)
    assert even[-1] == pytest.approx(1 / 3)
    torch.testing.assert_close(log_probabilities(table, smoothing=0.1).exp().sum(1), torch.ones(3).double())


def test_an_unseen_window_is_an_infinite_loss_unless_smoothed() -> None:
    table = counts(torch.tensor([[0, 1], [1, 0]]), 3)
    for unseen in ([0, 2], [2, 0]):
        assert nll(log_probabilities(table), torch.tensor([unseen])) == math.inf
        assert nll(log_probabilities(table, smoothing=1), torch.tensor([unseen])) < math.inf


def test_sampled_lines_have_only_windows_that_were_seen() -> None:
    lines = [[1, 2, 3], [1, 3], [2, 2, 1]]
    for order in (2, 3):
        table = counts(windows(lines, order), 4)
        drawn = list(itertools.islice(sample(log_probabilities(table), seed=1), 50))
        assert counts(windows(drawn, order), 4)[table == 0].sum() == 0
        assert drawn == list(itertools.islice(sample(log_probabilities(table), seed=1), 50))
        assert drawn != list(itertools.islice(sample(log_probabilities(table), seed=2), 50))


def test_sampled_ids_are_as_frequent_as_their_chances() -> None:
    table = torch.tensor([1, 6, 3])  # order 1: no history; a line ends after each id with the chance 1 / 10
    drawn = [id_ for line in itertools.islice(sample(log_probabilities(table), seed=3), 1000) for id_ in line]
    share = drawn.count(1) / len(drawn)
    assert share == pytest.approx(2 / 3, abs=4 * math.sqrt(2 / 9 / len(drawn)))


def test_a_line_without_an_end_is_cut() -> None:
    never_ends = torch.tensor([[0, 1], [0, 1]])
    assert next(sample(log_probabilities(never_ends), seed=1, longest=7)) == [1] * 7


# Errors.


def test_an_order_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"ngram: order must be at least 1, got 0"):
        windows([[1]], 0)


def test_a_table_beyond_memory_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"ngram: vocab_size \*\* order must be at most 268435456, got 2525766049"):
        counts(torch.tensor([[0, 1]]), 50257)


@pytest.mark.parametrize("smoothing", [-0.1, math.inf, math.nan])
def test_a_smoothing_that_gives_no_chances_is_refused(smoothing: float) -> None:
    with pytest.raises(ConfigError, match=r"ngram: smoothing must be finite and at least 0, got"):
        log_probabilities(torch.ones(2, 2), smoothing=smoothing)


@pytest.mark.parametrize("wrong", [-1, 27])
def test_an_id_outside_the_alphabet_is_refused(wrong: int) -> None:
    with pytest.raises(DataError, match=rf"ngram: ids must be in \[0, 27\), got {wrong}"):
        counts(windows([[3, wrong]], 2), V)
    with pytest.raises(DataError, match=rf"ngram: ids must be in \[0, 27\), got {wrong}"):
        nll(torch.zeros(V, V), windows([[3, wrong]], 2))


def test_windows_of_another_order_than_the_table_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"ngram: windows must be of the table's order 3, got 2"):
        nll(torch.zeros(V, V, V), torch.tensor([[0, 1]]))


def test_no_lines_are_refused() -> None:
    with pytest.raises(DataError, match=r"ngram: windows must be one or more, got none"):
        counts(windows([], 2), V)


def test_sampling_stops_with_an_error_where_nothing_was_counted() -> None:
    table = counts(torch.tensor([[0, 1]]), 2)
    with pytest.raises(DataError, match=r"ngram: history must be one with counts, got \[1\]"):
        next(sample(log_probabilities(table), seed=1))


# The published figures, by counting; float64.


def test_names_have_their_published_number_of_bigrams(pairs_N2: Tensor) -> None:
    table = counts(pairs_N2, V)
    assert table.sum() == 228_146
    assert (table > 0).sum() == 627


@pytest.mark.parametrize(("smoothing", "published"), [(0, 2.4540144891548743), (1, 2.454576820115704)])
def test_the_bigram_has_its_published_loss(pairs_N2: Tensor, smoothing: float, published: float) -> None:
    log_probs = log_probabilities(counts(pairs_N2, V), smoothing=smoothing)
    assert nll(log_probs, pairs_N2) == pytest.approx(published, abs=1e-9)


def test_uniform_unigram_and_one_strange_name_have_their_published_losses(pairs_N2: Tensor) -> None:
    assert nll(log_probabilities(torch.zeros(V, V), smoothing=1), pairs_N2) == pytest.approx(math.log(27), abs=1e-12)
    ids_N1 = pairs_N2[:, 1:]
    assert nll(log_probabilities(counts(ids_N1, V)), ids_N1) == pytest.approx(2.8227, abs=5e-5)
    andrejq = windows([[ord(letter) - ord("a") + 1 for letter in "andrejq"]], order=2)
    log_probs = log_probabilities(counts(pairs_N2, V), smoothing=1)
    assert nll(log_probs, andrejq) == pytest.approx(3.4834, abs=5e-5)


@pytest.mark.parametrize(
    ("order", "smoothing", "published"),
    [
        (2, 1, [2.454837, 2.453264, 2.458391]),
        (3, 0.1, [2.187429, 2.222471, 2.224026]),
        (3, 1, [2.215573, 2.236462, 2.237333]),
    ],
)
def test_bigram_and_trigram_have_their_published_losses_on_the_split(
    split_windows: dict[int, list[Tensor]], order: int, smoothing: float, published: list[float]
) -> None:
    train_NO = split_windows[order][0]
    log_probs = log_probabilities(counts(train_NO, V), smoothing=smoothing)
    losses = [nll(log_probs, windows_NO) for windows_NO in split_windows[order]]
    assert losses == pytest.approx(published, abs=1e-6)


# The network.


def test_the_fast_loss_and_its_gradient_are_those_of_the_one_hot_product(weights_VV: Tensor) -> None:
    pairs = torch.randint(V, (500, 2), generator=torch.Generator().manual_seed(1))
    readable, fast = one_hot_loss(weights_VV, pairs), counts_loss(weights_VV, counts(pairs, V))
    assert fast.item() == pytest.approx(readable.item(), abs=1e-5)
    (readable_VV,) = torch.autograd.grad(readable, weights_VV)
    (fast_VV,) = torch.autograd.grad(fast, weights_VV)
    torch.testing.assert_close(fast_VV, readable_VV, rtol=1e-5, atol=1e-7)


def test_the_network_has_its_published_losses(pairs_N2: Tensor, weights_VV: Tensor) -> None:
    counts_VV = counts(pairs_N2, V)
    losses = list(itertools.islice(descend(partial(counts_loss, counts_VV=counts_VV), weights_VV), 1001))
    published = [3.76862, 2.69651, 2.48996, 2.48297, 2.48045]
    assert [losses[step] for step in (0, 10, 100, 200, 1000)] == pytest.approx(published, abs=1e-5)


def test_the_readable_network_walks_the_same_way(pairs_N2: Tensor, weights_VV: Tensor) -> None:
    some_N2 = pairs_N2[::10]
    fast_VV = weights_VV.detach().clone().requires_grad_()
    readable = list(itertools.islice(descend(partial(one_hot_loss, windows_N2=some_N2), weights_VV), 11))
    fast = list(itertools.islice(descend(partial(counts_loss, counts_VV=counts(some_N2, V)), fast_VV), 11))
    assert readable == pytest.approx(fast, abs=1e-5)
    torch.testing.assert_close(weights_VV, fast_VV, rtol=0, atol=1e-4)


def test_without_decay_the_network_finds_the_counts(pairs_N2: Tensor, weights_VV: Tensor) -> None:
    table = counts(pairs_N2, V)
    losses = descend(partial(counts_loss, counts_VV=table, decay=0), weights_VV)
    last = next(itertools.islice(losses, 3000, None))
    counted = nll(log_probabilities(table), pairs_N2)
    assert counted < last < counted + 1e-3
    chances_VV, counted_VV = weights_VV.softmax(1), log_probabilities(table).exp()
    often = table.sum(1) > 2000
    torch.testing.assert_close(chances_VV[often].double(), counted_VV[often], rtol=0, atol=5e-3)


def test_decay_does_to_the_network_what_smoothing_does_to_counts(pairs_N2: Tensor, weights_VV: Tensor) -> None:
    # Both draw all chances to 1 / V: the more of either, the higher the loss, up to ln V.
    table = counts(pairs_N2, V)
    smoothed = [nll(log_probabilities(table, smoothing=smoothing), pairs_N2) for smoothing in (0, 100, 1e4, 1e9)]
    decayed = []
    for decay in (0.0, 0.1, 1.0):
        weights = weights_VV.detach().clone().requires_grad_()
        losses = descend(partial(counts_loss, counts_VV=table, decay=decay), weights)
        next(itertools.islice(losses, 500, None))
        decayed.append(counts_loss(weights, table, decay=0).item())
    for losses_ in (smoothed, decayed):
        assert losses_ == sorted(losses_)
        assert 2.45 < losses_[0] < losses_[-1] < math.log(27) + 1e-6
