"""The manifest of a folder of shards: what the files hold, which tokenizer made them, and what proves both.

`manifest.json` is written last, so a folder that has one is whole. Its last line is the sha256 of all that stands
before it, and its bytes follow from its contents, so a changed bit anywhere in it is found.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from bpetok._core import version
from bpetok.errors import CorruptionError, FormatError
from bpetok.files import write_atomically
from bpetok.shards.layout import SPLITS, WIDTHS

if TYPE_CHECKING:
    from bpetok.tokenizer import Tokenizer

MANIFEST = "manifest.json"
FORMAT = "bpetok shards"
FORMAT_VERSION = 2
NOT_WHOLE = "if a call was stopped here, run it again and it goes on; else name another folder"

EndOfText = Literal["before", "after"]

PROBE = "Hello, world! 12345 don't\n\n  naïve 東京 🙂\n"
"""A fixed text: its ids prove that a tokenizer still does what it did when the shards were made."""


@dataclass(frozen=True, slots=True)
class Shard:
    """A file of ids and its index.

    Attributes:
        file: its name, as `train_000000.bin`.
        split: "train" or "val".
        tokens: how many ids it holds.
        documents: how many documents begin in it.
        continues: whether it begins in the middle of a document.
        text_bytes: how many bytes of text the ids stand for, end-of-text ids not counted.
        sha256: of the file.
        marks: the first eight hex digits of the sha256 of its first 4 MiB, 8 MiB and so on, one behind the other: they
            tell where a file was altered.
        index_sha256: of its index.
        index_marks: likewise.
    """

    file: str
    split: str
    tokens: int
    documents: int
    continues: bool
    text_bytes: int
    sha256: str
    marks: str
    index_sha256: str
    index_marks: str

    @property
    def sequences(self) -> int:
        """How many entries its index has: a document that goes on from the file before counts in either."""
        return self.documents + self.continues


@dataclass(frozen=True, slots=True)
class Source:
    """What documents were read from: its name, and its size in bytes, None where that is not known."""

    name: str
    bytes: int | None


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a folder of shards holds, and which tokenizer made it.

    Attributes:
        tokenizer: the tokenizer's name, for people.
        fingerprint: the vocabulary's, see `Vocab.fingerprint`.
        probe: sha256 over the ids of `PROBE`, end-of-text id included, see `probe_digest`.
        vocab_size: ids are below it.
        dtype: "uint16" or "uint32".
        end_of_text: the end-of-text id.
        end_of_text_stands: "before" each document, or "after" it.
        arguments: what else decided the ids: shard_tokens, val_fraction, separator, field and so on.
        sources: what the documents were read from.
        skipped: how many rows were no documents and were left out.
        skipped_shown: the first of them: file and line, or byte of a plain file, and why.
        shards: the files, in order.
    """

    tokenizer: str
    fingerprint: str
    probe: str
    vocab_size: int
    dtype: str
    end_of_text: int
    end_of_text_stands: EndOfText
    arguments: Mapping[str, Any]
    sources: tuple[Source, ...]
    shards: tuple[Shard, ...]
    skipped: int = 0
    skipped_shown: tuple[str, ...] = field(default=())

    def of_split(self, name: str) -> list[Shard]:
        """The files of a split, in order."""
        return [shard for shard in self.shards if shard.split == name]

    def to_bytes(self) -> bytes:
        """The manifest as it stands in its file."""
        document = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "written_by": f"bpetok {version}",
            **asdict(self),
            "complete": True,
        }
        return _sealed(json.dumps(document, indent=1).encode())

    def write(self, folder: Path) -> None:
        """Writes the manifest; it appears whole or not at all."""
        write_atomically(folder / MANIFEST, self.to_bytes())

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest of a folder.

        Raises:
            FormatError: there is none, or it is none of ours.
            CorruptionError: it is not as it was written.
        """
        path = folder / MANIFEST
        if not path.is_file():
            raise FormatError(f"{folder}: must hold {MANIFEST}, which is written last", hint=NOT_WHOLE)
        contents = path.read_bytes()
        is_ours = f'"{FORMAT}",\n "version": {FORMAT_VERSION},'.encode() in contents[:64]
        if is_ours and contents != _sealed(_unsealed(contents)):
            raise CorruptionError(
                f"{path}: the sha256 in its last line must be that of what stands before it",
                hint="the file was altered; copy it anew, or make the shards again",
            )
        document = _parsed(contents, path)
        kind = document["format"], document["version"], document["complete"]
        if kind != (FORMAT, FORMAT_VERSION, True):
            raise FormatError(
                f"{path}: must be a complete manifest of version {FORMAT_VERSION}, got {kind!r:.80}",
                hint="make the shards again with this version of bpetok",
            )
        try:
            return cls._of(document)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise FormatError(f"{path}: is no manifest of shards: {error!r:.200}") from error

    @classmethod
    def _of(cls, document: dict[str, Any]) -> Manifest:
        values = {one.name: document[one.name] for one in fields(cls)}
        values["shards"] = tuple(_checked(Shard(**shard)) for shard in values["shards"])
        values["sources"] = tuple(Source(**source) for source in values["sources"])
        values["skipped_shown"] = tuple(map(str, values["skipped_shown"]))
        manifest = _checked(cls(**values))
        if manifest.dtype not in WIDTHS:
            raise ValueError(f"dtype must be one of {', '.join(WIDTHS)}, got {manifest.dtype!r}")
        if not isinstance(manifest.arguments, dict) or not manifest.end_of_text < manifest.vocab_size <= 1 << 32:
            raise ValueError(f"arguments must be named, and end_of_text under vocab_size, got {manifest.end_of_text}")
        if manifest.end_of_text_stands not in get_args(EndOfText):
            raise ValueError(f"end_of_text_stands must be before or after, got {manifest.end_of_text_stands!r}")
        for shard in manifest.shards:
            if shard.split not in SPLITS or Path(shard.file).name != shard.file or shard.tokens < 1:
                raise ValueError(f"a shard must be a file of a split with ids in it, got {shard!r:.120}")
        return manifest


_TYPES: dict[str, type] = {"int": int, "str": str, "bool": bool}
_Part = TypeVar("_Part", Manifest, Shard)


def _checked(part: _Part) -> _Part:
    for one in fields(part):
        kind = _TYPES.get(str(one.type))
        value = getattr(part, one.name)
        if kind is not None and (type(value) is not kind or (isinstance(value, int) and value < 0)):
            raise TypeError(f"{one.name} must be of type {one.type}, got {value!r:.40}")
    return part


_SEAL = b',\n "sha256": "%s"\n}\n'
_SEAL_BYTES = len(_SEAL % (b"0" * 64))


def _sealed(json_object: bytes) -> bytes:
    """A JSON object with its sha256 as the last entry."""
    body = json_object.removesuffix(b"\n}")
    return body + _SEAL % hashlib.sha256(body).hexdigest().encode()


def _unsealed(contents: bytes) -> bytes:
    return contents[:-_SEAL_BYTES] + b"\n}"


def _parsed(contents: bytes, path: Path) -> dict[str, Any]:
    try:
        document = json.loads(contents)
        if not isinstance(document, dict):
            raise TypeError(f"must be a JSON object, got {type(document).__name__}")
        for key in ("format", "version", "complete"):
            document[key]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise FormatError(f"{path}: is no manifest of shards: {error!r:.200}") from error
    return document


def probe_ids(tokenizer: Tokenizer, end_of_text: int, stands: EndOfText) -> list[int]:
    """The ids of one document, `PROBE`, as shards hold them."""
    ids = tokenizer.encode_ordinary(PROBE)
    return [end_of_text, *ids] if stands == "before" else [*ids, end_of_text]


def probe_digest(tokenizer: Tokenizer, end_of_text: int, stands: EndOfText) -> str:
    """sha256 over the ids of `PROBE`, each as a little-endian uint32."""
    ids = probe_ids(tokenizer, end_of_text, stands)
    return hashlib.sha256(b"".join(token_id.to_bytes(4, "little") for token_id in ids)).hexdigest()
