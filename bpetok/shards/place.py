"""The folder that shards are put into: one call at a time, and nothing under a final name before all of it is whole."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

from bpetok.errors import BpetokError, FormatError
from bpetok.files import sync_folder
from bpetok.shards.layout import index_name
from bpetok.shards.manifest import MANIFEST, NOT_WHOLE, Manifest

BUILD = ".build"
PLAN, LOCK = "plan.json", "lock"
_PATIENCE = 5.0  # for a call that is just ending
_held: set[int] = set()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes the hidden folder, and keeps other calls from writing into the folder.

    Processes that are forked meanwhile do not hold the lock: they may outlive a call that is killed.

    Raises:
        FormatError: another call is writing there.
    """
    if os.name == "nt":  # there are no such locks, and a file that is open could not be taken away
        (folder / BUILD).mkdir(parents=True, exist_ok=True)
        yield
        return
    descriptor = _open_lock(folder)
    try:
        patience = time.monotonic() + _PATIENCE
        while not (_lock(descriptor) and _is_there(descriptor, folder / BUILD / LOCK)):
            if time.monotonic() > patience:
                raise FormatError(f"{folder}: another call is writing there", hint="wait for it, or end it")
            time.sleep(0.05)
            if not _is_there(descriptor, folder / BUILD / LOCK):  # the other call has ended, and taken it away
                _close(descriptor)
                descriptor = _open_lock(folder)
        yield
    finally:
        _close(descriptor)


def _open_lock(folder: Path) -> int:
    while True:
        (folder / BUILD).mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # another call has just taken the folder away
            descriptor = os.open(folder / BUILD / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
            _held.add(descriptor)
            return descriptor


def _is_there(descriptor: int, path: Path) -> bool:
    return path.exists() and os.path.samestat(os.fstat(descriptor), path.stat())


def _close(descriptor: int) -> None:
    _held.discard(descriptor)
    os.close(descriptor)


def _let_go() -> None:
    for descriptor in list(_held):
        _close(descriptor)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def _lock(descriptor: int) -> bool:
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def clear(folder: Path) -> None:
    """Empties the hidden folder, and takes away what an earlier call has moved out of it.

    Raises:
        FormatError: the folder holds files that new ones could be mixed up with.
    """
    work = folder / BUILD
    moved = _to_be_moved(work)
    if strange := [path for path in _finals(folder) if path.name not in moved]:
        raise FormatError(f"{folder}: must hold no shards yet, got {strange[0].name}", hint=NOT_WHOLE)
    if (work / PLAN).exists():  # it goes first, so that nobody goes on with what is taken away now
        (work / PLAN).unlink()
        sync_folder(work)
    for path in (*_finals(folder), *sorted(work.iterdir(), key=lambda path: path.name == MANIFEST)):
        if path != work / LOCK:
            path.unlink()


def keep(folder: Path) -> None:
    """Makes the names of the folder and of the hidden one durable: what is made durable inside is lost without them."""
    sync_folder(folder)
    with contextlib.suppress(PermissionError):  # a folder that may not be read
        sync_folder(folder.parent)


def _to_be_moved(work: Path) -> set[str]:
    """The names of the files that an earlier call was moving to their place, or had moved."""
    try:
        shards = Manifest.read(work).shards
    except BpetokError:
        return set()
    return {name for shard in shards for name in (shard.file, index_name(shard.file))}


def publish(folder: Path, manifest: Manifest) -> None:
    """Moves whole shards from the hidden folder to their place, and the manifest behind them."""
    manifest.write(folder / BUILD)
    for shard in manifest.shards:
        for name in (shard.file, index_name(shard.file)):
            if (folder / BUILD / name).exists():  # else an earlier call has moved it
                os.replace(folder / BUILD / name, folder / name)
    sync_folder(folder)
    os.replace(folder / BUILD / MANIFEST, folder / MANIFEST)
    sync_folder(folder)


def discard(folder: Path) -> None:
    """Takes the hidden folder away; the plan goes last, so that whoever is stopped here may go on."""
    work = folder / BUILD
    if work.is_dir():
        for path in sorted(work.iterdir(), key=lambda path: path.name == PLAN):
            path.unlink(missing_ok=True)  # another call may tidy up as well
        try:
            work.rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):  # another call has taken it away, or begins there
                raise


def undo(folder: Path) -> None:
    """Takes away the manifest, all shards and the hidden folder."""
    for path in (folder / MANIFEST, *_finals(folder)):
        path.unlink(missing_ok=True)
    discard(folder)


def _finals(folder: Path) -> list[Path]:
    return sorted(path for suffix in ("*.bin", "*.idx") for path in folder.glob(suffix))
