"""One turn of a benchmark, in a process of its own: one library, one vocabulary, one kind of text, one clock.

`python benchmarks/turn.py TURN CELL FOLDER` (the first two in JSON) prints the outcome as JSON. `bench_encode.py` plays
the turns. Texts are read from `BPETOK_DATA`, else `../shared/data`; code is the standard library of this Python.
"""

from __future__ import annotations

import hashlib
import importlib
import itertools
import json
import os
import sys
import sysconfig
import time
import timeit
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from peers import LIBRARIES, Library

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("BPETOK_DATA", ROOT.parent / "shared" / "data"))
ENGLISH = ("en_prose", "en_web", "wiki_mars", "wikitext2_test")
MULTILINGUAL = ("ar", "de", "el", "es", "fr", "he", "hi", "ja", "ko", "ro", "ru", "th", "tr", "uk", "vi", "zh")
KINDS = ("english", "code", "multilingual")
SHORT = {"short": "hello world", "sentence": "The quick brown fox jumps over the lazy dog, then it sleeps."}
DOCUMENT_BYTES = 4096
CODE_BYTES = 12_000_000
WHOLE_BYTES = 50_000_000


# ---- texts ----------------------------------------------------------------------------------------------------------


def texts_of(kind: str) -> list[str]:
    """The texts of a kind: "english", "code", "multilingual", "everything"; a file of the corpus; or one long text."""
    if kind == "50 MB whole":
        english = "".join(texts_of("english"))
        return [english * (WHOLE_BYTES // len(english.encode()))]
    if kind.endswith(" whole"):
        return ["".join(texts_of(kind.removesuffix(" whole")))]
    if kind == "everything":
        return [text for one in KINDS for text in texts_of(one)]
    if kind == "english":
        return [text for name in ENGLISH for text in documents(corpus(name))]
    if kind == "code":
        return [text for source in standard_library() for text in documents(source)]
    if kind == "multilingual":
        rows = itertools.zip_longest(*(documents(corpus(name)) for name in MULTILINGUAL))
        return [text for row in rows for text in row if text is not None]
    return list(documents(corpus(kind)))


def documents(data: bytes) -> Iterator[str]:
    """The text in documents of at most DOCUMENT_BYTES, cut between characters."""
    start = 0
    while start < len(data):
        end = min(start + DOCUMENT_BYTES, len(data))
        while end < len(data) and data[end] & 0xC0 == 0x80:
            end -= 1
        yield data[start:end].decode()
        start = end


def corpus(name: str) -> bytes:
    return (DATA / "corpus" / f"{name}.txt").read_bytes()


def standard_library() -> Iterator[bytes]:
    """Its sources in the order of their paths, tests left out, up to CODE_BYTES."""
    root = Path(sysconfig.get_path("stdlib"))
    left_out = {"site-packages", "dist-packages", "test", "tests", "idle_test"}
    total = 0
    for path in sorted(root.rglob("*.py")):
        source = path.read_bytes()
        if left_out.isdisjoint(path.relative_to(root).parts) and is_utf8(source):
            total += len(source)
            if total > CODE_BYTES:
                return
            yield source


def is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


# ---- the turn -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Turn:
    """What one process does: an adapter's work with a vocabulary and a kind of text, in seconds for each figure."""

    adapter: str
    work: str
    threads: int = 1
    prefix: str = ""  # of its figures' names

    @property
    def library(self) -> str:
        return self.adapter.split()[0]


@dataclass(frozen=True)
class Cell:
    """What a row of a table is about."""

    encoding: str
    text: str
    pattern: str | None = None

    def label(self, *others: str) -> str:
        return " ".join(filter(None, (self.encoding.removesuffix("_base"), self.text, *others)))


@dataclass
class Outcome:
    """A turn's seconds for each figure, and the sha256 of each result that was had on the way, each once."""

    seconds: dict[str, float] = field(default_factory=dict)
    results: list[str] = field(default_factory=list)
    text_bytes: int = 0

    def had(self, result: bytes) -> None:
        self.results = sorted({*self.results, hashlib.sha256(result).hexdigest()})


def take_turn(turn: Turn, cell: Cell, folder: Path) -> Outcome:
    adapter = LIBRARIES[turn.adapter]
    for module in adapter.modules:
        importlib.import_module(module)
    began = time.perf_counter()
    library = adapter(cell.encoding, folder, cell.pattern)
    outcome = Outcome()
    if turn.work == "load":
        ids = library.encode(SHORT["short"])
        outcome.seconds["load"] = time.perf_counter() - began
        outcome.had(id_bytes(ids))
    elif turn.work == "single":
        time_single(library, outcome)
    elif turn.work == "decode":
        time_decode(library, cell, outcome)
    else:
        time_passes(library, turn, cell, outcome)
    return outcome


def time_passes(library: Library, turn: Turn, cell: Cell, outcome: Outcome) -> None:
    """The first pass over the texts and the second, over texts that are made anew."""
    works: dict[str, tuple[Callable[[list[str]], Any], Callable[[Any], bytes]]] = {
        "flat": (lambda texts: library.flat(texts, turn.threads), id_bytes),
        "lists": (library.lists, lambda lists: b"".join(map(id_bytes, lists))),
        "counts": (library.counts, id_bytes),
    }
    call, as_bytes = works[turn.work]
    for figure in ("cold", "warm"):
        texts = texts_of(cell.text)
        began = time.perf_counter()
        result = call(texts)
        outcome.seconds[figure] = time.perf_counter() - began
        outcome.had(as_bytes(result))
        del result
    outcome.text_bytes = sum(len(text.encode()) for text in texts)


def time_single(library: Library, outcome: Outcome, calls: int = 2000, repeats: int = 7) -> None:
    """Seconds of one call with a short text: the best of some repeats of many calls."""
    for (name, text), call in itertools.product(SHORT.items(), ("encode", "encode_to_numpy")):
        timer = timeit.Timer("call(text)", globals={"call": getattr(library, call), "text": text})
        outcome.seconds[f"{call} {name}"] = min(timer.repeat(repeats, calls)) / calls
        outcome.had(id_bytes(getattr(library, call)(text)))


def time_decode(library: Library, cell: Cell, outcome: Outcome) -> None:
    """The second pass of each way to decode, text by text."""
    texts = texts_of(cell.text)
    arrays = [library.flat([text], 1) for text in texts]
    ids = {"array": arrays, "list": [array.tolist() for array in arrays]}
    for (source, batch), (target, call) in itertools.product(
        ids.items(), {"bytes": library.decode_bytes, "str": library.decode}.items()
    ):
        for _ in range(2):
            began = time.perf_counter()
            decoded = [call(one) for one in batch]
            outcome.seconds[f"{source} {target}"] = time.perf_counter() - began
        outcome.had(b"".join(one if isinstance(one, bytes) else one.encode() for one in decoded))
    outcome.text_bytes = sum(len(text.encode()) for text in texts)


def id_bytes(ids: Sequence[int]) -> bytes:
    return np.asarray(ids, np.uint32).tobytes()


if __name__ == "__main__":
    turn, cell, folder = sys.argv[1:]
    print(json.dumps(vars(take_turn(Turn(**json.loads(turn)), Cell(**json.loads(cell)), Path(folder)))))
