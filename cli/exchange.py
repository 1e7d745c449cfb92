"""Commands that take a vocabulary, or shards, from one program to another: export, import, verify."""

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
    progress,
    quiet_option,
    short,
    tokenizer_names,
)

if TYPE_CHECKING:
    from bpetok import Vocab
    from bpetok.verify import Mismatch

SHARD_FORMATS = ("npy", "nanogpt", "datatrove", "parquet")  # bpetok.shards.exporting has them, and more to import
_NANOGPT_VOCABULARY = 50_304  # what its train.py assumes

_output = click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The file or folder.")


# ---- export, import ----------------------------------------------------------------------------------------------


@click.command(short_help="A tokenizer, or shards, to another program's format.")
@click.argument("what", metavar="FILE|NAME|FOLDER", shell_complete=tokenizer_names)
@click.option(
    "--to",
    "format_name",
    type=click.Choice([*formats.NAMES, *SHARD_FORMATS]),
    help="The format; else the output's name says, but not of shards.",
)
@_output
@json_option
@quiet_option
def export(what: str, format_name: str | None, output: Path, as_json: bool, quiet: bool) -> None:
    """Write a tokenizer, or a folder of shards, in the format of another program, and say what that format holds of
    it, and what not.

    A tokenizer. bpetok: our own. tiktoken: ranks alone. tiktoken-plugin: a folder for tiktoken.get_encoding.
    huggingface: a folder for AutoTokenizer, or a tokenizer.json. minbpe: a .model. tekken: Mistral's. gguf:
    llama.cpp's. What the program cannot do exactly is refused.

    A folder of shards, which llm.c, modded-nanogpt and Megatron-LM read as they are. npy: build-nanogpt's. nanogpt:
    bare ids. datatrove: .ds with its index. parquet: a row for each document. Never over files that are there.

    \b
    Examples:
      bpetok export my.bpetok --to huggingface -o exported
      bpetok export my.bpetok -o my.tiktoken
      bpetok export shards --to npy -o edu_fineweb10B
    """
    from bpetok.formats import format_to_write
    from bpetok.shards.reader import is_folder

    _check_place(output)
    of_shards = is_folder(what)
    if of_shards != (format_name in SHARD_FORMATS):
        names, got = SHARD_FORMATS if of_shards else formats.NAMES, format_name or "none"
        kind = "a folder of shards" if of_shards else "a tokenizer"
        if of_shards or format_name is not None:
            raise click.UsageError(f"--to: must be one of {', '.join(names)} for {kind}, got {got}")
    if of_shards:
        _export_shards(what, str(format_name), output, as_json, quiet)
        return
    vocab = open_tokenizer(what).vocab
    name = format_to_write(output, format_name).name
    formats.write(vocab, output, format=name)
    about = {"output": str(output), "format": name, **_held(vocab, output, name)}
    if as_json:
        print_json(about)
    elif not quiet:
        click.echo(f"{output}: {name}, keeps {', '.join(about['keeps']) or 'nothing'}", err=True)
        if about["drops"]:
            click.echo(f"drops {', '.join(about['drops'])}: keep the source too", err=True)


def _export_shards(folder: str, name: str, output: Path, as_json: bool, quiet: bool) -> None:
    from bpetok import shards
    from bpetok.shards import exporting

    opened = shards.open(folder)
    ids = sum(map(len, opened.splits.values()))
    with progress("export", ids, unit=" ids", quiet=quiet) as advance:
        paths = exporting.export(opened, output, to=name, progress=advance)
    files = [path.relative_to(output).as_posix() for path in paths]
    if as_json:
        print_json({"output": str(output), "format": name, "ids": ids, "files": files})
    elif not quiet:
        click.echo(f"{output}: {name}, {ids:,} ids in {len(files):,} files", err=True)
        if name == "nanogpt" and opened.manifest.vocab_size > _NANOGPT_VOCABULARY:
            click.echo(f"nanoGPT's train.py must have a vocab_size of {opened.manifest.vocab_size:,}", err=True)


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


@click.command(short_help="Whether a tokenizer or shards are whole, or an export is like its source.")
@click.argument("what", metavar="FILE|NAME|FOLDER", shell_complete=tokenizer_names)
@click.option("--against", metavar="FILE|NAME", help="The source, whose ids it must give.")
@click.option("--text", "text_file", type=TextFile(), metavar="FILE", help="Encode this text too.")
@click.option("--renumbered", is_flag=True, help="The same tokens may have other ids, as tekken's have.")
@click.option(
    "-t", "--tokenizer", metavar="FILE|NAME", shell_complete=tokenizer_names, help="It must have made the shards."
)
@json_option
@quiet_option
@click.pass_context
def verify(
    ctx: click.Context,
    what: str,
    against: str | None,
    text_file: str | None,
    renumbered: bool,
    tokenizer: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Check that a tokenizer keeps the rules and has its checksum, and gives a probe of many scripts the ids that the
    definition in plain Python gives; --against: the ids of another tokenizer. Other ids are exit code 4.

    Of a folder of shards: read all files and hold them against their checksums. One that was altered, cut, exchanged,
    added or is gone is exit code 4; -t: another tokenizer than the one that made them is exit code 5.

    \b
    Examples:
      bpetok verify my.bpetok
      bpetok verify tokenizer.bpetok --against my.bpetok --text text.txt
      bpetok verify shards -t my.bpetok
    """
    from bpetok.shards.reader import is_folder

    if is_folder(what):
        if against is not None or text_file is not None or renumbered:
            raise click.UsageError("--against, --text and --renumbered: need a tokenizer, and no folder of shards")
        _verify_shards(what, tokenizer, as_json, quiet)
        return
    if tokenizer is not None:
        raise click.UsageError("--tokenizer: needs a folder of shards; --against names another tokenizer")
    if renumbered and against is None:
        raise click.UsageError("--renumbered: needs --against")
    about = _verify_tokenizer(what, against, text_file, renumbered)
    if as_json:
        print_json(about)
    else:
        of = about.pop("held_against")
        _print_verdict(about, f"tokens of {of}" if renumbered else f"ids of {of}")
    ctx.exit(0 if about["mismatch"] is None else MISMATCH)


def _verify_shards(folder: str, tokenizer: str | None, as_json: bool, quiet: bool) -> None:
    import time

    from bpetok import shards

    opened = shards.open(folder)
    if tokenizer is not None:
        opened.check(open_tokenizer(tokenizer))
    started = time.perf_counter()
    with progress("verify", opened.file_bytes, unit="B", quiet=quiet) as advance:
        opened.verify(progress=advance)
    seconds = time.perf_counter() - started
    about = {
        "folder": folder,
        "files": 2 * len(opened.manifest.shards) + 1,
        "bytes": opened.file_bytes,
        "seconds": seconds,
        "fingerprint": opened.manifest.fingerprint,
        "tokenizer": tokenizer,
    }
    if as_json:
        print_json(about)
    else:
        made = "" if tokenizer is None else f", made by {tokenizer}"
        rate = short(opened.file_bytes / seconds)
        click.echo(
            f"{folder}: {about['files']:,} files are as they were written{made}; {opened.file_bytes:,} bytes, {rate}B/s"
        )


def _verify_tokenizer(what: str, against: str | None, text_file: str | None, renumbered: bool) -> dict[str, Any]:
    from bpetok import verify as library
    from bpetok.formats import probe

    tok = open_tokenizer(what)
    texts: list[str | bytes] = list(probe.texts(tok.vocab))
    mismatch, other = library.against_definition(tok, map(str, texts)), "the definition"
    if text_file is not None:
        with open_text(text_file) as file:
            texts.append(file.read())
    if mismatch is None and against is not None:
        source = open_tokenizer(against)
        mismatch, other = library.against(tok, source, texts, renumbered=renumbered), source.name
    return {
        "tokenizer": what,
        "fingerprint": tok.fingerprint,
        "against": against,
        "same_fingerprint": None if against is None else source.fingerprint == tok.fingerprint,
        "unreachable_tokens": len(tok._encoder.unreachable()),
        "mismatch": None if mismatch is None else _about(mismatch, len(texts), text_file),
        "held_against": other,
    }


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
