"""Fixtures of all tests: the data folder, the published vocabularies, and a small vocabulary trained by the test."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import hashlib
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

import bpetok
from bpetok.encodings import ENCODINGS

if TYPE_CHECKING:
    import tiktoken

hypothesis.settings.register_profile("bpetok", deadline=None, max_examples=100, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("bpetok")

DATA = Path(os.environ.get("BPETOK_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")

# tiktoken reads gpt2 from these two, and not from the rank file of r50k_base that bpetok reads.
_GPT2_URLS = [
    f"https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/{name}" for name in ("vocab.bpe", "encoder.json")
]


@pytest.fixture(scope="session")
def data() -> Path:
    """The data folder: `corpus/*.txt`, `tinyshakespeare.txt`, `names.txt`, `tiktoken_cache/`."""
    if not (DATA / "corpus").is_dir():
        pytest.skip(f"needs test data: {DATA}/corpus is not there; BPETOK_DATA names the folder")
    return DATA


@pytest.fixture(scope="session")
def texts_at_hand() -> list[str]:
    """The texts of the corpus; none where there is no data folder."""
    return [file.read_bytes().decode() for file in sorted((DATA / "corpus").glob("*.txt"))]


@pytest.fixture(scope="session", autouse=True)
def vocabulary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where bpetok and tiktoken find OpenAI's files: never the network, never the user's own cache.

    It is a copy, since tiktoken deletes files that it dislikes.
    """
    folder = tmp_path_factory.mktemp("tiktoken_cache")
    with pytest.MonkeyPatch.context() as patch:
        if "TIKTOKEN_CACHE_DIR" in os.environ:
            folder = Path(os.environ["TIKTOKEN_CACHE_DIR"])
        else:
            for file in (DATA / "tiktoken_cache").glob("*"):
                shutil.copyfile(file, folder / file.name)
            patch.setenv("TIKTOKEN_CACHE_DIR", str(folder))
        patch.setenv("BPETOK_CACHE_DIR", str(tmp_path_factory.mktemp("bpetok_cache")))
        yield folder


@pytest.fixture(scope="module")
def _lean_process() -> None:
    """Gives back memory that tests before have left: a process that takes gigabytes forks slowly and knows no limit."""
    for thing in gc.get_objects():
        if issubclass(type(thing), bpetok.Tokenizer):  # what lies about its class may warn when it is asked
            thing.clear_cache()
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _skip_without(folder: Path, names: list[str]) -> None:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        pytest.skip(f"needs OpenAI's vocabularies: {folder} has no {', '.join(missing)}; see TIKTOKEN_CACHE_DIR")


@pytest.fixture(scope="session")
def encoding(vocabulary_folder: Path) -> Callable[[str], bpetok.Tokenizer]:
    """`encoding(name)`: a published vocabulary in bpetok."""

    def get(name: str) -> bpetok.Tokenizer:
        _skip_without(vocabulary_folder, [ENCODINGS[name].file.tiktoken_name])
        return bpetok.get_encoding(name)

    return get


@pytest.fixture(scope="session")
def tiktoken_encoding(vocabulary_folder: Path) -> Callable[[str], tiktoken.Encoding]:
    """`tiktoken_encoding(name)`: a published vocabulary in tiktoken."""

    def get(name: str) -> tiktoken.Encoding:
        import tiktoken

        gpt2 = [hashlib.sha1(url.encode()).hexdigest() for url in _GPT2_URLS]
        _skip_without(vocabulary_folder, gpt2 if name == "gpt2" else [ENCODINGS[name].file.tiktoken_name])
        return tiktoken.get_encoding(name)

    return get


@pytest.fixture(scope="session")
def small_text() -> str:
    """A text made here, the same each time: words of several scripts, numbers, spaces, line ends, symbols."""
    draw = random.Random(1)
    syllables = ["lo", "wer", "the", "qu", "in", "ʰA", "né", "мир", "東京", "ไทย", "é", "İs", "'s", "'LL", "12", "3456"]
    spaces = [" ", " ", " ", "  ", "\n", "\n\n", "\t", " \r\n", ", ", "! ", "/", "\u3000", " 🙂 "]
    words = ["".join(draw.choices(syllables, k=draw.randint(1, 3))) for _ in range(300)]
    return "".join(draw.choice(words) + draw.choice(spaces) for _ in range(4000))


@pytest.fixture(scope="session", params=["gpt2", "gpt4", "gpt4o"])
def small(request: pytest.FixtureRequest, small_text: str) -> bpetok.Tokenizer:
    """A tokenizer trained by the test, once with each named pattern; it needs no data folder."""
    specials = ["<|endoftext|>", "<|fim|>"]
    return bpetok.train(small_text, 500, pattern=request.param, special_tokens=specials, name=f"small-{request.param}")


@pytest.fixture(scope="session")
def small_tiktoken(small: bpetok.Tokenizer) -> tiktoken.Encoding:
    """The same vocabulary in tiktoken."""
    import tiktoken

    return tiktoken.Encoding(
        small.name,
        pat_str=str(small.vocab.pattern),
        mergeable_ranks=dict(small.vocab.ranks),
        special_tokens=dict(small.vocab.special_tokens),
    )
