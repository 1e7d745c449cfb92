"""Speed of bpetok beside its peers: `python benchmarks/bench_encode.py [--only numpy] [--rounds N] [--json FILE]`.

Every turn is a fresh process (`turn.py`): it loads one library and one vocabulary, makes the texts, and passes over
them twice, the first time cold, the second warm; for each pass the texts are new objects. In a round every library
takes its turn, in an order that rotates. What counts is the ratio of two libraries' times within a round, how many
times faster bpetok is: its median over the rounds, its range, and whether it is at least (>=) or under (<) what is
asked. A library counts in a cell only while its ids (decoded: its text) are tiktoken's. One thread, unless a row says
otherwise. All of it takes about three quarters of an hour.
"""

from __future__ import annotations

import argparse
import base64
import importlib.metadata
import itertools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peers import LIBRARIES
from turn import DATA, KINDS, SHORT, Cell, Outcome, Turn

ENCODINGS = ("r50k_base", "cl100k_base", "o200k_base")
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}{1,2}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # gpt2's, but for {1,2}
COUNTING = ("bpetok", "quicktok")  # the libraries that count without giving ids
RATIO_COLUMN = 23  # characters in a table


# ---- measures -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measure:
    """A table: its cells, the turns that each cell takes in a round, and what is asked of bpetok.

    Attributes:
        bars: the least ratio to a library, for the rows whose label has the words: `{(words, library): least}`. Of
            several the last counts.
        figures: the figures that have a row in each cell.
        against: the libraries that bpetok is held against.
        itself: in place of `against`, the prefixes of two figures of each library; the ratio is how many times faster
            the second is.
    """

    title: str
    cells: Sequence[Cell]
    turns: Sequence[Turn]
    bars: Mapping[tuple[str, str], float]
    figures: Sequence[str] = ("cold", "warm")
    against: Sequence[str] = ("gigatoken", "tiktoken")
    itself: tuple[str, str] | None = None
    unit: str = "MB/s"

    @property
    def libraries(self) -> list[str]:
        return list(dict.fromkeys(turn.library for turn in self.turns))

    @property
    def label_width(self) -> int:
        middle = self.libraries if self.itself else [""]
        return max(len(cell.label(*rest)) for cell in self.cells for rest in itertools.product(middle, self.figures))

    def bar(self, label: str, library: str) -> float | None:
        fitting = [least for (words, other), least in self.bars.items() if other == library and words in label]
        return fitting[-1] if fitting else None


def measures(peers: Sequence[str]) -> dict[str, Measure]:
    """The measures by name, with these adapters for peers."""
    return encoding_measures(peers) | other_measures(
        [name for name in peers if name not in ("gigatoken each", "tokenizers")]
    )


def encoding_measures(peers: Sequence[str]) -> dict[str, Measure]:
    """Text to ids with all vocabularies, files and patterns."""
    files = sorted(path.stem for path in (DATA / "corpus").glob("*.txt"))
    beside_tiktoken = turns(["bpetok", "tiktoken"], "flat")
    return {
        "numpy": Measure(
            "Many documents to flat uint32 ids",
            cells(ENCODINGS, KINDS),
            turns(peers, "flat"),
            {("", "gigatoken"): 1.4, ("multilingual cold", "gigatoken"): 2.2},
        ),
        "lists": Measure(
            "Many documents to lists of ids",
            cells(ENCODINGS, KINDS),
            turns(peers, "lists"),
            {("", "gigatoken"): 2, ("", "tiktoken"): 10},
        ),
        "regex": Measure(
            "A split pattern that no library knows, to flat ids",
            cells(["r50k_base"], ["english"], PATTERN),
            beside_tiktoken,
            {("", "tiktoken"): 0.5},
            against=["tiktoken"],
        ),
        "languages": Measure(
            "Each file of the corpus to flat ids",
            cells(["cl100k_base", "o200k_base"], files),
            beside_tiktoken,
            {("", "tiktoken"): 10},
            against=["tiktoken"],
        ),
    }


def other_measures(peers: Sequence[str]) -> dict[str, Measure]:
    """One text, threads, decoding, loading, counting."""
    two = ("cl100k_base", "o200k_base")
    counting = [name for name in peers if name in COUNTING]
    return {
        "single": Measure(
            "One short text, again and again: encode to a list, and to an array",
            cells(two, [""]),
            turns(peers, "single"),
            {(" encode ", "tiktoken"): 6, ("encode_to_numpy", "gigatoken"): 1 / 1.5},
            figures=[f"{call} {name}" for call in ("encode", "encode_to_numpy") for name in SHORT],
            unit="ns",
        ),
        "threads": Measure(
            "Two threads and one, to flat ids",
            cells(["cl100k_base"], ["everything", "50 MB whole"]),
            turns(peers, "flat", 1, "1 thread ") + turns(peers, "flat", 2, "2 threads "),
            {("", "bpetok"): 1.8},
            itself=("1 thread", "2 threads"),
        ),
        "decode": Measure(
            "Ids to text, second pass",
            cells(two, ["english", "english whole", "multilingual"]),
            turns(peers, "decode"),
            {("array", "tiktoken"): 10, ("list", "tiktoken"): 5},
            figures=("array bytes", "array str", "list bytes", "list str"),
        ),
        "load": Measure(
            "To load a vocabulary and encode two words, the library being imported",
            cells(two, [""]),
            turns(peers, "load"),
            {("", "gigatoken"): 4, ("", "tiktoken"): 4},
            figures=["load"],
            unit="ms",
        ),
        "count": Measure(
            "To count ids, and to encode to flat ids",
            cells(two, KINDS),
            turns(counting, "flat", 1, "encode ") + turns(counting, "counts", 1, "count "),
            {("", "bpetok"): 1},
            itself=("encode", "count"),
        ),
    }


def cells(encodings: Sequence[str], kinds: Sequence[str], pattern: str | None = None) -> list[Cell]:
    return [Cell(encoding, kind, pattern) for kind in kinds for encoding in encodings]


def turns(adapters: Sequence[str], work: str, threads: int = 1, prefix: str = "") -> list[Turn]:
    return [Turn(adapter, work, threads, prefix) for adapter in adapters]


# ---- rounds ---------------------------------------------------------------------------------------------------------


@dataclass
class Played:
    """What the rounds of a cell gave: seconds by adapter and figure, one for each round."""

    text_bytes: int = 0
    seconds: dict[str, dict[str, list[float]]] = field(default_factory=lambda: defaultdict(dict))
    left_out: dict[str, str] = field(default_factory=dict)  # the adapters that do not count, and why

    def of(self, library: str, figure: str) -> list[float] | None:
        """The seconds of a library: of its adapter with the lower median, where it has two."""
        candidates = [
            figures[figure]
            for adapter, figures in self.seconds.items()
            if adapter.split()[0] == library and figure in figures and adapter not in self.left_out
        ]
        return min(candidates, key=statistics.median, default=None)


def play(measure: Measure, cell: Cell, rounds: int, folder: Path) -> Played:
    """All rounds of a cell. An adapter whose results are not tiktoken's leaves the game."""
    played = Played()
    works = {turn.work for turn in measure.turns}
    references = {work: in_fresh_process(Turn("tiktoken", work), cell, folder) for work in works}
    able = [turn for turn in measure.turns if LIBRARIES[turn.adapter].knows(cell.encoding)]
    for number in range(rounds):
        start = number % len(able)
        for turn in able[start:] + able[:start]:
            if turn.adapter in played.left_out:
                continue
            outcome = in_fresh_process(turn, cell, folder)
            if isinstance(outcome, str):
                played.left_out[turn.adapter] = outcome
                continue
            reference = references[turn.work]
            if isinstance(reference, str):
                sys.exit(f"tiktoken, the reference, {reference}")
            if outcome.results != reference.results:
                played.left_out[turn.adapter] = "differs: its results are not tiktoken's"
                continue
            played.text_bytes = outcome.text_bytes
            for figure, seconds in outcome.seconds.items():
                played.seconds[turn.adapter].setdefault(turn.prefix + figure, []).append(seconds)
    return played


def in_fresh_process(turn: Turn, cell: Cell, folder: Path) -> Outcome | str:
    """The outcome of a turn, or why there is none."""
    own = {
        "TIKTOKEN_CACHE_DIR": str(folder / "tiktoken_cache"),
        "BPETOK_CACHE_DIR": str(folder / "bpetok_cache"),
        "RAYON_NUM_THREADS": str(turn.threads),
        "TOKENIZERS_PARALLELISM": "true" if turn.threads > 1 else "false",
        "HF_HUB_OFFLINE": "1",
    }
    arguments = [json.dumps(vars(turn)), json.dumps(vars(cell)), str(folder)]
    command = [sys.executable, str(Path(__file__).with_name("turn.py")), *arguments]
    done = subprocess.run(command, env=os.environ | own, capture_output=True, text=True)
    if done.returncode:
        return "failed: " + (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
    return Outcome(**json.loads(done.stdout))


# ---- tables ---------------------------------------------------------------------------------------------------------


@dataclass
class Ratio:
    """How many times faster: a number for each round, and the least that is asked for."""

    by_round: list[float]
    bar: float | None = None

    def __str__(self) -> str:
        median, low, high = statistics.median(self.by_round), min(self.by_round), max(self.by_round)
        shown = f"{brief(median)} ({brief(low)}-{brief(high)})"
        if self.bar is None:
            return shown
        return f"{shown:16} {'>=' if median >= self.bar else ' <'} {self.bar:.2g}"


def brief(number: float) -> str:
    return f"{number:.2f}" if number < 10 else f"{number:.1f}"


def ratio(slow: list[float] | None, fast: list[float] | None, bar: float | None) -> Ratio | None:
    if slow is None or fast is None:
        return None
    return Ratio([one / other for one, other in zip(slow, fast, strict=True)], bar)


@dataclass
class Row:
    """A line of a table: median seconds by column, and ratios by column."""

    label: str
    seconds: dict[str, float | str]
    ratios: dict[str, Ratio | None]


def rows_beside_peers(measure: Measure, cell: Cell, played: Played) -> Iterator[Row]:
    for figure in measure.figures:
        seconds: dict[str, float | str] = {}
        for library in measure.libraries:
            series = played.of(library, figure)
            why = next((why for name, why in played.left_out.items() if name.split()[0] == library), "-")
            seconds[library] = statistics.median(series) if series else why
        ours = played.of("bpetok", figure)
        label = cell.label(figure)
        ratios = {other: ratio(played.of(other, figure), ours, measure.bar(label, other)) for other in measure.against}
        yield Row(label, seconds, ratios)


def rows_beside_itself(measure: Measure, cell: Cell, played: Played) -> Iterator[Row]:
    assert measure.itself is not None
    for library, figure in itertools.product(measure.libraries, measure.figures):
        base, other = (played.of(library, f"{prefix} {figure}") for prefix in measure.itself)
        seconds: dict[str, float | str] = {}
        for prefix, series in zip(measure.itself, (base, other), strict=True):
            seconds[prefix] = statistics.median(series) if series else played.left_out.get(library, "-")
        label = cell.label(library, figure)
        yield Row(label, seconds, {measure.itself[0]: ratio(base, other, measure.bar(label, library))})


def column(name: str) -> int:
    return max(8, len(name) + 1)


def head_line(measure: Measure) -> str:
    columns = measure.itself or measure.libraries
    ratios = ["times"] if measure.itself else [f"times {other}" for other in measure.against]
    shown = "".join(f"{one:>{column(one)}}" for one in columns) + "".join(f"  {one:{RATIO_COLUMN}}" for one in ratios)
    return f"{measure.unit:{measure.label_width}}{shown}".rstrip()


def line(row: Row, measure: Measure, text_bytes: int) -> str:
    def shown(seconds: float | str) -> str:
        if isinstance(seconds, str):
            return seconds.split(":")[0]
        value = {"MB/s": text_bytes / seconds / 1e6, "ns": seconds * 1e9, "ms": seconds * 1e3}[measure.unit]
        return f"{value:.1f}"

    columns = "".join(f"{shown(seconds):>{column(name)}}" for name, seconds in row.seconds.items())
    ratios = "".join(f"  {one or '-'!s:{RATIO_COLUMN}}" for one in row.ratios.values())
    return f"{row.label:{measure.label_width}}{columns}{ratios}".rstrip()


def geometric_means(rows: Sequence[Row], figures: Sequence[str]) -> Iterator[Row]:
    """The geometric mean of the cells' ratios, taken in each round, by figure."""
    for figure in figures:
        chosen = [row for row in rows if row.label.endswith(figure)]
        ratios: dict[str, Ratio | None] = {}
        for other in chosen[0].ratios:
            by_cell = [one.by_round for row in chosen if (one := row.ratios[other])]
            means = [statistics.geometric_mean(by_round) for by_round in zip(*by_cell, strict=True)]
            ratios[other] = Ratio(means) if means else None
        yield Row(f"geometric mean {figure}", dict.fromkeys(chosen[0].seconds, ""), ratios)


def run(name: str, measure: Measure, chosen: Sequence[Cell], rounds: int, folder: Path) -> dict[str, Any]:
    """Plays the cells of a measure, prints its table, and gives all of it."""
    print(f"\n{name}: {measure.title}\n{head_line(measure)}", flush=True)
    everything: dict[str, Any] = {"title": measure.title, "unit": measure.unit, "cells": {}}
    rows: list[Row] = []
    for cell in chosen:
        played = play(measure, cell, rounds, folder)
        own = list((rows_beside_itself if measure.itself else rows_beside_peers)(measure, cell, played))
        for row in own:
            print(line(row, measure, played.text_bytes), flush=True)
        for adapter, why in played.left_out.items():
            print(f"    {adapter}: {why}")
        rows += own
        everything["cells"][cell.label()] = vars(played) | {"rows": [as_json(row) for row in own]}
    if len(chosen) > 2 and not measure.itself:
        means = list(geometric_means(rows, measure.figures))
        for row in means:
            print(line(row, measure, 0))
        everything["means"] = [as_json(row) for row in means]
    return everything


def as_json(row: Row) -> dict[str, Any]:
    ratios = {
        other: {"median": statistics.median(one.by_round), "rounds": one.by_round, "bar": one.bar}
        for other, one in row.ratios.items()
        if one
    }
    return {"row": row.label, "median seconds": row.seconds, "times faster": ratios}


# ---- the command ----------------------------------------------------------------------------------------------------


def cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((one.split(": ")[1] for one in lines if one.startswith("model name")), platform.processor())


def prepare(folder: Path, peers: Sequence[str]) -> None:
    """Puts tiktoken's cache and a rank file for each encoding into the folder."""
    cache = folder / "tiktoken_cache"
    shutil.copytree(DATA / "tiktoken_cache", cache, copy_function=shutil.copyfile)
    os.environ["TIKTOKEN_CACHE_DIR"] = str(cache)
    import tiktoken

    for encoding in ENCODINGS:
        ranks = tiktoken.get_encoding(encoding)._mergeable_ranks
        by_rank = sorted((rank, token) for token, rank in ranks.items())
        lines = (base64.b64encode(token) + b" %d\n" % rank for rank, token in by_rank)
        (folder / f"{encoding}.tiktoken").write_bytes(b"".join(lines))
        for name in peers:
            LIBRARIES[name].prepare(encoding, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--only", default="", metavar="TEXT", help='only what has TEXT in "<measure> <vocabulary> <text>"'
    )
    parser.add_argument("--peers", choices=["fast", "all"], default="fast", help="all: with tokenizers, which is slow")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured here too")
    args = parser.parse_args()
    if not DATA.is_dir():
        parser.error(f"there are no texts in {DATA}: BPETOK_DATA has to name their folder")
    wanted = [name for name in LIBRARIES if name != "tokenizers" or args.peers == "all"]
    peers = [name for name in wanted if LIBRARIES[name].installed()]
    versions = {one.package: importlib.metadata.version(one.package) for one in map(LIBRARIES.get, peers) if one}
    print(f"{cpu()}, {os.cpu_count()} cores, Python {platform.python_version()}, {args.rounds} rounds")
    print(", ".join(f"{package} {version}" for package, version in versions.items()))
    about = {"cpu": cpu(), "python": platform.python_version(), "versions": versions, "rounds": args.rounds}
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        prepare(folder, peers)
        for name, measure in measures(peers).items():
            chosen = [cell for cell in measure.cells if args.only in f"{name} {cell.label()}"]
            if chosen:
                results[name] = run(name, measure, chosen, args.rounds, folder)
            if args.json:
                args.json.write_text(json.dumps(about | {"measures": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
