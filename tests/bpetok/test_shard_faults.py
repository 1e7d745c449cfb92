"""Faults of the disk in a small build of shards: each operation in turn is the last one, fails, or is done by half.

A shim counts what the build changes in its folder: files made, written, cut, made durable, renamed, taken away. In a
forked process one of these operations goes wrong; then the same call is made again, and every byte has to be that of a
build without fault. `test_the_shim_sees_all_that_the_system_sees` holds the shim against strace.

The loss of power is played on a model of a file system that keeps nothing which was not made durable: the log of one
build is cut behind each operation, what the disk may hold then is laid out in a folder, and the build goes on there.
"""

import builtins
import collections
import contextlib
import errno
import gc
import gzip
import importlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest

import bpetok
from bpetok import shards
from bpetok.errors import BpetokError, FormatError
from bpetok.sources.units import Reading

pytestmark = [
    pytest.mark.usefixtures("_lean_process"),
    pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc, to see which files are open"),
]

SEPARATOR = "<|endoftext|>"
SHARD_TOKENS = 1250
VAL_FRACTION = 0.29
UNIT_BYTES = 1500
FAULTS = ["killed before", "killed after", "ENOSPC", "EIO", "full from here on"]
FAULTS_OF_WRITES = ["short", "half, then killed"]
CHANGES = {"write", "create", "ftruncate", "fsync", "replace", "link", "unlink", "mkdir", "rmdir"}

building = importlib.import_module("bpetok.shards.building")
encoding = importlib.import_module("bpetok.shards.encoding")


# ---- the shim --------------------------------------------------------------------------------------------------------


@dataclass
class Operation:
    """One change of the disk; `data` is what was written."""

    kind: str
    path: str
    to: str = ""
    offset: int = 0
    data: bytes = b""


@dataclass
class Shim:
    """Counts the changes below a folder, and lets number `at` of them go wrong; with no fault it only keeps the log."""

    folder: Path
    at: int = -1
    fault: str = ""
    log: list[Operation] = field(default_factory=list)
    real_sync: bool = False

    @contextlib.contextmanager
    def installed(self):
        names = ["write", "fsync", "replace", "rename", "ftruncate", "open", "unlink", "mkdir", "rmdir", "link"]
        self.real = {name: getattr(os, name) for name in names} | {"file": builtins.open}
        for name in names:
            setattr(os, name, getattr(self, name))
        builtins.open = self.file
        try:
            yield self
        finally:
            builtins.open = self.real.pop("file")
            for name, function in self.real.items():
                setattr(os, name, function)

    def path_of(self, file):
        """The path of an open file below the folder; None of others."""
        path = os.readlink(f"/proc/self/fd/{file}")
        return path if self.is_ours(path) else None

    def is_ours(self, path):
        return isinstance(path, str | os.PathLike) and Path(path).is_relative_to(self.folder)

    def change(self, operation, do):
        """Does it, or lets it go wrong."""
        number = len(self.log)
        self.log.append(operation)
        fault = self.fault if number == self.at or (self.fault == "full from here on" and number > self.at >= 0) else ""
        if fault == "killed before":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault in ("ENOSPC", "EIO") or (
            fault == "full from here on" and operation.kind in ("write", "create", "mkdir")
        ):
            code = errno.EIO if fault == "EIO" else errno.ENOSPC
            raise OSError(code, os.strerror(code), operation.path)
        try:
            result = do()
        except OSError:
            self.log.pop()  # it changed nothing
            raise
        if fault == "killed after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    def write(self, file, data):
        path = self.path_of(file)
        if path is None:
            return self.real["write"](file, data)
        data = bytes(data)
        offset = os.lseek(file, 0, os.SEEK_CUR)
        operation = Operation("write", path, offset=offset, data=data)
        if len(self.log) == self.at and self.fault in FAULTS_OF_WRITES:
            data = data[: len(data) // 2 or 1]
        written = self.change(operation, lambda: self.real["write"](file, data))
        if len(self.log) - 1 == self.at and self.fault == "half, then killed":
            os.kill(os.getpid(), signal.SIGKILL)
        return written

    def fsync(self, file):
        path = self.path_of(file)
        if path is None:
            return self.real["fsync"](file)
        # A process that is killed leaves what it wrote, durable or not; so there is no need to wait for the disk.
        return self.change(Operation("fsync", path), lambda: self.real["fsync"](file) if self.real_sync else None)

    def ftruncate(self, file, size):
        operation = Operation("ftruncate", self.path_of(file), offset=size)
        return self.change(operation, lambda: self.real["ftruncate"](file, size))

    def open(self, path, flags, *rest, **more):
        if not self.is_ours(path):
            return self.real["open"](path, flags, *rest, **more)
        if flags & (os.O_CREAT | os.O_TRUNC):
            operation = Operation("create", str(path), offset=bool(flags & os.O_TRUNC))
            return self.change(operation, lambda: self.real["open"](path, flags, *rest, **more))
        return self.real["open"](path, flags, *rest, **more)

    def file(self, path, mode="r", *rest, **more):
        """As the builtin `open`."""
        if self.is_ours(path) and "w" in mode:
            operation = Operation("create", str(path), offset=True)
            return self.change(operation, lambda: self.real["file"](path, mode, *rest, **more))
        return self.real["file"](path, mode, *rest, **more)

    def names(self, kind, path, to, *rest, **more):
        if not self.is_ours(path) and not (to and self.is_ours(to)):
            return self.real[kind](path, *([to] if to else []), *rest, **more)
        operation = Operation(kind, str(path), str(to))
        return self.change(operation, lambda: self.real[kind](path, *([to] if to else []), *rest, **more))

    def replace(self, path, to, **more):
        return self.names("replace", path, to, **more)

    def rename(self, path, to, **more):
        return self.names("rename", path, to, **more)

    def link(self, path, to, **more):
        return self.names("link", path, to, **more)

    def unlink(self, path, **more):
        if self.is_ours(path) and not os.path.lexists(path):
            return self.real["unlink"](path, **more)  # changes nothing
        return self.names("unlink", path, "", **more)

    def mkdir(self, path, *rest, **more):
        if self.is_ours(path) and os.path.isdir(path):
            return self.real["mkdir"](path, *rest, **more)
        return self.names("mkdir", path, "", *rest, **more)

    def rmdir(self, path, **more):
        return self.names("rmdir", path, "", **more)


# ---- the small build -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Files of every kind that a build reads piece by piece."""
    folder = tmp_path_factory.mktemp("texts")
    draw = random.Random(6)
    words = ["north", "of", "the", " old", "mill", "they", "were", "seven", "né", "東京", "said", "and", "a", "12"]

    def document(name):
        return f"{name} " + " ".join(draw.choices(words, k=draw.randint(5, 40)))

    (folder / "stories.txt").write_text(f"\n{SEPARATOR}\n".join(document(f"story {i}") for i in range(60)))
    (folder / "rows.jsonl").write_text("".join(json.dumps({"text": document(f"row {i}")}) + "\n" for i in range(40)))
    with gzip.GzipFile(folder / "packed.jsonl.gz", "wb", mtime=0) as file:
        file.write("".join(json.dumps({"text": document(f"packed {i}")}) + "\n" for i in range(30)).encode())
    (folder / "whole.txt").write_text("\n".join(document(f"Line {i}") for i in range(70)))
    return folder


@pytest.fixture(scope="module")
def tok(texts):
    specials = ["<|endoftext|>"]
    return bpetok.train((texts / "whole.txt").read_text(), 300, pattern="gpt4", special_tokens=specials)


@pytest.fixture
def small(texts, tok, monkeypatch):
    """`small(folder)`: the build; it takes little at a time and makes a checkpoint after each piece."""
    monkeypatch.setattr(shards, "Reading", partial(Reading, unit_bytes=UNIT_BYTES))
    monkeypatch.setattr(building, "CHECKPOINT_SECONDS", -1)
    names = ["stories.txt", "rows.jsonl", "packed.jsonl.gz", "whole.txt"]
    how = {"separator": SEPARATOR, "shard_tokens": SHARD_TOKENS, "val_fraction": VAL_FRACTION, "workers": 1}
    return lambda folder, **more: shards.build([texts / name for name in names], tok, folder, **(how | more))


@pytest.fixture
def encoded(monkeypatch):
    """The numbers of the source and unit of all that is encoded."""
    seen = []
    real = encoding.encode_group

    def encode(recipe, group, *rest):
        seen.extend((unit.source, unit.number) for unit in group.units)
        return real(recipe, group, *rest)

    monkeypatch.setattr(encoding, "encode_group", encode)
    return seen


@dataclass
class Whole:
    """The build without a fault: its files, its pieces, its log."""

    files: dict[str, bytes]
    units: list[tuple[int, int]]
    log: list[Operation]
    documents: collections.Counter


def contents(folder):
    return {path.name: path.read_bytes() if path.is_file() else b"a folder" for path in sorted(folder.iterdir())}


@pytest.fixture
def scratch(tmp_path):
    """An empty folder, in memory where there is such a place: what a process leaves is the same on any disk."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path.resolve()
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder).resolve()


@pytest.fixture
def whole(small, encoded, scratch, monkeypatch):
    folder = scratch / "whole" / "shards"
    folder.parent.mkdir()
    with Shim(folder.parent).installed() as shim:
        small(folder)
    units = list(encoded)
    encoded.clear()
    monkeypatch.setattr(os, "fsync", lambda file: None)  # what goes on after a fault need not wait for the disk
    return Whole(contents(folder), units, shim.log, documents(folder))


def test_the_build_of_the_sweep_has_all_that_can_be_torn(whole, scratch):
    manifest = shards.Manifest.read(scratch / "whole" / "shards")
    assert [len(manifest.of_split(name)) for name in ("train", "val")] == [4, 2]
    assert [source for source, _ in whole.units if source == 3] == [3] * 5, "a document in several pieces"
    assert {one.kind for one in whole.log} == CHANGES - {"link"}
    checkpoints = [one for one in whole.log if one.kind == "replace" and one.to.endswith("progress.json")]
    assert len(checkpoints) >= 10


def faults_of(operation):
    return FAULTS + (FAULTS_OF_WRITES if operation.kind == "write" else [])


def next_of(folder):
    """The piece at which another call goes on; none where all is encoded."""
    progress = folder / ".build" / "progress.json"
    if not (folder / ".build" / "plan.json").is_file():
        return (0, 0)
    state = json.loads(progress.read_bytes())
    return (99, 0) if state["finished"] else tuple(state["next"])


def faults_in_what_stands(folder, whole):
    """What is wrong with the folder before anybody goes on: a part of a file under a final name."""
    if (folder / "manifest.json").exists():
        if contents(folder).items() >= whole.files.items():
            return []
        return ["a manifest, but not all files"]
    finals = [path for path in folder.glob("*.*") if path.suffix in (".bin", ".idx")] if folder.exists() else []
    return [f"a part of {path.name}" for path in finals if path.read_bytes() != whole.files[path.name]]


def faults_of_going_on(folder, small, encoded, whole, after=None):
    """What is wrong when the same call is made again; the pieces from `after` on may be encoded, no others."""
    is_whole = (folder / "manifest.json").exists()
    expected = [] if is_whole else [unit for unit in whole.units if unit >= (after or next_of(folder))]
    encoded.clear()
    try:
        small(folder)
    except Exception as error:
        return [f"going on: {type(error).__name__}: {error}"]
    found = contents(folder)
    wrong = []
    if found != whole.files:
        differing = sorted(
            name for name in found.keys() | whole.files.keys() if found.get(name) != whole.files.get(name)
        )
        wrong.append(f"differing: {', '.join(differing)}")
    if (encoded != expected) if after is None else not set(encoded) <= set(expected):
        wrong.append(f"encoded again: {len(encoded)} pieces for {len(expected)}")
    return wrong


def job_with(fault, at, folder, build):
    """What the forked process does: the build with a fault. Says how many files it left open."""

    def job():
        failed = None
        before = len(os.listdir("/proc/self/fd"))
        try:
            with Shim(folder.parent, at, fault).installed():
                build(folder)
        except OSError as error:
            failed = error.with_traceback(None)  # which holds what was in use
        gc.collect()
        if left := len(os.listdir("/proc/self/fd")) - before:
            raise AssertionError(f"{left} files are still open")
        if failed:
            raise failed

    return job


def expected_end(fault, kind, end):
    """Whether the forked process ended as it should."""
    if kind == "link" and end.signal == 0 and end.error is None:
        return True  # what cannot be linked is copied
    if "killed" in fault:
        return end.signal == signal.SIGKILL
    if fault == "short":
        return end.error is None and end.signal == 0
    code = errno.EIO if fault == "EIO" else errno.ENOSPC
    # The disk may fill up when nothing more is written.
    return end.signal == 0 and (end.errno == code or (fault == "full from here on" and end.error is None))


def sweep(every, whole, small, encoded, scratch, forked):
    """Each `every`-th of all pairs of an operation and a fault. Gives the table, and what went wrong."""
    cases = [(at, fault) for at, operation in enumerate(whole.log) for fault in faults_of(operation)]
    table, wrong = collections.Counter(), []
    for number, (at, fault) in enumerate(cases[::every]):
        folder = scratch / f"fault {number}" / "shards"
        folder.parent.mkdir()
        end = forked(job_with(fault, at, folder, small))
        one = whole.log[at]
        found = [] if expected_end(fault, whole.log[at].kind, end) else [f"it ended otherwise: {end}"]
        found += faults_in_what_stands(folder, whole)
        if not folder.exists() or contents(folder) != whole.files:  # else all was done, and only the answer is lost
            found += faults_of_going_on(folder, small, encoded, whole)
        wrong += [f"{fault} at {at} ({one.kind} {Path(one.to or one.path).name}): {what}" for what in found]
        table[fault, "operations"] += 1
        table[fault, "kills"] += end.signal != 0
        table[fault, "wrong"] += bool(found)
        lost, doubled = (one.total() for one in lost_and_doubled(folder, whole))
        table[fault, "lost"] += lost
        table[fault, "doubled"] += doubled
        shutil.rmtree(folder.parent)
    return table, wrong


def documents(folder):
    """How often each document is in the folder, as its ids; none where it is not whole."""
    try:
        opened = shards.open(folder)
        splits = [opened.train, opened.val]
        return collections.Counter(split.document(i).tobytes() for split in splits for i in range(split.documents))
    except (BpetokError, OSError):
        return collections.Counter()


def lost_and_doubled(folder, whole):
    """The documents of the build that are not in the folder, and those that are there more often."""
    found = whole.documents if contents(folder) == whole.files else documents(folder)
    return whole.documents - found, found - whole.documents


def lines_of(table, columns):
    rows = sorted({row for row, _ in table})
    width = max(map(len, rows))
    yield " " * width + "".join(f"{column:>14}" for column in columns)
    for row in rows:
        yield f"{row:<{width}}" + "".join(f"{table[row, column]:>14,}" for column in columns)


def test_after_a_fault_in_a_sample_of_operations_nothing_is_lost_or_doubled(whole, small, encoded, scratch, forked):
    table, wrong = sweep(37, whole, small, encoded, scratch, forked)
    assert not wrong, f"{len(wrong)}: " + "\n".join(wrong[:20])
    assert sum(count for (_, column), count in table.items() if column == "operations") > 50


@pytest.mark.slow
def test_after_a_fault_in_any_operation_nothing_is_lost_or_doubled(whole, small, encoded, scratch, forked, capsys):
    table, wrong = sweep(1, whole, small, encoded, scratch, forked)
    with capsys.disabled():
        print(
            f"\n{len(whole.log)} operations",
            *lines_of(table, ["operations", "kills", "lost", "doubled", "wrong"]),
            sep="\n",
        )
    assert not wrong, f"{len(wrong)}: " + "\n".join(wrong[:400])


@pytest.mark.slow
def test_after_a_fault_in_a_build_by_two_workers_nothing_is_lost_or_doubled(whole, small, encoded, scratch, forked):
    table, wrong = collections.Counter(), []  # which operation is which, is another time another one
    for at in range(0, len(whole.log) + 5, 5):
        for fault in ("killed before", "ENOSPC", "full from here on", "half, then killed"):
            folder = scratch / f"fault {at} {fault}" / "shards"
            folder.parent.mkdir()
            end = forked(job_with(fault, at, folder, partial(small, workers=2)))
            found = [] if end.signal in (0, signal.SIGKILL) and end.errno in (None, errno.ENOSPC) else [str(end)]
            found += faults_in_what_stands(folder, whole) if folder.exists() else []
            if not folder.exists() or contents(folder) != whole.files:
                found += faults_of_going_on(folder, small, encoded, whole)
            wrong += [f"{fault} at {at}: {what}" for what in found]
            table[fault] += end != (0, None, None, "")
            shutil.rmtree(folder.parent)
    assert not wrong, f"{len(wrong)}: " + "\n".join(wrong[:20])
    assert all(table[fault] > 20 for fault in table)


@pytest.fixture
def merging(whole, small, scratch):
    """`merging(folder)` puts two parts of the build together; and what comes of it without a fault."""
    parts = [scratch / "part 0", scratch / "part 1"]
    for i, part in enumerate(parts):
        small(part, part=(i, 2))
    folder = scratch / "merged" / "shards"
    folder.parent.mkdir()
    with Shim(folder.parent).installed() as shim:
        shards.merge(parts, folder)
    return partial(shards.merge, parts), Whole(contents(folder), [], shim.log, documents(folder))


def test_after_a_fault_in_a_merge_nothing_is_lost_or_doubled(merging, encoded, scratch, forked):
    merge, merged = merging
    _, wrong = sweep(7, merged, merge, encoded, scratch, forked)
    assert not wrong, f"{len(wrong)}: " + "\n".join(wrong[:20])


def test_after_a_fault_in_a_build_of_a_stream_nothing_is_lost_or_doubled(
    whole, small, texts, tok, encoded, scratch, forked
):
    lines = (texts / "whole.txt").read_text().splitlines()

    def build(folder):
        try:
            stream = (f"{line} {i}" for i in range(2) for line in lines)
            return shards.build([stream], tok, folder, shard_tokens=2000, val_fraction=0.2, workers=1)
        except FormatError:  # a stream that was built but not tidied up may have been another one
            if not (folder / "manifest.json").exists():
                raise

    folder = scratch / "stream" / "shards"
    folder.parent.mkdir()
    encoded.clear()
    with Shim(folder.parent).installed() as shim:
        build(folder)
    streamed = Whole(contents(folder), list(encoded), shim.log, documents(folder))
    _, wrong = sweep(61, streamed, build, encoded, scratch, forked)
    assert not wrong, f"{len(wrong)}: " + "\n".join(wrong[:20])


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_the_shim_sees_all_that_the_system_sees(whole, texts, tok, tmp_path):
    tok.save(tmp_path / "tok.bpetok")
    script = f"""
import sys, importlib, bpetok
from functools import partial
from bpetok import shards
from bpetok.sources.units import Reading
shards.Reading = partial(Reading, unit_bytes={UNIT_BYTES})
importlib.import_module("bpetok.shards.building").CHECKPOINT_SECONDS = -1
folder, tok, *texts = sys.argv[1:]
shards.build(texts, bpetok.load(tok), folder, separator={SEPARATOR!r}, shard_tokens={SHARD_TOKENS},
             val_fraction={VAL_FRACTION}, workers=1)
"""
    names = [str(texts / name) for name in ("stories.txt", "rows.jsonl", "packed.jsonl.gz", "whole.txt")]
    (tmp_path / "build.py").write_text(script)
    folder, log = tmp_path / "traced" / "shards", tmp_path / "log"
    folder.parent.mkdir()
    traced = ["strace", "-f", "-y", "-qq", "-o", str(log), "-e", "trace=%desc,%file", "-e", "signal=none", "-s", "4096"]
    command = [*traced, sys.executable, str(tmp_path / "build.py"), str(folder), str(tmp_path / "tok.bpetok"), *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "Operation not permitted" in done.stderr:
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr
    seen = collections.Counter(filter(None, map(partial(change_of, str(folder.parent)), log.read_text().splitlines())))
    counted = collections.Counter(one.kind for one in whole.log)
    assert seen == counted


READS = {"read", "pread64", "lseek", "close", "fstat", "newfstatat", "statx", "stat", "access", "getdents64", "ioctl"}
READS |= {"mmap", "fcntl", "lstat", "readlink", "fadvise64", "flock", "faccessat2", "execve", "getcwd", "unlinkat_"}


def change_of(folder, line):
    """What a line of strace changes in the folder."""
    match = re.match(r"\d+ +(\w+)\((.*)\) += (-?\d+)", line)
    if match is None or folder not in line or match[3] == "-1" or match[1] in READS:
        return None
    call, arguments = match[1], match[2]
    if call in ("openat", "open"):
        return "create" if re.search(r"O_CREAT|O_TRUNC", arguments) else None
    return {"rename": "replace", "renameat": "replace", "renameat2": "replace"}.get(call, call)


# ---- the loss of power -----------------------------------------------------------------------------------------------


@dataclass
class Inode:
    """A file: what is written, and what of it is durable."""

    now: bytearray = field(default_factory=bytearray)
    durable: bytes = b""

    def after_a_crash(self, what):
        """What the disk may hold: of the bytes that were not made durable none, zeros, half, or all."""
        new, old = bytes(self.now), self.durable
        if what == "zeros":
            return old[: len(new)] + bytes(max(0, len(new) - len(old)))
        if what == "half":
            middle = (len(old) + len(new)) // 2
            return new[:middle] if len(new) > len(old) else old
        return new if what == "all" else old


class Disk:
    """A file system that keeps nothing but what was made durable, after some operations.

    A change of names is durable when a folder that it touches is; a rename is one change.
    """

    def __init__(self, log, top):
        self.names = {top: None}  # path -> inode, or None for a folder
        self.durable = {top: None}
        self.pending = []  # changes of names: {path: inode, or False for none}
        for one in log:
            getattr(self, one.kind)(one)

    def change(self, changes):
        self.pending.append(changes)
        apply(self.names, changes)

    def create(self, one):
        if one.path not in self.names:
            self.change({one.path: Inode()})
        elif one.offset:
            self.names[one.path].now.clear()

    def write(self, one):
        now = self.names[one.path].now
        now.extend(bytes(max(0, one.offset - len(now))))
        now[one.offset : one.offset + len(one.data)] = one.data

    def ftruncate(self, one):
        now = self.names[one.path].now
        now.extend(bytes(max(0, one.offset - len(now))))
        del now[one.offset :]

    def fsync(self, one):
        inode = self.names[one.path]
        if inode is not None:
            inode.durable = bytes(inode.now)
            return
        touched = [changes for changes in self.pending if any(os.path.dirname(path) == one.path for path in changes)]
        for changes in touched:
            apply(self.durable, changes)
        self.pending = [changes for changes in self.pending if not any(changes is other for other in touched)]

    def replace(self, one):
        self.change({one.path: False, one.to: self.names[one.path]})

    def unlink(self, one):
        self.change({one.path: False})

    def mkdir(self, one):
        self.change({one.path: None})

    rmdir = unlink

    def after_a_crash(self, kept, what):
        """The files that the disk may hold: `kept(i, n, changes)` says which of n changes of names came through."""
        names = dict(self.durable)
        for i, changes in enumerate(self.pending):
            if kept(i, len(self.pending), changes):
                apply(names, changes)
        return {
            path: inode and inode.after_a_crash(what) for path, inode in names.items() if self.is_there(path, names)
        }

    def is_there(self, path, names):
        """Whether all folders above it are."""
        tops = {top for top in self.names if self.names[top] is None} | {top for top in names if names[top] is None}
        return all(top in names for top in tops if path.startswith(top + os.sep))


def apply(names, changes):
    for path, inode in changes.items():
        if inode is False:
            names.pop(path, None)
        else:
            names[path] = inode


def is_new_folder(changes):
    return list(changes.values()) == [None]


NAMES = {
    "no names": lambda i, n, changes: False,
    "all names": lambda i, n, changes: True,
    "no names but folders": lambda i, n, changes: is_new_folder(changes),
    "the last name": lambda i, n, changes: i == n - 1 or is_new_folder(changes),
    "all but the last name": lambda i, n, changes: i < n - 1,
    "what was taken away": lambda i, n, changes: is_new_folder(changes) or list(changes.values()) == [False],
    "all but what was taken away": lambda i, n, changes: list(changes.values()) != [False],
    "some names": lambda i, n, changes: is_new_folder(changes) or random.Random(f"{i} {n}").random() < 0.5,
}
BYTES = ["none", "zeros", "half", "all"]


def lay_out(files, old, folder):
    """Puts files that were logged below the folder `old` into another."""
    for path in sorted(files):
        to = folder / os.path.relpath(path, old)
        if files[path] is None:
            to.mkdir(parents=True)
        else:
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(files[path])


def durable_next(disk, old):
    """The piece that the last durable checkpoint names."""
    found = disk.after_a_crash(NAMES["no names but folders"], "none")
    plan, progress = (found.get(f"{old}/shards/.build/{name}.json") for name in ("plan", "progress"))
    if f"{old}/shards/manifest.json" in found:
        return (99, 0)
    if plan is None or progress is None:
        return (0, 0)
    state = json.loads(progress)
    return (99, 0) if state["finished"] else tuple(state["next"])


def lose_power(log, old, whole, small, encoded, scratch, every):
    """The loss of power behind each operation of a log, with each of what may be left. As `sweep`."""
    table, wrong = collections.Counter(), []
    variants = [(names, what) for names in NAMES for what in BYTES]
    cases = [(at, names, what) for at in range(len(log) + 1) for names, what in variants]
    for at, names, what in cases[::every]:
        folder = scratch / "after" / "shards"
        disk = Disk(log[:at], str(old))
        lay_out(disk.after_a_crash(NAMES[names], what), old, folder.parent)
        found = faults_in_what_stands(folder, whole)
        if not folder.exists() or contents(folder) != whole.files:
            found += faults_of_going_on(folder, small, encoded, whole, after=durable_next(disk, old))
        last = f"{log[at - 1].kind} {Path(log[at - 1].to or log[at - 1].path).name}" if at else "nothing"
        wrong += [f"{names}, {what} of the bytes, behind {at} ({last}): {one}" for one in found]
        table[f"{names}, {what} of the bytes", "operations"] += 1
        table[f"{names}, {what} of the bytes", "wrong"] += bool(found)
        lost, doubled = (one.total() for one in lost_and_doubled(folder, whole))
        table[f"{names}, {what} of the bytes", "lost"] += lost
        table[f"{names}, {what} of the bytes", "doubled"] += doubled
        shutil.rmtree(folder.parent)
    return table, wrong


def test_after_a_loss_of_power_in_a_sample_of_places_nothing_is_lost_or_doubled(whole, small, encoded, scratch):
    _, wrong = lose_power(whole.log, scratch / "whole", whole, small, encoded, scratch, every=61)
    assert not wrong, f"{len(wrong)}: " + "\n".join(wrong[:20])


@pytest.mark.slow
def test_after_a_loss_of_power_in_any_place_nothing_is_lost_or_doubled(whole, small, encoded, scratch, capsys):
    table, wrong = lose_power(whole.log, scratch / "whole", whole, small, encoded, scratch, every=1)
    with capsys.disabled():
        print(f"\n{len(whole.log)} operations", *lines_of(table, ["operations", "lost", "doubled", "wrong"]), sep="\n")
    assert not wrong, f"{len(wrong)}: " + "\n".join(wrong[:400])


def begun_anew(small, scratch, stop):
    """The logs of a build with smaller shards up to an operation, and of `small`, begun anew there."""
    first = scratch / "first" / "shards"
    first.parent.mkdir()
    with Shim(first.parent).installed() as shim:
        small(first, shard_tokens=1000)
    at = next(at for at, one in enumerate(shim.log) if stop(one))
    folder = scratch / "anew" / "shards"
    lay_out(
        Disk(shim.log[:at], str(first.parent)).after_a_crash(NAMES["all names"], "all"), first.parent, folder.parent
    )
    before = [moved(one, first.parent, folder.parent) for one in shim.log[:at]]
    with Shim(folder.parent).installed() as shim:
        small(folder, restart=True)
    return before, shim.log, contents(first)


def moved(one, old, new):
    path, to = (name.replace(str(old), str(new), 1) for name in (one.path, one.to))
    return replace(one, path=path, to=to)


STOPS = {
    "in a shard": lambda one: one.path.endswith("train_000003.bin"),
    "when half of the files are moved": lambda one: one.kind == "replace" and one.to.endswith("train_000001.bin"),
}


@pytest.mark.parametrize("stop", ["in a shard", "when half of the files are moved"])
def test_after_a_loss_of_power_when_a_build_is_begun_anew_nothing_is_mixed(whole, small, scratch, stop):
    before, log, old_files = begun_anew(small, scratch, STOPS[stop])
    wrong = []
    cases = [(at, names) for at in range(min(len(log), 60)) for names in NAMES]
    for at, names in cases[::17]:
        disk = Disk([*before, *log[:at]], str(scratch / "anew"))
        for build, files in [(small, whole.files), (partial(small, shard_tokens=1000), old_files)]:
            folder = scratch / "after" / "shards"
            lay_out(disk.after_a_crash(NAMES[names], "none"), scratch / "anew", folder.parent)
            try:
                build(folder)
            except BpetokError as error:
                if "--restart" not in (error.hint or ""):
                    wrong.append(f"{names}, behind {at}: {type(error).__name__}: {error}")
                build(folder, restart=True)
            if contents(folder) != files:
                wrong.append(f"{names}, behind {at}: not the same bytes")
            shutil.rmtree(folder.parent)
    assert not wrong, f"{len(wrong)}: " + "\n".join(wrong[:20])


def test_the_model_of_the_disk_keeps_what_was_made_durable_and_nothing_else():
    log = [
        Operation("mkdir", "d"),
        Operation("fsync", ""),
        Operation("create", "d/a"),
        Operation("write", "d/a", data=b"one"),
        Operation("fsync", "d/a"),
        Operation("fsync", "d"),
        Operation("write", "d/a", offset=3, data=b"two2"),
        Operation("replace", "d/a", "d/b"),
    ]
    disk = Disk(log, "")
    none, every = NAMES["no names but folders"], NAMES["all names"]
    assert disk.after_a_crash(none, "none") == {"": None, "d": None, "d/a": b"one"}
    assert disk.after_a_crash(every, "none") == {"": None, "d": None, "d/b": b"one"}
    assert disk.after_a_crash(none, "zeros")["d/a"] == b"one\0\0\0\0"
    assert disk.after_a_crash(none, "half")["d/a"] == b"onetw"
    assert disk.after_a_crash(every, "all")["d/b"] == b"onetwo2"
    assert Disk([log[0], *log[2:]], "").after_a_crash(NAMES["no names"], "all") == {"": None}
