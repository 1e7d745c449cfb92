"""The native format, `.bpetok`: one JSON document that holds a whole vocabulary.

```
{
"format": "bpetok",
"merges": [[97, 98], …]         pairs of ids in the order of training; null where they are not known
"name": "my",
"pattern": "…",                 the split expression in full; null for no split
"provenance": {…},
"semantics": "rank",
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
from bpetok.files import write_atomically
from bpetok.vocab import Vocab

SUFFIX = ".bpetok"
VERSION = 1
_KEYS: dict[str, tuple[type, ...]] = {
    "merges": (list, NoneType),
    "name": (str,),
    "pattern": (str, NoneType),
    "provenance": (dict,),
    "special_tokens": (dict,),
    "tokens": (list,),
    "unicode": (str, NoneType),
}


def recognises(head: bytes) -> bool:
    """Whether a file that begins with these bytes is in this format."""
    return head.lstrip().startswith(b"{") and b'"format": "bpetok"' in head


def write(vocab: Vocab, path: Path) -> None:
    """Writes the vocabulary; the file appears whole or not at all."""
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
    document["sha256"] = _digest(document)
    lines = ",\n".join(f"{json.dumps(key)}: {_compact(document[key])}" for key in sorted(document))
    write_atomically(path, f"{{\n{lines}\n}}\n".encode())


def read(path: Path) -> Vocab:
    """Reads the vocabulary.

    Raises:
        FormatError: the file is not in this format, or of a later version.
        CorruptionError: the file's contents do not have the checksum that it records.
        VocabError: the vocabulary breaks its own rules.
    """
    document = _parse(path)
    recorded = document.pop("sha256", None)
    if recorded != _digest(document):
        raise CorruptionError(
            f"{path}: sha256 must be {recorded}, got {_digest(document)}", hint="the file was altered"
        )
    vocab = Vocab(
        _ranks(document["tokens"], path),
        _special_tokens(document["special_tokens"], path),
        document["pattern"],
        _merges(document["merges"], path),
        document["name"],
        document["provenance"],
    )
    if vocab.split.unicode_version != document["unicode"]:
        raise FormatError(f"{path}: unicode must be {vocab.split.unicode_version}, got {document['unicode']}")
    return vocab


def _ranks(tokens: list[Any], path: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for token_id, token in enumerate(tokens):
        if token is None:
            continue
        try:
            decoded = base64.b64decode(token, validate=True)
        except (TypeError, ValueError) as error:
            raise FormatError(f"{path}: tokens[{token_id}] must be base64, got {token!r:.40}") from error
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
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: must be a JSON document, got: {error}") from error
    if not isinstance(document, dict) or document.get("format") != "bpetok":
        raise FormatError(f'{path}: must hold "format": "bpetok"')
    if document.get("version") != VERSION:
        raise FormatError(
            f"{path}: version must be {VERSION}, got {document.get('version')!r}", hint="a later bpetok wrote it"
        )
    for key, kinds in _KEYS.items():
        if key not in document or not isinstance(document[key], kinds):
            raise FormatError(f"{path}: {key} must be {_names(kinds)}, got {document.get(key)!r:.40}")
    if document.get("semantics") != "rank":
        raise FormatError(f"{path}: semantics must be 'rank', got {document.get('semantics')!r}")
    return document


def _names(kinds: tuple[type, ...]) -> str:
    names = {list: "an array", dict: "an object", str: "a string", NoneType: "null"}
    return " or ".join(names[kind] for kind in kinds)


def _compact(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _digest(document: dict[str, Any]) -> str:
    return hashlib.sha256(_compact(document).encode()).hexdigest()
