"""Rows of `bench_gpu.py` that draw ids: a gate (cached ids are the uncached ones), ids a second beside transformers.

Weights are random, in bfloat16 on the card; prompts are of 16 ids, nothing stops a row. The first call compiles and
captures; what counts is the second.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench_gpu_train import Figures, Scale, Unmeasured, peer_model, synchronize

PROMPT = 16


def our_model(scale: Scale) -> Any:
    import torch

    from lm.models.gpt2 import GPT2, GPT2Config

    torch.manual_seed(0)
    config = GPT2Config(context=scale.context, layers=scale.layers, heads=scale.heads, width=scale.width)
    return GPT2(config, scale.vocab).to(scale.device).eval()


def prompts(scale: Scale, batch: int) -> list[list[int]]:
    length = min(PROMPT, scale.context // 4)
    return [[(7 + 31 * row + 11 * place) % scale.vocab for place in range(length)] for row in range(batch)]


def rows_of(steps: Iterable[list[int | None]], batch: int) -> list[list[int]]:
    """The new ids of each row."""
    rows: list[list[int]] = [[] for _ in range(batch)]
    for step in steps:
        for row, id_ in enumerate(step):
            if id_ is not None:
                rows[row].append(id_)
    return rows


def decoder_of(model: Any, scale: Scale, batch: int, **settings: Any) -> Any:
    from lm.decode import StaticDecoder

    capacity = min(PROMPT, scale.context // 4) + scale.new_ids
    return StaticDecoder(model, rows=batch, capacity=capacity, compiled=scale.device == "cuda", **settings)


def our_graphs(scale: Scale, peers: Path, *, batch: int) -> Figures:
    """Ids a second of `StaticDecoder` at temperature 1: prefill, graph replays and what the host does with the ids."""
    batch = min(batch, scale.wide_batch)
    decoder = decoder_of(our_model(scale), scale, batch)

    def call() -> int:
        steps = decoder.generate(prompts(scale, batch), max_new_tokens=scale.new_ids, seed=0)
        return sum(map(len, rows_of(steps, batch)))

    return timed(scale, batch, call)


def our_generate(scale: Scale, peers: Path, *, batch: int) -> Figures:
    """The same of `generate_batch`, whose every kernel is asked for by the host."""
    import torch

    from lm.generate import generate_batch

    batch = min(batch, scale.wide_batch)
    model = our_model(scale)
    model = model.to(torch.bfloat16) if scale.bf16 else model

    def call() -> int:
        steps = generate_batch(model, prompts(scale, batch), max_new_tokens=scale.new_ids, seed=0)
        return sum(map(len, rows_of(steps, batch)))

    return timed(scale, batch, call)


def timed(scale: Scale, batch: int, call: Any) -> Figures:
    """The second of two calls, and what the first took beyond it."""
    import torch

    seconds, count = [], 0
    for _ in range(2 if scale.device == "cpu" else 3):
        synchronize(scale)
        begin = time.perf_counter()
        count = call()
        synchronize(scale)
        seconds.append(time.perf_counter() - begin)
    if count != batch * scale.new_ids:
        raise RuntimeError(f"{batch * scale.new_ids} ids were to be drawn, got {count}")
    peak = torch.cuda.max_memory_allocated() if scale.device == "cuda" else None
    return {
        "batch": batch,
        "ids/s": round(count / min(seconds[1:])),
        "first call s": round(seconds[0] - min(seconds[1:]), 2),
        "peak GB": None if peak is None else round(peak / 1e9, 2),
    }


def gate_decoding(scale: Scale, peers: Path) -> Figures:
    """Greedy ids in float32: with the growing cache and with the static one as without."""
    import torch

    from lm.generate import Sampling, generate_batch

    torch.set_float32_matmul_precision("highest")
    model, batch = our_model(scale), min(4, scale.wide_batch)
    given, count = prompts(scale, batch), min(64, scale.new_ids)
    greedy: dict[str, Any] = {"max_new_tokens": count, "temperature": 0.0, "seed": 0}
    wanted = rows_of(generate_batch(model, given, use_cache=False, **greedy), batch)
    cached = rows_of(generate_batch(model, given, **greedy), batch)
    decoder = decoder_of(model, scale, batch, sampling=Sampling(temperature=0.0), dtype=torch.float32)
    static = rows_of(decoder.generate(given, max_new_tokens=count, seed=0), batch)
    whole = all(len(ids) == count for ids in wanted)
    figures = {"ids": batch * count, "cached, equal": _equal(cached, wanted), "static, equal": _equal(static, wanted)}
    # Two of 50,257 random logits may be as near as float32 rounds; then one row goes another way, not all of them.
    others = [sum(one != other for one, other in zip(rows, wanted, strict=True)) for rows in (cached, static)]
    return figures | {"good": whole and max(others) <= 1}


def _equal(rows: list[list[int]], wanted: list[list[int]]) -> int:
    """How many ids are the wanted ones; behind the first other one of a row none is looked at."""
    count = 0
    for one, other in zip(rows, wanted, strict=True):
        pairs = zip(one, other, strict=False)
        count += sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    return count


def peer_decoding(scale: Scale, peers: Path, *, batch: int, cache: str) -> Figures:
    """`generate` of transformers, whose static cache is compiled by itself on CUDA."""
    import torch

    batch = min(batch, scale.wide_batch)
    model = peer_model("transformers", scale, peers, vocab=scale.vocab).to(scale.device).eval()
    if scale.bf16:
        model = model.to(torch.bfloat16)
    if not hasattr(model, "generate"):
        raise Unmeasured("this transformers has no generate for GPT-2")
    ids = torch.tensor(prompts(scale, batch), device=scale.device)
    settings: dict[str, Any] = {"max_new_tokens": scale.new_ids, "min_new_tokens": scale.new_ids, "do_sample": True}
    settings |= {"top_k": 0, "pad_token_id": scale.vocab - 1, "attention_mask": torch.ones_like(ids)}
    if cache == "static":
        settings["cache_implementation"] = "static"

    def call() -> int:
        with torch.inference_mode():
            return int(model.generate(ids, **settings)[:, ids.shape[1] :].numel())

    return timed(scale, batch, call)
