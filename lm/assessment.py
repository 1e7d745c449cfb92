"""Assessment: what the model of a run makes of a text that is named and hashed.

So two figures compare, or do not, at sight.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from torch import Tensor

import bpetok
import bpetok.shards
from bpetok.errors import CorruptionError, DataError, IncompatibleError
from bpetok.shards.manifest import EndOfText
from lm.alphabet import Alphabet, Vocabulary
from lm.batches import IGNORE, AnySplit, Cuttable, cut
from lm.config import Config, DataConfig, TextConfig
from lm.data import documents_of_rows, open_data
from lm.errors import ConfigError, NonFiniteError, require
from lm.evaluate import DIVERGED, Evaluation, Sliding, evaluate
from lm.examples import Lines, Stream, Windows
from lm.models.contract import PAD, LanguageModel
from lm.parallel import fitting_threads, pick_device, pick_dtype
from lm.sample import checkpoint_of, end_of_text, load_run


@final
@dataclass(frozen=True, kw_only=True)
class RunEvaluation:
    """What the model of a run makes of a text, and which text that was.

    Two losses compare where vocabulary and `ids_sha256` are the same; bits per byte compare across vocabularies where
    `text_sha256` is the same. How much of its past each target sees (`context`, `stride`, `rows_are`) counts in both.

    Args:
        run: its folder.
        checkpoint: the one that was read.
        split: "train", "val" or "test", or "text" where a file was given.
        source: where its ids or its text lie.
        evaluation: the figures.
        vocabulary: the fingerprint of what makes ids of text.
        ids_sha256: of the targets that were predicted, each as a little-endian uint32, in the order of the text.
        text_sha256: of the bytes of text that they stand for, special tokens left out.
        rows_are: "blocks", "windows" or "lines".
        context: T.
        stride: targets per block; T unless told.
        device: where it ran.
        dtype: of the matrix products.
    """

    run: Path
    checkpoint: str
    split: str
    source: str
    evaluation: Evaluation
    vocabulary: str
    ids_sha256: str
    text_sha256: str
    rows_are: str
    context: int
    stride: int
    device: str
    dtype: str


def evaluate_run(
    run_dir: str | Path,
    data: str | Path | None = None,
    *,
    split: str = "val",
    batches: int | None = None,
    rows: int | None = None,
    stride: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
    best: bool = False,
    on_progress: Callable[[int, int], object] | None = None,
) -> RunEvaluation:
    """The loss of a run's model on a whole split of its data, or on another text.

    Args:
        run_dir: a folder that `lm.train` filled.
        data: in place of the run's own data a file of UTF-8, read behind an end-of-text id where the vocabulary has
            one, or a folder of shards.
        split: "val", "test" (of a run on lines) or "train"; of no meaning for a file.
        batches: the most batches to read; all where left out.
        rows: B; as many as fit easily where left out. No figure depends on it but for rounding.
        stride: see `Sliding`; for blocks only.
        device: as `run.device`.
        dtype: as `run.dtype`.
        best: take the run's best checkpoint in place of the latest.
        on_progress: called after each batch with how many targets are done, and of how many.

    Raises:
        CheckpointError: if there is no checkpoint, or it is damaged.
        ConfigError: if the split, or another argument, is not one that the data have.
        CorruptionError: if a file of the split is not as it was written.
        IncompatibleError: if data and run have not the same vocabulary.
        DataError: if a text is not UTF-8, or has characters that the vocabulary lacks, or is too short.
        NonFiniteError: if the model gives nan or infinity.
    """
    for name, value in (("batches", batches), ("rows", rows)):
        require(value is None or value >= 1, f"evaluate: {name}", "at least 1", value)
    model, vocabulary, config = load_run(run_dir, pick_device(device), best=best)
    on = next(model.parameters()).device
    product_dtype = pick_dtype(dtype, on)
    text = _open(config, vocabulary, split, None if data is None else Path(data))
    ids = text.ids
    if stride is not None:
        if isinstance(ids, Cuttable):
            raise ConfigError(f"evaluate: stride must be left out where rows are {text.rows_are}, got {stride}")
        ids = Sliding(ids, stride)
    width = text.width(model.context)
    count = cut(ids, model.context).count
    rows = max(1, min(count, fitting_tokens(model, config.batch.rows) // width)) if rows is None else rows
    batches = -(-count // rows) if batches is None else batches
    read = _Digests(vocabulary, min(text.targets, rows * batches * min(width, stride or width)), on_progress)
    with fitting_threads(rows * width * model.expected_parameters()):
        figures = evaluate(
            model,
            ids,
            token_bytes=vocabulary.token_byte_lengths(),
            rows=rows,
            batches=batches,
            dtype=product_dtype,
            on_batch=read.add,
            documents=documents_of_rows(config, separator=end_of_text(vocabulary), stands=text.stands),
        )
    if not math.isfinite(figures.loss):
        raise NonFiniteError(f"evaluate: loss must be finite, got {figures.loss}", hint=DIVERGED)
    return RunEvaluation(
        run=Path(run_dir),
        checkpoint=checkpoint_of(run_dir, best=best).name,
        split=text.name,
        source=text.source,
        evaluation=figures,
        vocabulary=vocabulary.fingerprint,
        ids_sha256=read.ids.hexdigest(),
        text_sha256=read.text.hexdigest(),
        rows_are=text.rows_are,
        context=model.context,
        stride=model.context if stride is None else stride,
        device=on.type,
        dtype=str(product_dtype).removeprefix("torch."),
    )


def fitting_tokens(model: LanguageModel, rows: int) -> int:
    """How many ids of a batch the model can surely be given at once, without gradients.

    Args:
        model: on its device.
        rows: of full length; the run was trained with as many at once, on CUDA perhaps.

    Returns:
        on CUDA the ids of those rows; elsewhere as many as have 256 MiB of logits, 32,768 at the most, but a full row.
    """
    if next(model.parameters()).device.type == "cuda":
        return rows * model.context
    return max(model.context, min(_MOST_TOKENS, _LOGIT_BYTES // (4 * model.vocab_size)))


_LOGIT_BYTES = 256 * 2**20
_MOST_TOKENS = 32_768


@final
@dataclass(frozen=True, kw_only=True)
class _Text:
    """The ids to evaluate on, and what they are called."""

    ids: AnySplit
    name: str
    source: str
    stands: EndOfText = "before"

    @property
    def rows_are(self) -> str:
        return "windows" if isinstance(self.ids, Windows) else "lines" if isinstance(self.ids, Lines) else "blocks"

    @property
    def targets(self) -> int:
        """The first id of blocks is none."""
        return self.ids.tokens - (self.rows_are == "blocks")

    def width(self, context: int) -> int:
        """For how many ids of a row there are logits."""
        return 1 if self.rows_are == "windows" else context


def _open(config: Config, vocabulary: Vocabulary, split: str, data: Path | None) -> _Text:
    if data is not None and not bpetok.shards.is_folder(data):
        return _Text(ids=_ids_of_file(config, vocabulary, data), name="text", source=str(data))
    if data is None and isinstance(config.data, TextConfig):
        opened = open_data(config)
        if opened.vocabulary.fingerprint != vocabulary.fingerprint:
            message = (
                f"{config.data.text}: the text must have the vocabulary {vocabulary.fingerprint} that the run was "
            )
            hint = "the text has changed since; give it, or another one, as a file of its own"
            raise IncompatibleError(f"{message}trained with, got {opened.vocabulary.fingerprint}", hint=hint)
        parts = {"train": opened.train, "val": opened.val, "test": opened.test}
        ids = parts.get(split)
        there = ", ".join(name for name, part in parts.items() if part is not None)
        require(ids is not None, "evaluate: split", f"one of {there}", split)
        assert ids is not None
        return _Text(ids=ids, name=split, source=str(config.data.text))
    assert data is not None or isinstance(config.data, DataConfig)
    folder = config.data.shards if data is None and isinstance(config.data, DataConfig) else Path(str(data))
    ids = _ids_of_shards(vocabulary, folder, split)
    stands = bpetok.shards.open(folder).manifest.end_of_text_stands
    return _Text(ids=ids, name=split, source=str(folder), stands=stands)


def _ids_of_shards(vocabulary: Vocabulary, folder: Path, split: str) -> AnySplit:
    if not isinstance(vocabulary, bpetok.Tokenizer):
        message = f"{folder}: a run on shards must have a tokenizer, got one whose ids are characters or bytes"
        raise IncompatibleError(message, hint="evaluate it on a file of text")
    shards = bpetok.shards.open(folder)
    shards.check(vocabulary)
    require(split in shards.splits, "evaluate: split", f"one of {', '.join(shards.splits)}", split)
    for shard in shards.manifest.of_split(split):  # the split's files alone: the others may be hundreds of gigabytes
        with (folder / shard.file).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != shard.sha256:
            message = f"{folder / shard.file}: sha256 must be {shard.sha256}, got {found}"
            raise CorruptionError(message, hint="copy the file anew, or make the shards again")
    return shards.splits[split]


def _ids_of_file(config: Config, vocabulary: Vocabulary, path: Path) -> AnySplit:
    """The whole of a text, in rows as the run's own data have them."""
    try:
        text = path.read_bytes().decode("utf-8-sig")  # as a run reads its own
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: text must be UTF-8, got {error.reason} at byte {error.start}") from None
    except OSError as error:
        raise ConfigError(f"{path}: data must be a readable file or a folder of shards, got {error.strerror}") from None
    if not text.strip():
        raise DataError(f"{path}: text must have characters, got {len(text)} blank ones")
    separator = end_of_text(vocabulary)
    rows = getattr(config.data, "rows", "blocks")
    window = getattr(config.model, "window", 1)
    if getattr(config.data, "documents", "whole") == "whole":
        ids = vocabulary.encode_ordinary(text)
        if rows == "windows":
            before = PAD if separator is None else separator
            return Windows([ids], window=window, separator=before, open_end=True)
        return Stream(np.array([*([] if separator is None else [separator]), *ids], dtype=np.uint32))
    assert separator is not None  # a run on lines has one
    lines = [vocabulary.encode_ordinary(line) for line in text.replace("\r\n", "\n").split("\n") if line]
    if rows == "windows":
        return Windows(lines, window=window, separator=separator)
    if rows == "lines":
        return Lines(lines, separator=separator)
    stream = [separator, *(id_ for line in lines for id_ in (*line, separator))]
    return Stream(np.array(stream, dtype=np.uint32))


@final
class _Digests:
    """What an evaluation has read: sha256 of the ids, and of the bytes of text that they stand for."""

    def __init__(self, vocabulary: Vocabulary, targets: int, on_progress: Callable[[int, int], object] | None) -> None:
        self.ids, self.text = hashlib.sha256(), hashlib.sha256()
        self._vocabulary = vocabulary
        self._has_text_V = vocabulary.token_byte_lengths() > 0
        self._done, self._targets = 0, targets
        self._on_progress = on_progress

    def add(self, targets_BT: Tensor) -> None:
        ids_N = targets_BT[targets_BT != IGNORE].numpy()
        self.ids.update(ids_N.astype("<u4").data)
        self.text.update(_bytes_of(self._vocabulary, ids_N[self._has_text_V[ids_N]].tolist()))
        self._done += len(ids_N)
        if self._on_progress is not None:
            self._on_progress(self._done, self._targets)


def _bytes_of(vocabulary: Vocabulary, ids: list[int]) -> bytes:
    """Their bytes, also where a batch ends within a character."""
    if isinstance(vocabulary, bpetok.Tokenizer):
        return vocabulary.decode_bytes(ids)
    if isinstance(vocabulary, Alphabet) and vocabulary.characters is None:
        return bytes(ids)
    return vocabulary.decode(ids).encode()
