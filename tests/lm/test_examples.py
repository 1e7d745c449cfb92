import dataclasses
import os
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given
from hypothesis import strategies as st

from bpetok.errors import DataError
from lm.alphabet import Alphabet
from lm.batches import IGNORE, Batches, Cuttable, in_order
from lm.examples import Lines, LineSplit, Stream, Windows, split_lines, windows
from lm.models import LADDER
from lm.models.batchnorm import BatchNormMLPConfig
from lm.models.contract import PAD, LanguageModel, RungConfig
from lm.models.dilated import DilatedWaveNetConfig
from lm.models.mlp import MLPConfig
from lm.models.wavenet import WaveNetConfig

DOCUMENTS = st.lists(st.lists(st.integers(1, 5), max_size=9), min_size=1, max_size=8)
SEPARATORS = st.sampled_from([0, 6, 255])


def windows_by_loop(documents: list[list[int]], window: int, separator: int) -> list[tuple[list[int], int]]:
    """Each id with those before it, one after the other: the definition, as the lectures build their examples."""
    examples = []
    for document in documents:
        context = [0] * (window - 1) + [separator]
        for id_ in [*document, separator]:
            examples.append((context, id_))
            context = [*context[1:], id_]
    return examples


@pytest.fixture(scope="module")
def lines() -> list[str]:
    folder = os.environ.get("BPETOK_DATA")
    path = Path(folder or "", "names.txt")
    if not folder or not path.is_file():
        pytest.skip("BPETOK_DATA is not set to a folder with names.txt")
    return path.read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="module")
def names(lines: list[str]) -> LineSplit:
    return split_lines(lines)


# ---- the split -------------------------------------------------------------------------------------------------------


def test_the_split_of_the_names_is_the_lectures(lines: list[str], names: LineSplit) -> None:
    assert (len(names.train), len(names.val), len(names.test)) == (25_626, 3_203, 3_204)
    assert names.train[:3] == ["yuheng", "diondre", "xavien"]
    assert Counter(names.train + names.val + names.test) == Counter(lines)


@given(n=st.integers(0, 120), held_out=st.floats(0.01, 0.49))
def test_every_line_is_in_one_part_and_no_part_is_empty(n: int, held_out: float) -> None:
    lines = [str(number) for number in range(n)]
    try:
        split = split_lines(lines, held_out=held_out)
    except DataError:
        assert min(held_out, 1 - 2 * held_out) * n < 2, "enough lines must be taken"
        return
    parts = [split.train, split.val, split.test]
    assert sorted((line for part in parts for line in part), key=int) == lines and all(parts)
    assert all(abs(len(part) - held_out * n) <= 1 for part in parts[1:])


def test_the_order_of_the_lines_is_not_that_of_a_global_generator_and_leaves_it_alone() -> None:
    lines = [str(number) for number in range(50)]
    random.seed(1)
    state = random.getstate()
    first = split_lines(lines)
    assert random.getstate() == state and lines == [str(number) for number in range(50)]
    random.seed(2)
    assert split_lines(lines) == first


@pytest.mark.parametrize("n", [0, 1, 4])
def test_too_few_lines_are_refused(n: int) -> None:
    message = rf"examples: lines must be enough for three parts, got {n} with held_out = 0.1\nhint: 10 lines are enough"
    with pytest.raises(DataError, match=message):
        split_lines(["line"] * n)


# ---- windows ---------------------------------------------------------------------------------------------------------


@given(documents=DOCUMENTS, window=st.integers(1, 9), separator=SEPARATORS)
@example(documents=[[]], window=1, separator=6)
@example(documents=[[], [], [1], []], window=9, separator=0)
def test_windows_are_those_of_a_loop(documents: list[list[int]], window: int, separator: int) -> None:
    inputs_NW, targets_N = windows(documents, window, separator)
    assert inputs_NW.dtype == targets_N.dtype == torch.int64
    found = list(zip(inputs_NW.tolist(), targets_N.tolist(), strict=True))
    assert found == windows_by_loop(documents, window, separator)
    assert Windows(documents, window=window, separator=separator).tokens == len(found)


@pytest.mark.parametrize("window", [3, 8])
def test_the_windows_of_the_names_are_the_lectures(names: LineSplit, window: int) -> None:
    alphabet = Alphabet.of_text("".join(names.train), newline_first=True)
    for part, count in ((names.train, 182_625), (names.val, 22_655), (names.test, 22_866)):
        inputs_NW, targets_N = windows([alphabet.encode_ordinary(name) for name in part], window, 0)
        # The lecture's own numbering, not the alphabet's: 0 for the end, then a to z.
        by_loop = windows_by_loop([[ord(letter) - ord("a") + 1 for letter in name] for name in part], window, 0)
        contexts, targets = zip(*by_loop, strict=True)
        assert len(targets_N) == count
        assert torch.equal(inputs_NW, torch.tensor(contexts)) and torch.equal(targets_N, torch.tensor(targets))


def test_windows_share_no_memory_that_a_change_could_spread_in() -> None:
    inputs_NW, targets_N = windows([[1, 2, 3]], 3, 0)
    inputs_NW[1] = 9
    assert inputs_NW.tolist() == [[0, 0, 0], [9, 9, 9], [0, 1, 2], [1, 2, 3]] and targets_N.tolist() == [1, 2, 3, 0]


def test_a_batch_of_windows_is_filled_up_with_rows_of_no_target() -> None:
    split = Windows([[1, 2]], window=2, separator=0)
    assert isinstance(split, Cuttable) and split.cut(99) is split
    inputs_BW, targets_B1 = split.stack([2, 0], 3)
    assert inputs_BW.tolist() == [[1, 2], [0, 0], [PAD, PAD]]
    assert targets_B1.tolist() == [[0], [1], [IGNORE]]
    batches = [targets_B1.tolist() for _, targets_B1 in in_order(split, rows=2, context=99, batches=9)]
    assert batches == [[[1], [2]], [[0], [IGNORE]]]


# ---- lines -----------------------------------------------------------------------------------------------------------


@given(documents=DOCUMENTS, separator=SEPARATORS, more=st.integers(0, 3))
def test_a_row_of_lines_is_the_separator_and_the_line_to_the_line_and_the_separator(
    documents: list[list[int]], separator: int, more: int
) -> None:
    context = max(map(len, documents)) + 1 + more
    split = Lines(documents, separator=separator)
    rows = split.cut(context)
    assert rows.count == split.count == len(documents)
    places = [*range(len(documents))][::-1]
    inputs_BT, targets_BT = rows.stack(places, len(documents) + 1)
    assert inputs_BT.dtype == targets_BT.dtype == torch.int64
    assert inputs_BT.shape == targets_BT.shape == (len(documents) + 1, context)
    for row, place in enumerate(places):
        ids, rest = documents[place], context - len(documents[place]) - 1
        assert inputs_BT[row].tolist() == [separator, *ids] + [PAD] * rest
        assert targets_BT[row].tolist() == [*ids, separator] + [IGNORE] * rest
    assert targets_BT[-1].tolist() == [IGNORE] * context


@given(documents=DOCUMENTS, rows=st.integers(1, 5), seed=st.integers(0, 99), kind=st.sampled_from(["lines", "windows"]))
def test_every_id_and_every_end_comes_exactly_once_an_epoch(
    documents: list[list[int]], rows: int, seed: int, kind: str
) -> None:
    split: Lines | Windows = Lines(documents, separator=0)
    if kind == "windows":
        split = Windows(documents, window=3, separator=0)
    targets = Counter(id_ for document in documents for id_ in [*document, 0])
    assert split.tokens == targets.total()
    batches = Batches(split, rows=rows, context=10, seed=seed)
    taken = [row for _ in range(2 * split.count) for row in next(batches)[1].tolist()]
    for epoch in range(2):
        of_epoch = taken[epoch * split.count : (epoch + 1) * split.count]
        assert Counter(id_ for row in of_epoch for id_ in row if id_ != IGNORE) == targets


def test_a_line_that_does_not_fit_is_refused_with_the_context_that_it_needs() -> None:
    split = Lines([[1], [1, 2, 3], [2]], separator=0)
    message = r"examples: a line must fit the context of 3 with its end, got one of 3 ids\nhint: --set model.context=4"
    with pytest.raises(DataError, match=message):
        split.cut(3)
    assert split.cut(4).count == 3


# ---- a stream --------------------------------------------------------------------------------------------------------


def test_a_stream_is_cut_in_blocks() -> None:
    split = Stream(np.arange(6, dtype=np.uint32))
    assert split.tokens == 6 and split.read(2, 4).tolist() == [2, 3] and not isinstance(split, Cuttable)
    ((inputs_BT, targets_BT),) = in_order(split, rows=2, context=3, batches=1)
    assert inputs_BT.tolist() == [[0, 1, 2], [3, 4, 0]] and targets_BT.tolist() == [[1, 2, 3], [4, 5, IGNORE]]


# ---- by what a cursor knows its split --------------------------------------------------------------------------------


def test_checksums_differ_where_ids_their_order_or_their_borders_do() -> None:
    documents = [[[1, 2], [3]], [[1], [2, 3]], [[3], [1, 2]], [[2, 1], [3]], [[1, 2, 3]], [[1, 2], [3], []]]
    separated = [Lines(one, separator=0) for one in documents] + [Lines(documents[0], separator=6)]
    windowed = [Windows(one, window=3, separator=0) for one in documents] + [
        Windows(documents[0], window=2, separator=0),
        Windows(documents[0], window=3, separator=6),
    ]
    streams = [Stream(np.array(ids, dtype=np.uint32)) for ids in ([0, 1, 2, 3], [0, 2, 1, 3], [1, 2, 3])]
    splits = [*separated, *windowed, *streams]
    assert len({split.checksum for split in splits}) == len(splits)
    assert Lines(documents[0], separator=0).checksum == separated[0].checksum


# ---- windows and lines are the same text -----------------------------------------------------------------------------

RUNGS: dict[str, RungConfig] = {
    "mlp": MLPConfig(context=10, window=3, embedding=4, hidden=16, init="kaiming"),
    "batchnorm": BatchNormMLPConfig(context=10, window=3, embedding=4, hidden=16),
    "wavenet": WaveNetConfig(context=10, levels=2, embedding=4, hidden=16),
    "dilated": DilatedWaveNetConfig(context=10, levels=2, embedding=4, hidden=16),
}


def trained_a_little(rung: str, config: RungConfig, vocab_size: int) -> LanguageModel:
    """With running means that are not those of the start, and logits that differ from place to place."""
    torch.manual_seed(1)
    model = LADDER[rung].build(config, vocab_size)
    with torch.no_grad():
        for _ in range(3):
            model(torch.randint(vocab_size, (16, 10)))
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model.eval()


@pytest.mark.parametrize("separator", [0, 6])
@pytest.mark.parametrize("window", [1, 3, 4])
@pytest.mark.parametrize("rung", RUNGS)
def test_a_text_has_the_same_losses_as_lines_and_as_windows(rung: str, window: int, separator: int) -> None:
    config = RUNGS[rung]
    if rung in ("mlp", "batchnorm"):
        config = dataclasses.replace(config, window=window)
    elif window != 4:
        config = dataclasses.replace(config, levels=window)
    model = trained_a_little(rung, config, vocab_size=7)
    draw = random.Random(3)
    documents = [[draw.randint(1, 5) for _ in range(draw.randint(0, 9))] for _ in range(40)]
    with torch.no_grad():
        rows_BT, targets_BT = Lines(documents, separator=separator).cut(10).stack(range(40), 40)
        losses_BT = F.cross_entropy(model(rows_BT).flatten(0, 1), targets_BT.flatten(), reduction="none")
        by_lines = losses_BT[targets_BT.flatten() != IGNORE]
        split = Windows(documents, window=model.window, separator=separator)
        by_windows = F.cross_entropy(model.next_logits(split.inputs_NW), split.targets_N, reduction="none")
    torch.testing.assert_close(by_lines, by_windows, rtol=0, atol=2e-6)
    assert by_lines.std() > 0.1, "else this test would show little"
