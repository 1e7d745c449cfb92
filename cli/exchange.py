"""Commands that take a vocabulary from one program to another: export, import, verify."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bpetok import errors, formats
from cli.manners import (
    MISMATCH,
    TextFile,
    json_option,
    open_text,
    open_tokenizer,
    print_json,
    quiet_option,
    tokenizer_argument,
)

if TYPE_CHECKING:
    from bpetok import Vocab
    from bpetok.verify import Mismatch

_output = click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The file or folder.")


# ---- export, import ----------------------------------------------------------------------------------------------


@click.command(short_help="A tokenizer to another program's format.")
@tokenizer_argument
@click.option("--to", "format_name", type=click.Choice(formats.NAMES), help="The format; else the output's name says.")
@_output
@json_option
@quiet_option
def export(tokenizer: str, format_name: str | None, output: Path, as_json: bool, quiet: bool) -> None:
    """Write a tokenizer in the format of another program, and say what that format holds of it, and what not.

    bpetok: our own. tiktoken: ranks alone. tiktoken-plugin: a folder for tiktoken.get_encoding. huggingface: a folder
    for AutoTokenizer, or a tokenizer.json. minbpe: a .model. tekken: Mistral's. gguf: llama.cpp's. What the program
    cannot do exactly is refused.

    \b
    Examples:
      bpetok export my.bpetok --to huggingface -o exported
      bpetok export my.bpetok -o my.tiktoken
    """
    from bpetok.formats import format_to_write

    _check_place(output)
    vocab = open_tokenizer(tokenizer).vocab
    name = format_to_write(output, format_name).name
    formats.write(vocab, output, format=name)
    about = {"output": str(output), "format": name, **_held(vocab, output, name)}
    if as_json:
        print_json(about)
    elif not quiet:
        click.echo(f"{output}: {name}, keeps {', '.join(about['keeps']) or 'nothing'}", err=True)
        if about["drops"]:
            click.echo(f"drops {', '.join(about['drops'])}: keep the source too", err=True)


def _check_place(output: Path) -> None:
    """Before the work, not after it."""
    parent = output.absolute().parent
    if not (parent.is_dir() and os.access(parent, os.W_OK)):
        raise click.UsageError(f"--output: {output.parent} must be a folder that may be written to")


def _held(vocab: Vocab, output: Path, name: str) -> dict[str, list[str]]:
    """What of a vocabulary comes back when the file is read, and what does not."""
    ranks_alone: dict[str, Any] = {"pattern": "none", "special_tokens": {}} if name == "tiktoken" else {}
    back = formats.read(output, **ranks_alone)
    has = {
        "tokens": back.ranks.keys() == vocab.ranks.keys(),
        "ids": dict(back.ranks) == dict(vocab.ranks) and dict(back.special_tokens) == dict(vocab.special_tokens),
        "pattern": name != "tiktoken" and back.pattern == vocab.pattern,
    }
    if name == "tiktoken":
        has["ids"] = dict(back.ranks) == dict(vocab.ranks)
    if vocab.special_tokens:
        has["special tokens"] = back.special_tokens.keys() == vocab.special_tokens.keys()
    if vocab.merges is not None:
        has["merges"] = back.merges is not None and len(back.merges) == len(vocab.merges)
    has[f"merging by {vocab.semantics}"] = back.semantics == vocab.semantics
    if vocab.provenance:
        has["provenance"] = dict(back.provenance) == dict(vocab.provenance)
    return {"keeps": [part for part in has if has[part]], "drops": [part for part in has if not has[part]]}


def _special(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> dict[str, int]:
    specials: dict[str, int] = {}
    for one in value:
        text, equals, number = one.rpartition("=")
        if not (text and equals and number.isascii() and number.isdecimal() and len(number) <= 8):
            raise click.BadParameter(f"must be TEXT=ID such as '<|endoftext|>=100257', got {one!r}")
        if text in specials:
            raise click.BadParameter(f"must be named once, got {text!r} twice")
        specials[text] = int(number)
    return specials


@click.command("import", short_help="Another program's tokenizer to ours.")
@click.argument("file", type=click.Path(exists=True, path_type=Path), metavar="FILE|FOLDER")
@click.option("--pattern", help="How text is cut, for ranks, which do not say: a name, none, or a regular expression.")
@click.option("--special", multiple=True, callback=_special, metavar="TEXT=ID", help="Likewise; may repeat.")
@_output
@json_option
@quiet_option
def import_(file: Path, pattern: str | None, special: dict[str, int], output: Path, as_json: bool, quiet: bool) -> None:
    """Read a tokenizer of any known format and write it as .bpetok, whose one file holds everything.

    The format is known by the content. A file of ranks (.tiktoken, Llama 3's tokenizer.model) holds neither the
    pattern nor the special tokens: both are asked for, unless it is a published file that is known.

    \b
    Examples:
      bpetok import ranks.tiktoken --pattern gpt4 --special '<|endoftext|>=300' -o new.bpetok
      bpetok import minbpe.model -o new.bpetok
    """
    formats.check_suffix(output)
    _check_place(output)
    specials = special if special or pattern is not None else None
    with _command_hint(f"bpetok import {file} --pattern gpt4 --special '<|endoftext|>=100257' -o {output}"):
        vocab = formats.read(file, pattern=pattern, special_tokens=specials)
    formats.write(vocab, output)
    about = {
        "output": str(output),
        "format": formats.recognise(file),
        "tokens": len(vocab.ranks),
        "special_tokens": dict(vocab.special_tokens),
        "pattern": str(vocab.split),
        "semantics": vocab.semantics,
        "fingerprint": vocab.fingerprint,
    }
    if as_json:
        print_json(about)
    elif not quiet:
        click.echo(
            f"{output}: from {about['format']}, {len(vocab.ranks):,} tokens and {len(vocab.special_tokens):,} special, "
            f"{vocab.split}, by {vocab.semantics}",
            err=True,
        )
        if drops := _held(vocab, output, formats.format_to_write(output).name)["drops"]:
            click.echo(f"drops {', '.join(drops)}: keep the source too", err=True)


@contextmanager
def _command_hint(hint: str) -> Iterator[None]:
    """Where the library's hint is a call of `bpetok.load`, this one stands in its place."""
    try:
        yield
    except errors.FormatError as error:
        if error.hint and error.hint.startswith("bpetok.load("):
            error.hint = hint
        raise


# ---- verify ------------------------------------------------------------------------------------------------------


@click.command(short_help="Whether a tokenizer is whole, or an export like its source.")
@tokenizer_argument
@click.option("--against", metavar="FILE|NAME", help="The source, whose ids it must give.")
@click.option("--text", "text_file", type=TextFile(), metavar="FILE", help="Encode this text too.")
@click.option("--renumbered", is_flag=True, help="The same tokens may have other ids, as tekken's have.")
@json_option
@click.pass_context
def verify(
    ctx: click.Context, tokenizer: str, against: str | None, text_file: str | None, renumbered: bool, as_json: bool
) -> None:
    """Check that a tokenizer keeps the rules and has its checksum, and gives a probe of many scripts the ids that the
    definition in plain Python gives; --against: the ids of another tokenizer. Other ids are exit code 4.

    \b
    Examples:
      bpetok verify my.bpetok
      bpetok verify tokenizer.bpetok --against my.bpetok --text text.txt
    """
    from bpetok import verify as library
    from bpetok.formats import probe

    if renumbered and against is None:
        raise click.UsageError("--renumbered: needs --against")
    tok = open_tokenizer(tokenizer)
    texts: list[str | bytes] = list(probe.texts(tok.vocab))
    mismatch, other = library.against_definition(tok, map(str, texts)), "the definition"
    if text_file is not None:
        with open_text(text_file) as file:
            texts.append(file.read())
    if mismatch is None and against is not None:
        source = open_tokenizer(against)
        mismatch, other = library.against(tok, source, texts, renumbered=renumbered), source.name
    about = {
        "tokenizer": tokenizer,
        "fingerprint": tok.fingerprint,
        "against": against,
        "same_fingerprint": None if against is None else source.fingerprint == tok.fingerprint,
        "unreachable_tokens": len(tok._encoder.unreachable()),
        "mismatch": None if mismatch is None else _about(mismatch, len(texts), text_file),
    }
    if as_json:
        print_json(about)
    else:
        _print_verdict(about, f"tokens of {other}" if renumbered else f"ids of {other}")
    ctx.exit(0 if mismatch is None else MISMATCH)


def _about(mismatch: Mismatch, texts: int, text_file: str | None) -> dict[str, Any]:
    where = "the probe" if text_file is None or mismatch.text != texts - 1 else text_file
    return {
        "where": "special tokens" if mismatch.text is None else where,
        "byte": mismatch.byte,
        "got": list(mismatch.got),
        "expected": list(mismatch.expected),
    }


def _print_verdict(about: dict[str, Any], expected: str) -> None:
    name = about["tokenizer"]
    if wrong := about["mismatch"]:
        click.echo(f"{name}: has not the {expected}: {wrong['where']}, byte {wrong['byte']}")
        click.echo(f"  got       {' '.join(map(str, wrong['got'])) or 'nothing'}")
        click.echo(f"  expected  {' '.join(map(str, wrong['expected'])) or 'nothing'}")
        return
    click.echo(f"{name}: keeps the rules, and has the {expected}; fingerprint {about['fingerprint']}")
    if about["same_fingerprint"] is False:
        click.echo("the fingerprints differ: so it is in what was tried, and not for certain in every text")
    if about["unreachable_tokens"]:
        click.echo(f"{about['unreachable_tokens']:,} tokens are made by no merge: ids only where they are a pretoken")
