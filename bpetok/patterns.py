r"""The split patterns: how text is cut into pretokens before merging.

| name | of | aliases |
|---|---|---|
| `gpt2` | GPT-2, GPT-3, GPT-NeoX, OLMo 1 | `r50k_base`, `p50k_base`, `p50k_edit` |
| `gpt4` | GPT-3.5 and GPT-4, in tiktoken since 0.8 | `cl100k`, `cl100k_base` |
| `gpt4o` | GPT-4o and later, gpt-oss, Llama 4 | `o200k`, `o200k_base`, `o200k_harmony` |
| `llama3` | Llama 3, GLM-4, Phi-4, OLMo 2; cl100k_base in tiktoken before 0.8; minbpe | |
| `qwen2` | Qwen 1 to 3 | `qwen`, `qwen3` |
| `qwen3_5` | Qwen 3.5 and later | |
| `nanochat` | nanochat | |
| `tekken` | Mistral Nemo | |
| `none` | no split: a text is one pretoken | |

They run on hand-written scanners in the core, pinned to Unicode 16.0, and so do their other spellings that are known
to be the same function (`OTHER_SPELLINGS`). Those named `…_ascii`, whose contractions know ASCII's letters alone, are
functions of their own; so is what llama.cpp runs for gpt-4o, which `bpetok.formats.gguf` spells out. A pattern is
recognised by its exact text and never guessed: any other regular expression goes through the `regex` module as it is
installed.

`gpt4` and `llama3` differ in one thing: to `gpt4` the blanks at a text's end are one pretoken, `llama3` cuts them
behind the last newline.

Sources of the spellings: tiktoken 0.2 to 0.14, `tiktoken_ext/openai_public.py`; meta-llama/llama3,
`llama/tokenizer.py`; transformers 5.3, `models/qwen2` and `models/qwen3_5`; karpathy/nanochat, `nanochat/tokenizer.py`;
tokenizer.json of mistralai/Mistral-Nemo-Instruct-2407; karpathy/minbpe, `minbpe/regex.py`; ggml-org/llama.cpp,
`src/llama-vocab.cpp`.

>>> resolve("cl100k").name
'gpt4'
>>> resolve(r"\w+|\s+").scanner is None
True
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

from bpetok._core import char_class, unicode_version
from bpetok.errors import PatternError
from bpetok.text import Text, as_bytes

if TYPE_CHECKING:
    import regex

Pattern: TypeAlias = str | tuple[str, ...] | None
"""A name, a regular expression, several expressions one after the other, or None for no split."""

_ANY_CASE = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_ASCII_CASE = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_BLANKS = r"|\s*[\r\n]+|\s+(?!\S)|\s+"


def _llama3(contraction: str, digits: str) -> str:
    return contraction + r"|[^\r\n\p{L}\p{N}]?\p{L}+|" + digits + r"| ?[^\s\p{L}\p{N}]+[\r\n]*" + _BLANKS


def _qwen3_5(contraction: str) -> str:
    return contraction + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*" + _BLANKS


def _gpt4_before_0_8(digits: str) -> str:
    words = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|"
    return words + digits + r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"


def _gpt4o(contraction: str, digits: str) -> str:
    prefix = r"[^\r\n\p{L}\p{N}]?"
    upper, lower = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    words = f"{prefix}{upper}*{lower}+{contraction}|{prefix}{upper}+{lower}*{contraction}|"
    return words + digits + r"| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _BLANKS


SPELLINGS = {
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
    "gpt4": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
    "gpt4o": _gpt4o(_ANY_CASE + "?", r"\p{N}{1,3}"),
    "llama3": _llama3(_ANY_CASE, r"\p{N}{1,3}"),
    "qwen2": _llama3(_ANY_CASE, r"\p{N}"),
    "qwen3_5": _qwen3_5(_ANY_CASE),
    "nanochat": _gpt4_before_0_8(r"\p{N}{1,2}"),
    "tekken": _gpt4o("", r"\p{N}"),
    "llama3_ascii": _llama3(_ASCII_CASE, r"\p{N}{1,3}"),
    "qwen2_ascii": _llama3(_ASCII_CASE, r"\p{N}"),
    "qwen3_5_ascii": _qwen3_5(_ASCII_CASE),
    "gpt4o_ascii": _gpt4o(_ASCII_CASE + "?", r"\p{N}{1,3}"),
}
OTHER_SPELLINGS = {
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": "gpt2",  # as OpenAI released it
    r"'s|'t|'re|'ve|'m|'ll|'d| ?[\p{L}]+| ?[\p{N}]+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": "gpt2",
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": "gpt2",  # tiktoken 0.6, minbpe
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)": "gpt2",  # llama.cpp
    _gpt4_before_0_8(r"\p{N}{1,3}"): "llama3",  # tiktoken 0.6 and 0.7, minbpe
    _gpt4_before_0_8(r"\p{N}"): "qwen2",  # Ling
    _llama3(_ANY_CASE, r"\p{N}").replace(r"\r\n", "\r\n"): "qwen2",  # with the line ends themselves
}


@dataclass(frozen=True, slots=True)
class SplitPattern:
    """A way to cut text.

    Attributes:
        regex: the regular expression, or several; None for no split.
        name: the short name, where it has one.
        scanner: the core's scanner that obeys it, None where the `regex` module has to do it.
        unicode_version: which Unicode data decides what a letter is; None where none is asked.
    """

    regex: Pattern
    name: str | None
    scanner: str | None
    unicode_version: str | None

    def __str__(self) -> str:
        """The name, or the expression itself."""
        return self.name or " then ".join(self.steps) or "none"

    @property
    def steps(self) -> tuple[str, ...]:
        """The expressions, mostly one: each cuts what those before it left. None for no split."""
        return (self.regex,) if isinstance(self.regex, str) else self.regex or ()


_AT_ONCE = 1 << 20  # bytes of text that the `regex` module may take without a pause, for Ctrl-C and memory
_NONE = SplitPattern(None, None, "none", None)
_NAMED = {name: SplitPattern(expression, name, name, unicode_version) for name, expression in SPELLINGS.items()}
_BY_SPELLING = {pattern.regex: pattern for pattern in _NAMED.values()} | {
    spelling: _NAMED[name] for spelling, name in OTHER_SPELLINGS.items()
}
_ALIASES = {
    "gpt2": ("r50k", "r50k_base", "p50k_base", "p50k_edit"),
    "gpt4": ("cl100k", "cl100k_base"),
    "gpt4o": ("o200k", "o200k_base", "o200k_harmony"),
    "qwen2": ("qwen", "qwen3"),
}
_BY_NAME = {"none": _NONE} | _NAMED | {alias: _NAMED[name] for name, aliases in _ALIASES.items() for alias in aliases}


def resolve(pattern: Pattern) -> SplitPattern:
    """The split pattern that a name, a regular expression, several expressions or None stand for.

    An expression is recognised as a named pattern only by its exact spelling. Of several, the first cuts the text, and
    each further one cuts the pretokens that those before it made, each as if it stood alone. (DeepSeek's.)

    Raises:
        PatternError: the text looks like a name but is none, or does not compile.
    """
    if pattern is None:
        return _NONE
    if not isinstance(pattern, str):
        return _resolve_steps(pattern)
    if pattern in _BY_NAME:
        return _BY_NAME[pattern]
    if pattern in _BY_SPELLING:
        return _BY_SPELLING[pattern]
    if re.fullmatch(r"[\w-]*", pattern):
        near = difflib.get_close_matches(pattern, _BY_NAME, n=1)
        raise PatternError(
            f"pattern: must be a known name or a regular expression, got {pattern!r}",
            hint=f"did you mean {near[0]!r}?" if near else f"the names are {', '.join(_NAMED)} and none",
        )
    compile_regex(pattern)
    return SplitPattern(pattern, None, None, "regex module")


def _resolve_steps(steps: tuple[str, ...]) -> SplitPattern:
    if len(steps) == 1:
        return resolve(steps[0])
    resolved = [resolve(step).regex for step in steps]
    expressions = tuple(step for step in resolved if isinstance(step, str))
    if len(expressions) != len(steps) or not steps:
        raise PatternError(f"pattern: each of several must be a name or a regular expression, got {steps!r}")
    return SplitPattern(expressions, None, None, "regex module")


@lru_cache(maxsize=32)
def compile_regex(expression: str) -> regex.Pattern[str]:
    """The expression, compiled by the `regex` module.

    Raises:
        PatternError: it does not compile, or searches backwards.
    """
    import regex

    if as_bytes(expression).decode() != expression:
        raise PatternError(f"pattern: must be text without lone surrogates, got {expression!r:.200}")
    try:
        compiled: regex.Pattern[str] = regex.compile(expression)
    except (regex.error, RecursionError) as error:
        raise PatternError(f"pattern: {expression!r:.200} does not compile: {error!s:.200}") from error
    if compiled.flags & regex.REVERSE:
        raise PatternError(f"pattern: must not search backwards, got {expression!r}", hint="leave out (?r)")
    return compiled


@lru_cache(maxsize=8)
def pinned(pattern: SplitPattern) -> regex.Pattern[str]:
    """The pattern's expression, compiled; a named one with the core's Unicode table spelled out in it.

    So the letters of a named pattern are the same ones whatever Unicode data the installed `regex` has. Slower than
    the `\\p` that it replaces: this is for `reference.py`.
    """
    assert isinstance(pattern.regex, str)
    if pattern.name is None:
        return compile_regex(pattern.regex)
    class_or_set = re.compile(r"\[[^]]*\]|\\p\{\w+\}")
    return compile_regex(class_or_set.sub(lambda match: _with_ranges(match[0]), pattern.regex))


def _with_ranges(expression: str) -> str:
    ranges = re.sub(r"\\p\{(\w+)\}", lambda match: _ranges(match[1]), expression)
    return ranges if expression[0] == "[" else f"[{ranges}]"


@lru_cache(maxsize=16)
def _ranges(category: str) -> str:
    """The code points of `L`, `N`, `M`, `Lu` … as the inside of a character set."""
    members = {"L": "123", "N": "5", "M": "4", "Lu": "1", "Lt": "1", "Ll": "2", "Lm": "3", "Lo": "3"}[category]
    runs = re.finditer(f"[{members}]+", _char_classes())
    return "".join(f"\\U{run.start():08x}-\\U{run.end() - 1:08x}" for run in runs)


@lru_cache(maxsize=1)
def _char_classes() -> str:
    return "".join(map(str, map(char_class, range(0x110000))))


def cut(expression: regex.Pattern[str], text: str) -> list[str]:
    """The matches of an expression in order, and between them the text that it skips, so that nothing is lost.

    >>> cut(compile_regex("[a-z]+"), "ab12cd")
    ['ab', '12', 'cd']
    """
    return list(_matches_and_gaps(expression, text))


def _matches_and_gaps(expression: regex.Pattern[str], text: str) -> Iterator[str]:
    end = 0
    for match in expression.finditer(text):
        if end < match.start():
            yield text[end : match.start()]
        if match.group():
            yield match.group()
        end = match.end()
    if end < len(text):
        yield text[end:]


def _cut_each(expression: regex.Pattern[str], texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield from _matches_and_gaps(expression, text)


def pieces(pattern: SplitPattern, data: bytes) -> Iterable[str] | Iterable[bytes]:
    """As `cut_text`, but a long text is cut as one goes, not at once."""
    if len(data) < _AT_ONCE:
        return cut_text(pattern, data)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return cut_text(pattern, data)
    pretokens: Iterable[str] = [text]
    for step in pattern.steps:
        pretokens = _cut_each(compile_regex(step), pretokens)
    return pretokens


def cut_text(pattern: SplitPattern, text: Text) -> list[str] | list[bytes]:
    """The pretokens of a text by the `regex` module, as `reference.split` defines them; fast where the text is valid.

    A named pattern is cut by the letters that the installed `regex` knows only where no scanner is in use.
    """
    from bpetok.reference import split

    if pattern.regex is None or pattern.scanner is not None:
        return split(pattern.regex, text)
    try:
        readable = as_bytes(text).decode()
    except UnicodeDecodeError:
        return split(pattern.regex, text)
    pretokens = [readable] if readable else []
    for step in pattern.steps:
        pretokens = [part for pretoken in pretokens for part in _cut_fast(compile_regex(step), pretoken)]
    return pretokens


def _cut_fast(expression: regex.Pattern[str], text: str) -> list[str]:
    """As `cut`; faster where the expression skips nothing."""
    if expression.groups == 0:
        found: list[str] = expression.findall(text)
        if sum(map(len, found)) == len(text):
            return found
    return cut(expression, text)
