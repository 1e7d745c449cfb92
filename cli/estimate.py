"""What a run will take: estimate."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.manners import json_option, print_json, progress, quiet_option, short
from cli.run import config_file, require_torch

if TYPE_CHECKING:
    from lm.estimate import Duration, Estimate


@click.command(short_help="Tell what a run will take, before it is started.")
@click.argument("config", metavar="CONFIG.toml|NAME|RUN", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Such as batch.rows=8; may repeat.")
@click.option("--no-probe", is_flag=True, help="Make no steps: memory and disk, but no time.")
@json_option
@quiet_option
def estimate(config: Path, overrides: tuple[str, ...], no_probe: bool, as_json: bool, quiet: bool) -> None:
    """Tell how much memory, disk and time a run will take. Memory is counted without taking it; then 20 steps are made
    to measure the time. Nothing of them is kept.

    \b
    Examples:
      lm estimate 03-mlp
      lm estimate gpt.toml --set batch.rows=32
      lm estimate runs/gpt --no-probe --json
    """
    require_torch()
    from lm.config import load_config
    from lm.estimate import STEPS
    from lm.estimate import estimate as run_estimate

    loaded = load_config(config_file(config), overrides)
    with progress("probe", STEPS, unit=" steps", quiet=quiet) as advance:
        result = run_estimate(loaded, probe=not no_probe, on_step=lambda done, total: advance(1))
    if as_json:
        print_json(_as_json(result))
        return
    for name, text in _rows(result):
        click.echo(f"{name:<12} {text}")
    if not result.fits:
        batch = loaded.batch
        if result.rows:
            more = batch.rows * batch.accumulation // result.rows
            way = f"--set batch.rows={result.rows} --set batch.accumulation={more} takes the same steps and fits"
        else:
            way = "even batch.rows=1 does not fit: take a smaller model, or run.recompute=true"
        click.echo(f"it does not fit\nhint: {way}", err=True)


def _as_json(result: Estimate) -> dict[str, object]:
    about = dataclasses.asdict(result) | {"fits": result.fits}
    about["memory"] |= {"peak": result.memory.peak}
    if result.duration:
        about["duration"] |= {"total": result.duration.total}
    return about


def _rows(result: Estimate) -> list[tuple[str, str]]:
    memory = result.memory
    parts = (
        f"{short(memory.parameters)}B weights, {short(memory.gradients)}B gradients, {short(memory.optimizer)}B "
        f"optimizer, {short(memory.activations)}B activations, {short(memory.allocator)}B allocator"
    )
    free = "" if result.free is None else f"; {short(result.free)}B are free"
    process = "" if result.process is None else f"; the process {short(result.process)}B"
    rows = [
        ("model", f"{result.rung}, {result.parameters:,} parameters, {result.dtype} on {result.device}"),
        ("step", f"{result.tokens_per_step:,} tokens"),
        ("run", f"{result.steps:,} steps, {result.tokens:,} tokens, {result.epochs:.3g} epochs"),
        ("memory", f"{short(memory.peak)}B at most ({parts}){process}{free}"),
        ("disk", f"{short(result.checkpoint_bytes)}B a checkpoint, {short(result.disk_bytes)}B in all"),
    ]
    if result.measured is not None:
        whose = "the device" if result.process is None else "the process"
        rows.insert(4, ("measured", f"{short(result.measured)}B of {whose} in the probe"))
    if result.duration is not None:
        known = "unknown" if result.mfu is None else f"{result.mfu:.1%}"
        rows.append(("speed", f"{result.tokens_per_second:,.0f} tokens/s, MFU {known}"))
        rows.append(("time", _time(result.duration)))
    return rows


def _time(duration: Duration) -> str:
    return (
        f"{_clock(duration.total)}: opening {_clock(duration.opening)}, first step {_clock(duration.first_step)}, "
        f"{duration.steps - 1:,} steps of {_clock(duration.step)}, {duration.evaluations:,} evaluations of "
        f"{_clock(duration.evaluation)}, {duration.checkpoints:,} checkpoints of {_clock(duration.checkpoint)}"
    )


def _clock(seconds: float) -> str:
    """A length of time, for people: 3725 gives '1 h 02 min', 0.0312 '31.2 ms'."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes:02} min" if hours else f"{minutes} min"
