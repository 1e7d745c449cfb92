"""Fixtures of the core's tests: its run-time tiers, real text, and vocabularies whose ids show where a text is cut."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sysconfig
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from itertools import accumulate, chain, cycle
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import regex
import tiktoken

import bpetok
from bpetok import _core, patterns
from bpetok.shards import layout, manifest

EXPRESSIONS = patterns.SPELLINGS
TIERS = getattr(_core, "tiers", lambda: ["only"])()


@pytest.fixture(params=TIERS)
def tier(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each tier of the core that this machine can run, in use for one test."""
    if TIERS == ["only"]:
        yield "only"
        return
    before = _core.tier_in_use()
    _core.use_tier(request.param)
    yield request.param
    _core.use_tier(before)


@pytest.fixture
def tiers_in_turn() -> Iterator[Iterator[str]]:
    """The tiers, again and again, each in use until the next is asked for."""

    def in_turn() -> Iterator[str]:
        for name in cycle(TIERS):
            if name != "only":
                _core.use_tier(name)
            yield name

    before = _core.tier_in_use() if TIERS != ["only"] else "only"
    yield in_turn()
    if before != "only":
        _core.use_tier(before)


# ---- real text ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def corpus(data: Path) -> dict[str, str]:
    """The files of the corpus."""
    return {file.name: file.read_bytes().decode() for file in sorted((data / "corpus").glob("*.txt"))}


@pytest.fixture(scope="session")
def standard_library() -> dict[str, str]:
    """The sources of Python's standard library; what is not UTF-8 in its tests' files is U+FFFD."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [file for file in sorted(root.rglob("*.py")) if "site-packages" not in file.parts]
    return {file.relative_to(root).as_posix(): file.read_bytes().decode("utf-8", "replace") for file in files}


# ---- oracles -----------------------------------------------------------------------------------------------------


class Expected(NamedTuple):
    """The ids of texts as `encode_batch_to_numpy` gives them."""

    ids: np.ndarray
    offsets: np.ndarray


def _ids(encoding: tiktoken.Encoding, text: str) -> list[int]:
    try:
        return encoding.encode(text, disallowed_special=())  # `encode_ordinary` would panic where this one raises
    except ValueError:  # its regex engine gives up on long runs of blanks; then the `regex` module cuts for it
        return encoding._encode_only_native_bpe(text)


@pytest.fixture(scope="session")
def expected_of() -> Callable[[tiktoken.Encoding, Sequence[str]], Expected]:
    """`expected_of(encoding, texts)`: tiktoken's ids, asked for once where several tiers need them."""

    @lru_cache(maxsize=32)
    def compute(encoding: tiktoken.Encoding, texts: tuple[str, ...]) -> Expected:
        ids = [_ids(encoding, text) for text in texts]  # one by one: its thread pool is slower on short texts
        offsets = np.cumsum([0, *map(len, ids)], dtype=np.int64)
        return Expected(np.fromiter(chain.from_iterable(ids), np.uint32, offsets[-1]), offsets)

    return lambda encoding, texts: compute(encoding, tuple(texts))


@pytest.fixture(scope="session")
def assert_ids() -> Callable[..., None]:
    """`assert_ids(ours, texts, expected, theirs)`: the batch has the expected ids; else shows a small text."""

    def check(
        ours: bpetok.Tokenizer, texts: Sequence[str], expected: Expected, theirs: tiktoken.Encoding | None = None
    ) -> None:
        ids, offsets = ours.encode_batch_to_numpy(texts)
        if np.array_equal(offsets, expected.offsets) and np.array_equal(ids, expected.ids):
            return
        got = [part.tolist() for part in np.split(ids, offsets[1:-1])]
        wanted = [part.tolist() for part in np.split(expected.ids, expected.offsets[1:-1])]
        i = next(i for i in range(len(texts)) if got[i] != wanted[i])
        text, found, want = texts[i], got[i], wanted[i]
        if theirs and ours.encode_ordinary(text) != _ids(theirs, text):
            text = _smallest(text, lambda one: ours.encode_ordinary(one) != _ids(theirs, one))
            found, want = ours.encode_ordinary(text), _ids(theirs, text)
        pytest.fail(f"text {i} of {len(texts)}: {text[:300]!a} has the ids {found[:40]}, expected {want[:40]}")

    return check


def _smallest(text: str, is_wrong: Callable[[str], bool]) -> str:
    """The text without whatever can be left out of it so that it is still wrong."""
    size = len(text)
    while size := size // 2:
        start = 0
        while start < len(text):
            shorter = text[:start] + text[start + size :]
            if is_wrong(shorter):
                text = shorter
            else:
                start += size
    return text


@pytest.fixture(scope="session")
def ends_by_expression() -> Callable[[str, str], list[int]]:
    """`ends_by_expression(pattern, text)`: where tiktoken's expression, run by the `regex` module, ends pretokens."""
    compiled = {name: regex.compile(expression) for name, expression in EXPRESSIONS.items()}

    def ends(pattern: str, text: str) -> list[int]:
        return list(accumulate(len(piece.encode()) for piece in patterns.cut(compiled[pattern], text)))

    return ends


class Twins(NamedTuple):
    """One vocabulary in bpetok and in tiktoken."""

    ours: bpetok.Tokenizer
    theirs: tiktoken.Encoding


def _pairs() -> list[bytes]:
    """All pairs of bytes, shuffled: a border moved by one changes the ids of most texts."""
    pairs = [bytes([first, second]) for first in range(256) for second in range(256)]
    random.Random("pairs").shuffle(pairs)
    return pairs


def _narrow_pairs() -> list[bytes]:
    """The pairs but those that begin a wide character: an encoder may cut long words of wide ones where it likes."""
    return [pair for pair in _pairs() if pair[0] < 0x80 or pair[1] < 0xE0]


# The ASCII that may stand between two characters of many bytes where the vocabulary "borders" is to see all.
BETWEEN = ["", " ", "\n", "'", "'s", "/", "a", "A", "1"]


def _borders() -> list[bytes]:
    """What joins characters, but no character's own bytes, so that the ids show every border.

    x is a character's last byte, y a first one. Every part of `x + BETWEEN + y` is a token, so whatever of it stands
    in one pretoken becomes one token, and a border within it always leaves two.
    """
    parts = set()
    for between in BETWEEN:
        for last in range(0x80, 0xC0):
            for first in range(0xC2, 0xF5):
                whole = bytes([last]) + between.encode() + bytes([first])
                parts |= {whole[i:j] for i in range(len(whole)) for j in range(i + 2, len(whole) + 1)}
    return sorted(parts, key=lambda part: (len(part), part))


@pytest.fixture(scope="session")
def twins() -> Callable[[str, str], Twins]:
    """`twins(kind, pattern)`: a vocabulary that shows borders; kinds are "pairs", "narrow pairs" and "borders"."""
    kinds = {"pairs": _pairs, "narrow pairs": _narrow_pairs, "borders": _borders}

    @cache
    def make(kind: str, pattern: str) -> Twins:
        tokens = [bytes([byte]) for byte in range(256)] + kinds[kind]()
        ranks = {token: rank for rank, token in enumerate(tokens)}
        ours = bpetok.Tokenizer(bpetok.Vocab(ranks, pattern=pattern, name=kind))
        expression = EXPRESSIONS[pattern]
        return Twins(ours, tiktoken.Encoding(kind, pat_str=expression, mergeable_ranks=ranks, special_tokens={}))

    return make


# ---- shards ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def no_waiting_for_the_disk() -> Iterator[None]:
    """For tests that do not depend on what a disk holds after the power has failed, as test_shard_faults.py does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


def _marks(contents: bytes) -> str:
    blocks = range(1 << 22, len(contents) + 1, 1 << 22)
    return "".join(hashlib.sha256(contents[:end]).hexdigest()[:8] for end in blocks)


def _slow_shards(
    folder: Path,
    documents: Mapping[str, Sequence[Sequence[int]]],
    *,
    shard_tokens: int = 100,
    dtype: str = "uint16",
    end_of_text: int = 0,
    stands: manifest.EndOfText = "before",
    tokenizer: bpetok.Tokenizer | None = None,
) -> dict[str, list[list[int]]]:
    shards, written = [], {}
    folder.mkdir(exist_ok=True)
    for split, texts in documents.items():
        whole = [[end_of_text, *ids] if stands == "before" else [*ids, end_of_text] for ids in texts]
        written[split] = whole
        owners = [number for number, ids in enumerate(whole) for _ in ids]
        stream = list(chain.from_iterable(whole))
        for number, first in enumerate(range(0, len(stream), shard_tokens)):
            mine, ids = owners[first : first + shard_tokens], stream[first : first + shard_tokens]
            lengths = np.array([mine.count(owner) for owner in sorted(set(mine))], np.int32)
            name = layout.bin_name(split, number)
            contents = layout.bin_header(dtype, len(ids)) + np.array(ids, dtype).tobytes()
            index = b"".join(layout.index_parts(dtype, lengths))
            (folder / name).write_bytes(contents)
            (folder / layout.index_name(name)).write_bytes(index)
            continues = first > 0 and owners[first - 1] == mine[0]
            text = [one for one in ids if one != end_of_text]
            shards.append(
                manifest.Shard(
                    file=name,
                    split=split,
                    tokens=len(ids),
                    documents=len(lengths) - continues,
                    continues=continues,
                    text_bytes=len(tokenizer.decode_bytes(text)) if tokenizer else len(text),
                    sha256=hashlib.sha256(contents).hexdigest(),
                    marks=_marks(contents),
                    index_sha256=hashlib.sha256(index).hexdigest(),
                    index_marks=_marks(index),
                )
            )
    manifest.Manifest(
        tokenizer=tokenizer.name if tokenizer else "none",
        fingerprint=tokenizer.fingerprint if tokenizer else "0" * 64,
        probe=manifest.probe_digest(tokenizer, end_of_text, stands) if tokenizer else "0" * 64,
        vocab_size=tokenizer.n_vocab if tokenizer else 1 << (16 if dtype == "uint16" else 20),
        dtype=dtype,
        end_of_text=end_of_text,
        end_of_text_stands=stands,
        arguments={},
        sources=(manifest.Source("a.txt", 10),),
        shards=tuple(shards),
    ).write(folder)
    return written


@pytest.fixture(scope="session")
def slow_shards() -> Callable[..., dict[str, list[list[int]]]]:
    """`slow_shards(folder, {"train": [ids, …]}, …)`: writes shards plainly, and gives the ids of each document.

    The slow twin of `bpetok.shards.write`: it takes ids, holds everything, and trusts nothing but the layout's names.
    """
    return _slow_shards


# ---- processes that end in the middle ----------------------------------------------------------------------------


class Ended(NamedTuple):
    """How a forked process ended: by a signal, 0 for none, or with an error, None for none."""

    signal: int
    error: str | None = None
    errno: int | None = None
    message: str = ""


def _forked(job: Callable[[], object], seconds: float = 30) -> Ended:
    reader, writer = os.pipe()
    with warnings.catch_warnings():  # Python 3.12 warns of threads of C libraries
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        signal.alarm(int(seconds))
        said = ["", None, ""]
        try:
            job()
        except BaseException as error:
            said = [type(error).__name__, getattr(error, "errno", None), str(error)]
        finally:
            os.write(writer, json.dumps(said).encode())
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        said = file.read()
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        return Ended(os.WTERMSIG(status))
    error, number, message = json.loads(said)
    return Ended(0, error or None, number, message)


@pytest.fixture(scope="session")
def forked() -> Callable[..., Ended]:
    """`forked(job, seconds=30)`: runs it in a process of its own, which may be killed, and says how that ended."""
    return _forked
