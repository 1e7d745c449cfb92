"""Who does the work: the options that `bpetok train` and `bpetok shard` have for it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Any

import click

from bpetok.engines import ENGINES


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--engine` and `--address`, which the command takes as `engine` and `address`."""
    command = click.option(
        "--address", metavar="HOST:PORT", help="Of the Ray cluster.  [default: one is started here for this call]"
    )(command)
    return click.option(
        "--engine",
        type=click.Choice(ENGINES),
        default="local",
        show_default=True,
        help="Who does the work: this machine, or a Ray cluster.",
    )(command)


def keeping_stdout(engine: str) -> contextlib.AbstractContextManager[Any]:
    """Sends to stderr what Ray prints, such as that a worker died: stdout is for data."""
    return contextlib.redirect_stdout(sys.stderr) if engine == "ray" else contextlib.nullcontext()
