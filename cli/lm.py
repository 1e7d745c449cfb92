"""The `lm` command line, its commands in the order of the road."""

from __future__ import annotations

import os
from typing import NoReturn

import click

import bpetok
from cli import estimate, evaluation, ladder, manners, model, run, weights
from lm import errors


@click.group("lm", cls=manners.Road, context_settings=manners.CONTEXT)
@click.version_option(bpetok.__version__)
def group() -> None:
    """Small language models: train them on shards of tokens, and sample from them.

    \b
    Examples:
      lm quickstart                           the whole road, on the sources of Python's standard library
      lm quickstart my.txt                    the same on your text
      lm train gpt.toml -o runs/gpt           a run from a configuration
      lm train runs/gpt --resume              go on with it
      lm sample runs/gpt --prompt 'Once upon'
      lm report runs/gpt                      a page about the run
      lm ladder                               the rungs beside their reference figures
    """


for command in (
    run.quickstart,
    estimate.estimate,
    run.train,
    run.find_lr,
    evaluation.evaluate,
    model.sample,
    ladder.ladder,
    run.report,
    weights.export,
):
    group.add_command(command)


def main() -> NoReturn:
    """The entry point."""
    # Torch's threads spin while they wait for each other, which costs a machine that others use too twelve times the
    # time. Spinning for this long costs an idle one nothing, and a busy one four times (benchmarks/LOG.md).
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    manners.run(group, {errors.ConfigError: 2, errors.Preempted: 75})
