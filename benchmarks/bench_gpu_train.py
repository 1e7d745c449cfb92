"""Rows of `bench_gpu.py` that train: what the card can do, gates of exactness, GPT-2 beside peers, the char GPT.

Each function is a row: it runs in a process of its own and returns its figures by name. Peers' code is read from where
it lies (`PEERS`), run, and never copied: nanoGPT's `model.py` as it is, of build-nanogpt's `train_gpt2.py` the imports
and classes alone, since the rest of it would train.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import importlib.util
import itertools
import math
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Figures = dict[str, Any]
STEP_TOKENS = 524_288  # a step of build-nanogpt, whatever the rows of a micro batch


class Unmeasured(Exception):
    """What a row needs is not on this machine; it is no failure."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large everything is: the card's size, or small enough for a CPU and a minute."""

    device: str
    bf16: bool
    vocab: int
    context: int
    layers: int
    heads: int
    width: int
    step_tokens: int
    warm_steps: int
    steps: int
    new_ids: int
    wide_batch: int
    target: float  # validation loss of the char GPT, in nats per character
    ceiling: int  # rows of the matrix products

    @property
    def flops_per_token(self) -> int:
        """6 N + 12 L C T with N the matrices alone (PaLM, appendix B); 854,438,400 for GPT-2 124M at T = 1024."""
        matrices = self.vocab * self.width + 12 * self.layers * self.width**2
        return 6 * matrices + 12 * self.layers * self.width * self.context


FULL = Scale(
    device="cuda",
    bf16=True,
    vocab=50_257,
    context=1024,
    layers=12,
    heads=12,
    width=768,
    step_tokens=STEP_TOKENS,
    warm_steps=2,
    steps=8,
    new_ids=512,
    wide_batch=256,
    target=1.47,
    ceiling=65_536,
)
SMOKE = Scale(
    device="cpu",
    bf16=False,
    vocab=300,
    context=16,
    layers=2,
    heads=2,
    width=16,
    step_tokens=128,
    warm_steps=1,
    steps=3,
    new_ids=8,
    wide_batch=4,
    target=4.0,
    ceiling=64,
)


def synchronize(scale: Scale) -> None:
    """Waits until the card has done what it was asked."""
    import torch

    if scale.device == "cuda":
        torch.cuda.synchronize()


def autocast(scale: Scale) -> AbstractContextManager[object]:
    import torch

    return torch.autocast(scale.device, torch.bfloat16) if scale.bf16 else nullcontext()


def median_seconds(scale: Scale, work: Callable[[], object], *, calls: int = 10, rounds: int = 5) -> float:
    """Seconds of a call, the median of some rounds behind one that warms up."""
    times = []
    for turn in range(rounds + 1):
        synchronize(scale)
        begin = time.perf_counter()
        for _ in range(calls):
            work()
        synchronize(scale)
        if turn:
            times.append((time.perf_counter() - begin) / calls)
    return statistics.median(times)


# ---- what the card can do --------------------------------------------------------------------------------------------


def ceilings(scale: Scale, peers: Path) -> Figures:
    """TFLOP/s of the matrix products that a step is made of, milliseconds of attention by backend, GB/s of a copy."""
    import torch

    dtype = torch.bfloat16 if scale.bf16 else torch.float32
    new = functools.partial(torch.randn, device=scale.device, dtype=dtype)
    rows, width, figures = scale.ceiling, scale.width, Figures()
    shapes = {"qkv": (width, 3 * width), "project": (width, width), "expand": (width, 4 * width)}
    shapes |= {"contract": (4 * width, width), "head": (width, -(-scale.vocab // 64) * 64)}
    for name, (fan_in, fan_out) in shapes.items():
        count = rows // 4 if name == "head" else rows  # its output alone is 6.6 GB
        x, weight = new(count, fan_in), new(fan_out, fan_in)
        seconds = median_seconds(scale, functools.partial(torch.nn.functional.linear, x, weight))
        figures[f"{name} TFLOP/s"] = round(2 * count * fan_in * fan_out / seconds / 1e12, 4)
    source = new(rows * 16 * width)
    seconds = median_seconds(scale, functools.partial(torch.empty_like(source).copy_, source))
    figures["copy GB/s"] = round(2 * source.numel() * source.element_size() / seconds / 1e9, 2)
    return figures | attention_by_backend(scale)


def attention_by_backend(scale: Scale) -> Figures:
    """Milliseconds of one layer's causal attention, forward and backward, over 64 rows."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    dtype = torch.bfloat16 if scale.bf16 else torch.float32
    shape = (scale.ceiling // scale.context, scale.context, scale.heads, scale.width // scale.heads)
    q, k, v = (torch.randn(shape, device=scale.device, dtype=dtype).transpose(1, 2).requires_grad_() for _ in range(3))
    gradient = torch.randn_like(q)

    def both_ways() -> None:
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        torch.autograd.grad(y, (q, k, v), gradient)

    figures = {"attention ms, torch's choice": round(1e3 * median_seconds(scale, both_ways), 4)}
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION):
        name = backend.name.lower().removesuffix("_attention")
        try:
            with sdpa_kernel(backend):
                figures[f"attention ms, {name}"] = round(1e3 * median_seconds(scale, both_ways), 4)
        except RuntimeError:  # this device or this build of torch has it not
            figures[f"attention ms, {name}"] = None
    return figures


# ---- peers -----------------------------------------------------------------------------------------------------------

Built = tuple[Any, Any, Callable[[Any, Any, Any], Any]]
"""A model, its optimizer, and how the loss is asked of the (compiled) model."""


def nanogpt_module(peers: Path) -> types.ModuleType:
    file = _required(peers / "nanoGPT" / "model.py")
    spec = importlib.util.spec_from_file_location("nanogpt_model", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def build_nanogpt_module(peers: Path) -> types.ModuleType:
    """Its imports from torch and the standard library, and its model's classes: the file's rest is the training."""
    file = _required(peers / "build-nanogpt" / "train_gpt2.py")
    tree = ast.parse(file.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if isinstance(node, ast.ClassDef) or _imports_what_is_there(node)]
    module = types.ModuleType("build_nanogpt_model")
    module.__dict__["master_process"] = False  # what it prints by
    sys.modules[module.__name__] = module
    exec(compile(tree, str(file), "exec"), module.__dict__)
    return module


def _imports_what_is_there(node: ast.stmt) -> bool:
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
    roots = {name.split(".")[0] for name in names}
    return bool(roots) and roots <= {*sys.stdlib_module_names, "torch"}


def _required(file: Path) -> Path:
    if not file.is_file():
        raise Unmeasured(f"{file} is not there; PEERS names the folder")
    return file


def peer_model(name: str, scale: Scale, peers: Path, *, vocab: int, bias: bool = True) -> Any:
    """A peer's own model with its own first weights."""
    sizes = {"n_layer": scale.layers, "n_head": scale.heads, "n_embd": scale.width, "vocab_size": vocab}
    if name == "transformers":
        try:
            module = importlib.import_module("transformers")
        except ImportError as error:
            raise Unmeasured("transformers is not installed") from error
        dropout = dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.0)
        ends = dict.fromkeys(("bos_token_id", "eos_token_id"), vocab - 1)
        config = module.GPT2Config(**sizes, n_positions=scale.context, **dropout, **ends)
        return module.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    if name == "nanoGPT":
        module = nanogpt_module(peers)
        return module.GPT(module.GPTConfig(**sizes, block_size=scale.context, dropout=0.0, bias=bias))
    module = build_nanogpt_module(peers)
    return module.GPT(module.GPTConfig(**sizes, block_size=scale.context))


def built_peer(name: str, scale: Scale, peers: Path) -> Built:
    """A peer as its own training script has it: nanoGPT without biases, its default; all with padded vocabularies."""
    import torch

    padded = -(-scale.vocab // 64) * 64
    model = peer_model(name, scale, peers, vocab=padded, bias=name != "nanoGPT").to(scale.device)
    if name == "nanoGPT":
        return model, model.configure_optimizers(0.1, 6e-4, (0.9, 0.95), scale.device), lambda run, x, y: run(x, y)[1]
    if name == "build-nanogpt":
        return model, model.configure_optimizers(0.1, 6e-4, scale.device), lambda run, x, y: run(x, y)[1]

    class Loss(torch.nn.Module):
        """The whole step's forward in one graph; transformers' own loss would copy the logits to float32 before."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Any, y: Any) -> Any:
            logits = self.model(input_ids=x, use_cache=False).logits
            return torch.nn.functional.cross_entropy(logits.view(-1, logits.size(-1)), y.view(-1))

    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    return Loss(), optimizer, lambda run, x, y: run(x, y)


def peer_training(scale: Scale, peers: Path, *, name: str, rows: int) -> Figures:
    """A peer's steps: micro batches under autocast, clipping to 1, its own optimizer, `torch.compile`."""
    import torch

    torch.set_float32_matmul_precision("high")
    torch.manual_seed(1337)
    rows = min(rows, scale.step_tokens // scale.context)
    model, optimizer, loss_of = built_peer(name, scale, peers)
    run = torch.compile(model) if scale.device == "cuda" else model
    micro_batches = scale.step_tokens // (rows * scale.context)
    clock, source = Clock(scale), random_batches(scale, rows)
    clock.begin()
    for _ in range(scale.warm_steps + scale.steps):
        optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=scale.device)
        for _ in range(micro_batches):
            x, y = (ids.to(scale.device, non_blocking=True) for ids in next(source))
            with autocast(scale):
                loss = loss_of(run, x, y) / micro_batches
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        synchronize(scale)
        clock.tick(total)
    return {"rows": rows} | clock.figures()


def random_batches(scale: Scale, rows: int) -> Iterator[tuple[Any, Any]]:
    """Batches of uniform ids that lie ready in pinned memory: no peer waits for its data here."""
    import torch

    draws = torch.Generator().manual_seed(1)
    batches = []
    for _ in range(8):
        ids = torch.randint(scale.vocab, (2, rows, scale.context), generator=draws)
        batches.append(tuple(ids.pin_memory() if scale.device == "cuda" else ids))
    yield from itertools.cycle(batches)


@dataclass
class Clock:
    """When steps were over; the first ones compile and warm up."""

    scale: Scale
    begun: float = 0.0
    first_loss: float = math.nan
    ticks: list[float] = dataclasses.field(default_factory=list)

    def begin(self) -> None:
        """The first step begins."""
        self.begun = time.perf_counter()

    def tick(self, loss: Any) -> bool:
        """A step is over; True if it was the last one to be timed."""
        import torch

        self.ticks.append(time.perf_counter())
        if len(self.ticks) == 1:
            self.first_loss = float(loss)
            if self.scale.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
        return len(self.ticks) >= self.scale.warm_steps + self.scale.steps

    def figures(self) -> Figures:
        """Tokens a second (median step and range), MFU is left to the table, memory, the first step's seconds."""
        import torch

        times = [after - before for before, after in itertools.pairwise(self.ticks[self.scale.warm_steps - 1 :])]
        rates = sorted(self.scale.step_tokens / seconds for seconds in times)
        peak = torch.cuda.max_memory_allocated() if self.scale.device == "cuda" else None
        return {
            "tokens/s": round(statistics.median(rates)),
            "range": [round(rates[0]), round(rates[-1])],
            "peak GB": None if peak is None else round(peak / 1e9, 2),
            "first step s": round(self.ticks[0] - self.begun, 2),
            "first loss": round(self.first_loss, 4),
        }


# ---- our loop --------------------------------------------------------------------------------------------------------


class _Enough(Exception):
    """Raised in `on_event`, the only way out of a run before its end."""


def synthetic_tokenizer(size: int) -> Any:
    """A vocabulary of so many ids that needs no file: the bytes, pairs of bytes, and the end-of-text token."""
    import bpetok

    pairs = [divmod(number, 256) for number in range(size - 257)]
    vocab = bpetok.Vocab.from_merges(pairs, pattern=None, special_tokens=["<|endoftext|>"], name=f"pairs-{size}")
    return bpetok.Tokenizer(vocab)


def random_shards(scale: Scale, folder: Path) -> None:
    """`folder/shards` and `folder/tokenizer.bpetok`: documents of random bytes, enough for all steps to be timed."""
    import numpy as np

    import bpetok.shards

    tokenizer = synthetic_tokenizer(scale.vocab)
    tokenizer.save(folder / "tokenizer.bpetok")
    draws = np.random.default_rng(0)
    wanted = scale.step_tokens * (scale.warm_steps + scale.steps + 2)
    documents = (draws.integers(0, 256, 4000, dtype=np.uint8).tobytes() for _ in range(wanted // 2000 + 200))
    bpetok.shards.write(documents, tokenizer, folder / "shards")


def overrides(scale: Scale, *, rows: int) -> list[str]:
    """What a shipped configuration becomes here: nothing between the steps, and a CPU's size if need be."""
    micro_batches = scale.step_tokens // (rows * scale.context)
    never = ["eval_every", "checkpoint_every"]
    changes = [f"batch.rows={rows}", f"batch.accumulation={micro_batches}", "run.eval_batches=1"]
    changes += [f"run.{key}=1000000" for key in never] + ["run.diagnose_every=0", "run.sample_every=0"]
    changes += [f"run.device={scale.device}", "run.keep_best=false"]
    if scale.device == "cpu":
        sizes = ("context", "layers", "heads", "width")
        changes += [f"model.{key}={getattr(scale, key)}" for key in sizes]
        changes += ["run.compile=false", "run.dtype=float32"]
    return changes


def our_training(scale: Scale, peers: Path, *, config: str, rows: int) -> Figures:
    """`lm.train.train` on shards of random ids, as a shipped configuration has it, ended when its steps are timed."""
    from lm.config import load_config
    from lm.train import train

    rows = min(rows, scale.step_tokens // scale.context)
    clock = Clock(scale)

    def on_event(event: Any) -> None:
        kind = type(event).__name__
        if kind == "EvalEvent":  # of the untrained weights; the first step follows
            clock.begin()
        if kind == "StepEvent" and clock.tick(event.loss):
            raise _Enough

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        random_shards(scale, folder)
        data = [f"data.shards={folder / 'shards'}", f"data.tokenizer={folder / 'tokenizer.bpetok'}"]
        loaded = load_config(_shipped(config), [*data, *overrides(scale, rows=rows)])
        try:
            train(loaded, folder / "run", on_event=on_event)
        except _Enough:
            return {"rows": rows} | clock.figures()
    raise RuntimeError("the run ended before its steps were timed")


def _shipped(name: str) -> Path:
    from lm.config import shipped_configs

    if name not in shipped_configs():
        raise Unmeasured(f"no configuration is called {name}")
    return shipped_configs()[name]


def char_gpt(scale: Scale, peers: Path, *, config: str) -> Figures:
    """Seconds from an empty process's call of `train` to a validation loss over the whole validation text."""
    from lm.config import load_config
    from lm.texts import find
    from lm.train import train

    try:
        find("tinyshakespeare.txt")
    except OSError as error:  # lm's UnavailableError
        raise Unmeasured("tinyshakespeare.txt is not here; BPETOK_DATA names its folder") from error
    changes = ["run.eval_every=50", "run.eval_batches=1000000", "run.checkpoint_every=1000000"]
    changes += ["run.diagnose_every=0", "run.sample_every=0", "run.keep_best=false", f"run.device={scale.device}"]
    if scale.device == "cpu":
        sizes = {"context": 16, "layers": 1, "heads": 2, "width": 16}
        changes += [f"model.{key}={value}" for key, value in sizes.items()]
        changes += ["run.eval_every=10", "run.compile=false", "run.dtype=float32", "batch.rows=8"]
        changes += ["run.eval_batches=4", "optimizer.lr=0.01", "schedule.warmup_steps=0"]
    seen: list[tuple[int, float, float]] = []
    first = math.nan
    begin = time.perf_counter()

    def on_event(event: Any) -> None:
        nonlocal first
        if type(event).__name__ == "StepEvent" and math.isnan(first):
            first = time.perf_counter() - begin
        if type(event).__name__ == "EvalEvent":
            seen.append((event.step, event.evaluation.loss, round(time.perf_counter() - begin, 2)))
            if event.evaluation.loss <= scale.target:
                raise _Enough

    with tempfile.TemporaryDirectory() as folder:
        try:
            train(load_config(_shipped(config), changes), Path(folder) / "run", on_event=on_event)
        except _Enough:
            step, loss, seconds = seen[-1]
            return {"seconds": seconds, "steps": step, "loss": round(loss, 4), "first step s": round(first, 2)}
    lowest = min(loss for _, loss, _ in seen)
    return {"seconds": None, "steps": seen[-1][0], "loss": round(lowest, 4), "first step s": round(first, 2)}


# ---- gates -----------------------------------------------------------------------------------------------------------

TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


def gate(scale: Scale, peers: Path, *, name: str) -> Figures:
    """How far our logits and loss are from a peer's with the same weights, in float32 and in bfloat16.

    nanoGPT has GELU by its error function, GPT-2 and the others by tanh: some 1e-5 of the loss of untrained weights.
    """
    import torch

    from lm.huggingface import to_huggingface
    from lm.models.gpt2 import GPT2, GPT2Config

    torch.set_float32_matmul_precision("highest")
    torch.manual_seed(0)
    config = GPT2Config(context=scale.context, layers=scale.layers, heads=scale.heads, width=scale.width)
    ours = GPT2(config, scale.vocab)
    with torch.no_grad():  # biases begin at zero, where a wrong one would not show
        for parameter in ours.parameters():
            parameter += 0.02 * torch.randn_like(parameter) if parameter.dim() == 1 else 0
    theirs = peer_model(name, scale, peers, vocab=scale.vocab)
    state = to_huggingface(ours.state_dict(), scale.vocab)
    if name != "transformers":
        state = {key: value.t() if key.endswith(TRANSPOSED) else value for key, value in state.items()}
    state["lm_head.weight"] = state["transformer.wte.weight"]
    theirs.load_state_dict(state)
    ours, theirs = ours.to(scale.device).eval(), theirs.to(scale.device).eval()
    x, y = torch.randint(scale.vocab, (2, 2, scale.context), device=scale.device)
    figures = Figures()
    for kind, context in {"float32": nullcontext(), "bfloat16": torch.autocast(scale.device, torch.bfloat16)}.items():
        with torch.no_grad(), context:
            got, wanted = ours(x).float(), logits_of(name, theirs, x, y).float()
        figures[f"logits {kind}"] = float((got - wanted).norm() / wanted.norm())
        losses = [torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten()) for logits in (got, wanted)]
        figures[f"loss {kind}"] = float((losses[0] - losses[1]).abs())
    bounds = {"logits float32": 1e-3 if name == "nanoGPT" else 1e-5, "loss float32": 1e-4}
    bounds |= {"logits bfloat16": 2e-2, "loss bfloat16": 1e-2}
    return figures | {"good": all(figures[key] <= bound for key, bound in bounds.items())}


def logits_of(name: str, model: Any, x: Any, y: Any) -> Any:
    if name == "transformers":
        return model(input_ids=x, use_cache=False).logits
    return model(x, y)[0]
