"""train: text -> Tokenizer; extend: a Tokenizer and text -> a larger one.

The slow twin that defines the result is `BasicTokenizer.train` in `bpetok.reference`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from bpetok import _core, memory
from bpetok.counts import PretokenCounts
from bpetok.engines import is_ray
from bpetok.errors import DataError, IncompatibleError, MemoryLimitError, VocabError
from bpetok.patterns import Pattern
from bpetok.text import BYTE_LEVEL_ORDER, as_bytes
from bpetok.threads import threads_or_all
from bpetok.tokenizer import Tokenizer
from bpetok.vocab import MAX_ID, Vocab

if TYPE_CHECKING:
    from bpetok.counting import Source

Progress = Callable[[str, int], object]
TieBreak = Literal["smallest", "huggingface", "largest", "first"]
TIE_BREAKS: tuple[TieBreak, ...] = get_args(TieBreak)
Tokens = Collection[bytes] | Callable[[bytes], bool]

_LEAST_MEMORY_PER_BYTE = 12
"""Bytes of memory that merging takes, at least, for each byte of the distinct pretokens."""

_MEMORY_PER_TOKEN = 300
"""Bytes of memory that a tokenizer takes for each token, mostly less."""

_NO_LIMIT = (1 << 63) - 1


def train(
    source: Source,
    vocab_size: int,
    *,
    pattern: Pattern = "gpt4",
    special_tokens: Iterable[str] = (),
    tie_break: TieBreak = "smallest",
    min_count: int = 1,
    max_token_bytes: int | None = None,
    allowed_merges: Tokens | None = None,
    forbidden_merges: Tokens = (),
    field: str = "text",
    name: str = "bpetok",
    num_threads: int | None = None,
    engine: str = "local",
    address: str | None = None,
    memory_limit: int | None = None,
    progress: Progress | None = None,
) -> Tokenizer:
    """Learns a vocabulary from text.

    Each step merges the pair of neighbours that occurs most often; of equal ones, that which `tie_break` names. It
    stops early when no pair is left; the vocabulary's `provenance` says so. The result depends on the text alone: not
    on threads, nor on how files are cut to read them, nor (but for ties "first") on the order of the documents.

    Args:
        source: one text or many. `str` and `bytes` are text; a `pathlib.Path` names a text file, which is read in
            pieces, a `.jsonl` or `.parquet` file of a text a row, a `.counts` file (`PretokenCounts.save`), or a folder
            of such files; what is open for reading bytes is one text; mappings are rows, so a split of a dataset of
            Hugging Face is a source as it is. Or counts made before.
        vocab_size: 256 bytes and the merges; the special tokens come on top.
        pattern: how text is cut: a name of `bpetok.patterns`, a regular expression, or None. `PretokenCounts` have
            their own; files of counts must have been cut by this one.
        special_tokens: texts of tokens that are never merged. They get the highest ids, in this order.
        tie_break: among pairs that occur equally often,
            "smallest" merges that with the smallest left id, then right id (as rustbpe);
            "huggingface" does so with the bytes in the order of the byte-level alphabet (as tokenizers);
            "largest" merges that whose left token's bytes are the greatest, then the right one's (as subword-nmt and
            Stanford's CS336);
            "first" merges that which stands first in the text (as minbpe and tiktoken's educational code); it needs the
            text itself, and refuses counts.
        min_count: a pair that occurs less often does not merge.
        max_token_bytes: no token becomes longer.
        allowed_merges: the tokens that may be made, as a collection or as a function of a token's bytes, which is asked
            before a merge would make it, maybe more than once; None for all.
        forbidden_merges: the tokens that must not be made, likewise.
        field: where a row has its text.
        name: what to call the vocabulary.
        num_threads: how many count the text, at most; None for as many as this process may use at once.
        engine: "local", or "ray" to count on a Ray cluster; the source must be files then. See `bpetok.cluster`.
        address: of the cluster, as `ray.init` takes it; None to start one on this machine for this call.
        memory_limit: how many bytes the whole process may take; None for no limit. What will take more is refused as
            soon as that is known: mostly before, by a row or a piece of a file at most after.
        progress: called now and then with a stage ("scan" or "merge") and how much of it was done since the last
            call (bytes, merges). An exception of its own stops the training.

    Raises:
        VocabError: `vocab_size` is under 256 or too large, or a special token is also a token that merges.
        DataError: the source holds no text, a row is not as it has to be, or an argument is out of range.
        PatternError: the pattern is unknown or does not compile.
        IncompatibleError: a file of counts was cut by another pattern.
        MemoryLimitError: more memory would be needed than `memory_limit`.
        MissingExtraError: an optional package is needed that is not installed.
        WorkerError: there is no cluster at the address, or its workers died again and again.

    >>> tok = train("low lower lowest", vocab_size=259, pattern="gpt2")
    >>> [tok.decode([token_id]) for token_id in range(256, 259)]
    ['lo', 'low', ' low']
    """
    _check_size(vocab_size, 256, "one for each byte")
    specials = _listed(special_tokens)
    rules = _Rules(tie_break, min_count, max_token_bytes, allowed_merges, forbidden_merges)
    work = _Work(rules, field, num_threads, memory_limit, progress or _say_nothing, engine, address)
    counts = work.count(source, pattern)
    order = BYTE_LEVEL_ORDER if tie_break == "huggingface" else bytes(range(256))
    tokens = [(bytes([byte]), byte) for byte in sorted(range(256), key=order.__getitem__)]
    made = work.merge(counts, tokens, 256, vocab_size - 256)
    provenance = work.provenance(counts, made, vocab_size)
    return Tokenizer(Vocab.of_training(made.ranks, specials, counts.split.regex, name, provenance))


def extend(
    tok: Tokenizer,
    source: Source,
    vocab_size: int,
    *,
    special_tokens: Iterable[str] = (),
    tie_break: TieBreak = "smallest",
    min_count: int = 1,
    max_token_bytes: int | None = None,
    allowed_merges: Tokens | None = None,
    forbidden_merges: Tokens = (),
    field: str = "text",
    name: str | None = None,
    num_threads: int | None = None,
    engine: str = "local",
    address: str | None = None,
    memory_limit: int | None = None,
    progress: Progress | None = None,
) -> Tokenizer:
    """Goes on training: a tokenizer with all tokens of `tok`, their ids unchanged, and merges learnt from text.

    The text is cut by the pattern of `tok` and encoded by it, then merging goes on as in `train`. The new tokens get
    the ids behind all others, special tokens included, so that what a model has learnt about the old ids stays true.

    Args:
        tok: the tokenizer.
        source: as `train`; counts must have been cut by the pattern of `tok`.
        vocab_size: how many tokens there shall be, the old ones included and all special tokens apart.
        special_tokens: further ones; their ids come last.
        tie_break: as `train`. Ids are those of `tok`; for "huggingface" its single bytes come first, in the order of
            the byte-level alphabet.
        min_count: as `train`.
        max_token_bytes: as `train`; longer tokens of `tok` stay.
        allowed_merges: as `train`.
        forbidden_merges: as `train`.
        field: as `train`.
        name: what to call the vocabulary; None for the old name.
        num_threads: as `train`.
        engine: as `train`.
        address: as `train`.
        memory_limit: as `train`.
        progress: as `train`.

    Raises:
        VocabError: `vocab_size` is under the number of tokens of `tok`, or a special token is not new; all else as
            `train`.

    >>> tok = extend(train("low lower", vocab_size=258, special_tokens=["<s>"]), "lowest lowest", vocab_size=260)
    >>> [(token_id, tok.decode([token_id])) for token_id in range(256, 261)]
    [(256, 'lo'), (257, 'low'), (258, '<s>'), (259, 'es'), (260, 'lowes')]
    """
    if not isinstance(tok, Tokenizer):
        raise TypeError(f"extend: tok must be a Tokenizer, got {tok!r:.80}")
    base = tok.vocab
    if base.semantics != "rank" or base.normalization:
        raise VocabError(f"extend: the tokenizer must merge by rank and take text as it is, got {base!r}")
    _check_size(vocab_size, len(base.ranks), "those that there are")
    specials = _listed(special_tokens)
    rules = _Rules(tie_break, min_count, max_token_bytes, allowed_merges, forbidden_merges)
    work = _Work(rules, field, num_threads, memory_limit, progress or _say_nothing, engine, address)
    merges = vocab_size - len(base.ranks)
    new_specials = _new_specials(specials, base, len(base) + merges)
    encoder = _core.Encoder(dict(base.ranks), "none", 0)
    if unreachable := encoder.unreachable():
        raise VocabError(f"extend: merging must make every token of the tokenizer, got {unreachable[0]!r}")
    counts = work.count(source, base.pattern)
    if counts.split != base.split:
        raise IncompatibleError(f"extend: counts must be cut by {base.split}, as the tokenizer, got {counts.split}")
    tokens = sorted(base.ranks.items(), key=lambda item: item[1])
    if tie_break == "huggingface":
        tokens.sort(key=lambda item: BYTE_LEVEL_ORDER[item[0][0]] if len(item[0]) == 1 else 256 + item[1])
    made = work.merge(counts, tokens, len(base), merges, encoder)
    provenance = work.provenance(counts, made, vocab_size)
    provenance["extends"] = {"fingerprint": base.fingerprint, "provenance": dict(base.provenance)}
    new = [(left, right) for left, right, _ in made.ranks.merges()]
    vocab = Vocab(
        made.ranks.to_dict(),
        dict(base.special_tokens) | {text: special - merges + len(new) for text, special in new_specials.items()},
        base.pattern,
        None if base.merges is None else [*base.merges, *new],
        name or base.name,
        provenance,
    )
    return Tokenizer(vocab)


# ---- the work, step by step --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Rules:
    """Which pair merges next."""

    tie_break: TieBreak
    min_count: int
    max_token_bytes: int | None
    allowed: Tokens | None
    forbidden: Tokens

    def __post_init__(self) -> None:
        if self.tie_break not in TIE_BREAKS:
            raise DataError(f"train: tie_break must be one of {', '.join(TIE_BREAKS)}, got {self.tie_break!r}")
        _check_int("min_count", self.min_count)
        if self.max_token_bytes is not None:
            _check_int("max_token_bytes", self.max_token_bytes)
        for name, tokens in (("allowed_merges", self.allowed), ("forbidden_merges", self.forbidden)):
            if isinstance(tokens, str | bytes) or not (callable(tokens) or isinstance(tokens, Collection | None)):
                raise TypeError(f"train: {name} must be a collection of tokens or a function, got {tokens!r:.80}")

    def may_make(self) -> Callable[[bytes], bool] | None:
        """Whether a merge may make a token; None if it always may."""
        if self.allowed is None and not callable(self.forbidden) and not self.forbidden:
            return None
        allowed = (lambda token: True) if self.allowed is None else _predicate(self.allowed)
        forbidden = _predicate(self.forbidden)
        return lambda token: bool(allowed(token)) and not forbidden(token)

    def why_none_is_left(self) -> str:
        """For who wonders why there are fewer tokens than asked for."""
        often = f" that occurs {self.min_count} times" if self.min_count > 1 else ""
        allowed = " that may merge" if self.max_token_bytes is not None or self.may_make() else ""
        return f"no pair was left{allowed}{often}"

    def provenance(self) -> dict[str, Any]:
        """What it takes to train again, but for the tokens allowed and forbidden, which may be many."""
        about: dict[str, Any] = {"tie_break": self.tie_break, "min_count": self.min_count}
        if self.max_token_bytes is not None:
            about["max_token_bytes"] = self.max_token_bytes
        if self.allowed is not None:
            about["allowed_merges"] = _shown(self.allowed)
        if callable(self.forbidden) or self.forbidden:
            about["forbidden_merges"] = _shown(self.forbidden)
        return about


@dataclass(frozen=True)
class _Work:
    """One training: what it was told, and its steps."""

    rules: _Rules
    field: str
    num_threads: int | None
    memory_limit: int | None
    report: Progress
    engine: str
    address: str | None

    def __post_init__(self) -> None:
        if self.memory_limit is not None:
            _check_int("memory_limit", self.memory_limit)
        threads_or_all(self.num_threads)
        is_ray("train", self.engine, self.address, self.num_threads)

    def count(self, source: Source, pattern: Pattern) -> PretokenCounts:
        """How often each pretoken occurs in the source."""
        self.report("scan", 0)
        if isinstance(source, PretokenCounts):
            self._refuse_ties_by_place()
            counts = source
        else:
            counts = PretokenCounts(pattern)

            def scanned(amount: int) -> None:
                self.report("scan", amount)
                self._check_memory(counts)

            from bpetok.counting import Limit, Scan

            limit = None if self.memory_limit is None else Limit(self.memory_limit, "train")
            if self.engine == "ray":
                from bpetok.cluster import count_by_ray

                self._refuse_ties_by_place()
                count_by_ray(counts, source, self.field, self.address, self.num_threads, scanned)
            else:
                Scan(counts, "train", self.field, self.num_threads, limit, scanned, self._refuse_ties_by_place).add(
                    source
                )
        if counts.total == 0:
            raise DataError("train: the source must hold text, got none")
        return counts

    def _refuse_ties_by_place(self) -> None:
        if self.rules.tie_break == "first":
            raise DataError(
                'train: tie_break "first" must see the text itself, got counts',
                hint="give the text, or break ties another way",
            )

    def merge(
        self,
        counts: PretokenCounts,
        tokens: list[tuple[bytes, int]],
        next_id: int,
        merges: int,
        encoder: _core.Encoder | None = None,
    ) -> _core.Trained:
        """The merges that follow from the counts, where the text is made of these tokens so far."""
        done = 0

        def on_progress(made: int) -> None:
            nonlocal done
            self.report("merge", made - done)
            done = made

        self.report("merge", 0)
        if self.memory_limit is not None:
            memory.give_back()
        left = self._check_memory(counts) - min(merges, counts.distinct_bytes) * _MEMORY_PER_TOKEN
        try:
            return _core.train(
                counts.core,
                tokens,
                next_id,
                merges,
                min_count=self.rules.min_count,
                max_token_bytes=self.rules.max_token_bytes or counts.distinct_bytes,
                tie_break=self.rules.tie_break,
                encoder=encoder,
                may_make=self.rules.may_make(),
                memory_limit=max(left, 0),
                progress=on_progress,
            )
        except MemoryLimitError:
            raise self._too_much(f"merging {len(counts):,} distinct pretokens needs more") from None

    def _check_memory(self, counts: PretokenCounts) -> int:
        """How many bytes are left to take. Raises MemoryLimitError if merging will need more than these.

        It takes more than counting does, so counts that it has room for never have to be written away meanwhile.
        """
        if self.memory_limit is None:
            return _NO_LIMIT
        needed = _LEAST_MEMORY_PER_BYTE * counts.distinct_bytes
        if memory.in_use() + needed > self.memory_limit:
            memory.give_back()
            if (in_use := memory.in_use()) + needed > self.memory_limit:
                raise self._too_much(f"{in_use:,} are in use, and at least {needed:,} more are needed")
        return self.memory_limit - memory.in_use()

    def _too_much(self, why: str) -> MemoryLimitError:
        return MemoryLimitError(
            f"train: memory must stay under {self.memory_limit:,} bytes of the whole process, but {why}",
            hint="allow more, train on less text, or cut it by a named pattern",
        )

    def provenance(self, counts: PretokenCounts, made: _core.Trained, vocab_size: int) -> dict[str, Any]:
        """Where the vocabulary comes from."""
        about = {
            "trained by": f"bpetok {_core.version}",
            "vocab_size": vocab_size,
            **self.rules.provenance(),
            "documents": counts.documents,
            "bytes": counts.bytes,
            "pretokens": counts.total,
            "distinct pretokens": len(counts),
            "tokens": made.tokens,
            "sources": [dict(source) for source in counts.sources],
        }
        if len(made.ranks) < vocab_size:
            about["stopped"] = f"at {len(made.ranks):,} tokens: {self.rules.why_none_is_left()}"
        return about


# ---- small parts -------------------------------------------------------------------------------------------------


def _check_int(name: str, value: int, least: int = 1) -> None:
    if not isinstance(value, int):
        raise TypeError(f"train: {name} must be an int, got {value!r:.80}")
    if value < least:
        raise DataError(f"train: {name} must be at least {least}, got {value}")
    if value > _NO_LIMIT:
        raise DataError(f"train: {name} must be under 2^63, got {value}")


def _check_size(vocab_size: int, least: int, why: str) -> None:
    if not isinstance(vocab_size, int):
        raise TypeError(f"train: vocab_size must be an int, got {vocab_size!r:.80}")
    if vocab_size < least:
        raise VocabError(f"train: vocab_size must be at least {least}, {why}, got {vocab_size}")
    if vocab_size > MAX_ID + 1:
        raise VocabError(f"train: vocab_size must be at most {MAX_ID + 1}, got {vocab_size}")


def _listed(special_tokens: Iterable[str]) -> list[str]:
    if isinstance(special_tokens, str | Mapping):
        raise VocabError(
            f"train: special_tokens must be a list of texts, got {special_tokens!r:.80}",
            hint="their ids are the highest ones, in the order of the list",
        )
    specials = list(special_tokens)
    if wrong := [text for text in specials if not isinstance(text, str)]:
        raise TypeError(f"train: a special token must be a str, got {wrong[0]!r:.80}")
    Vocab.from_merges([], pattern=None, special_tokens=specials)  # what can be known before the work
    return specials


def _new_specials(texts: list[str], base: Vocab, first: int) -> dict[str, int]:
    for text in texts:
        if text in base.special_tokens:
            raise VocabError(f"extend: a special token must be new, got {text!r}")
    if first + len(texts) > MAX_ID + 1:
        raise VocabError(f"extend: ids must be at most {MAX_ID}, but would go up to {first + len(texts) - 1}")
    return {text: first + i for i, text in enumerate(texts)}


def _predicate(tokens: Tokens) -> Callable[[bytes], bool]:
    return tokens if callable(tokens) else frozenset(map(as_bytes, tokens)).__contains__


def _shown(tokens: Tokens) -> str | int:
    return "a function" if callable(tokens) else len(tokens)


def _say_nothing(stage: str, amount: int) -> None:
    return None
