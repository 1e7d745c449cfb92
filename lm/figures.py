"""Figures: what the rungs of the ladder came to, as rows, as a table and as a file."""

import dataclasses
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from bpetok.errors import FormatError
from bpetok.files import write_atomically

TrainedBy = Literal["readable", "fast"]
"""Autograd, or `lm.fast`."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Losses in nats per token, of the whole split in evaluation mode.

    Args:
        train: of the training split; None where none was published.
        dev: of the validation split.
    """

    train: float | None = None
    dev: float | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one rung came to.

    Args:
        rung: the entry's name.
        path: how it was trained.
        steps: updates of the weights.
        parameters: of the model.
        train: the loss of the training split; the mean, where there are several seeds.
        dev: of the validation split.
        reference: what it is held against.
        source: whose figure that is.
        seconds: of the training alone.
        seeds: how many models were trained at once.
        dev_error: the standard error of `dev` over the seeds; None for one.
    """

    rung: str
    path: TrainedBy
    steps: int
    parameters: int
    train: float | None
    dev: float | None
    reference: Figures
    source: str
    seconds: float
    seeds: int = 1
    dev_error: float | None = None

    @property
    def difference(self) -> float | None:
        """The loss less the reference's: of `dev`, or of `train` where there is no other; None without both."""
        for ours, theirs in ((self.dev, self.reference.dev), (self.train, self.reference.train)):
            if ours is not None and theirs is not None:
                return ours - theirs
        return None


def table(rows: Sequence[Row]) -> str:
    """The rows as a table in Markdown: losses in nats per token, differences from the reference figures.

    Of several seeds the losses are means, with the standard error of `dev`.
    """
    lines = [
        "| rung | parameters | train | dev | reference | difference | steps | seconds |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        name = row.rung if row.path == "readable" else f"{row.rung}, fast path"
        name += f", {row.seeds} seeds" if row.seeds > 1 else ""
        error = f" ± {row.dev_error:.4f}" if row.dev_error is not None else ""
        reference = " / ".join(filter(None, map(_shown, (row.reference.train, row.reference.dev))))
        difference = "" if row.difference is None else f"{row.difference:+.4f}"
        cells = [
            name,
            f"{row.parameters:,}",
            _shown(row.train),
            _shown(row.dev) + error,
            reference,
            difference,
            f"{row.steps:,}",
            f"{row.seconds:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _shown(loss: float | None) -> str:
    return "" if loss is None else f"{loss:.4f}"


def merged(before: Sequence[Row], now: Sequence[Row], order: Sequence[str]) -> list[Row]:
    """All rows, those of `now` in the place of the same rung, path, length and number of seeds.

    Args:
        before: rows.
        now: newer ones.
        order: the names of all rungs, as the rows are to follow each other; rows of others come last.
    """
    places = {name: place for place, name in enumerate(order)}

    def key(row: Row) -> tuple[int, str, int, bool, int]:
        return places.get(row.rung, len(order)), row.rung, row.seeds, row.path == "fast", row.steps

    return [row for _, row in sorted({key(row): row for row in [*before, *now]}.items())]


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Writes rows to a JSON file, with the machine's and torch's names."""
    machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__}
    document = {"machine": machine, "rows": [dataclasses.asdict(row) for row in rows]}
    write_atomically(path, (json.dumps(document, indent=1) + "\n").encode())


def read_rows(path: Path) -> list[Row]:
    """The rows of a file that `write_rows` wrote.

    Raises:
        FormatError: if it is another file.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        found = [Row(**{**row, "reference": Figures(**row["reference"])}) for row in rows]
        table(found)  # shows every figure, so that one of another type is found here
        return found
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{path}: must be a ladder's JSON file, got {error}", hint="name another file") from None
