"""From text to a folder of shards: plan, encode, write in order, publish; and going on where a call was stopped."""

from __future__ import annotations

import contextlib
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpetok._core import version, xxh64
from bpetok.errors import CorruptionError, DataError, FormatError, IncompatibleError
from bpetok.files import sync_folder, write_atomically
from bpetok.shards.encoding import Encoded, Recipe
from bpetok.shards.layout import MAX_SHARD_TOKENS, SPLITS, dtype_for, index_name
from bpetok.shards.manifest import MANIFEST, EndOfText, Manifest, Shard, Source, probe_digest
from bpetok.shards.place import BUILD, LOCK, PLAN, clear, discard, keep, locked, publish, undo
from bpetok.shards.writer import Growing, SplitProgress, SplitWriter
from bpetok.sources.survey import ByHash, From, Rule, survey
from bpetok.sources.units import UnitGroup, units_of

if TYPE_CHECKING:
    from bpetok.sources.units import Source as OpenSource
    from bpetok.tokenizer import Tokenizer

SHARD_TOKENS = 100_000_000
CHECKPOINT_SECONDS = 10.0
MOST_SKIPPED_SHOWN = 1000
_PROGRESS = "progress.json"
_ANEW = "begin anew with --restart"
_MOST_IN_BACKGROUND = 4

Encode = Callable[[Recipe, Iterable[UnitGroup]], Iterator[tuple[UnitGroup, Encoded]]]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a build is.

    Attributes:
        done: bytes of the sources that are encoded, as they lie on disk.
        total: of how many; None where that is not known.
        before: those that an earlier call had encoded.
        documents: documents so far, in both splits.
        text_bytes: bytes of text so far.
        tokens: ids so far.
    """

    done: int
    total: int | None
    before: int
    documents: int
    text_bytes: int
    tokens: int


OnProgress = Callable[[Progress], object]


@dataclass(frozen=True, slots=True)
class Options:
    """What a build is told besides its sources, its tokenizer and its folder; see `build`."""

    shard_tokens: int
    val_fraction: float | None
    end_of_text: EndOfText
    separator: str | None
    field: str
    allowed_special: frozenset[str]
    part: tuple[int, int]

    def check(self) -> None:
        """Raises DataError where something is out of range."""
        if not 0 <= (self.val_fraction or 0) < 1:
            raise DataError(f"shards: val_fraction must be in 0 to below 1, got {self.val_fraction}")
        if not 1 <= self.shard_tokens <= MAX_SHARD_TOKENS:
            raise DataError(f"shards: shard_tokens must be in 1 to {MAX_SHARD_TOKENS:,}, got {self.shard_tokens:,}")
        if self.end_of_text not in ("before", "after"):
            raise DataError(f"shards: end_of_text must be before or after, got {self.end_of_text!r}")
        number, parts = self.part
        if not 0 <= number < parts:
            raise DataError(f"shards: part must be a number from 0 and how many parts there are, got {self.part}")

    def to_dict(self) -> dict[str, Any]:
        """The same for the manifest."""
        return asdict(self) | {"allowed_special": sorted(self.allowed_special), "part": list(self.part)}


@dataclass(slots=True)
class _State:
    """How far a build is, as it stands in `progress.json`."""

    next: tuple[int, int]
    splits: dict[str, SplitProgress]
    done: int = 0
    seen: int = 0
    skipped: int = 0
    skipped_shown: tuple[str, ...] = ()
    finished: bool = False

    @classmethod
    def at_start(cls) -> _State:
        return cls((0, 0), {name: SplitProgress() for name in SPLITS})

    def to_json(self) -> bytes:
        splits = {name: split.to_dict() for name, split in self.splits.items()}
        about = {one.name: getattr(self, one.name) for one in fields(self)}
        return json.dumps({**about, "splits": splits}, indent=1).encode()

    @classmethod
    def of_json(cls, contents: bytes) -> _State:
        values = json.loads(contents)
        values["next"] = tuple(values["next"])
        values["skipped_shown"] = tuple(values["skipped_shown"])
        values["splits"] = {name: SplitProgress.of_dict(split) for name, split in values["splits"].items()}
        return cls(**values)

    def shards(self) -> tuple[Shard, ...]:
        return tuple(shard for name in SPLITS for shard in self.splits[name].shards)


_AT_START = json.loads(_State.at_start().to_json())


class Build:
    """One build in its folder: what is planned, what is done, and the files that grow.

    Args:
        folder: where the shards will be.
        tokenizer: makes the ids.
        options: what else decides the ids.
        sources: what the documents come from.
        restart: begin anew, whatever an earlier call had done.
    """

    def __init__(
        self, folder: Path, tokenizer: Tokenizer, options: Options, sources: Sequence[OpenSource], restart: bool
    ) -> None:
        """See the class."""
        self.folder = folder
        self.work = folder / BUILD
        self.tokenizer = tokenizer
        self.options = options
        self.sources = sources
        self.end_of_text = tokenizer.eot_token
        self.restart = restart
        self.total = _total(sources, options.part)
        self._began = False

    def run(self, encode: Encode, background: Executor, on_progress: OnProgress) -> Manifest:
        """Does what is left to do. Raises as `build`."""
        if (self.folder / MANIFEST).exists():
            return self._complete()
        with locked(self.folder):
            if (self.folder / MANIFEST).exists():  # another call has just written it
                return self._complete()
            rule, state = self._begin()
            if not state.finished:
                state = self._encode(rule, state, encode, background, on_progress)
            manifest = self._manifest(state)
            publish(self.folder, manifest)
            discard(self.folder)
        return manifest

    def undo(self) -> None:
        """Takes away all that this build has written, if it began anything; no other file is touched."""
        if self._began:
            undo(self.folder)

    def _complete(self) -> Manifest:
        """The manifest, if this very build had only to be tidied up."""
        are_known = all(source.stamp for source in self.sources)
        is_ours = self.work.is_dir() and are_known and self._is_ours(Manifest.read(self.folder))
        discard(self.folder)
        if not is_ours:
            raise FormatError(f"{self.folder}: holds shards already", hint="name another folder, or remove this one")
        return Manifest.read(self.folder)

    def _is_ours(self, manifest: Manifest) -> bool:
        if found := _read_json(self.work / PLAN):
            return self._differing(found) == []
        plan = self._plan()  # all was tidied up but for the folder itself
        now = plan["fingerprint"], plan["probe"], plan["arguments"], self._named_sources()
        return now == (manifest.fingerprint, manifest.probe, manifest.arguments, manifest.sources)

    def _named_sources(self) -> tuple[Source, ...]:
        return tuple(Source(source.name, source.size) for source in self.sources)

    # ---- the plan ------------------------------------------------------------------------------------------------

    def _plan(self) -> dict[str, Any]:
        return {
            "format": "bpetok build",
            "written_by": f"bpetok {version}",
            "fingerprint": self.tokenizer.fingerprint,
            "probe": probe_digest(self.tokenizer, self.end_of_text, self.options.end_of_text),
            "arguments": self.options.to_dict(),
            "unit_bytes": [source.reading.unit_bytes for source in self.sources],  # the places to go on at are units
            "sources": [[source.name, source.size, source.stamp] for source in self.sources],
        }

    def _begin(self) -> tuple[Rule, _State]:
        """The rule of validation, and how far an earlier call had come."""
        found = None if self.restart else _read_json(self.work / PLAN)
        if found is None or self._must_begin_anew(found):
            clear(self.folder)
            self._began = True
            keep(self.folder)
            rule = survey(self.sources, self.options.val_fraction)
            state = _State.at_start()
            write_atomically(self.work / _PROGRESS, state.to_json())
            write_atomically(
                self.work / PLAN, json.dumps(self._plan() | {"rule": _rule_to_list(rule)}, indent=1).encode()
            )
            return rule, state
        if differing := self._differing(found):
            raise IncompatibleError(
                f"{self.folder}: holds an unfinished build with other {', '.join(differing)}",
                hint="go on with what it was begun with, name another folder, or begin anew with --restart",
            )
        with _refusing(self.work / _PROGRESS):
            state = _State.of_json((self.work / _PROGRESS).read_bytes())
        with _refusing(self.work / PLAN):
            rule = _rule_of_list(found["rule"])
        self._check_whole_shards(state)
        self._take_away_strays(state)
        keep(self.folder)
        return rule, state

    def _must_begin_anew(self, found: dict[str, Any]) -> bool:
        """Whether all was read to see what validates of a stream, which would have to be read again for that."""
        has_streams = not all(source.stamp for source in self.sources)
        return has_streams and (found["rule"][0] != "hash" or _read_json(self.work / _PROGRESS) == _AT_START)

    def _check_whole_shards(self, state: _State) -> None:
        for shard in state.shards():
            for name in (shard.file, index_name(shard.file)):
                if not any((place / name).is_file() for place in (self.work, self.folder)):
                    raise CorruptionError(f"{self.work / name}: must be there, but is not", hint=_ANEW)

    def _differing(self, found: dict[str, Any]) -> list[str]:
        """In what another plan differs from this one, with both values where they are short."""
        plan = json.loads(json.dumps(self._plan()))
        parts = []
        for key in plan:
            if plan[key] == found.get(key):
                continue
            if key == "arguments":
                now, then = plan[key], found.get(key) or {}
                parts += [f"{one} ({then.get(one)!r}, now {now[one]!r})" for one in now if now[one] != then.get(one)]
            elif key == "sources":
                parts.append(_other_sources(plan[key], found.get(key) or []))
            else:
                parts.append(f"{key} ({found.get(key)}, now {plan[key]})")
        return parts

    def _take_away_strays(self, state: _State) -> None:
        """Files that were begun after the last checkpoint, or half written under a hidden name."""
        kept = {PLAN, _PROGRESS, LOCK, MANIFEST}
        for name, split in state.splits.items():
            kept |= {shard.file for shard in split.shards} | {index_name(shard.file) for shard in split.shards}
            stem = f"{name}_{len(split.shards):06d}"
            kept |= {f"{stem}.bin", f"{stem}.lengths"}
        for path in self.work.iterdir():
            if path.name not in kept:
                path.unlink()

    # ---- the work ------------------------------------------------------------------------------------------------

    def _encode(
        self, rule: Rule, state: _State, encode: Encode, background: Executor, on_progress: OnProgress
    ) -> _State:
        allowed = self.options.allowed_special
        recipe = Recipe(self.tokenizer, self.end_of_text, self.options.end_of_text, rule, allowed)
        lengths = self.tokenizer.token_byte_lengths()
        writers = {
            name: SplitWriter(name, self.work, recipe.dtype, self.options.shard_tokens, lengths, background, split)
            for name, split in state.splits.items()
        }
        with contextlib.ExitStack() as stack:
            # What was begun ends here, also where this fails: nothing is written when another call may write.
            stack.callback(lambda: background.submit(bool).result())
            for writer in writers.values():
                stack.callback(writer.close)
            log = _Log(self.work / _PROGRESS, writers, state, background, self._seen)
            results = encode(recipe, self._groups_left(state))
            stack.callback(results.close)  # type: ignore[attr-defined]
            tally = _Tally(self.total, state)
            on_progress(tally.progress())
            for group, encoded in results:
                log.append(group, encoded)
                tally.add(group, encoded)
                on_progress(tally.progress())
            for writer in writers.values():
                writer.seal()
            return log.finish()

    def _groups_left(self, state: _State) -> Iterator[UnitGroup]:
        """What is left to encode. Of streams, what was encoded is read again to see that it is the same."""
        part = self.options.part
        if state.next == (0, 0) or all(source.stamp for source in self.sources):
            return units_of(self.sources, state.next, part)
        groups = units_of(self.sources, part=part)
        seen = 0
        for group in groups:
            seen = self._seen(seen, group)
            if group.after >= state.next:
                break
        if seen != state.seen:
            names = ", ".join(source.name for source in self.sources if not source.stamp)
            raise IncompatibleError(
                f"{self.folder}: holds an unfinished build of {names} that began with another text",
                hint="give the same again, or begin anew with --restart",
            )
        return groups

    def _seen(self, seen: int, group: UnitGroup) -> int:
        """A hash of all that came from streams so far."""
        for unit in group.units:
            if not self.sources[unit.source].stamp:
                seen = xxh64(seen.to_bytes(8, "little") + unit.digest().to_bytes(8, "little"))
        return seen

    def _manifest(self, state: _State) -> Manifest:
        shards = state.shards()
        if not shards and self.options.part[1] == 1:
            discard(self.folder)
            why = (
                f"; {state.skipped:,} rows were left out, the first: {state.skipped_shown[0]}" if state.skipped else ""
            )
            raise DataError(f"shards: the documents must hold text, got none{why}")
        plan = self._plan()
        return Manifest(
            tokenizer=self.tokenizer.name,
            fingerprint=plan["fingerprint"],
            probe=plan["probe"],
            vocab_size=self.tokenizer.n_vocab,
            dtype=dtype_for(self.tokenizer.n_vocab),
            end_of_text=self.end_of_text,
            end_of_text_stands=self.options.end_of_text,
            arguments=plan["arguments"],
            sources=self._named_sources(),
            shards=shards,
            skipped=state.skipped,
            skipped_shown=state.skipped_shown,
        )


class _Log:
    """Takes what was encoded, in order, and makes checkpoints of it."""

    def __init__(
        self,
        path: Path,
        writers: dict[str, SplitWriter],
        state: _State,
        background: Executor,
        seen: Callable[[int, UnitGroup], int],
    ) -> None:
        self._path = path
        self._seen = seen
        self._writers = writers
        self._state = state
        self._background = background
        self._pending: deque[Future[_State]] = deque()
        self._saved = time.monotonic()
        self._whole = sum(writer.whole for writer in writers.values())

    def append(self, group: UnitGroup, encoded: Encoded) -> None:
        state = self._state
        for name, split in encoded.splits.items():
            self._writers[name].append(split)
        state.next = group.after
        state.seen = self._seen(state.seen, group)
        state.done += sum(unit.weight for unit in group.units)
        state.skipped += len(encoded.skipped)
        room = MOST_SKIPPED_SHOWN - len(state.skipped_shown)
        state.skipped_shown += tuple(encoded.skipped[:room])
        whole = sum(writer.whole for writer in self._writers.values())
        if whole > self._whole or time.monotonic() - self._saved > CHECKPOINT_SECONDS:
            self._whole = whole
            self._checkpoint()

    def finish(self) -> _State:
        self._state.finished = True
        self._checkpoint()
        while len(self._pending) > 1:
            self._pending.popleft().result()
        return self._pending.popleft().result()

    def _checkpoint(self) -> None:
        self._saved = time.monotonic()
        state = self._state
        parts = {name: writer.checkpoint() for name, writer in self._writers.items()}
        now = replace(state)

        def run() -> _State:
            saved = replace(now, splits={name: part() for name, part in parts.items()})
            sync_folder(self._path.parent)
            write_atomically(self._path, saved.to_json())
            return saved

        self._pending.append(self._background.submit(run))
        while self._pending and (self._pending[0].done() or len(self._pending) > _MOST_IN_BACKGROUND):
            if len(self._pending) == 1:
                self._pending[0].result()
                break
            self._pending.popleft().result()


class _Tally:
    def __init__(self, total: int | None, state: _State) -> None:
        self._total, self._before, self._done = total, state.done, state.done
        parts: list[Shard | Growing] = [*state.shards(), *(split.growing for split in state.splits.values())]
        self._documents = sum(part.documents for part in parts)
        self._text_bytes = sum(part.text_bytes for part in parts)
        self._tokens = sum(part.tokens for part in parts)

    def add(self, group: UnitGroup, encoded: Encoded) -> None:
        self._done += sum(unit.weight for unit in group.units)
        for split in encoded.splits.values():
            self._documents += len(split.lengths) - split.continues
            self._text_bytes += split.text_bytes
            self._tokens += len(split.ids)

    def progress(self) -> Progress:
        return Progress(self._done, self._total, self._before, self._documents, self._text_bytes, self._tokens)


# ---- small parts -------------------------------------------------------------------------------------------------


def _total(sources: Sequence[OpenSource], part: tuple[int, int]) -> int | None:
    """How many bytes the sources have, or a part of them, about; None where one does not know its size."""
    total, (number, parts) = 0, part
    for source in sources:
        if source.size is None:
            return None
        total += source.size
    return total * (number + 1) // parts - total * number // parts


def _other_sources(now: list[list[Any]], then: list[list[Any]]) -> str:
    """In what sources differ."""
    names, old = [source[0] for source in now], [source[0] for source in then]
    if names != old:
        more = [name for name in names if name not in old] or [name for name in old if name not in names] or names
        return f"sources ({more[0]} and so on; there were {len(old)}, now {len(names)})"
    altered = next(new[0] for new, one in zip(now, then, strict=True) if new != one)
    return f"sources ({altered} was altered)"


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    with _refusing(path):
        values = dict(json.loads(path.read_bytes()))
    return values


@contextlib.contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Makes a typed error of what comes of a damaged file of the hidden folder."""
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError, FileNotFoundError) as error:
        raise CorruptionError(f"{path}: must be as it was written: {error!r:.200}", hint=_ANEW) from error


def _rule_to_list(rule: Rule) -> list[Any]:
    return ["hash", rule.limit] if isinstance(rule, ByHash) else ["from", rule.source, rule.position, rule.offset]


def _rule_of_list(values: list[Any]) -> Rule:
    return ByHash(values[1]) if values[0] == "hash" else From(*values[1:])


class Now(Executor):
    """Does at once what it is given."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """The result is there when this returns."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future
