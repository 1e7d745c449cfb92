"""GGUF, the files of llama.cpp: the tokenizer's fields of them, alone or at the head of a model.

| field `tokenizer.ggml.…` | here |
|---|---|
| `model` | "gpt2", which is byte-level BPE; any other is refused |
| `pre` | the name of a pattern and of a manner, out of llama.cpp's closed list: see `PRES` |
| `tokens` | a text for each id: a token as `documents.spell` writes it, a special token as it is |
| `token_type` | 1 a token; 2, 3, 4 a special token (unknown, control, user-defined); 5 an id that nothing has |
| `merges` | "left right", the earliest first |
| `bos_token_id`, `eos_token_id` | written where a special token is called so; not kept |

llama.cpp merges by its list, so what is read has the semantics "merges"; what merges by rank is written with the merges
that give the same ids. Where the pattern's name is not of the list, or llama.cpp's code under that name is another
function, there is no such file: a model with a wrong `pre` loads, and is worse. (Its `gpt-4o` and `tekken` take every
letter beyond ASCII for upper and lower case at once, and no marks; so what is read has that pattern, spelled out.)

Three things differ in llama.cpp whatever the file says: bytes that are not UTF-8 become U+FFFD; the 4,382 letters and
numbers that are new in Unicode 16.0 are none (of all other code points, each was compared in gpt-2 and qwen2); and text
that looks like `<|start|>`, `<|message|>`, `<|channel|>` or `<|constrain|>` becomes the special token of that name.

The reader is our own, not the `gguf` package's, which goes on for hours on a length that lies.

Sources: ggml-org/ggml, `docs/gguf.md`; ggml-org/llama.cpp, `src/llama-vocab.cpp` and `src/unicode.cpp`, 2026.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bpetok.errors import FormatError
from bpetok.formats import documents, probe
from bpetok.formats.documents import spell, unspell
from bpetok.patterns import SPELLINGS
from bpetok.vocab import Pair, Vocab

NAME = "gguf"
_MAGIC = b"GGUF"
_VERSION = 3
_KEY = "tokenizer.ggml."
_MAX_KEYS = 1 << 12
_MAX_STRINGS = 1 << 20  # what a vocabulary of half a million tokens has with its merges
_TOKEN, _CONTROL, _UNUSED = 1, 3, 5
_SPECIALS = (2, 3, 4)
_U32, _I32, _BOOL, _STRING, _ARRAY = 4, 5, 7, 8, 9
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

_UPPER, _LOWER = r"(?:(?=\p{L})[^a-z])", r"(?:(?=\p{L})[^A-Z])"


def _two_cases(contraction: str, digits: str) -> str:
    prefix = r"[^\r\n\p{L}\p{N}]?"
    words = f"{prefix}{_UPPER}*{_LOWER}+{contraction}|{prefix}{_UPPER}+{_LOWER}*{contraction}|"
    return words + digits + r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"


_GPT4O = _two_cases(r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?", r"\p{N}{1,3}")
_TEKKEN = _two_cases("", r"\p{N}")
_GROUPS = (  # each: a pattern, whether a pretoken that is a token stays whole, and the names, first the one we write
    (SPELLINGS["gpt2"], False, "gpt-2 phi-2 mpt olmo jais gigachat a.x-4.0 mellum trillion granite-docling exaone4"),
    (SPELLINGS["llama3_ascii"], True, "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2"),
    (SPELLINGS["llama3_ascii"], False, "dbrx smaug-bpe glm4 chatglm-bpe"),
    (
        SPELLINGS["qwen2_ascii"],
        False,
        "qwen2 deepseek-r1-qwen stablelm2 hunyuan megrez kormo solar-open grok-2",
    ),
    (SPELLINGS["qwen3_5_ascii"], False, "qwen35"),
    (_GPT4O, False, "gpt-4o llama4 kanana2 minimax-m2"),
    (_TEKKEN, True, "tekken"),
)
PRES = {name: (pattern, whole) for pattern, whole, names in _GROUPS for name in names.split()}
"""The pattern that each `pre` stands for, and whether a pretoken that is a token stays whole, whatever the merges."""

_CALLED_EOS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")
_CALLED_BOS = ("<|begin_of_text|>", "<|startoftext|>", "<s>", "<bos>", *_CALLED_EOS)


def recognises(head: bytes) -> bool:
    """Whether a file that begins with these bytes is in this format."""
    return head.startswith(_MAGIC)


# ---- reading -----------------------------------------------------------------------------------------------------


def read(path: Path) -> Vocab:
    """Reads the vocabulary of a file, be it one alone or a model's.

    Raises:
        FormatError: the file is not in this format, or its tokenizer is none that this library can be.
        VocabError: the vocabulary breaks its own rules.
    """
    fields = _Fields(path).wanted()
    model = _field(fields, "model", str, path)
    if model != "gpt2":
        raise FormatError(f"{path}: {_KEY}model must be 'gpt2', which is byte-level BPE, got {model!r:.60}")
    pre = _field(fields, "pre", str, path)
    if pre not in PRES:
        raise FormatError(f"{path}: {_KEY}pre must be one of {', '.join(PRES)}, got {pre!r:.60}")
    texts = _field(fields, "tokens", list, path)
    kinds = fields.get("token_type", [_TOKEN] * len(texts))
    if not isinstance(kinds, list) or len(kinds) != len(texts):
        raise FormatError(f"{path}: {_KEY}token_type must be an array of {len(texts)} numbers, got {kinds!r:.60}")
    ranks, specials = _tokens(texts, kinds, path)
    merges = _merges(_field(fields, "merges", list, path), ranks, path)
    pattern, whole = PRES[pre]
    name, provenance = path.stem, {"read from": path.name, "pre": pre}
    with documents.naming(path):
        return Vocab(ranks, specials, pattern, merges, name, provenance, "merges", ignore_merges=whole)


def _field(fields: Mapping[str, Any], key: str, kind: type, path: Path) -> Any:
    return documents.member(fields, key, kind, f"{path}: {_KEY}")


def _tokens(texts: list[Any], kinds: list[Any], path: Path) -> tuple[dict[bytes, int], dict[str, int]]:
    ranks: dict[bytes, int] = {}
    specials: dict[str, int] = {}
    seen: set[str] = set()
    for i, (text, kind) in enumerate(zip(texts, kinds, strict=True)):
        where = f"{path}: {_KEY}tokens[{i}]"
        if type(text) is not str or kind not in (_TOKEN, _UNUSED, *_SPECIALS):
            raise FormatError(f"{where} must be a text of the type 1, 2, 3, 4 or 5, got {text!r:.60} of {kind!r:.20}")
        if text in seen:
            raise FormatError(f"{where} must stand once, got {text!r:.60} again")
        seen.add(text)
        if kind in _SPECIALS:
            specials[text] = i
        elif kind == _TOKEN:
            token = unspell(text)
            if not token:
                raise FormatError(f"{where} must be a token in the letters of byte-level BPE, got {text!r:.60}")
            ranks[token] = i
    return ranks, specials


def _merges(lines: list[Any], ranks: Mapping[bytes, int], path: Path) -> list[Pair]:
    ids = {spell(token): token_id for token, token_id in ranks.items()}
    merges = []
    for i, line in enumerate(lines):
        left, _, right = line.partition(" ") if type(line) is str else ("", "", "")
        if left not in ids or right not in ids:
            raise FormatError(f"{path}: {_KEY}merges[{i}] must be two tokens and a blank between, got {line!r:.60}")
        merges.append((ids[left], ids[right]))
    return merges


class _Fields:
    """The fields at the head of a file. Every length in it is checked against what is left of the file."""

    def __init__(self, path: Path) -> None:
        """Reads the head of the file: as much as a document may be long."""
        with open(path, "rb") as file:
            self._data = file.read(documents.MAX_BYTES)
        self._path, self._place, self._strings = path, 0, 0

    def wanted(self) -> dict[str, Any]:
        """The fields under `tokenizer.ggml.`, by the rest of their names."""
        magic, version, _, count = self._unpack("4sIQQ")
        if magic != _MAGIC or version not in (2, _VERSION):
            big = " of a machine that writes the greatest byte first" if version & 0xFFFF == 0 else ""
            raise FormatError(f"{self._path}: must be a GGUF file of version 2 or 3, got {magic!r} {version}{big}")
        if count > _MAX_KEYS:
            raise FormatError(f"{self._path}: must hold at most {_MAX_KEYS} fields, got {count}")
        fields: dict[str, Any] = {}
        for _ in range(count):
            key = self._string("a field's name")
            value = self._value(key, *self._unpack("I"))
            if key in fields:
                raise FormatError(f"{self._path}: the field {key!r:.60} must stand once")
            fields[key] = value if key.startswith(_KEY) else None
        return {key.removeprefix(_KEY): value for key, value in fields.items() if key.startswith(_KEY)}

    def _take(self, size: int) -> int:
        begin = self._place
        if size > len(self._data) - begin:
            raise FormatError(f"{self._path}: {size} bytes must follow byte {begin}, got {len(self._data) - begin}")
        self._place += size
        return begin

    def _unpack(self, form: str) -> tuple[Any, ...]:
        return struct.unpack_from("<" + form, self._data, self._take(struct.calcsize("<" + form)))

    def _string(self, key: str) -> str:
        self._strings += 1
        if self._strings > _MAX_STRINGS:
            raise FormatError(f"{self._path}: must hold at most {_MAX_STRINGS} strings, got more at {key}")
        size = int.from_bytes(self._data[(begin := self._take(8)) : begin + 8], "little")
        begin = self._take(size)
        try:
            return self._data[begin : begin + size].decode()
        except UnicodeDecodeError as error:
            raise FormatError(f"{self._path}: {key} must be UTF-8, got {error.object[:60]!r}") from error

    def _value(self, key: str, kind: int) -> Any:
        if kind == _STRING:
            return self._string(key)
        if kind in _NUMBERS:
            return self._unpack(_NUMBERS[kind])[0]
        if kind != _ARRAY:
            raise FormatError(f"{self._path}: {key!r:.60} must be of a type from 0 to 12, got {kind}")
        inner, count = self._unpack("IQ")
        if inner == _STRING:
            self._place = self._take(8 * count)  # each has at least its length
            return [self._string(key) for _ in range(count)]
        if inner not in _NUMBERS:
            raise FormatError(f"{self._path}: {key!r:.60} must be an array of strings or numbers, got {inner}")
        begin = self._take(count * struct.calcsize("<" + _NUMBERS[inner]))
        if not key.startswith(_KEY):
            return None
        return list(struct.unpack_from(f"<{count}{_NUMBERS[inner]}", self._data, begin))


# ---- writing -----------------------------------------------------------------------------------------------------


def write(vocab: Vocab, path: Path) -> None:
    """Writes a file with the vocabulary and no model. It is proven by reading it again.

    Raises:
        FormatError: the format cannot hold the vocabulary, or the proof fails.
    """
    from bpetok.tokenizer import Tokenizer

    if vocab.normalization is not None:
        raise FormatError(f"{path}: GGUF normalizes nothing, got {vocab.normalization!r}")
    pre, whole = _pre(vocab, path)
    merging = _merging(vocab, whole, path)
    texts, kinds = _texts(vocab, path)
    if whole:
        _check_whole(vocab, path)
    fields = [
        ("general.architecture", _STRING, "llama"),  # any that llama.cpp knows
        ("general.name", _STRING, vocab.name),
        (_KEY + "model", _STRING, "gpt2"),
        (_KEY + "pre", _STRING, pre),
        (_KEY + "tokens", _ARRAY, (_STRING, texts)),
        (_KEY + "token_type", _ARRAY, (_I32, kinds)),
        (_KEY + "merges", _ARRAY, (_STRING, [f"{texts[left]} {texts[right]}" for left, right in merging.merges or ()])),
        *((_KEY + key, _U32, token_id) for key, token_id in _called(vocab).items()),
        *((_KEY + key, _BOOL, False) for key in ("add_bos_token", "add_eos_token", "add_space_prefix")),
    ]
    with probe.proven(path) as written:
        written.write_bytes(_packed(fields))
        again = read(written)
        if again != merging:
            raise FormatError(f"{path}: must hold {merging!r}, got {again!r} when it was read again")
        probe.prove(vocab, Tokenizer(again).encode_ordinary, f"{path}, read again")


def _pre(vocab: Vocab, path: Path) -> tuple[str, bool]:
    by_merges = vocab.semantics == "merges"
    for name, (pattern, whole) in PRES.items():
        if pattern == vocab.pattern and (not by_merges or whole == vocab.ignore_merges):
            return name, whole
    manner = f" with ignore_merges={vocab.ignore_merges}" if by_merges else ""
    names = [name for name, spelling in SPELLINGS.items() if any(spelling == pattern for pattern, _ in PRES.values())]
    raise FormatError(
        f"{path}: no GGUF pre-tokenizer is this function: {vocab.split!s:.80}{manner}",
        hint=f"the patterns with one are {', '.join(names)}",
    )


def _merging(vocab: Vocab, whole: bool, path: Path) -> Vocab:
    from bpetok.semantics import semantic_differences

    if vocab.semantics == "merges":
        return vocab
    with documents.naming(path):
        merges = vocab.recover_merges()
        differences = semantic_differences(vocab) if vocab.merges is not None else None  # recovered ones give the same
    if differences and not differences.same:
        odd = [one.token for one in differences.tokens] + [vocab[token_id] for token_id in differences.out_of_order]
        raise FormatError(
            f"{path}: llama.cpp merges by a list, which must give the same ids, got others of {odd[0]!r:.40}"
        )
    return Vocab(
        vocab.ranks, vocab.special_tokens, vocab.pattern, merges, vocab.name, semantics="merges", ignore_merges=whole
    )


def _texts(vocab: Vocab, path: Path) -> tuple[list[str], list[int]]:
    """The text and the type of each id."""
    texts = [f"[PAD{i}]" for i in range(len(vocab))]
    kinds = [_UNUSED] * len(vocab)
    for token, token_id in vocab.ranks.items():
        texts[token_id], kinds[token_id] = spell(token), _TOKEN
    for text, token_id in vocab.special_tokens.items():
        if kinds[token_id] == _CONTROL:
            raise FormatError(f"{path}: each special token must have an id of its own in this format, got {text!r}")
        texts[token_id], kinds[token_id] = text, _CONTROL
    if len(set(texts)) != len(texts):
        twice = next(text for text in vocab.special_tokens if texts.count(text) > 1)
        raise FormatError(f"{path}: a special token must not look like another token in this format, got {twice!r}")
    return texts, kinds


def _check_whole(vocab: Vocab, path: Path) -> None:
    """A special token that is a whole pretoken's spelling would be found in plain text, so it is refused."""
    from bpetok.reference import split

    for text in vocab.special_tokens:
        token = unspell(text)
        if token is not None and split(vocab.pattern, token) == [token]:
            raise FormatError(f"{path}: a special token must not be one pretoken, or text becomes it, got {text!r}")


def _called(vocab: Vocab) -> dict[str, int]:
    found: dict[str, int] = {}
    for key, names in (("bos_token_id", _CALLED_BOS), ("eos_token_id", _CALLED_EOS)):
        for name in reversed(names):
            if name in vocab.special_tokens:
                found[key] = vocab.special_tokens[name]
    return found


def _packed(fields: Iterable[tuple[str, int, Any]]) -> bytes:
    parts = [_string(key) + struct.pack("<I", kind) + _value(kind, value) for key, kind, value in fields]
    whole = struct.pack("<4sIQQ", _MAGIC, _VERSION, 0, len(parts)) + b"".join(parts)
    return whole + bytes(-len(whole) % 32)


def _value(kind: int, value: Any) -> bytes:
    if kind == _STRING:
        return _string(value)
    if kind != _ARRAY:
        return struct.pack("<" + _NUMBERS[kind], value)
    inner, values = value
    return struct.pack("<IQ", inner, len(values)) + b"".join(_value(inner, one) for one in values)


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()
