"""The command that walks the ladder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.manners import json_option, print_json, progress, quiet_option
from cli.run import require_torch

if TYPE_CHECKING:
    from lm.figures import Row
    from lm.ladder import Entry


@click.command(short_help="Train the rungs, and hold each against a reference figure.")
@click.option("--full", is_flag=True, help="The published lengths: minutes. Without it, the first steps of each.")
@click.option("--readable", is_flag=True, help="Train by autograd also where there is a fast path.")
@click.option("--seeds", type=int, default=1, show_default=True, help="Models of each fast rung trained at once.")
@click.option("--only", "names", multiple=True, metavar="RUNG", help="Rungs whose name holds this; may repeat.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Add the rows to this JSON file.")
@click.option("--runs", type=click.Path(file_okay=False, path_type=Path), help="Keep the runs of `lm train` there.")
@json_option
@quiet_option
def ladder(
    full: bool,
    readable: bool,
    seeds: int,
    names: tuple[str, ...],
    output: Path | None,
    runs: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Walk the rungs, from the scalar engine to the char GPT, on the lectures' texts, and print a table: each rung's
    losses in nats per token beside a reference: its published figure with --full, else our own after as many steps.

    \b
    Examples:
      lm ladder
      lm ladder --full -o ladder.json
      lm ladder --only WaveNet --seeds 8
    """
    require_torch()
    from lm.figures import merged, read_rows, table, write_rows
    from lm.ladder import ENTRIES, walk

    chosen = [entry for entry in ENTRIES if not names or any(_is_meant(name, entry) for name in names)]
    if not chosen:
        raise click.UsageError(f"--only must name one of {'; '.join(entry.name for entry in ENTRIES)}")
    if output and not output.parent.is_dir():
        raise click.UsageError(f"{output.parent}: must be a folder")
    rows: list[Row] = []
    before = read_rows(output) if output and output.exists() else []
    try:
        with _bars(quiet) as on_rung:
            for row in walk(chosen, full=full, readable=readable, seeds=seeds, runs=runs, on_rung=on_rung):
                rows.append(row)
                if output:
                    write_rows(output, merged(before, rows, [entry.name for entry in ENTRIES]))
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the rungs that were finished are in the table") from None
    finally:
        if as_json:
            print_json({"rows": [{**dataclasses.asdict(row), "difference": row.difference} for row in rows]})
        elif rows:
            click.echo(table(rows))
    if not full and not quiet:
        click.echo("The references are our own after as many steps; --full has the published ones.", err=True)


def _is_meant(name: str, entry: Entry) -> bool:
    """A whole name means itself alone, a part of one all that hold it."""
    from lm.ladder import ENTRIES

    whole = [one for one in ENTRIES if name in (one.name, one.config)]
    return entry in whole if whole else name.lower() in entry.name.lower()


@contextmanager
def _bars(quiet: bool) -> Iterator[Callable[[Entry, int], Callable[[int, int], None]]]:
    """A line on stderr for each rung that begins, and a bar while it is trained."""
    with ExitStack() as stack:

        def begin(entry: Entry, steps: int) -> Callable[[int, int], None]:
            stack.close()
            if not quiet:
                click.echo(f"{entry.name}: {steps:,} steps" if steps else entry.name, err=True)
            advance = stack.enter_context(progress("train", steps, unit=" steps", quiet=quiet))
            last = 0

            def move(done: int, total: int) -> None:
                nonlocal last
                advance(done - last)
                last = done

            return move

        yield begin
