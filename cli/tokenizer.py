"""Commands that take a text, or ids, through a tokenizer: encode, decode, count, truncate, tokens."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import click
from click.core import ParameterSource

from cli.manners import (
    DEFAULT_TOKENIZER,
    TextFile,
    allow_special_option,
    allowed_specials,
    color_option,
    json_option,
    json_text,
    open_input,
    open_text,
    open_tokenizer,
    print_json,
    text_option,
    tokenizer_option,
    wants_color,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bpetok import Tokenizer
    from bpetok.encoded import Encoded

_file = click.argument("file", required=False, type=TextFile())


# ---- encode, decode ----------------------------------------------------------------------------------------------


@click.command(short_help="Text to ids.")
@tokenizer_option
@click.option("--binary", is_flag=True, help="Write ids as little-endian uint32.")
@allow_special_option
@text_option
@json_option
@_file
def encode(
    tokenizer: str, binary: bool, allow_special: tuple[str, ...], text: str | None, as_json: bool, file: str | None
) -> None:
    """Print the ids of a text, on one line. Any bytes are legal. Special tokens in the text are text.

    Text is read in pieces, so its size does not matter (with --allow-special or --json it is read whole).

    \b
    Examples:
      bpetok encode --text 'hello world'
      echo hello | bpetok encode -t gpt2
      bpetok encode -t my.bpetok --allow-special all text.txt
      bpetok encode -t my.bpetok --binary big.txt > big.ids
    """
    if as_json and binary:
        raise click.UsageError("--json and --binary: give one of them")
    tok = open_tokenizer(tokenizer)
    allowed = allowed_specials(tok, allow_special)
    with open_input(file, text) as opened:
        if as_json:
            print_json({"ids": tok.encode(opened.read(), allowed_special=allowed, disallowed_special=())})
        elif binary:
            for array in _arrays(tok, opened, allowed):
                sys.stdout.buffer.write(array.astype("<u4", copy=False).tobytes())
        else:
            separator = ""
            for array in _arrays(tok, opened, allowed):
                if len(array):
                    sys.stdout.write(separator + " ".join(map(str, array.tolist())))
                    separator = " "
            sys.stdout.write("\n")


def _arrays(tok: Tokenizer, file: BinaryIO, allowed: frozenset[str]) -> Iterator[NDArray[np.uint32]]:
    from bpetok.streams import chunks_of

    if allowed:
        yield tok.encode_to_numpy(file.read(), allowed_special=allowed, disallowed_special=())
    else:
        yield from tok.encode_stream(chunks_of(file))


@click.command(short_help="Ids, or a document of shards, to text.")
@tokenizer_option
@click.option("--binary", is_flag=True, help="Read ids as little-endian uint32.")
@click.option("--document", type=click.IntRange(min=0), metavar="N", help="Which document of a folder of shards.")
@click.option(
    "--split", type=click.Choice(["train", "val"]), default="train", show_default=True, help="Of which split."
)
@json_option
@click.argument("file", metavar="[FILE|FOLDER]", type=click.Path(exists=True, allow_dash=True), default="-")
@click.pass_context
def decode(
    ctx: click.Context, tokenizer: str, binary: bool, document: int | None, split: str, as_json: bool, file: str
) -> None:
    """Write the bytes of ids, exactly: decimal ids between blanks, or --binary. Of a folder of shards: the text of one
    document, without its end-of-text token; without -t, the vocabulary whose name the shards bear is tried.

    \b
    Examples:
      echo 31373 995 | bpetok decode -t gpt2
      echo 31373 995 | bpetok decode -t gpt2 --json
      bpetok decode -t my.bpetok --binary big.ids > big.txt
      bpetok decode shards --document 0 -t my.bpetok
    """
    from bpetok import idstreams
    from bpetok.shards.reader import is_folder

    of_shards = is_folder(file)
    if of_shards == (document is None) or (of_shards and binary) or (os.path.isdir(file) and not of_shards):
        raise click.UsageError(
            f"decode: must have a file of ids, or a folder of shards with --document and without --binary, got {file}"
        )
    if not of_shards and not _is_default(ctx, "split"):
        raise click.UsageError("--split: needs a folder of shards")
    if document is not None:
        _write([_document(file, split, document, None if _is_default(ctx, "tokenizer") else tokenizer)], as_json)
        return
    with open_text(file) as opened:
        read = idstreams.read_binary if binary else idstreams.read_decimal
        _write(map(open_tokenizer(tokenizer).decode_bytes, read(opened)), as_json)


def _is_default(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is ParameterSource.DEFAULT


def _write(parts: Iterable[bytes], as_json: bool) -> None:
    if as_json:
        print_json(json_text(b"".join(parts)))
        return
    for part in parts:
        sys.stdout.buffer.write(part)


def _document(folder: str, split: str, number: int, tokenizer: str | None) -> bytes:
    import bpetok
    from bpetok import shards

    opened = shards.open(folder)
    named = opened.manifest.tokenizer
    if tokenizer is None:  # whether it is the right one is not guessed: the fingerprint says
        tokenizer = named if named in bpetok.list_encoding_names() else DEFAULT_TOKENIZER
    tok = open_tokenizer(tokenizer)
    opened.check(tok)
    documents = opened.splits[split].documents
    if number >= documents:
        raise click.UsageError(f"--document: must be under {documents:,}, which {split} has, got {number:,}")
    return opened.text(split, number, tok)


# ---- count, truncate ---------------------------------------------------------------------------------------------


@click.command(short_help="How many ids a text has.")
@tokenizer_option
@text_option
@json_option
@click.argument("files", nargs=-1, type=TextFile())
def count(tokenizer: str, text: str | None, as_json: bool, files: tuple[str, ...]) -> None:
    """Print how many ids each file has, and all of them together; standard input without files.

    A file is counted as it is: of a .jsonl file, the rows' quotes and braces count too. Special tokens in the text
    are text.

    \b
    Examples:
      bpetok count --text 'How long is this?'
      bpetok count -t gpt2 < text.txt
      bpetok count -t my.bpetok *.txt
    """
    from bpetok.streams import chunks_of

    if text is not None and files:
        raise click.UsageError("--text and a file: give one of them")
    tok = open_tokenizer(tokenizer)
    counts: list[int] = []
    for name in files or ("-",):
        with open_input(None if text is not None else name, text) as file:
            counts.append(sum(len(array) for array in tok.encode_stream(chunks_of(file))))
    if as_json:
        names = files if text is not None else files or ("-",)
        print_json({"files": dict(zip(names, counts, strict=False)), "total": sum(counts)})
    elif len(counts) == 1:
        click.echo(counts[0])
    else:
        for tokens, name in zip([*counts, sum(counts)], [*files, "total"], strict=True):
            click.echo(f"{tokens:>12} {name}")


@click.command(short_help="The part of a text that fits into so many ids.")
@tokenizer_option
@click.option("-n", "--max-tokens", type=click.IntRange(min=0), required=True, help="How many ids it may have.")
@click.option(
    "--keep",
    type=click.Choice(["start", "end", "both"]),
    default="start",
    show_default=True,
    help="Which part of a longer text.",
)
@click.option("--marker", default="", metavar="TEXT", help="Stands where text was left out, and counts.")
@text_option
@json_option
@_file
def truncate(
    tokenizer: str,
    max_tokens: int,
    keep: Literal["start", "end", "both"],
    marker: str,
    text: str | None,
    as_json: bool,
    file: str | None,
) -> None:
    """Write as much of a text as encodes to at most so many ids, never half a character. Nothing else is changed:
    what fits is written as it came, and no line end is added (but behind --text).

    \b
    Examples:
      bpetok truncate -n 100 text.txt
      bpetok truncate -t gpt2 -n 3 --keep both --marker ' … ' --text 'one two three four five six seven'
    """
    tok = open_tokenizer(tokenizer)
    if tok.count(marker) > max_tokens:
        raise click.UsageError(f"--marker: must fit into -n {max_tokens}, got {tok.count(marker)} ids")
    with open_input(file, text) as opened:
        data = opened.read()
    kept = tok.truncate(data, max_tokens, keep=keep, marker=marker)
    if as_json:
        print_json({**json_text(kept), "tokens": tok.count(kept), "truncated": kept != data})
    else:
        sys.stdout.buffer.write(kept + b"\n" * (text is not None))


# ---- tokens ------------------------------------------------------------------------------------------------------

_BACKGROUNDS = (151, 180, 146, 223, 152, 217)  # of the 256 colours of terminals: pale ones, under black
_BLACK = 16


@click.command(short_help="A text's tokens, in colour or as a table.")
@tokenizer_option
@click.option("--table", is_flag=True, help="One token a line: id, bytes and characters from/to, token, its bytes.")
@click.option("--ids", "with_ids", is_flag=True, help="The id behind each token.")
@allow_special_option
@color_option
@text_option
@json_option
@click.argument("text_or_file", metavar="[TEXT|FILE|-]", required=False)
def tokens(
    tokenizer: str,
    table: bool,
    with_ids: bool,
    allow_special: tuple[str, ...],
    color: str,
    text: str | None,
    as_json: bool,
    text_or_file: str | None,
) -> None:
    """Show where a text is cut. An argument is a file where one has that name, else the text itself.

    What is no whole character is shown as its bytes, `\\xe4`. Without colour a bar stands between tokens.
    A line ends where the text's lines do.

    \b
    Examples:
      bpetok tokens 'lower, lowest' -t gpt2
      bpetok tokens text.txt -t my.bpetok --table
      bpetok tokens --text '東京 <|endoftext|>' -t gpt2 --allow-special all --ids
      echo hello | bpetok tokens -t gpt2 --json
    """
    if text is None and text_or_file not in (None, "-") and not os.path.exists(str(text_or_file)):
        text, text_or_file = text_or_file, None
    tok = open_tokenizer(tokenizer)
    with open_input(text_or_file, text) as file:
        encoded = tok.encode_with_offsets(
            file.read(), allowed_special=allowed_specials(tok, allow_special), disallowed_special=()
        )
    if as_json:
        print_json({"tokenizer": tok.name, "tokens": list(_as_json(encoded))})
    elif table:
        for line in _as_table(encoded, wants_color(color)):
            sys.stdout.write(line + "\n")
    else:
        for part in _as_text(encoded, wants_color(color), with_ids):
            sys.stdout.write(part)


def _rows(encoded: Encoded) -> Iterator[tuple[int, bytes, list[int], list[int], bool]]:
    """Of each token: id, bytes, where it begins and ends in bytes, likewise in characters, whether it is special."""
    offsets = encoded.byte_offsets.tolist()
    spans = [list(pair) for pair in zip(offsets, offsets[1:], strict=False)]  # noqa: RUF007
    columns = (encoded.ids.tolist(), encoded.tokens, spans, encoded.char_spans.tolist(), encoded.special.tolist())
    yield from zip(*columns, strict=True)


def _as_json(encoded: Encoded) -> Iterator[dict[str, Any]]:
    for token_id, token, span, chars, special in _rows(encoded):
        yield {"id": token_id, **json_text(token), "bytes": span, "characters": chars, "special": special}


def _as_table(encoded: Encoded, color: bool) -> Iterator[str]:
    from bpetok.report import readable

    yield f"{'id':>8}  {'bytes':>17}  {'characters':>17}  {'token':<24}  as bytes"
    for at, (token_id, token, (begin, end), (first, behind), special) in enumerate(_rows(encoded)):
        shown = _colored(readable(token), at, special, color)
        filled = " " * max(0, 22 - len(readable(token)))
        places = f"{begin:>8} {end:>8}  {first:>8} {behind:>8}"
        yield f"{token_id:>8}  {places}  '{shown}'{filled}  {token.hex(' ')}" + "  special" * special


def _as_text(encoded: Encoded, color: bool, with_ids: bool) -> Iterator[str]:
    from bpetok.report import readable

    at_start = True
    for at, (token_id, token, _, _, special) in enumerate(_rows(encoded)):
        bar = "" if at_start or color else "│"
        yield bar + _colored(readable(token), at, special, color) + f"({token_id})" * with_ids
        at_start = b"\n" in token
        yield "\n" * at_start
    yield "" if at_start else "\n"


def _colored(shown: str, at: int, special: bool, color: bool) -> str:
    if not color:
        return shown
    marked = special or None
    return click.style(shown, fg=_BLACK, bg=_BACKGROUNDS[at % len(_BACKGROUNDS)], bold=marked, underline=marked)
