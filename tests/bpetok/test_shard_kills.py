"""Builds of shards that are killed, parent or worker, at any time; two at once; other arguments; a disk that is full.

The processes are real. Each build runs in a forked process and its own process group, so whoever is left over is seen.
"""

import contextlib
import fcntl
import importlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path

import pytest

import bpetok
from bpetok import shards
from bpetok.errors import CorruptionError, DataError, FormatError, IncompatibleError, WorkerError
from bpetok.sources.units import Reading

building = importlib.import_module("bpetok.shards.building")
workers = importlib.import_module("bpetok.shards.workers")
folders = importlib.import_module("bpetok.shards.place")

pytestmark = [
    pytest.mark.usefixtures("_lean_process"),
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc, to see what is left over"),
]

IN_TIME = 5.0  # seconds in which the death of a worker has to be told


@pytest.fixture(scope="module")
def tok():
    return bpetok.train("line of the quick brown fox " * 50, 280, pattern="gpt4", special_tokens=["<|endoftext|>"])


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """`texts(count)`: a file of so many documents, no two alike, and one document that is as long as half of them."""
    folder = tmp_path_factory.mktemp("texts")

    def make(count):
        many, long = folder / f"many {count}.txt", folder / f"long {count}.txt"
        if not many.exists():
            many.write_text("".join(f"line {i} of the quick brown fox\n--\n" for i in range(count)))
            long.write_text("".join(f"row {i} of the quick brown fox\n" for i in range(count // 2)))
        return [many, long]

    return make


@pytest.fixture
def build(texts, tok, monkeypatch):
    """`build(folder, count)`: pieces of 64 KiB, and checkpoints all the time."""
    monkeypatch.setattr(shards, "Reading", partial(Reading, unit_bytes=1 << 16))
    monkeypatch.setattr(building, "CHECKPOINT_SECONDS", 0.01)

    def make(folder, count=40_000, **more):
        how = {"separator": "--", "shard_tokens": 100_000, "val_fraction": 0.1, "workers": 2}
        return shards.build(texts(count), tok, folder, **(how | more))

    return make


def contents(folder):
    return {path.name: path.read_bytes() if path.is_file() else b"a folder" for path in sorted(folder.iterdir())}


@pytest.fixture
def whole(build, tmp_path):
    """`whole(count)`: the files of a build that nobody stops."""

    def make(count=40_000):
        if not (tmp_path / f"whole {count}").exists():
            build(tmp_path / f"whole {count}", count, workers=1)
        return contents(tmp_path / f"whole {count}")

    return make


# ---- processes -------------------------------------------------------------------------------------------------------


class Running:
    """A forked process in a group of its own that does a job."""

    def __init__(self, job, said):
        self.said = said
        with warnings.catch_warnings():  # Python 3.12 warns of threads of C libraries
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            os.setpgid(0, 0)
            end = ["", ""]
            try:
                job()
            except BaseException as error:
                end = [type(error).__name__, str(error)]
            finally:
                said.write_text(json.dumps(end))
                os._exit(0)
        until(lambda: os.getpgid(self.pid) == self.pid)

    def wait(self, seconds):
        """What error it ended with and what that says, "" for none; "killed"; or "hangs" after so many seconds."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if os.waitpid(self.pid, os.WNOHANG)[0]:
                try:
                    return tuple(json.loads(self.said.read_text()))
                except (FileNotFoundError, ValueError):
                    return "killed", ""
            time.sleep(0.005)
        self.end()
        os.waitpid(self.pid, 0)
        return "hangs", ""

    def workers(self):
        """The others of its group that still run."""
        return [pid for pid in processes_of(self.pid) if pid != self.pid]

    def end(self):
        for pid in processes_of(self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def processes_of(group):
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, of = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(of) == group and state not in "ZX":
            found.append(int(folder.name))
    return found


@pytest.fixture
def running(tmp_path):
    """`running(job)`: a `Running`; it and its group end with the test."""
    all_of_them = []

    def start(job):
        all_of_them.append(Running(job, tmp_path / f"said {len(all_of_them)}"))
        return all_of_them[-1]

    yield start
    for one in all_of_them:
        one.end()


def until(condition, seconds=10):
    """Waits for it; says whether it came."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def leftovers(one):
    """The workers that outlive their parent by five seconds; they are killed then."""
    if until(lambda: not one.workers(), IN_TIME):
        return []
    left = one.workers()
    one.end()
    return [f"{len(left)} workers outlive the call"]


def has_begun(folder):
    return lambda: (folder / ".build" / "train_000000.bin").exists()


# ---- the parent is killed --------------------------------------------------------------------------------------------


def kill_parents(trials, count, build, whole, running, tmp_path):
    """Kills builds at random times, three times each, then goes on. Gives how many were killed, and what went wrong."""
    files = whole(count)
    start = time.monotonic()
    assert running(lambda: build(tmp_path / "timed", count)).wait(60) == ("", "")
    seconds = time.monotonic() - start
    draw, wrong, killed = random.Random(trials), [], 0
    for trial in range(trials):
        folder = tmp_path / f"parent {trial // 3}"
        one = running(lambda to=folder: build(to, count))
        time.sleep(draw.uniform(0, seconds / 2))
        os.kill(one.pid, signal.SIGKILL)
        end = one.wait(10)
        found = leftovers(one)
        killed += end[0] == "killed"
        if end not in [("killed", ""), ("", "")] and "holds shards already" not in end[1]:
            found.append(f"it ended otherwise: {end}")
        if trial % 3 == 2 or trial == trials - 1:
            if not (folder / "manifest.json").exists() or (folder / ".build").exists():
                end = running(lambda to=folder: build(to, count)).wait(60)
                found += [f"going on: {end}"] * bool(end[0])
            found += [f"not the same bytes in {folder}"] * (contents(folder) != files)
            shutil.rmtree(folder)
        wrong += [f"trial {trial}: {what}" for what in found]
    return killed, wrong


def test_a_build_whose_parent_is_killed_goes_on_and_leaves_no_process(build, whole, running, tmp_path):
    killed, wrong = kill_parents(9, 40_000, build, whole, running, tmp_path)
    assert not wrong, "\n".join(wrong)
    assert killed >= 3


@pytest.mark.slow
def test_thirty_builds_of_30_mb_whose_parents_are_killed_go_on(build, whole, running, tmp_path, capsys):
    killed, wrong = kill_parents(30, 600_000, build, whole, running, tmp_path)
    with capsys.disabled():
        print(f"\n30 builds, {killed} parents killed at work, {sum('hangs' in one for one in wrong)} hangs")
    assert not wrong, "\n".join(wrong)


# ---- a worker is killed ----------------------------------------------------------------------------------------------


def kill_workers(trials, build, whole, running, tmp_path):
    """Kills one worker of a build at a random time, then goes on. Gives how many died in time, and what went wrong."""
    files = whole()
    draw, wrong, died = random.Random(trials), [], 0
    for trial in range(trials):
        folder = tmp_path / "worker"
        one = running(lambda to=folder: build(to))
        until(one.workers)
        time.sleep(draw.uniform(0, 0.15))
        victims = one.workers()
        if victims:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(draw.choice(victims), signal.SIGKILL)
        start = time.monotonic()
        end = one.wait(30)
        found = []
        if end[0] == "WorkerError":
            died += 1
            if time.monotonic() - start > IN_TIME:
                found.append(f"told after {time.monotonic() - start:.1f} seconds")
            if ".txt" not in end[1] or "SIGKILL" not in end[1] or not any(map(str.isdigit, end[1])):
                found.append(f"the error names too little: {end[1]}")
        elif end[0]:
            found.append(f"it ended otherwise: {end}")
        found += leftovers(one)
        if end[0]:
            end = running(lambda to=folder: build(to)).wait(60)
            found += [f"going on: {end}"] * bool(end[0])
        found += ["not the same bytes"] * (contents(folder) != files)
        shutil.rmtree(folder)
        wrong += [f"trial {trial}: {what}" for what in found]
    return died, wrong


@pytest.mark.parametrize("room", [1 << 25, 1 << 12], ids=["ids in shared memory", "ids that are sent"])
def test_a_worker_that_is_killed_is_told_in_time_with_what_it_encoded(
    room, build, whole, running, tmp_path, monkeypatch
):
    monkeypatch.setattr(workers, "_ROOM_BYTES", room)
    died, wrong = kill_workers(8, build, whole, running, tmp_path)
    assert not wrong, "\n".join(wrong)
    assert died >= 2


@pytest.mark.slow
@pytest.mark.parametrize("room", [1 << 25, 1 << 12], ids=["ids in shared memory", "ids that are sent"])
def test_250_builds_whose_workers_are_killed_never_hang(room, build, whole, running, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(workers, "_ROOM_BYTES", room)
    died, wrong = kill_workers(250, build, whole, running, tmp_path)
    with capsys.disabled():
        print(f"\n250 builds, {died} workers killed at work, {sum('hangs' in one for one in wrong)} hangs")
    assert not wrong, "\n".join(wrong[:20])


def test_the_death_of_a_worker_is_told_although_another_one_takes_long(build, running, tmp_path, monkeypatch):
    def encode(recipe, group, *rest):
        (tmp_path / f"at {group.units[0].number}").write_text(str(os.getpid()))
        time.sleep(60)

    monkeypatch.setattr(workers, "encode_group", encode)
    one = running(lambda: build(tmp_path / "shards"))
    assert until(lambda: len(list(tmp_path.glob("at *"))) == 2)
    _, second = sorted(tmp_path.glob("at *"))
    time.sleep(0.1)
    os.kill(int(second.read_text()), signal.SIGKILL)
    kind, message = one.wait(IN_TIME)
    assert kind == "WorkerError"
    assert re.search(r"many 40000.txt.*SIGKILL|SIGKILL.*many 40000.txt", message)
    assert not leftovers(one)


def test_a_worker_that_was_stopped_before_its_parent_was_killed_does_no_harm(build, whole, running, tmp_path):
    one = running(lambda: build(tmp_path / "shards", progress=lambda now: time.sleep(60 * (now.done > 0))))
    # One of the group must have a parent outside of it: else the system ends those that are stopped with the parent.
    other = running(lambda: time.sleep(60))
    os.setpgid(other.pid, one.pid)
    assert until(lambda: len(one.workers()) == 3)
    assert until(has_begun(tmp_path / "shards"))
    stopped = max(set(one.workers()) - {other.pid})
    os.kill(stopped, signal.SIGSTOP)
    os.kill(one.pid, signal.SIGKILL)
    assert one.wait(10) == ("killed", "")
    assert stopped in one.workers()
    assert running(lambda: build(tmp_path / "shards")).wait(30) == ("", "")
    assert contents(tmp_path / "shards") == whole()
    one.end()
    os.waitpid(other.pid, 0)


def test_a_thread_that_is_late_does_not_make_three_workers_wait_for_each_other(
    build, whole, running, tmp_path, monkeypatch
):
    real = workers._Pool._encode
    late = []

    def encode(pool, group):
        if not late:
            late.append(group)
            time.sleep(1.5)
        return real(pool, group)

    monkeypatch.setattr(workers._Pool, "_encode", encode)
    assert running(lambda: build(tmp_path / "shards", workers=3)).wait(20) == ("", "")
    assert contents(tmp_path / "shards") == whole()


# ---- two at once, and other calls ------------------------------------------------------------------------------------


class Stopped(Exception):
    """What stops a build here."""


def stop_after(pieces):
    """A progress that stops the build."""
    seen = []

    def progress(now):
        seen.append(now)
        if len(seen) > pieces:
            raise Stopped

    return progress


@pytest.fixture
def unfinished(build, tmp_path):
    """A folder in which a build was stopped after some pieces."""
    with pytest.raises(Stopped):
        build(tmp_path / "shards", workers=1, progress=stop_after(10))
    assert (tmp_path / "shards" / ".build" / "progress.json").exists()
    return tmp_path / "shards"


def test_a_second_call_into_the_same_folder_is_refused_and_the_first_goes_on(
    build, whole, running, tmp_path, monkeypatch
):
    folder, go = tmp_path / "shards", tmp_path / "go"
    first = running(lambda: build(folder, workers=1, progress=lambda now: until(go.exists, 30)))
    assert until((folder / ".build" / "plan.json").exists)
    monkeypatch.setattr(folders, "_PATIENCE", 0.1)
    for restart in (False, True):
        with pytest.raises(FormatError, match="shards: another call is writing there"):
            build(folder, restart=restart)
    go.touch()
    assert first.wait(30) == ("", "")
    assert contents(folder) == whole()


def test_no_other_call_may_write_before_the_last_checkpoint_of_one_that_failed(build, tmp_path, monkeypatch):
    folder, found = tmp_path / "shards", []
    real = building.write_atomically

    def write(path, contents):
        time.sleep(0.2)
        with open(folder / ".build" / "lock") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                found.append("free")
            except BlockingIOError:
                found.append("locked")
        real(path, contents)

    monkeypatch.setattr(building, "write_atomically", write)
    with pytest.raises(Stopped):
        build(folder, progress=stop_after(20))
    assert set(found) == {"locked"}


def test_a_build_goes_on_only_with_the_same_arguments(unfinished, build):
    with pytest.raises(IncompatibleError, match=r"shards: .*other shard_tokens \(100000, now 90000\)"):
        build(unfinished, shard_tokens=90_000)
    with pytest.raises(IncompatibleError, match=r"end_of_text \('before', now 'after'\)"):
        build(unfinished, end_of_text="after")


def test_a_build_goes_on_only_with_the_same_tokenizer(unfinished, texts, tok, build):
    other = bpetok.train("another text " * 50, 270, special_tokens=["<|endoftext|>"])
    with pytest.raises(IncompatibleError, match=rf"fingerprint \({tok.fingerprint}, now {other.fingerprint}\)"):
        shards.build(texts(40_000), other, unfinished, separator="--", shard_tokens=100_000, val_fraction=0.1)


@pytest.mark.parametrize("change", ["size", "time"])
def test_a_build_goes_on_only_with_the_same_sources(tok, tmp_path, change, monkeypatch):
    monkeypatch.setattr(shards, "Reading", partial(Reading, unit_bytes=1 << 10))
    monkeypatch.setattr(building, "CHECKPOINT_SECONDS", -1)
    file, folder = tmp_path / "a.txt", tmp_path / "shards"
    file.write_text("".join(f"line {i} of the fox\n" for i in range(1000)))
    with pytest.raises(Stopped):
        shards.build([file], tok, folder, shard_tokens=1000, progress=stop_after(5))
    if change == "size":
        with open(file, "a") as opened:
            opened.write("more\n")
    else:
        os.utime(file, ns=(1, 1))
    with pytest.raises(IncompatibleError, match=r"sources|altered") as caught:
        shards.build([file], tok, folder, shard_tokens=1000)
    assert "--restart" in (caught.value.hint or "")
    shards.build([file], tok, folder, shard_tokens=1000, restart=True)
    shards.build([file], tok, tmp_path / "other", shard_tokens=1000)
    assert contents(folder) == contents(tmp_path / "other")


def test_restart_begins_anew(unfinished, build, texts, tok):
    manifest = build(unfinished, shard_tokens=90_000, restart=True)
    assert manifest.shards[0].tokens == 90_000
    shards.open(unfinished).verify()
    assert not (unfinished / ".build").exists()


def stopped_in(monkeypatch, what, after=0):
    """Lets a function of the module that publishes be interrupted after some calls of it."""
    module, _, name = what.rpartition(".")
    owner = {"place": folders, "build": building, "os": os}[module]
    real, calls = getattr(owner, name), []

    def stop(*arguments, **more):
        calls.append(arguments)
        if len(calls) > after:
            raise Stopped
        return real(*arguments, **more)

    patch = pytest.MonkeyPatch()
    patch.setattr(owner, name, stop)
    return patch


def test_a_build_that_was_stopped_before_it_was_tidied_up_gives_its_manifest(build, whole, tmp_path, monkeypatch):
    patch = stopped_in(monkeypatch, "build.discard")
    with pytest.raises(Stopped):
        build(tmp_path / "shards", workers=1)
    patch.undo()
    assert (tmp_path / "shards" / ".build").exists()
    manifest = build(tmp_path / "shards")
    assert manifest == shards.Manifest.read(tmp_path / "shards")
    assert contents(tmp_path / "shards") == whole()
    with pytest.raises(FormatError, match="holds shards already"):
        build(tmp_path / "shards")


def half_published(build, folder, monkeypatch):
    real, done = os.replace, []

    def replace(old, new):
        if Path(new).parent == folder and Path(new).suffix == ".bin":
            if len(done) == 2:
                raise Stopped
            done.append(new)
        real(old, new)

    patch = pytest.MonkeyPatch()
    patch.setattr(os, "replace", replace)
    try:
        with pytest.raises(Stopped):
            build()
    finally:
        patch.undo()
    assert len(list(folder.glob("*.bin"))) == 2
    assert not (folder / "manifest.json").exists()


def test_restart_begins_anew_also_where_some_files_have_their_final_names(build, whole, tmp_path, monkeypatch):
    half_published(lambda: build(tmp_path / "shards", workers=1), tmp_path / "shards", monkeypatch)
    build(tmp_path / "shards", restart=True)
    assert contents(tmp_path / "shards") == whole()


def test_a_stream_can_be_built_again_where_some_files_have_their_final_names(tok, tmp_path, monkeypatch):
    def build(folder):
        return shards.build([(f"line {i} of the fox" for i in range(1000))], tok, folder, shard_tokens=1000, workers=1)

    half_published(lambda: build(tmp_path / "shards"), tmp_path / "shards", monkeypatch)
    build(tmp_path / "shards")
    build(tmp_path / "other")
    assert contents(tmp_path / "shards") == contents(tmp_path / "other")


def test_documents_at_hand_are_not_taken_for_those_of_a_call_that_was_not_tidied_up(tok, tmp_path, monkeypatch):
    folder = tmp_path / "shards"
    patch = stopped_in(monkeypatch, "build.discard")
    with pytest.raises(Stopped):
        shards.build([["one", "two"]], tok, folder, val_fraction=0)
    patch.undo()
    with pytest.raises(FormatError, match="holds shards already"):
        shards.build([["three", "four"]], tok, folder, val_fraction=0)


def test_a_merge_that_was_stopped_can_be_made_again(build, tmp_path, monkeypatch):
    parts = [tmp_path / "part 0", tmp_path / "part 1"]
    for i, part in enumerate(parts):
        build(part, workers=1, part=(i, 2))
    half_published(lambda: shards.merge(parts, tmp_path / "all"), tmp_path / "all", monkeypatch)
    shards.merge(parts, tmp_path / "all")
    shards.open(tmp_path / "all").verify()


def test_a_whole_shard_that_is_gone_is_refused_and_restart_begins_anew(unfinished, build, whole):
    (unfinished / ".build" / "train_000000.bin").unlink()
    with pytest.raises(CorruptionError, match=r"train_000000\.bin") as caught:
        build(unfinished, workers=1)
    assert "--restart" in (caught.value.hint or "")
    build(unfinished, restart=True)
    assert contents(unfinished) == whole()


@pytest.mark.parametrize("name", ["plan.json", "progress.json"])
@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]", b"\xff", b'{"next": 1'], ids=repr)
def test_a_damaged_file_of_the_hidden_folder_is_refused(unfinished, build, name, damage):
    (unfinished / ".build" / name).write_bytes(damage)
    with pytest.raises((CorruptionError, FormatError, IncompatibleError)) as caught:
        build(unfinished, workers=1)
    assert "--restart" in (caught.value.hint or "")


def test_progress_that_is_not_there_is_refused(unfinished, build):
    (unfinished / ".build" / "progress.json").unlink()
    with pytest.raises((CorruptionError, FormatError)) as caught:
        build(unfinished, workers=1)
    assert "--restart" in (caught.value.hint or "")


# ---- no space --------------------------------------------------------------------------------------------------------

FULL = """
import errno, os, sys
room, folder = int(sys.argv.pop(1)), sys.argv.pop(1)
real = os.write
def write(file, data):
    global room
    if os.readlink(f"/proc/self/fd/{file}").startswith(folder):
        room -= len(data)
        if room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return real(file, data)
os.write = write
from cli.bpetok import main
main()
"""


def shard_command(texts, tokenizer, folder):
    return [*map(str, texts), "-t", str(tokenizer), "-o", str(folder), "--shard-tokens", "100000", "--separator", "--"]


def command(arguments):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def saved(tok, tmp_path):
    tok.save(tmp_path / "tok.bpetok")
    return tmp_path / "tok.bpetok"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_full_disk_ends_the_command_with_code_6_and_the_next_one_goes_on(saved, texts, tmp_path, workers):
    folder = tmp_path / "shards"
    shard = ["shard", *shard_command(texts(40_000), saved, folder), "--workers", workers]
    full = command(["-c", FULL, "400000", str(folder), *shard])
    assert full.returncode == 6, full.stderr
    assert "out of space" in full.stderr
    assert "hint: free some" in full.stderr
    assert [path.name for path in folder.iterdir()] == [".build"]
    assert command(["-m", "bpetok", *shard]).returncode == 0
    shards.open(folder).verify()


@pytest.mark.slow
def test_a_disk_that_is_really_full_ends_the_command_with_code_6(saved, texts, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=800k", "none", str(disk)]
    try:
        mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        pytest.skip(f"needs mount: {error}")
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a file system: {mounted.stderr.strip()}")
    try:
        shard = ["-m", "bpetok", "shard", *shard_command(texts(40_000), saved, disk / "shards"), "--workers", "2"]
        full = command(shard)
        assert full.returncode == 6, full.stderr
        assert [path.name for path in (disk / "shards").iterdir()] == [".build"]
        subprocess.run(["mount", "-o", "remount,size=32m", str(disk)], check=True)
        went_on = command(shard)
        assert went_on.returncode == 0, went_on.stderr
        undisturbed = ["-m", "bpetok", "shard", *shard_command(texts(40_000), saved, tmp_path / "shards")]
        assert command(undisturbed).returncode == 0
        assert contents(disk / "shards") == contents(tmp_path / "shards")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
def test_a_command_that_is_killed_goes_on(saved, texts, tmp_path, running):
    command_line = [
        "-m",
        "bpetok",
        "shard",
        *shard_command(texts(600_000), saved, tmp_path / "shards"),
        "--workers",
        "2",
    ]
    draw = random.Random(7)
    for _ in range(10):
        killed = subprocess.Popen([sys.executable, *command_line], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        time.sleep(draw.uniform(0.3, 1.5))
        killed.kill()
        killed.wait()
        if (tmp_path / "shards" / "manifest.json").exists():
            break
    if not (tmp_path / "shards" / "manifest.json").exists():
        went_on = command(command_line)
        assert went_on.returncode == 0, went_on.stderr
    whole = ["-m", "bpetok", "shard", *shard_command(texts(600_000), saved, tmp_path / "whole"), "--workers", "1"]
    assert command(whole).returncode == 0
    assert contents(tmp_path / "shards") == contents(tmp_path / "whole")


def test_errors_of_the_world_are_not_taken_for_the_death_of_a_worker(build, texts, tok, tmp_path):
    gone = tmp_path / "gone.txt"
    gone.write_text("a line of the fox\n" * 20_000)

    def take_away(now):
        gone.unlink(missing_ok=True)

    with pytest.raises((OSError, DataError), match=r"gone\.txt") as caught:
        shards.build([*texts(40_000), gone], tok, tmp_path / "shards", workers=2, progress=take_away)
    assert not isinstance(caught.value, WorkerError)
