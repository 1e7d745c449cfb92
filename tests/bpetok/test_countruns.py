"""Runs: tables of counts on disk give what one table in memory gives."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bpetok
from bpetok import _core, countruns
from bpetok.countruns import Runs

TABLES = st.lists(st.dictionaries(st.binary(min_size=1, max_size=20), st.integers(1, 2**40), max_size=30), max_size=6)


def table_of(times):
    table = _core.PretokenCounts()
    for pretoken, count in times.items():
        table.add(pretoken, count)
    return table


def merged(runs, room):
    return [dict(part.items()) for part in runs.merged(room)]


@given(tables=TABLES, room=st.sampled_from([20_000, 40_000, 10**9]))
def test_runs_merge_to_the_sum_of_their_tables_in_parts_without_a_common_pretoken(tmp_path_factory, tables, room):
    with Runs(tmp_path_factory.getbasetemp()) as runs:
        for table in tables:
            runs.add(table_of(table).to_arrays())
        assert (len(runs), runs.entries) == (len(tables), sum(map(len, tables)))
        told = []
        parts = [dict(part.items()) for part in runs.merged(room, told.append)]
    whole = sum(map(Counter, tables), Counter())
    assert sum(map(len, parts)) == len(whole)
    assert {pretoken: count for part in parts for pretoken, count in part.items()} == whole
    assert sum(told) == sum(map(len, tables))


def test_little_room_makes_many_small_parts(tmp_path):
    table = {b"%d" % i: i for i in range(1, 5000)}
    with Runs(tmp_path) as runs:
        runs.add(table_of(table).to_arrays())
        runs.add(table_of(table).to_arrays())
        parts = merged(runs, 50_000)
        assert len(merged(runs, 10**9)) == 1
    assert len(parts) > 20 and max(map(len, parts)) < 400
    assert sum(map(len, parts)) == len(table)


def test_where_there_is_no_room_to_merge_that_is_said(tmp_path):
    with Runs(tmp_path) as runs:
        runs.add(table_of({b"word": 1}).to_arrays())
        with pytest.raises(bpetok.MemoryLimitError, match="memory to merge them must be at least 152 bytes, got 100"):
            list(runs.merged(100))


def test_pretokens_longer_than_a_block_are_merged_too(tmp_path):
    long = [b"a" * (countruns.BLOCK_BYTES + i) for i in (-1, 0, 1, 9)]
    table = {b"b": 1, long[0]: 2, b"c" * 90: 3, long[1]: 4, long[2]: 5, long[3]: 6, b"d": 7}
    with Runs(tmp_path) as runs:
        runs.add(table_of(table).to_arrays())
        runs.add(table_of(dict(reversed(table.items()))).to_arrays())
        (part,) = merged(runs, 10**9)
    assert part == {pretoken: 2 * count for pretoken, count in table.items()}


@pytest.mark.parametrize(
    "pretokens",
    [
        [b"%d" % i for i in range(40_000)],
        [b" %x" % (i * 0x9E3779B97F4A7C15 % 2**64) for i in range(40_000)],
        [b"https://example.org/articles/%d/index.html" % i for i in range(40_000)],
        [i.to_bytes(3, "little") for i in range(1, 40_001)],
        ["東京".encode() + bytes([i % 200 + 1, i // 200 + 1]) for i in range(40_000)],
    ],
)
def test_no_bucket_is_much_fuller_than_the_others(pretokens):
    sizes = np.array([0, *map(len, pretokens)])
    hashes = countruns.hashes_of(np.frombuffer(b"".join(pretokens), np.uint8), sizes.cumsum())
    assert len(np.unique(hashes)) == len(pretokens)
    here = np.bincount((hashes >> np.uint64(52)).astype(int), minlength=countruns.BUCKETS)
    assert here.max() < 4 * here.mean()


def test_a_pretoken_has_the_same_hash_wherever_it_stands():
    def hashes(pretokens):
        starts = np.array([0, *map(len, pretokens)]).cumsum()
        return countruns.hashes_of(np.frombuffer(b"".join(pretokens), np.uint8), starts).tolist()

    many = [b"x" * (i % 50 + 1) for i in range(30_000)]  # more than a block
    assert hashes([*many, b"word"])[-1] == hashes([b"word"])[0] == hashes([b"wo", b"word", b"rd"])[1]
    assert len(set(hashes(many))) == 50 == len({tuple(hashes(many)[i::50]) for i in range(50)})


def test_it_is_known_about_how_many_pretokens_are_new_in_a_run(tmp_path):
    tables = [table_of({b"%d" % i: 1 for i in range(first, first + 40_000)}) for first in (0, 0, 20_000, 100_000)]
    with Runs(tmp_path) as runs:
        new = [runs.add(table.to_arrays()) for table in tables]
    assert new[:2] == [40_000, 0]
    assert new[2] == pytest.approx(20_000, rel=0.3) and new[3] == 40_000


def test_counts_beyond_63_bits_are_refused(tmp_path):
    with Runs(tmp_path) as runs:
        runs.add(table_of({b"a": 2**62}).to_arrays())
        with pytest.raises(bpetok.DataError, match="the total must fit 64 bits"):
            runs.add(table_of({b"b": 2**62}).to_arrays())


def test_nothing_of_the_runs_can_be_seen_and_nothing_is_left(tmp_path):
    with Runs(tmp_path) as runs:
        runs.add(table_of({b"a": 1}).to_arrays())
        assert list(tmp_path.iterdir()) == []
