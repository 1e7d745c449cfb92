"""Vocabularies by name: OpenAI's, by tiktoken's names, and our own, `bpetok_32k` and `bpetok_64k`.

Ours are installed with bpetok (`vocab/` of the checkout, whose README says what they are made of). A file of OpenAI's
is looked for, by its content's sha256, in bpetok's cache folder (`BPETOK_CACHE_DIR`, else the
user's cache folder), then in tiktoken's (`TIKTOKEN_CACHE_DIR`, only read), and downloaded into the first if it is in
neither. Source of addresses, checksums, special tokens and models: tiktoken 0.14.0, `tiktoken_ext/openai_public.py`
and `tiktoken/model.py`.

>>> encoding_name_for_model("gpt-4o-mini")
'o200k_base'
"""

from __future__ import annotations

import difflib
import hashlib
import os
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

from bpetok import _core
from bpetok.errors import EncodingError, UnavailableError, UnknownTokenError
from bpetok.files import write_atomically
from bpetok.tokenizer import Encoding
from bpetok.vocab import MergeList, Pair, RankTable, Vocab

_TIMEOUT_SECONDS = 30


@dataclass(frozen=True, slots=True)
class RankFile:
    """A published file of ranks: where it is, and the sha256 of its content."""

    url: str
    sha256: str

    @property
    def tiktoken_name(self) -> str:
        """The file's name in tiktoken's cache folder."""
        return hashlib.sha1(self.url.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Published:
    """A published vocabulary: its ranks, its pattern and its special tokens."""

    file: RankFile
    pattern: str
    special_tokens: dict[str, int] = field(default_factory=dict)


def _published(name: str, sha256: str) -> RankFile:
    return RankFile(f"https://openaipublic.blob.core.windows.net/encodings/{name}.tiktoken", sha256)


_R50K = _published("r50k_base", "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930")
_P50K = _published("p50k_base", "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069")
_CL100K = _published("cl100k_base", "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7")
_O200K = _published("o200k_base", "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d")

_GPT2_SPECIAL = {"<|endoftext|>": 50256}
_FIM = ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")
_O200K_SPECIAL = {"<|endoftext|>": 199999, "<|endofprompt|>": 200018}
_HARMONY_NAMED = {
    "<|startoftext|>": 199998,
    "<|return|>": 200002,
    "<|constrain|>": 200003,
    "<|channel|>": 200005,
    "<|start|>": 200006,
    "<|end|>": 200007,
    "<|message|>": 200008,
    "<|call|>": 200012,
}
# Harmony keeps "<|endofprompt|>" and also reserves its id, 200018, under a second text.
_HARMONY_RESERVED = [i for i in range(200000, 201088) if i not in _HARMONY_NAMED.values()]
_HARMONY_SPECIAL = _O200K_SPECIAL | _HARMONY_NAMED | {f"<|reserved_{i}|>": i for i in _HARMONY_RESERVED}

# GPT-2's own files (vocab.bpe, encoder.json) hold the ranks of r50k_base; a test compares them.
ENCODINGS = {
    "gpt2": Published(_R50K, "gpt2", _GPT2_SPECIAL),
    "r50k_base": Published(_R50K, "gpt2", _GPT2_SPECIAL),
    "p50k_base": Published(_P50K, "gpt2", _GPT2_SPECIAL),
    "p50k_edit": Published(_P50K, "gpt2", _GPT2_SPECIAL | dict(zip(_FIM, range(50281, 50284), strict=True))),
    "cl100k_base": Published(
        _CL100K,
        "gpt4",
        {"<|endoftext|>": 100257, **dict(zip(_FIM, range(100258, 100261), strict=True)), "<|endofprompt|>": 100276},
    ),
    "o200k_base": Published(_O200K, "gpt4o", _O200K_SPECIAL),
    "o200k_harmony": Published(_O200K, "gpt4o", _HARMONY_SPECIAL),
}

# Of each file in vocab/, the sha256.
SHIPPED = {
    "bpetok_32k": "229a2c5429e4292e168af2bc9006ef741f8f775016bf4575dd48a44dc919ff5d",
    "bpetok_64k": "ff10c11d0fd26bd8f9164d3ec34ad31174a6f04531c6f2519b1fee208358ecd0",
}

_MODELS = {
    "o200k_base": "o1 o3 o4-mini gpt-5 gpt-4.1 gpt-4o",
    "cl100k_base": "gpt-4 gpt-3.5-turbo gpt-3.5 gpt-35-turbo davinci-002 babbage-002 text-embedding-ada-002 "
    "text-embedding-3-small text-embedding-3-large",
    "p50k_base": "text-davinci-003 text-davinci-002 code-davinci-002 code-davinci-001 code-cushman-002 "
    "code-cushman-001 davinci-codex cushman-codex",
    "r50k_base": "text-davinci-001 text-curie-001 text-babbage-001 text-ada-001 davinci curie babbage ada "
    "text-similarity-davinci-001 text-similarity-curie-001 text-similarity-babbage-001 text-similarity-ada-001 "
    "text-search-davinci-doc-001 text-search-curie-doc-001 text-search-babbage-doc-001 text-search-ada-doc-001 "
    "code-search-babbage-code-001 code-search-ada-code-001",
    "p50k_edit": "text-davinci-edit-001 code-davinci-edit-001",
    "gpt2": "gpt2 gpt-2",
}
_ENCODING_OF_MODEL = {model: name for name, models in _MODELS.items() for model in models.split()}
_ENCODING_OF_PREFIX = {
    **dict.fromkeys(
        ("o1-", "o3-", "o4-mini-", "gpt-5", "gpt-4.5-", "gpt-4.1-", "chatgpt-4o-", "gpt-4o-"), "o200k_base"
    ),
    **dict.fromkeys(("gpt-4-", "gpt-3.5-turbo-", "gpt-35-turbo-"), "cl100k_base"),
    "gpt-oss-": "o200k_harmony",
    "ft:gpt-4o": "o200k_base",
    **dict.fromkeys(("ft:gpt-4", "ft:gpt-3.5-turbo", "ft:davinci-002", "ft:babbage-002"), "cl100k_base"),
}


def list_encoding_names() -> list[str]:
    """The names that `get_encoding` knows: tiktoken's, then ours."""
    return [*ENCODINGS, *SHIPPED]


def get_encoding(encoding_name: str, *, cache_mb: int = 64) -> Encoding:
    """The tokenizer of a vocabulary by name, such as "bpetok_32k", "gpt2", "cl100k_base" or "o200k_base".

    It is made once and then kept. `cache_mb`: as `Tokenizer`.

    Raises:
        EncodingError: no encoding has the name.
        UnavailableError: its file is not on this machine and cannot be downloaded; says which file to put where.
    """
    names = list_encoding_names()
    if not isinstance(encoding_name, str) or encoding_name not in names:
        near = difflib.get_close_matches(str(encoding_name), names, n=1)
        raise EncodingError(
            f"encoding: must be one of {', '.join(names)}, got {encoding_name!r}",
            hint=_hint_for(str(encoding_name), near),
        )
    return _made(encoding_name, cache_mb)


def _hint_for(name: str, near: list[str]) -> str:
    try:
        return f"encoding_for_model({name!r}) gives {encoding_name_for_model(name)}"
    except UnknownTokenError:
        is_file = "." in name or "/" in name
        return f"did you mean {near[0]!r}?" if near and not is_file else "a tokenizer file is read by bpetok.load(path)"


@cache
def _made(name: str, cache_mb: int) -> Encoding:
    vocab = _shipped_vocab(name) if name in SHIPPED else _vocab(name, _contents(name, ENCODINGS[name].file))
    return Encoding._of(vocab, cache_mb)


def encoding_name_for_model(model_name: str) -> str:
    """The name of the encoding that one of OpenAI's models uses.

    Raises:
        UnknownTokenError: no encoding is known for the model; a KeyError, as in tiktoken.
    """
    if model_name in _ENCODING_OF_MODEL:
        return _ENCODING_OF_MODEL[model_name]
    for prefix, encoding in _ENCODING_OF_PREFIX.items():
        if model_name.startswith(prefix):
            return encoding
    raise UnknownTokenError(
        f"model: must be a known one, got {model_name!r}", hint="name the encoding: get_encoding(…)"
    )


def encoding_for_model(model_name: str) -> Encoding:
    """The tokenizer that one of OpenAI's models uses; raises as `encoding_name_for_model` and `get_encoding`."""
    return get_encoding(encoding_name_for_model(model_name))


def recognise(contents: bytes) -> Vocab | None:
    """The published vocabulary whose rank file has these contents, None if none has.

    Where several share a file, the one with the fewest special tokens.
    """
    sha256 = hashlib.sha256(contents).hexdigest()
    names = [name for name, encoding in ENCODINGS.items() if encoding.file.sha256 == sha256]
    return _vocab(names[0], contents) if names else None


def cache_folder() -> Path:
    """The folder that keeps downloaded vocabularies: `BPETOK_CACHE_DIR`, else the user's own cache folder."""
    if chosen := os.environ.get("BPETOK_CACHE_DIR"):
        return Path(chosen)
    import platformdirs

    return platformdirs.user_cache_path("bpetok", appauthor=False)


def _vocab(name: str, contents: bytes) -> Vocab:
    encoding = ENCODINGS[name]
    provenance = {"read from": encoding.file.url, "sha256": encoding.file.sha256}
    ranks = RankTable(_core.Ranks(contents, encoding.file.url))
    return Vocab.of_known_file(ranks, encoding.special_tokens, encoding.pattern, name, provenance)


class _ShippedMerges(MergeList):
    """The merges in a file of ours; they are read when somebody looks."""

    def __init__(self, written: bytes, count: int) -> None:
        """Takes the JSON, and how many there are."""
        self._written, self._count = written, count

    @cached_property
    def _tuple(self) -> tuple[Pair, ...]:
        import json

        return tuple((left, right) for left, right in json.loads(self._written))

    def __len__(self) -> int:
        return self._count


def shipped_folder() -> Path:
    """The folder of the vocabularies that are installed with bpetok.

    It is beside the core, in editable installs too; `importlib.resources` says the same, but costs 20 ms to import.
    """
    return Path(str(_core.__file__)).with_name("vocabularies")


def _shipped_vocab(name: str) -> Vocab:
    """What `bpetok.load` gives of the file, whose sha256 says that nothing needs to be checked again.

    The format has a key a line, and the tokens in the order of their ids, so the core can read them as ranks.
    """
    import json

    path = shipped_folder() / f"{name}.bpetok"
    contents = path.read_bytes() if path.is_file() else b""
    if not _has_sha256(contents, SHIPPED[name]):
        found = "another file" if contents else "nothing"
        raise UnavailableError(
            f"{path}: must be the file that came with bpetok, got {found}", hint="install bpetok again"
        )
    lines = (line.rstrip(b",").split(b": ", 1) for line in contents.splitlines()[1:-1])
    written = {key.strip(b'"').decode(): value for key, value in lines}
    tokens = written["tokens"][2:-2].split(b'","')
    ranks = RankTable(_core.Ranks(b"".join(b"%s %d\n" % (token, i) for i, token in enumerate(tokens)), str(path)))
    merges = _ShippedMerges(written["merges"], len(tokens) - 256)
    special_tokens, pattern, provenance = (
        json.loads(written[key]) for key in ("special_tokens", "pattern", "provenance")
    )
    return Vocab.of_known_file(ranks, special_tokens, pattern, name, provenance, merges)


def _contents(name: str, file: RankFile) -> bytes:
    """The file's bytes, always with the right checksum; a file whose checksum is wrong counts as absent."""
    kept = cache_folder() / file.sha256
    candidates = [kept]
    if tiktoken_folder := os.environ.get("TIKTOKEN_CACHE_DIR"):
        candidates.append(Path(tiktoken_folder) / file.tiktoken_name)
    for candidate in candidates:
        if candidate.is_file() and _has_sha256(contents := candidate.read_bytes(), file.sha256):
            return contents
    contents = _download(name, file, kept)
    kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(kept, contents)
    return contents


def _has_sha256(contents: bytes, sha256: str) -> bool:
    return hashlib.sha256(contents).hexdigest() == sha256


def _download(name: str, file: RankFile, kept: Path) -> bytes:
    import tempfile

    import pooch

    downloader = pooch.HTTPDownloader(timeout=_TIMEOUT_SECONDS)
    pooch.get_logger().setLevel("WARNING")
    damaged = ", and the file there has another sha256" if kept.exists() else ""
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = pooch.retrieve(file.url, f"sha256:{file.sha256}", "ranks", folder, downloader=downloader)
            return Path(path).read_bytes()
    except Exception as error:  # pooch and requests raise many kinds, ValueError for a wrong checksum among them
        raise UnavailableError(
            f"{name}: {file.url} is not on this machine and could not be downloaded: {error!s:.200}",
            hint=f"fetch it elsewhere and put it here: {kept}{damaged}, or let TIKTOKEN_CACHE_DIR name its folder",
        ) from error
