"""Shards: files of ids, written once and memory-mapped by whoever trains on them.

A folder holds `train_000000.bin`, `train_000001.bin` …, `val_000000.bin` … and `manifest.json`. Each `.bin` is in
llm.c's format: a header of 256 little-endian int32 (magic, version, number of ids, zeros), then the ids, uint16 or,
where the vocabulary is larger, uint32. The manifest names the vocabulary by its fingerprint, and every file with its
size and sha256; it is written last, so a folder with a manifest is whole.

The end-of-text id stands before each document. A document may go on in the next file.

Source of the `.bin` format: karpathy/llm.c, `dev/data/data_common.py` (uint16: magic 20240520, version 1; uint32:
magic 20240801, version 7).
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpetok._core import version
from bpetok.errors import CorruptionError, DataError, FormatError, IncompatibleError
from bpetok.files import partial, publish, write_atomically
from bpetok.sources import Document
from bpetok.text import Text, as_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bpetok.tokenizer import Tokenizer

HEADER_BYTES = 1024
_NOT_WHOLE = "if a call was killed here, remove its .bin files and run it again; else name another folder"
MANIFEST = "manifest.json"
FORMAT_VERSION = 1
SHARD_TOKENS = 100_000_000
MAX_SHARD_TOKENS = (1 << 29) - 512  # so that a file stays under 2 GiB with either width of id
_HEADERS = {"uint16": (20240520, 1), "uint32": (20240801, 7)}

FEW_DOCUMENTS = 100
"""From this many documents on, one in a hundred validates; of fewer, the last tenth of the text does."""

PROBE = "Hello, world! 12345 don't\n\n  naïve 東京 🙂\n"
"""A fixed text: its ids prove that a tokenizer still does what it did when the shards were made."""


# ---- the manifest ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shard:
    """One file: its name, split, ids, documents that begin in it, bytes of text, and checksum.

    A document that the border of the splits cuts begins once in either.
    """

    file: str
    split: str
    tokens: int
    documents: int
    text_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a folder of shards holds, and which tokenizer made it.

    Attributes:
        fingerprint: the vocabulary's, see `Vocab.fingerprint`.
        probe: sha256 over the ids of `PROBE`, end-of-text id included.
        vocab_size: ids are below it.
        dtype: "uint16" or "uint32".
        end_of_text: the id that stands before each document.
        sources: what the documents were read from.
        shards: the files, in order.
    """

    fingerprint: str
    probe: str
    vocab_size: int
    dtype: str
    end_of_text: int
    sources: tuple[str, ...]
    shards: tuple[Shard, ...]

    def to_json(self) -> str:
        """The manifest as a JSON document."""
        document = {
            "format": "bpetok shards",
            "version": FORMAT_VERSION,
            "written_by": f"bpetok {version}",
            "end_of_text_stands": "before each document",
            **asdict(self),
            "complete": True,
        }
        return json.dumps(document, indent=1) + "\n"

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest of a folder.

        Raises:
            FormatError: there is none, or it is none of ours.
        """
        path = folder / MANIFEST
        if not path.is_file():
            raise FormatError(
                f"{folder}: must hold {MANIFEST}, which is written last",
                hint=_NOT_WHOLE,
            )
        try:
            document = json.loads(path.read_bytes())
            kind = document["format"], document["version"], document["complete"]
            if kind != ("bpetok shards", FORMAT_VERSION, True):
                raise FormatError(f"{path}: must be a complete manifest of version {FORMAT_VERSION}")
            shards = tuple(Shard(**shard) for shard in document["shards"])
            values = {field.name: document[field.name] for field in fields(cls)}
            manifest = cls(**values | {"shards": shards, "sources": tuple(document["sources"])})
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            if isinstance(error, FormatError):
                raise
            raise FormatError(f"{path}: is no manifest of shards: {error!r}") from error
        parts: list[Manifest | Shard] = [manifest, *shards]
        for part in parts:
            _check_types(part, path)
        if manifest.dtype not in _HEADERS:
            raise FormatError(f"{path}: dtype must be one of {', '.join(_HEADERS)}, got {manifest.dtype!r}")
        return manifest


def _check_types(part: Manifest | Shard, path: Path) -> None:
    for field in fields(part):
        kind = {"int": int, "str": str}.get(str(field.type), tuple)
        value = getattr(part, field.name)
        if type(value) is not kind:
            raise FormatError(f"{path}: {field.name} must be of type {field.type}, got {value!r:.40}")


def probe_digest(tokenizer: Tokenizer, end_of_text: int) -> str:
    """sha256 over the ids of one document, `PROBE`, as shards hold them."""
    ids = [end_of_text, *tokenizer.encode_ordinary(PROBE)]
    return hashlib.sha256(b"".join(token_id.to_bytes(4, "little") for token_id in ids)).hexdigest()


# ---- writing ---------------------------------------------------------------------------------------------------------


def write(
    documents: Iterable[Document | Text],
    tokenizer: Tokenizer,
    folder: str | Path,
    *,
    shard_tokens: int = SHARD_TOKENS,
    val_fraction: float | None = None,
    sources: Sequence[str] = (),
) -> Manifest:
    """Encodes documents into a folder of shards.

    Special tokens in the text are text. Which documents validate is decided by a hash of their bytes, so it does not
    depend on their order (but where the hash picks none, the last one does). Of fewer than 100 documents, the end of
    the text validates, cut at a line. No file appears before all of them are written, and the manifest last.

    Args:
        documents: the texts.
        tokenizer: must have "<|endoftext|>".
        folder: made if it is not there; must not hold shards yet.
        shard_tokens: ids to a file.
        val_fraction: share of the documents that validate, a hundredth unless told; of fewer than 100, share of the
            text, a tenth unless told. 0 for none at all.
        sources: what to name as the documents' origin.

    Raises:
        DataError: there is no text, or an argument is out of range.
        UnknownTokenError: the tokenizer has no end-of-text token.
        FormatError: the folder holds shards already.
    """
    folder = Path(folder)
    if not 0 <= (val_fraction or 0) < 1:
        raise DataError(f"shards: val_fraction must be in 0 to below 1, got {val_fraction}")
    if not 1 <= shard_tokens <= MAX_SHARD_TOKENS:
        raise DataError(f"shards: shard_tokens must be in 1 to {MAX_SHARD_TOKENS:,}, got {shard_tokens:,}")
    if (folder / MANIFEST).exists():
        raise FormatError(f"{folder}: holds shards already", hint="name another folder, or remove this one")
    writer = _Writer(tokenizer, folder, shard_tokens)
    try:
        for split, text in _split(_texts(documents), val_fraction):
            writer.add(split, text)
        manifest = writer.finish(sources)
        write_atomically(folder / MANIFEST, manifest.to_json().encode())
    except BaseException:
        writer.discard()
        raise
    return manifest


def _texts(documents: Iterable[Document | Text]) -> Iterable[bytes]:
    for document in documents:
        yield document.text if isinstance(document, Document) else as_bytes(document)


def _split(texts: Iterable[bytes], val_fraction: float | None) -> Iterable[tuple[str, bytes]]:
    """Each text with the split it belongs to. Holds the first hundred documents back to see how many there are."""
    texts = iter(texts)
    first = list(islice(texts, FEW_DOCUMENTS))
    if val_fraction != 0 and len(first) < FEW_DOCUMENTS:
        yield from _split_at_line(first, 0.1 if val_fraction is None else val_fraction)
    else:
        yield from _split_by_hash(chain(first, texts), 0.01 if val_fraction is None else val_fraction)


def _split_by_hash(texts: Iterable[bytes], val_fraction: float) -> Iterable[tuple[str, bytes]]:
    """Where the hash picks no document at all to validate, the last one does."""
    validates = val_fraction == 0
    held: bytes | None = None
    for text in chain(texts, [None]):
        if held is not None:
            split = _split_of(held, val_fraction) if validates or text is not None else "val"
            validates |= split == "val"
            yield split, held
        held = text


def _split_of(text: bytes, val_fraction: float) -> str:
    hashed = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
    return "val" if hashed < val_fraction * 2**64 else "train"


def _split_at_line(texts: list[bytes], val_fraction: float) -> Iterable[tuple[str, bytes]]:
    """Splits a text that is in few documents where its last share begins; a document may be cut in two."""
    left = max(1, int(sum(map(len, texts)) * (1 - val_fraction)))
    for i, text in enumerate(texts):
        if left <= 0:
            yield "val", text
        elif len(text) <= left:
            yield "train", text
        else:
            cut = _line_start(text, left, is_last=i + 1 == len(texts))
            yield "train", text[:cut]
            if cut < len(text):
                yield "val", text[cut:]
        left -= len(text)


def _line_start(text: bytes, near: int, *, is_last: bool) -> int:
    """Where to cut a text near a place within it: behind the line there, or before it, or at a character.

    The end of a text that another one follows is as good as the end of a line.
    """
    behind = text.find(b"\n", near) + 1
    if 0 < behind < len(text) or not is_last:
        return behind or len(text)
    before = text.rfind(b"\n", 0, near) + 1
    if before > 0:
        return before
    while near > 0 and text[near] & 0xC0 == 0x80:
        near -= 1
    return near or len(text)


class _Writer:
    """Writes the ids of documents to a file of each split, hidden until all of them are whole."""

    def __init__(self, tokenizer: Tokenizer, folder: Path, shard_tokens: int) -> None:
        self.tokenizer = tokenizer
        self.folder = folder
        self.shard_tokens = shard_tokens
        self.end_of_text = tokenizer.eot_token
        self.dtype = "uint16" if tokenizer.n_vocab <= 1 << 16 else "uint32"
        self.byte_lengths = tokenizer.token_byte_lengths()
        self.files: dict[str, list[_File]] = {"train": [], "val": []}
        _make_empty(folder)

    def add(self, split: str, text: bytes) -> None:
        import numpy as np

        if not text:
            return
        self._append(split, np.array([self.end_of_text], np.uint32))
        self.files[split][-1].documents += 1
        view = memoryview(text)
        chunks = (view[start : start + _ENCODE_BYTES] for start in range(0, len(view), _ENCODE_BYTES))
        for ids in self.tokenizer.encode_stream(chunks):
            self._append(split, ids)

    def _append(self, split: str, ids: NDArray[np.uint32]) -> None:
        while len(ids):
            file = self._file(split)
            room = self.shard_tokens - file.tokens
            part, ids = ids[:room], ids[room:]
            file.append(part.astype(self.dtype), int(self.byte_lengths[part].sum()))

    def _file(self, split: str) -> _File:
        """The split's last file, or a new one where that is full."""
        files = self.files[split]
        if not files or files[-1].tokens == self.shard_tokens:
            if files:
                files[-1].finish()
            files.append(_File(self.folder / f"{split}_{len(files):06d}.bin", split, self.dtype))
        return files[-1]

    def finish(self, sources: Sequence[str]) -> Manifest:
        files = [file for split_files in self.files.values() for file in split_files]
        if not files:
            raise DataError("shards: the documents must hold text, got none")
        for file in files:
            file.finish()
        return Manifest(
            fingerprint=self.tokenizer.fingerprint,
            probe=probe_digest(self.tokenizer, self.end_of_text),
            vocab_size=self.tokenizer.n_vocab,
            dtype=self.dtype,
            end_of_text=self.end_of_text,
            sources=tuple(sources),
            shards=tuple(file.publish() for file in files),
        )

    def discard(self) -> None:
        """Takes away all that was written, the manifest first."""
        (self.folder / MANIFEST).unlink(missing_ok=True)
        for files in self.files.values():
            for file in files:
                file.discard()


_ENCODE_BYTES = 1 << 24


def _make_empty(folder: Path) -> None:
    """Makes the folder; takes away hidden files that a call left which was killed.

    Raises:
        FormatError: it holds files that the new ones could be mixed up with.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".*.bin.*.partial"):
        left.unlink()
    if found := sorted(folder.glob("*.bin")):
        raise FormatError(f"{folder}: must hold no .bin files yet, got {found[0].name}", hint=_NOT_WHOLE)


class _File:
    """A file of ids that is being written under a hidden name."""

    def __init__(self, path: Path, split: str, dtype: str) -> None:
        self.path, self.split, self.dtype = path, split, dtype
        self.tokens = self.documents = self.text_bytes = 0
        self.sha256 = ""
        self.published = False
        self.written = partial(path)
        self.file = self.written.open("wb+")
        self.file.write(bytes(HEADER_BYTES))

    def append(self, ids: NDArray[np.unsignedinteger[Any]], text_bytes: int) -> None:
        self.file.write(ids.astype(ids.dtype.newbyteorder("<"), copy=False).tobytes())
        self.tokens += len(ids)
        self.text_bytes += text_bytes

    def finish(self) -> None:
        """Writes the header and closes the file; once is enough."""
        import numpy as np

        if self.file.closed:
            return
        header = np.zeros(HEADER_BYTES // 4, "<i4")
        header[:3] = *_HEADERS[self.dtype], self.tokens
        self.file.seek(0)
        self.file.write(header.tobytes())
        self.file.seek(0)
        self.sha256 = hashlib.file_digest(self.file, "sha256").hexdigest()
        self.file.close()

    def publish(self) -> Shard:
        """Gives the file its name."""
        self.published = True  # first, so that an interrupt within takes the file away again
        publish(self.written, self.path)
        return Shard(self.path.name, self.split, self.tokens, self.documents, self.text_bytes, self.sha256)

    def discard(self) -> None:
        self.file.close()
        self.written.unlink(missing_ok=True)
        if self.published:
            self.path.unlink(missing_ok=True)


# ---- reading ---------------------------------------------------------------------------------------------------------


class Split:
    """The ids of one split, across its files, memory-mapped.

    Attributes:
        name: "train" or "val".
        tokens: how many ids there are.
        documents: how many documents there are.
        text_bytes: how many bytes of text the ids stand for, end-of-text ids not counted.
    """

    def __init__(self, name: str, folder: Path, manifest: Manifest) -> None:
        """The split `name` of a folder; raises as `open`."""
        shards = [shard for shard in manifest.shards if shard.split == name]
        self.name = name
        self.arrays = [_map(folder / shard.file, shard, manifest.dtype) for shard in shards]
        self.documents = sum(shard.documents for shard in shards)
        self.text_bytes = sum(shard.text_bytes for shard in shards)
        self._starts = [0]
        for array in self.arrays:
            self._starts.append(self._starts[-1] + len(array))
        self.tokens = self._starts[-1]
        self._dtype = manifest.dtype

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
            raise IndexError(f"{self.name}: a range must lie in 0 to {self.tokens}, got {start} to {stop}")
        parts = [np.zeros(0, self._dtype)]
        i = bisect_right(self._starts, start) - 1
        while start < stop:
            part = self.arrays[i][start - self._starts[i] : stop - self._starts[i]]
            parts.append(part)
            start += len(part)
            i += 1
        return np.concatenate(parts)


class ShardSet:
    """An open folder of shards: its manifest and its splits."""

    def __init__(self, folder: Path) -> None:
        """Opens a folder; callers use `open`."""
        self.folder = folder
        self.manifest = Manifest.read(folder)
        self.splits: Mapping[str, Split] = {name: Split(name, folder, self.manifest) for name in ("train", "val")}

    @property
    def train(self) -> Split:
        """The ids to train on."""
        return self.splits["train"]

    @property
    def val(self) -> Split:
        """The ids to validate on."""
        return self.splits["val"]

    def check(self, tokenizer: Tokenizer) -> None:
        """Makes sure that this tokenizer made the shards.

        Raises:
            IncompatibleError: it has another vocabulary, or no longer gives the ids that it gave then.
        """
        if tokenizer.fingerprint != self.manifest.fingerprint:
            raise IncompatibleError(
                f"{self.folder}: the shards were made with the vocabulary {self.manifest.fingerprint}, "
                f"got the tokenizer {tokenizer.name!r} with {tokenizer.fingerprint}",
                hint="use the tokenizer that made the shards, or make them again with this one",
            )
        if probe_digest(tokenizer, self.manifest.end_of_text) != self.manifest.probe:
            raise IncompatibleError(
                f"{self.folder}: the tokenizer has the right fingerprint but encodes a fixed text otherwise than when "
                "the shards were made",
                hint="the split pattern's regular expression may behave otherwise in this version of `regex`",
            )

    def verify(self) -> None:
        """Reads every file whole.

        Raises:
            CorruptionError: a file's checksum is not the recorded one.
        """
        for shard in self.manifest.shards:
            with (self.folder / shard.file).open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            if sha256 != shard.sha256:
                raise CorruptionError(f"{self.folder / shard.file}: sha256 must be {shard.sha256}, got {sha256}")


def open(folder: str | Path) -> ShardSet:
    """Opens a folder of shards. Sizes and headers are checked here, checksums by `ShardSet.verify`.

    Raises:
        FormatError: the folder holds no complete manifest, or a file is not in llm.c's format.
        CorruptionError: a file is missing, or its size or header is not what the manifest says.
    """
    return ShardSet(Path(folder))


def _map(path: Path, shard: Shard, dtype: str) -> NDArray[np.unsignedinteger[Any]]:
    import numpy as np

    if not path.is_file():
        raise CorruptionError(f"{path}: is named in {MANIFEST} but is not there")
    itemsize = np.dtype(dtype).itemsize
    size = HEADER_BYTES + shard.tokens * itemsize
    if path.stat().st_size != size:
        raise CorruptionError(f"{path}: must be {size} bytes long, got {path.stat().st_size}")
    header = np.fromfile(path, "<i4", 3)
    if tuple(header) != (*_HEADERS[dtype], shard.tokens):
        expected = (*_HEADERS[dtype], shard.tokens)
        raise CorruptionError(f"{path}: the header must begin with {expected}, got {tuple(header.tolist())}")
    return np.memmap(path, np.dtype(dtype).newbyteorder("<"), "r", HEADER_BYTES, (shard.tokens,))
