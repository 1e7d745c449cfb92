"""The native format, `.bpetok`: one JSON document that holds a whole vocabulary.

```
{
"format": "bpetok",
"ignore_merges": true,          only where a pretoken that is a token has its id, whatever the merges say
"merges": [[97, 98], …]         pairs of ids in the order of training; null where they are not known
"name": "my",
"normalization": "NFC",         only where text is normalized before it is cut
"pattern": "…",                 the split expression in full, an array of several, or null for no split
"provenance": {…},
"semantics": "rank",            or "merges"
"sha256": "…",                  over all other keys, as compact JSON with sorted keys
"special_tokens": {"<|endoftext|>": 257},
"tokens": ["AA==", …],          base64 of the bytes of each id, in order; null where no token that merges has the id
"unicode": "16.0",              which Unicode data the pattern goes by; null where it asks none
"version": 1
}
```
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from types import NoneType
from typing import Any

from bpetok.errors import CorruptionError, FormatError
from bpetok.formats import documents, probe
from bpetok.patterns import Pattern
from bpetok.vocab import Vocab

NAME = "bpetok"
SUFFIX = ".bpetok"
VERSION = 1
_KEYS: dict[str, tuple[type, ...]] = {
    "merges": (list, NoneType),
    "name": (str,),
    "pattern": (str, list, NoneType),
    "provenance": (dict,),
    "semantics": (str,),
    "special_tokens": (dict,),
    "tokens": (list,),
    "unicode": (str, NoneType),
}
_OTHER_KEYS = {"format", "ignore_merges", "normalization", "sha256", "version"}


def recognises(head: bytes) -> bool:
    """Whether a file that begins with these bytes is in this format."""
    return head.lstrip().startswith(b"{") and b'"format": "bpetok"' in head


def write(vocab: Vocab, path: Path) -> None:
    """Writes the vocabulary; the file appears whole or not at all.

    Raises:
        FormatError: what is written is not what is read again, as where the provenance holds what JSON does not.
    """
    tokens: list[str | None] = [None] * (max(vocab.ranks.values()) + 1)
    for token, token_id in vocab.ranks.items():
        tokens[token_id] = base64.b64encode(token).decode()
    document = {
        "format": "bpetok",
        "version": VERSION,
        "name": vocab.name,
        "pattern": vocab.pattern,
        "unicode": vocab.split.unicode_version,
        "semantics": vocab.semantics,
        "tokens": tokens,
        "merges": None if vocab.merges is None else [list(pair) for pair in vocab.merges],
        "special_tokens": dict(vocab.special_tokens),
        "provenance": dict(vocab.provenance),
    }
    if vocab.ignore_merges:
        document["ignore_merges"] = True
    if vocab.normalization:
        document["normalization"] = vocab.normalization
    document["sha256"] = _digest(document)
    lines = ",\n".join(f"{json.dumps(key)}: {_compact(document[key])}" for key in sorted(document))
    with probe.proven(path) as written:
        written.write_bytes(f"{{\n{lines}\n}}\n".encode())
        again = read(written)
        if again != vocab:
            raise FormatError(f"{path}: must hold {vocab!r}, got {again!r} when it was read again")


def read(path: Path) -> Vocab:
    """Reads the vocabulary.

    Raises:
        FormatError: the file is not in this format, or of a later version.
        CorruptionError: the file's contents do not have the checksum that it records.
        VocabError: the vocabulary breaks its own rules.
    """
    document = _parse(path)
    recorded = document.pop("sha256", None)
    try:
        digest = _digest(document)
    except RecursionError as error:
        raise FormatError(f"{path}: must be a JSON document of a few levels, got: {error}") from error
    if recorded != digest:
        raise CorruptionError(f"{path}: sha256 must be {recorded!s:.64}, got {digest}", hint="the file was altered")
    parts = (
        _ranks(document["tokens"], path),
        _special_tokens(document["special_tokens"], path),
        _pattern(document["pattern"], path),
        _merges(document["merges"], path),
    )
    with documents.naming(path):
        vocab = Vocab(
            *parts,
            document["name"],
            document["provenance"],
            document["semantics"],
            ignore_merges=document.get("ignore_merges", False),
            normalization=document.get("normalization"),
        )
    if vocab.split.unicode_version != document["unicode"]:
        raise FormatError(f"{path}: unicode must be {vocab.split.unicode_version}, got {document['unicode']}")
    return vocab


def _pattern(pattern: str | list[Any] | None, path: Path) -> Pattern:
    if pattern is None:
        return None
    steps = [pattern] if isinstance(pattern, str) else pattern
    if not all(isinstance(step, str) for step in steps) or (steps is pattern and not 2 <= len(steps) <= 64):
        raise FormatError(f"{path}: pattern must be a string, null or an array of several strings, got {pattern!r:.80}")
    checked = tuple([documents.pattern_of(step, f"{path}: pattern") for step in steps])
    return checked if steps is pattern else checked[0]


def _ranks(tokens: list[Any], path: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for token_id, token in enumerate(tokens):
        if token is None:
            continue
        if not isinstance(token, str):
            raise FormatError(f"{path}: tokens[{token_id}] must be base64 or null, got {token!r:.40}")
        decoded = documents.decode_base64(token, f"{path}: tokens[{token_id}]")
        if decoded in ranks:
            raise FormatError(f"{path}: tokens[{token_id}] must stand once, got {decoded!r} again")
        ranks[decoded] = token_id
    return ranks


def _special_tokens(special_tokens: dict[str, Any], path: Path) -> dict[str, int]:
    for text, token_id in special_tokens.items():
        if type(token_id) is not int:
            raise FormatError(f"{path}: special_tokens[{text!r}] must be an id, got {token_id!r:.40}")
    return special_tokens


def _merges(merges: list[Any] | None, path: Path) -> list[tuple[int, int]] | None:
    for i, pair in enumerate(merges or ()):
        if not (isinstance(pair, list) and len(pair) == 2 and all(type(token_id) is int for token_id in pair)):
            raise FormatError(f"{path}: merges[{i}] must be a pair of ids, got {pair!r:.40}")
    return None if merges is None else [(left, right) for left, right in merges]


def _parse(path: Path) -> dict[str, Any]:
    document = documents.read_json(path)
    if document.get("format") != "bpetok":
        raise FormatError(f'{path}: must hold "format": "bpetok"')
    if type(version := document.get("version")) is not int or version != VERSION:
        raise FormatError(f"{path}: version must be {VERSION}, got {version!r:.40}", hint="a later bpetok wrote it")
    for key, kinds in _KEYS.items():
        if key not in document or not isinstance(document[key], kinds):
            expected = documents.names_of_kinds(kinds)
            raise FormatError(f"{path}: {key} must be {expected}, got {document.get(key)!r:.40}")
    if not isinstance(document.get("ignore_merges", False), bool):
        raise FormatError(f"{path}: ignore_merges must be true or false, got {document['ignore_merges']!r:.40}")
    if unknown := sorted(document.keys() - _KEYS.keys() - _OTHER_KEYS):
        raise FormatError(f"{path}: must hold no keys but those of the format, got {unknown[0]!r:.40}")
    return document


def _compact(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _digest(document: dict[str, Any]) -> str:
    return hashlib.sha256(_compact(document).encode()).hexdigest()
