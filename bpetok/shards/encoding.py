"""What a worker does: documents to the ids of their splits.

The result of a piece of the sources depends on that piece alone, so pieces may be encoded in any order, by any number
of workers, on any machine, and put together in theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bpetok._core import lay_out, xxh64
from bpetok.shards.layout import SPLITS, dtype_for
from bpetok.shards.manifest import EndOfText
from bpetok.sources.survey import ByHash, Rule
from bpetok.sources.units import HEAD_BYTES, Batch, UnitGroup

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bpetok.tokenizer import Tokenizer

Room = Callable[[str, int], "NDArray[Any]"]
_BEFORE, _AFTER = 1, 2  # see documents.h


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides the ids of documents. Pickles, so that workers can have it.

    Attributes:
        tokenizer: encodes.
        end_of_text: the id that stands before or after each document.
        stands: which of both.
        rule: which documents validate.
        allowed_special: the special tokens that become their id where the text holds them.
    """

    tokenizer: Tokenizer
    end_of_text: int
    stands: EndOfText
    rule: Rule
    allowed_special: frozenset[str] = frozenset()

    @property
    def dtype(self) -> str:
        """The type of the ids."""
        return dtype_for(self.tokenizer.n_vocab)


@dataclass(slots=True)
class EncodedSplit:
    """The ids of documents, one behind the other.

    Attributes:
        ids: the ids, end-of-text ids included, shape (ids,).
        lengths: how many of them each document has, int64, shape (documents,).
        continues: whether the first of them goes on with the last document of what was encoded before.
        text_bytes: how many bytes of text they stand for.
    """

    ids: NDArray[np.unsignedinteger[Any]]
    lengths: NDArray[np.int64]
    continues: bool
    text_bytes: int


@dataclass(slots=True)
class Encoded:
    """What became of a piece of the sources: the ids of each split, and the rows that were left out."""

    splits: dict[str, EncodedSplit]
    skipped: list[str]


@dataclass(slots=True)
class _Texts:
    """Texts of one split that are to be encoded, and whether each begins and ends its document."""

    texts: list[bytes] = field(default_factory=list)
    begins: list[bool] = field(default_factory=list)
    ends: list[bool] = field(default_factory=list)

    def add(self, text: bytes, begins: bool, ends: bool) -> None:
        self.texts.append(text)
        self.begins.append(begins)
        self.ends.append(ends)


def new_room(dtype: str, count: int) -> NDArray[np.unsignedinteger[Any]]:
    """An array for so many ids."""
    import numpy as np

    return np.empty(count, dtype)


def encode_group(recipe: Recipe, group: UnitGroup, room: Room = new_room) -> Encoded:
    """The ids of a piece of the sources; `room` gives the arrays for them, of a type and a length.

    Raises:
        DataError: a row is no document, unless those are left out.
        OSError: a source cannot be read.
    """
    texts = {name: _Texts() for name in SPLITS}
    skipped: list[str] = []
    for unit in group.units:
        batch = unit.read()
        skipped += batch.skipped
        for name, text, begins, ends in _split(recipe.rule, batch):
            texts[name].add(text, begins, ends)
    return Encoded({name: _encode(recipe, one, room) for name, one in texts.items() if one.texts}, skipped)


def encode_here(recipe: Recipe, groups: Iterable[UnitGroup]) -> Iterator[tuple[UnitGroup, Encoded]]:
    """The groups and what became of them, encoded in this process."""
    for group in groups:
        yield group, encode_group(recipe, group)


def _split(rule: Rule, batch: Batch) -> Iterator[tuple[str, bytes, bool, bool]]:
    """Each text with its split, and whether it begins and ends its document there."""
    last = len(batch.texts) - 1
    for i, text in enumerate(batch.texts):
        begins, ends = batch.begins or i > 0, batch.ends or i < last
        if isinstance(rule, ByHash):
            head = batch.head if i == 0 and batch.head else text
            yield _by_hash(rule, head), text, begins, ends
            continue
        offset = batch.offset if i == 0 else 0
        cut = _first_to_validate(rule.source, rule.position, rule.offset, batch.source, batch.positions[i], offset)
        if cut is None or cut >= len(text):
            # The document's training part ends where the border is, wherever the text is cut to be read.
            yield "train", text, begins, ends or cut == len(text)
        elif cut <= 0:
            yield "val", text, begins or cut == 0, ends
        else:
            yield "train", text[:cut], begins, True
            yield "val", text[cut:], True, ends


def _by_hash(rule: ByHash, head: bytes) -> str:
    return "val" if rule.limit and xxh64(head[:HEAD_BYTES]) < rule.limit else "train"


def _first_to_validate(
    source: int, position: int, border: int, of_source: int, of_position: int, offset: int
) -> int | None:
    """Where in a text that begins at `offset` of its document validation begins; None for nowhere in the document.

    Below 0: the document validates from before this text on. 0 in a text that does not begin its document makes it
    begin one in the validation split.
    """
    if (of_source, of_position) < (source, position):
        return None
    if (of_source, of_position) > (source, position):
        return -1
    return border - offset


def _encode(recipe: Recipe, documents: _Texts, room: Room) -> EncodedSplit:
    import numpy as np

    ids, offsets = _ids_of(recipe, documents.texts)
    text_bytes = sum(map(len, documents.texts))
    if recipe.allowed_special or recipe.tokenizer.vocab.normalization:
        text_bytes = int(recipe.tokenizer._byte_lengths[ids].sum())
    begins = np.array(documents.begins)
    marked = begins if recipe.stands == "before" else np.array(documents.ends)
    out = room(recipe.dtype, len(ids) + int(marked.sum()))
    bits = marked * np.uint8(_BEFORE if recipe.stands == "before" else _AFTER)
    lay_out(ids, offsets, bits, recipe.end_of_text, out)
    firsts = np.flatnonzero(np.append(True, begins[1:]))
    lengths = np.add.reduceat(np.diff(offsets) + marked, firsts)
    return EncodedSplit(out, lengths, not documents.begins[0], text_bytes)


def _ids_of(recipe: Recipe, texts: list[bytes]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    import numpy as np

    tok = recipe.tokenizer
    if not recipe.allowed_special:
        return tok.encode_batch_to_numpy(texts, num_threads=1)
    allowed = recipe.allowed_special
    arrays = [tok.encode_to_numpy(text, allowed_special=allowed, disallowed_special=()) for text in texts]
    return np.concatenate(arrays), np.cumsum([0, *map(len, arrays)], dtype=np.int64)
