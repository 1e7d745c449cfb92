"""Mistral's `tekken.json`: ranks, a pattern and special tokens, whose ids come before those of the ranks.

```
{
"config": {"pattern": "…", "num_vocab_tokens": 1000, "default_vocab_size": 1010, "default_num_special_tokens": 10,
           "version": "v7"},
"vocab": [{"rank": 0, "token_bytes": "AA==", "token_str": null}, …],       the id is the rank and 10 more
"special_tokens": [{"rank": 0, "token_str": "<unk>", "is_control": true}, …]
}
```

The first 256 ranks are the bytes 0 to 255 in this order, so GPT-2's, GPT-4's and their kin do not fit. Special tokens
that `default_num_special_tokens` counts and the file does not name are called `<SPECIAL_20>` and so on. The vocabulary
is cut at `default_vocab_size`. What the file says of images and sounds is no part of a tokenizer and is not kept.

Source: mistral-common 1.13.1, `tokens/tokenizers/tekken.py`.
"""

from __future__ import annotations

import base64
import importlib
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bpetok.errors import FormatError
from bpetok.formats import documents, probe, tiktoken
from bpetok.formats.documents import member
from bpetok.vocab import Vocab

NAME = "tekken"
_VERSIONS = ("v1", "v2", "v3", "v7", "v11", "v13", "v15")
_MARKS = (b'"token_bytes"', b'"default_num_special_tokens"', b'"is_control"')
_MAY_BE_UNNAMED = _VERSIONS[:4]  # versions whose files may leave out the special tokens, which then are:
_UNNAMED = [
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"),
    *("[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]"),
    *("[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"),
]


def recognises(head: bytes) -> bool:
    """Whether a file that begins with these bytes is in this format."""
    return head.lstrip().startswith(b"{") and any(mark in head for mark in _MARKS)


def read(path: Path) -> Vocab:
    """Reads a vocabulary with the ids that mistral-common gives: special tokens first.

    Raises:
        FormatError: the file is not in this format.
        VocabError: the vocabulary breaks its own rules.
        PatternError: the pattern does not compile.
    """
    document = documents.read_json(path)
    config = member(document, "config", dict, f"{path}: ")
    where = f"{path}: config."
    pattern = documents.pattern_of(member(config, "pattern", str, where), f"{where}pattern")
    version = member(config, "version", str, where)
    size = _count(config, "default_vocab_size", where)
    specials = _special_tokens(document, _count(config, "default_num_special_tokens", where), version, path)
    tokens = member(document, "vocab", list, f"{path}: ")
    if not len(specials) <= size <= len(specials) + len(tokens):
        raise FormatError(
            f"{where}default_vocab_size must be {len(specials)} to {len(specials) + len(tokens)}, as the file's "
            f"special tokens and tokens are, got {size}"
        )
    ranks = _ranks(tokens[: size - len(specials)], len(specials), path)
    provenance = {"read from": path.name, "tekken version": version}
    with documents.naming(path):
        return Vocab(ranks, specials, pattern, name=path.stem, provenance=provenance)


def _count(config: dict[str, Any], key: str, where: str) -> int:
    count: int = member(config, key, int, where)
    if not 0 <= count <= 1 << 24:
        raise FormatError(f"{where}{key} must be a number of tokens, got {count!s:.40}")
    return count


def _special_tokens(document: dict[str, Any], count: int, version: str, path: Path) -> dict[str, int]:
    given: list[Any] | None = document.get("special_tokens")
    if given is None and version in _MAY_BE_UNNAMED:
        texts = list(_UNNAMED)
    else:
        given = member(document, "special_tokens", list, f"{path}: ")
        texts = [_entry(entry, i, "token_str", f"{path}: special_tokens[{i}]") for i, entry in enumerate(given)]
    if len(texts) > count:
        raise FormatError(f"{path}: config.default_num_special_tokens must be at least {len(texts)}, got {count}")
    if count > max(len(texts), 1 << 16):
        raise FormatError(f"{path}: config.default_num_special_tokens must be at most 65536 if unnamed, got {count}")
    texts += [f"<SPECIAL_{i}>" for i in range(len(texts), count)]
    ids: dict[str, int] = {}
    for i, text in enumerate(texts):
        if ids.setdefault(text, i) != i:
            raise FormatError(f"{path}: special_tokens[{i}] must stand once, got {text!r:.60} again")
    return ids


def _ranks(tokens: list[Any], first: int, path: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for i, entry in enumerate(tokens):
        where = f"{path}: vocab[{i}]"
        token = documents.decode_base64(_entry(entry, i, "token_bytes", where), f"{where}.token_bytes")
        if i < 256 and token != bytes([i]):
            raise FormatError(f"{where} must be the byte {i}, got {token!r:.60}")
        if ranks.setdefault(token, first + i) != first + i:
            raise FormatError(f"{where} must stand once, got {token!r:.60} again")
    return ranks


def _entry(entry: object, rank: int, key: str, where: str) -> str:
    """The text under a key of an entry, whose rank must be its place."""
    if not isinstance(entry, dict):
        raise FormatError(f"{where} must be an object, got {entry!r:.60}")
    if member(entry, "rank", int, f"{where}.") != rank:
        raise FormatError(f"{where}.rank must be {rank}, got {entry['rank']!r:.60}")
    text: str = member(entry, key, str, f"{where}.")
    return text


def write(vocab: Vocab, path: Path) -> None:
    """Writes a vocabulary. Special tokens get the ids from 0 on, in their order, and tokens the ids behind them.

    So the ids are others than here, unless the special tokens came first here too: what is read back has the new ones.
    The file is proven by mistral-common where that is installed, else by reading it.

    Raises:
        FormatError: the format cannot hold the vocabulary, or the proof fails.
    """
    moved = _moved(vocab, path)
    document = _document(moved)
    with probe.proven(path) as written:
        written.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        again = read(written)
        if again != moved:
            raise FormatError(f"{path}: must hold {moved!r}, got {again!r} when it was read again")
        probe.prove(moved, *_encoder(written, path, again))


def _encoder(written: Path, path: Path, again: Vocab) -> tuple[Callable[[str], list[int]], str]:
    if importlib.util.find_spec("mistral_common") is None:
        from bpetok.tokenizer import Tokenizer

        return Tokenizer(again).encode_ordinary, f"{path}, read again"
    library = importlib.import_module("mistral_common.tokens.tokenizers.tekken")
    try:
        tekkenizer = library.Tekkenizer.from_file(written)
    except (AssertionError, ValueError) as error:
        raise FormatError(f"{path}: must be what mistral-common reads, got: {error}") from error
    return lambda text: tekkenizer.encode(text, bos=False, eos=False), f"{path} in mistral-common"


def _moved(vocab: Vocab, path: Path) -> Vocab:
    """The vocabulary with the ids that the format gives it."""
    tiktoken.by_rank(vocab, path, "tekken")
    if not isinstance(vocab.pattern, str):
        raise FormatError(f"{path}: tekken's format holds one pattern, got {vocab.split}")
    by_rank = sorted(vocab.ranks, key=vocab.ranks.__getitem__)
    if by_rank[:256] != [bytes([byte]) for byte in range(256)]:
        raise FormatError(
            f"{path}: the first 256 tokens must be the bytes 0 to 255 in order, got {by_rank[0]!r} first",
            hint="vocabularies in GPT-2's order of bytes have no tekken.json",
        )
    if vocab.ranks[by_rank[-1]] - vocab.ranks[by_rank[0]] != len(by_rank) - 1:
        raise FormatError(f"{path}: the ids of the tokens must follow each other without a gap in this format")
    specials = sorted(vocab.special_tokens, key=lambda text: (vocab.special_tokens[text], text))
    if len(set(vocab.special_tokens.values())) != len(specials):
        raise FormatError(f"{path}: each special token must have an id of its own in this format")
    ranks = {token: len(specials) + i for i, token in enumerate(by_rank)}
    ids = {text: i for i, text in enumerate(specials)}
    return Vocab(ranks, ids, vocab.pattern, name=vocab.name, provenance=vocab.provenance)


def _document(moved: Vocab) -> dict[str, Any]:
    version = moved.provenance.get("tekken version")
    specials, tokens = moved.special_tokens, moved.ranks
    return {
        "config": {
            "pattern": moved.pattern,
            "num_vocab_tokens": len(tokens),
            "default_vocab_size": len(tokens) + len(specials),
            "default_num_special_tokens": len(specials),
            "version": version if version in _VERSIONS else "v7",
        },
        "vocab": [
            {"rank": i, "token_bytes": base64.b64encode(token).decode(), "token_str": _text(token)}
            for i, token in enumerate(tokens)
        ],
        "special_tokens": [{"rank": i, "token_str": text, "is_control": True} for i, text in enumerate(specials)],
    }


def _text(token: bytes) -> str | None:
    try:
        return token.decode()
    except UnicodeDecodeError:
        return None
