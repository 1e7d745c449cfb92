"""Ids drawn from a model, for one prompt or for many at once."""

import itertools
import math
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol, final

import torch
import torch.nn.functional as F
from torch import Tensor

from lm.errors import NonFiniteError, require
from lm.models.cache import KeyValueCache
from lm.models.contract import PAD, CausalTransformer, LanguageModel

# ---- drawing from logits ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How an id is drawn from logits; what is set applies in this order, which is Hugging Face's.

    Args:
        repetition_penalty: above 1, ids of the prompt and those drawn lose: their logits are divided by it where
            positive, multiplied where negative. 1 does nothing.
        temperature: divides the logits; below 1 the likely ids gain. 0 takes the most likely one, the lowest id of
            equals.
        top_k: draw from the k most likely ids only; of equals at the border the lower ids.
        top_p: draw from the fewest most likely of these whose chances sum to at least p; always at least one.
        min_p: draw from those of these only whose chance is at least p times the highest.

    Source: repetition penalty is Keskar et al., *CTRL* (2019), section 4.1, and its case for negative logits Hugging
    Face's; top-p is Holtzman et al., *The Curious Case of Neural Text Degeneration* (2020), section 3.1; min-p is
    Nguyen et al., *Turning Up the Heat* (2024), section 3.
    """

    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None

    def __post_init__(self) -> None:
        """Checks the values; raises ConfigError."""
        penalty = self.repetition_penalty
        require(0 < penalty < math.inf, "sample: repetition_penalty", "finite and above 0", penalty)
        require(0 <= self.temperature < math.inf, "sample: temperature", "finite and at least 0", self.temperature)
        require(self.top_k is None or self.top_k >= 1, "sample: top_k", "at least 1", self.top_k)
        require(self.top_p is None or 0 < self.top_p <= 1, "sample: top_p", "in (0, 1]", self.top_p)
        require(self.min_p is None or 0 <= self.min_p <= 1, "sample: min_p", "in [0, 1]", self.min_p)


NOT_A_NUMBER = -1
"""What `draw` gives in place of an id, where a row's highest logit is nan or infinite."""


def draw(logits_BV: Tensor, uniforms_B: Tensor, sampling: Sampling, seen_BV: Tensor | None = None) -> Tensor:
    """ids_B: the id of each row at which the sum of the chances, in the order of the ids, passes the row's uniform.

    Args:
        logits_BV: of any floating dtype; computed with in float32.
        uniforms_B: float64 in [0, 1); they decide alone, so equal ones draw equal ids.
        sampling: how.
        seen_BV: bool, which ids each row has had, for the repetition penalty.

    Returns:
        int64; `NOT_A_NUMBER` where there is none to draw.

    Cost: a few passes over the logits; a partial sort of them for top-k, a sort for top-p on CUDA.

    >>> draw(torch.tensor([[0.0, 0.0]]).expand(3, 2), torch.tensor([0.1, 0.49, 0.5], dtype=torch.float64), Sampling())
    tensor([0, 0, 1])
    """
    logits_BV = _penalised(logits_BV.float(), sampling, seen_BV)
    best_B = logits_BV.amax(dim=1)
    if sampling.temperature == 0:
        ids_B = logits_BV.argmax(dim=1)  # the first of equals, says torch's reference
    else:
        weights_BV = _weights(logits_BV, best_B[:, None], sampling)
        ids_B = _passed(weights_BV, uniforms_B)
    return torch.where(best_B.isfinite(), ids_B, NOT_A_NUMBER)


_GROUP = 256


def _passed(weights_BV: Tensor, uniforms_B: Tensor) -> Tensor:
    """ids_B, where the sum of the weights passes the uniform's share of the whole: first the group, then the id in it.

    Summing all one by one would be a chain of V additions, and a GPU would wait for it.
    """
    rows, vocab = weights_BV.shape
    groups_BGN = F.pad(weights_BV, (0, -vocab % _GROUP)).view(rows, -1, _GROUP)
    sums_BG = groups_BGN.sum(dim=2, dtype=torch.float64)
    upto_BG = sums_BG.cumsum(dim=1)
    target_B1 = uniforms_B[:, None] * upto_BG[:, -1:]
    group_B1 = _first_above(upto_BG, sums_BG, target_B1)
    before_B1 = (upto_BG - sums_BG).gather(1, group_B1)
    group_BN = groups_BGN.gather(1, group_B1[..., None].expand(-1, -1, _GROUP))[:, 0].double()
    within_B1 = _first_above(group_BN.cumsum(dim=1), group_BN, target_B1 - before_B1)
    return (group_B1 * _GROUP + within_B1)[:, 0]


def _first_above(upto_BN: Tensor, parts_BN: Tensor, target_B1: Tensor) -> Tensor:
    """place_B1 of the first part that is not 0 and whose sum with those before it is above the target.

    Rounding may bring the target to the whole sum, and parallel sums may pass it at a part of 0: never such a one.
    """
    upto_BN = torch.where(parts_BN > 0, upto_BN, 0.0)
    most_B1 = upto_BN.amax(dim=1, keepdim=True)
    below_B1 = torch.minimum(target_B1, torch.nextafter(most_B1, torch.zeros_like(most_B1)))
    return (upto_BN > below_B1).to(torch.uint8).argmax(dim=1, keepdim=True)


def chances(logits_BV: Tensor, sampling: Sampling, seen_BV: Tensor | None = None) -> Tensor:
    """chances_BV, float32: what `draw` draws each id with; 0 for those that are ruled out.

    >>> chances(torch.tensor([[2.0, 1.0, 0.5]]).log(), Sampling(top_k=2))
    tensor([[0.6667, 0.3333, 0.0000]])
    """
    logits_BV = _penalised(logits_BV.float(), sampling, seen_BV)
    if sampling.temperature == 0:
        return torch.zeros_like(logits_BV).scatter(1, logits_BV.argmax(dim=1, keepdim=True), 1.0)
    weights_BV = _weights(logits_BV, logits_BV.amax(dim=1, keepdim=True), sampling)
    return weights_BV / weights_BV.sum(dim=1, keepdim=True)


def _penalised(logits_BV: Tensor, sampling: Sampling, seen_BV: Tensor | None) -> Tensor:
    penalty = sampling.repetition_penalty
    if penalty == 1 or seen_BV is None:
        return logits_BV
    less_BV = torch.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
    return torch.where(seen_BV, less_BV, logits_BV)


def _weights(logits_BV: Tensor, best_B1: Tensor, sampling: Sampling) -> Tensor:
    """weights_BV, chances times a factor by which the highest is 1; 0 for what is ruled out."""
    # Less the highest first: then a tiny temperature gives 0 and -inf, never inf.
    weights_BV = ((logits_BV - best_B1) / sampling.temperature).exp()
    vocab = logits_BV.shape[1]
    few = sampling.top_k is not None and sampling.top_k < vocab
    if few or (sampling.top_p is not None and sampling.top_p < 1):
        weights_BV = weights_BV * _likeliest(logits_BV, best_B1, weights_BV, sampling)
    if sampling.min_p is not None:
        weights_BV = weights_BV * (weights_BV >= sampling.min_p)
    return weights_BV


def _likeliest(logits_BV: Tensor, best_B1: Tensor, weights_BV: Tensor, sampling: Sampling) -> Tensor:
    """mask_BV: the ids that top-k and top-p leave."""
    vocab = logits_BV.shape[1]
    most = min(sampling.top_k or vocab, vocab)
    if sampling.top_p is None:
        lowest_B1 = logits_BV.topk(most, dim=1).values[:, -1:]
        return _highest(logits_BV, lowest_B1, torch.full_like(lowest_B1, most, dtype=torch.int64))
    for width in _widths(logits_BV, most):
        highest_BK = logits_BV.topk(width, dim=1).values
        parts_BK = ((highest_BK - best_B1) / sampling.temperature).exp().double()
        sums_BK = parts_BK.cumsum(dim=1)
        total_B1 = sums_BK[:, -1:] if most < vocab else weights_BV.sum(dim=1, keepdim=True, dtype=torch.float64)
        count_B1 = (sums_BK - parts_BK < sampling.top_p * total_B1).sum(dim=1, keepdim=True).clamp(min=1)
        if width == most or bool((count_B1 < width).all()):
            break
    return _highest(logits_BV, highest_BK.gather(1, count_B1 - 1), count_B1)


_FEW = 1024


def _widths(logits_BV: Tensor, most: int) -> list[int]:
    """How many of the highest logits to sort: few first where that is worth a look, which a GPU would wait for."""
    if most <= _FEW or most < logits_BV.shape[1] or logits_BV.is_cuda or torch.compiler.is_compiling():
        return [most]
    return [_FEW, most]


def _highest(logits_BV: Tensor, lowest_B1: Tensor, count_B1: Tensor) -> Tensor:
    """mask_BV of the `count` highest, the last of which is `lowest`; of its equals the lower ids."""
    above_BV, equal_BV = logits_BV > lowest_B1, logits_BV == lowest_B1
    left_B1 = count_B1 - above_BV.sum(dim=1, keepdim=True)
    return above_BV | (equal_BV & (equal_BV.cumsum(dim=1) <= left_B1))


def row_seeds(seed: int) -> Iterator[int]:
    """The seeds of the rows of a batch without end: `seed` itself, then such as its generator draws.

    Neighbouring seeds share nothing so, as they would if the rows' seeds were counted up.
    """
    yield seed
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield int(torch.randint(2**62, (), generator=generator))


@final
class Uniforms:
    """Uniform numbers for each row and step, from a generator of its own for each row, on the CPU.

    Each row's come in blocks of `BLOCK`, always: so they are the same alone and in a batch, step by step or ahead.
    """

    BLOCK = 64

    def __init__(self, seeds: Sequence[int]) -> None:
        """One seed for each row."""
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._blocks_BN: list[Tensor] = []

    def at(self, step: int) -> Tensor:
        """uniforms_B, float64 in [0, 1), of a step, counted from 0; steps may not go back by more than a block."""
        block, within = divmod(step, self.BLOCK)
        while len(self._blocks_BN) <= block:
            rows = [torch.rand(self.BLOCK, generator=one, dtype=torch.float64) for one in self._generators]
            self._blocks_BN = [*(torch.empty(0) for _ in self._blocks_BN), torch.stack(rows)]
        return self._blocks_BN[block][:, within]

    def first(self, steps: int) -> Tensor:
        """uniforms_NB of the first steps, for whoever draws ahead of reading."""
        return torch.stack([self.at(step) for step in range(steps)]) if steps else torch.empty(0, len(self._generators))


# ---- drawing from a model --------------------------------------------------------------------------------------------


def generate(
    model: LanguageModel,
    prompt_ids: Sequence[int],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    stop_id: int | None = None,
    seed: int,
    use_cache: bool = True,
) -> Generator[int, None, None]:
    """New ids after a prompt, each as soon as it is drawn: `generate_batch` with one row.

    Args:
        model: on the device where it is to run.
        prompt_ids: at least one id, each in [0, V).
        max_new_tokens: the most ids to draw.
        temperature: as `Sampling`; so are `top_k`, `top_p`, `min_p` and `repetition_penalty`.
        top_k: as there.
        top_p: as there.
        min_p: as there.
        repetition_penalty: as there.
        stop_id: end when this id is drawn; it is not given out.
        seed: of the draws, in [0, 2**63).
        use_cache: as `generate_batch`.

    Raises:
        ConfigError: if an argument is out of its range; at the call, not at the first id.
        NonFiniteError: if the model gives nan.
    """
    steps = generate_batch(
        model,
        [prompt_ids],
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        stop_ids=() if stop_id is None else (stop_id,),
        seed=seed,
        use_cache=use_cache,
    )
    return _only_row(steps)


def generate_batch(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    stop_ids: Collection[int] = (),
    seed: int | Sequence[int],
    use_cache: bool = True,
) -> Generator[list[int | None], None, None]:
    """New ids after each of some prompts, of any lengths, all rows a step at a time.

    A row draws what it would draw alone, as far as sums round alike. The model is in eval mode while it draws, and back
    in its own mode when the iterator ends or is closed.

    The model reads the last `context` ids. A transformer keeps keys and values and reads each id once, until a row
    outgrows the context: from there on its window slides, all positions in it move, and each id costs a pass over a
    whole context. So it is with rungs that are no transformers with a seam for a cache, at every id.

    Args:
        model: on the device where it is to run.
        prompts: at least one, each of at least one id in [0, V).
        max_new_tokens: the most ids to draw for a row.
        temperature: as `Sampling`; so are `top_k`, `top_p`, `min_p` and `repetition_penalty`.
        top_k: as there.
        top_p: as there.
        min_p: as there.
        repetition_penalty: as there.
        stop_ids: a row ends when it draws one of these, which is not given out.
        seed: of the draws, in [0, 2**63): one for each row, or one of which `row_seeds` makes them: the first row's is
            the seed itself. Uniform numbers are equal for equal seeds on every machine; logits may round otherwise.
        use_cache: False reads the whole window for each id: slow, and what the cache is held against.

    Yields:
        for each step the id that each row drew, None for those that have ended, which cost nothing any more.

    Raises:
        ConfigError: if an argument is out of its range; at the call, not at the first id.
        NonFiniteError: if the model gives nan.

    >>> from lm.models.bigram import Bigram, BigramConfig
    >>> model = Bigram(BigramConfig(context=4), vocab_size=10)
    >>> steps = list(generate_batch(model, [[1], [2, 3]], max_new_tokens=5, seed=0))
    >>> len(steps), len(steps[0])
    (5, 2)
    """
    sampling = Sampling(
        repetition_penalty=repetition_penalty, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p
    )
    require(max_new_tokens >= 0, "sample: max_new_tokens", "at least 0", max_new_tokens)
    texts = checked_prompts(model, prompts)
    return _steps(
        model, texts, max_new_tokens, sampling, frozenset(stop_ids), seeds_of_rows(seed, len(texts)), use_cache
    )


def checked_prompts(model: LanguageModel, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Copies of the prompts, one or more, none of them empty, all ids in [0, V).

    Raises:
        ConfigError: if they are not so.
    """
    require(len(prompts) > 0, "sample: prompts", "one or more", list(prompts))
    texts = [list(ids) for ids in prompts]
    for ids in texts:
        require(len(ids) > 0, "sample: prompt_ids", "one id or more", ids, "begin with the tokenizer's eot_token")
        known = all(0 <= id_ < model.vocab_size for id_ in ids)
        require(known, "sample: prompt_ids", f"in [0, {model.vocab_size})", ids)
    return texts


def seeds_of_rows(seed: int | Sequence[int], rows: int) -> list[int]:
    """One seed for each row: those that are given, or such as `row_seeds` makes of one.

    Raises:
        ConfigError: if they are out of their range, or too many or too few.
    """
    if isinstance(seed, int):
        require(0 <= seed < 2**63, "sample: seed", "in [0, 2**63)", seed)
        return list(itertools.islice(row_seeds(seed), rows))
    seeds = list(seed)
    require(len(seeds) == rows, "sample: seed", f"one number, or {rows}, one for each prompt", seeds)
    require(all(0 <= one < 2**63 for one in seeds), "sample: seed", "in [0, 2**63)", seeds)
    return seeds


def _only_row(steps: Generator[list[int | None], None, None]) -> Generator[int, None, None]:
    with closing(steps):  # at once, not when garbage is collected: the model's mode waits for it
        for (id_,) in steps:
            assert id_ is not None
            yield id_


def _steps(
    model: LanguageModel,
    texts: list[list[int]],
    max_new_tokens: int,
    sampling: Sampling,
    stop_ids: frozenset[int],
    seeds: Sequence[int],
    use_cache: bool,
) -> Generator[list[int | None], None, None]:
    was_training = model.training
    model.eval()
    try:
        reader = _reader(model, texts, max_new_tokens, use_cache)
        uniforms = Uniforms(seeds)
        seen_BV = seen(texts, model.vocab_size) if sampling.repetition_penalty != 1 else None
        rows = list(range(len(texts)))
        for step in range(max_new_tokens):
            ids = _draw_step(reader, rows, uniforms.at(step), sampling, seen_BV)
            drawn = {row: id_ for row, id_ in zip(rows, ids, strict=True) if id_ not in stop_ids}
            if not drawn:
                return
            for row, id_ in drawn.items():
                texts[row].append(id_)
            rows = list(drawn)
            yield [drawn.get(row) for row in range(len(texts))]
    finally:
        model.train(was_training)


def seen(texts: Sequence[Sequence[int]], vocab_size: int) -> Tensor:
    """seen_BV, bool: which ids each text has."""
    seen_BV = torch.zeros(len(texts), vocab_size, dtype=torch.bool)
    for row, ids in enumerate(texts):
        seen_BV[row, torch.tensor(ids)] = True
    return seen_BV


def require_numbers(ids: Sequence[int]) -> None:
    """Nothing, where `draw` gave ids.

    Raises:
        NonFiniteError: if it did not.
    """
    if NOT_A_NUMBER in ids:
        hint = "the run has diverged: train it again with a lower optimizer.lr"
        raise NonFiniteError("sample: the model's logits must be numbers, got nan or inf", hint=hint)


@torch.inference_mode()
def _draw_step(
    reader: "_Reader", rows: list[int], uniforms_B: Tensor, sampling: Sampling, seen_BV: Tensor | None
) -> list[int]:
    logits_BV = reader.next_logits(rows)
    if logits_BV.device.type == "mps":
        logits_BV = logits_BV.cpu()  # MPS has no float64
    device = logits_BV.device
    seen_rows_BV = None if seen_BV is None else seen_BV[rows].to(device)
    ids: list[int] = draw(logits_BV, uniforms_B[rows].to(device), sampling, seen_rows_BV).tolist()
    require_numbers(ids)
    if seen_BV is not None:
        seen_BV[rows, ids] = True
    return ids


# ---- reading what was drawn ------------------------------------------------------------------------------------------


class _Reader(Protocol):
    def next_logits(self, rows: list[int]) -> Tensor:
        """logits_BV of the ids behind these rows' texts, in rising order, which only ever become fewer."""


def _reader(model: LanguageModel, texts: list[list[int]], max_new_tokens: int, use_cache: bool) -> _Reader:
    if use_cache and isinstance(model, CausalTransformer):
        return _CachedReader(model, texts, max_new_tokens)
    return _WindowReader(model, texts)


@final
class _WindowReader:
    """Reads the last `context` ids of each row anew for every id."""

    def __init__(self, model: LanguageModel, texts: list[list[int]]) -> None:
        self._model = model
        self._texts = texts
        self._device = next(model.parameters()).device

    def next_logits(self, rows: list[int]) -> Tensor:
        windows = [self._texts[row][-self._model.context :] for row in rows]
        lengths = sorted({len(window) for window in windows})
        if len(lengths) == 1:
            return self._model.next_logits(torch.tensor(windows, device=self._device))
        places = [[place for place, window in enumerate(windows) if len(window) == length] for length in lengths]
        parts = [torch.tensor([windows[place] for place in group], device=self._device) for group in places]
        return _joined([self._model.next_logits(part) for part in parts], places)


@final
class _CachedReader:
    """Reads each id once while a row is within the context; past it, `_WindowReader` reads the row."""

    def __init__(self, model: CausalTransformer, texts: list[list[int]], max_new_tokens: int) -> None:
        self._model = model
        self._texts = texts
        self._past = _WindowReader(model, texts)
        self._device = next(model.parameters()).device
        self._room = max_new_tokens - 1  # the last id is drawn, not read
        self._rows: list[int] = []
        self._cache: KeyValueCache | None = None

    def next_logits(self, rows: list[int]) -> Tensor:
        kept = [row for row in rows if len(self._texts[row]) <= self._model.context]
        past = [row for row in rows if len(self._texts[row]) > self._model.context]
        if not past:
            return self._read(kept)
        if not kept:
            self._cache = None
            return self._past.next_logits(past)
        places = [[place for place, row in enumerate(rows) if (row in kept) == inside] for inside in (True, False)]
        return _joined([self._read(kept), self._past.next_logits(past)], places)

    def _read(self, rows: list[int]) -> Tensor:
        if self._cache is None:
            padded, starts = left_padded([self._texts[row] for row in rows])
            capacity = min(self._model.context, len(padded[0]) + self._room)
            self._cache = KeyValueCache.for_model(self._model, rows=len(rows), capacity=capacity, starts=starts)
            ids_BT = torch.tensor(padded, device=self._device)
        else:
            if rows != self._rows:
                self._cache.keep([self._rows.index(row) for row in rows])
            ids_BT = torch.tensor([self._texts[row][-1:] for row in rows], device=self._device)
        self._rows = rows
        features_BTC = self._model.features(ids_BT, self._cache)
        return self._model.logits(features_BTC[:, -1])


def left_padded(texts: Sequence[Sequence[int]]) -> tuple[list[list[int]], list[int]]:
    """The texts made equally long by padding on the left, and how much of it each got.

    >>> left_padded([[7], [8, 9]])
    ([[0, 7], [8, 9]], [1, 0])
    """
    longest = max(map(len, texts))
    starts = [longest - len(ids) for ids in texts]
    return [[PAD] * start + list(ids) for start, ids in zip(starts, texts, strict=True)], starts


def _joined(parts: Sequence[Tensor], places: Sequence[Sequence[int]]) -> Tensor:
    """logits_BV of parts of a batch, each row at its place."""
    order = [place for group in places for place in group]
    joined_BV = torch.cat(list(parts))
    return joined_BV[torch.tensor(order, device=joined_BV.device).argsort()]
