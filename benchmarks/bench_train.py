"""Training beside the peers: `python benchmarks/bench_train.py [--rounds N] [--only TEXT] [--json FILE]`.

Every turn is a fresh process: it makes the texts, lets one library train on them, and tells the seconds of that call,
the memory that it took beyond what was in use before, and the tokens that were learnt, in order. In a round every
library takes its turn. What counts is the fastest peer's time divided by bpetok's within a round: its median and its
range. All cut text with GPT-2's pattern, which gigatoken and tokenizers have built in, and use as many threads as there
are processors. All must learn the same tokens: tokenizers those of bpetok's "huggingface" mode, the others those of
"smallest". Needs Linux, for the memory.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import lzma
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Literal

from turn import DATA, DOCUMENT_BYTES, MULTILINGUAL, documents

SEPARATOR = "\x00\x01"  # in no text; gigatoken cuts there
SIZES = (32_768, 100_000)
LEAST_TIMES, MOST_MEMORY = 8.0, 0.5

Tokens = list[bytes]


# ---- one turn -------------------------------------------------------------------------------------------------------


def english() -> list[str]:
    novels = lzma.decompress((DATA / "lm" / "english_novels_train.txt.xz").read_bytes())
    return list(documents(novels))


def languages() -> list[str]:
    return [text for name in MULTILINGUAL for text in documents((DATA / "corpus" / f"{name}.txt").read_bytes())]


def train_bpetok(
    texts: list[str], size: int, tie_break: Literal["smallest", "huggingface"] = "smallest"
) -> Callable[[], Tokens]:
    import bpetok

    tok = bpetok.train(texts, size, pattern="gpt2", tie_break=tie_break)
    return lambda: [tok.vocab[i] for i in range(256, len(tok.vocab))]


def train_rustbpe(texts: list[str], size: int) -> Callable[[], Tokens]:
    import rustbpe

    from bpetok import patterns

    tok = rustbpe.Tokenizer()
    tok.train_from_iterator(iter(texts), size, pattern=patterns.resolve("gpt2").regex)
    return lambda: [bytes(token) for token, rank in sorted(tok.get_mergeable_ranks(), key=lambda pair: pair[1])][256:]


def train_gigatoken(texts: list[str], size: int) -> Callable[[], Tokens]:
    import gigatoken

    data, separator = SEPARATOR.join(texts).encode(), SEPARATOR.encode()
    _, merges = gigatoken.train_bpe(data, size, [], tie_breaking="raw_token_ids", separator=separator)
    return lambda: [left + right for left, right in merges]


def train_tokenizers(texts: list[str], size: int) -> Callable[[], Tokens]:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tok.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False))
    # The alphabet's characters in order are those of the printable bytes, then of the others.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    byte_of = {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
    by_id = sorted((i, token) for token, i in tok.get_vocab().items())
    return lambda: [bytes(byte_of[char] for char in token) for _, token in by_id][256:]


CORPORA = {"english": english, "languages": languages}
LIBRARIES = {
    "bpetok": train_bpetok,
    "rustbpe": train_rustbpe,
    "gigatoken": train_gigatoken,
    "tokenizers": train_tokenizers,
}


def forget_peak() -> None:
    """Lets the peak of this process's memory begin anew (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def memory(name: str) -> float:
    """MiB of memory: `VmRSS` in use now, `VmHWM` the most since the peak was forgotten."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) / 1024


def take_turn(library: str, corpus: str, size: int) -> dict[str, object]:
    texts = CORPORA[corpus]()
    importlib.import_module(library)
    forget_peak()
    before = memory("VmRSS")
    began = time.perf_counter()
    learnt = LIBRARIES[library](texts, size)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "MiB": memory("VmHWM") - before, "tokens": [token.hex() for token in learnt()]}


def turn_of(library: str, corpus: str, size: int) -> dict[str, object]:
    command = [sys.executable, __file__, "--turn", library, corpus, str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    outcome: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return outcome


# ---- the table ------------------------------------------------------------------------------------------------------


def same_steps(tokens: Sequence[str], others: Sequence[str]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(tokens, others, strict=False)))


def times_faster(rounds: list[dict[str, float]]) -> list[float]:
    return [min(s for name, s in one.items() if name != "bpetok") / one["bpetok"] for one in rounds]


def measure(corpus: str, size: int, count: int) -> dict[str, object]:
    seconds: list[dict[str, float]] = []
    peaks: dict[str, list[float]] = {name: [] for name in LIBRARIES}
    tokens: dict[str, list[str]] = {}
    for i in range(count):
        order = [*LIBRARIES][i % len(LIBRARIES) :] + [*LIBRARIES][: i % len(LIBRARIES)]
        outcomes = {name: turn_of(name, corpus, size) for name in order}
        seconds.append({name: float(str(outcome["seconds"])) for name, outcome in outcomes.items()})
        for name, outcome in outcomes.items():
            peaks[name].append(float(str(outcome["MiB"])))
            tokens[name] = outcome["tokens"]  # type: ignore[assignment]
    in_their_order = [token.hex() for token in train_bpetok(CORPORA[corpus](), size, "huggingface")()]
    print(f"\n{corpus}, {size:,} tokens")
    for name in LIBRARIES:
        middle = statistics.median(one[name] for one in seconds)
        ours = in_their_order if name == "tokenizers" else tokens["bpetok"]
        same = same_steps(ours, tokens[name])
        known = f"{'the' if ours == tokens[name] else 'NOT THE'} same {same:,} merges"
        print(f"  {name:<11}{middle:8.3f} s {statistics.median(peaks[name]):8.0f} MiB   {known}")
    ratios = times_faster(seconds)
    leanest = min(statistics.median(peaks[name]) for name in LIBRARIES if name != "bpetok")
    share = statistics.median(peaks["bpetok"]) / max(leanest, 1.0)
    times = statistics.median(ratios)
    print(
        f"  times the fastest peer {times:.1f} ({min(ratios):.1f}-{max(ratios):.1f}) "
        f"{'>=' if times >= LEAST_TIMES else '<'} {LEAST_TIMES:g}; memory {share:.2f} of the leanest "
        f"{'<=' if share <= MOST_MEMORY else '>'} {MOST_MEMORY:g}"
    )
    return {"corpus": corpus, "size": size, "seconds": seconds, "MiB": peaks, "times": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help='only what has TEXT in "<corpus> <size>"')
    parser.add_argument("--json", type=Path, help="write everything that was measured here too")
    parser.add_argument("--turn", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.turn:
        library, corpus, size = options.turn
        print(json.dumps(take_turn(library, corpus, int(size))))
        return
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)
    print(f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}; {versions}")
    print(f"documents of {DOCUMENT_BYTES} bytes, as Python strings; median of {options.rounds}")
    cells = [(corpus, size) for corpus in CORPORA for size in SIZES if options.only in f"{corpus} {size}"]
    measured = [measure(corpus, size, options.rounds) for corpus, size in cells]
    if options.json:
        options.json.write_text(json.dumps(measured, indent=1))


if __name__ == "__main__":
    main()
