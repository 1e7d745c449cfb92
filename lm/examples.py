"""The lectures' data path: lines of text to training rows, their splits and their contexts.

A document is a list of ids that does not hold the separator; the separator stands before it and behind it, and no
document sees another. Both ways of making rows of it give each id the same left context, and so the same loss:

    Windows   each id to predict with the W ids before it (makemore parts 2 to 5): inputs_NW, targets_N1
    Lines     each document as one row (makemore.py): inputs_BT, targets_BT

    e m m a .      Windows of 3:  ... -> e   ..e -> m   .em -> m   emm -> a   mma -> .
                   Lines:         . e m m a  ->  e m m a .

Source: Karpathy, *Neural Networks: Zero to Hero*, makemore (`build_dataset`, the split by `random.seed(42)`).
"""

import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bpetok.errors import DataError
from lm.batches import IGNORE
from lm.models.contract import PAD

SPLIT_SEED = 42
"""The lectures' seed of the order of the lines."""

Documents = Sequence[Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class LineSplit:
    """Lines in three parts that share none."""

    train: list[str]
    val: list[str]
    test: list[str]


def split_lines(lines: Sequence[str], *, held_out: float = 0.1) -> LineSplit:
    """The lines in the lectures' order, cut in training, validation and test.

    Args:
        lines: the documents; empty ones must have been taken out.
        held_out: the share of the validation lines, and again of the test lines, in (0, .5).

    Raises:
        DataError: if a part would be empty.

    >>> split = split_lines([str(n) for n in range(10)])
    >>> split.train, split.val, split.test
    (['7', '3', '2', '8', '5', '6', '9', '4'], ['0'], ['1'])
    """
    order = list(lines)
    random.Random(SPLIT_SEED).shuffle(order)
    first, second = int((1 - 2 * held_out) * len(order)), int((1 - held_out) * len(order))
    parts = LineSplit(train=order[:first], val=order[first:second], test=order[second:])
    if not (parts.train and parts.val and parts.test):
        message = f"examples: lines must be enough for three parts, got {len(order)} with held_out = {held_out}"
        raise DataError(message, hint="10 lines are enough for 0.1; or train on the text as a whole")
    return parts


def windows(documents: Documents, window: int, separator: int) -> tuple[Tensor, Tensor]:
    """Every id of the documents and every end, each with the W ids before it.

    Args:
        documents: lists of ids.
        window: W.
        separator: the id before and behind each document.

    Returns:
        (inputs_NW, targets_N), int64; a window that reaches back behind its document's beginning has one separator
        and before it `PAD`.

    Cost: 8 * (W + 1) bytes an id.

    >>> inputs_NW, targets_N = windows([[5, 13]], window=3, separator=0)
    >>> inputs_NW.tolist(), targets_N.tolist()
    ([[0, 0, 0], [0, 0, 5], [0, 5, 13]], [5, 13, 0])
    """
    # One stream of [PAD] * (W - 1), separator, ids, ... in which every window of a document is a slice.
    lead = np.full(window, PAD, dtype=np.int64)
    lead[-1] = separator
    stream = np.concatenate([part for ids in documents for part in (lead, np.asarray(ids, dtype=np.int64))] + [lead])
    # Behind the last id of a document the next lead begins, and its target is the separator itself.
    lengths = np.array([len(ids) for ids in documents], dtype=np.int64)
    starts = np.cumsum(lengths + window) - lengths - window
    counts = lengths + 1
    first = np.repeat(starts - (np.cumsum(counts) - counts), counts)
    places = first + np.arange(int(counts.sum()))
    targets = stream[np.minimum(places + window, len(stream) - 1)]
    targets[np.cumsum(counts) - 1] = separator
    inputs = np.lib.stride_tricks.sliding_window_view(stream, window)[places]
    return torch.from_numpy(inputs), torch.from_numpy(targets)


@final
class Windows:
    """A split as windows of W ids with one target each.

    Args:
        documents: lists of ids.
        window: W, the model's.
        separator: the id before and behind each document.
        open_end: the last document does not end, so that its last id is the last target: it was cut off there.
    """

    def __init__(self, documents: Documents, *, window: int, separator: int, open_end: bool = False) -> None:
        """Cuts them all, so that a batch is one gather."""
        self.inputs_NW, self.targets_N = windows(documents, window, separator)
        if open_end:
            self.inputs_NW, self.targets_N = self.inputs_NW[:-1], self.targets_N[:-1]

    @property
    def tokens(self) -> int:
        """The ids to predict, ends included."""
        return len(self.targets_N)

    @property
    def count(self) -> int:
        """N, the number of windows."""
        return len(self.targets_N)

    @property
    def checksum(self) -> int:
        """Of all windows and targets."""
        return zlib.crc32(self.targets_N.numpy().data, zlib.crc32(self.inputs_NW.numpy().data))

    def cut(self, context: int) -> "Windows":
        """Itself: its rows are as long as the model's window."""
        return self

    def stack(self, places: Sequence[int], rows: int) -> tuple[Tensor, Tensor]:
        """`(inputs_BW, targets_B1)` of the windows at some places."""
        index = torch.tensor(places)
        inputs_BW, targets_B1 = self.inputs_NW[index], self.targets_N[index, None]
        if missing := rows - len(index):
            inputs_BW = torch.cat([inputs_BW, inputs_BW.new_full((missing, inputs_BW.shape[1]), PAD)])
            targets_B1 = torch.cat([targets_B1, targets_B1.new_full((missing, 1), IGNORE)])
        return inputs_BW, targets_B1


@final
class Lines:
    """A split whose rows are its documents: separator and ids, and as targets ids and separator.

    Args:
        documents: lists of ids.
        separator: the id before and behind each document.
    """

    def __init__(self, documents: Documents, *, separator: int) -> None:
        """Keeps the documents."""
        self._documents = [np.asarray(ids, dtype=np.int64) for ids in documents]
        self._separator = separator

    @property
    def tokens(self) -> int:
        """The ids to predict, ends included."""
        return sum(len(ids) + 1 for ids in self._documents)

    @property
    def count(self) -> int:
        """The number of documents."""
        return len(self._documents)

    @property
    def checksum(self) -> int:
        """Of all documents, and of where they end."""
        end = np.array([self._separator], dtype=np.int64)
        return zlib.crc32(np.concatenate([part for ids in self._documents for part in (ids, end)]).data)

    def cut(self, context: int) -> "_Rows":
        """Its rows, each `context` long.

        Raises:
            DataError: if a document does not fit.
        """
        longest = max(len(ids) for ids in self._documents)
        if longest + 1 > context:
            raise DataError(
                f"examples: a line must fit the context of {context} with its end, got one of {longest} ids",
                hint=f"--set model.context={longest + 1}",
            )
        return _Rows(self._documents, self._separator, context)


@final
@dataclass(frozen=True)
class _Rows:
    documents: list[NDArray[np.int64]]
    separator: int
    context: int

    @property
    def count(self) -> int:
        return len(self.documents)

    def stack(self, places: Sequence[int], rows: int) -> tuple[Tensor, Tensor]:
        inputs_BT = np.full((rows, self.context), PAD, dtype=np.int64)
        targets_BT = np.full((rows, self.context), IGNORE, dtype=np.int64)
        for row, place in enumerate(places):
            ids = self.documents[place]
            inputs_BT[row, 0] = self.separator
            inputs_BT[row, 1 : len(ids) + 1] = ids
            targets_BT[row, : len(ids)] = ids
            targets_BT[row, len(ids)] = self.separator
        return torch.from_numpy(inputs_BT), torch.from_numpy(targets_BT)


@final
@dataclass(frozen=True)
class Stream:
    """A split of one run of ids in memory; batches cut it in blocks (`lm.batches.TokenSplit`)."""

    ids: NDArray[np.uint32]

    @property
    def tokens(self) -> int:
        """N, the number of ids."""
        return len(self.ids)

    @property
    def checksum(self) -> int:
        """Of all ids."""
        return zlib.crc32(self.ids.data)

    def read(self, start: int, stop: int) -> NDArray[np.uint32]:
        """The ids [start, stop)."""
        return self.ids[start:stop]
