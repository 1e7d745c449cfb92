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

import json
import zipfile
from pathlib import Path
from typing import Any

from bpetok import files
from bpetok.counts import PretokenCounts
from bpetok.errors import CorruptionError, FormatError, IncompatibleError

VERSION = 1
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
        FormatError: the file is in another format, or of a later version.
        CorruptionError: it is not as it was written.
        IncompatibleError: its pattern went by other Unicode data than here.
    """
    about, arrays = _arrays(path)
    counts = PretokenCounts(about["pattern"])
    if counts.split.unicode_version != about["unicode"]:
        raise IncompatibleError(
            f"{path}: unicode must be {counts.split.unicode_version} as here, got {about['unicode']}"
        )
    counts.core.add_arrays(arrays["pretokens"], arrays["sizes"], arrays["counts"])
    counts.documents = int(about["documents"])
    counts.bytes = int(about["bytes"])
    counts.sources = list(about["sources"])
    return counts


def _arrays(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    import numpy as np

    if not zipfile.is_zipfile(path):
        raise FormatError(f"{path}: must be a file of counts, got one that is no archive")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in _TYPES}
        about = json.loads(arrays["about"].tobytes())
    except zipfile.BadZipFile as error:
        raise CorruptionError(f"{path}: {error}", hint="the file was altered") from error
    except (KeyError, ValueError) as error:
        raise FormatError(f"{path}: must be a file of counts, got {error}") from error
    head = {"format": "bpetok counts", "version": VERSION}
    if not isinstance(about, dict) or {key: about.get(key) for key in head} != head:
        raise FormatError(f"{path}: must be {head}, got {about!r:.80}")
    for name, kind in _TYPES.items():
        if arrays[name].dtype != kind or arrays[name].ndim != 1:
            raise FormatError(f"{path}: {name} must be a list of {kind}, got {arrays[name].dtype}")
    return about, arrays
