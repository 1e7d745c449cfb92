"""The commands that make a tokenizer: train, and count-words, which does the first part of it."""

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
from cli.engine import engine_options, keeping_stdout
from cli.manners import json_option, open_tokenizer, print_json, progress, quiet_option, size

if TYPE_CHECKING:
    from bpetok import Tokenizer
    from bpetok.counting import Counted
    from bpetok.patterns import Pattern


_pattern_option = click.option(
    "--pattern", help="gpt4 (the default), gpt2, gpt4o, llama3 and so on, none, or a regular expression."
)
_field_option = click.option(
    "--field", default="text", show_default=True, help="Where a .jsonl or .parquet row has its text."
)


@click.command(short_help="Train a tokenizer on text.")
@click.argument("files", nargs=-1, type=click.Path(exists=True, allow_dash=True))
@click.option(
    "--counts",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="What count-words wrote, in place of its text; may repeat.",
)
@click.option(
    "--vocab-size",
    type=click.IntRange(256, 16_777_215),
    required=True,
    help="256 bytes and the merges; special tokens come on top.",
)
@_pattern_option
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
@_field_option
@click.option("--memory", callback=size, metavar="SIZE", help="Refuse to take more in all than this, such as 4GB.")
@engine_options
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
    counts: tuple[str, ...],
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
    .txt, .jsonl and .parquet files, or .counts files, which have their pattern. Special tokens in the text are text,
    and are learnt as such.

    \b
    Examples:
      bpetok train corpus.txt --vocab-size 32768 -o my.bpetok
      bpetok train books/ rows.jsonl --vocab-size 8192 --pattern gpt4o --special '<|user|>' -o my.bpetok
      bpetok train corpus.txt --vocab-size 8192 --held-out text.txt --memory 4GB --json -o my.bpetok
      bpetok train rows.jsonl --extend my.bpetok --vocab-size 400 -o larger.bpetok
      bpetok train --counts part0.counts --counts part1.counts --vocab-size 8192 -o my.bpetok
    """
    import bpetok

    _check_output(Path(output))
    files = (*counts, *files)
    if not files:
        raise click.UsageError("FILES: must be given, or --counts")
    if wrong := [file for file in counts if not file.endswith(bpetok.PretokenCounts.SUFFIX)]:
        raise click.UsageError(f"--counts: must be {bpetok.PretokenCounts.SUFFIX} files of count-words, got {wrong[0]}")
    if extend is not None and pattern is not None:
        raise click.UsageError("--pattern and --extend: give one of them; a tokenizer keeps its pattern")
    base = None if extend is None else open_tokenizer(extend)
    default = () if no_specials or base is not None else (END_OF_TEXT,)
    specials = list(dict.fromkeys([*default, *special]))
    sources = list(_sources(files))
    rules |= {"special_tokens": specials, "memory_limit": memory, "name": Path(output).stem}
    old = 256 if base is None else len(base.vocab.ranks)
    with _stages(sources, vocab_size - old, quiet) as stages, keeping_stdout(rules["engine"]):
        if base is None:
            split = _pattern(sources, pattern)
            tok = bpetok.train(sources, vocab_size, pattern=split, progress=stages.advance, **rules)
        else:
            tok = bpetok.extend(base, sources, vocab_size, progress=stages.advance, **rules)
        stages.advance("save", 0)
        tok.save(output)
    about = _summary(tok, output, stages.seconds(), held_out, rules["field"])
    if as_json:
        print_json(about)
    else:
        _report(tok, about, quiet)


@click.command(short_help="Count words, to train from the counts of many machines.")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, allow_dash=True))
@_pattern_option
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False), help="The .counts file to write.")
@_field_option
@click.option("--memory", callback=size, metavar="SIZE", help="Take no more in all than this, such as 2GB; see above.")
@json_option
@quiet_option
def count_words(
    files: tuple[str, ...],
    pattern: str | None,
    output: str,
    field: str,
    memory: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Count how often each pretoken occurs in files as `bpetok train` takes them, which may be .counts files too. To
    train from all the .counts files of a corpus gives the very tokenizer that its text gives. What has no room in
    --memory is written beside the output meanwhile: about as much as the text takes, where words hardly repeat.

    \b
    Examples:
      bpetok count-words corpus.txt books/ --pattern gpt4 -o part2.counts
      bpetok count-words rows.jsonl --field text --memory 2GB -o part3.counts
      bpetok count-words part0.counts part1.counts -o all.counts
      bpetok train --counts part0.counts --counts part1.counts --vocab-size 8192 -o my.bpetok
    """
    from bpetok import counting

    path = Path(output)
    if path.suffix != ".counts":
        raise click.UsageError(f"--output: the suffix must be .counts, got {path.suffix!r}")
    _check_folder(path)
    sources = list(_sources(files))
    began = time.monotonic()
    with _whole_bar(_bytes_of(sources), quiet) as advance:
        counted = counting.count_words(
            sources, path, pattern=_pattern(sources, pattern), field=field, memory_limit=memory, progress=advance
        )
    _report_counts(counted, path, time.monotonic() - began, as_json, quiet)


def _pattern(sources: list[Path | BinaryIO], pattern: str | None) -> Pattern:
    """The pattern that was named, else that of the first file of counts, else gpt4."""
    from bpetok import PretokenCounts, countfiles

    if pattern == "":
        raise click.UsageError("--pattern: must be a name or a regular expression, got none")
    if pattern is not None:
        return pattern
    for source in sources:
        if isinstance(source, Path) and source.suffix == PretokenCounts.SUFFIX:
            with countfiles.opened(source) as file:
                return file.split.regex
    return "gpt4"


def _check_output(path: Path) -> None:
    """Before the work, not after it."""
    from bpetok.errors import FormatError
    from bpetok.formats import check_suffix

    try:
        check_suffix(path)
    except FormatError as error:
        raise click.UsageError(error.message) from error
    _check_folder(path)


def _check_folder(path: Path) -> None:
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


def _bytes_of(sources: list[Path | BinaryIO]) -> int:
    return sum(source.stat().st_size for source in sources if isinstance(source, Path))


@contextmanager
def _whole_bar(total: int, quiet: bool) -> Iterator[Callable[[str, int], None]]:
    """A bar for all of a counting: by bytes of input, the work of merging what was spilled included."""
    from bpetok.counting import Forecast

    forecast, shown = Forecast(total), 0.0
    with progress("count", total or None, unit="B", quiet=quiet) as bar:

        def advance(stage: str, amount: int) -> None:
            nonlocal shown
            forecast.tell(stage, amount)
            now = max(forecast.share * total, shown)  # it never goes back, also where more was spilled than it seemed
            bar(now - shown if total else amount * (stage == "scan"))
            shown = now

        yield advance


@contextmanager
def _stages(sources: list[Path | BinaryIO], merges: int, quiet: bool) -> Iterator[_Stages]:
    with ExitStack() as stack:
        yield _Stages({"scan": (_bytes_of(sources), "B"), "merge": (merges, ""), "save": (1, "")}, stack, quiet)


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


def _report_counts(counted: Counted, path: Path, seconds: float, as_json: bool, quiet: bool) -> None:
    from dataclasses import asdict

    from bpetok import memory

    if as_json:
        print_json({"output": path, **asdict(counted), "seconds": round(seconds, 3), "peak_memory": memory.peak()})
    elif not quiet:
        click.echo(
            f"{path}: {counted.pretokens:,} pretokens, {counted.distinct:,} distinct, of {counted.bytes:,} bytes in "
            f"{counted.documents:,} documents, {counted.pattern}",
            err=True,
        )
