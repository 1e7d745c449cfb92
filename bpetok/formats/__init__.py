"""Tokenizer files: one module a format, each with `read`, `write` and `recognises`.

A file's format is known by its content, never by its name. No format is pickle, and none is guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bpetok.errors import FormatError
from bpetok.formats import minbpe, native, tiktoken
from bpetok.vocab import Vocab

_HEAD_BYTES = 1 << 16


def read(path: Path, *, pattern: str | None = None, special_tokens: Mapping[str, int] | None = None) -> Vocab:
    """Reads a tokenizer file of any known format.

    Args:
        path: the file.
        pattern: how text is cut, for a format that does not say (tiktoken's ranks); "none" for no split.
        special_tokens: the special tokens and their ids, likewise.

    Raises:
        FormatError: no known format, or pattern and special tokens are missing, or given where the file has its own.
    """
    head = _head(path)
    if tiktoken.recognises(head):
        return _read_ranks(path, pattern, special_tokens)
    if pattern is not None or special_tokens is not None:
        raise FormatError(f"{path}: pattern and special_tokens must not be given for a file that has its own")
    if native.recognises(head):
        return native.read(path)
    if minbpe.recognises(head):
        return minbpe.read(path)
    raise FormatError(
        f"{path}: must be a .bpetok file, tiktoken ranks or a minbpe model, got a file that begins with {head[:24]!r}"
    )


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(_HEAD_BYTES)


def _read_ranks(path: Path, pattern: str | None, special_tokens: Mapping[str, int] | None) -> Vocab:
    from bpetok import encodings

    if pattern is not None and special_tokens is not None:
        return tiktoken.read(path, pattern=pattern, special_tokens=special_tokens)
    known = encodings.recognise(path.read_bytes())
    if known is None or pattern is not None or special_tokens is not None:
        raise FormatError(
            f"{path}: a file of ranks holds neither the split pattern nor the special tokens; both must be given",
            hint='bpetok.load(path, pattern="gpt4", special_tokens={"<|endoftext|>": 50256})',
        )
    return known


_WRITERS = {native.SUFFIX: native.write, tiktoken.SUFFIX: tiktoken.write, minbpe.SUFFIX: minbpe.write}


def check_suffix(path: Path) -> None:
    """Makes sure that `write` knows the file's suffix.

    Raises:
        FormatError: no format has it.
    """
    if path.suffix not in _WRITERS:
        raise FormatError(f"{path}: the suffix must be one of {', '.join(_WRITERS)}, got {path.suffix!r}")


def write(vocab: Vocab, path: Path) -> None:
    """Writes a vocabulary in the format that the file's suffix names: .bpetok, .tiktoken or .model.

    Raises:
        FormatError: no format has the suffix, or it cannot hold this vocabulary.
    """
    check_suffix(path)
    _WRITERS[path.suffix](vocab, path)
