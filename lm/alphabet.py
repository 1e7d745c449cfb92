"""The alphabet: the characters of a text, or the 256 bytes, as a vocabulary.

The lower rungs learn letter by letter, so their vocabulary is the text's own characters: 27 for names.txt (the end of
a line and a to z), 65 for tiny Shakespeare. It offers what `bpetok.Tokenizer` offers to lm (`Vocabulary`).
"""

import codecs
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, Self, final

import numpy as np
from numpy.typing import NDArray

from bpetok.errors import CorruptionError, DataError
from bpetok.files import write_atomically
from lm.errors import require

NEWLINE = "\n"
_FORMAT, _VERSION = "lm alphabet", 1


class Vocabulary(Protocol):
    """What lm asks of ids and their text; `bpetok.Tokenizer` and `Alphabet` have it."""

    @property
    def n_vocab(self) -> int:
        """V: ids are in [0, V)."""

    @property
    def fingerprint(self) -> str:
        """sha256 in hex, over what decides the ids."""

    def encode_ordinary(self, text: str) -> list[int]:
        """The ids of a text."""

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of ids."""

    def decode_stream(self, tokens: Iterable[int]) -> Iterator[str]:
        """The text of ids that come one by one, never half a character."""

    def token_byte_lengths(self) -> NDArray[np.int64]:
        """lengths_V: the bytes of text that an id stands for."""

    def save(self, path: Path) -> None:
        """Writes the vocabulary to a file."""


@final
@dataclass(frozen=True)
class Alphabet:
    """Characters and their ids: a character's place is its id.

    Args:
        characters: each once, and no half of a surrogate pair, which UTF-8 cannot write; None for the 256 bytes of
            UTF-8, whose ids are their values.

    >>> alphabet = Alphabet.of_text("emma\\nava\\n")
    >>> alphabet.characters, alphabet.encode_ordinary("ave\\n")
    ('\\naemv', [1, 4, 2, 0])
    >>> alphabet.decode([1, 4, 1])
    'ava'
    """

    characters: str | None

    def __post_init__(self) -> None:
        """Checks the characters; raises ConfigError."""
        if self.characters is not None:
            require(len(self.characters) > 0, "alphabet: characters", "one or more", self.characters)
            once = len(set(self.characters)) == len(self.characters)
            require(once, "alphabet: characters", "each there once", self.characters)
            written = not any("\ud800" <= character <= "\udfff" for character in self.characters)
            require(written, "alphabet: characters", "without surrogates", self.characters)

    @classmethod
    def of_text(cls, text: str, *, newline_first: bool = False) -> Self:
        """The characters of a text in the order of their code points.

        Args:
            text: at least one character.
            newline_first: give the end of a line id 0, whatever sorts before it, and also where the text has none.
                It then fills up windows, too (`lm.models.contract.PAD`), as `.` does in the lectures.
        """
        if not text:
            raise DataError("alphabet: text must have a character or more, got none")
        found = sorted(set(text))
        if newline_first:
            found = [NEWLINE, *(character for character in found if character != NEWLINE)]
        return cls("".join(found))

    @property
    def n_vocab(self) -> int:
        """V."""
        return 256 if self.characters is None else len(self.characters)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 in hex, over the characters in their order."""
        return hashlib.sha256(json.dumps([_FORMAT, _VERSION, self.characters]).encode()).hexdigest()

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {character: id_ for id_, character in enumerate(self.characters or "")}

    def encode_ordinary(self, text: str) -> list[int]:
        """The id of each character, or of each byte.

        Raises:
            DataError: if a character is not in the alphabet, or is half of a surrogate pair and so has no bytes; names
                it, and where it stands.
        """
        if self.characters is None:
            try:
                return list(text.encode())
            except UnicodeEncodeError as error:
                place = error.start
                message = f"alphabet: character {place} must be one that UTF-8 can write, got {text[place]!r}"
                raise DataError(message) from None
        try:
            return [self._ids[character] for character in text]
        except KeyError as error:
            place = text.index(error.args[0])
            message = f"alphabet: character {place} must be one of {self.characters!r}, got {error.args[0]!r}"
            raise DataError(message, hint="the alphabet is that of the text that the run was trained on") from None

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of ids; bytes that are not UTF-8 become U+FFFD.

        Raises:
            DataError: if an id is not in [0, V).
        """
        return "".join(self.decode_stream(tokens))

    def decode_stream(self, tokens: Iterable[int]) -> Iterator[str]:
        """The text of ids that come one by one, never half a character.

        Raises:
            DataError: if an id is not in [0, V).
        """
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for id_ in tokens:
            if not 0 <= id_ < self.n_vocab:
                raise DataError(f"alphabet: id must be in [0, {self.n_vocab}), got {id_}")
            text = decoder.decode(bytes([id_])) if self.characters is None else self.characters[id_]
            if text:
                yield text
        if rest := decoder.decode(b"", final=True):
            yield rest

    def token_byte_lengths(self) -> NDArray[np.int64]:
        """lengths_V: the bytes of each character in UTF-8."""
        if self.characters is None:
            return np.ones(256, dtype=np.int64)
        return np.array([len(character.encode()) for character in self.characters], dtype=np.int64)

    def save(self, path: Path) -> None:
        """Writes a JSON file that `load` reads."""
        document = {"format": _FORMAT, "version": _VERSION, "characters": self.characters}
        write_atomically(path, (json.dumps(document, indent=1) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> Self:
        """The alphabet that `save` wrote.

        Raises:
            CorruptionError: if the file is not as it was written.
            OSError: if it cannot be read.
        """
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            if (document["format"], document["version"]) != (_FORMAT, _VERSION):
                raise ValueError("another format or version")
            characters = document["characters"]
            if not (characters is None or isinstance(characters, str)):
                raise ValueError("characters are neither a string nor null")
            return cls(characters)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CorruptionError(f"{path}: an alphabet must be as it was written, got {error}") from None


BYTES = Alphabet(None)
"""The 256 bytes."""
