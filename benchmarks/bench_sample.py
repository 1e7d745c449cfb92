"""Ids drawn on a CPU, GPT-2 124M, one row: `python benchmarks/bench_sample.py [--peers FOLDER] [--new-ids N]`.

The weights are random, the prompt is short, and nothing stops the row. Held against each other:

    ours       `lm.generate.generate`, which keeps keys and values
    nanoGPT    `GPT.generate` of a checkout `FOLDER/nanoGPT`, with our weights copied over
    the bound  reading the weights once for each id, at the rate at which this machine reads as many bytes: the better
               of a sum and a product of a matrix and a vector, with as many threads

First the gate: the greedy ids of both are equal, and ours are equal with and without the cache. Then rounds: the bound
is taken before and after each turn of ours, and a share of it within the round; nanoGPT has its turn between two of
ours. What counts are the ratios: their median over the rounds and their range. A turn of nanoGPT at 512 ids takes
minutes; `--peer-rounds 0` leaves it out. Where others use the machine, `--cpu-time` counts the processor's time with
one thread: then waiting for a turn is nobody's time.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Before torch is loaded: its threads would spin on a busy machine until the other one has had its turn.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import torch

from lm.generate import generate
from lm.models.gpt2 import GPT2, SIZES

VOCAB = 50_257
PROMPT = [464, 3290, 318, 257]
GATE = 48
Clock = Callable[[], float]
TOP_K = 50

NAMES = {  # ours: nanoGPT's
    "token_embedding": "transformer.wte",
    "position_embedding": "transformer.wpe",
    "blocks": "transformer.h",
    "attention_norm": "ln_1",
    "attention.qkv": "attn.c_attn",
    "attention.project": "attn.c_proj",
    "feedforward_norm": "ln_2",
    "feedforward.expand": "mlp.c_fc",
    "feedforward.project": "mlp.c_proj",
}


# ---- models ----------------------------------------------------------------------------------------------------------


def our_model() -> GPT2:
    """Random weights, the blocks' so large that the greedy ids do not repeat the one before."""
    torch.manual_seed(0)
    model = GPT2(SIZES["gpt2-124m"], VOCAB).eval()
    with torch.no_grad():
        for parameter in model.blocks.parameters():
            if parameter.dim() == 2:
                parameter.mul_(3)
    return model


def nanogpt_model(model: GPT2, peers: Path) -> Any:
    sys.path.insert(0, str(peers / "nanoGPT"))
    module = importlib.import_module("model")
    config = model.config
    sizes = {"block_size": config.context, "n_layer": config.layers, "n_head": config.heads, "n_embd": config.width}
    peer = module.GPT(module.GPTConfig(vocab_size=VOCAB, dropout=0.0, bias=True, **sizes)).eval()
    weights = {}
    for name, weight in model.state_dict().items():
        for ours, theirs in NAMES.items():
            name = name.replace(ours, theirs)
        weights["transformer.ln_f" + name.removeprefix("norm") if name.startswith("norm") else name] = weight
    weights["transformer.wte.weight"] = weights["transformer.wte.weight"][:VOCAB]
    weights["lm_head.weight"] = weights["transformer.wte.weight"]
    missing = peer.load_state_dict(weights, strict=False)
    assert not missing.unexpected_keys and all(key.endswith("attn.bias") for key in missing.missing_keys), missing
    return peer


def ours(model: GPT2, new_ids: int, **settings: Any) -> list[int]:
    return list(generate(model, PROMPT, max_new_tokens=new_ids, seed=0, **settings))


def nanogpt(peer: Any, new_ids: int, top_k: int) -> list[int]:
    ids: list[int] = peer.generate(torch.tensor([PROMPT]), new_ids, top_k=top_k)[0, len(PROMPT) :].tolist()
    return ids


def gate(model: GPT2, peer: Any | None) -> None:
    cached = ours(model, GATE, temperature=0)
    assert len(set(cached)) > GATE // 2, "ids that repeat would show little"
    if cached != ours(model, GATE, temperature=0, use_cache=False):
        raise SystemExit("the cache changes ids")
    if peer is not None and cached != nanogpt(peer, GATE, 1):
        raise SystemExit("ours are not nanoGPT's ids")
    print(f"gate: {GATE} greedy ids, with the cache as without{', as nanoGPT' if peer is not None else ''}: equal")


# ---- the bound -------------------------------------------------------------------------------------------------------


def weight_bytes(model: GPT2) -> int:
    """What reading one id reads: all weights once, but of the positions one row; the head is the embedding."""
    left_out = model.position_embedding.weight.numel() - model.config.width
    return 4 * (sum(weight.numel() for weight in model.parameters()) - left_out)


def reading(size: int, clock: Clock) -> Callable[[], float]:
    """Bytes a second at which `size` bytes are read: the better of two ways, each the median of five."""
    numbers = torch.randn(size // 4 // 768, 768)
    vector = torch.randn(768)

    def measure() -> float:
        ways: tuple[Callable[[], object], ...] = (numbers.sum, lambda: torch.mv(numbers, vector))
        return numbers.numel() * 4 / min(statistics.median(seconds(way, clock) for _ in range(5)) for way in ways)

    return measure


def seconds(call: Callable[[], object], clock: Clock) -> float:
    began = clock()
    call()
    return clock() - began


# ---- rounds ----------------------------------------------------------------------------------------------------------


def measure(model: GPT2, peer: Any | None, args: argparse.Namespace) -> dict[str, list[float]]:
    size = weight_bytes(model)
    clock = time.process_time if args.cpu_time else time.perf_counter
    read = reading(size, clock)
    found: dict[str, list[float]] = {"ours": [], "bound": [], "share": [], "nanoGPT": [], "ratio": []}

    def turn() -> float:
        before = read()
        rate = args.new_ids / seconds(lambda: ours(model, args.new_ids, top_k=TOP_K), clock)
        bound = (before + read()) / 2 / size
        for name, value in (("ours", rate), ("bound", bound), ("share", rate / bound)):
            found[name].append(value)
        return rate

    for _ in range(args.rounds):
        turn()
    for _ in range(args.peer_rounds if peer is not None else 0):
        before = turn()
        rate = args.new_ids / seconds(lambda: nanogpt(peer, args.new_ids, TOP_K), clock)
        found["nanoGPT"].append(rate)
        found["ratio"].append((before + turn()) / 2 / rate)
    return found


def spread(values: Sequence[float], digits: int = 1) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def show(found: dict[str, list[float]], args: argparse.Namespace) -> None:
    clock = "the processor's time" if args.cpu_time else "the wall's time"
    print(f"{args.new_ids} new ids behind {len(PROMPT)}, top-k {TOP_K}, float32, {clock}")
    print(f"  ours           {spread(found['ours'])} ids/s")
    print(f"  the bound      {spread(found['bound'])} ids/s")
    print(f"  of the bound   {spread([100 * share for share in found['share']], 0)} %; the bar is 50 %")
    if found["nanoGPT"]:
        print(f"  nanoGPT        {spread(found['nanoGPT'], 2)} ids/s")
        print(f"  ours / nanoGPT {spread(found['ratio'])}; the bar is 10")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--peers", type=Path, help="a folder with a checkout nanoGPT")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peer-rounds", type=int, default=1)
    parser.add_argument("--new-ids", type=int, default=512)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--cpu-time", action="store_true", help="the processor's time with one thread, not the wall's")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1 if args.cpu_time else args.threads)
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    print(f"{versions}, {os.cpu_count()} processors, {torch.get_num_threads()} threads used")
    model = our_model()
    peer = nanogpt_model(model, args.peers) if args.peers else None
    gate(model, peer)
    found = measure(model, peer, args)
    show(found, args)
    if args.json:
        args.json.write_text(json.dumps({"new_ids": args.new_ids, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
