"""minbpe's `.model` files: a pattern, special tokens and merges, as lines of text.

```
minbpe v1
<pattern>                 empty for no split
<number of special tokens>
<text> <id>               one line each
<left id> <right id>      one line a merge; merge i makes id 256 + i
```

Source: karpathy/minbpe, `minbpe/base.py`, whose reader strips lines and splits them at blanks, takes a lone carriage
return for a line's end, and whose writer uses the system's own encoding. What would not survive that is refused here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from bpetok.errors import FormatError
from bpetok.files import write_atomically
from bpetok.formats import documents, probe, tiktoken
from bpetok.vocab import Pair, Vocab

NAME = "minbpe"
SUFFIX = ".model"
_MAGIC = "minbpe v1"
_COUNT = re.compile(r"[0-9]{1,8}")
_PAIR = re.compile(r"([0-9]{1,8}) ([0-9]{1,8})")
_MAX_TOKEN = 1 << 16  # bytes of one token; merge i may double merge i - 1, so forty lines could ask for a terabyte
_MAX_TOKENS = 1 << 27  # bytes of all


def recognises(head: bytes) -> bool:
    """Whether a file that begins with these bytes is in this format."""
    return head.startswith(_MAGIC.encode())


def write_model(path: Path, pattern: str | None, special_tokens: Mapping[str, int], merges: Sequence[Pair]) -> None:
    """Writes the parts of a tokenizer whose id of byte b is b.

    Raises:
        FormatError: the pattern or a special token has blanks where the format loses them.
    """
    spelled = pattern or ""
    if spelled.strip() != spelled or len(spelled.splitlines()) > 1:
        raise FormatError(
            f"{path}: a pattern must be one line without blanks around it in this format, got {pattern!r}"
        )
    for text in special_tokens:
        if len(text.split()) != 1 or text.split()[0] != text:
            raise FormatError(f"{path}: a special token must not hold blanks in this format, got {text!r}")
    lines = [_MAGIC, pattern or "", str(len(special_tokens))]
    lines += [f"{text} {token_id}" for text, token_id in special_tokens.items()]
    lines += [f"{left} {right}" for left, right in merges]
    write_atomically(path, ("\n".join(lines) + "\n").encode())


def read_model(path: Path) -> tuple[str | None, dict[str, int], list[Pair]]:
    """The pattern, the special tokens and the merges of a file.

    Raises:
        FormatError: the file is not in this format; names the line.
    """
    lines = documents.read_text(path).replace("\r\n", "\n").split("\n")
    for number, line in enumerate(lines, start=1):
        if "\r" in line:
            raise FormatError(f"{path}:{number}: must not hold a carriage return, which minbpe takes for a line's end")
    if lines[0].strip() != _MAGIC or len(lines) < 3:
        raise FormatError(f"{path}:1: must be {_MAGIC!r}, got {lines[0][:60]!r}")
    if not _COUNT.fullmatch(lines[2].strip()):
        raise FormatError(f"{path}:3: must be the number of special tokens, got {lines[2][:60]!r}")
    first_merge = 3 + int(lines[2])
    if first_merge > len(lines):
        raise FormatError(f"{path}:3: must be the number of special tokens that follow, got {lines[2][:60]!r}")
    special_tokens = _special_tokens(lines[3:first_merge], path)
    merges = _merges(lines[first_merge:], first_merge, path)
    return documents.pattern_of(lines[1].strip(), f"{path}:2") or None, special_tokens, merges


def _special_tokens(lines: list[str], path: Path) -> dict[str, int]:
    special_tokens: dict[str, int] = {}
    for number, line in enumerate(lines, start=4):
        parts = line.split()
        if len(parts) != 2 or not _COUNT.fullmatch(parts[1]):
            raise FormatError(f"{path}:{number}: must be a special token and its id, got {line[:60]!r}")
        if parts[0] in special_tokens:
            raise FormatError(f"{path}:{number}: a special token must stand once, got {parts[0][:60]!r} again")
        special_tokens[parts[0]] = int(parts[1])
    return special_tokens


def _merges(lines: list[str], before: int, path: Path) -> list[Pair]:
    merges: list[Pair] = []
    sizes, total = [1] * 256, 0
    for number, line in enumerate(lines, start=before + 1):
        if not line:
            continue
        found = _PAIR.fullmatch(line.strip())
        left, right = map(int, found.groups()) if found else (-1, -1)
        if not 0 <= min(left, right) <= max(left, right) < len(sizes):
            raise FormatError(f"{path}:{number}: a merge must join two ids of earlier tokens, got {line[:60]!r}")
        merges.append((left, right))
        sizes.append(sizes[left] + sizes[right])
        total += sizes[-1]
        if sizes[-1] > _MAX_TOKEN or total > _MAX_TOKENS:
            raise FormatError(f"{path}:{number}: must not make a token or tokens so long, got {sizes[-1]} bytes")
    return merges


def write(vocab: Vocab, path: Path) -> None:
    """Writes a vocabulary that bpetok or minbpe trained. It is proven by `bpetok.reference`, minbpe's twin.

    Raises:
        FormatError: the vocabulary's ids are not bytes, then merges in order, which is all that the format can hold;
            or the proof fails.
    """
    from bpetok.reference import RegexTokenizer

    ranked = tiktoken.by_rank(vocab, path, "minbpe")
    if not isinstance(vocab.pattern, str | None):
        raise FormatError(f"{path}: minbpe's format holds one pattern, got {len(vocab.pattern)}")
    merges = vocab.recover_merges()
    rebuilt = Vocab.from_merges(merges, pattern=vocab.pattern) if _is_plain(vocab, merges) else None
    if rebuilt is None or rebuilt.ranks != vocab.ranks:
        raise FormatError(f"{path}: minbpe's format needs byte b to have id b and the merges to follow in order")
    with probe.proven(path) as written:
        write_model(written, vocab.pattern, vocab.special_tokens, merges)
        again = RegexTokenizer()
        again.load(written)
        if read(written) != ranked:
            raise FormatError(f"{path}: must hold {ranked!r}, got {read(written)!r} when it was read again")
        probe.prove(vocab, again.encode_ordinary, f"{path} in bpetok.reference")


def _is_plain(vocab: Vocab, merges: Sequence[Pair]) -> bool:
    dense = max(vocab.ranks.values()) + 1 == len(vocab.ranks) == len(merges) + 256
    return dense and all(vocab.ranks[bytes([byte])] == byte for byte in range(256))


def read(path: Path) -> Vocab:
    """Reads a vocabulary.

    Raises:
        FormatError: as `read_model`.
        VocabError: the vocabulary breaks its own rules.
    """
    pattern, special_tokens, merges = read_model(path)
    with documents.naming(path):
        plain = Vocab.from_merges(merges, pattern=pattern)
        return Vocab(plain.ranks, special_tokens, pattern, merges, path.stem, {"read from": path.name})
