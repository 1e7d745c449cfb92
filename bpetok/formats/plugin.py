"""tiktoken's plugins: a folder with a module for `tiktoken.get_encoding`, and the ranks beside it.

```
FOLDER/tiktoken_ext/NAME.py           the pattern, the special tokens, and `ENCODING_CONSTRUCTORS`
FOLDER/tiktoken_ext/NAME.tiktoken     the ranks
```

With FOLDER on `PYTHONPATH`, `tiktoken.get_encoding("NAME")` gives our ids. The module takes the ranks from the file
beside it, by its sha256, and neither fetches anything nor uses tiktoken's cache, which other users may write to. To
read runs nothing: a module is taken apart as text, and refused unless it is what `write` makes of its parts.

Source: tiktoken 0.14.0, `tiktoken/registry.py`. There an encoding's name that two modules have makes all plugins fail.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import keyword
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from bpetok.errors import FormatError
from bpetok.formats import documents, probe, tiktoken
from bpetok.vocab import Vocab

NAME = "tiktoken-plugin"
_FOLDER = "tiktoken_ext"
_MAX_MODULE = 1 << 21  # bytes; some 50,000 special tokens
_OPENING = '"""An encoding for tiktoken, written by bpetok.'
_MODULE = '''{opening}

With the folder above this one on PYTHONPATH, tiktoken.get_encoding({name!r}) finds it.
"""

import base64
import hashlib
from pathlib import Path

NAME = {name!r}
PATTERN = {pattern!a}
SPECIAL_TOKENS = {special_tokens!a}
SHA256 = {sha256!r}


def construct():
    """The arguments of tiktoken.Encoding; the ranks come from the file beside this one, and from nowhere else."""
    contents = Path(__file__).with_suffix(".tiktoken").read_bytes()
    if hashlib.sha256(contents).hexdigest() != SHA256:
        raise ValueError(f"{{NAME}}.tiktoken: sha256 must be {{SHA256}}, so the file was altered")
    lines = (line.split() for line in contents.splitlines())
    ranks = {{base64.b64decode(token): int(rank) for token, rank in lines}}
    return {{"name": NAME, "pat_str": PATTERN, "mergeable_ranks": ranks, "special_tokens": SPECIAL_TOKENS}}


ENCODING_CONSTRUCTORS = {{NAME: construct}}
'''
_PARTS = ("NAME", "PATTERN", "SPECIAL_TOKENS", "SHA256")


def recognises(head: bytes) -> bool:
    """Whether a file that begins with these bytes is the module of such a plugin."""
    return head.startswith(_OPENING.encode()) or b"ENCODING_CONSTRUCTORS" in head


def read(path: Path) -> Vocab:
    """Reads the plugin that `write` made: the module, or a folder with one module in its `tiktoken_ext`.

    Raises:
        FormatError: there is not one module; it is another than `write` makes; or the ranks are not those it names.
        VocabError: the vocabulary breaks its own rules.
    """
    module = _only_module(path) if path.is_dir() else path
    source = documents.read_text(module, _MAX_MODULE)
    name, pattern, special_tokens, sha256 = _parts(source, module)
    if source != _module(name, pattern, special_tokens, sha256):
        raise FormatError(f"{module}: must be a module as bpetok writes it, since no other is read, got changes in it")
    if name != module.stem:
        raise FormatError(f"{module}: NAME must be that of the file, {module.stem!r}, got {name!r:.60}")
    beside = module.with_suffix(tiktoken.SUFFIX)
    if not beside.is_file():
        raise FormatError(f"{beside}: the ranks must be beside their module, got no file")
    contents = documents.read_bytes(beside)
    if hashlib.sha256(contents).hexdigest() != sha256:
        raise FormatError(f"{beside}: sha256 must be {sha256}, got {hashlib.sha256(contents).hexdigest()}")
    ranks = tiktoken.parse_ranks(contents, str(beside))
    with documents.naming(module):
        return Vocab(ranks, special_tokens, pattern, name=name, provenance={"read from": module.name})


def _only_module(path: Path) -> Path:
    modules = sorted((path / _FOLDER).glob("*.py"))
    if len(modules) != 1:
        raise FormatError(f"{path}: must hold one module in {_FOLDER}, got {len(modules)}", hint="name the module")
    return modules[0]


def _parts(source: str, module: Path) -> tuple[str, str, dict[str, int], str]:
    """The literals of a module, by reading it as text; the code of it is never run."""
    found: dict[str, object] = {}
    for line in source.split("\n"):
        key, equals, literal = line.partition(" = ")
        if equals and key in _PARTS and key not in found:
            try:
                found[key] = ast.literal_eval(literal)
            except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
                raise FormatError(f"{module}: {key} must be a literal, got {literal!r:.60}") from error
    name, pattern, special_tokens, sha256 = (found.get(key) for key in _PARTS)
    if not (isinstance(name, str) and isinstance(pattern, str) and isinstance(sha256, str)):
        raise FormatError(f"{module}: must hold NAME, PATTERN and SHA256 as texts, got {sorted(found)}")
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise FormatError(f"{module}: SHA256 must be 64 hexadecimal digits, got {sha256!r:.80}")
    if not isinstance(special_tokens, dict) or not all(
        type(text) is str and type(token_id) is int for text, token_id in special_tokens.items()
    ):
        raise FormatError(f"{module}: SPECIAL_TOKENS must be texts and their ids, got {special_tokens!r:.60}")
    return name, documents.pattern_of(pattern, f"{module}: PATTERN"), special_tokens, sha256


def write(vocab: Vocab, path: Path) -> None:
    """Writes a plugin into a folder, which must be the one to put on `PYTHONPATH`. It is proven by tiktoken.

    Raises:
        FormatError: the vocabulary's name cannot be a module's, tiktoken cannot be this vocabulary, or the proof fails.
    """
    name = _checked_name(vocab.name, path)
    ranked = tiktoken.by_rank(vocab, path, "tiktoken")
    if not isinstance(vocab.pattern, str):
        raise FormatError(f"{path}: tiktoken has one pattern, got {vocab.split}")
    ranks = tiktoken.spelled(vocab)
    special_tokens = dict(sorted(vocab.special_tokens.items(), key=lambda item: item[::-1]))
    module = _module(name, vocab.pattern, special_tokens, hashlib.sha256(ranks).hexdigest())
    with probe.proven(path) as written:
        folder = written / _FOLDER
        folder.mkdir(parents=True)
        (folder / f"{name}{tiktoken.SUFFIX}").write_bytes(ranks)
        (folder / f"{name}.py").write_bytes(module.encode())
        again = read(folder / f"{name}.py")
        if again != ranked:
            raise FormatError(f"{path}: must hold {ranked!r}, got {again!r} when it was read again")
        probe.prove(vocab, *encoder(again, path))


def encoder(vocab: Vocab, path: Path) -> tuple[Callable[[str], list[int]], str]:
    """What gives the ids of a vocabulary with one pattern: tiktoken where it is installed, else bpetok; and who it is.

    Raises:
        FormatError: tiktoken takes neither its pattern nor its tokens.
    """
    if importlib.util.find_spec("tiktoken") is None:
        from bpetok.tokenizer import Tokenizer

        return Tokenizer(vocab).encode_ordinary, f"{path}, read again"
    from tiktoken import Encoding

    assert isinstance(vocab.pattern, str)
    try:
        encoding = Encoding(
            vocab.name,
            pat_str=vocab.pattern,
            mergeable_ranks=dict(vocab.ranks),
            special_tokens=dict(vocab.special_tokens),
        )
    except ValueError as error:
        raise FormatError(f"{path}: must be what tiktoken can be made of, got: {error}") from error
    return encoding.encode_ordinary, f"{path} in tiktoken"


def _checked_name(name: str, path: Path) -> str:
    from bpetok.encodings import ENCODINGS

    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", name) or keyword.iskeyword(name):
        expected = "a name for a module: letters, digits and _"
    elif name in ENCODINGS or name == "openai_public":
        expected = "a name that tiktoken does not have yet"
    else:
        return name
    raise FormatError(
        f"{path}: the vocabulary's name must be {expected}, got {name!r:.80}", hint="dataclasses.replace(vocab, name=…)"
    )


def _module(name: str, pattern: str, special_tokens: Mapping[str, int], sha256: str) -> str:
    return _MODULE.format(
        opening=_OPENING, name=name, pattern=pattern, special_tokens=dict(special_tokens), sha256=sha256
    )
