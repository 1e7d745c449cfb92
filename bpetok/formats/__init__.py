"""Tokenizer files: one module a format, each with `recognises`, `read` and `write`.

| name | what it is | written where the path is |
|---|---|---|
| `bpetok` | our own: everything in one JSON document | `*.bpetok` |
| `tiktoken` | ranks alone: neither pattern nor special tokens | `*.tiktoken` |
| `tiktoken-plugin` | a folder with a module for `tiktoken.get_encoding` | named by format |
| `huggingface` | `tokenizer.json`, alone or in a folder for `transformers` | `tokenizer.json` |
| `minbpe` | minbpe's `.model` | `*.model` |
| `tekken` | Mistral's `tekken.json` | `tekken.json` |
| `gguf` | llama.cpp's model files, the tokenizer's fields of them | `*.gguf` |

A file's format is known by its content, never by its name; a folder's by what lies in it. None is guessed, and none is
pickle: what could run code, or is not byte-level BPE, is recognised and refused by name.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bpetok.errors import FormatError
from bpetok.vocab import Vocab

_HEAD_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Format:
    """A format of tokenizer files.

    Attributes:
        name: what users call it.
        module: its module in `bpetok.formats`, imported when it is needed.
        suffix: the suffix of files that are written in it; "" where none is its own.
        file_name: the full name of such files, likewise.
        inside: what a folder holds by which it is recognised; "" for a format of files alone.
    """

    name: str
    module: str
    suffix: str = ""
    file_name: str = ""
    inside: str = ""

    def load(self) -> Any:
        """The module with `recognises(head)`, `read(path)` and `write(vocab, path)`."""
        return importlib.import_module(f"bpetok.formats.{self.module}")


FORMATS = (  # in the order in which they are asked whether they recognise a file
    Format("bpetok", "native", suffix=".bpetok"),
    Format("tiktoken", "tiktoken", suffix=".tiktoken"),
    Format("minbpe", "minbpe", suffix=".model"),
    Format("gguf", "gguf", suffix=".gguf"),
    Format("huggingface", "huggingface", file_name="tokenizer.json", inside="tokenizer.json"),
    Format("tekken", "tekken", file_name="tekken.json", inside="tekken.json"),
    Format("tiktoken-plugin", "plugin", inside="tiktoken_ext"),
)
_BY_NAME = {one.name: one for one in FORMATS}
NAMES = tuple(sorted(_BY_NAME))
"""The names of the formats, as `write` and the command line take them."""


def read(
    path: str | os.PathLike[str], *, pattern: str | None = None, special_tokens: Mapping[str, int] | None = None
) -> Vocab:
    """Reads a tokenizer file, or a folder with one, of any known format.

    Args:
        path: the file or folder.
        pattern: how text is cut, for a format that does not say (tiktoken's ranks); "none" for no split.
        special_tokens: the special tokens and their ids, likewise.

    Raises:
        FormatError: no known format, or pattern and special tokens are missing, or given where the file has its own.
    """
    path = Path(path)
    if special_tokens is not None and not isinstance(special_tokens, Mapping):
        raise TypeError(f"special_tokens must map each text to its id, got {special_tokens!r:.80}")
    found = _recognise_folder(path) if path.is_dir() else _recognise(path)
    if found.name == "tiktoken":
        return _read_ranks(path, pattern, special_tokens)
    if pattern is not None or special_tokens is not None:
        raise FormatError(f"{path}: pattern and special_tokens must not be given for a file that has its own")
    vocab: Vocab = found.load().read(path / found.file_name if path.is_dir() else path)
    return vocab


def recognise(path: Path) -> str:
    """The name of the format of a file or folder.

    Raises:
        FormatError: no known format, or one that is never read.
    """
    return (_recognise_folder(path) if path.is_dir() else _recognise(path)).name


def _recognise(path: Path) -> Format:
    if path.exists() and not path.is_file():
        raise FormatError(f"{path}: must be a file or a folder, got a pipe or a device")
    with open(path, "rb") as file:
        head = file.read(_HEAD_BYTES)
    if refused := _refused(head):
        raise FormatError(f"{path}: must be a .bpetok file, tiktoken ranks or another known format, got {refused}")
    for one in FORMATS:
        if one.load().recognises(head):
            return one
    raise FormatError(
        f"{path}: must be a .bpetok file, tiktoken ranks or another known format, "
        f"got {f'a file that begins with {head[:24]!r}' if head else 'an empty file'}",
        hint=_PAIR_HINT if path.name in _PAIR else f"the formats are {', '.join(NAMES)}",
    )


_PAIR = ("vocab.json", "merges.txt", "encoder.json", "vocab.bpe")
_PAIR_HINT = "GPT-2's pair of files is not read: take the tokenizer.json that goes with it"


def _refused(head: bytes) -> str | None:
    """What a file is that is known and never read, by its first bytes."""
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a pickle, which could run code and is never read"
    if head.startswith(b"PK\x03\x04"):
        return "a zip file (PyTorch's checkpoints are such), which is never read"
    if head[8:9] == b"{" and head[5:8] == bytes(3):
        return "safetensors, which hold weights and no tokenizer"
    if head.startswith(b"\x1f\x8b"):
        return "a gzip file; unpack it first"
    if head.startswith(b"\n") and any(piece in head[:4096] for piece in (b"<unk>", b"\xe2\x96\x81", b"<s>")):
        return "a sentencepiece model, which is not byte-level BPE"
    return None


def _recognise_folder(path: Path) -> Format:
    found = [one for one in FORMATS if one.inside and (path / one.inside).exists()]
    if len(found) == 1:
        return found[0]
    kinds = ", ".join(one.inside for one in FORMATS if one.inside)
    got = " and ".join(one.inside for one in found) or "none of them"
    raise FormatError(f"{path}: a tokenizer's folder must hold one of {kinds}, got {got}", hint="name the file itself")


def _read_ranks(path: Path, pattern: str | None, special_tokens: Mapping[str, int] | None) -> Vocab:
    from bpetok import encodings
    from bpetok.formats import documents, tiktoken

    if pattern is not None and special_tokens is not None:
        return tiktoken.read(path, pattern=pattern, special_tokens=special_tokens)
    known = encodings.recognise(documents.read_bytes(path))
    if known is None or pattern is not None or special_tokens is not None:
        raise FormatError(
            f"{path}: a file of ranks holds neither the split pattern nor the special tokens; both must be given",
            hint='bpetok.load(path, pattern="gpt4", special_tokens={"<|endoftext|>": 50256})',
        )
    return known


def format_to_write(path: Path, format: str | None = None) -> Format:
    """The format that `write` takes for a path.

    Args:
        path: where to write.
        format: the format's name, if it is named; else the file's name or suffix decides.

    Raises:
        FormatError: no format has this name; or none is named and the path stands for none, or for several.
    """
    hint = f"name the format: {', '.join(NAMES)}"
    if format is not None:
        if format not in _BY_NAME:
            raise FormatError(f"{path}: format must be one of {', '.join(NAMES)}, got {format!r}")
        return _BY_NAME[format]
    for one in FORMATS:
        if path.name == one.file_name or (one.suffix and path.suffix == one.suffix):
            return one
    suffixes = ", ".join([one.suffix for one in FORMATS if one.suffix])
    names = " or ".join([one.file_name for one in FORMATS if one.file_name])
    raise FormatError(
        f"{path}: the suffix must be one of {suffixes}, or the name {names}, got {path.name!r}", hint=hint
    )


def check_suffix(path: Path) -> None:
    """Makes sure that `write` knows a format by the file's name alone.

    Raises:
        FormatError: as `format_to_write`.
    """
    format_to_write(path)


def write(vocab: Vocab, path: str | os.PathLike[str], *, format: str | None = None) -> None:
    """Writes a vocabulary in a format by name, or else in the one that the file's name or suffix stands for.

    What is written was proven first: the format's own library, where it is installed, gives a probe text our ids.

    Raises:
        FormatError: as `format_to_write`; or the format cannot hold this vocabulary, or it could not be proven; or the
            folder has a tokenizer in another format, beside which this one could not be told.
    """
    path = Path(path)
    chosen = format_to_write(path, format)
    others = [one.inside for one in FORMATS if one.inside not in ("", chosen.inside) and (path / one.inside).exists()]
    if others:
        raise FormatError(
            f"{path}: the folder must hold no other tokenizer, got {others[0]}", hint="name another folder"
        )
    chosen.load().write(vocab, path)
