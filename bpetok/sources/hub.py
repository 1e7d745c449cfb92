"""Datasets of Hugging Face by name: from its hub, from folders of data files, from what `save_to_disk` wrote."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from bpetok.errors import DataError, MissingExtraError, UnavailableError

_SAVED = ("state.json", "dataset_dict.json")


def open_dataset(name: str, *, config: str | None = None, split: str = "train", streaming: bool = False) -> Any:
    """A split of a dataset, as `datasets` gives it: a source of `bpetok.shards.build` and `bpetok.train`.

    Args:
        name: on the hub, such as "HuggingFaceFW/fineweb-edu"; or a folder of data files or of `save_to_disk`.
        config: which of its configurations.
        split: which of its splits.
        streaming: read it as it comes, instead of downloading it first.

    Raises:
        MissingExtraError: the package `datasets` is not installed.
        DataError: it has no such configuration or split, or is none that can be read.
        UnavailableError: it is neither here nor can it be fetched.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("data") from error
    try:
        if any((Path(name) / file).is_file() for file in _SAVED):
            saved = datasets.load_from_disk(name)
            return saved[split] if isinstance(saved, datasets.DatasetDict) else saved
        return datasets.load_dataset(name, config, split=split, streaming=streaming)
    except (ValueError, KeyError) as error:
        raise DataError(f"{name}: must be a dataset with the split {split!r}, got: {error}") from error
    except (OSError, ConnectionError) as error:
        hint = "the hub is switched off: HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE") else None
        raise UnavailableError(
            f"{name}: the dataset could not be fetched: {error}",
            hint=hint or "--dataset takes a folder too, of data files or of `save_to_disk`",
        ) from error
