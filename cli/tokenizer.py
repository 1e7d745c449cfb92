"""Commands about one tokenizer: encode, decode, count, info."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from cli.manners import json_option, open_tokenizer, print_json, tokenizer_option

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bpetok import Tokenizer

_input = click.argument("file", type=click.File("rb"), default="-")


# ---- encode, decode, count ---------------------------------------------------------------------------------------


@click.command(short_help="Text to ids.")
@tokenizer_option
@click.option("--binary", is_flag=True, help="Write ids as little-endian uint32.")
@click.option("--allow-special", multiple=True, metavar="TEXT", help="Make this special token its id; may repeat.")
@json_option
@_input
def encode(tokenizer: str, binary: bool, allow_special: tuple[str, ...], as_json: bool, file: BinaryIO) -> None:
    """Print the ids of a text, on one line. Any bytes are legal. Special tokens in the text are text.

    Text is read in pieces, so its size does not matter (with --allow-special or --json it is read whole).

    \b
    Examples:
      echo hello | bpetok encode -t gpt2
      bpetok encode -t my.bpetok --binary big.txt > big.ids
    """
    if as_json and binary:
        raise click.UsageError("--json and --binary: give one of them")
    tok = open_tokenizer(tokenizer)
    _check_specials(tok, allow_special)
    if as_json:
        ids = tok.encode(file.read(), allowed_special=set(allow_special), disallowed_special=())
        print_json({"ids": ids})
    elif binary:
        for array in _arrays(tok, file, allow_special):
            sys.stdout.buffer.write(array.astype("<u4", copy=False).tobytes())
    else:
        separator = ""
        for array in _arrays(tok, file, allow_special):
            if len(array):
                sys.stdout.write(separator + " ".join(map(str, array.tolist())))
                separator = " "
        sys.stdout.write("\n")


def _check_specials(tok: Tokenizer, allow_special: tuple[str, ...]) -> None:
    for text in allow_special:
        if text not in tok.special_tokens_set:
            known = ", ".join(sorted(tok.special_tokens_set)[:10]) or "none"
            raise click.UsageError(f"--allow-special: must be a special token of {tok.name} ({known}), got {text!r}")


def _arrays(tok: Tokenizer, file: BinaryIO, allow_special: tuple[str, ...]) -> Iterator[NDArray[np.uint32]]:
    from bpetok.streams import chunks_of

    if allow_special:
        yield tok.encode_to_numpy(file.read(), allowed_special=set(allow_special), disallowed_special=())
    else:
        yield from tok.encode_stream(chunks_of(file))


@click.command(short_help="Ids to text.")
@tokenizer_option
@click.option("--binary", is_flag=True, help="Read ids as little-endian uint32.")
@_input
def decode(tokenizer: str, binary: bool, file: BinaryIO) -> None:
    """Write the bytes of ids, exactly: decimal ids between blanks, or --binary.

    \b
    Examples:
      echo 31373 995 | bpetok decode -t gpt2
      bpetok decode -t my.bpetok --binary big.ids > big.txt
    """
    from bpetok import idstreams

    tok = open_tokenizer(tokenizer)
    for ids in idstreams.read_binary(file) if binary else idstreams.read_decimal(file):
        sys.stdout.buffer.write(tok.decode_bytes(ids))


@click.command(short_help="How many ids a text has.")
@tokenizer_option
@json_option
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, allow_dash=True))
def count(tokenizer: str, as_json: bool, files: tuple[str, ...]) -> None:
    """Print how many ids each file has, and all of them together; standard input without files.

    A file is counted as it is: of a .jsonl file, the rows' quotes and braces count too.

    \b
    Examples:
      bpetok count -t gpt2 < text.txt
      bpetok count -t my.bpetok *.txt
    """
    from bpetok.streams import chunks_of

    tok = open_tokenizer(tokenizer)
    counts: list[int] = []
    for name in files or ("-",):
        with nullcontext(sys.stdin.buffer) if name == "-" else open(name, "rb") as file:
            counts.append(sum(len(array) for array in tok.encode_stream(chunks_of(file))))
    if as_json:
        print_json({"files": dict(zip(files or ("-",), counts, strict=True)), "total": sum(counts)})
    elif len(counts) == 1:
        click.echo(counts[0])
    else:
        for tokens, name in zip([*counts, sum(counts)], [*files, "total"], strict=True):
            click.echo(f"{tokens:>12} {name}")


# ---- info --------------------------------------------------------------------------------------------------------


@click.command(short_help="What a tokenizer, or a folder of shards, is.")
@click.argument("what", metavar="FILE|NAME|FOLDER")
@json_option
def info(what: str, as_json: bool) -> None:
    """Print what a tokenizer file, a vocabulary's name or a folder of shards stands for.

    \b
    Examples:
      bpetok info my.bpetok
      bpetok info gpt2 --json
      bpetok info shards/
    """
    about = _about_shards(what) if os.path.isdir(what) else _about_tokenizer(open_tokenizer(what))
    if as_json:
        print_json(about)
        return
    for key, value in about.items():
        click.echo(f"{key.replace('_', ' '):>18}  {value if isinstance(value, str) else _shown(value)}")


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(one)}" for key, one in list(value.items())[:8]) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _about_tokenizer(tok: Tokenizer) -> dict[str, Any]:
    ranks = tok.vocab.ranks
    return {
        "name": tok.name,
        "ids": tok.n_vocab,
        "tokens": len(ranks),
        "special_tokens": dict(tok.vocab.special_tokens),
        "pattern": str(tok.vocab.split),
        "unicode": tok.vocab.split.unicode_version,
        "semantics": tok.vocab.semantics,
        "fingerprint": tok.fingerprint,
        "longest_token": repr(max(ranks, key=len)),
        "provenance": dict(tok.vocab.provenance),
    }


def _about_shards(folder: str) -> dict[str, Any]:
    from bpetok import shards

    opened = shards.open(folder)
    about: dict[str, Any] = {
        name: {
            "files": len(split.arrays),
            "ids": split.tokens,
            "documents": split.documents,
            "bytes of text": split.text_bytes,
        }
        for name, split in opened.splits.items()
    }
    manifest = opened.manifest
    return about | {
        "vocab_size": manifest.vocab_size,
        "dtype": manifest.dtype,
        "end_of_text": manifest.end_of_text,
        "fingerprint": manifest.fingerprint,
    }
