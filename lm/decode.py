"""Decoding at the speed of a GPU: every step has the same shapes, is compiled once, and is replayed as a CUDA graph.

`lm.generate` asks the host for each of some two hundred kernels a step, and waits for each id. Here the drawing is part
of the step, the ids stay on the device until a chunk of them is read, and a step is one call. For a few hundred ids
`lm.generate` is done sooner: compiling takes its time.
"""

import copy
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm.errors import require
from lm.generate import Sampling, Uniforms, checked_prompts, draw, left_padded, require_numbers, seeds_of_rows, seen
from lm.models.cache import StaticCache
from lm.models.contract import CausalTransformer

CHUNK = 16
"""How many ids of a row the host reads at once; the next chunk is under way meanwhile."""


@final
class StaticDecoder:
    """Draws ids for a fixed number of rows, again and again; the twin of `lm.generate.generate_batch`.

    It has a copy of the model, whose weights it never sees change.

    Args:
        model: on the device where it is to run.
        rows: B, how many prompts each call of `generate` has.
        capacity: the most ids a row may have in the end, but for its last; at most the context, which is the default.
            Every step reads as much: make it no larger than needed.
        sampling: how ids are drawn.
        dtype: of the copied weights; bfloat16 on CUDA unless told, else the model's own.
        compiled: whether the step is compiled. On CUDA it is a graph also where it is not.

    Raises:
        ConfigError: if an argument is out of its range.

    Cost: the first call of `generate` compiles; weights and cache are held as long as the decoder.

    >>> from lm.models.gpt2 import GPT2, GPT2Config
    >>> model = GPT2(GPT2Config(context=8, layers=1, heads=2, width=16), vocab_size=100)
    >>> decoder = StaticDecoder(model, rows=2, compiled=False)
    >>> len(list(decoder.generate([[1, 2], [3]], max_new_tokens=5, seed=0)))
    5
    """

    def __init__(
        self,
        model: CausalTransformer,
        *,
        rows: int,
        capacity: int | None = None,
        sampling: Sampling | None = None,
        dtype: torch.dtype | None = None,
        compiled: bool = True,
    ) -> None:
        """Copies the model and makes all tensors; nothing is compiled yet."""
        device = model.head_PC.device
        if dtype is None and device.type == "cuda":
            dtype = torch.bfloat16
        self.sampling = sampling or Sampling()
        self._model = decoding_copy(model, dtype=dtype, unfused=compiled and rows == 1)
        self._cache = StaticCache(self._model, rows=rows, capacity=capacity)
        self._steps_1 = torch.zeros(1, dtype=torch.int64, device=device)
        self._ids_B1 = torch.zeros(rows, 1, dtype=torch.int64, device=device)
        self._drawn_NB = torch.zeros(self._cache.capacity + 1, rows, dtype=torch.int64, device=device)
        self._uniforms_NB = torch.zeros(self._cache.capacity + 1, rows, dtype=torch.float64, device=device)
        penalised = self.sampling.repetition_penalty != 1
        self._seen_BV = torch.zeros(rows, model.vocab_size, dtype=torch.bool, device=device) if penalised else None
        # Such kernels for the products of one vector with a matrix as read at the memory's full rate.
        options: dict[str, str | int | bool | Callable[..., Any]] = {"coordinate_descent_tuning": device.type == "cuda"}
        self._run: Callable[[], None] = self._step
        if compiled:
            self._run = torch.compile(self._step, fullgraph=True, dynamic=False, options=options)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._turn = 0

    @property
    def rows(self) -> int:
        """B."""
        return self._ids_B1.shape[0]

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        stop_ids: Collection[int] = (),
        seed: int | Sequence[int],
    ) -> Generator[list[int | None], None, None]:
        """New ids after each prompt, as `lm.generate.generate_batch` gives them; only one such iterator at a time.

        All rows cost until the last has ended, and up to two chunks of `CHUNK` steps beyond.

        Args:
            prompts: as many as there are rows, each of at least one id in [0, V).
            max_new_tokens: the most ids to draw for a row; with the longest prompt at most `capacity` and 1.
            stop_ids: a row ends when it draws one of these, which is not given out.
            seed: one for each row, or one of which `lm.generate.row_seeds` makes them.

        Yields:
            for each step the id that each row drew, None for those that have ended.

        Raises:
            ConfigError: if an argument is out of its range; at the call.
            NonFiniteError: if the model gives nan.
        """
        texts = checked_prompts(self._model, prompts)
        require(len(texts) == self.rows, "decode: prompts", f"{self.rows}, as the decoder was made for", len(texts))
        require(max_new_tokens >= 0, "decode: max_new_tokens", "at least 0", max_new_tokens)
        needed, capacity = max(map(len, texts)) + max_new_tokens - 1, self._cache.capacity
        hint = "lm.generate slides the window where a text outgrows the context"
        require(needed <= capacity, "decode: prompt and new ids", f"at most {capacity + 1} together", needed + 1, hint)
        return self._given_out(texts, max_new_tokens, frozenset(stop_ids), seeds_of_rows(seed, self.rows))

    def _given_out(
        self, texts: list[list[int]], max_new_tokens: int, stop_ids: frozenset[int], seeds: Sequence[int]
    ) -> Generator[list[int | None], None, None]:
        ended = [False] * self.rows
        for ids in self._read(texts, max_new_tokens, seeds):
            require_numbers([id_ for id_, end in zip(ids, ended, strict=True) if not end])
            ended = [end or id_ in stop_ids for id_, end in zip(ids, ended, strict=True)]
            if all(ended):
                return
            yield [None if end else id_ for id_, end in zip(ids, ended, strict=True)]

    def _read(self, texts: list[list[int]], steps: int, seeds: Sequence[int]) -> Iterator[list[int]]:
        """The ids of each step, read while the next chunk is drawn."""
        self._turn += 1
        turn = self._turn
        under_way: deque[_Chunk] = deque()
        for start in range(0, steps, CHUNK):
            stop = min(start + CHUNK, steps)
            for step in range(start, stop):
                self._begin(texts, steps, seeds) if step == 0 else self._replay()
            under_way.append(_Chunk(self._drawn_NB[start:stop]))
            if len(under_way) > 1:
                yield from under_way.popleft().rows()
                alone = turn == self._turn
                require(alone, "decode: iterators of a decoder", "read one after the other", "two at a time")
        for chunk in under_way:
            yield from chunk.rows()

    @torch.no_grad()
    def _begin(self, texts: list[list[int]], steps: int, seeds: Sequence[int]) -> None:
        """Reads the prompts and draws the first ids."""
        device = self._ids_B1.device
        if device.type == "cuda" and self._graph is None:
            self._graph = self._captured()
        self._uniforms_NB[:steps] = Uniforms(seeds).first(steps).to(device)
        if self._seen_BV is not None:
            self._seen_BV.copy_(seen(texts, self._seen_BV.shape[1]))
        padded, starts = left_padded(texts)
        self._steps_1.zero_()
        self._cache.clear(starts)
        self._draw(self._model.features(torch.tensor(padded, device=device), self._cache)[:, -1])

    @torch.no_grad()
    def _replay(self) -> None:
        if self._graph is None:
            self._run()
        else:
            self._graph.replay()

    def _captured(self) -> torch.cuda.CUDAGraph:
        """The step as a CUDA graph; what the runs before it wrote counts for nothing."""
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):  # compiles, tunes, and lets the libraries take their workspaces outside of the graph
                self._steps_1.zero_()
                self._cache.clear()
                self._run()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._run()
        return graph

    def _step(self) -> None:
        self._draw(self._model.features(self._ids_B1, self._cache)[:, -1])

    def _draw(self, features_BC: Tensor) -> None:
        uniforms_B = self._uniforms_NB.index_select(0, self._steps_1)[0]
        ids_B = draw(self._model.logits(features_BC), uniforms_B, self.sampling, self._seen_BV)
        self._drawn_NB.index_copy_(0, self._steps_1, ids_B[None])
        self._ids_B1.copy_(ids_B[:, None].clamp(min=0))  # where there was none, the host will say so
        if self._seen_BV is not None:
            self._seen_BV.scatter_(1, self._ids_B1, True)
        self._steps_1.add_(1)


@final
class _Chunk:
    """Ids on their way to the host."""

    def __init__(self, ids_NB: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if ids_NB.device.type != "cuda":
            self._ids_NB = ids_NB.to("cpu", copy=True)
            return
        self._ids_NB = torch.empty(ids_NB.shape, dtype=ids_NB.dtype, pin_memory=True)
        self._ids_NB.copy_(ids_NB, non_blocking=True)
        self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._event.record()

    def rows(self) -> list[list[int]]:
        if self._event is not None:
            self._event.synchronize()
        rows: list[list[int]] = self._ids_NB.tolist()
        return rows


@final
class _Unfused(nn.Module):
    """A linear layer whose bias is added apart: the compiler makes a kernel of its own of a product that stands alone,
    and leaves one with a bias to a library that is slow on a single row.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight) + self.bias


def decoding_copy(
    model: CausalTransformer, *, dtype: torch.dtype | None = None, unfused: bool = False
) -> CausalTransformer:
    """A copy of a model to draw from: in eval mode, without gradients.

    Args:
        model: stays as it is.
        dtype: of the copy's weights; the model's own unless told.
        unfused: whether biases are added apart from the products, which suits a compiled step of one row.
    """
    copied = copy.deepcopy(model).eval().requires_grad_(False)
    if dtype is not None:
        copied = copied.to(dtype)
    if unfused:
        for parent in list(copied.modules()):
            for name, child in parent.named_children():
                if isinstance(child, nn.Linear) and child.bias is not None:
                    setattr(parent, name, _Unfused(child))
    return copied
