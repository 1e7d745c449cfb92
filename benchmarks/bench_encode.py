"""Encoding speed beside tiktoken's, on text of several kinds: `python benchmarks/bench_encode.py [--rounds N]`.

Exactness first: a cell is timed only after its ids were found equal to tiktoken's. Both libraries take turns in every
round, in one process and with one thread, and the figure that counts is the ratio within a round. Text is read from
`BPETOK_DATA`, else `../shared/data`.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("BPETOK_DATA", ROOT.parent / "shared" / "data"))
TEXTS = {
    "english": ["en_prose.txt", "en_web.txt"],
    "markdown": ["md_book.txt"],
    "json": ["json.txt"],
    "multilingual": ["zh.txt", "ru.txt", "ar.txt", "hi.txt", "ko.txt", "ja.txt", "th.txt"],
}
ENCODINGS = ["r50k_base", "cl100k_base", "o200k_base"]
DOCUMENT_CHARACTERS = 4096


def documents(names: list[str]) -> list[str]:
    text = "".join((DATA / "corpus" / name).read_text(encoding="utf-8") for name in names)[:4_000_000]
    return [text[start : start + DOCUMENT_CHARACTERS] for start in range(0, len(text), DOCUMENT_CHARACTERS)]


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def bench(name: str, texts: list[str], rounds: int) -> dict[str, float]:
    import tiktoken

    import bpetok

    ours, theirs = bpetok.get_encoding(name), tiktoken.get_encoding(name)
    for text in texts:
        if ours.encode_ordinary(text) != theirs.encode_ordinary(text):
            sys.exit(f"{name}: ids differ from tiktoken's; nothing is timed")
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    rows: dict[str, list[float]] = {"numpy": [], "list": [], "tiktoken": []}
    for _ in range(rounds):
        rows["numpy"].append(seconds(lambda: ours.encode_batch_to_numpy(texts, num_threads=1)))
        rows["list"].append(seconds(lambda: ours.encode_ordinary_batch(texts, num_threads=1)))
        rows["tiktoken"].append(seconds(lambda: [theirs.encode_ordinary(text) for text in texts]))
    result = {f"{row} MB/s": megabytes / statistics.median(times) for row, times in rows.items()}
    for row in ("numpy", "list"):
        ratios = sorted(slow / fast for slow, fast in zip(rows["tiktoken"], rows[row], strict=True))
        result |= {f"{row} ratio": statistics.median(ratios), f"{row} low": ratios[0], f"{row} high": ratios[-1]}
    return result


def cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the results here too")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(shutil.copytree(DATA / "tiktoken_cache", Path(folder) / "cache"))
        os.environ["TIKTOKEN_CACHE_DIR"] = str(cache)
        from importlib.metadata import version

        versions = {name: version(name) for name in ("bpetok", "tiktoken")}
        print(f"{cpu()}, Python {platform.python_version()}, {versions}, {args.rounds} rounds, one thread")
        print(f"{'':28}{'numpy':>8}{'list':>8}{'tiktoken':>10}   MB/s; ratio to tiktoken, median (range)")
        results = {}
        for encoding in ENCODINGS:
            for kind, names in TEXTS.items():
                r = results[f"{encoding} {kind}"] = bench(encoding, documents(names), args.rounds)
                print(
                    f"{encoding + ' ' + kind:28}{r['numpy MB/s']:8.1f}{r['list MB/s']:8.1f}{r['tiktoken MB/s']:10.1f}"
                    f"   numpy {r['numpy ratio']:.2f} ({r['numpy low']:.2f} to {r['numpy high']:.2f}),"
                    f" list {r['list ratio']:.2f} ({r['list low']:.2f} to {r['list high']:.2f})"
                )
    if args.json:
        args.json.write_text(json.dumps({"cpu": cpu(), "versions": versions, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
