"""Packed files: gzip, zstd, xz and bz2, unpacked piece by piece; and reading ahead in a thread.

A file may be several packed parts one after the other, as `cat` makes them. What ends too early or is damaged is
refused, never taken for the end: that is why the decoders are driven here and not by the readers of their modules,
of which some stop silently (zstandard's at a frame that is cut off, lzma's and bz2's at what follows the first part).
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

from bpetok.errors import DataError, MissingExtraError

_READ_BYTES = 1 << 16
_PIECE_BYTES = 1 << 20
_ZSTD_BYTES = 1 << 12  # its decoder has no limit of output, and so much input makes at most 128 MiB
_XZ_MEMORY = 1 << 29

T = TypeVar("T")


class Readable(Protocol):
    """What can be read: an open file or pipe."""

    def read(self, size: int, /) -> bytes:
        """At most so many bytes; none at the end."""


def unpacked(file: Readable, packing: str, name: str) -> Iterator[bytes]:
    """The contents of a packed file, at most a MiB at a time (zstd: as many as 4 KiB of the file make).

    Args:
        file: is read from where it stands.
        packing: "gzip", "zstd", "xz" or "bz2".
        name: the file's, for messages.

    Raises:
        DataError: the file ends too early, is damaged or is not packed in that way.
        MissingExtraError: zstd without the package zstandard.
        OSError: the file cannot be read.
    """
    makers: dict[str, Callable[[], _Decoder]] = {"gzip": _Gzip, "zstd": _Zstd, "xz": _Xz, "bz2": _Bz2}
    make = makers[packing]
    decoder: _Decoder | None = None
    parts = 0
    while data := file.read(_READ_BYTES):
        while True:
            if decoder is None:
                data = data.lstrip(b"\0") if parts else data  # padding between parts; no part begins with a zero
                if not data:
                    break
                decoder = make()
            try:
                yield from decoder.feed(data)
            except decoder.errors as error:
                raise DataError(f"{name}: must be a whole {packing} file, got a damaged one: {error}") from error
            if not decoder.ended:
                break
            data, decoder, parts = decoder.rest, None, parts + 1
    if decoder is not None or not parts:
        raise DataError(f"{name}: must be a whole {packing} file, got one that ends too early")


class _Decoder(ABC):
    """One packed part.

    Attributes:
        ended: whether the part is whole.
        rest: what was fed and lies behind its end.
        errors: what `feed` raises where the part is damaged.
    """

    def __init__(self, *errors: type[Exception]) -> None:
        self.ended, self.rest, self.errors = False, b"", errors

    @abstractmethod
    def feed(self, data: bytes) -> Iterator[bytes]:
        """What the next bytes of the file hold."""


class _Gzip(_Decoder):
    def __init__(self) -> None:
        import zlib

        super().__init__(zlib.error)
        self._decoder = zlib.decompressobj(wbits=31)  # gzip alone, checksum and length included

    def feed(self, data: bytes) -> Iterator[bytes]:
        decoder = self._decoder
        while True:
            piece = decoder.decompress(data, _PIECE_BYTES)
            data = decoder.unconsumed_tail
            if piece:
                yield piece
            if decoder.eof or (not data and len(piece) < _PIECE_BYTES):
                break
        self.ended, self.rest = decoder.eof, decoder.unused_data


class _Blocks(_Decoder):
    """What xz and bz2 have in common."""

    def __init__(self, decoder: Any, error: type[Exception]) -> None:
        super().__init__(error)
        self._decoder = decoder

    def feed(self, data: bytes) -> Iterator[bytes]:
        decoder = self._decoder
        while True:
            piece = decoder.decompress(data, _PIECE_BYTES)
            data = b""
            if piece:
                yield piece
            if decoder.eof or decoder.needs_input:
                break
        self.ended, self.rest = decoder.eof, decoder.unused_data


class _Bz2(_Blocks):
    def __init__(self) -> None:
        import bz2

        super().__init__(bz2.BZ2Decompressor(), OSError)


class _Xz(_Blocks):
    def __init__(self) -> None:
        import lzma

        super().__init__(lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY), lzma.LZMAError)


class _Zstd(_Decoder):
    def __init__(self) -> None:
        try:
            import zstandard
        except ImportError as error:
            raise MissingExtraError("data") from error
        super().__init__(zstandard.ZstdError)
        self._decoder = zstandard.ZstdDecompressor().decompressobj()

    def feed(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), _ZSTD_BYTES):
            if piece := self._decoder.decompress(data[start : start + _ZSTD_BYTES]):
                yield piece
            if self._decoder.eof:
                self.ended, self.rest = True, self._decoder.unused_data + data[start + _ZSTD_BYTES :]
                break


_PATIENCE = 1.0


def ahead(items: Generator[T], limit: int) -> Generator[T]:
    """The items, made by a thread that is at most `limit` of them ahead.

    The thread ends with the items, or when this generator is closed. An exception of theirs is raised here.
    """
    made: SimpleQueue[tuple[T] | BaseException | None] = SimpleQueue()
    room = threading.Semaphore(limit)
    stopped = threading.Event()

    def make() -> None:
        try:
            while room.acquire() and not stopped.is_set():
                made.put((next(items),))
        except StopIteration:
            made.put(None)
        except BaseException as error:  # whatever it is, it belongs to who waits for the items
            made.put(error)
        finally:
            items.close()

    thread = threading.Thread(target=make, name="bpetok-unpack", daemon=True)
    thread.start()
    try:
        while (got := made.get()) is not None:
            if isinstance(got, BaseException):
                raise got
            room.release()
            yield got[0]
    finally:
        stopped.set()
        room.release()
        thread.join(_PATIENCE)  # it may wait for a pipe that says nothing
