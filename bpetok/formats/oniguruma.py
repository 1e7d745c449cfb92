r"""Split expressions in Oniguruma's dialect, which the `tokenizers` library runs, and what they are here.

The same text can be another function there. `\p{N}{1,3}+`, possessive in OpenAI's spelling of gpt4, is a repeat in
Oniguruma and takes a number of any length; `$` matches before every newline; `\w` holds ² and ¼, `\h` is a hexadecimal
digit; case is folded by other rules. So an expression from a file is one of those that were found to be a named
pattern, or it is made of nothing but what means the same in both:

- single characters, `.`, escaped punctuation, `\n \r \t \f \v \uXXXX`, and `\xXX` below 0x80;
- `\s \S \d \D`, and `\p{…}` or `\P{…}` of a general category by its short name, or of one of the scripts below;
- sets of these, with ranges, but without sets inside, `&&`, or other operations;
- `?`, `*`, `+`, each also lazy or possessive, and `{n}`, `{n,}`, `{n,m}` alone; on a group, `?` alone, so that no text
  can be cut in exponentially many ways;
- no more than three such repeats in a row that could take turns, so that no text is cut in hours;
- `|`, `(…)`, `(?:…)`, `(?>…)`, `(?=…)`, `(?!…)`, and contractions in any case, spelled as OpenAI does;
- `$`, which is spelled `(?![^\n])` here;
- nothing that matches the empty text.

Verified on 2026-11-21 with tokenizers 0.22.2, whose Oniguruma goes by Unicode 16.0 as the named patterns do: each
spelling of a named pattern on 60,000 random texts and on every code point in five surroundings, each class on every
code point. The tests do a part of that again.
"""

from __future__ import annotations

import importlib.util
import re
import time
from collections import deque
from collections.abc import Callable
from math import log2
from typing import NamedTuple

from bpetok import patterns
from bpetok.errors import FormatError

_GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s+(?![\s\S])|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""The expression that `tokenizers` has built into its `ByteLevel`: OpenAI's, as GPT-2 was released with it."""

SPELLINGS = patterns.SPELLINGS | {"gpt2": GPT2, "gpt4": _GPT4}
"""A spelling of each named pattern that is the same function in Oniguruma."""

_NAMES = {spelling: name for name, spelling in patterns.SPELLINGS.items()} | patterns.OTHER_SPELLINGS
_NAMES |= {spelling: name for name, spelling in SPELLINGS.items()}
del _NAMES[patterns.SPELLINGS["gpt4"]]  # for its possessive interval
_CATEGORIES = (
    "L Lu Ll Lt Lm Lo M Mn Mc Me N Nd Nl No P Pc Pd Ps Pe Pi Pf Po S Sm Sc Sk So Z Zs Zl Zp C Cc Cf Co Cn "
    "Arabic Armenian Bengali Cyrillic Devanagari Ethiopic Georgian Greek Gujarati Gurmukhi Han Hangul Hebrew Hiragana "
    "Kannada Katakana Khmer Lao Latin Malayalam Mongolian Myanmar Sinhala Tamil Telugu Thai Tibetan"
)
PROPERTIES = frozenset(_CATEGORIES.split())
"""The names that may stand in `\\p{…}`."""

_MAX_LENGTH = 8192
_MAX_DEPTH = 16
_MAX_CHOICES = 24  # the logarithm of the ways to match one text
_MAX_SECONDS = 1.0
_UNBOUNDED = 128  # ways to match a run of so many characters
_CONTRACTIONS = ("(?i:'s|'t|'re|'ve|'m|'ll|'d)", "(?i:[sdmt]|ll|ve|re)")
_GROUPS = {"(?:": True, "(?>": True, "(?=": False, "(?!": False, "(": True}  # whether they have a width
_ESCAPE = re.compile(r"\\(?:[pP]\{(\w+)\}|u[0-9A-Fa-f]{4}|x[0-7][0-9A-Fa-f]|([nrtfvsSdD])|[^\w\s]| )")
_INTERVAL = re.compile(r"\{(\d{1,4})(,\d{0,4})?\}")
_LINE_END = r"(?![^\n])"


def named(expression: str) -> str | None:
    """The name of the pattern that an expression is in Oniguruma; None where it is no spelling of one.

    >>> named(GPT2), named(r"\\p{N}{1,3}+")
    ('gpt2', None)
    """
    return _NAMES.get(expression)


def skips_nothing(expression: str) -> bool:
    """Whether an expression is the spelling of a named pattern that matches every character of every text."""
    return named(expression) is not None and not expression.endswith(r"|\s+(?!\S)")  # llama.cpp's of gpt2


def translated(expression: str, where: str) -> str:
    r"""An expression of Oniguruma's as one that is the same function here: a pattern's name, or a regular expression.

    Args:
        expression: what Oniguruma runs.
        where: where it stands, to begin the error's message.

    Raises:
        FormatError: it holds something that means, or could mean, something else here; names it.

    >>> translated(r"\s+$|[a-z]++|.", "here")
    '\\s+(?![^\\n])|[a-z]++|.'
    """
    name = named(expression)
    if name is not None:
        return name
    if len(expression) > _MAX_LENGTH:
        raise FormatError(f"{where} must be an expression of at most {_MAX_LENGTH} characters, got {len(expression)}")
    return _Reader(expression, where).whole()


class _Part(NamedTuple):
    """What was read.

    Attributes:
        width: how many characters it matches at least.
        choices: the logarithm of the ways in which it can match a text, or so, which is what backtracking may take.
    """

    width: int
    choices: float


class _Reader:
    """Reads an expression from left to right, once."""

    def __init__(self, expression: str, where: str) -> None:
        self.text = expression
        self.where = where
        self.at = 0
        self.out: list[str] = []

    def refused(self, wanted: str, at: int) -> FormatError:
        hint = "what has the same meaning in Oniguruma and here is listed in bpetok.formats.oniguruma"
        return FormatError(f"{self.where} must be an expression {wanted}, got {self.text[at : at + 40]!r}", hint=hint)

    def whole(self) -> str:
        made = self.alternatives(0)
        if made.width == 0:
            raise self.refused("that never matches the empty text", 0)
        if made.choices > _MAX_CHOICES:
            raise self.refused("with fewer ways to match one text, as backtracking tries them all", 0)
        if self.at < len(self.text):
            raise self.refused("with a group for each bracket", self.at)
        return "".join(self.out)

    def take(self, text: str) -> None:
        self.out.append(text)
        self.at += len(text)

    def alternatives(self, depth: int) -> _Part:
        if depth > _MAX_DEPTH:
            raise self.refused(f"with at most {_MAX_DEPTH} groups inside each other", self.at)
        parts = [self.sequence(depth)]
        while self.text[self.at : self.at + 1] == "|":
            self.take("|")
            parts.append(self.sequence(depth))
        return _Part(min(part.width for part in parts), max(part.choices for part in parts) + log2(len(parts)))

    def sequence(self, depth: int) -> _Part:
        width, choices = 0, 0.0
        while self.at < len(self.text) and self.text[self.at] not in "|)":
            part = self.repeated(depth)
            width, choices = width + part.width, choices + part.choices
        return _Part(width, choices)

    def repeated(self, depth: int) -> _Part:
        start = self.at
        contraction = next((one for one in _CONTRACTIONS if self.text.startswith(one, start)), None)
        if contraction is not None:
            self.take(contraction)
            return self.quantified(_Part(1, 0), start, group=True)
        if self.text[start] == "(":
            made, consumes = self.group(depth)
            return self.quantified(made, start, group=True) if consumes else self.unquantified(made, start)
        if self.text[start] == "$":
            self.out.append(_LINE_END)
            self.at += 1
            return self.unquantified(_Part(0, 0), start)
        self.single()
        return self.quantified(_Part(1, 0), start, group=False)

    def group(self, depth: int) -> tuple[_Part, bool]:
        start = self.at
        opening = next(one for one in _GROUPS if self.text.startswith(one, start))
        if opening == "(" and self.text.startswith("(?", start):
            raise self.refused("whose groups are (…), (?:…), (?>…), (?=…) or (?!…)", start)
        self.take(opening)
        made = self.alternatives(depth + 1)
        if self.text[self.at : self.at + 1] != ")":
            raise self.refused("with a bracket that closes each group", start)
        self.take(")")
        return made, _GROUPS[opening]

    def unquantified(self, part: _Part, start: int) -> _Part:
        if self.at < len(self.text) and self.text[self.at] in "?*+{":
            raise self.refused("that repeats nothing of no width", start)
        return _Part(0, part.choices)

    def quantified(self, part: _Part, start: int, *, group: bool) -> _Part:
        mark = self.text[self.at : self.at + 1]
        if mark == "{":
            interval = _INTERVAL.match(self.text, self.at)
            after = self.text[interval.end() : interval.end() + 1] if interval else ""
            if group or not interval or (after and after in "?*+{"):
                raise self.refused("with intervals of single characters, as {1,3}, and nothing behind them", start)
            self.take(interval[0])
            least = int(interval[1])
            most = least if not interval[2] else int(interval[2][1:] or least + _UNBOUNDED)
            if most < least:
                raise self.refused("with intervals from a lower to a higher number", start)
            return _Part(part.width * least, part.choices + log2(min(most - least + 1, _UNBOUNDED)))
        if not mark or mark not in "?*+":
            return part
        if group and mark != "?":
            raise self.refused("in which a group is at most made optional", start)
        self.take(mark)
        ways = 0 if self.text[self.at : self.at + 1] == "+" else log2(2 if mark == "?" else _UNBOUNDED)
        if self.text[self.at : self.at + 1] in ("?", "+"):
            self.take(self.text[self.at])
        if self.at < len(self.text) and self.text[self.at] in "?*+{":
            raise self.refused("with one quantifier at a time", start)
        return _Part(part.width if mark == "+" else 0, part.choices + ways)

    def single(self) -> None:
        char = self.text[self.at]
        if char == "\\":
            self.take(self.escape())
        elif char == "[":
            self.set()
        elif char in "?*+{}]^":
            raise self.refused("whose signs are escaped where they stand for themselves", self.at)
        else:
            self.take(char)

    def escape(self) -> str:
        match = _ESCAPE.match(self.text, self.at)
        if not match or (match[1] and match[1] not in PROPERTIES):
            raise self.refused("whose escapes mean the same in Oniguruma and here", self.at)
        return match[0]

    def set(self) -> None:
        start = self.at
        self.take("[^" if self.text.startswith("[^", start) else "[")
        if self.text[self.at : self.at + 1] == "]":
            raise self.refused("with no empty set", start)
        while self.text[self.at : self.at + 1] != "]":
            first = self.member(start)
            self.take(first)
            if self.text[self.at : self.at + 1] == "-" and self.text[self.at + 1 : self.at + 2] not in ("]", ""):
                self.take("-")
                last = self.member(start)
                if _is_class(first) or _is_class(last) or _code_point(first) > _code_point(last):
                    raise self.refused("with ranges from a lower to a higher character", start)
                self.take(last)
        self.take("]")

    def member(self, start: int) -> str:
        if self.at >= len(self.text):
            raise self.refused("with a bracket that closes each set", start)
        char = self.text[self.at]
        if char == "[" or self.text.startswith(("&&", "||", "--", "~~"), self.at):
            raise self.refused("without sets in sets, whose signs are escaped", start)
        return self.escape() if char == "\\" else char


def _is_class(member: str) -> bool:
    return member[:2] in (r"\p", r"\P", r"\s", r"\S", r"\d", r"\D")


_CONTROLS = {r"\n": "\n", r"\r": "\r", r"\t": "\t", r"\f": "\f", r"\v": "\v"}


def _code_point(member: str) -> int:
    if member[:2] in (r"\u", r"\x"):
        return int(member[2:], 16)
    return ord(_CONTROLS.get(member, member[-1]))


def prove(expression: str, regex: str, where: str) -> None:
    """Makes sure that `tokenizers`, where it is installed, cuts the probe by an expression as another one does here.

    Raises:
        FormatError: it does not, or does not take the expression, or backtracks for more than a second.
    """
    from bpetok.formats.probe import TEXTS

    cut = splitter(expression, where)
    if cut is None:
        return
    here = patterns.compile_regex(regex)
    end = time.monotonic() + _MAX_SECONDS
    for text in (*TEXTS, "\n".join(TEXTS)):
        try:
            deque(here.finditer(text, timeout=max(end - time.monotonic(), 0.01)), 0)
        except TimeoutError as error:
            raise FormatError(f"{where} must cut a page of text within a second, got {expression!r:.80}") from error
        expected, got = patterns.cut(here, text), cut(text)
        if expected != got:
            i = next((i for i, pair in enumerate(zip(expected, got, strict=False)) if pair[0] != pair[1]), -1)
            raise FormatError(f"{where} must cut {text!r:.60} as here, into {expected[i]!r:.60}, got {got[i]!r:.60}")


def splitter(expression: str, where: str) -> Callable[[str], list[str]] | None:
    """How `tokenizers` cuts by an expression; None where it is not installed.

    Raises:
        FormatError: it does not take the expression.
    """
    if importlib.util.find_spec("tokenizers") is None:
        return None
    library = importlib.import_module("tokenizers")
    try:
        split = library.pre_tokenizers.Split(library.Regex(expression), "isolated")
    except Exception as error:  # the library raises the class itself
        raise FormatError(f"{where} must be an expression that tokenizers takes, got: {error}") from error

    def cut(text: str) -> list[str]:
        try:
            return [piece for piece, _ in split.pre_tokenize_str(text)]
        except BaseException as error:  # it panics where Oniguruma gives up
            if type(error).__name__ != "PanicException":
                raise
            raise FormatError(f"{where} must be an expression that Oniguruma can run, got: {error}") from error

    return cut
