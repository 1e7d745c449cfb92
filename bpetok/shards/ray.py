"""Ray Data as the engine that encodes; `bpetok.cluster` says what it takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from bpetok.cluster import connected, refuse, windows_of
from bpetok.errors import BpetokError, WorkerError
from bpetok.shards.encoding import Encoded, Recipe, encode_group
from bpetok.sources.units import UnitGroup

_MOST_TRIES = 4  # of one piece; Ray Data goes on for ever

Row = dict[str, Any]


def encode_by_ray(
    recipe: Recipe, groups: Iterable[UnitGroup], address: str | None = None, workers: int | None = None
) -> Iterator[tuple[UnitGroup, Encoded]]:
    """The groups and what became of them, in order, as `encode_here`.

    Args:
        recipe: what decides the ids.
        groups: pieces of the sources; few of them are listed at a time.
        address: of the cluster, as `ray.init` takes it; None to start one on this machine.
        workers: how many processors that one has; None for as many as this process may use.

    Raises:
        MissingExtraError: Ray is not installed.
        WorkerError: no cluster is at the address, or a piece made worker after worker die.
        BpetokError, OSError: as `encode_group`.
    """
    with connected(address, workers) as ray:
        # In a list, since Ray would fetch a bare reference, and make the tokenizer anew, for each piece.
        tools = {
            "recipe": [ray.put(recipe)],
            "tries": ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Tries).remote(),
        }
        for window in windows_of(ray, groups):
            yield from _encode_window(ray, tools, window)


def _encode_window(ray: Any, tools: Row, window: list[UnitGroup]) -> Iterator[tuple[UnitGroup, Encoded]]:
    pieces = ray.data.from_items([{"group": group} for group in window], override_num_blocks=len(window))
    made = pieces.map(_encode, fn_kwargs=tools)
    made.context.execution_options.preserve_order = True
    made.context.enable_progress_bars = False
    made.context.print_on_execution_start = False
    rows = iter(made.iter_rows())
    for group in window:
        try:
            outcome = next(rows)["made"]
        except ray.exceptions.RayError as error:
            refuse(ray, error, f"shards: a worker died while it encoded {group.units[0].where} or what follows")
        if isinstance(outcome, Exception):
            raise outcome
        yield group, outcome


class _Tries:
    """How often each piece was begun, in a process of its own."""

    def __init__(self) -> None:
        self._begun: Counter[tuple[int, int]] = Counter()

    def begin(self, piece: tuple[int, int]) -> int:
        self._begun[piece] += 1
        return self._begun[piece]


# ---- in a worker -------------------------------------------------------------------------------------------------


def _encode(row: Row, recipe: list[Any], tries: Any) -> Row:
    """Errors of ours are given back, not raised: Ray would wrap them, and print them."""
    import ray  # type: ignore[import-not-found, unused-ignore]

    group: UnitGroup = row["group"]
    try:
        if ray.get(tries.begin.remote(group.after)) > _MOST_TRIES:
            raise WorkerError(
                f"shards: {_MOST_TRIES} workers died one after the other while they encoded {group.units[0].where}",
                hint="the system kills what takes too much memory; run the call again and it goes on",
            )
        return {"made": encode_group(_made(recipe[0]), group)}
    except (BpetokError, OSError) as error:
        return {"made": error}


@lru_cache(maxsize=1)
def _made(reference: Any) -> Recipe:
    """What `ray.put` took; a process makes a tokenizer of it once, whose caches then stay."""
    import ray  # type: ignore[import-not-found, unused-ignore]

    recipe: Recipe = ray.get(reference)
    return recipe
