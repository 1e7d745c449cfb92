"""Shards from 300 MB of text: against encoding alone, and against `datasets.map` with tiktoken and with tokenizers.

python benchmarks/bench_shard.py [--folder FOLDER] [--rounds 7] [--mb 300] [--json FILE]

The text: English novels (`lm/english_novels_train.txt.xz` of the data folder), repeated, in documents of about 8,000
bytes that begin with a number of their own, and the standard library of this Python, a file a document; as text with
separator lines and, the same, as rows. The ids of every way are compared before any time is told: those of our shards,
of tiktoken and of tokenizers must be the same for every document, in order.

FOLDER holds the text and what is made of it (2 GB); on Linux /dev/shm takes the disk out of the figures, and the row
"on disk" puts it back. Ratios count: each round runs all ways one after the other.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.metadata
import json
import lzma
import multiprocessing
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from turn import DATA, standard_library

import bpetok
from bpetok import shards
from bpetok.sources import Reading, open_sources, units_of

SEPARATOR = "<|endoftext|>"
DOCUMENT_BYTES = 8000
WORKERS = 2
BAR = 0.8
EVERY = {"val_fraction": 0.0, "separator": SEPARATOR}


# ---- the text -------------------------------------------------------------------------------------------------------


def documents(megabytes: int) -> Iterator[str]:
    """The documents; those of the standard library first."""
    size = 0
    for source in standard_library():
        text = source.decode().replace(SEPARATOR, "")
        if text.strip():
            size += len(source)
            yield text.rstrip("\n") + "\n"
    novels = lzma.decompress((DATA / "lm" / "english_novels_train.txt.xz").read_bytes()).decode()
    paragraphs = novels.replace(SEPARATOR, "").split("\n")
    number = 0
    while True:
        held: list[str] = []
        length = 0
        for paragraph in paragraphs:
            held.append(paragraph)
            length += len(paragraph) + 1
            if length >= DOCUMENT_BYTES:
                text = f"document {number}\n" + "\n".join(held) + "\n"
                yield text
                number, held, size = number + 1, [], size + len(text.encode())
                length = 0
                if size >= megabytes * 1_000_000:
                    return


def prepare(folder: Path, megabytes: int) -> int:
    """Writes the text both ways; gives its bytes."""
    size = 0
    with open(folder / "text.txt", "w") as text, open(folder / "rows.jsonl", "w") as rows:
        for number, document in enumerate(documents(megabytes)):
            if number:
                text.write(SEPARATOR + "\n")
            text.write(document)
            rows.write(json.dumps({"text": document}, ensure_ascii=False) + "\n")
            size += len(document.encode())
    return size


# ---- ways of making ids of it ---------------------------------------------------------------------------------------


def batches(folder: Path, share: int, of: int) -> list[list[bytes]]:
    """Every so many-th piece of the text, in memory, as a worker of the build takes it."""
    reading = Reading(separator=SEPARATOR, scanner="gpt2")
    groups = list(units_of(open_sources([folder / "text.txt"], reading)))
    return [[text for unit in group.units for text in unit.read().texts] for group in groups[share::of]]


def encode_alone(folder: Path, how: str, processes: int) -> float:
    """Seconds of encoding, in so many processes at once, of text that is in memory; without starting them."""

    def work(share: int, barrier: Any, queue: Any) -> None:
        tok = bpetok.get_encoding("gpt2")
        pieces = batches(folder, share, processes)
        encode: Callable[[list[bytes]], object] = (
            (lambda texts: [tok.encode(text, disallowed_special=()) for text in texts])
            if how == "encode"
            else (lambda texts: tok.encode_batch_to_numpy(texts, num_threads=1))
        )
        barrier.wait()
        begin = time.perf_counter()
        for piece in pieces:
            encode(piece)
        queue.put(time.perf_counter() - begin)

    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(processes), context.Queue()
    workers = [context.Process(target=work, args=(share, barrier, queue)) for share in range(processes)]
    for worker in workers:
        worker.start()
    seconds = max(queue.get() for _ in workers)
    for worker in workers:
        worker.join()
    return float(seconds)


def build(folder: Path, source: str, out: Path, workers: int) -> dict[str, float]:
    """Seconds of a build: in all, until the first piece was asked for, of the pieces, and of what comes behind them."""
    shutil.rmtree(out, ignore_errors=True)
    tok = bpetok.get_encoding("gpt2")
    marks: list[float] = []
    begin = time.perf_counter()
    shards.build(
        [folder / source], tok, out, workers=workers, progress=lambda now: marks.append(time.perf_counter()), **EVERY
    )
    end = time.perf_counter()
    return {"all": end - begin, "plan": marks[0] - begin, "encode": marks[-1] - marks[0], "finish": end - marks[-1]}


def stages(folder: Path, out: Path) -> dict[str, float]:
    """Seconds of each stage of a build by one process."""
    spent: dict[str, float] = {}

    def timed(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            try:
                return plain(*args, **kwargs)
            finally:
                spent[name] = spent.get(name, 0.0) + time.perf_counter() - begin

        return run

    places = {
        "read": "bpetok.sources.units.Unit.read",
        "encode": "bpetok.Tokenizer.encode_batch_to_numpy",
        "lay out": "bpetok.shards.encoding.lay_out",
        "hash for the split": "bpetok.shards.encoding.xxh64",
        "write": "bpetok.shards.writer.write_all",
        "make durable": "os.fsync",
        "sha256": "bpetok.shards.writer.file_digest",
    }
    with contextlib.ExitStack() as stack:
        for name, place in places.items():
            target, _, attribute = place.rpartition(".")
            module = sys.modules.get(target) or getattr(
                sys.modules[target.rpartition(".")[0]], target.rpartition(".")[2]
            )
            stack.enter_context(mock.patch.object(module, attribute, timed(name, getattr(module, attribute))))
        total = build(folder, "text.txt", out, 1)["all"]
    return {**spent, "else": total - sum(spent.values()), "all": total}


def map_with(folder: Path, library: str) -> tuple[dict[str, float], str]:
    """Seconds of `datasets.map` over the rows by two processes, and the digest of the ids."""
    import datasets

    datasets.disable_progress_bars()
    cache = folder / "hf"
    shutil.rmtree(cache, ignore_errors=True)
    begin = time.perf_counter()
    rows = datasets.load_dataset("json", data_files=str(folder / "rows.jsonl"), split="train", cache_dir=str(cache))
    loaded = time.perf_counter()
    encode = {"tiktoken": _with_tiktoken, "tokenizers": _with_tokenizers}[library]
    new = f"{library}-{time.time_ns()}"
    mapped = rows.map(encode, batched=True, num_proc=WORKERS, remove_columns=["text"], new_fingerprint=new)
    ended = time.perf_counter()
    digest = hashlib.sha256()
    for batch in mapped.with_format("numpy").iter(1000):
        for ids in batch["ids"]:
            digest.update(np.asarray(ids, "<u4").tobytes())
    return {"load": loaded - begin, "map": ended - loaded}, digest.hexdigest()


def _with_tiktoken(batch: dict[str, list[str]]) -> dict[str, Any]:
    import tiktoken

    return {"ids": tiktoken.get_encoding("gpt2").encode_ordinary_batch(batch["text"], num_threads=1)}


def _with_tokenizers(batch: dict[str, list[str]]) -> dict[str, Any]:
    return {"ids": [encoded.ids for encoded in _tokenizer().encode_batch_fast(batch["text"], add_special_tokens=False)]}


def _tokenizer() -> Any:
    if not _made:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        import tokenizers

        with tempfile.TemporaryDirectory() as folder:
            bpetok.formats.write(bpetok.get_encoding("gpt2").vocab, Path(folder) / "hf", format="huggingface")
            _made.append(tokenizers.Tokenizer.from_file(f"{folder}/hf/tokenizer.json"))
    return _made[0]


_made: list[Any] = []


def digest_of(out: Path) -> str:
    """The digest of the ids of all documents, without end-of-text ids."""
    train = shards.open(out).train
    digest = hashlib.sha256()
    for number in range(train.documents):
        digest.update(train.document(number)[1:].astype("<u4").tobytes())
    return digest.hexdigest()


# ---- rounds ---------------------------------------------------------------------------------------------------------


TURNS: dict[str, Callable[[Path, Path], dict[str, float]]] = {
    "encode to lists, 1 process": lambda folder, disk: {"all": encode_alone(folder, "encode", 1)},
    "encode to arrays, 1 process": lambda folder, disk: {"all": encode_alone(folder, "arrays", 1)},
    "build from text, 1 process": lambda folder, disk: build(folder, "text.txt", folder / "out", 1),
    "encode to lists, 2 processes": lambda folder, disk: {"all": encode_alone(folder, "encode", 2)},
    "encode to arrays, 2 processes": lambda folder, disk: {"all": encode_alone(folder, "arrays", 2)},
    "build from text, 2 workers": lambda folder, disk: build(folder, "text.txt", folder / "out", 2),
    "build from rows, 2 workers": lambda folder, disk: build(folder, "rows.jsonl", folder / "out", 2),
    "build on disk, 2 workers": lambda folder, disk: build(folder, "text.txt", disk / "out", 2),
}


def turn(name: str, folder: Path, disk: Path) -> dict[str, float]:
    """A turn in a process of its own."""
    command = [sys.executable, __file__, "--turn", name, str(folder), str(disk)]
    outcome: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return outcome


RATIOS = {
    "to lists, 1 process": ("encode to lists, 1 process", "build from text, 1 process"),
    "to lists, 2 processes": ("encode to lists, 2 processes", "build from text, 2 workers"),
    "to arrays, 1 process": ("encode to arrays, 1 process", "build from text, 1 process"),
    "to arrays, 2 processes": ("encode to arrays, 2 processes", "build from text, 2 workers"),
}


def spread(numbers: list[float]) -> str:
    return f"{statistics.median(numbers):.3f} ({min(numbers):.3f} to {max(numbers):.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm" if os.path.isdir("/dev/shm") else "."))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--mb", type=int, default=300)
    parser.add_argument("--peers", type=int, default=2, help="rounds with datasets.map, which takes minutes")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--turn", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.turn:
        name, *folders = options.turn
        print(json.dumps(TURNS[name](*map(Path, folders))))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as memory, tempfile.TemporaryDirectory() as disk:
        folder = Path(memory)
        size = prepare(folder, options.mb)
        versions = {name: importlib.metadata.version(name) for name in ("numpy", "datasets", "tiktoken", "tokenizers")}
        print(f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}; {versions}")
        build(folder, "text.txt", folder / "out", 2)
        expected = digest_of(folder / "out")
        count = shards.open(folder / "out").train
        print(f"{size:,} bytes, {count.documents:,} documents, {count.tokens:,} ids with end-of-text")
        peers: list[dict[str, dict[str, float]]] = []
        for _ in range(options.peers):
            one = {}
            for library in ("tiktoken", "tokenizers"):
                seconds, digest = map_with(folder, library)
                if digest != expected:
                    raise SystemExit(f"datasets.map with {library}: the ids are others than ours")
                one[f"datasets.map, {library}"] = {"all": seconds["map"], **seconds}
            one["build from rows, 2 workers"] = turn("build from rows, 2 workers", folder, Path(disk))
            peers.append(one)
        rounds = [{name: turn(name, folder, Path(disk)) for name in TURNS} for _ in range(options.rounds)]
        staged = [stages(folder, folder / "out") for _ in range(max(1, options.rounds // 2))]
        shown(size, rounds, peers, staged)
        if options.json:
            about = {"bytes": size, "versions": versions, "rounds": rounds, "peers": peers, "stages": staged}
            options.json.write_text(json.dumps(about, indent=1))


def shown(size: int, rounds: list[dict[str, Any]], peers: list[dict[str, Any]], staged: list[dict[str, float]]) -> None:
    """Prints the tables."""
    for name in rounds[0]:
        seconds = [one[name]["all"] for one in rounds]
        print(f"{name:<36}{spread(seconds)} s, {size / statistics.median(seconds) / 1e6:,.0f} MB/s")
    for part in ("plan", "encode", "finish"):
        print(f"  of 2 workers: {part:<10}{spread([one['build from text, 2 workers'][part] for one in rounds])} s")
    print(f"the build's speed, of encoding's (bar {BAR}):")
    for name, (alone, whole) in RATIOS.items():
        print(f"  {name:<24}{spread([one[alone]['all'] / one[whole]['all'] for one in rounds])}")
    print("stages of one process, seconds:")
    for name in staged[0]:
        print(f"  {name:<24}{spread([one.get(name, 0.0) for one in staged])}")
    for name in peers[0] if peers else ():
        seconds = [one[name]["all"] for one in peers]
        times = [one[name]["all"] / one["build from rows, 2 workers"]["all"] for one in peers]
        print(f"{name:<36}{spread(seconds)} s; {spread(times)} times ours from rows")


if __name__ == "__main__":
    main()
