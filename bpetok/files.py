"""Files that appear whole or not at all, and those that grow."""

from __future__ import annotations

import os
from pathlib import Path


def partial(path: Path) -> Path:
    """The hidden name beside `path` under which it is written until it is whole."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def publish(written: Path, path: Path) -> None:
    """Gives a written and closed file its final name, durably: its bytes first, then its name."""
    sync_file(written)
    os.replace(written, path)
    sync_folder(path.parent)


def give_usual_mode(path: Path) -> None:
    """Lets those read a file whom new files let; some libraries make theirs for the owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def sync_file(path: Path) -> None:
    """Makes a file's bytes durable."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable, where the system can."""
    if os.name == "nt":  # Windows has no handle on a folder; its renames are journalled
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Writes all of it; the system may take less at a time than it is given."""
    left = memoryview(data).cast("B")
    while len(left):
        left = left[os.write(descriptor, left) :]


def write_atomically(path: Path, contents: bytes) -> None:
    """Writes a file; whoever looks sees the old one or the new one, never a part."""
    written = partial(path)
    try:
        with open(written, "wb", buffering=0) as file:
            write_all(file.fileno(), contents)
        publish(written, path)
    finally:
        written.unlink(missing_ok=True)
