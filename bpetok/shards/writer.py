"""Writing shards in order, so that a call that is stopped at any moment can be gone on with.

Everything is written in a hidden folder, `.build`, inside the one that the shards will be in:

| file | holds |
|---|---|
| `plan.json` | what is being built: tokenizer, arguments, sources; another call may go on only with the same |
| `progress.json` | how far it is: the next piece of the sources, the whole shards, the lengths of the others |
| `train_000000.bin`, `.idx` | shards; whole ones, and one of each split that grows |
| `train_000000.lengths` | int32: how many ids each sequence of the growing shard has, but for the last one |

A checkpoint makes the files durable, then replaces `progress.json`. What was written after it is cut off by whoever
goes on. When all is encoded the shards are moved into place, and the manifest is written last.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpetok.errors import CorruptionError
from bpetok.files import sync_file, write_all
from bpetok.shards.digest import file_digest
from bpetok.shards.encoding import EncodedSplit
from bpetok.shards.layout import bin_bytes, bin_header, bin_name, index_name, index_parts
from bpetok.shards.manifest import Shard

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LENGTH_BYTES = 4


@dataclass(slots=True)
class Growing:
    """The shard of a split that grows, in numbers; all zero where none was begun since the last whole one.

    Attributes:
        tokens: ids that it holds.
        documents: documents that begin in it.
        continues: whether it begins inside a document.
        text_bytes: bytes of text that its ids stand for.
        sequences: lengths that are written.
        last: ids of the last sequence so far, whose length is not written yet.
    """

    tokens: int = 0
    documents: int = 0
    continues: bool = False
    text_bytes: int = 0
    sequences: int = 0
    last: int = 0


@dataclass(slots=True)
class SplitProgress:
    """How far a split is: its whole shards, and the one that grows."""

    shards: list[Shard] = field(default_factory=list)
    growing: Growing = field(default_factory=Growing)

    def to_dict(self) -> dict[str, Any]:
        """The same as what JSON knows."""
        return asdict(self)

    @classmethod
    def of_dict(cls, values: dict[str, Any]) -> SplitProgress:
        """What `to_dict` gave."""
        return cls([Shard(**shard) for shard in values["shards"]], Growing(**values["growing"]))


class SplitWriter:
    """Appends encoded documents to the shards of one split.

    Args:
        name: "train" or "val".
        folder: where the files grow.
        dtype: of the ids.
        shard_tokens: ids to a file.
        byte_lengths: how many bytes of text each id stands for.
        background: makes whole shards durable and computes their checksums.
        progress: what was done before; its files are cut back to it.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        dtype: str,
        shard_tokens: int,
        byte_lengths: NDArray[np.int64],
        background: Executor,
        progress: SplitProgress,
    ) -> None:
        """See the class."""
        self.name = name
        self._folder = folder
        self._dtype = dtype
        self._shard_tokens = shard_tokens
        self._byte_lengths = byte_lengths
        self._background = background
        self._sealed: list[Future[Shard]] = [_done(shard) for shard in progress.shards]
        self._growing = progress.growing
        self._files: tuple[int, int] | None = None
        if self._growing.tokens:
            self._files = self._open(bin_bytes(dtype, self._growing.tokens), self._growing.sequences * _LENGTH_BYTES)

    @property
    def whole(self) -> int:
        """How many whole shards there are."""
        return len(self._sealed)

    def append(self, encoded: EncodedSplit) -> None:
        """Appends documents; their ids go on in the next file where one is full.

        Raises:
            OSError: what is written does not fit, or the disk fails.
        """
        import numpy as np

        ends = np.cumsum(encoded.lengths)
        begin, piece, continues, text_left = 0, 0, encoded.continues, encoded.text_bytes
        while begin < len(encoded.ids):
            stop = min(begin + self._shard_tokens - self._growing.tokens, len(encoded.ids))
            last = int(np.searchsorted(ends, stop))
            lengths = np.diff(np.minimum(ends[piece : last + 1], stop), prepend=begin)
            ids = encoded.ids[begin:stop]
            text_bytes = text_left if stop == len(encoded.ids) else int(self._byte_lengths[ids].sum())
            self._write(ids, lengths, continues, text_bytes)
            text_left -= text_bytes
            continues = bool(ends[last] > stop)
            piece = last if continues else last + 1
            begin = stop
            if self._growing.tokens == self._shard_tokens:
                self.seal()

    def _write(
        self, ids: NDArray[np.unsignedinteger[Any]], lengths: NDArray[np.int64], continues: bool, text_bytes: int
    ) -> None:
        import numpy as np

        growing = self._growing
        if self._files is None:
            self._files = self._open(0, 0)
            growing.continues = continues
        ids_file, lengths_file = self._files
        write_all(ids_file, ids.astype(np.dtype(self._dtype).newbyteorder("<"), copy=False).data)
        growing.tokens += len(ids)
        growing.text_bytes += text_bytes
        growing.documents += len(lengths) - continues
        if continues:
            lengths[0] += growing.last
        elif growing.last:
            lengths = np.concatenate([[growing.last], lengths])
        write_all(lengths_file, lengths[:-1].astype("<i4").data)
        growing.sequences += len(lengths) - 1
        growing.last = int(lengths[-1])

    def _open(self, ids_bytes: int, lengths_bytes: int) -> tuple[int, int]:
        """The growing files, cut to these sizes; a new file of ids has room for its header."""
        is_new = ids_bytes == 0
        sizes = {
            self._folder / bin_name(self.name, len(self._sealed)): bin_bytes(self._dtype, 0) if is_new else ids_bytes,
            self._lengths_path(): lengths_bytes,
        }
        files: list[int] = []
        try:
            for path, size in sizes.items():
                if not is_new and not (path.is_file() and path.stat().st_size >= size):
                    raise CorruptionError(f"{path}: must have at least {size:,} bytes", hint="build anew (--restart)")
                files.append(os.open(path, os.O_RDWR | (os.O_CREAT | os.O_TRUNC if is_new else 0), 0o666))
                os.ftruncate(files[-1], size)
                os.lseek(files[-1], 0, os.SEEK_END)
        except BaseException:
            for file in files:
                os.close(file)
            raise
        return files[0], files[1]

    def _lengths_path(self) -> Path:
        return self._folder / f"{self.name}_{len(self._sealed):06d}.lengths"

    def seal(self) -> None:
        """Makes a whole shard of the one that grows, if there is one; its checksum comes in the background."""
        if self._files is None:
            return
        path = self._folder / bin_name(self.name, len(self._sealed))
        work = _Seal(path, self._lengths_path(), self.name, self._dtype, self._growing)
        self.close()
        self._growing = Growing()
        self._sealed.append(self._background.submit(work.run))

    def checkpoint(self) -> Callable[[], SplitProgress]:
        """What makes all durable that was written up to now, and says how far that is; it may run in the background.

        It raises OSError if the disk fails.
        """
        sealed, growing = list(self._sealed), replace(self._growing)
        growing_files = [self._folder / bin_name(self.name, len(sealed)), self._lengths_path()] * (growing.tokens > 0)

        def run() -> SplitProgress:
            for path in growing_files:
                sync_file(path)
            return SplitProgress([shard.result() for shard in sealed], growing)

        return run

    def close(self) -> None:
        """Closes the files."""
        files, self._files = self._files or (), None
        for file in files:
            os.close(file)


@dataclass(frozen=True, slots=True)
class _Seal:
    """Makes a whole shard of a file of ids: its header, its index, and their checksums."""

    path: Path
    lengths_path: Path
    split: str
    dtype: str
    grown: Growing

    def run(self) -> Shard:
        """The shard; its files are durable then."""
        import numpy as np

        grown = self.grown
        with open(self.path, "rb+", buffering=0) as file:
            write_all(file.fileno(), bin_header(self.dtype, grown.tokens))
            os.fsync(file.fileno())
        lengths = np.append(np.fromfile(self.lengths_path, "<i4", grown.sequences), np.int32(grown.last))
        index = self.path.with_name(index_name(self.path.name))
        with open(index, "wb", buffering=0) as file:
            for part in index_parts(self.dtype, lengths):
                write_all(file.fileno(), part)
        sync_file(index)
        sums = *file_digest(self.path), *file_digest(index)
        about = grown.tokens, grown.documents, grown.continues, grown.text_bytes
        return Shard(self.path.name, self.split, *about, *sums)


def _done(shard: Shard) -> Future[Shard]:
    future: Future[Shard] = Future()
    future.set_result(shard)
    return future
