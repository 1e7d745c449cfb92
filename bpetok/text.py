"""Text: `str`, or `bytes` taken as UTF-8. Python's own code works on bytes; the core takes either."""

from __future__ import annotations

Text = str | bytes | bytearray | memoryview

_PRINTABLE = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
_BYTE_LEVEL_ALPHABET = sorted(range(256), key=lambda byte: (byte not in _PRINTABLE, byte))

BYTE_LEVEL_ORDER = bytes(sorted(range(256), key=_BYTE_LEVEL_ALPHABET.__getitem__))
"""Of each byte, its place among the 256 characters that GPT-2 writes bytes with, and byte-level BPE since: the
printable ones of Latin-1 first. Source: `bytes_to_unicode` in openai/gpt-2, src/encoder.py."""


def as_bytes(text: Text) -> bytes:
    r"""The text as UTF-8 bytes; bytes are taken as they are.

    A lone surrogate in a `str` counts as U+FFFD, the two halves of a pair as the one character that they make, as in
    tiktoken.

    Raises:
        TypeError: it is neither a `str` nor bytes.

    >>> as_bytes("é"), as_bytes("\ud83d\ude42 \ud83d").decode()
    (b'\xc3\xa9', '🙂 �')
    """
    if isinstance(text, bytes):
        return text
    if isinstance(text, str):
        try:
            return text.encode()
        except UnicodeEncodeError:
            return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()
    if isinstance(text, bytearray | memoryview):
        return bytes(text)
    raise no_text(text)


def no_text(thing: object) -> TypeError:
    """The error for what should be text and is not."""
    return TypeError(f"text must be str or bytes, got {type(thing).__name__}")
