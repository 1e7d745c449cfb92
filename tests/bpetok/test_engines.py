"""Other engines than this machine's processes: Ray, and datatrove's pipelines. None changes a byte."""

import contextlib
import hashlib
import importlib.util
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

import bpetok
from bpetok import cluster, shards
from bpetok.counts import PretokenCounts
from bpetok.datatrove import ShardWriter
from bpetok.errors import DataError, FormatError, MissingExtraError, WorkerError
from bpetok.sources import Reading, open_sources, units_of

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason='needs Ray: pip install "bpetok[ray]"')
needs_datatrove = pytest.mark.skipif(
    importlib.util.find_spec("datatrove") is None, reason='needs datatrove: pip install "bpetok[datatrove]"'
)


def write_rows(path: Path, count: int, words: int = 60, seed: int = 0) -> Path:
    """A `.jsonl` file of texts that differ in their beginning."""
    draw = random.Random(seed)
    known = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 8))) for _ in range(2000)]
    texts = [" ".join(draw.choices(known, k=words)) for _ in range(min(count, 500))]
    with open(path, "w") as file:
        file.writelines(json.dumps({"text": f"{seed} {i} né {texts[i % 500]}\n"}) + "\n" for i in range(count))
    return path


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


# ---- without Ray -------------------------------------------------------------------------------------------------


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")


@pytest.fixture
def fake_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if Ray were installed; nothing of it works."""
    ray = ModuleType("ray")
    ray.is_initialized = lambda: False  # type: ignore[attr-defined]
    ray.shutdown = lambda: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.data", ModuleType("ray.data"))


def test_an_unknown_engine_is_refused(small: bpetok.Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="shards: engine must be one of local, ray, got 'spark'"):
        shards.build([["text"]], small, tmp_path / "out", engine="spark")
    with pytest.raises(DataError, match="train: engine must be one of local, ray, got 'spark'"):
        bpetok.train("text", 257, engine="spark")
    assert not (tmp_path / "out").exists()


def test_an_address_needs_ray_and_a_cluster_has_its_own_workers() -> None:
    with pytest.raises(DataError, match="train: address must be None unless the engine is \"ray\", got 'auto'"):
        bpetok.train("text", 257, address="auto")
    with pytest.raises(DataError, match="workers must be left to the cluster at auto, got 2"):
        bpetok.train("text", 257, engine="ray", address="auto", num_threads=2)


@pytest.mark.usefixtures("no_ray")
def test_without_ray_the_error_says_what_to_install(small: bpetok.Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(MissingExtraError, match=r'pip install "bpetok\[ray\]"'):
        shards.build([["text"]], small, tmp_path / "out", engine="ray")
    with pytest.raises(MissingExtraError, match=r'pip install "bpetok\[ray\]"'):
        bpetok.train(tmp_path, 257, engine="ray")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("fake_ray")
def test_ray_counts_files_alone_and_breaks_no_ties_by_place(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a source must be the paths of files where Ray counts, got str"):
        bpetok.train("text", 257, engine="ray")
    with pytest.raises(DataError, match="a source must be the paths of files where Ray counts, got dict"):
        bpetok.train([{"text": "text"}], 257, engine="ray")
    with pytest.raises(DataError, match=r'tie_break "first" must see the text itself'):
        bpetok.train(tmp_path, 257, engine="ray", tie_break="first")


@pytest.mark.usefixtures("fake_ray")
def test_where_no_cluster_runs_the_error_says_so_at_once() -> None:
    with (
        pytest.raises(WorkerError, match=r"ray: a cluster must run at 127\.0\.0\.1:1, got none(.|\n)*ray start --head"),
        cluster.connected("127.0.0.1:1", None),
    ):
        pytest.fail("there is none")


def test_windows_hold_enough_work_and_little_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", 300)
    named = list(units_of(open_sources([file], Reading(unit_bytes=100))))
    held = list(units_of(open_sources([["ten bytes…"] * 300], Reading(unit_bytes=10))))
    monkeypatch.setattr(cluster, "_WINDOW_BYTES", 100)

    def sizes(groups: list[Any], cpus: int) -> list[int]:
        ray = SimpleNamespace(cluster_resources=lambda: {"CPU": float(cpus)})
        windows = list(cluster.windows_of(ray, iter(groups)))
        assert [group for window in windows for group in window] == groups
        return [len(window) for window in windows]

    assert sizes(named[:600], cpus=2) == [256, 256, 88]
    assert sizes(named[:600], cpus=20) == [320, 280]
    assert set(sizes(held, cpus=2)) == {9, 3}  # twelve bytes each


@pytest.mark.parametrize("pattern", ["gpt4", r"\w+|\W+", None])
@pytest.mark.parametrize("name", ["rows.jsonl", "text.txt"])
def test_pieces_are_counted_as_the_whole_file_is(name: str, pattern: str | None, tmp_path: Path) -> None:
    file = write_rows(tmp_path / name, 200)
    whole = PretokenCounts(pattern)
    whole.add_file(file)
    reading = Reading(scanner=whole.split.scanner, unit_bytes=1000)
    groups = units_of(open_sources([file], reading))
    parts = [cluster._count(whole.split.regex, share) for share in iter(lambda: list(islice(groups, 3)), [])]
    assert len(parts) > 3 or (name == "text.txt" and pattern != "gpt4")  # which cannot be cut
    merged = cluster._merge(*parts)
    merged.sources.append(cluster._about(str(file)))
    assert merged == whole
    assert (merged.documents, merged.bytes, merged.sources) == (whole.documents, whole.bytes, whole.sources)


# ---- Ray ---------------------------------------------------------------------------------------------------------


def parents() -> dict[int, tuple[int, str]]:
    """Of each process its parent and its title."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            parent = int((folder / "stat").read_text().rsplit(") ", 1)[1].split()[1])
            found[int(folder.name)] = parent, (folder / "cmdline").read_bytes().decode(errors="replace")
    return found


def at_work(ancestor: int, title: str) -> list[int]:
    """The processes below one whose titles say that they are at a certain work."""
    known = parents()

    def is_below(pid: int) -> bool:
        while pid in known and pid != ancestor:
            pid = known[pid][0]
        return pid == ancestor

    return [pid for pid, (_, found) in known.items() if found.startswith(title) and is_below(pid)]


@pytest.fixture
def ray_environment() -> Iterator[dict[str, str]]:
    """Ray in a folder of its own, whose name is short, since a socket's must be; not in the home of who tests."""
    folder = tempfile.mkdtemp(prefix="ray")
    yield {**os.environ, "RAY_TMPDIR": folder, "HOME": folder}
    for _ in range(10):  # a cluster whose owner was killed writes a little longer
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.exists(folder):
            break
        time.sleep(0.5)


Run = Callable[..., dict[str, Any]]


@pytest.fixture
def on_ray(ray_environment: dict[str, str]) -> Run:
    """`on_ray(arguments, title)`: runs bpetok on two processors and kills a worker that is at work, once."""
    two = set(sorted(os.sched_getaffinity(0))[:2])

    def run(arguments: list[Any], title: str) -> dict[str, Any]:
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "bpetok", *map(str, arguments), "--engine", "ray"],
            env=ray_environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, two),
        )
        killed: list[int] = []
        while process.poll() is None and time.monotonic() - began < 240:
            for pid in at_work(process.pid, title)[: 1 - len(killed)]:
                time.sleep(0.05)  # into the work
                if pid in at_work(process.pid, title):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
            time.sleep(0.01)
        process.kill()
        said, told = process.communicate()
        return {
            "code": process.returncode,
            "killed": len(killed),
            "seconds": round(time.monotonic() - began, 1),
            "said": said,
            "told": told,
        }

    return run


@needs_ray
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to find the workers")
def test_ray_makes_the_same_shards_though_a_worker_is_killed(on_ray: Run, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", 25_000, words=330)
    assert file.stat().st_size > 45_000_000
    arguments = ["shard", file, "--shard-tokens", 5_000_000, "-q"]
    subprocess.run([sys.executable, "-m", "bpetok", *map(str, arguments), "-o", tmp_path / "local"], check=True)
    outcome = on_ray([*arguments, "-o", tmp_path / "ray"], "ray::Map(_encode)")
    assert outcome["code"] == 0, outcome
    assert outcome["killed"] == 1
    assert digests(tmp_path / "ray") == digests(tmp_path / "local")
    assert len(digests(tmp_path / "ray")) > 5
    assert outcome["said"] == ""
    assert "Traceback" not in outcome["told"]  # Ray says that a worker died, and no more


@needs_ray
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to find the workers")
def test_ray_trains_the_same_tokenizer_though_a_worker_is_killed(on_ray: Run, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 25_000, words=300)
    text = write_rows(tmp_path / "text.txt", 25_000, words=300, seed=1)
    counts = PretokenCounts()
    counts.add_text("a part that was counted before " * 100)
    counts.save(tmp_path / "part.counts")
    arguments = ["train", rows, tmp_path / "part.counts", text, "--vocab-size", 1000, "-q"]
    for folder in ("local", "ray"):  # the file's name is the vocabulary's
        (tmp_path / folder).mkdir()
    local = [*map(str, arguments), "-o", tmp_path / "local" / "my.bpetok"]
    subprocess.run([sys.executable, "-m", "bpetok", *local], check=True)
    outcome = on_ray([*arguments, "-o", tmp_path / "ray" / "my.bpetok"], "ray::_count")
    assert outcome["code"] == 0, outcome
    assert outcome["killed"] == 1
    assert digests(tmp_path / "ray") == digests(tmp_path / "local")
    assert outcome["said"] == ""
    assert "Traceback" not in outcome["told"]  # Ray says that a worker died, and no more


@needs_ray
@pytest.mark.slow
def test_what_ray_began_and_was_killed_at_this_machine_goes_on_with(
    ray_environment: dict[str, str], tmp_path: Path
) -> None:
    file = write_rows(tmp_path / "rows.jsonl", 25_000, words=330)
    command = [sys.executable, "-m", "bpetok", "shard", str(file), "--shard-tokens", "3000000", "-q", "-o"]
    subprocess.run([*command, str(tmp_path / "whole")], check=True)
    begun = subprocess.Popen([*command, str(tmp_path / "resumed"), "--engine", "ray"], env=ray_environment)
    patience = time.monotonic() + 240
    while not (tmp_path / "resumed" / ".build" / "train_000001.bin").exists() and time.monotonic() < patience:
        assert begun.poll() is None
        time.sleep(0.005)
    begun.kill()
    begun.wait()
    assert not (tmp_path / "resumed" / "manifest.json").exists()
    subprocess.run([*command, str(tmp_path / "resumed")], check=True)
    assert digests(tmp_path / "resumed") == digests(tmp_path / "whole")


HOSTILE = '''
import json, os, pathlib, subprocess, sys
import ray
ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
import bpetok
from bpetok import shards
from bpetok.shards.encoding import Recipe, encode_group
from bpetok.shards.ray import encode_by_ray
from bpetok.sources import Batch, Unit, UnitGroup, open_sources, units_of
from bpetok.sources.survey import ByHash

class Killer:
    """A piece that kills who reads it, so many times."""
    def __init__(self, marks, times):
        self.marks, self.times = pathlib.Path(marks), times
    def read(self):
        if len(list(self.marks.iterdir())) < self.times:
            (self.marks / str(os.getpid())).touch()
            os.kill(os.getpid(), 9)
        return Batch(texts=[b"survived"], positions=[0])

def killing(times):
    marks = pathlib.Path(f"marks{times}")
    marks.mkdir()
    groups = list(units_of(open_sources([["one", "two"]])))
    groups.append(UnitGroup((Unit(1, 0, 1, 1, "the hostile piece", Killer(marks, times)),), (2, 0)))
    return groups

tok = bpetok.train("some text", 260, special_tokens=["<|endoftext|>"])
recipe = Recipe(tok, tok.eot_token, "before", ByHash(0))
told = {}
made = [encoded.splits["train"].ids.tolist() for _, encoded in encode_by_ray(recipe, killing(1))]
told["survived"] = made == [tok.encode_ordinary("") + made[0], [tok.eot_token, *tok.encode_ordinary("survived")]]
try:
    list(encode_by_ray(recipe, killing(100)))
except bpetok.WorkerError as error:
    told["always"] = str(error)
told["deaths"] = len(os.listdir("marks100"))
rows = pathlib.Path("rows.jsonl")
rows.write_text('{"text": "good"}\\n' * 5 + '{"text": 5}\\n')
address = ray.get_runtime_context().gcs_address
try:
    shards.build([rows], tok, "bad", engine="ray")
except bpetok.DataError as error:
    told["row"] = str(error)
rows.write_text('{"text": "good"}\\n' * 5)
tok.save("my.bpetok")
command = [sys.executable, "-m", "bpetok", "shard", "rows.jsonl", "-t", "my.bpetok", "-q", "-o", "there"]
told["there"] = subprocess.run([*command, "--engine", "ray", "--address", address]).returncode
told["manifest"] = shards.build([rows], tok, "here") == shards.open("there").manifest
told["still connected"] = ray.is_initialized()
print(json.dumps(told))
'''


@needs_ray
@pytest.mark.slow
def test_a_piece_that_kills_every_worker_a_bad_row_and_a_cluster_that_runs(
    ray_environment: dict[str, str], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HOSTILE], cwd=tmp_path, env=ray_environment, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert told["survived"]
    assert "4 workers died one after the other while they encoded the hostile piece" in told["always"]
    assert 4 <= told["deaths"] <= 5
    assert "rows.jsonl:6: the field 'text' must be text, got 5" in told["row"]
    assert (told["there"], told["manifest"], told["still connected"]) == (0, True, True)


# ---- datatrove ---------------------------------------------------------------------------------------------------


def test_without_datatrove_the_error_says_what_to_install(
    small: bpetok.Tokenizer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("bpetok.datatrove.PipelineStep", None)
    with pytest.raises(MissingExtraError, match=r'pip install "bpetok\[datatrove\]"'):
        ShardWriter(tmp_path, small)


EXAMPLE = re.search(r"```python\n(.*?)```", sys.modules["bpetok.datatrove"].__doc__ or "", re.S)


def documents(folder: Path) -> dict[str, list[list[int]]]:
    """The ids of each document of each split."""
    opened = shards.open(folder)
    return {
        name: [split.document(number).tolist() for number in range(split.documents)]
        for name, split in opened.splits.items()
    }


@pytest.fixture(scope="module")
def by_datatrove(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the example of `bpetok.datatrove` leaves."""
    folder = tmp_path_factory.mktemp("datatrove")
    (folder / "rows").mkdir()
    for number in range(4):
        rows = write_rows(folder / "rows.jsonl", 150, seed=number).read_text().splitlines()
        table = pyarrow.table({"text": [json.loads(row)["text"] for row in rows]})
        pyarrow.parquet.write_table(table, folder / "rows" / f"{number}.parquet")
    assert EXAMPLE is not None
    (folder / "example.py").write_text(EXAMPLE[1])
    subprocess.run([sys.executable, "example.py"], cwd=folder, capture_output=True, check=True, timeout=100)
    return folder


@needs_datatrove
def test_datatroves_tasks_write_what_build_writes_of_their_documents(by_datatrove: Path) -> None:
    files = [by_datatrove / "rows" / f"{number}.parquet" for number in (0, 2, 1, 3)]  # every second one is a task's
    shards.build(files, bpetok.get_encoding("bpetok_32k"), by_datatrove / "whole")
    found = documents(by_datatrove / "shards")
    assert found == documents(by_datatrove / "whole")
    assert len(found["train"]) + len(found["val"]) == 600
    assert len(found["val"]) > 0


@needs_datatrove
def test_a_task_that_was_stopped_is_done_anew(small: bpetok.Tokenizer, tmp_path: Path) -> None:
    import datatrove.data

    rows = [datatrove.data.Document(f"text {i}, né\n" * (i % 5 + 1), str(i)) for i in range(300)]
    folder = tmp_path / "parts" / "00001"

    def run() -> dict[str, str]:
        ShardWriter(tmp_path / "parts", small, shard_tokens=1000).run(iter(rows), rank=1, world_size=2)
        return digests(folder)

    whole = run()
    assert len(whole) > 5
    assert run() == whole  # it was whole, but datatrove did not know
    (folder / "manifest.json").unlink()  # as if it was killed while it gave the files their names
    (folder / ".build").mkdir()
    (folder / ".build" / "plan.json").write_text("{}")
    (folder / ".build" / "train_000000.bin").write_bytes(b"half")
    assert run() == whole
    (folder / "manifest.json").unlink()  # and these are of somebody else
    with pytest.raises(FormatError, match="must hold no shards yet"):
        run()


@needs_datatrove
def test_the_folder_of_a_task_cannot_be_forgotten(by_datatrove: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="got no part 1"):
        shards.merge([by_datatrove / "parts" / "00000"], tmp_path / "out")


@needs_datatrove
def test_a_step_refuses_what_build_refuses(small: bpetok.Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="val_fraction must be in 0 to below 1"):
        ShardWriter(tmp_path, small, val_fraction=2)
    with pytest.raises(bpetok.SpecialTokenError, match="allowed_special must be special tokens, got '<x>'"):
        ShardWriter(tmp_path, small, allowed_special=["<x>"])
    with pytest.raises(bpetok.UnknownTokenError):
        ShardWriter(tmp_path, bpetok.train("text", 257))
