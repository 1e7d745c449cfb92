"""Files of counts, `.counts`: what training needs to know of a part of a corpus, to be merged with other parts.

A file is an archive of numpy's arrays, as `numpy.load` reads it (without pickle):

| name | type | holds |
|---|---|---|
| `about` | uint8 | JSON: format, version, pattern, unicode, documents, bytes, sources |
| `pretokens` | uint8 | the bytes of the distinct pretokens, one behind the other, in order of first occurrence |
| `sizes` | int64 | how many bytes each of them has |
| `counts` | int64 | how often each of them occurs |
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from pathlib import Path
from types import NoneType

from bpetok import files
from bpetok.counts import PretokenCounts
from bpetok.errors import CorruptionError, FormatError, IncompatibleError

VERSION = 1
_KEYS: dict[str, tuple[type, ...]] = {
    "pattern": (str, list, NoneType),
    "unicode": (str, NoneType),
    "documents": (int,),
    "bytes": (int,),
    "sources": (list,),
}
_TYPES = {"about": "uint8", "pretokens": "uint8", "sizes": "int64", "counts": "int64"}


def write(counts: PretokenCounts, path: Path) -> None:
    """Writes the counts; the file appears whole or not at all."""
    import numpy as np

    if path.suffix != PretokenCounts.SUFFIX:
        raise FormatError(f"{path}: the suffix must be {PretokenCounts.SUFFIX}, got {path.suffix!r}")
    about = {
        "format": "bpetok counts",
        "version": VERSION,
        "pattern": counts.split.regex,
        "unicode": counts.split.unicode_version,
        "documents": counts.documents,
        "bytes": counts.bytes,
        "sources": counts.sources,
    }
    pretokens, sizes, times = counts.core.to_arrays()
    head = np.frombuffer(json.dumps(about, sort_keys=True).encode(), np.uint8)
    written = files.partial(path)
    try:
        with open(written, "wb") as file:
            np.savez(file, about=head, pretokens=pretokens, sizes=sizes, counts=times)
        files.publish(written, path)
    finally:
        written.unlink(missing_ok=True)


def read(path: Path) -> PretokenCounts:
    """Reads the counts.

    Raises:
        FormatError: the file is in another format, or of a later version, or contradicts itself.
        CorruptionError: it is not as it was written.
        IncompatibleError: its pattern went by other Unicode data than here.
        OSError: it cannot be read.
    """
    contents = io.BytesIO(path.read_bytes())
    if not zipfile.is_zipfile(contents):
        raise FormatError(f"{path}: must be a file of counts, got one that is no archive")
    try:
        counts, unicode_version = _read(contents)
    except zipfile.BadZipFile as error:
        raise CorruptionError(f"{path}: {error}", hint="the file was altered") from error
    except _WRONG as error:
        raise FormatError(f"{path}: must be a file of counts, got {type(error).__name__}: {error}") from error
    if counts.split.unicode_version != unicode_version:
        raise IncompatibleError(
            f"{path}: unicode must be {counts.split.unicode_version} as here, got {unicode_version}"
        )
    return counts


# What zipfile, numpy, json and our own checks raise at files that somebody has tampered with.
_WRONG = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    zlib.error,
)


def _read(contents: io.BytesIO) -> tuple[PretokenCounts, str | None]:
    import numpy as np

    with np.load(contents, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in _TYPES}
    for name, kind in _TYPES.items():
        if arrays[name].dtype != kind or arrays[name].ndim != 1:
            raise ValueError(f"{name} must be a list of {kind}, got {arrays[name].dtype}, shape {arrays[name].shape}")
    about = json.loads(arrays["about"].tobytes())
    head = {"format": "bpetok counts", "version": VERSION}
    if {key: about.get(key) for key in head} != head:
        raise ValueError(f"about must begin with {head}, got {about!r:.80}")
    for key, kinds in _KEYS.items():
        if not isinstance(about[key], kinds):
            raise TypeError(f"{key} must be of {kinds}, got {about[key]!r:.80}")
    counts = PretokenCounts(tuple(pattern) if isinstance(pattern := about["pattern"], list) else pattern)
    counts.core.add_arrays(arrays["pretokens"], arrays["sizes"], arrays["counts"])
    counts.documents, counts.bytes = about["documents"], about["bytes"]
    counts.sources = [dict(source) for source in about["sources"]]
    return counts, about["unicode"]
