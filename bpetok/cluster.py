"""Work that a Ray cluster does: which one, what it is given at a time, and counting on it.

Ray decides where a piece of the sources is worked on, and does again what a worker had in hand when it died. What comes
back is put together here as one process would have made it. How ids are made there is in `bpetok.shards.ray`.

Every machine of the cluster must have this version of bpetok, and find the sources under the same names: whole paths of
a folder that all of them see, or URLs. What cannot be entered anywhere (packed files, pipes, datasets) is read here and
sent there.

Ray's report of usage is off, and so is its dashboard where the cluster is started here; such a cluster ends with the
call. In a program that is connected to Ray already, that connection is used and stays.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from bpetok import sources
from bpetok.counts import PretokenCounts
from bpetok.errors import BpetokError, DataError, MissingExtraError, WorkerError
from bpetok.patterns import Pattern
from bpetok.sources.tables import Texts
from bpetok.sources.texts import Piece
from bpetok.sources.units import Reading, UnitGroup, units_of
from bpetok.streams import chunks_of
from bpetok.threads import threads_or_all

_WINDOW = 256  # pieces that are listed at a time, at least
_WINDOW_PER_CPU = 16
_WINDOW_BYTES = 1 << 29  # of text that is sent along with them
_PER_TASK = 4  # pieces that are counted into one table, since tables of few pieces are nearly as large as of many
_PER_MERGE = 8
_PATIENCE = 10.0


def count_by_ray(
    counts: PretokenCounts,
    files: object,
    field: str = "text",
    address: str | None = None,
    workers: int | None = None,
    scanned: Callable[[int], object] = lambda amount: None,
) -> None:
    """Adds the counts of files, as `PretokenCounts.add_file` would; only rows without text are no documents here.

    Pieces are counted, and their counts merged, on the cluster; few tables come here.

    Args:
        counts: what to add them to.
        files: one path or several, of text files, files of rows, files of counts, or folders.
        field: where a row has its text.
        address: as `connected`.
        workers: as `connected`.
        scanned: called with the bytes of files that were counted since the last call.

    Raises:
        DataError: something is no file, or a row is not as it has to be.
        MissingExtraError: Ray is not installed.
        WorkerError: no cluster is at the address, or a piece made worker after worker die.
        OSError: a file cannot be read.
    """
    found = _files(files)
    texts = [file for file in found if file.suffix != PretokenCounts.SUFFIX]
    for file in texts:
        if not file.is_file():
            raise DataError(f"{file}: must be a file for Ray to count it, got something else")
    opened = sources.open_sources(texts, Reading(field=field, scanner=counts.split.scanner))
    with connected(address, workers) as ray:
        about = {file: ray.remote(_about).remote(str(file)) for file in texts}
        cluster = _Counting(ray, counts.split.regex)
        try:
            for part in cluster.counted(windows_of(ray, units_of(opened)), scanned):
                counts.merge(part)
                scanned(0)
            for file in found:
                if file in about:
                    counts.sources.append(ray.get(about[file]))
                else:
                    counts.add_file(file, progress=scanned)
        except ray.exceptions.RayError as error:
            refuse(ray, error, f"{found[0]} and what follows: a worker died again and again while it counted")


def _files(given: object) -> list[Path]:
    paths: list[Path] = []
    for path in given if isinstance(given, list | tuple) else [given]:
        if not isinstance(path, Path):
            raise DataError(
                f"ray: a source must be the paths of files where Ray counts, got {type(path).__name__}",
                hint="write the text to a file that all machines see, or count it here",
            )
        paths.append(path)
    return sources.expand(paths)


class _Table(NamedTuple):
    """Counts of a window that are on their way, as references."""

    parts: list[Any]
    sizes: list[int]
    whole: Any


class _Counting:
    """Counts pieces on the cluster."""

    def __init__(self, ray: Any, pattern: Pattern) -> None:
        self._ray = ray
        self._pattern = pattern
        self._count = ray.remote(_count)
        self._merge = ray.remote(_merge)

    def counted(self, windows: Iterable[list[UnitGroup]], scanned: Callable[[int], object]) -> Iterator[PretokenCounts]:
        """The counts of each window; the next one is begun before the workers are done with it."""
        begun: deque[_Table] = deque()
        for window in windows:
            begun.append(self._begin(window))
            if len(begun) > 1:
                yield self._end(begun.popleft(), scanned)
        while begun:
            yield self._end(begun.popleft(), scanned)

    def _begin(self, window: list[UnitGroup]) -> _Table:
        shares = [window[begin : begin + _PER_TASK] for begin in range(0, len(window), _PER_TASK)]
        sizes = [sum(unit.weight for group in share for unit in group.units) for share in shares]
        tables = parts = [self._count.remote(self._pattern, share) for share in shares]
        while len(tables) > 1:
            tables = [
                self._merge.remote(*tables[begin : begin + _PER_MERGE]) for begin in range(0, len(tables), _PER_MERGE)
            ]
        return _Table(parts, sizes, tables[0])

    def _end(self, table: _Table, scanned: Callable[[int], object]) -> PretokenCounts:
        for part, size in zip(table.parts, table.sizes, strict=True):
            self._ray.wait([part], fetch_local=False)
            scanned(size)
        counts: PretokenCounts = self._ray.get(table.whole)
        return counts


# ---- the cluster -------------------------------------------------------------------------------------------------


def require_ray() -> Any:
    """Ray, with Ray Data.

    Raises:
        MissingExtraError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns of what will change
    try:
        import ray  # type: ignore[import-not-found, unused-ignore]
        import ray.data  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise MissingExtraError("ray") from error
    return ray


@contextlib.contextmanager
def connected(address: str | None, workers: int | None) -> Iterator[Any]:
    """Ray, connected to a cluster. What was not connected before is not afterwards.

    Args:
        address: as `ray.init` takes it; None to start a cluster on this machine.
        workers: how many processors that one has; None for as many as this process may use.

    Raises:
        MissingExtraError: Ray is not installed.
        WorkerError: there is no cluster at the address.
    """
    import logging

    ray = require_ray()
    if ray.is_initialized():
        yield ray
        return
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        if address is None:
            ray.init("local", num_cpus=threads_or_all(workers), include_dashboard=False, **quiet)
        else:
            try:
                _reach(address)
                ray.init(address, **quiet)
            except (OSError, ValueError) as error:
                raise WorkerError(
                    f"ray: a cluster must run at {address}, got none: {error}",
                    hint="ray start --head starts one here; without an address one is started for this call",
                ) from error
        yield ray
    finally:
        ray.shutdown()
        logger.setLevel(level)


def _reach(address: str) -> None:
    """Raises OSError where nobody listens, for which Ray would wait for minutes."""
    import socket

    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal() and int(port) < 1 << 16:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()


def refuse(ray: Any, error: Exception, what: str) -> NoReturn:
    """Raises the error of our own that is at the bottom of one of Ray's, or one that says what died."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, BpetokError | OSError):
        raise cause from None
    if isinstance(error, ray.exceptions.RayTaskError):
        raise error
    raise WorkerError(
        f"{what}: {str(error).strip().splitlines()[0]}",
        hint="the system kills what takes too much memory; run the call again: what was made durable is kept",
    ) from error


def windows_of(ray: Any, groups: Iterable[UnitGroup]) -> Iterator[list[UnitGroup]]:
    """The groups in lists, each enough work for the cluster, and of little text that the groups hold themselves."""
    most = max(_WINDOW, _WINDOW_PER_CPU * int(ray.cluster_resources().get("CPU", 1)))
    window: list[UnitGroup] = []
    held = 0
    for group in groups:
        window.append(group)
        held += sum(unit.load for unit in group.units if isinstance(unit.contents, Piece | Texts))
        if len(window) >= most or held >= _WINDOW_BYTES:
            yield window
            window, held = [], 0
    if window:
        yield window


# ---- in a worker -------------------------------------------------------------------------------------------------


def _count(pattern: Pattern, groups: list[UnitGroup]) -> PretokenCounts:
    counts = PretokenCounts(pattern)
    for group in groups:
        for unit in group.units:
            batch = unit.read()
            counts.add_texts(batch.texts, num_threads=1)
            counts.documents -= bool(batch.texts) and not batch.begins  # it was counted where it begins
    return counts


def _merge(first: PretokenCounts, *others: PretokenCounts) -> PretokenCounts:
    for other in others:
        first.merge(other)
    return first


def _about(name: str) -> dict[str, Any]:
    """What `PretokenCounts.sources` says of a file."""
    size, sha256 = 0, hashlib.sha256()
    with open(name, "rb") as file:
        for chunk in chunks_of(file):
            size += len(chunk)
            sha256.update(chunk)
    return {"file": name, "bytes": size, "sha256": sha256.hexdigest()}
