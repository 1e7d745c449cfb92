"""The data of a run: what `[data]` names, opened and checked.

Shards have their tokenizer; a text has its characters, its bytes, or a tokenizer's tokens as the vocabulary
(`lm.alphabet.Vocabulary`). Either way the model is given splits of ids and never learns where they are from.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from torch import Tensor

import bpetok
import bpetok.shards
from bpetok.errors import DataError
from bpetok.shards.manifest import EndOfText
from lm.alphabet import BYTES, Alphabet, Vocabulary
from lm.batches import AnySplit, documents_of
from lm.config import Config, DataConfig, TextConfig
from lm.errors import ConfigError, require
from lm.examples import Lines, Stream, Windows, split_lines
from lm.models.contract import PAD
from lm.sample import end_of_text
from lm.texts import KNOWN, find


@final
@dataclass(frozen=True, kw_only=True)
class Data:
    """What a run reads.

    Args:
        vocabulary: of the ids.
        train: what is learnt from.
        val: what an evaluation reads.
        test: what is put aside, if anything.
        separator: the id that stands before a document and behind it; None where there are no documents.
        stands: which document the separator between two belongs to: "before", the one that it opens.
    """

    vocabulary: Vocabulary
    train: AnySplit
    val: AnySplit
    test: AnySplit | None = None
    separator: int | None = None
    stands: EndOfText = "before"


def open_data(config: Config, *, verify: bool = True) -> Data:
    """The data of a run.

    Args:
        config: the run. Rows that are windows are as long as `model.window`.
        verify: read all shards to see whether they are as they were written; another process does it, if not this one.

    Raises:
        ConfigError: if a file is not there, a window is longer than the context, or the rung has none.
        CorruptionError: if a shard is not as it was written; all of them are read for that.
        IncompatibleError: if shards and tokenizer do not belong together.
        DataError: if a text is not UTF-8, or too short for the model's context, or a line is too long for it.
        UnavailableError: if a known text is not here and cannot be downloaded.
    """
    if isinstance(config.data, DataConfig):
        return _open_shards(config.data, verify=verify)
    context = config.model.context
    window = getattr(config.model, "window", 1)
    if config.data.rows == "windows":
        # A rung without a window would be trained on rows filled up to its context, and sampled on others.
        has_window = hasattr(config.model, "window")
        require(
            has_window, "data.rows", f"blocks or lines for the rung {config.rung!r}, which has no window", "windows"
        )
        hint = f"--set model.context={window}"
        require(window <= context, "model.context", f"at least the window of {window}", context, hint)
    data = _open_text(config.data, window)
    if config.data.rows == "blocks" and data.train.tokens <= context:
        raise DataError(
            f"{config.data.text}: training text must be longer than the context of {context}, "
            f"got {data.train.tokens} ids",
            hint="give more text, or --set model.context to less",
        )
    if data.val.tokens < 2:
        raise DataError(
            f"{config.data.text}: validation text must have at least 2 ids, got {data.val.tokens}",
            hint="give more text, or --set data.held_out to more",
        )
    for split in (data.train, data.val, data.test):
        if isinstance(split, Lines):
            split.cut(context)  # a line that is too long is found before a run, not at its first evaluation
    return data


def documents_of_rows(
    config: Config, *, separator: int | None, stands: EndOfText = "before"
) -> Callable[[Tensor], Tensor | None]:
    """What gives documents_BT of inputs_BT, where a run keeps attention within a document, and None where it does not.

    Args:
        config: the run.
        separator: the id between documents.
        stands: which document it belongs to, as `lm.batches.documents_of` takes it.

    Raises:
        ConfigError: if documents are to be apart and there is no separator.
    """
    if config.batch.documents == "joined":
        return lambda inputs_BT: None
    if separator is None:
        expected = "joined where nothing stands between the documents (data.documents = whole, or no end-of-text id)"
        raise ConfigError(f"batch.documents must be {expected}, got 'apart'", hint="--set batch.documents=joined")
    return lambda inputs_BT: documents_of(inputs_BT, end_of_text=separator, stands=stands)


def open_tokenizer(path: Path) -> bpetok.Tokenizer:
    """The tokenizer that `data.tokenizer` names.

    Raises:
        ConfigError: if it is no file.
    """
    if not path.is_file():
        hint = "--set data.tokenizer=my.bpetok --set data.shards=shards; bpetok train and bpetok shard make them"
        if path.name in bpetok.list_encoding_names():
            hint = f"write it to a file first: bpetok export -t {path.name} -o {path.name}.bpetok"
        raise ConfigError(f"data.tokenizer must be a file, got {path}", hint=hint)
    return bpetok.load(path)


def _open_shards(config: DataConfig, *, verify: bool) -> Data:
    tokenizer = open_tokenizer(config.tokenizer)
    shards = bpetok.shards.open(config.shards)
    shards.check(tokenizer)
    if verify:
        shards.verify()  # what was altered on the way here is found before a run, not after it
    return Data(
        vocabulary=tokenizer,
        train=shards.train,
        val=shards.val,
        separator=end_of_text(tokenizer),
        stands=shards.manifest.end_of_text_stands,
    )


def _open_text(config: TextConfig, window: int) -> Data:
    text = _read(config.text)
    if config.documents == "lines":
        text = text.replace("\r\n", "\n")
    vocabulary = _vocabulary(config, text)
    separator = end_of_text(vocabulary)
    if config.documents == "whole":
        ids = vocabulary.encode_ordinary(text)
        parts = _cut_off_end(ids, config.held_out)
        splits: list[AnySplit] = [Stream(np.array(part, dtype=np.uint32)) for part in parts]
        if config.rows == "windows":
            before = PAD if separator is None else separator
            splits = [Windows([part], window=window, separator=before, open_end=True) for part in parts]
        return Data(vocabulary=vocabulary, train=splits[0], val=splits[1])
    assert separator is not None  # an alphabet of lines has the newline; _vocabulary checks a tokenizer
    lines = [line for line in text.split("\n") if line]
    split = split_lines(lines, held_out=config.held_out)
    train, val, test = (
        _rows(config.rows, [vocabulary.encode_ordinary(line) for line in part], window, separator)
        for part in (split.train, split.val, split.test)
    )
    return Data(vocabulary=vocabulary, train=train, val=val, test=test, separator=separator)


def _rows(kind: str, documents: Sequence[list[int]], window: int, separator: int) -> AnySplit:
    if kind == "windows":
        return Windows(documents, window=window, separator=separator)
    if kind == "lines":
        return Lines(documents, separator=separator)
    ids = [separator]
    for document in documents:
        ids += [*document, separator]
    return Stream(np.array(ids, dtype=np.uint32))


def _cut_off_end(ids: list[int], share: float) -> tuple[list[int], list[int]]:
    kept = int(len(ids) * (1 - share))
    return ids[:kept], ids[kept:]


def _read(path: Path) -> str:
    file = find(str(path)) if str(path) in KNOWN else path
    try:
        text = file.read_bytes().decode("utf-8-sig")  # line ends as they are
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: text must be UTF-8, got {error.reason} at byte {error.start}") from None
    except OSError as error:
        names = ", ".join(KNOWN)
        hint = f"--set data.text=my.txt, or one of {names}"
        raise ConfigError(f"data.text must be a readable file, got {file}: {error.strerror}", hint=hint) from None
    if not text.strip():
        raise DataError(f"{file}: text must have characters, got {len(text)} blank ones")
    return text


def _vocabulary(config: TextConfig, text: str) -> Vocabulary:
    if config.tokenizer is not None:
        tokenizer = open_tokenizer(config.tokenizer)
        if config.documents == "lines" and end_of_text(tokenizer) is None:
            raise ConfigError(
                f"data.tokenizer must have an end-of-text token for data.documents = lines, got {config.tokenizer}",
                hint="bpetok train adds <|endoftext|> unless told otherwise",
            )
        return tokenizer
    if config.alphabet == "bytes":
        return BYTES
    return Alphabet.of_text(text, newline_first=config.documents == "lines")
