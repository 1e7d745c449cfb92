"""minbpe's `.model` files: a pattern, special tokens and merges, as lines of text.

```
minbpe v1
<pattern>                 empty for no split
<number of special tokens>
<text> <id>               one line each
<left id> <right id>      one line a merge; merge i makes id 256 + i
```

Source: karpathy/minbpe, `minbpe/base.py`, whose reader strips lines and splits them at blanks. What would not survive
that is refused here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bpetok.errors import FormatError
from bpetok.files import write_atomically
from bpetok.vocab import Pair, Vocab

SUFFIX = ".model"
_MAGIC = "minbpe v1"


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
        FormatError: the file is not in this format.
    """
    try:
        lines = path.read_bytes().decode().split("\n")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: must be UTF-8 text: {error}") from error
    if lines[0].strip() != _MAGIC or len(lines) < 3:
        raise FormatError(f"{path}:1: must be {_MAGIC!r}, got {lines[0][:60]!r}")
    try:
        first_merge = 3 + int(lines[2])
        specials = [line.split() for line in lines[3:first_merge]]
        merges = [_pair(line, 256 + i) for i, line in enumerate(filter(None, lines[first_merge:]))]
        special_tokens = {text: int(token_id) for text, token_id in specials}
    except ValueError as error:
        raise FormatError(f"{path}: must hold a count, special tokens with ids, and pairs of ids: {error}") from error
    return lines[1].strip() or None, special_tokens, merges


def _pair(line: str, made: int) -> Pair:
    left, right = map(int, line.split())
    if not 0 <= min(left, right) <= max(left, right) < made:
        raise ValueError(f"a merge must join earlier tokens, got {line!r}")
    return left, right


def write(vocab: Vocab, path: Path) -> None:
    """Writes a vocabulary that bpetok or minbpe trained.

    Raises:
        FormatError: the vocabulary's ids are not bytes, then merges in order, which is all that the format can hold.
    """
    merges = vocab.recover_merges()
    rebuilt = Vocab.from_merges(merges, pattern=vocab.pattern) if _is_plain(vocab, merges) else None
    if rebuilt is None or rebuilt.ranks != vocab.ranks:
        raise FormatError(f"{path}: minbpe's format needs byte b to have id b and the merges to follow in order")
    write_model(path, vocab.pattern, vocab.special_tokens, merges)


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
    plain = Vocab.from_merges(merges, pattern=pattern)
    provenance = {"read from": path.name}
    return Vocab(plain.ranks, special_tokens, pattern, merges, path.stem, provenance)
