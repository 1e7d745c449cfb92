"""The errors of bpetok, all under one root.

```
BpetokError                     root: everything that bpetok raises on purpose
├── VocabError        ValueError     a vocabulary that breaks its own rules
├── PatternError      ValueError     a split pattern that is unknown or does not compile
├── FormatError       ValueError     a file that is not what it has to be
├── DataError         ValueError     input data that cannot be used: an empty corpus, a bad row
├── SpecialTokenError ValueError     a special token in text where it was not allowed
├── UnknownTokenError KeyError       bytes that are no token, a name that is no encoding's model
├── UnknownIdError    KeyError       an id that no token has
├── IdRangeError      OverflowError  an id that is negative or does not fit 32 bits
├── EncodingError     ValueError     an encoding's name that is not known
├── UnavailableError  OSError        a vocabulary that is not on this machine and cannot be fetched
├── CorruptionError   ValueError     a file whose size or checksum is not the recorded one
├── IncompatibleError ValueError     tokenizer, shards or model that do not belong together
├── WorkerError       RuntimeError   a process that did a part of the work and died
├── MemoryLimitError  MemoryError    work that needs more memory than it was allowed
└── MissingExtraError ImportError    an optional part of the package that is not installed
```

Each class is also the built-in exception that tiktoken raises in that place. A message says where, what was
expected and what came; `hint` says what to do and is printed on a line of its own.
"""

from __future__ import annotations


class BpetokError(Exception):
    """Root of the tree: `except BpetokError` catches whatever bpetok raises on purpose."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        """`message` says what is wrong and where; `hint` what to do about it."""
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """Message and hint; without the quotes that `KeyError` would put around them."""
        return self.message if self.hint is None else f"{self.message}\nhint: {self.hint}"

    def __reduce__(self) -> tuple[object, ...]:
        """Pickles with its hint, so that errors cross process borders whole."""
        return _rebuild, (type(self), self.message, self.hint)


def _rebuild(kind: type[BpetokError], message: str, hint: str | None) -> BpetokError:
    return kind(message, hint=hint)


class VocabError(BpetokError, ValueError):
    """A vocabulary breaks its own rules: a missing byte, an id given twice, an empty token."""


class PatternError(BpetokError, ValueError):
    """A split pattern is neither a known name nor a regular expression that compiles."""


class FormatError(BpetokError, ValueError):
    """A file is not in the format that it was read as, or does not hold what that format needs."""


class DataError(BpetokError, ValueError):
    """Input data cannot be used: an empty corpus, a row without its field, ids that are no numbers."""


class SpecialTokenError(BpetokError, ValueError):
    """Text holds a special token that the call did not allow, or a special was named that does not exist."""


def special_token_refused(special: str) -> SpecialTokenError:
    """The error of a text that holds a special token which the call did not allow."""
    return SpecialTokenError(
        f"encode: the text holds the special token {special!r}, which was not allowed",
        hint=f"allowed_special={{{special!r}}} makes it an id; disallowed_special=() takes it as text",
    )


class UnknownTokenError(BpetokError, KeyError):
    """The bytes are no single token of the vocabulary, or no encoding is known for the model's name."""


class UnknownIdError(BpetokError, KeyError):
    """No token of the vocabulary has this id."""


class IdRangeError(BpetokError, OverflowError):
    """An id is negative or does not fit 32 bits."""


class EncodingError(BpetokError, ValueError):
    """No encoding has this name."""


class UnavailableError(BpetokError, OSError):
    """A vocabulary file is not on this machine and could not be downloaded."""


class CorruptionError(BpetokError, ValueError):
    """A file's size or checksum is not what was recorded when it was written."""


class IncompatibleError(BpetokError, ValueError):
    """A tokenizer, a set of shards or a model was made with another vocabulary or for another model."""


class WorkerError(BpetokError, RuntimeError):
    """A process that did a part of the work died; the message names the part."""


class MemoryLimitError(BpetokError, MemoryError):
    """The work needs more memory than the caller allowed; nothing of it was written."""


class MissingExtraError(BpetokError, ImportError):
    """An optional part of the package is needed here and is not installed.

    Args:
        extra: the extra's name, as in `pip install "bpetok[lm]"`.
    """

    def __init__(self, extra: str, *, hint: str | None = None) -> None:
        """`extra` names it; `hint` replaces the usual one."""
        super().__init__(
            f"bpetok[{extra}]: an optional package must be installed for this, but is not",
            hint=hint or f'pip install "bpetok[{extra}]"   (in a checkout: pip install -e ".[{extra}]")',
        )
        self.extra = extra

    def __reduce__(self) -> tuple[object, ...]:
        """Pickles by the extra's name and the hint."""
        return _rebuild_missing_extra, (self.extra, self.hint)


def _rebuild_missing_extra(extra: str, hint: str | None) -> MissingExtraError:
    return MissingExtraError(extra, hint=hint)
