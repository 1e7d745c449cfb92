"""Reading what somebody else wrote: whole files of bounded size, strict JSON, members of the right type.

A tokenizer file is input from strangers. What JSON leaves open is closed here: a key stands once, numbers are finite,
text is UTF-8 without lone surrogates, and a document takes neither more time nor more memory than a vocabulary needs.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import NoneType
from typing import Any, NoReturn

from bpetok.errors import FormatError, PatternError, VocabError
from bpetok.text import BYTE_LEVEL_ORDER, as_bytes

MAX_BYTES = 64 << 20  # twice the largest tokenizer.json of 2025 (Gemma 3's 33 MB)
_MAX_WEIGHT = 4 << 20  # a million tokens and their merges as arrays; some 300 MB at worst
_WEIGHTS = {b",": 1, b"[": 1, b"{": 4}  # what each makes of memory, an array's place being 1
_MAX_PATTERN = 1 << 16  # characters; the longest published one has some 1,200
_NAMES = {
    bool: "true or false",
    bytes: "bytes",
    dict: "an object",
    float: "a number",
    int: "a whole number",
    list: "an array",
    str: "a string",
    NoneType: "null",
}


def read_bytes(path: Path, limit: int = MAX_BYTES) -> bytes:
    """The bytes of a file that is no larger than `limit`.

    Raises:
        FormatError: it is larger, or no file but a pipe or a device, which might never end.
    """
    if path.exists() and not path.is_file():
        raise FormatError(f"{path}: must be a file, got a folder, a pipe or a device")
    with open(path, "rb") as file:
        contents = file.read(min(limit, path.stat().st_size) + 1)
    if len(contents) > limit:
        raise FormatError(f"{path}: a file of this format must be at most {limit} bytes, got {path.stat().st_size}")
    return contents


def read_text(path: Path, limit: int = MAX_BYTES) -> str:
    """The text of a file in UTF-8.

    Raises:
        FormatError: as `read_bytes`, and where it is not UTF-8; names the line.
    """
    contents = read_bytes(path, limit)
    try:
        return contents.decode()
    except UnicodeDecodeError as error:
        line = contents.count(b"\n", 0, error.start) + 1
        raise FormatError(f"{path}:{line}: must be UTF-8 text, got {contents[error.start : error.end]!r}") from error


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        FormatError: it is no JSON object, too large, too deep, or a key stands twice in one object.
    """
    return parse_json(read_text(path), str(path))


def parse_json(text: str, where: str) -> dict[str, Any]:
    """As `read_json`, of a text; `where` begins the error's message."""
    if sum(weight * text.count(mark.decode()) for mark, weight in _WEIGHTS.items()) > _MAX_WEIGHT:
        raise FormatError(f"{where}: must be a JSON document with fewer values than a vocabulary of a million tokens")
    try:
        document = json.loads(text, object_pairs_hook=_object, parse_constant=_no_number)
        if "\\u" in text:
            json.dumps(document, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise FormatError(f"{where}:{error.lineno}: must be a JSON document, got: {error}") from error
    except UnicodeEncodeError as error:
        raise FormatError(f"{where}: a string must not hold half of a surrogate pair, got {error}") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where}: must be a JSON document, got: {error}") from error
    if not isinstance(document, dict):
        raise FormatError(f"{where}: must be a JSON object, got {name_of_kind(document)}")
    return document


def _object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(members)
    if len(made) != len(members):
        twice, _ = Counter(key for key, _ in members).most_common(1)[0]
        raise ValueError(f"the key {twice!r:.80} twice in one object")
    return made


def _no_number(spelled: str) -> NoReturn:
    raise ValueError(f"{spelled}, which is no number of JSON")


def member(document: Mapping[str, Any], key: str, kinds: type | tuple[type, ...], where: str) -> Any:
    """The value of a key that must be there and of one of the types; true and false are no numbers.

    `where` is the file and, of a part of it, the path to that part: `tokenizer.json: model.`, or `tokenizer.json: `.

    Raises:
        FormatError: it is not there, or of another type.
    """
    wanted = kinds if isinstance(kinds, tuple) else (kinds,)
    if key in document and type(document[key]) in wanted:
        return document[key]
    got = f"{document[key]!r:.60}" if key in document else "nothing"
    raise FormatError(f"{where}{key} must be {names_of_kinds(wanted)}, got {got}")


def names_of_kinds(kinds: tuple[type, ...]) -> str:
    """The types in JSON's words: "an array or null"."""
    return " or ".join(_NAMES[kind] for kind in kinds)


def name_of_kind(value: object) -> str:
    """The type of a value in JSON's words: "an array"."""
    return _NAMES[type(value)]


def pattern_of(pattern: str, where: str) -> str:
    """The pattern, unless it is so long that compiling it would take forever, or holds half of a surrogate pair.

    Raises:
        FormatError: it does.
    """
    if as_bytes(pattern).decode() != pattern:
        raise FormatError(f"{where}: a pattern must not hold half of a surrogate pair, got {pattern!r:.60}")
    if len(pattern) > _MAX_PATTERN:
        raise FormatError(f"{where}: a pattern must have at most {_MAX_PATTERN} characters, got {len(pattern)}")
    return pattern


def decode_base64(text: str, where: str) -> bytes:
    """The bytes that base64 stands for, in its one canonical spelling.

    Raises:
        FormatError: it is no base64, or another spelling: blanks, or bits behind the last byte that are not 0.
    """
    try:
        decoded = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise FormatError(f"{where} must be base64, got {text!r:.60}") from error
    if base64.b64encode(decoded).decode() != text:
        raise FormatError(f"{where} must be base64 as RFC 4648 spells it, got {text!r:.60}")
    return decoded


@contextmanager
def naming(where: object) -> Iterator[None]:
    """Puts the file before the message of a vocabulary or a pattern that is refused within."""
    try:
        yield
    except (VocabError, PatternError) as error:
        raise type(error)(f"{where}: {error.message}", hint=error.hint) from error


_CHARACTERS = [chr(byte if place < 188 else 256 + place - 188) for byte, place in enumerate(BYTE_LEVEL_ORDER)]
_BYTE_OF = {character: byte for byte, character in enumerate(_CHARACTERS)}


def spell(token: bytes) -> str:
    r"""A token as byte-level BPE writes it: a character for each byte, "Ġ" for a blank.

    >>> spell(b" caf\xc3\xa9")
    'ĠcafÃ©'
    """
    return "".join([_CHARACTERS[byte] for byte in token])


def unspell(text: str) -> bytes | None:
    """The token that `spell` writes so; None where a character stands for no byte."""
    try:
        return bytes([_BYTE_OF[character] for character in text])
    except KeyError:
        return None
