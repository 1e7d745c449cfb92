"""bpetok and its peers behind one face, each by its own fastest fair call.

"Fair" is the work of a user who has a Python list of `str` and wants the ids of ordinary text, in which special tokens
are text. A library that is measured by several calls has an adapter for each; a table shows the faster one.

Vocabularies come from rank files, in `<folder>/<encoding>.tiktoken`, and nothing is downloaded.
"""

from __future__ import annotations

import base64
import importlib.util
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

Ids = list[int] | NDArray[np.uint32]


class Library:
    """One library with one vocabulary loaded: the calls that are timed.

    `encode` and `encode_to_numpy` of one text are the library's own callables where it has them.

    Attributes:
        package: the name that `pip` knows.
        modules: what to import before the clock runs.
        encodings: the vocabularies it can load; None for all.
    """

    package: ClassVar[str]
    modules: ClassVar[tuple[str, ...]]
    encodings: ClassVar[frozenset[str] | None] = None

    encode: Callable[[str], list[int]]
    encode_to_numpy: Callable[[str], NDArray[np.uint32]]

    def __init__(self, encoding: str, folder: Path, pattern: str | None) -> None:
        """Loads the vocabulary, with a split pattern of the caller's in place of its own if there is one."""
        raise NotImplementedError

    @classmethod
    def installed(cls) -> bool:
        return all(importlib.util.find_spec(module) for module in cls.modules)

    @classmethod
    def knows(cls, encoding: str) -> bool:
        return cls.encodings is None or encoding in cls.encodings

    @classmethod
    def prepare(cls, encoding: str, folder: Path) -> None:
        """Writes what loading needs beside the rank file."""

    def flat(self, texts: Sequence[str], threads: int) -> NDArray[np.uint32]:
        """The ids of all texts, one behind the other."""
        raise NotImplementedError

    def lists(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, on one thread."""
        raise NotImplementedError

    def counts(self, texts: Sequence[str]) -> Sequence[int] | NDArray[np.int64]:
        """How many ids each text has, on one thread."""
        raise NotImplementedError

    def decode(self, ids: Ids) -> str:
        """The text of a list or an array of ids."""
        raise NotImplementedError

    def decode_bytes(self, ids: Ids) -> bytes:
        """The bytes of a list or an array of ids."""
        raise NotImplementedError


class Bpetok(Library):
    """This library."""

    package, modules = "bpetok", ("bpetok",)

    def __init__(self, encoding: str, folder: Path, pattern: str | None) -> None:
        import bpetok

        ranks = folder / f"{encoding}.tiktoken"
        tok = bpetok.load(ranks, pattern=pattern, special_tokens={}) if pattern else bpetok.get_encoding(encoding)
        self.tok: Any = tok
        self.encode, self.encode_to_numpy = tok.encode, tok.encode_to_numpy

    def flat(self, texts: Sequence[str], threads: int) -> NDArray[np.uint32]:
        return self.tok.encode_batch_to_numpy(texts, num_threads=threads)[0]

    def lists(self, texts: Sequence[str]) -> list[list[int]]:
        return self.tok.encode_ordinary_batch(texts, num_threads=1)

    def counts(self, texts: Sequence[str]) -> Sequence[int] | NDArray[np.int64]:
        if hasattr(self.tok, "count_batch"):
            return self.tok.count_batch(texts, num_threads=1)
        return [self.tok.count(text) for text in texts]

    def decode(self, ids: Ids) -> str:
        return self.tok.decode(ids)

    def decode_bytes(self, ids: Ids) -> bytes:
        return self.tok.decode_bytes(ids)


class Gigatoken(Library):
    """gigatoken by its batch calls, fastest when warm.

    `encode_batch` clones the tokenizer for a worker on its first call, which costs it a cold pass; an awkward array
    comes out, whose flat ids are a view. `BytesSource`, joined or not, was slower. awkward is imported before the
    clock runs. The special tokens are left out: it would find them wherever they stand in a text. Many threads are
    rayon's, so `RAYON_NUM_THREADS` has to agree. A single text goes to `encode`, which gives an array and looks for no
    special token.
    """

    package, modules = "gigatoken", ("gigatoken", "awkward")
    encodings = frozenset({"r50k_base", "cl100k_base", "o200k_base"})
    schemes: ClassVar[dict[str, str]] = {"r50k_base": "gpt2", "cl100k_base": "gpt4", "o200k_base": "o200k"}

    def __init__(self, encoding: str, folder: Path, pattern: str | None) -> None:
        import gigatoken

        self.tok = gigatoken.Tokenizer.from_tiktoken(folder / f"{encoding}.tiktoken", self.schemes[encoding], {})
        self.encode_to_numpy = self.tok.encode
        self.encode = lambda text: self.tok.encode(text).tolist()

    def flat(self, texts: Sequence[str], threads: int) -> NDArray[np.uint32]:
        import awkward

        return awkward.to_numpy(awkward.flatten(self.tok.encode_batch(texts, parallel=threads > 1)))

    def lists(self, texts: Sequence[str]) -> list[list[int]]:
        return self.tok.encode_batch_list(texts, parallel=False)

    def decode(self, ids: Ids) -> str:
        return self.tok.decode(ids).decode("utf-8", "replace")

    def decode_bytes(self, ids: Ids) -> bytes:
        return self.tok.decode(ids)


class GigatokenEach(Gigatoken):
    """gigatoken by one `encode` for each text, on one thread: fastest when cold, as no worker has to be cloned."""

    def flat(self, texts: Sequence[str], threads: int) -> NDArray[np.uint32]:
        return np.concatenate(list(map(self.tok.backend.encode, texts)))

    def lists(self, texts: Sequence[str]) -> list[list[int]]:
        return [ids.tolist() for ids in map(self.tok.backend.encode, texts)]


class Quicktok(Library):
    """quicktok with the vocabularies that it ships; it has no scanner for r50k_base.

    `encode_batch` gives flat ids. It has no batch of lists and (0.4.0) no array of one text.
    """

    package, modules = "quicktok-v1", ("quicktok",)
    encodings = frozenset({"cl100k_base", "o200k_base"})

    def __init__(self, encoding: str, folder: Path, pattern: str | None) -> None:
        import quicktok

        self.tok = quicktok.get_encoding(encoding)
        self.encode = self.tok.encode
        self.encode_to_numpy = lambda text: np.array(self.tok.encode(text), np.uint32)

    def flat(self, texts: Sequence[str], threads: int) -> NDArray[np.uint32]:
        return self.tok.encode_batch(texts, threads)[0]

    def lists(self, texts: Sequence[str]) -> list[list[int]]:
        return list(map(self.tok.encode_ordinary, texts))

    def counts(self, texts: Sequence[str]) -> Sequence[int] | NDArray[np.int64]:
        import quicktok

        return quicktok.count_batch(self.tok, texts, threads=1)

    def decode(self, ids: Ids) -> str:
        return self.tok.decode(ids if isinstance(ids, list) else ids.tolist())

    def decode_bytes(self, ids: Ids) -> bytes:
        return self.tok.decode_bytes(ids if isinstance(ids, list) else ids.tolist())


class Tiktoken(Library):
    """tiktoken, the reference.

    Flat ids come from `encode_to_numpy` of each text, which beats arrays made of `encode_ordinary`'s lists; on several
    threads in a thread pool, as its own batch calls do. It decodes a list faster than an array.
    """

    package, modules = "tiktoken", ("tiktoken",)

    def __init__(self, encoding: str, folder: Path, pattern: str | None) -> None:
        import tiktoken
        from tiktoken.load import load_tiktoken_bpe

        if pattern:
            ranks = load_tiktoken_bpe(str(folder / f"{encoding}.tiktoken"))
            tok = tiktoken.Encoding("custom", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        else:
            tok = tiktoken.get_encoding(encoding)
        self.tok = tok
        self.encode, self.encode_to_numpy = tok.encode, tok.encode_to_numpy

    def ordinary_to_numpy(self, text: str) -> NDArray[np.uint32]:
        return self.tok.encode_to_numpy(text, disallowed_special=())

    def flat(self, texts: Sequence[str], threads: int) -> NDArray[np.uint32]:
        if threads == 1:
            return np.concatenate(list(map(self.ordinary_to_numpy, texts)))
        with ThreadPoolExecutor(threads) as pool:
            return np.concatenate(list(pool.map(self.ordinary_to_numpy, texts)))

    def lists(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.tok.encode_ordinary(text) for text in texts]

    def counts(self, texts: Sequence[str]) -> Sequence[int] | NDArray[np.int64]:
        return [len(self.tok.encode_ordinary(text)) for text in texts]

    def decode(self, ids: Ids) -> str:
        return self.tok.decode(ids if isinstance(ids, list) else ids.tolist())

    def decode_bytes(self, ids: Ids) -> bytes:
        return self.tok.decode_bytes(ids if isinstance(ids, list) else ids.tolist())


class Tokenizers(Library):
    """Hugging Face's tokenizers, from a tokenizer.json that is made of the rank file: slow, so only on request.

    Its merges are all the ways to put a token together from two, in the order of the ranks. Its regex engine takes `$`
    for the end of a line and `{1,3}+` for a repetition, so the patterns are spelled otherwise than tiktoken's.
    """

    package, modules = "tokenizers", ("tokenizers",)
    encodings = frozenset({"r50k_base", "cl100k_base", "o200k_base"})
    head = r"[^\r\n\p{L}\p{N}]?"
    upper, lower = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    tail = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    patterns: ClassVar[dict[str, str]] = {
        "r50k_base": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        "cl100k_base": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s+\z|\s*[\r\n]|\s+(?!\S)|\s",
        "o200k_base": f"{head}{upper}*{lower}+{tail}|{head}{upper}+{lower}*{tail}|"
        r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    }

    def __init__(self, encoding: str, folder: Path, pattern: str | None) -> None:
        import tokenizers

        self.tok = tokenizers.Tokenizer.from_file(str(folder / f"{encoding}.json"))

    @classmethod
    def prepare(cls, encoding: str, folder: Path) -> None:
        from tokenizers import Regex, Tokenizer, models, pre_tokenizers

        printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
        others = [byte for byte in range(256) if byte not in printable]
        letters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
        lines = (folder / f"{encoding}.tiktoken").read_bytes().splitlines()
        tokens = [base64.b64decode(line.split()[0]).decode("latin-1").translate(letters) for line in lines]
        vocab = {token: rank for rank, token in enumerate(tokens)}
        merges = [
            (token[:i], token[i:])
            for token in tokens
            for i in range(1, len(token))
            if token[:i] in vocab and token[i:] in vocab
        ]
        tok = Tokenizer(models.BPE(vocab, merges, ignore_merges=True))
        split = pre_tokenizers.Split(Regex(cls.patterns[encoding]), "isolated")
        as_letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tok.pre_tokenizer = pre_tokenizers.Sequence([split, as_letters])
        tok.save(str(folder / f"{encoding}.json"))

    def flat(self, texts: Sequence[str], threads: int) -> NDArray[np.uint32]:
        return np.concatenate([np.array(ids, np.uint32) for ids in self.lists(texts)])

    def lists(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self.tok.encode_batch_fast(texts, add_special_tokens=False)]


LIBRARIES: dict[str, type[Library]] = {
    "bpetok": Bpetok,
    "gigatoken": Gigatoken,
    "gigatoken each": GigatokenEach,
    "quicktok": Quicktok,
    "tiktoken": Tiktoken,
    "tokenizers": Tokenizers,
}
