"""The command that makes a tokenizer: train."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from bpetok.training import TIE_BREAKS
from bpetok.vocab import END_OF_TEXT
from cli.manners import json_option, open_tokenizer, print_json, progress, quiet_option, size

if TYPE_CHECKING:
    from bpetok import Tokenizer


@click.command(short_help="Train a tokenizer on text.")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, allow_dash=True))
@click.option(
    "--vocab-size",
    type=click.IntRange(256, 16_777_215),
    required=True,
    help="256 bytes and the merges; special tokens come on top.",
)
@click.option("--pattern", help="gpt4 (the default), gpt2, gpt4o, llama3 and so on, none, or a regular expression.")
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False), help=".bpetok, .tiktoken or .model.")
@click.option("--special", multiple=True, metavar="TEXT", help=f"A special token besides {END_OF_TEXT}; may repeat.")
@click.option("--no-specials", is_flag=True, help=f"Do not add {END_OF_TEXT}.")
@click.option("--extend", metavar="FILE|NAME", help="Keep the tokens of this tokenizer, and its pattern; add to them.")
@click.option(
    "--tie-break",
    type=click.Choice(TIE_BREAKS),
    default="smallest",
    show_default=True,
    help="Which of equally frequent pairs merges first.",
)
@click.option("--min-count", type=click.IntRange(1, 2**62), default=1, show_default=True, help="Merge no rarer pair.")
@click.option("--max-token-bytes", type=click.IntRange(1, 2**62), help="Make no longer token.")
@click.option("--field", default="text", show_default=True, help="Where a .jsonl or .parquet row has its text.")
@click.option("--memory", callback=size, metavar="SIZE", help="Refuse to take more in all than this, such as 4GB.")
@click.option(
    "--held-out",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Text that is not trained on, to measure the result.",
)
@json_option
@quiet_option
def train(
    files: tuple[str, ...],
    vocab_size: int,
    pattern: str | None,
    output: str,
    special: tuple[str, ...],
    no_specials: bool,
    extend: str | None,
    held_out: Path | None,
    memory: int | None,
    as_json: bool,
    quiet: bool,
    **rules: Any,
) -> None:
    """Train a tokenizer on text files (`-` is standard input), .jsonl or .parquet files with a text a row, folders of
    .txt, .jsonl and .parquet files, or .counts files. Special tokens in the text are text, and are learnt as such.

    \b
    Examples:
      bpetok train corpus.txt --vocab-size 32768 -o my.bpetok
      bpetok train books/ rows.jsonl --vocab-size 8192 --pattern gpt4o --special '<|user|>' -o my.bpetok
      bpetok train corpus.txt --vocab-size 8192 --held-out text.txt --memory 4GB --json -o my.bpetok
      bpetok train rows.jsonl --extend my.bpetok --vocab-size 400 -o larger.bpetok
    """
    import bpetok

    _check_output(Path(output))
    if extend is not None and pattern is not None:
        raise click.UsageError("--pattern and --extend: give one of them; a tokenizer keeps its pattern")
    if pattern == "":
        raise click.UsageError("--pattern: must be a name or a regular expression, got none")
    base = None if extend is None else open_tokenizer(extend)
    default = () if no_specials or base is not None else (END_OF_TEXT,)
    specials = list(dict.fromkeys([*default, *special]))
    sources = list(_sources(files))
    rules |= {"special_tokens": specials, "memory_limit": memory, "name": Path(output).stem}
    old = 256 if base is None else len(base.vocab.ranks)
    with _stages(sources, vocab_size - old, quiet) as stages:
        if base is None:
            tok = bpetok.train(sources, vocab_size, pattern=pattern or "gpt4", progress=stages.advance, **rules)
        else:
            tok = bpetok.extend(base, sources, vocab_size, progress=stages.advance, **rules)
        stages.advance("save", 0)
        tok.save(output)
    about = _summary(tok, output, stages.seconds(), held_out, rules["field"])
    if as_json:
        print_json(about)
    else:
        _report(tok, about, quiet)


def _check_output(path: Path) -> None:
    """Before the work, not after it."""
    from bpetok.errors import FormatError
    from bpetok.formats import check_suffix

    try:
        check_suffix(path)
    except FormatError as error:
        raise click.UsageError(error.message) from error
    if not path.absolute().parent.is_dir():
        raise click.UsageError(f"--output: {path.parent} must be a folder")
    if not os.access(path.absolute().parent, os.W_OK):
        raise click.UsageError(f"--output: {path.parent} must be a folder that may be written to")


def _sources(files: tuple[str, ...]) -> Iterator[Path | BinaryIO]:
    from bpetok.sources import expand

    for file in files:
        if file == "-":
            yield sys.stdin.buffer
        else:
            yield from expand([file])


class _Stages:
    """A bar for the text scanned, then one for the merges made; and how long each took."""

    def __init__(self, totals: dict[str, tuple[int, str]], stack: ExitStack, quiet: bool) -> None:
        self._totals, self._stack, self._quiet = totals, stack, quiet
        self._began: dict[str, float] = {}
        self._bar: Callable[[float], None] = lambda amount: None

    def advance(self, stage: str, amount: int) -> None:
        if stage not in self._began:
            self._began[stage] = time.monotonic()
            self._stack.close()
            total, unit = self._totals[stage]
            self._bar = self._stack.enter_context(progress(stage, total, unit=unit, quiet=self._quiet))
        self._bar(amount)

    def seconds(self) -> dict[str, float]:
        ends = [*self._began.values(), time.monotonic()][1:]
        return {stage: round(end - begin, 3) for (stage, begin), end in zip(self._began.items(), ends, strict=True)}


@contextmanager
def _stages(sources: list[Path | BinaryIO], merges: int, quiet: bool) -> Iterator[_Stages]:
    scanned = sum(source.stat().st_size for source in sources if isinstance(source, Path))
    with ExitStack() as stack:
        yield _Stages({"scan": (scanned, "B"), "merge": (merges, ""), "save": (1, "")}, stack, quiet)


# ---- what came of it ---------------------------------------------------------------------------------------------


def _summary(
    tok: Tokenizer, output: str, seconds: dict[str, float], held_out: Path | None, field: str
) -> dict[str, Any]:
    from bpetok import memory

    provenance = dict(tok.vocab.provenance)
    bytes_per_token = {"training": round(provenance["bytes"] / provenance["tokens"], 4)}
    if held_out is not None:
        bytes_per_token["held_out"] = _bytes_per_token(tok, held_out, field)
    return {
        "output": output,
        "fingerprint": tok.fingerprint,
        "vocab_size": len(tok.vocab.ranks),
        "ids": tok.n_vocab,
        "bytes_per_token": bytes_per_token,
        "seconds": seconds,
        "peak_memory": memory.peak(),
        "provenance": provenance,
    }


def _bytes_per_token(tok: Tokenizer, file: Path, field: str) -> float:
    from bpetok.errors import DataError
    from bpetok.sources import read_documents

    bytes_ = tokens = 0
    for document in read_documents([file], field=field):
        bytes_ += len(document.text)
        tokens += tok.count(document.text)
    if tokens == 0:
        raise DataError(f"--held-out: {file} must hold text, got none")
    return round(bytes_ / tokens, 4)


def _report(tok: Tokenizer, about: dict[str, Any], quiet: bool) -> None:
    if stopped := about["provenance"].get("stopped"):
        click.echo(f"stopped {stopped}", err=True)
    if about["output"].endswith(".tiktoken"):
        click.echo("a file of ranks holds neither the pattern nor the special tokens: keep a .bpetok too", err=True)
    if not quiet:
        ratios = about["bytes_per_token"]
        texts = " and ".join(f"{ratios[of]:.2f} of the {of.replace('_', '-')} text" for of in ratios)
        click.echo(
            f"{about['output']}: {about['vocab_size']:,} tokens and {len(tok.special_tokens_set)} special, "
            f"{tok.vocab.split}; bytes per token: {texts}",
            err=True,
        )
