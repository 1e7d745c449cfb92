"""Batches: a split of token ids in a seeded order, every target exactly once an epoch, resumable.

The stream of N ids has N - 1 targets (every id but the first). They are cut in blocks of T targets; the last
block may be short and is filled up with targets of `IGNORE`. Each epoch has its own permutation of the
blocks, and batches take consecutive blocks of the endless sequence epoch 0, epoch 1, ..., across the edges.
So no batch size, context or number of processes loses or repeats a target, and the order of the data depends
on none of them but the context.

With several processes a step takes `world_size * rows` consecutive blocks and process `rank` the rank-th
`rows` of them; the cursor counts blocks of all processes, so a run may go on with another number of them.

A block knows nothing of documents: several may lie in it, and it may begin and end within one. Whoever wants
attention to stay within a document hands `documents_of(inputs_BT, ...)` to the model.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, Self, final, get_args, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bpetok.errors import DataError, IncompatibleError
from bpetok.shards.manifest import EndOfText
from lm.errors import require

IGNORE = -100
"""The target that is none: torch's own `ignore_index`."""


class TokenSplit(Protocol):
    """What batches read from; `bpetok.shards.Split` is one."""

    @property
    def tokens(self) -> int:
        """N, the number of ids."""

    def read(self, start: int, stop: int) -> NDArray[np.unsignedinteger]:
        """The ids [start, stop)."""


class Cut(Protocol):
    """What a split has been cut into: rows with their targets, each one to be learnt from once an epoch."""

    @property
    def count(self) -> int:
        """How many rows there are."""

    def stack(self, places: Sequence[int], rows: int) -> tuple[Tensor, Tensor]:
        """`(inputs_BT, targets_BT)` of the rows at some places, filled up to `rows` with rows of no target."""


@runtime_checkable
class Cuttable(Protocol):
    """A split that knows its own rows, such as the windows or the lines of `lm.examples`."""

    @property
    def tokens(self) -> int:
        """N, the number of ids."""

    def cut(self, context: int) -> Cut:
        """Its rows, for a model of that context."""


AnySplit = TokenSplit | Cuttable


@final
class Batches:
    """An endless iterator of `(inputs_BT, targets_BT)`, int64 on the CPU.

    A target is the id after its input, or `IGNORE` where the text has ended.

    Args:
        split: the ids.
        rows: B.
        context: T.
        seed: of the order of the blocks.
        position: blocks already taken, by all processes together.
        rank: which of the processes this is, in [0, world_size).
        world_size: the number of processes.

    Raises:
        DataError: if the split has fewer than two ids.
        ConfigError: if a number is out of its range.

    Cost: the order of an epoch takes 16 bytes of memory a block, held for one epoch.
    """

    def __init__(
        self,
        split: AnySplit,
        *,
        rows: int,
        context: int,
        seed: int,
        position: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Reads nothing yet."""
        require(rows >= 1, "batches: rows", "at least 1", rows)
        require(0 <= seed < 1 << 64, "batches: seed", "in [0, 2^64)", seed)
        require(position >= 0, "batches: position", "at least 0", position)
        require(0 <= rank < world_size, "batches: rank", f"in [0, {world_size})", rank)
        self._cut = cut(split, context)
        self.blocks = self._cut.count
        self._tokens = split.tokens
        self._checksum = checksum(split)
        self._rows = rows
        self._context = context
        self._seed = seed
        self._position = position
        self._rank = rank
        self._world_size = world_size
        self._epoch = -1
        self._order: NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def __iter__(self) -> Self:
        """Itself."""
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        """This process's rows of the next step."""
        first = self._position + self._rank * self._rows
        blocks = [self._block_at(place) for place in range(first, first + self._rows)]
        self._position += self._rows * self._world_size
        return self._cut.stack(blocks, self._rows)

    def _block_at(self, place: int) -> int:
        epoch, index = divmod(place, self.blocks)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, shuffled(self.blocks, self._seed, epoch)
        return int(self._order[index])

    def state(self) -> dict[str, int]:
        """The cursor, for a checkpoint; `from_state` goes on from it with the very next block."""
        names = ("seed", "position", "context", "tokens", "checksum")
        return {name: getattr(self, f"_{name}") for name in names}

    @classmethod
    def from_state(
        cls,
        split: AnySplit,
        state: Mapping[str, int],
        *,
        rows: int,
        context: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> Self:
        """Batches that go on where `state` was taken; rows and world size may be others.

        Raises:
            IncompatibleError: if the split or the context is not the one the cursor counts in.
        """
        require_same_split(state, context=context, tokens=split.tokens, checksum=checksum(split))
        return cls(
            split,
            rows=rows,
            context=context,
            seed=state["seed"],
            position=state["position"],
            rank=rank,
            world_size=world_size,
        )


def checksum(split: AnySplit) -> int:
    """What a cursor knows its split by: the split's own checksum, where it has one, else 0.

    A text and its rows are cut anew from the file at each resume; of shards it is that of their files' digests.
    """
    found: int = getattr(split, "checksum", 0)
    return found


def require_same_split(state: Mapping[str, int], **now: int) -> None:
    """Nothing, where a saved cursor counts in the same split.

    Raises:
        IncompatibleError: if one of the figures is another one.
    """
    saved = {"checksum": 0, **state}  # a cursor of shards from before there were checksums
    for name, value in now.items():
        if saved.get(name) != value:
            raise IncompatibleError(
                f"batches: {name} must be the saved {saved.get(name)}, got {value}",
                hint="resume on the data and with the context that the run began with",
            )


@final
class Draws:
    """An endless iterator of `(inputs_BT, targets_BT)` whose rows are drawn one by one, with repetition.

    The rows are those that epochs would take: windows and lines, or blocks, which begin at multiples of T only.

    It is how the lectures take their minibatches: after one epoch's worth a third of the rows (1/e) was not seen yet.
    The draws go on where torch's global generator stands when it is made, on a copy of it; so after
    `torch.manual_seed` and the building of a model they are the lectures' own.

    Args:
        split: the ids.
        rows: B.
        context: T.
        position: batches already taken, by all processes together.
        rank: which of the processes this is, in [0, world_size); all draw the same and take every world_size-th.
        world_size: the number of processes.
    """

    def __init__(
        self, split: AnySplit, *, rows: int, context: int, position: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        """Reads nothing yet."""
        require(rows >= 1, "batches: rows", "at least 1", rows)
        require(0 <= rank < world_size, "batches: rank", f"in [0, {world_size})", rank)
        self._cut = cut(split, context)
        self._rows = rows
        self._context = context
        self._tokens = split.tokens
        self._checksum = checksum(split)
        self._position = position
        self._rank = rank
        self._world_size = world_size
        self._generator = torch.Generator()
        self._generator.set_state(torch.get_rng_state())
        for _ in range(position):  # the draws that were made before; 200,000 take a second
            self._places()

    def __iter__(self) -> Self:
        """Itself."""
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        """The next rows."""
        self._position += self._world_size
        drawn = [self._places() for _ in range(self._world_size)]
        return self._cut.stack(drawn[self._rank].tolist(), self._rows)

    def _places(self) -> Tensor:
        return torch.randint(self._cut.count, (self._rows,), generator=self._generator)

    def state(self) -> dict[str, int]:
        """The cursor, for a checkpoint."""
        names = ("position", "rows", "context", "tokens", "checksum")
        return {name: getattr(self, f"_{name}") for name in names}

    @classmethod
    def from_state(
        cls,
        split: AnySplit,
        state: Mapping[str, int],
        *,
        rows: int,
        context: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> Self:
        """Draws that go on where `state` was taken; torch's global generator must stand where it stood for the first.

        Raises:
            IncompatibleError: if the split, the context or the rows are not those that the cursor counts in.
        """
        require_same_split(state, rows=rows, context=context, tokens=split.tokens, checksum=checksum(split))
        position = state["position"]
        return cls(split, rows=rows, context=context, position=position, rank=rank, world_size=world_size)


def cut(split: AnySplit, context: int) -> Cut:
    """The rows of a split: its own, or blocks of `context` targets.

    Raises:
        DataError: if the split has fewer than two ids.
    """
    return split.cut(context) if isinstance(split, Cuttable) else _Blocks(split, context)


@final
class _Blocks:
    """A stream of ids, cut in blocks of T targets."""

    def __init__(self, split: TokenSplit, context: int) -> None:
        self.count = count_blocks(split, context)
        self._split = split
        self._context = context

    def stack(self, places: Sequence[int], rows: int) -> tuple[Tensor, Tensor]:
        inputs_BT = np.zeros((rows, self._context), dtype=np.int64)
        targets_BT = np.full((rows, self._context), IGNORE, dtype=np.int64)
        for row, block in enumerate(places):
            start = block * self._context
            ids = self._split.read(start, min(start + self._context + 1, self._split.tokens))
            inputs_BT[row, : len(ids) - 1] = ids[:-1]
            targets_BT[row, : len(ids) - 1] = ids[1:]
        return torch.from_numpy(inputs_BT), torch.from_numpy(targets_BT)


def count_blocks(split: TokenSplit, context: int) -> int:
    """The number of blocks of `context` targets in a split; the last one may be short.

    Raises:
        DataError: if the split has fewer than two ids, so no target.
    """
    require(context >= 1, "batches: context", "at least 1", context)
    if split.tokens < 2:
        raise DataError(
            f"batches: split.tokens must be at least 2, got {split.tokens}",
            hint="one id has no next id to predict; shard a longer text, or a larger val_fraction",
        )
    return -(-(split.tokens - 1) // context)


def in_order(split: AnySplit, *, rows: int, context: int, batches: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The first batches of a split in the order of the text; stops early where it ends.

    Yields:
        `(inputs_BT, targets_BT)` as `Batches` does; rows that the last batch lacks are all `IGNORE`.
    """
    rows_of = cut(split, context)
    for first in range(0, min(rows_of.count, rows * batches), rows):
        yield rows_of.stack(range(first, min(first + rows, rows_of.count)), rows)


def documents_of(inputs_BT: Tensor, *, end_of_text: int, stands: EndOfText) -> Tensor:
    """documents_BT, int64: which document of its row each position belongs to, 0 for the first.

    The end-of-text id belongs to the document that it opens ("before") or closes ("after"). Where the
    tokenizer was told to let text become this id, there is a border in the middle of that text, too.

    The targets stay as they are. With "before", the target behind a document's last id is the end-of-text id:
    that the document ends is learnt like anything else; and its first id is predicted from the end-of-text id
    alone. With "after", the closing id still reads its document, and its target is the first id of the next
    one: one target a document depends on the document before it.

    The positions behind the end of a short block hold id 0 and have no target. They may count as documents
    of their own, where 0 is the end-of-text id; nothing that has a target can read them.

    Args:
        inputs_BT: ids, on any device; the result is there, too.
        end_of_text: the id; `shards.manifest.end_of_text`.
        stands: where it stands; `shards.manifest.end_of_text_stands`.

    Raises:
        ConfigError: if `stands` is neither "before" nor "after".

    >>> row = torch.tensor([[9, 1, 2, 9, 3]])
    >>> documents_of(row, end_of_text=9, stands="before").tolist()
    [[0, 0, 0, 1, 1]]
    >>> documents_of(row, end_of_text=9, stands="after").tolist()
    [[0, 1, 1, 1, 2]]
    """
    require(stands in get_args(EndOfText), "batches: stands", "before or after", stands)
    ends_BT = (inputs_BT == end_of_text).long()
    seen_BT = ends_BT.cumsum(dim=1)
    return seen_BT - (ends_BT[:, :1] if stands == "before" else ends_BT)


def shuffled(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """A permutation of range(count) that `(seed, epoch)` determines, on every machine and with every numpy.

    Each index gets a 64-bit key from SplitMix64, and the keys are sorted. The mix is one-to-one, so no two
    are equal and the order does not depend on the sorting algorithm. numpy's own permutations may change
    between versions, and a resumed run must not.

    >>> shuffled(5, seed=1, epoch=0).tolist(), shuffled(5, seed=1, epoch=1).tolist()
    ([3, 2, 4, 1, 0], [1, 2, 0, 4, 3])

    Source: Vigna, splitmix64.c (prng.di.unimi.it), after Steele, Lea, Flood, *Fast splittable pseudorandom
    number generators* (2014).
    """
    start = _mix(np.array([seed], dtype=np.uint64))
    start = _mix(start + np.array([epoch], dtype=np.uint64))
    places: NDArray[np.uint64] = np.arange(count, dtype=np.uint64)
    keys = _mix(start + places)
    return np.argsort(keys).astype(np.int64, copy=False)


def mixed(seed: int, place: int) -> int:
    """A number in [0, 2^63) that looks random, the same for the same two numbers on every machine.

    >>> mixed(1337, 0) != mixed(1337, 1) != mixed(1338, 0)
    True
    """
    start = _mix(np.array([seed], dtype=np.uint64))
    return int(_mix(start + np.uint64(place))[0] >> np.uint64(1))


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
