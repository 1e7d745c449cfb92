from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bpetok.errors import DataError, IncompatibleError
from lm.batches import IGNORE, Batches, _mix, count_blocks, in_order, shuffled
from lm.errors import ConfigError

SplitOf = Callable[..., object]


def targets_of(batches: Batches, steps: int) -> Iterator[int]:
    """The targets of some steps, in order; in a split whose ids are their own places these name the targets."""
    for _ in range(steps):
        inputs_BT, targets_BT = next(batches)
        real_BT = targets_BT != IGNORE
        assert torch.equal(inputs_BT[real_BT] + 1, targets_BT[real_BT])
        yield from targets_BT[real_BT].tolist()


@given(
    tokens=st.integers(2, 60),
    rows=st.integers(1, 5),
    context=st.integers(1, 9),
    world_size=st.integers(1, 3),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 2**63),
)
def test_every_target_comes_exactly_once_in_each_epoch(
    split_of: SplitOf, tokens: int, rows: int, context: int, world_size: int, epochs: int, seed: int
) -> None:
    split = split_of(range(tokens))
    ranks = [
        Batches(split, rows=rows, context=context, seed=seed, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    steps = -(-count_blocks(split, context) * epochs // (rows * world_size))
    taken = [target for _ in range(steps) for batches in ranks for target in targets_of(batches, 1)]
    for epoch in range(epochs):
        assert sorted(taken[epoch * (tokens - 1) : (epoch + 1) * (tokens - 1)]) == list(range(1, tokens))


@given(
    tokens=st.integers(2, 60),
    context=st.integers(1, 9),
    first=st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(0, 5)),
    second=st.tuples(st.integers(1, 4), st.integers(1, 3)),
)
def test_a_resumed_run_goes_on_with_the_next_target_at_any_batch_and_world_size(
    split_of: SplitOf, tokens: int, context: int, first: tuple[int, int, int], second: tuple[int, int]
) -> None:
    split = split_of(range(tokens))
    unbroken = list(targets_of(Batches(split, rows=1, context=context, seed=5), 100))
    rows, world_size, steps = first
    ranks = [
        Batches(split, rows=rows, context=context, seed=5, rank=r, world_size=world_size) for r in range(world_size)
    ]
    taken = [target for _ in range(steps) for batches in ranks for target in targets_of(batches, 1)]
    rows, world_size = second
    again = [
        Batches.from_state(split, ranks[0].state(), rows=rows, context=context, rank=r, world_size=world_size)
        for r in range(world_size)
    ]
    taken += [target for _ in range(3) for batches in again for target in targets_of(batches, 1)]
    assert taken == unbroken[: len(taken)]


def test_inputs_and_targets_are_int64_and_the_last_block_is_padded(split_of: SplitOf) -> None:
    batches = Batches(split_of([10, 11, 12, 13]), rows=2, context=2, seed=0)
    inputs_BT, targets_BT = next(batches)
    assert inputs_BT.dtype == targets_BT.dtype == torch.int64
    rows = sorted(zip(inputs_BT.tolist(), targets_BT.tolist(), strict=True))
    assert rows == [([10, 11], [11, 12]), ([12, 0], [13, IGNORE])]
    assert iter(batches) is batches


def test_each_epoch_and_each_seed_has_its_own_order() -> None:
    orders = {tuple(shuffled(50, seed, epoch)) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16
    assert all(sorted(order) == list(range(50)) for order in orders)


def test_the_mix_is_splitmix64() -> None:
    # The first output of Vigna's splitmix64.c from the state 0.
    assert _mix(np.zeros(1, dtype=np.uint64)).tolist() == [0xE220A8397B1DCDAF]


def test_an_order_is_even_no_place_is_preferred() -> None:
    # The block that comes first, over 2000 seeds: each of ten about 200 times, standard deviation 13.4.
    first = Counter(int(shuffled(10, seed, 0)[0]) for seed in range(2000))
    assert all(140 < first[block] < 260 for block in range(10))


def test_batches_in_order_are_the_text_from_its_start_and_end_with_it(split_of: SplitOf) -> None:
    split = split_of(range(12))
    targets = [targets_BT.tolist() for _, targets_BT in in_order(split, rows=2, context=3, batches=9)]
    assert targets == [[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [10, 11, IGNORE]]]
    assert len(list(in_order(split, rows=2, context=3, batches=1))) == 1
    (_, last_BT) = list(in_order(split, rows=3, context=3, batches=2))[-1]
    assert last_BT.tolist() == [[10, 11, IGNORE], [IGNORE] * 3, [IGNORE] * 3]


@pytest.mark.parametrize("tokens", [0, 1])
def test_a_split_without_a_target_is_refused(split_of: SplitOf, tokens: int) -> None:
    with pytest.raises(DataError, match=rf"split.tokens must be at least 2, got {tokens}\nhint: one id has no next"):
        Batches(split_of(range(tokens)), rows=1, context=1, seed=0)
    with pytest.raises(DataError, match=r"split.tokens must be at least 2"):
        next(in_order(split_of(range(tokens)), rows=1, context=1, batches=1))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rows": 0}, r"rows must be at least 1, got 0"),
        ({"context": 0}, r"context must be at least 1, got 0"),
        ({"seed": -1}, r"seed must be at least 0, got -1"),
        ({"position": -1}, r"position must be at least 0, got -1"),
        ({"rank": 2, "world_size": 2}, r"rank must be in \[0, 2\), got 2"),
    ],
)
def test_impossible_numbers_are_refused(split_of: SplitOf, wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match="batches: " + message):
        Batches(split_of(range(9)), **{"rows": 1, "context": 2, "seed": 0, **wrong})


@pytest.mark.parametrize(("tokens", "context", "name"), [(9, 3, "context"), (8, 2, "tokens")])
def test_a_cursor_of_another_split_or_context_is_refused(
    split_of: SplitOf, tokens: int, context: int, name: str
) -> None:
    state = Batches(split_of(range(9)), rows=1, context=2, seed=0).state()
    with pytest.raises(IncompatibleError, match=rf"batches: {name} must be the saved {state[name]}, got "):
        Batches.from_state(split_of(range(tokens)), state, rows=1, context=context)
