"""Reading shards: splits of ids, memory-mapped across their files, by place, by window and by document."""

from __future__ import annotations

import errno
import hashlib
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, overload

from bpetok.errors import CorruptionError, FormatError, IncompatibleError
from bpetok.shards.digest import BLOCK_BYTES, file_digest, first_difference
from bpetok.shards.layout import (
    HEADER_BYTES,
    SPLITS,
    WIDTHS,
    bin_bytes,
    index_bytes,
    index_name,
    map_ids,
    map_index,
)
from bpetok.shards.manifest import MANIFEST, EndOfText, Manifest, Shard, probe_digest
from bpetok.shards.place import BUILD
from bpetok.threads import threads_or_all

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bpetok.tokenizer import Tokenizer

_MAPPED_AT_ONCE = 100  # an open map holds a file descriptor, an index two, and a process may have 1,024 or even 256

T = TypeVar("T")


class Mapped(Sequence[T]):
    """What was memory-mapped of the files of a split; those that were used last stay so, and the others come back."""

    def __init__(self, map_one: Callable[[int], T], count: int) -> None:
        """`map_one(i)` maps file i of `count`."""
        self._map_one = lru_cache(_MAPPED_AT_ONCE)(map_one)
        self._count = count

    def __len__(self) -> int:
        """How many files there are."""
        return self._count

    @overload
    def __getitem__(self, i: int) -> T: ...
    @overload
    def __getitem__(self, i: slice) -> list[T]: ...
    def __getitem__(self, i: int | slice) -> T | list[T]:
        """What is mapped of file `i`."""
        places = range(self._count)[i]
        return self._map_one(places) if isinstance(places, int) else [self._map_one(place) for place in places]


class Index(NamedTuple):
    """At which bytes of their file sequences begin, and how many ids they have, shape (sequences,) each."""

    pointers: NDArray[np.int64]
    lengths: NDArray[np.int32]


class Split:
    """The ids of one split, across its files, memory-mapped.

    Attributes:
        name: "train" or "val".
        tokens: how many ids there are.
        documents: how many documents there are.
        text_bytes: how many bytes of text the ids stand for, end-of-text ids not counted.
        dtype: "uint16" or "uint32".
        shards: what the manifest says of the split's files, in order.
        starts: where each file's first id stands in the split, and behind them `tokens`.
        arrays: the ids of each file, in order, mapped when they are asked for.
        indexes: where the documents of each file are, likewise.
    """

    def __init__(self, name: str, folder: Path, manifest: Manifest) -> None:
        """The split `name` of a folder; raises as `open`."""
        self.name = name
        self._folder = folder
        self.dtype = manifest.dtype
        self.shards = tuple(manifest.of_split(name))
        self.starts = (0, *accumulate(shard.tokens for shard in self.shards))
        self._first_documents = (0, *accumulate(shard.documents for shard in self.shards))
        self.tokens = self.starts[-1]
        self.documents = self._first_documents[-1]
        self.text_bytes = sum(shard.text_bytes for shard in self.shards)
        # No bound methods: what refers to itself is freed late, and its files stay open until then.
        self.arrays = Mapped(partial(_map_ids, folder, self.dtype, self.shards), len(self.shards))
        self.indexes = Mapped(partial(_map_index, folder, self.dtype, self.shards), len(self.shards))
        for i, shard in enumerate(self.shards):
            if not 1 <= shard.sequences <= shard.tokens < 1 << 31:  # a header holds no more
                raise FormatError(
                    f"{folder / MANIFEST}: {shard.file} must hold fewer than 2,147,483,648 ids, and a document for "
                    f"each at most, got {shard.tokens:,} and {shard.sequences:,}",
                    hint="the manifest was not written by bpetok; make the shards again",
                )
            self.arrays[i]  # checks the file
            map_index(folder / index_name(shard.file), self.dtype, shard.sequences)

    @property
    def checksum(self) -> int:
        """A number in [0, 2^63) that the digests of the split's files determine, for whoever must know it again."""
        digests = "".join(shard.sha256 for shard in self.shards)
        return int.from_bytes(hashlib.sha256(digests.encode()).digest()[:8], "big") >> 1

    def __len__(self) -> int:
        """How many ids there are."""
        return self.tokens

    def read(self, start: int, stop: int) -> NDArray[np.unsignedinteger[Any]]:
        """A copy of the ids from `start` up to `stop`, shape (stop - start,); files are crossed unseen.

        Raises:
            IndexError: the range is not within the split.
        """
        import numpy as np

        if not 0 <= start <= stop <= self.tokens:
            raise IndexError(f"{self.name}: a range must lie in 0 to {self.tokens:,}, got {start:,} to {stop:,}")
        parts = [np.zeros(0, self.dtype)]
        i = bisect_right(self.starts, start) - 1
        while start < stop:
            part = self._ids_of(i, start - self.starts[i], min(stop, self.starts[i + 1]) - self.starts[i])
            parts.append(part)
            start += len(part)
            i += 1
        return np.concatenate(parts)

    def _ids_of(self, i: int, start: int, stop: int) -> NDArray[np.unsignedinteger[Any]]:
        """Ids of file i. Where there are more files than stay mapped, reading is quicker than mapping anew."""
        if len(self.shards) <= _MAPPED_AT_ONCE:
            return self.arrays[i][start:stop]
        import numpy as np

        path, width = self._folder / self.shards[i].file, WIDTHS[self.dtype]
        ids = np.fromfile(
            path, np.dtype(self.dtype).newbyteorder("<"), stop - start, offset=HEADER_BYTES + start * width
        )
        if len(ids) < stop - start:
            raise CorruptionError(f"{path}: must have {stop:,} ids, got {start + len(ids):,}")
        return ids

    def windows(self, length: int, stride: int | None = None) -> Iterator[NDArray[np.unsignedinteger[Any]]]:
        """The ids in windows of `length`, each a copy, `stride` apart (`length` unless told); the last may be shorter.

        Each id is in a window where `stride` is not over `length`. A window that would hold nothing that the one
        before it does not is left out.

        Raises:
            ValueError: `length` or `stride` is under 1.
        """
        step = length if stride is None else stride
        if min(length, step) < 1:
            raise ValueError(f"{self.name}: length and stride must be at least 1, got {length} and {step}")
        return self._windows(length, step)

    def _windows(self, length: int, step: int) -> Iterator[NDArray[np.unsignedinteger[Any]]]:
        start, stop = 0, 0
        while start < self.tokens and stop < self.tokens:
            stop = min(start + length, self.tokens)
            yield self.read(start, stop)
            start += step

    def document(self, number: int) -> NDArray[np.unsignedinteger[Any]]:
        """A copy of the ids of one document, its end-of-text id included, shape (ids,).

        Raises:
            IndexError: there is no such document.
            CorruptionError: its file's index was altered.
        """
        return self.read(*self.document_range(number))

    def document_range(self, number: int) -> tuple[int, int]:
        """Where a document begins and ends in the split.

        Raises:
            IndexError: there is no such document.
            CorruptionError: its file's index was altered.
        """
        if not 0 <= number < self.documents:
            raise IndexError(f"{self.name}: a document must be in 0 to {self.documents - 1:,}, got {number:,}")
        i = bisect_right(self._first_documents, number) - 1
        sequence = number - self._first_documents[i] + self.shards[i].continues
        index = self.indexes[i]
        start = self.starts[i] + (int(index.pointers[sequence]) - HEADER_BYTES) // WIDTHS[self.dtype]
        stop = start + int(index.lengths[sequence])
        while stop == self.starts[i + 1] and i + 1 < len(self.shards) and self.shards[i + 1].continues:
            i += 1
            stop += int(self.indexes[i].lengths[0])
        return start, stop


def _map_ids(folder: Path, dtype: str, shards: Sequence[Shard], i: int) -> NDArray[np.unsignedinteger[Any]]:
    import numpy as np

    return np.asarray(map_ids(folder / shards[i].file, dtype, shards[i].tokens))  # slices of a memmap are slow


def _map_index(folder: Path, dtype: str, shards: Sequence[Shard], i: int) -> Index:
    """The index of a file; raises CorruptionError where its numbers do not follow from each other."""
    import numpy as np

    shard = shards[i]
    path = folder / index_name(shard.file)
    lengths, pointers = map_index(path, dtype, shard.sequences)
    ends = np.cumsum(lengths, dtype=np.int64)
    follow = np.array_equal(pointers, HEADER_BYTES + (ends - lengths) * WIDTHS[dtype])
    if lengths.min() < 1 or ends[-1] != shard.tokens or not follow:
        raise CorruptionError(
            f"{path}: lengths and pointers must follow each other from byte {HEADER_BYTES:,} on, "
            f"with {shard.tokens:,} ids in all, and do not",
            hint="the file was altered; copy it anew, or make the shards again",
        )
    return Index(np.asarray(pointers), np.asarray(lengths))


class ShardSet:
    """An open folder of shards: its manifest and its splits."""

    def __init__(self, folder: Path) -> None:
        """Opens a folder; callers use `open`."""
        self.folder = folder
        self.manifest = Manifest.read(folder)
        self.splits: Mapping[str, Split] = {name: Split(name, folder, self.manifest) for name in SPLITS}

    @property
    def train(self) -> Split:
        """The ids to train on."""
        return self.splits["train"]

    @property
    def val(self) -> Split:
        """The ids to validate on."""
        return self.splits["val"]

    @property
    def file_bytes(self) -> int:
        """How many bytes `verify` reads: those of all files of ids and of their indexes."""
        return sum(self._sizes().values())

    def check(self, tokenizer: Tokenizer, *, end_of_text: EndOfText | None = None) -> None:
        """Makes sure that this tokenizer made the shards.

        Args:
            tokenizer: the one that the reader has.
            end_of_text: where the reader expects the end-of-text id; None where it does not matter.

        Raises:
            IncompatibleError: it has another vocabulary, or no longer gives the ids that it gave then, or the
                end-of-text ids stand elsewhere.
        """
        made = self.manifest
        if tokenizer.fingerprint != made.fingerprint:
            raise IncompatibleError(
                f"{self.folder}: the shards were made with the vocabulary {made.fingerprint} ({made.tokenizer}), "
                f"got the tokenizer {tokenizer.name!r} with {tokenizer.fingerprint}",
                hint="use the tokenizer that made the shards, or make them again with this one",
            )
        probe = probe_digest(tokenizer, made.end_of_text, made.end_of_text_stands)
        if probe != made.probe:
            raise IncompatibleError(
                f"{self.folder}: the tokenizer has the right fingerprint {made.fingerprint} but encodes a fixed text "
                f"otherwise than when the shards were made: its digest was {made.probe}, now it is {probe}",
                hint="the split pattern's regular expression may behave otherwise in this version of `regex`",
            )
        if end_of_text is not None and end_of_text != made.end_of_text_stands:
            expected = probe_digest(tokenizer, made.end_of_text, end_of_text)
            raise IncompatibleError(
                f"{self.folder}: the end-of-text id must stand {end_of_text} each document, got "
                f"{made.end_of_text_stands} it (digests of a fixed text: {expected} and {made.probe})",
                hint=f"make the shards again with --end-of-text {end_of_text}",
            )

    def text(self, split: str, number: int, tokenizer: Tokenizer) -> bytes:
        """The bytes of one document, without its end-of-text token.

        Args:
            split: "train" or "val".
            number: which of its documents, from 0.
            tokenizer: the one that made the shards.

        Raises:
            IndexError: there is no such document.
            IncompatibleError: another tokenizer made the shards; see `check`.
            CorruptionError: the document does not have its end-of-text id where it must be.
        """
        self.check(tokenizer)
        made = self.manifest
        ids = self.splits[split].document(number).tolist()
        is_before = made.end_of_text_stands == "before"
        if ids[0 if is_before else -1] != made.end_of_text:
            raise CorruptionError(
                f"{self.folder}: {split} document {number:,} must {'begin' if is_before else 'end'} with the id "
                f"{made.end_of_text}, got {ids[0 if is_before else -1]}",
                hint="an index was altered: ShardSet.verify or `bpetok verify` tells which",
            )
        return tokenizer.decode_bytes(ids[1:] if is_before else ids[:-1])

    def verify(self, *, num_threads: int | None = None, progress: Callable[[int], object] | None = None) -> None:
        """Reads every file whole, and looks for files that should not be there.

        Args:
            num_threads: how many files are read at once, at most; None for as many as there are processors to use.
            progress: called now and then with the bytes read since the last call, never twice at once.

        Raises:
            CorruptionError: a file's checksum is not the recorded one, and between which bytes it was altered; or a
                file is gone, or there is a file of ids that the manifest does not name. Of several, the first in the
                manifest's order is named.
            OSError: a file cannot be read.
        """
        sizes = self._sizes()
        found = {path.name for pattern in ("*.bin", "*.idx") for path in self.folder.glob(pattern)}
        if extra := sorted(found - set(sizes)):
            raise CorruptionError(
                f"{self.folder / extra[0]}: is there but is not named in {MANIFEST}",
                hint="it does not belong to these shards; whatever reads *.bin would read it too: take it away",
            )
        recorded: dict[str, tuple[str, str]] = {}
        for shard in self.manifest.shards:
            recorded[shard.file] = shard.sha256, shard.marks
            recorded[index_name(shard.file)] = shard.index_sha256, shard.index_marks
        in_turn = None if progress is None else _one_at_a_time(progress)
        pool = ThreadPoolExecutor(threads_or_all(num_threads))
        try:
            for _ in pool.map(lambda file: _verify(self.folder / file, sizes[file], *recorded[file], in_turn), sizes):
                pass
        finally:
            pool.shutdown(cancel_futures=True)  # one fault is enough: the rest may take hours

    def _sizes(self) -> dict[str, int]:
        sizes = {}
        for shard in self.manifest.shards:
            sizes[shard.file] = bin_bytes(self.manifest.dtype, shard.tokens)
            sizes[index_name(shard.file)] = index_bytes(shard.sequences)
        return sizes


def _one_at_a_time(progress: Callable[[int], object]) -> Callable[[int], object]:
    lock = threading.Lock()

    def in_turn(amount: int) -> None:
        with lock:
            progress(amount)

    return in_turn


def _verify(path: Path, size: int, sha256: str, marks: str, progress: Callable[[int], object] | None) -> None:
    """Raises CorruptionError unless the file is as it was written."""
    try:
        length = path.stat().st_size
        digest, found = file_digest(path, progress)
    except FileNotFoundError:
        raise CorruptionError(f"{path}: is named in {MANIFEST} but is not there") from None
    except OSError as error:  # a failing disk's error names no file
        raise OSError(error.errno or errno.EIO, error.strerror, str(path)) from error
    if length != size:
        raise CorruptionError(f"{path}: must be {size:,} bytes long, got {length:,}")
    if digest != sha256:
        begin = first_difference(found, marks)
        end = begin + BLOCK_BYTES
        behind = ", perhaps also behind that" if end < size else ""
        raise CorruptionError(
            f"{path}: sha256 must be {sha256}, got {digest}; it was altered between byte {begin:,} and "
            f"{min(end, size):,}{behind}",
            hint="copy the file anew, or make the shards again",
        )


def is_folder(path: str | Path) -> bool:
    """Whether a path is a folder of shards, be they whole or not."""
    folder = Path(path)
    return folder.is_dir() and (
        (folder / MANIFEST).is_file()
        or (folder / BUILD).is_dir()
        or any(folder.glob("train_[0-9]*.bin"))
        or any(folder.glob("val_[0-9]*.bin"))
    )


def open(folder: str | Path) -> ShardSet:
    """Opens a folder of shards. Sizes and headers are checked here, checksums by `ShardSet.verify`.

    Raises:
        FormatError: the folder holds no complete manifest.
        CorruptionError: the manifest was altered, or a file is missing, or its size or header is not what the manifest
            says.
    """
    return ShardSet(Path(folder))


__all__ = ["Manifest", "Shard", "ShardSet", "Split", "is_folder", "open"]
