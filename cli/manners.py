"""What all commands share: exit codes, how errors print, where output goes, progress.

Data goes to stdout, everything else to stderr. One of our errors prints as one line, and its hint as another; an
unknown exception keeps its traceback.

| exit code | meaning |
|---|---|
| 0 | ok |
| 1 | error |
| 2 | usage: arguments, options, a configuration |
| 3 | bad input data |
| 4 | verification: a file is not as it was written |
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
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, cast

import click

from bpetok import errors

if TYPE_CHECKING:
    from bpetok import Tokenizer

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
OUT_OF_SPACE = 6
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
        if error.filename is None:
            raise
        _say(f"error: {error.filename}: {error.strerror}")
        sys.exit(1)


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

tokenizer_option: Decorator = click.option(
    "-t", "--tokenizer", required=True, metavar="FILE|NAME", help="A tokenizer file, or a name such as gpt2."
)
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


def open_tokenizer(name: str) -> Tokenizer:
    """The tokenizer of a file, or of an encoding's name.

    Raises:
        click.UsageError: it is neither.
    """
    import bpetok

    if name in bpetok.list_encoding_names():
        return bpetok.get_encoding(name)
    if not os.path.isfile(name):
        names = bpetok.list_encoding_names()
        near = difflib.get_close_matches(name, names, n=1)
        raise click.UsageError(
            f"tokenizer: must be a file or one of {', '.join(names)}, got {name!r}"
            + (f"\nhint: did you mean {near[0]}?" if near else "")
        )
    return bpetok.load(name)


# ---- output ------------------------------------------------------------------------------------------------------


def print_json(value: dict[str, Any]) -> None:
    """Prints one JSON object to stdout."""
    import json

    click.echo(json.dumps(value, default=str))  # paths become text


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
            rate = f"{_short((self.done - self.done_before) / seconds)}{self.unit}/s"
            self.shown.update(self.task, completed=self.done, rate=rate, note=note)

    def _show(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        texts = TextColumn("{task.percentage:>3.0f}% {task.fields[rate]} {task.fields[note]}")
        columns = (TextColumn(self.what), BarColumn(bar_width=24), texts, TimeRemainingColumn(compact=True))
        self.shown = Progress(*columns, console=Console(stderr=True), transient=True)
        self.task = self.shown.add_task(self.what, total=self.total, rate="", note="")
        self.shown.start()

    def close(self) -> None:
        if self.shown is not None:
            self.shown.stop()


def _short(number: float) -> str:
    """The number with a unit of thousands: 1234567 gives '1.2 M'."""
    for factor, suffix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= factor:
            return f"{number / factor:.1f}{suffix}"
    return f"{number:.1f} "
