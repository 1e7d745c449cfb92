"""Commands about datasets of ids: shard."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

from cli.manners import json_option, open_tokenizer, print_json, progress, quiet_option, tokenizer_option

if TYPE_CHECKING:
    from pathlib import Path

    from bpetok.shards import Manifest
    from bpetok.sources import Document


@click.command(short_help="Text to shards of ids.")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True))
@tokenizer_option
@click.option("-o", "--output", required=True, type=click.Path(file_okay=False), help="The folder to write.")
@click.option("--shard-tokens", type=click.IntRange(min=1), help="Ids to a file.  [default: 100,000,000]")
@click.option("--val-fraction", type=float, help="Share that validates; see above.")
@click.option("--field", default="text", show_default=True, help="Where a .jsonl row has its text.")
@json_option
@quiet_option
def shard(
    files: tuple[str, ...],
    tokenizer: str,
    output: str,
    shard_tokens: int | None,
    val_fraction: float | None,
    field: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Encode text files, folders of them, or .jsonl files into llm.c's .bin files with a manifest.

    A text file is one document, a .jsonl row is one. The id of <|endoftext|> stands before each; special tokens in
    the text are text. Of 100 documents or more, one in a hundred validates; of fewer, the last tenth of the
    text does, cut at a line; --val-fraction sets another share.

    \b
    Examples:
      bpetok shard corpus.txt -t my.bpetok -o shards
      bpetok shard rows.jsonl -t gpt2 -o shards --shard-tokens 10000000
    """
    from bpetok import shards
    from bpetok.sources import expand

    tok = open_tokenizer(tokenizer)
    paths = expand(files)
    total = sum(path.stat().st_size for path in paths)
    with progress("shard", total, unit="B", quiet=quiet) as advance:
        documents = _documents(paths, field, advance)
        sources = [os.path.basename(path) for path in paths]
        manifest = shards.write(
            documents,
            tok,
            output,
            shard_tokens=shard_tokens or shards.SHARD_TOKENS,
            val_fraction=val_fraction,
            sources=sources,
        )
    if as_json:
        print_json({"output": output, "fingerprint": manifest.fingerprint, "splits": _totals(manifest)})
    elif not quiet:
        for split, totals in _totals(manifest).items():
            parts = ", ".join(f"{value:,} {key}" for key, value in totals.items())
            click.echo(f"{output} {split}: {parts}", err=True)


def _documents(paths: list[Path], field: str, advance: Callable[[float], None]) -> Iterator[Document]:
    from bpetok.sources import read_documents

    for document in read_documents(paths, field=field):
        yield document
        advance(len(document.text))


def _totals(manifest: Manifest) -> dict[str, dict[str, int]]:
    totals: dict[str, dict[str, int]] = {}
    for shard in manifest.shards:
        total = totals.setdefault(shard.split, {"files": 0, "ids": 0, "documents": 0, "bytes": 0})
        total["files"] += 1
        total["ids"] += shard.tokens
        total["documents"] += shard.documents
        total["bytes"] += shard.text_bytes
    return totals
