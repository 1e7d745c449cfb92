"""Commands about datasets of ids: shard."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from cli.engine import engine_options, keeping_stdout
from cli.manners import (
    STOPPED,
    Advance,
    allow_special_option,
    allowed_specials,
    json_option,
    open_tokenizer,
    print_facts,
    print_json,
    progress,
    quiet_option,
    short,
    tokenizer_option,
)

if TYPE_CHECKING:
    from bpetok.shards import Manifest, Progress


_MOST_SKIPPED_SHOWN = 10


@click.command(short_help="Text to shards of ids.")
@click.argument("files", nargs=-1, type=str)
@tokenizer_option
@click.option("-o", "--output", required=True, type=click.Path(file_okay=False), help="The folder to write.")
@click.option("--shard-tokens", type=click.IntRange(min=1), help="Ids to a file.  [default: 100,000,000]")
@click.option("--val-fraction", type=float, help="Share that validates; see above.")
@click.option(
    "--end-of-text",
    type=click.Choice(["before", "after"]),
    default="before",
    show_default=True,
    help="Where the end-of-text id stands, at each document.",
)
@click.option("--separator", metavar="LINE", help="Text files are cut into documents at lines that are exactly this.")
@click.option("--field", "--column", default="text", show_default=True, help="Where a row has its text.")
@allow_special_option
@click.option(
    "--on-error",
    type=click.Choice(["raise", "skip"]),
    default="raise",
    show_default=True,
    help="What becomes of a row that is no document.",
)
@click.option("--dataset", metavar="NAME", help="A dataset of Hugging Face, or a folder of `save_to_disk`.")
@click.option("--split", default="train", show_default=True, help="Of the dataset.")
@click.option("--config", metavar="NAME", help="Of the dataset.")
@click.option("--streaming", is_flag=True, help="Do not download the dataset first.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes that encode.  [default: one a processor]")
@engine_options
@click.option("--num-parts", type=click.IntRange(min=1), help="Of how many parts of the sources this call takes one.")
@click.option("--part", type=click.IntRange(min=0), help="Which of them, from 0.")
@click.option("--merge", is_flag=True, help="Put folders of shards together to one.")
@click.option("--restart", is_flag=True, help="Do not go on where an earlier call was stopped.")
@click.option("--dry-run", is_flag=True, help="Say what would be done.")
@json_option
@quiet_option
def shard(
    files: tuple[str, ...],
    tokenizer: str,
    output: str,
    allow_special: tuple[str, ...],
    num_parts: int | None,
    part: int | None,
    merge: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    **how: Any,
) -> None:
    """Encode text files, .jsonl or .parquet files, folders of them, datasets or standard input (-) into llm.c's .bin
    files, with Megatron's .idx beside each and a manifest. Files may be packed (.gz, .zst, .xz, .bz2), and URLs.

    A text file is one document unless there is a --separator, a row is one. The id of <|endoftext|> stands before each;
    special tokens in the text are text. Of 100 documents or more, one in a hundred validates; of fewer, the last tenth
    of the text does, cut at a line; --val-fraction sets another share. A call that was stopped is gone on with by the
    same call.

    \b
    Examples:
      bpetok shard corpus.txt -t my.bpetok -o shards
      bpetok shard corpus.txt rows.jsonl -t gpt2 -o mixed --shard-tokens 10000000 --workers 2
      bpetok shard stories.txt --separator '<|endoftext|>' -o stories
      bpetok shard rows.jsonl --num-parts 2 --part 0 -o part-0
      bpetok shard rows.jsonl --num-parts 2 --part 1 -o part-1
      bpetok shard --merge part-0 part-1 -o all
    """
    from bpetok import shards

    if merge:
        _check_alone("merge", ("files", "output", "merge", "as_json", "quiet"))
        _report(shards.merge(files, output), output, as_json, quiet)
        return
    if (num_parts is None) != (part is None):
        raise click.UsageError("--num-parts and --part: give both or neither")
    if num_parts is not None and part is not None and part >= num_parts:
        raise click.UsageError(f"--part: must be under --num-parts, {num_parts}, got {part}")
    tok = open_tokenizer(tokenizer)
    sources = _sources(files, how)
    how |= {"allowed_special": allowed_specials(tok, allow_special), "part": (part or 0, num_parts or 1)}
    if dry_run:
        _say_plan(sources, tok.name, output, how, as_json)
        return
    with _stoppable(), _Bar(quiet) as bar, keeping_stdout(how["engine"]):
        manifest = shards.build(sources, tok, output, progress=bar.show, **how)
    _report(manifest, output, as_json, quiet)
    documents = sum(shard.documents for shard in manifest.of_split("train"))
    if how["separator"] is not None and 0 < documents <= len(manifest.sources) and not quiet:
        click.echo(f"--separator: no file has a line that is exactly {how['separator']!r}", err=True)


def _check_alone(name: str, allowed: tuple[str, ...]) -> None:
    """Makes sure that an option is given without others that it has no use for."""
    ctx = click.get_current_context()
    for parameter in ctx.command.params:
        given = ctx.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
        if given and parameter.name not in allowed:
            raise click.UsageError(f"--{name}: must be given without {parameter.opts[0]}")


def _sources(files: tuple[str, ...], how: dict[str, Any]) -> list[Any]:
    """What to read, as the library takes it; takes the options about datasets out of `how`."""
    name, split, config, streaming = (how.pop(key) for key in ("dataset", "split", "config", "streaming"))
    how["shard_tokens"] = how["shard_tokens"] or 100_000_000
    sources: list[Any] = [sys.stdin.buffer if file == "-" else file for file in files]
    if name is not None:
        from bpetok.sources.hub import open_dataset

        sources.append(open_dataset(name, config=config, split=split, streaming=streaming))
    if not sources:
        raise click.UsageError("FILES: must be files, folders, URLs or -, or there must be a --dataset")
    return sources


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Says that the work can be gone on with, where Ctrl-C or the system stops it."""
    go_on = "the same command goes on where this one stopped"

    def stop(number: int, frame: object) -> None:
        click.echo(f"stopped by {signal.Signals(number).name}\nhint: {go_on}", err=True)
        raise click.exceptions.Exit(STOPPED)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(go_on) from None
    finally:
        signal.signal(signal.SIGTERM, before)


class _Bar:
    """Shows documents, tokens a second and the time left."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._stack = contextlib.ExitStack()
        self._advance: Advance | None = None
        self._last = self._first = (0, 0)
        self._began = time.monotonic()

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def show(self, now: Progress) -> None:
        if self._advance is None:
            self._first = self._last = now.before, now.tokens
            if now.before and not self._quiet:
                click.echo(f"goes on where an earlier call stopped: {now.before:,} bytes are done", err=True)
            bar = progress("shard", now.total, unit="B", done=now.before, quiet=self._quiet)
            self._advance = self._stack.enter_context(bar)
        seconds = max(time.monotonic() - self._began, 1e-9)
        rate = short((now.tokens - self._first[1]) / seconds)
        self._advance(now.done - self._last[0], f"{now.documents:,} documents, {rate}tokens/s")
        self._last = now.done, now.tokens


def _report(manifest: Manifest, output: str, as_json: bool, quiet: bool) -> None:
    totals = _totals(manifest)
    if as_json:
        about = {"output": output, "fingerprint": manifest.fingerprint, "splits": totals, "skipped": manifest.skipped}
        print_json({**about, "skipped_shown": list(manifest.skipped_shown)})
    elif not quiet:
        if not totals:
            click.echo(f"{output}: no document begins in this part", err=True)
        for split, total in totals.items():
            parts = ", ".join(f"{value:,} {key}" for key, value in total.items())
            click.echo(f"{output} {split}: {parts}", err=True)
    if manifest.skipped and not as_json:
        shown = manifest.skipped_shown[:_MOST_SKIPPED_SHOWN]
        more = f"\n  and {manifest.skipped - len(shown):,} more" * (manifest.skipped > len(shown))
        click.echo(f"{output}: {manifest.skipped:,} rows were left out:\n  " + "\n  ".join(shown) + more, err=True)


def _totals(manifest: Manifest) -> dict[str, dict[str, int]]:
    totals: dict[str, dict[str, int]] = {}
    for shard in manifest.shards:
        total = totals.setdefault(shard.split, {"files": 0, "ids": 0, "documents": 0, "bytes": 0})
        total["files"] += 1
        total["ids"] += shard.tokens
        total["documents"] += shard.documents
        total["bytes"] += shard.text_bytes
    return totals


def _say_plan(sources: list[Any], tokenizer: str, output: str, how: dict[str, Any], as_json: bool) -> None:
    from bpetok.sources import open_sources

    opened = open_sources(sources)
    found = [{"name": source.name, "bytes": source.size} for source in opened]
    told = {key: sorted(value) if isinstance(value, frozenset) else value for key, value in how.items()}
    if as_json:
        print_json({"output": output, "tokenizer": tokenizer, "sources": found, "arguments": told})
        return
    print_facts({"output": output, "tokenizer": tokenizer, **{key: told[key] for key in told if told[key] is not None}})
    for source in found:
        click.echo(f"{source['name']}: {'unknown size' if source['bytes'] is None else format(source['bytes'], ',')}")
