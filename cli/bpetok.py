"""The `bpetok` command line, its commands in the order of the road."""

from __future__ import annotations

from typing import NoReturn

import click

import bpetok
from cli import dataset, manners, tokenizer, training


@click.group("bpetok", cls=manners.Road, context_settings=manners.CONTEXT)
@click.version_option(bpetok.__version__)
def group() -> None:
    """Byte-level BPE: train a tokenizer, encode and decode text, prepare shards of tokens.

    \b
    Examples:
      bpetok train corpus.txt --vocab-size 32768 -o my.bpetok
      bpetok encode -t my.bpetok < text.txt
      bpetok encode -t gpt2 --binary < text.txt | bpetok decode -t gpt2 --binary
      bpetok count -t my.bpetok *.txt
      bpetok shard corpus.txt -t my.bpetok -o shards
    """


for command in (training.train, tokenizer.encode, tokenizer.decode, tokenizer.count, tokenizer.info, dataset.shard):
    group.add_command(command)


def main() -> NoReturn:
    """The entry point."""
    manners.run(group)
