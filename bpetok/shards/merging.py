"""Putting together the folders of shards that parts of the sources became, on whatever machines."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from bpetok.errors import DataError, FormatError, IncompatibleError
from bpetok.files import sync_file, sync_folder
from bpetok.shards.layout import SPLITS, bin_name, index_name
from bpetok.shards.manifest import MANIFEST, Manifest, Shard
from bpetok.shards.place import BUILD, clear, discard, locked, publish
from bpetok.shards.reader import ShardSet

_SAME = ("fingerprint", "probe", "vocab_size", "dtype", "end_of_text", "end_of_text_stands")


def merge(folders: Sequence[str | Path], folder: str | Path) -> Manifest:
    """Puts folders of shards together to one, without encoding anything.

    The files are hard links of those in the folders where the file system has such, else copies. Folders that `build`
    made of parts of the same sources must be all of them, and are put in the order of the parts; others stay in the
    order given. Files that were not full stay so.

    Args:
        folders: the folders.
        folder: made if it is not there; must not hold shards yet.

    Raises:
        DataError: there is no folder, or a part is missing or given twice.
        IncompatibleError: they were not made by the same tokenizer in the same way.
        FormatError: one is no whole folder of shards, or `folder` holds shards already.
        CorruptionError: a file is not as it was written, as far as sizes and headers tell.
    """
    parts = _in_order([_Part.of(Path(one)) for one in folders])
    folder = Path(folder)
    if not any(part.manifest.shards for part in parts):
        raise DataError("merge: the folders must hold documents, got none")
    moves = [move for name in SPLITS for move in _put_together(name, parts)]
    manifest = _manifest(parts, tuple(shard for _, _, shard in moves))
    if (folder / MANIFEST).exists():
        had_only_to_tidy_up = (folder / BUILD).is_dir() and Manifest.read(folder) == manifest
        discard(folder)
        if had_only_to_tidy_up:
            return manifest
        raise FormatError(f"{folder}: holds shards already", hint="name another folder, or remove this one")
    with locked(folder):
        clear(folder)
        for source, old, new in moves:
            _link(source / old.file, folder / BUILD / new.file)
            _link(source / index_name(old.file), folder / BUILD / index_name(new.file))
        sync_folder(folder / BUILD)
        publish(folder, manifest)
        discard(folder)
    return manifest


class _Part(NamedTuple):
    folder: Path
    manifest: Manifest

    @classmethod
    def of(cls, folder: Path) -> _Part:
        """A folder of shards, whose files are looked at and not kept open: there may be thousands."""
        return cls(folder, ShardSet(folder).manifest)


def _in_order(parts: list[_Part]) -> list[_Part]:
    if not parts:
        raise DataError("merge: there must be folders to put together, got none")
    places = [part.folder.resolve() for part in parts]
    first = parts[0]
    for part in parts[1:]:
        for key in _SAME:
            if getattr(part.manifest, key) != getattr(first.manifest, key):
                raise IncompatibleError(
                    f"{part.folder}: {key} must be {getattr(first.manifest, key)} as in {first.folder}, "
                    f"got {getattr(part.manifest, key)}"
                )
    numbers = [tuple(part.manifest.arguments.get("part", (0, 1))) for part in parts]
    counts = {count for _, count in numbers}
    if counts == {1}:
        if twice := [part.folder for i, part in enumerate(parts) if places[i] in places[:i]]:
            raise DataError(f"merge: a folder must be given once, got {twice[0]} twice")
        return parts
    if len(counts) > 1:
        raise IncompatibleError(f"merge: all folders must be parts of as many, got parts of {sorted(counts)}")
    _check_same_plan(parts)
    found = sorted(number for number, _ in numbers)
    if found != list(range(counts.pop())):
        wanted = set(range(numbers[0][1]))
        twice = sorted({number for number in found if found.count(number) > 1})
        what = f"part {twice[0]} twice" if twice else f"no part {min(wanted - set(found))}"
        raise DataError(f"merge: there must be a folder for each part from 0 to {len(wanted) - 1}, got {what}")
    return sorted(parts, key=lambda part: part.manifest.arguments["part"])


def _check_same_plan(parts: list[_Part]) -> None:
    first = parts[0].manifest
    for part in parts[1:]:
        plans = [(dict(one.arguments) | {"part": None}, one.sources) for one in (first, part.manifest)]
        if plans[0] != plans[1]:
            raise IncompatibleError(
                f"{part.folder}: must be a part of the same build as {parts[0].folder}, got other arguments or sources"
            )


def _put_together(name: str, parts: list[_Part]) -> list[tuple[Path, Shard, Shard]]:
    """Each shard of a split: its folder, itself, and what it becomes."""
    found = [(part.folder, shard) for part in parts for shard in part.manifest.of_split(name)]
    return [(source, shard, replace(shard, file=bin_name(name, i))) for i, (source, shard) in enumerate(found)]


def _link(old: Path, new: Path) -> None:
    try:
        os.link(old, new)
    except OSError:  # another file system, or one without links
        shutil.copyfile(old, new)
        sync_file(new)


def _manifest(parts: list[_Part], shards: tuple[Shard, ...]) -> Manifest:
    first = parts[0].manifest
    are_parts = first.arguments.get("part", [0, 1])[1] > 1
    sources = first.sources if are_parts else tuple(source for part in parts for source in part.manifest.sources)
    return replace(
        first,
        arguments=_common([part.manifest.arguments for part in parts]) | {"part": [0, 1]},
        sources=sources,
        shards=shards,
        skipped=sum(part.manifest.skipped for part in parts),
        skipped_shown=tuple(row for part in parts for row in part.manifest.skipped_shown),
    )


def _common(arguments: list[Mapping[str, Any]]) -> dict[str, Any]:
    """What all were made with; None where they differ."""
    first = arguments[0]
    return {key: value if all(one.get(key) == value for one in arguments) else None for key, value in first.items()}
