"""Shards: files of ids, written once and memory-mapped by whoever trains on them.

A folder holds `train_000000.bin`, `train_000001.bin` …, `val_000000.bin` …, an index `.idx` beside each, and
`manifest.json`. One file set is read by llm.c, modded-nanogpt, Megatron-LM, numpy and `open`; `bpetok.shards.layout`
has the bytes. The manifest names the vocabulary by its fingerprint, and every file with its size and sha256; it is
written last, so a folder with a manifest is whole.

The end-of-text id stands before each document, or after it where that is asked for. A document may go on in the next
file.

`build` makes shards of files, datasets and streams, with worker processes, and goes on where it was stopped; `write` of
documents at hand. `open` reads them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from bpetok.engines import is_ray
from bpetok.errors import SpecialTokenError
from bpetok.shards.building import SHARD_TOKENS, Build, Encode, Now, OnProgress, Options, Progress
from bpetok.shards.encoding import encode_here
from bpetok.shards.exporting import export
from bpetok.shards.layout import MAX_SHARD_TOKENS
from bpetok.shards.manifest import MANIFEST, PROBE, EndOfText, Manifest, Shard, probe_digest
from bpetok.shards.merging import merge
from bpetok.shards.reader import ShardSet, Split, is_folder, open
from bpetok.sources import Document, open_sources
from bpetok.sources.units import Reading
from bpetok.text import Text
from bpetok.threads import checked_threads, threads_or_all
from bpetok.tokenizer import Tokenizer

__all__ = [
    "MANIFEST",
    "MAX_SHARD_TOKENS",
    "PROBE",
    "SHARD_TOKENS",
    "Manifest",
    "Progress",
    "Shard",
    "ShardSet",
    "Split",
    "build",
    "export",
    "is_folder",
    "merge",
    "open",
    "probe_digest",
    "write",
]

OnError = Literal["raise", "skip"]
_WORTH_WORKERS = 1 << 24  # bytes of sources that take less time than processes to start


def build(
    sources: Sequence[Any],
    tokenizer: Tokenizer,
    folder: str | Path,
    *,
    shard_tokens: int = SHARD_TOKENS,
    val_fraction: float | None = None,
    end_of_text: EndOfText = "before",
    separator: str | None = None,
    field: str = "text",
    allowed_special: Collection[str] = (),
    on_error: OnError = "raise",
    workers: int | None = None,
    engine: str = "local",
    address: str | None = None,
    part: tuple[int, int] = (0, 1),
    restart: bool = False,
    progress: OnProgress | None = None,
) -> Manifest:
    """Makes a folder of shards from files, URLs, datasets and streams.

    The files are the same bytes for any number of workers. A call that was stopped, by whatever, is gone on with by the
    same call again: what was made durable is kept, and the result is that of a call that was never stopped. The files
    get their names when all of them are whole; until then everything is in a hidden folder `.build`.

    Special tokens in the text are text, unless they are allowed. Which documents validate is decided by a hash of
    their first 65,536 bytes (XXH64, seed 0), so it does not depend on their order; of fewer than 100 documents, the end
    of the text validates, cut at a line; where the hash picks none, the last document does.

    Args:
        sources: files, folders, patterns of names, URLs (`str` or `Path`): text, `.jsonl` or `.parquet`, also packed as
            `.gz`, `.zst`, `.xz` or `.bz2`; files and pipes that are open for reading bytes; datasets of Hugging Face;
            iterables of texts and rows. To go on with a pipe or an iterable it has to give the same again.
        tokenizer: must have "<|endoftext|>".
        folder: made if it is not there; must not hold shards yet.
        shard_tokens: ids to a file.
        val_fraction: share of the documents that validate, a hundredth unless told; of fewer than 100, share of the
            text, a tenth unless told. 0 for none at all.
        end_of_text: whether the end-of-text id stands "before" each document or "after" it.
        separator: text files hold several documents, with lines between them that are exactly this; None: each is one.
        field: where a row has its text.
        allowed_special: special tokens that become their id where the text holds them.
        on_error: "raise" refuses a row that is no document; "skip" leaves it out, and the manifest says so.
        workers: how many processes encode; None for as many as there are processors to use. One is this process.
        engine: "local", or "ray" for the workers of a Ray cluster; see `bpetok.cluster`. The files are the same bytes,
            and what one engine began the other goes on with.
        address: of the cluster, as `ray.init` takes it; None to start one on this machine for this call.
        part: (i, n): only the i-th of n parts of the sources, from 0; `merge` puts their folders together.
        restart: begin anew, whatever an earlier call had done here.
        progress: called with a `Progress` now and then. An exception of its own stops the build, which can be gone on
            with.

    Returns:
        The manifest.

    Raises:
        DataError: there is no text, a row is no document, or an argument is out of range.
        UnknownTokenError: the tokenizer has no end-of-text token.
        SpecialTokenError: a special token to allow is none of the tokenizer's.
        FormatError: the folder holds shards already, or another call is writing there.
        IncompatibleError: the folder holds an unfinished build of something else.
        WorkerError: a worker died; the message names what it was encoding. Or there is no cluster at the address.
        MissingExtraError: an optional package is needed that is not installed.
        OSError: a source cannot be read, or the disk is full; free some and make the same call again.
    """
    if isinstance(sources, str | bytes | Path):
        raise TypeError(f"shards: sources must be a list of them, got {sources!r:.80}")
    if not isinstance(tokenizer, Tokenizer):
        raise TypeError(f"shards: tokenizer must be a Tokenizer, got {tokenizer!r:.80}; get_encoding(name) gives one")
    options = Options(shard_tokens, val_fraction, end_of_text, separator, field, frozenset(allowed_special), part)
    options.check()
    if unknown := options.allowed_special - tokenizer.special_tokens_set:
        raise SpecialTokenError(f"shards: allowed_special must be special tokens, got {sorted(unknown)[0]!r}")
    on_ray = is_ray("shards", engine, address, workers)
    reading = _reading(tokenizer, options, on_error)
    opened = open_sources(sources, reading)
    work = Build(Path(folder), tokenizer, options, opened, restart)
    count = threads_or_all(workers) if workers is None or work.total is None else checked_threads(workers)
    if workers is None and work.total is not None and work.total < _WORTH_WORKERS:
        count = 1
    on_progress = progress or _say_nothing
    if count == 1 and not on_ray:
        return work.run(encode_here, Now(), on_progress)
    from concurrent.futures import ThreadPoolExecutor

    if on_ray:
        from bpetok.shards.ray import encode_by_ray

        encode: Encode = partial(encode_by_ray, address=address, workers=workers)
    else:
        from bpetok.shards.workers import encode_by_workers

        encode = partial(encode_by_workers, workers=count)
    with ThreadPoolExecutor(1, thread_name_prefix="bpetok-shards") as background:
        return work.run(encode, background, on_progress)


def write(
    documents: Iterable[Document | Text],
    tokenizer: Tokenizer,
    folder: str | Path,
    *,
    shard_tokens: int = SHARD_TOKENS,
    val_fraction: float | None = None,
    end_of_text: EndOfText = "before",
) -> Manifest:
    """Makes a folder of shards from documents at hand, in this process; see `build`, whose arguments these are.

    A call that fails leaves nothing behind.

    Raises:
        DataError: there is no text, or an argument is out of range.
        UnknownTokenError: the tokenizer has no end-of-text token.
        FormatError: the folder holds shards already.
    """
    options = Options(shard_tokens, val_fraction, end_of_text, None, "text", frozenset(), (0, 1))
    options.check()
    opened = open_sources([documents], _reading(tokenizer, options, "raise"))
    work = Build(Path(folder), tokenizer, options, opened, restart=True)
    try:
        return work.run(encode_here, Now(), _say_nothing)
    except BaseException:
        work.undo()
        raise


def _reading(tokenizer: Tokenizer, options: Options, on_error: OnError) -> Reading:
    normalization = tokenizer.vocab.normalization
    scanner = None if normalization else tokenizer.vocab.split.scanner
    if any("\n" in text for text in options.allowed_special):
        scanner = None
    cut_at_lines = bool(options.allowed_special)
    return Reading(
        field=options.field, separator=options.separator, scanner=scanner, on_error=on_error, cut_at_lines=cut_at_lines
    )


def _say_nothing(progress: Progress) -> None:
    return None
