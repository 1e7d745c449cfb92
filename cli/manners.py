"""What all commands share: exit codes, how errors print, options, where text comes from and output goes, progress.

Data goes to stdout, everything else to stderr. One of our errors prints as one line, and its hint as another; an
unknown exception keeps its traceback.

| exit code | meaning |
|---|---|
| 0 | ok |
| 1 | error |
| 2 | usage: arguments, options, a configuration |
| 3 | bad input data |
| 4 | verification: a file is not as it was written, or gives other ids than what it is held against |
| 5 | tokenizer, data or model do not belong together |
| 6 | out of space |
| 75 | stopped by the system, state saved: run again to go on |
| 130 | interrupted |
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn, Protocol, cast

import click

from bpetok import errors

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from bpetok import Tokenizer

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
DEFAULT_TOKENIZER = "bpetok_32k"
MISMATCH = 4
OUT_OF_SPACE = 6
STOPPED = 75
INTERRUPTED = 130
_CODES: dict[type[Exception], int] = {
    errors.CorruptionError: 4,
    errors.IncompatibleError: 5,
    errors.PatternError: 2,
    errors.EncodingError: 2,
    errors.VocabError: 3,
    errors.FormatError: 3,
    errors.DataError: 3,
    errors.SpecialTokenError: 3,
    errors.UnknownTokenError: 3,
    errors.UnknownIdError: 3,
    errors.IdRangeError: 3,
    errors.MemoryLimitError: OUT_OF_SPACE,
}


def run(command: click.Command, codes: Mapping[type[Exception], int] | None = None) -> NoReturn:
    """Runs a command line to its exit; `codes` are exit codes of further errors."""
    # Text goes out as UTF-8 whatever the locale says, as it came in.
    cast(TextIOWrapper, sys.stdout).reconfigure(encoding="utf-8", errors="surrogateescape")
    try:
        _complete(command)
        with command.make_context(command.name, sys.argv[1:]) as context:
            command.invoke(context)
        sys.stdout.flush()
        sys.exit(0)
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt) as error:
        _say("interrupted", hint=str(error) or None)
        sys.exit(INTERRUPTED)
    except errors.BpetokError as error:
        _say(f"error: {error.message}", hint=error.hint)
        sys.exit(_exit_code(error, {**(codes or {}), **_CODES}))
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            _say(f"error: out of space: {error}", hint="free some and run the command again")
            sys.exit(OUT_OF_SPACE)
        if error.errno == errno.EIO:
            _say(f"error: the disk failed: {error}", hint="what was written before is safe; look into the system's log")
            sys.exit(1)
        if error.filename is None:
            raise
        _say(f"error: {error.filename}: {error.strerror}")
        sys.exit(1)


def completion_variable(program: str) -> str:
    """The environment variable in which a shell asks a program what may come next."""
    return f"_{program.upper()}_COMPLETE"


def _complete(command: click.Command) -> None:
    """Answers a shell that asks what may come next, and exits; else does nothing."""
    name = str(command.name)
    if asked := os.environ.get(completion_variable(name)):
        from click.shell_completion import shell_complete

        sys.exit(shell_complete(command, {}, name, completion_variable(name), asked))


def _exit_code(error: errors.BpetokError, codes: Mapping[type[Exception], int]) -> int:
    return next((code for kind, code in codes.items() if isinstance(error, kind)), 1)


def _say(line: str, *, hint: str | None = None) -> None:
    click.echo(line, err=True)
    if hint is not None:
        click.echo(f"hint: {hint}", err=True)


class Road(click.Group):
    """A group whose commands are listed in the order in which they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of the commands."""
        return list(self.commands)


# ---- options that several commands have --------------------------------------------------------------------------

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def tokenizer_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """What a shell may complete a tokenizer to: names, and files."""
    from click.shell_completion import CompletionItem

    import bpetok

    names = [name for name in bpetok.list_encoding_names() if name.startswith(incomplete)]
    return [*map(CompletionItem, names), CompletionItem(incomplete, type="file")]


tokenizer_option: Decorator = click.option(
    "-t",
    "--tokenizer",
    default=DEFAULT_TOKENIZER,
    show_default=True,
    metavar="FILE|NAME",
    shell_complete=tokenizer_names,
    help="A tokenizer file, or a name such as gpt2 or gpt-4o.",
)
allow_special_option: Decorator = click.option(
    "--allow-special", multiple=True, metavar="TEXT|all", help="Make this special token its id; may repeat."
)
text_option: Decorator = click.option("--text", metavar="TEXT", help="Take this text instead of a file.")
tokenizer_argument: Decorator = click.argument("tokenizer", metavar="FILE|NAME", shell_complete=tokenizer_names)
json_option: Decorator = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
quiet_option: Decorator = click.option("-q", "--quiet", is_flag=True, help="No progress, no summary.")


def size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """The bytes that an option such as 4GB, 512MB or 1.5GiB stands for."""
    if value is None:
        return None
    units = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
    units |= {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?", value.lower())
    if match is None:
        raise click.BadParameter(f"must be a size such as 512MB, 4GB or 1.5GiB, got {value!r}")
    return int(float(match[1]) * units[match[2] or ""])


# What is typed for an encoding's name and is none; the names of models are known by themselves.
_MEANT = {
    "gpt4": "cl100k_base",
    "gpt3": "r50k_base",
    "gpt4o": "o200k_base",
    "gpt5": "o200k_base",
    "cl100k": "cl100k_base",
    "o200k": "o200k_base",
    "harmony": "o200k_harmony",
    "bpetok": DEFAULT_TOKENIZER,
}


def open_tokenizer(name: str) -> Tokenizer:
    """The tokenizer of an encoding's name, of a file or folder, or of one of OpenAI's models.

    Raises:
        click.UsageError: it is none of them.
        BpetokError: it is one, and cannot be read; as `bpetok.load` and `bpetok.get_encoding`.
    """
    import bpetok

    if name in bpetok.list_encoding_names():
        return bpetok.get_encoding(name)
    if os.path.exists(name):
        try:
            return bpetok.load(name)
        except errors.FormatError as error:
            if error.hint and error.hint.startswith("bpetok.load("):  # here a command helps, and no call
                error.hint = f"bpetok import {name} --pattern gpt4 --special '<|endoftext|>=100257' -o my.bpetok"
            raise
    try:
        return bpetok.encoding_for_model(name)
    except errors.UnknownTokenError:
        raise click.UsageError(_no_tokenizer(name, bpetok.list_encoding_names())) from None


def _no_tokenizer(name: str, names: list[str]) -> str:
    near = [_MEANT[name.lower()]] if name.lower() in _MEANT else difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]}?" if near else "bpetok train makes a tokenizer file"
    return f"tokenizer: must be a file or one of {', '.join(names)}, got {name!r}\nhint: {hint}"


def allowed_specials(tok: Tokenizer, given: tuple[str, ...]) -> frozenset[str]:
    """The special tokens that --allow-special names; "all" stands for all.

    Raises:
        click.UsageError: the tokenizer has no such special token.
    """
    if "all" in given:
        return frozenset(tok.special_tokens_set)
    for text in given:
        if text not in tok.special_tokens_set:
            names = sorted(tok.special_tokens_set, key=tok.encode_single_token)
            known = ", ".join(names[:8]) + f" and {len(names) - 8:,} more" * (len(names) > 8) or "it has none"
            raise click.UsageError(f"--allow-special: must be a special token of {tok.name} ({known}), got {text!r}")
    return frozenset(given)


# ---- where text comes from ---------------------------------------------------------------------------------------


class TextFile(click.Path):
    """A file with text, or - for standard input."""

    def __init__(self) -> None:
        """A readable file, no folder."""
        super().__init__(exists=True, dir_okay=False, allow_dash=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The file's name; what is no file, may have been meant as text."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            takes_text = ctx is not None and any(one.metavar == "TEXT" for one in ctx.command.params)
            hint = "\nhint: --text takes text itself" if takes_text and not os.path.exists(value) else ""
            raise click.BadParameter(error.message + hint, ctx, param) from None


@contextlib.contextmanager
def open_text(file: str) -> Iterator[BinaryIO]:
    """A file opened to be read, or standard input for `-`."""
    if file == "-":
        yield sys.stdin.buffer
    else:
        with open(file, "rb") as opened:
            yield opened


@contextlib.contextmanager
def open_input(file: str | None, text: str | None) -> Iterator[BinaryIO]:
    """What a command reads that takes one file or --text; standard input where neither was given."""
    if text is None:
        with open_text(file or "-") as opened:
            yield opened
    elif file is not None:
        raise click.UsageError("--text and a file: give one of them")
    else:
        yield BytesIO(os.fsencode(text))


def text_of_files(files: tuple[str, ...], quiet: bool = False) -> Iterator[bytes]:
    """The text of files one after the other, in chunks, with a bar; standard input where there are none."""
    from bpetok.streams import chunks_of

    total = None if "-" in files or not files else sum(Path(file).stat().st_size for file in files)
    with progress("read", total, unit="B", quiet=quiet) as advance:
        for file in files or ("-",):
            with open_text(file) as opened:
                for chunk in chunks_of(opened):
                    yield chunk
                    advance(len(chunk))


# ---- output ------------------------------------------------------------------------------------------------------


def print_json(value: dict[str, Any]) -> None:
    """Prints one JSON object to stdout."""
    import json

    click.echo(json.dumps(value, default=str))  # paths become text


def json_text(data: bytes) -> dict[str, str | None]:
    """Text in a JSON object: "text", and "base64" beside it where it is not UTF-8 and would be changed."""
    import base64

    text = data.decode("utf-8", "replace")
    return {"text": text, "base64": None if text.encode() == data else base64.b64encode(data).decode()}


color_option: Decorator = click.option(
    "--color",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="Colours; auto: on a terminal, unless NO_COLOR is set.",
)


def wants_color(color: str) -> bool:
    """Whether to write in colour: as told, else where stdout is a terminal and NO_COLOR is not set."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return color == "always" or (color == "auto" and sys.stdout.isatty() and not plain)


_MOST_LISTED = 5  # things that are several facts each; --json lists all


def print_facts(about: Mapping[str, Any], indent: int = 0) -> None:
    """Prints names and values, one a line, those inside others further to the right."""
    width = max((len(str(key)) for key in about), default=0)
    for key, value in about.items():
        start = f"{' ' * indent}{str(key).replace('_', ' '):<{width}}"
        if isinstance(value, Mapping) and value:
            click.echo(start.rstrip())
            print_facts(value, indent + 2)
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            more = f"  {len(value):,}, of which the first" if len(value) > _MOST_LISTED else ""
            click.echo(start.rstrip() + more)
            for one in value[:_MOST_LISTED]:
                click.echo(f"{' ' * indent}  " + ", ".join(f"{name} {_fact(inner)}" for name, inner in one.items()))
        else:
            click.echo(f"{start}  {_fact(value)}".rstrip())


def _fact(value: object) -> str:
    if value is None or value in ({}, []) or value != value:  # NaN: of no text
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_fact, value))
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if isinstance(value, float) else str(value)


class Advance(Protocol):
    """Moves a bar: by how much was done since the last call, and with what to say beside it."""

    def __call__(self, amount: float, note: str = "") -> None:
        """Moves the bar."""


@contextlib.contextmanager
def progress(
    what: str, total: float | None, *, unit: str = "", done: float = 0, quiet: bool = False
) -> Iterator[Advance]:
    """A bar on stderr with rate and time left, for work that takes over a second and a terminal that shows it.

    Args:
        what: the work.
        total: how much there is of it, in `unit`; None where that is not known.
        unit: what is counted.
        done: how much was done before.
        quiet: show none.
    """
    if quiet or not sys.stderr.isatty():
        yield _say_nothing
        return
    bar = _Bar(what, total, unit, done)
    try:
        yield bar.advance
    finally:
        bar.close()


def _say_nothing(amount: float, note: str = "") -> None:
    return None


class _Bar:
    def __init__(self, what: str, total: float | None, unit: str, done: float) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done = self.done_before = done
        self.started = time.monotonic()
        self.shown: Any = None

    def advance(self, amount: float, note: str = "") -> None:
        self.done += amount
        seconds = time.monotonic() - self.started
        if self.shown is None and seconds > 1:
            self._show()
        if self.shown is not None:
            rate = f"{short((self.done - self.done_before) / seconds)}{self.unit}/s"
            left = clock(seconds_left(seconds, self.done - self.done_before, self.total and self.total - self.done))
            self.shown.update(self.task, completed=self.done, rate=rate, note=note, left=left)

    def _show(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        percent = "{task.percentage:>3.0f}% " if self.total else ""
        texts = TextColumn(percent + "{task.fields[rate]} {task.fields[note]} {task.fields[left]}")
        columns = (TextColumn(self.what), BarColumn(bar_width=24), texts)
        self.shown = Progress(*columns, console=Console(stderr=True), transient=True)
        self.task = self.shown.add_task(self.what, total=self.total, rate="", note="", left="")
        self.shown.start()

    def close(self) -> None:
        if self.shown is not None:
            self.shown.stop()


def seconds_left(seconds: float, done: float, left: float | None) -> float | None:
    """How long work will still take, if it goes on at the rate that it had on the whole; None if that is not known.

    >>> seconds_left(10.0, done=25, left=75)
    30.0
    """
    return None if left is None or done <= 0 else seconds * max(left, 0) / done


def clock(seconds: float | None) -> str:
    """A time to wait, for people: 3725 gives '1:02:05 left'; nothing where it is not known."""
    if seconds is None:
        return ""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02} left" if hours else f"{rest // 60}:{rest % 60:02} left"


def short(number: float) -> str:
    """The number with a unit of thousands: 1234567 gives '1.2 M'."""
    for factor, suffix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= factor:
            return f"{number / factor:.1f}{suffix}"
    return f"{number:.1f} "
