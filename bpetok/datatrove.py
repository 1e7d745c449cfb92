"""A step of datatrove's pipelines that writes shards.

Each task writes a folder of its own, whole or not at all. When all are done, `bpetok shard --merge` puts them together
and sees that none is missing:

```python
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import ParquetReader

import bpetok
from bpetok.datatrove import ShardWriter

if __name__ == "__main__":
    steps = [ParquetReader("rows"), ShardWriter("parts", bpetok.get_encoding("bpetok_32k"))]
    LocalPipelineExecutor(steps, tasks=2, logging_dir="logs").run()
    bpetok.shards.merge(list(Path("parts").iterdir()), "shards")
```

The ids are those that `bpetok.shards.build` makes of the same documents in the same order, that of the tasks. Which
documents validate is decided by their hash, as there; but a task does not know how many there are in all, so of fewer
than 100, or where the hash picks none, no others validate instead.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpetok.errors import MissingExtraError, SpecialTokenError
from bpetok.shards.building import SHARD_TOKENS, Build, Now, Options
from bpetok.shards.encoding import Encoded, Recipe, encode_here
from bpetok.shards.manifest import MANIFEST, EndOfText
from bpetok.shards.place import BUILD, locked, undo
from bpetok.sources import Document
from bpetok.sources.survey import survey
from bpetok.sources.tables import Items
from bpetok.sources.units import Reading, UnitGroup, units_of
from bpetok.text import as_bytes

if TYPE_CHECKING:
    from bpetok.tokenizer import Tokenizer

try:
    from datatrove.pipeline.base import PipelineStep  # type: ignore[import-not-found, unused-ignore]
except ImportError:  # whoever makes a step will be told
    PipelineStep = None


class ShardWriter(PipelineStep or object):  # type: ignore[misc, unused-ignore]
    """The last step of a pipeline: documents to a folder of shards for each task.

    A task that datatrove runs again, since it was stopped or is to be done anew, writes its folder anew.
    """

    name = "Shards"
    type = "TOKENIZER"

    def __init__(
        self,
        folder: str | Path,
        tokenizer: Tokenizer,
        *,
        shard_tokens: int = SHARD_TOKENS,
        val_fraction: float | None = None,
        end_of_text: EndOfText = "before",
        allowed_special: Collection[str] = (),
    ) -> None:
        """The arguments are those of `bpetok.shards.build`.

        Args:
            folder: where all tasks see it; the folder of task 0 becomes `00000` in it.
            tokenizer: must have "<|endoftext|>".
            shard_tokens: ids to a file.
            val_fraction: share of the documents that validate; a hundredth unless told.
            end_of_text: whether the end-of-text id stands "before" each document or "after" it.
            allowed_special: special tokens that become their id where the text holds them.

        Raises:
            MissingExtraError: datatrove is not installed.
            DataError: an argument is out of range.
            SpecialTokenError: a special token to allow is none of the tokenizer's.
            UnknownTokenError: the tokenizer has no end-of-text token.
        """
        if PipelineStep is None:
            raise MissingExtraError("datatrove")
        super().__init__()
        self.folder = Path(folder)
        self.tokenizer = tokenizer
        self.options = Options(
            shard_tokens, val_fraction, end_of_text, None, "text", frozenset(allowed_special), part=(0, 1)
        )
        self.options.check()
        if unknown := self.options.allowed_special - tokenizer.special_tokens_set:
            raise SpecialTokenError(f"shards: allowed_special must be special tokens, got {sorted(unknown)[0]!r}")
        _ = tokenizer.eot_token

    def run(self, data: Iterable[Any], rank: int = 0, world_size: int = 1) -> None:
        """Writes the folder of a task.

        Args:
            data: the task's documents, those of datatrove; goes through all of them.
            rank: number of the task.
            world_size: how many there are.

        Raises:
            DataError: the only task has no text.
            FormatError: the folder holds files that are not ours, or another process is writing there.
            OSError: the disk is full.
        """
        documents = (Document(as_bytes(document.text), str(document.id)) for document in data or ())
        source = Items(0, documents, Reading(), "datatrove")
        rule = survey([], self.options.val_fraction)  # of no documents: that by hash

        def encode(recipe: Recipe, groups: Iterable[UnitGroup]) -> Iterator[tuple[UnitGroup, Encoded]]:
            # All of the task's documents: they are its part of the whole already.
            return encode_here(replace(recipe, rule=rule), units_of([source]))

        folder = self.folder / f"{rank:05d}"
        _begin_anew(folder)
        options = replace(self.options, part=(rank, world_size))
        with self.track_time(unit="task"):
            work = Build(folder, self.tokenizer, options, [source], restart=True)
            manifest = work.run(encode, Now(), lambda progress: None)
        for shard in manifest.shards:
            self.stat_update("documents", value=shard.documents, unit="shard")
            self.stat_update("tokens", value=shard.tokens, unit="shard")


def _begin_anew(folder: Path) -> None:
    if (folder / BUILD).is_dir() or (folder / MANIFEST).exists():
        (folder / BUILD).mkdir(exist_ok=True)
        with locked(folder):
            pass
        undo(folder)
