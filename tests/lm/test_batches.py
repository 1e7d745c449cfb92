import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given
from hypothesis import strategies as st

import bpetok.shards
from bpetok.errors import DataError, IncompatibleError
from bpetok.shards import layout
from bpetok.shards.manifest import MANIFEST
from lm.batches import IGNORE, Batches, Draws, _mix, count_blocks, documents_of, in_order, shuffled
from lm.config import DataConfig
from lm.errors import ConfigError
from lm.examples import Lines, Windows
from lm.models.reading import document_mask

SplitOf = Callable[..., object]

FIRST = {"uint16": 65_000, "uint32": 70_000}
"""Ids begin here, so that those of uint32 shards do not fit into 16 bits."""

LENGTHS = st.lists(st.one_of(st.just(1), st.integers(1, 12)), min_size=1, max_size=9).filter(lambda one: sum(one) > 1)
GROUPS = st.tuples(st.integers(1, 5), st.integers(1, 4))  # rows, world size


@pytest.fixture(scope="module")
def shards_of(
    data: DataConfig, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[list[int], str], bpetok.shards.Split]:
    """`shards_of(lengths, dtype)`: a document in files of these lengths; ids count up and so name their places."""
    whole = bpetok.shards.open(data.shards).manifest
    one = next(shard for shard in whole.shards if shard.split == "train")

    def write(lengths: list[int], dtype: str) -> bpetok.shards.Split:
        folder = tmp_path_factory.mktemp("shards")
        shards, first = [], FIRST[dtype]
        for number, length in enumerate(lengths):
            file = layout.bin_name("train", number)
            ids = np.arange(first, first + length).astype(np.dtype(dtype).newbyteorder("<"))
            (folder / file).write_bytes(layout.bin_header(dtype, length) + ids.tobytes())
            index = b"".join(layout.index_parts(dtype, np.array([length], np.int32)))
            (folder / layout.index_name(file)).write_bytes(index)
            numbers = {"tokens": length, "documents": int(number == 0), "continues": number > 0}
            shards.append(dataclasses.replace(one, file=file, **numbers))
            first += length
        manifest = dataclasses.replace(whole, dtype=dtype, vocab_size=first, shards=tuple(shards))
        (folder / MANIFEST).write_bytes(manifest.to_bytes())
        return bpetok.shards.open(folder).train

    return write


def targets_of(ranks: list[Batches], steps: int) -> Iterator[int]:
    """The targets of some steps of all processes, in order; ids that count up name the targets."""
    for _ in range(steps):
        for batches in ranks:
            inputs_BT, targets_BT = next(batches)
            real_BT = targets_BT != IGNORE
            assert torch.equal(inputs_BT[real_BT] + 1, targets_BT[real_BT])
            yield from targets_BT[real_BT].tolist()


def processes(split: object, group: tuple[int, int], context: int, seed: int) -> list[Batches]:
    rows, world_size = group
    settings = {"rows": rows, "context": context, "seed": seed, "world_size": world_size}
    return [Batches(split, rank=rank, **settings) for rank in range(world_size)]


def one_by_one(split: object, context: int, seed: int, blocks: int) -> list[int]:
    """The targets of the first blocks as a single process takes them, a row at a time: what all must agree with."""
    return list(targets_of(processes(split, (1, 1), context, seed), blocks))


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
@given(lengths=LENGTHS, group=GROUPS, context=st.integers(1, 40), epochs=st.integers(1, 3), seed=st.integers(0, 2**63))
@example(lengths=[1, 1], group=(1, 1), context=1, epochs=3, seed=0)
@example(lengths=[1] * 9, group=(2, 3), context=4, epochs=2, seed=0)
@example(lengths=[5, 1, 12], group=(4, 4), context=40, epochs=3, seed=1)
def test_every_target_comes_exactly_once_in_each_epoch_and_in_the_same_order_for_all_processes(
    shards_of: Callable[..., bpetok.shards.Split],
    dtype: str,
    lengths: list[int],
    group: tuple[int, int],
    context: int,
    epochs: int,
    seed: int,
) -> None:
    split = shards_of(lengths, dtype)
    rows, world_size = group
    steps = -(-count_blocks(split, context) * epochs // (rows * world_size))
    taken = list(targets_of(processes(split, group, context, seed), steps))
    targets = list(range(FIRST[dtype] + 1, FIRST[dtype] + sum(lengths)))
    for epoch in range(epochs):
        assert sorted(taken[epoch * len(targets) : (epoch + 1) * len(targets)]) == targets
    assert taken == one_by_one(split, context, seed, steps * rows * world_size)


@given(
    lengths=LENGTHS,
    context=st.integers(1, 20),
    parts=st.lists(st.tuples(GROUPS, st.integers(0, 5)), min_size=2, max_size=4),
)
def test_a_resumed_run_goes_on_with_the_very_next_block_at_any_batch_and_world_size(
    shards_of: Callable[..., bpetok.shards.Split],
    lengths: list[int],
    context: int,
    parts: list[tuple[tuple[int, int], int]],
) -> None:
    split = shards_of(lengths, "uint16")
    state = Batches(split, rows=1, context=context, seed=5).state()
    taken, blocks = [], 0
    for (rows, world_size), steps in parts:
        saved = json.loads(json.dumps(state))  # as a checkpoint keeps it
        settings = {"rows": rows, "context": context, "world_size": world_size}
        ranks = [Batches.from_state(split, saved, rank=rank, **settings) for rank in range(world_size)]
        taken += targets_of(ranks, steps)
        blocks += rows * world_size * steps
        state = ranks[0].state()
        assert all(batches.state() == state for batches in ranks), "any process may write the checkpoint"
    assert taken == one_by_one(split, context, 5, blocks)


def test_each_epoch_takes_the_blocks_in_an_order_of_its_own(
    shards_of: Callable[..., bpetok.shards.Split],
) -> None:
    split = shards_of([7, 100, 1, 50, 43], "uint16")
    taken = one_by_one(split, 4, 0, 4 * count_blocks(split, 4))
    epochs = [tuple(taken[first : first + 200]) for first in range(0, 800, 200)]
    assert len(set(epochs)) == 4
    assert all(sorted(epoch) == sorted(epochs[0]) != list(epoch) for epoch in epochs)


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
        ({"seed": -1}, r"seed must be in \[0, 2\^64\), got -1"),
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


# ---- documents -------------------------------------------------------------------------------------------------------

END = 3
ROWS = st.integers(1, 12).flatmap(
    lambda length: st.lists(st.lists(st.integers(0, END), min_size=length, max_size=length), min_size=1, max_size=3)
)
STANDS = st.sampled_from(["before", "after"])


def borders(row: list[int], stands: str) -> list[int]:
    """The places within a row at which a document begins that is not the first: the definition, id by id."""
    if stands == "before":
        return [place for place in range(1, len(row)) if row[place] == END]
    return [place for place in range(1, len(row)) if row[place - 1] == END]


@given(rows=ROWS, stands=STANDS)
def test_documents_and_their_mask_are_those_of_the_borders(rows: list[list[int]], stands: str) -> None:
    documents_BT = documents_of(torch.tensor(rows), end_of_text=END, stands=stands)
    mask_B1TT = document_mask(documents_BT)
    length = len(rows[0])
    assert documents_BT.shape == (len(rows), length) and documents_BT.dtype == torch.int64
    assert mask_B1TT.shape == (len(rows), 1, length, length) and mask_B1TT.dtype == torch.bool
    for row, documents, mask in zip(rows, documents_BT.tolist(), mask_B1TT[:, 0].tolist(), strict=True):
        cuts = borders(row, stands)
        assert documents == [sum(cut <= place for cut in cuts) for place in range(length)]
        for place in range(length):
            for other in range(length):
                reads = other <= place and not any(other < cut <= place for cut in cuts)
                assert mask[place][other] == reads, (place, other)


@pytest.mark.parametrize(
    ("stands", "row", "parts"),
    [
        ("before", [END, 0, 1, END, 2, END, END, 0], [(0, 3), (3, 5), (5, 6), (6, 8)]),
        ("before", [0, 1, END, 2, 2], [(0, 2), (2, 5)]),  # a block that begins within a document
        ("after", [0, 1, END, 2, END, END, 0, 1], [(0, 3), (3, 5), (5, 6), (6, 8)]),
        ("after", [END, 1, 2, END], [(0, 1), (1, 4)]),
        ("after", [1, 2], [(0, 2)]),
    ],
)
def test_with_the_mask_attention_to_a_row_is_attention_to_each_of_its_documents_alone(
    stands: str, row: list[int], parts: list[tuple[int, int]]
) -> None:
    torch.manual_seed(0)
    q_BHTD, k_BHTD, v_BHTD = torch.randn(3, 1, 2, len(row), 4)
    mask_B1TT = document_mask(documents_of(torch.tensor([row]), end_of_text=END, stands=stands))
    y_BHTD = F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, attn_mask=mask_B1TT)
    alone = [
        F.scaled_dot_product_attention(*(x_BHTD[:, :, a:b] for x_BHTD in (q_BHTD, k_BHTD, v_BHTD)), is_causal=True)
        for a, b in parts
    ]
    torch.testing.assert_close(y_BHTD, torch.cat(alone, dim=2))


def test_behind_the_end_of_the_text_no_position_changes_what_a_target_may_read(split_of: SplitOf) -> None:
    ids = [0, 5, 6, 0, 7]  # 0 is the end-of-text id and what a short block is filled up with
    ((inputs_BT, targets_BT),) = in_order(split_of(ids), rows=1, context=7, batches=1)
    mask_TT = document_mask(documents_of(inputs_BT, end_of_text=0, stands="before"))[0, 0]
    real = int((targets_BT != IGNORE).sum())
    expected = document_mask(documents_of(torch.tensor([ids[:-1]]), end_of_text=0, stands="before"))[0, 0]
    assert torch.equal(mask_TT[:real, :real], expected)
    assert not mask_TT[:real, real:].any()


def test_an_end_of_text_that_stands_elsewhere_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"batches: stands must be before or after, got 'between'"):
        documents_of(torch.tensor([[1]]), end_of_text=1, stands="between")


# ---- rows drawn with repetition, and rows that a split cuts itself ---------------------------------------------------


class Numbers:
    """A split of N rows that are their own numbers; it knows by itself how it is cut."""

    def __init__(self, count: int) -> None:
        self.count = self.tokens = count

    def cut(self, context: int) -> "Numbers":
        return self

    def stack(self, places: list[int], rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        ids_B1 = torch.tensor(list(places) + [IGNORE] * (rows - len(places)))[:, None]
        return ids_B1, ids_B1


def places_of(batches: Batches | Draws, steps: int) -> list[list[int]]:
    return [next(batches)[0].flatten().tolist() for _ in range(steps)]


@given(count=st.integers(1, 300), rows=st.integers(1, 40), seed=st.integers(0, 2**40), skipped=st.integers(0, 7))
def test_draws_are_the_numbers_that_randint_gives_where_the_generator_stands(
    count: int, rows: int, seed: int, skipped: int
) -> None:
    torch.manual_seed(seed)
    torch.randn(skipped)
    draws = Draws(Numbers(count), rows=rows, context=1)
    expected = [torch.randint(0, count, (rows,)).tolist() for _ in range(5)]
    assert places_of(draws, 5) == expected


def test_draws_leave_the_global_generator_alone_and_are_left_alone_by_it() -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    draws = Draws(Numbers(50), rows=4, context=1)
    first = places_of(draws, 2)
    assert torch.equal(torch.get_rng_state(), state)
    again = Draws(Numbers(50), rows=4, context=1)
    torch.randn(100)
    assert places_of(again, 2) == first and places_of(again, 2) == places_of(draws, 2) != first


@given(count=st.integers(1, 2**33), rows=st.integers(1, 40), made=st.integers(0, 30), seed=st.integers(0, 2**40))
@example(count=182_625, rows=32, made=30, seed=2147483647)
@example(count=2**33, rows=7, made=3, seed=1)  # more than 32 bits: each number takes two draws
def test_resumed_draws_go_on_with_the_very_next_batch(count: int, rows: int, made: int, seed: int) -> None:
    torch.manual_seed(seed)
    draws = Draws(Numbers(count), rows=rows, context=1)
    places_of(draws, made)
    saved = json.loads(json.dumps(draws.state()))
    torch.randn(3)
    torch.manual_seed(seed)  # as the building of the model leaves it
    resumed = Draws.from_state(Numbers(count), saved, rows=rows, context=1)
    assert resumed.state() == saved
    assert places_of(resumed, 4) == places_of(draws, 4)
    assert resumed.state() == draws.state()


def test_draws_are_even_and_miss_a_third_of_the_rows_in_an_epochs_worth() -> None:
    torch.manual_seed(1)
    places = [place for batch in places_of(Draws(Numbers(1000), rows=100, context=1), 100) for place in batch]
    # After n draws of n rows a share of 1/e = .368 was never drawn; four standard deviations are .04.
    assert len(set(places[:1000])) / 1000 == pytest.approx(1 - 0.368, abs=0.04)
    counts = Counter(place // 100 for place in places)
    assert all(abs(counts[tenth] - 1000) < 4 * 30 for tenth in range(10))


@pytest.mark.parametrize(("name", "value"), [("rows", 3), ("context", 2), ("tokens", 51), ("checksum", 7)])
def test_a_cursor_of_other_draws_is_refused(name: str, value: int) -> None:
    state = {**Draws(Numbers(50), rows=4, context=1).state(), name: value}
    with pytest.raises(IncompatibleError, match=rf"batches: {name} must be the saved {value}, got "):
        Draws.from_state(Numbers(50), state, rows=4, context=1)


def test_draws_of_no_rows_and_of_no_targets_are_refused(split_of: SplitOf) -> None:
    with pytest.raises(ConfigError, match=r"batches: rows must be at least 1, got 0"):
        Draws(Numbers(3), rows=0, context=1)
    with pytest.raises(DataError, match=r"split.tokens must be at least 2, got 1"):
        Draws(split_of([5]), rows=1, context=1)


def test_blocks_can_be_drawn_too(split_of: SplitOf) -> None:
    torch.manual_seed(0)
    draws = Draws(split_of(range(100, 111)), rows=30, context=4)
    inputs_BT, targets_BT = next(draws)
    rows = set(zip(map(tuple, inputs_BT.tolist()), map(tuple, targets_BT.tolist()), strict=True))
    assert rows == {
        ((100, 101, 102, 103), (101, 102, 103, 104)),
        ((104, 105, 106, 107), (105, 106, 107, 108)),
        ((108, 109, 0, 0), (109, 110, IGNORE, IGNORE)),
    }
    assert iter(draws) is draws


@given(count=st.integers(1, 30), group=GROUPS, seed=st.integers(0, 99))
def test_rows_that_a_split_cuts_itself_come_once_an_epoch_for_all_processes_together(
    count: int, group: tuple[int, int], seed: int
) -> None:
    rows, world_size = group
    ranks = processes(Numbers(count), group, 1, seed)
    steps = -(-2 * count // (rows * world_size))
    taken = [place for _ in range(steps) for rank in ranks for place in places_of(rank, 1)[0]]
    assert sorted(taken[:count]) == sorted(taken[count : 2 * count]) == list(range(count))


def test_rows_that_a_split_cuts_itself_come_in_order_and_the_last_batch_is_filled_up() -> None:
    batches = [inputs_B1.flatten().tolist() for inputs_B1, _ in in_order(Numbers(5), rows=2, context=1, batches=9)]
    assert batches == [[0, 1], [2, 3], [4, IGNORE]]
    assert len(list(in_order(Numbers(5), rows=2, context=1, batches=2))) == 2


DOCUMENTS = [[1, 2], [3], [4, 5, 6]]


@pytest.mark.parametrize(
    "other",
    [
        Lines(DOCUMENTS, separator=0),  # as many ids, and the same ones, in other rows
        Windows([[2, 1], *DOCUMENTS[1:]], window=3, separator=0),
        Windows(DOCUMENTS, window=2, separator=0),
    ],
    ids=["lines", "another text", "another window"],
)
@pytest.mark.parametrize("kind", [Batches, Draws])
def test_a_cursor_of_as_many_ids_of_another_text_is_refused(
    kind: type[Batches | Draws], other: Lines | Windows
) -> None:
    split = Windows(DOCUMENTS, window=3, separator=0)
    assert other.tokens == split.tokens
    state = Draws(split, rows=2, context=4).state() | {"seed": 0}
    assert kind.from_state(split, state, rows=2, context=4).state().items() <= state.items()
    with pytest.raises(IncompatibleError, match=r"batches: checksum must be the saved \d+, got \d+"):
        kind.from_state(other, state, rows=2, context=4)


def test_a_cursor_of_shards_from_before_there_were_checksums_still_holds(split_of: SplitOf) -> None:
    state = Batches(split_of(range(9)), rows=1, context=2, seed=4).state()
    assert state.pop("checksum") == 0
    assert Batches.from_state(split_of(range(9)), state, rows=1, context=2).state() == {**state, "checksum": 0}
