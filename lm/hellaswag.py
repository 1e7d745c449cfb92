"""HellaSwag: which of four endings does a model find likeliest?

10,042 items, each a context and four endings of which one is right; who guesses has a quarter of them. Completion
style, as in karpathy/build-nanogpt: the model reads the context, then one ending behind a space, and the ending's ids
are scored; the context's are not. Nothing stands before the context, no end-of-text id either.

The endings differ in length, so it counts what their log-likelihoods are divided by:

| here | divided by | build-nanogpt | lm-evaluation-harness | GPT-2 124M of OpenAI, published |
|---|---|---|---|---|
| `acc` | nothing | `acc` | `acc` | .2859 (build-nanogpt), .2892 (harness) |
| `acc_norm` | tokens of " ending" | `acc_norm` | has none | .2955 (build-nanogpt) |
| `acc_norm_bytes` | UTF-8 bytes of "ending" | has none | `acc_bytes` | - |
| - | characters of "ending" | has none | `acc_norm` | .3114 (harness) |

Bytes and characters differ where an ending is not ASCII. The harness also reads another context: the activity's label
in front of it, and without the marks of WikiHow's headings; `lm.harness` gives its figures.

Source: Zellers et al., *HellaSwag: Can a Machine Really Finish Your Sentence?* (2019); the published figures stand in
build-nanogpt/hellaswag.py. Of equally likely endings all of them take the first.
"""

import hashlib
import json
import lzma
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from bpetok.encodings import cache_folder
from bpetok.errors import CorruptionError, DataError, UnavailableError
from lm.alphabet import Vocabulary
from lm.errors import ConfigError, require
from lm.models.contract import LanguageModel
from lm.parallel import fitting_threads
from lm.stretches import Stretch, score

URL = "https://raw.githubusercontent.com/rowanz/hellaswag/master/data/hellaswag_val.jsonl"
ITEMS = 10_042
"""How many the validation set has."""
ENDINGS = 4
_NAMES = ("hellaswag_val.jsonl", "hellaswag_val.jsonl.xz")
_TIMEOUT_SECONDS = 30
_MOST_BYTES = 256 * 2**20  # the set has 12 MB


@final
@dataclass(frozen=True, slots=True)
class Item:
    """A context, four endings, and which of them is right, from 0."""

    context: str
    endings: tuple[str, ...]
    label: int


@final
@dataclass(frozen=True, kw_only=True)
class ItemSet:
    """Items and where they are from.

    Args:
        items: in the order of the file.
        path: the file.
        sha256: of the file's lines, unpacked, all of them.
        total: how many items the file has.
    """

    items: tuple[Item, ...]
    path: Path
    sha256: str
    total: int


@final
@dataclass(frozen=True, kw_only=True)
class HellaSwag:
    """How many items a model got right, as a share, by each of three measures (the module's table).

    Args:
        items: how many were asked.
        acc: right by log-likelihood.
        acc_norm: right by log-likelihood per token.
        acc_norm_bytes: right by log-likelihood per byte of the ending.
        acc_error: standard error of `acc`; None of a single item.
        acc_norm_error: likewise.
        acc_norm_bytes_error: likewise.
        cut: items of which a context was too long for the model, and was cut on the left.
    """

    items: int
    acc: float
    acc_norm: float
    acc_norm_bytes: float
    acc_error: float | None
    acc_norm_error: float | None
    acc_norm_bytes_error: float | None
    cut: int


def find() -> Path:
    """The validation set: in the folder that `BPETOK_DATA` names, else in bpetok's cache, else downloaded to there.

    Raises:
        UnavailableError: if it is nowhere and cannot be downloaded; says what to fetch and where to put it.
        CorruptionError: if what came has not its 10,042 items; nobody published its sha256, so they are counted.
    """
    folders = [cache_folder()]
    if chosen := os.environ.get("BPETOK_DATA"):
        folders.insert(0, Path(chosen))
    found = (folder / name for folder in folders for name in _NAMES)
    return next((path for path in found if path.is_file()), None) or _download(folders[-1])


def read(path: str | Path, limit: int | None = None) -> ItemSet:
    """The items of a file.

    Args:
        path: JSON objects with `ctx`, `endings` and `label`, one a line, as rowanz/hellaswag has them; other keys are
            passed over. A name that ends in .xz is unpacked.
        limit: the most items, the first of the file.

    Raises:
        ConfigError: if the file cannot be read, or the limit is below 1.
        DataError: if a line is no such object; it is named.
    """
    require(limit is None or limit >= 1, "hellaswag: limit", "at least 1", limit)
    path = Path(path)
    try:
        with lzma.open(path) if path.suffix == ".xz" else path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        hint = "rowanz/hellaswag has it on GitHub, as data/hellaswag_val.jsonl"
        raise ConfigError(f"{path}: items must be a readable file, got {error.strerror}", hint=hint) from None
    except (lzma.LZMAError, EOFError) as error:
        raise DataError(f"{path}: items must be packed with xz, got {error}") from None
    if len(content) > _MOST_BYTES:
        raise DataError(f"{path}: items must be at most {_MOST_BYTES:,} bytes, got more")
    lines = content.splitlines()
    if not lines:
        raise DataError(f"{path}: items must be 1 or more, got none")
    items = tuple(_item(line, f"{path}: line {number}") for number, line in enumerate(lines[:limit], start=1))
    return ItemSet(items=items, path=path, sha256=hashlib.sha256(content).hexdigest(), total=len(lines))


def ask(
    model: LanguageModel,
    vocabulary: Vocabulary,
    items: Sequence[Item],
    *,
    tokens: int,
    dtype: torch.dtype = torch.float32,
    on_progress: Callable[[int, int], object] | None = None,
) -> HellaSwag:
    """How many items a model gets right.

    Args:
        model: any rung, on the device where it is to run.
        vocabulary: of its ids.
        items: one or more.
        tokens: the most ids of a batch, as `lm.stretches.score`.
        dtype: of the matrix products.
        on_progress: as `lm.stretches.score`; there are four endings to an item.

    Raises:
        DataError: if there are no items, or a text has characters that the vocabulary lacks.
        NonFiniteError: if the model gives nan or infinity.
    """
    if not items:
        raise DataError("hellaswag: items must be 1 or more, got none")
    stretches = [stretch for item in items for stretch in stretches_of(item, vocabulary)]
    with fitting_threads(tokens * model.expected_parameters()):
        scores = score(model, stretches, tokens=tokens, dtype=dtype, on_progress=on_progress)
    nats_IE = np.array([one.nats for one in scores]).reshape(-1, ENDINGS)
    tokens_IE = np.array([len(one.ids) - one.first for one in stretches]).reshape(-1, ENDINGS)
    bytes_IE = np.array([[len(ending.encode()) for ending in item.endings] for item in items])
    labels_I = np.array([item.label for item in items])
    right_I = nats_IE.argmin(axis=1) == labels_I
    by_token_I = (nats_IE / tokens_IE).argmin(axis=1) == labels_I
    by_byte_I = (nats_IE / bytes_IE).argmin(axis=1) == labels_I
    return HellaSwag(
        items=len(items),
        acc=float(right_I.mean()),
        acc_norm=float(by_token_I.mean()),
        acc_norm_bytes=float(by_byte_I.mean()),
        acc_error=_standard_error(right_I),
        acc_norm_error=_standard_error(by_token_I),
        acc_norm_bytes_error=_standard_error(by_byte_I),
        cut=sum(any(one.cut for one in scores[i : i + ENDINGS]) for i in range(0, len(scores), ENDINGS)),
    )


def stretches_of(item: Item, vocabulary: Vocabulary) -> list[Stretch]:
    """The context with each of the endings, of which the ending's ids are to be predicted.

    Context and " ending" become ids each for itself.
    """
    context = vocabulary.encode_ordinary(item.context)
    endings = [vocabulary.encode_ordinary(f" {ending}") for ending in item.endings]
    return [Stretch([*context, *ending], len(context)) for ending in endings]


def _standard_error(right_I: NDArray[np.bool_]) -> float | None:
    """Of a share, with the sample's own deviation, as the harness has it."""
    items = len(right_I)
    return float(right_I.std(ddof=1)) / items**0.5 if items > 1 else None


def _item(line: bytes, where: str) -> Item:
    try:
        row = json.loads(line)
        context, endings, label = row["ctx"], row["endings"], row["label"]
        lengths = [len(text.encode()) for text in (context, *endings)]  # halves of surrogate pairs have no bytes
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _no_item(where, line) from None
    label = _LABELS.get(label, label) if isinstance(label, str) else label
    is_label = type(label) is int and 0 <= label < ENDINGS
    if not (is_label and isinstance(endings, list) and len(endings) == ENDINGS and min(lengths) > 0):
        raise _no_item(where, line)
    return Item(context=context, endings=tuple(endings), label=label)


_LABELS = {str(label): label for label in range(ENDINGS)}  # as the hub's rows have them


def _no_item(where: str, line: bytes) -> DataError:
    expected = f"a JSON object with ctx, {ENDINGS} endings and a label from 0 to {ENDINGS - 1}"
    return DataError(f"{where} must be {expected}, got {line[:80]!r}", hint="the test set has no labels: take val")


def _download(folder: Path) -> Path:
    import pooch

    downloader = pooch.HTTPDownloader(timeout=_TIMEOUT_SECONDS)
    pooch.get_logger().setLevel("WARNING")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = Path(pooch.retrieve(URL, None, _NAMES[0], folder, downloader=downloader))
    except Exception as error:  # pooch and requests raise many kinds
        message = f"{_NAMES[0]}: {URL} is not on this machine and could not be downloaded: {error!s:.200}"
        hint = f"fetch it elsewhere and put it here: {folder / _NAMES[0]}, or let BPETOK_DATA name its folder"
        raise UnavailableError(message, hint=hint) from error
    count = len(path.read_bytes().splitlines())
    if count != ITEMS:
        path.unlink()
        raise CorruptionError(f"{URL}: items must be {ITEMS:,}, got {count:,}", hint="try again; the file was removed")
    return path
