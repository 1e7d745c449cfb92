"""Text and ids that come in chunks, cut anywhere."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, SupportsIndex

from bpetok import _core
from bpetok.text import Text, as_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CHUNK_BYTES = 1 << 22


class Window:
    """The part of a stream that is not finished with yet.

    >>> window = Window()
    >>> window.add(b"one two"), window.text
    (True, b'one two')
    >>> window.drop(3)
    >>> window.add(b"!"), window.text  # not worth another look until it has doubled
    (False, b' two!')
    """

    def __init__(self) -> None:
        """Empty."""
        self._parts: list[bytes] = []
        self._bytes = 0
        self._wanted = 0

    def add(self, chunk: bytes) -> bool:
        """Appends a chunk; whether there is so much that another look at the text pays.

        A pretoken that spans many chunks is looked at again only when the text has doubled, so that the whole work
        stays linear.
        """
        self._parts.append(chunk)
        self._bytes += len(chunk)
        return self._bytes >= self._wanted

    @property
    def text(self) -> bytes:
        """All that was added and not dropped."""
        self._parts = [b"".join(self._parts)]
        return self._parts[0]

    def drop(self, covered: int) -> None:
        """Takes away the first bytes, which are finished with."""
        self._parts = [self.text[covered:]]
        self._bytes = len(self._parts[0])
        self._wanted = 2 * self._bytes


class TextChunks:
    """Chunks of text as bytes: the halves of a surrogate pair may come in two chunks of `str`.

    >>> chunks = TextChunks()
    >>> chunks.add("a\\ud83d"), chunks.add("\\ude42").decode()
    (b'a', '🙂')
    """

    def __init__(self) -> None:
        """Nothing is held back."""
        self._half = ""

    def add(self, chunk: Text) -> bytes:
        """The bytes of a chunk; the first half of a pair at its end comes with the next."""
        held, self._half = self._half, ""
        if not isinstance(chunk, str):
            return as_bytes(held) + as_bytes(chunk)
        chunk = held + chunk
        if "\ud800" <= chunk[-1:] <= "\udbff":
            chunk, self._half = chunk[:-1], chunk[-1]
        return as_bytes(chunk)

    @property
    def held(self) -> bytes:
        """What is held back, as it counts if nothing comes."""
        return as_bytes(self._half)

    def finish(self) -> bytes:
        """What is held back, which is not held any longer."""
        held, self._half = self.held, ""
        return held


class StreamingEncoder(Protocol):
    """What `StreamEncoder` needs of an encoder."""

    def encode_to_numpy(self, text: Text) -> NDArray[np.uint32]:
        """The ids of a whole text."""

    def encode_stable(self, text: bytes) -> tuple[NDArray[np.uint32], int]:
        """The ids that no further text can change, and how many bytes they cover."""


class StreamEncoder:
    """Encodes text that comes in chunks, cut anywhere; made by `Tokenizer.stream_encoder`.

    All ids together are those of the whole text. Memory: a chunk, the longest pretoken and the longest special token.

    Args:
        encoder: encodes.
        specials: the special tokens that become their id, None for none.
        longest: how many bytes the longest of those has.
    """

    def __init__(self, encoder: StreamingEncoder, specials: _core.Specials | None = None, longest: int = 0) -> None:
        """See the class."""
        self._encoder = encoder
        self._specials = specials
        self._longest = longest
        self._chunks = TextChunks()
        self._unsearched = b""
        self._window = Window()

    def feed(self, chunk: Text) -> NDArray[np.uint32]:
        """The ids that are sure now; possibly none."""
        return self._take(self._chunks.add(chunk), at_end=False)

    def finish(self) -> NDArray[np.uint32]:
        """The ids of the rest. The encoder can be used for another text then."""
        return self._take(self._chunks.finish(), at_end=True)

    @property
    def pending(self) -> bytes:
        """The text whose ids are not given out yet."""
        return self._window.text + self._unsearched + self._chunks.held

    def _take(self, data: bytes, at_end: bool) -> NDArray[np.uint32]:
        import numpy as np

        arrays = [np.zeros(0, np.uint32)]
        if self._specials is None:
            arrays.append(self._encode(data, at_end))
        else:
            arrays += self._search(self._specials, self._unsearched + data, at_end)
        return np.concatenate(arrays) if len(arrays) > 2 else arrays[-1]

    def _search(self, specials: _core.Specials, text: bytes, at_end: bool) -> Iterator[NDArray[np.uint32]]:
        """Encodes up to where a special token might begin that is not whole yet."""
        import numpy as np

        sure = len(text) if at_end else max(0, len(text) - self._longest + 1)
        begin = 0
        while (found := specials.find(text, begin)) is not None and found[0] < sure:
            yield self._encode(text[begin : found[0]], at_end=True)
            yield np.array([found[2]], np.uint32)
            begin = found[1]
        sure = max(begin, sure)
        self._unsearched = text[sure:]
        yield self._encode(text[begin:sure], at_end)

    def _encode(self, data: bytes, at_end: bool) -> NDArray[np.uint32]:
        import numpy as np

        worth_a_look = self._window.add(data)
        if at_end:
            text, self._window = self._window.text, Window()
            return self._encoder.encode_to_numpy(text)
        if not worth_a_look:
            return np.zeros(0, np.uint32)
        ids, covered = self._encoder.encode_stable(self._window.text)
        self._window.drop(covered)
        return ids


class StreamDecoder:
    """Decodes ids that come one by one or many at a time; made by `Tokenizer.stream_decoder`.

    Args:
        decoder: knows the bytes of the ids.
        errors: what bytes that are not UTF-8 become, as in `bytes.decode`.
    """

    def __init__(self, decoder: _core.Decoder, errors: str = "replace") -> None:
        """See the class."""
        self._decoder = decoder
        self._characters = codecs.getincrementaldecoder("utf-8")(errors)

    def feed(self, tokens: int | Iterable[int] | NDArray[np.integer[Any]]) -> str:
        """The text that is whole now; half a character is held back until its other half comes."""
        if isinstance(tokens, SupportsIndex) and not isinstance(tokens, Iterable):
            return self._characters.decode(self._decoder.token(tokens.__index__()))
        return self._characters.decode(self._decoder.decode(tokens))

    def finish(self) -> str:
        """What is left: half a character, as `errors` wants it. The decoder can be used anew then."""
        text = self._characters.decode(b"", final=True)
        self._characters.reset()
        return text


class TokenCounter:
    """How many ids a text has that grows; made by `Tokenizer.counter`.

    Args:
        encoder: a fresh one.
        count: counts the ids of a whole text.
    """

    def __init__(self, encoder: StreamEncoder, count: Any) -> None:
        """See the class."""
        self._encoder = encoder
        self._count = count
        self._sure = 0

    def append(self, chunk: Text) -> int:
        """Appends text, and gives how many ids the whole has now.

        Cost: as counting the chunk and the last pretokens.
        """
        self._sure += len(self._encoder.feed(chunk))
        return self.total

    @property
    def total(self) -> int:
        """How many ids the text has, as if it ended here."""
        return self._sure + int(self._count(self._encoder.pending))


def chunks_of(file: BinaryIO, size: int = CHUNK_BYTES) -> Iterator[bytes]:
    """The contents of an open file or pipe, at most `size` bytes at a time."""
    while chunk := file.read(size):
        yield chunk
