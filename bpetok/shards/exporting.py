"""Finished shards in the formats of other programs, file by file, with no more in memory than a piece of one.

| `to` | files | read by |
|---|---|---|
| `npy` | `shards_train_000000.npy` …: one for each shard, as `np.save` writes it | build-nanogpt, numpy |
| `nanogpt` | `train.bin`, `val.bin`: the ids of a split, uint16, without a header | nanoGPT |
| `datatrove` | `train/train_000000.ds` …, `.ds.index`: uint64, where documents end, `.ds.metadata` | datatrove |
| `parquet` | `train-00000-of-00003.parquet` …: a row for each document, with the list `ids` | pyarrow, datasets |

The end-of-text ids stay where they are. A split without ids has no files. Beside the files (of parquet: in the schema)
stands `meta.json`, which names the tokenizer by its fingerprint, and says where the end-of-text id stands; no program
but the user reads it. nanoGPT looks for a `meta.pkl` instead, but only to learn the size of a vocabulary other than
GPT-2's: no pickle is written here, so there `vocab_size` has to be set in `train.py` where it is over 50,304.

datatrove and parquet hold whole documents: a document that goes on in the next shard is whole in the file of the shard
in which it begins. The splits of datatrove are folders, since its reader takes all `.ds` files below the one that it
is given.

Source: karpathy/build-nanogpt, `train_gpt2.py` (`DataLoaderLite` takes the files whose names hold the split's);
karpathy/nanoGPT, `train.py` (`get_batch`); huggingface/datatrove, `pipeline/tokens/tokenizer.py` (`TokenizedFile`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial as having
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from bpetok._core import version
from bpetok.errors import FormatError, IncompatibleError, MissingExtraError
from bpetok.files import partial, publish
from bpetok.shards.layout import WIDTHS
from bpetok.shards.reader import ShardSet, Split, is_folder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

META = "meta.json"
_IDS_AT_ONCE = 1 << 20
_LONGEST_ROW = (1 << 31) - 1

Advance = Callable[[int], object]
Write = Callable[[BinaryIO], None]


def export(shard_set: ShardSet, folder: str | Path, *, to: str, progress: Advance | None = None) -> tuple[Path, ...]:
    """Writes shards in another program's format, and gives the files that were written.

    The shards are verified first, since what was altered could not be found in the files any more. No file appears
    before all of them are written.

    Args:
        shard_set: what `open` gave.
        folder: made if it is not there; none of the files may be in it yet.
        to: one of `FORMATS`.
        progress: called now and then with how many ids were written since the last call.

    Raises:
        FormatError: there is no such format, the folder holds shards or one of the files, or a document is too long for
            a row of parquet.
        IncompatibleError: the format cannot hold these ids.
        CorruptionError: the shards were altered.
        MissingExtraError: parquet, without pyarrow.
        OSError: the files cannot be written.
    """
    folder = Path(folder)
    if to not in _PLANS:
        raise FormatError(f"export: to must be one of {', '.join(FORMATS)}, got {to!r}")
    if is_folder(folder):
        raise FormatError(f"{folder}: must not hold shards, but does", hint="name another folder")
    plan = {folder / name: write for name, write in _PLANS[to](shard_set, progress or int)}
    _refuse_existing(plan)
    shard_set.verify()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for path, write in plan.items():
            path.parent.mkdir(exist_ok=True)
            with open(partial(path), "wb") as file:
                write(file)
        _refuse_existing(plan)
        for path in plan:
            publish(partial(path), path)
    finally:
        for path in plan:
            partial(path).unlink(missing_ok=True)
    return tuple(plan)


def _refuse_existing(paths: Mapping[Path, Write]) -> None:
    for path in paths:
        if path.exists():
            raise FormatError(f"{path}: must not be there yet, but is", hint="name another folder, or remove the file")


def _meta(shard_set: ShardSet) -> bytes:
    manifest = shard_set.manifest
    names = ("tokenizer", "fingerprint", "vocab_size", "dtype", "end_of_text", "end_of_text_stands")
    about = {"written_by": f"bpetok {version}"} | {name: getattr(manifest, name) for name in names}
    splits = {name: {"ids": len(one), "documents": one.documents} for name, one in shard_set.splits.items()}
    return json.dumps(about | {"splits": splits}, indent=1).encode() + b"\n"


def _write_bytes(contents: bytes, file: BinaryIO) -> None:
    file.write(contents)


def _write_ids(split: Split, start: int, stop: int, advance: Advance, file: BinaryIO) -> None:
    """The ids of a range, little-endian, without a header."""
    for at in range(start, stop, _IDS_AT_ONCE):
        ids = split.read(at, min(at + _IDS_AT_ONCE, stop))
        file.write(ids.astype(ids.dtype.newbyteorder("<"), copy=False).data)
        advance(len(ids))


# ---- formats that know ids alone -------------------------------------------------------------------------------------


def _plan_npy(shard_set: ShardSet, advance: Advance) -> Iterator[tuple[str, Write]]:
    for name, split in shard_set.splits.items():
        for i, (start, stop) in enumerate(zip(split.starts, split.starts[1:], strict=False)):
            yield f"shards_{name}_{i:06d}.npy", having(_write_npy, split, start, stop, advance)
    yield META, having(_write_bytes, _meta(shard_set))


def _write_npy(split: Split, start: int, stop: int, advance: Advance, file: BinaryIO) -> None:
    from numpy.lib import format as npy

    descr = f"<u{WIDTHS[split.dtype]}"
    npy.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": (stop - start,)})
    _write_ids(split, start, stop, advance, file)


def _plan_nanogpt(shard_set: ShardSet, advance: Advance) -> Iterator[tuple[str, Write]]:
    manifest = shard_set.manifest
    if manifest.dtype != "uint16":
        raise IncompatibleError(
            f"{shard_set.folder}: nanoGPT's files must hold uint16, got {manifest.dtype}, as the vocabulary has "
            f"{manifest.vocab_size:,} ids",
            hint="npy, datatrove and parquet hold uint32; llm.c's train_llama3.py and Megatron read the shards",
        )
    for name, split in shard_set.splits.items():
        if len(split):
            yield f"{name}.bin", having(_write_ids, split, 0, len(split), advance)
    yield META, having(_write_bytes, _meta(shard_set))


# ---- formats that know documents -------------------------------------------------------------------------------------


class _Documents(NamedTuple):
    """The documents that begin in one shard: which shard of those that have any, and where their ids are."""

    shard: int
    number: int
    start: int
    stop: int


def _files_of_documents(split: Split) -> list[_Documents]:
    files: list[_Documents] = []
    documents = 0
    for i, shard in enumerate(split.shards):
        if shard.documents:
            last = documents + shard.documents - 1
            start, stop = split.document_range(documents)[0], split.document_range(last)[1]
            files.append(_Documents(i, len(files), start, stop))
            documents = last + 1
    return files


def _ends(split: Split, these: _Documents) -> NDArray[np.int64]:
    """Where each of the documents ends, in ids from the beginning of the first."""
    import numpy as np

    ends = np.cumsum(split.indexes[these.shard].lengths[split.shards[these.shard].continues :], dtype=np.int64)
    ends[-1] = these.stop - these.start  # the last one may go on in the next shard
    return ends


def _plan_datatrove(shard_set: ShardSet, advance: Advance) -> Iterator[tuple[str, Write]]:
    # Its merger cuts this line at the bar.
    tokenizer = "".join(one if one.isprintable() and one != "|" else "_" for one in shard_set.manifest.tokenizer)
    for name, split in shard_set.splits.items():
        for these in _files_of_documents(split):
            ids = these.stop - these.start
            metadata = f"{tokenizer or 'unknown'}|{WIDTHS[split.dtype]}\n{ids}\n{_metric(ids)}"
            path = f"{name}/{name}_{these.number:06d}.ds"
            yield path, having(_write_ids, split, these.start, these.stop, advance)
            yield f"{path}.index", having(_write_ends, split, these)
            yield f"{path}.metadata", having(_write_bytes, metadata.encode())
    yield META, having(_write_bytes, _meta(shard_set))


def _write_ends(split: Split, these: _Documents, file: BinaryIO) -> None:
    file.write(_ends(split, these).astype("<u8").data)


def _metric(count: int) -> str:
    """How many tokens, for people, as datatrove writes it: 12345 gives '12.3 kT'."""
    mantissa, _, exponent = f"{count:.2e}".partition("e")
    thousands, digits = divmod(int(exponent), 3)
    return f"{float(mantissa) * 10**digits:.{2 - digits}f} {['', *'kMGTPE'][thousands]}T"


def _plan_parquet(shard_set: ShardSet, advance: Advance) -> Iterator[tuple[str, Write]]:
    try:
        import pyarrow as arrow
    except ImportError as error:
        raise MissingExtraError("data") from error
    ids = arrow.from_numpy_dtype(shard_set.manifest.dtype)
    schema = arrow.schema([("ids", arrow.list_(ids))], metadata={"bpetok": _meta(shard_set)})
    for name, split in shard_set.splits.items():
        files = _files_of_documents(split)
        for these in files:
            path = f"{name}-{these.number:05d}-of-{len(files):05d}.parquet"
            yield path, having(_write_rows, schema, split, these, advance)


def _write_rows(schema: Any, split: Split, these: _Documents, advance: Advance, file: BinaryIO) -> None:
    """The documents as rows, in groups of about a million ids; a longer document is a group."""
    import numpy as np
    import pyarrow as arrow
    from pyarrow import parquet

    ends = _ends(split, these)
    longest = int(np.diff(ends, prepend=0).max())
    if longest > _LONGEST_ROW:
        raise FormatError(
            f"parquet: a document must have at most {_LONGEST_ROW:,} ids, got {longest:,}",
            hint="cut the text into documents when it is sharded (bpetok shard --separator)",
        )
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        begin, row = 0, 0
        while row < len(ends):
            behind = max(row + 1, int(np.searchsorted(ends, begin + _IDS_AT_ONCE, "right")))
            offsets = np.concatenate([[begin], ends[row:behind]]) - begin
            ids = split.read(these.start + begin, these.start + int(ends[behind - 1]))
            rows = arrow.ListArray.from_arrays(offsets.astype(np.int32), ids)
            writer.write_table(arrow.Table.from_arrays([rows], schema=schema), row_group_size=behind - row)
            begin, row = int(ends[behind - 1]), behind
            advance(len(ids))


_PLANS: dict[str, Callable[[ShardSet, Advance], Iterator[tuple[str, Write]]]] = {
    "npy": _plan_npy,
    "nanogpt": _plan_nanogpt,
    "datatrove": _plan_datatrove,
    "parquet": _plan_parquet,
}
FORMATS = tuple(_PLANS)
"""What `export` can write."""
