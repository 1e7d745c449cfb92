"""The char GPT beside nanoGPT on a CPU: `python benchmarks/bench_train_lm.py [--peers FOLDER] [--rounds N] [--runs N]`.

FOLDER holds a checkout of karpathy/nanoGPT as `nanoGPT`; without it, BPETOK_PEERS names the folder. Its own train.py
runs, in a folder of links beside data that its own prepare.py made, with the settings of its README for a laptop. Ours
is `lm.train` with the shipped configs. The same text, split and 768 ids a step, the same threads, each turn a process
of its own. In a round each path has its turn, in an order that rotates; what counts is a ratio within a round, its
median and its range, by the clock and, since the clock says little on a busy machine, by processor time too.

    speed      tokens a second over some steps, for each path of ours: nanoGPT's step divided by ours
    quality    whole runs: the loss on all of the validation text, by one function for both, in float32, and the time of
               the steps alone. Neither side's evaluations, checkpoints or start count.

The gate first: with nanoGPT's weights copied into ours, both give the same loss on the same batch to 1e-5 (with our
GELU set to nanoGPT's exact form for that), or there is no result. The bars: 1.2 times the tokens a second at the same
model and step; nanoGPT's last loss in half of its time, with no more parameters.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Before torch is loaded: its threads would spin on a busy machine until the other one has had its turn.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import torch
from torch import Tensor, nn

from lm.batches import IGNORE, AnySplit, in_order
from lm.config import Config, load_config, shipped_configs
from lm.data import open_data
from lm.loss import Objective, count_targets
from lm.models.gpt2 import GPT2, GPT2Config

VOCAB, CONTEXT, ROWS, LAYERS, HEADS, WIDTH, STEPS = 65, 64, 12, 4, 4, 128, 2000
SAME, FAST = "08-shakespeare-char-cpu", "08-shakespeare-char-cpu-fast"
GATE, LEAST_SPEED, MOST_TIME = 1e-5, 1.2, 0.5
SETTLING = 10  # first steps that the speed leaves out; nanoGPT's very first also has an evaluation in it
SETTINGS = (  # nanoGPT's README, "I only have a macbook"
    f"--device=cpu --compile=False --eval_iters=20 --log_interval=1 --block_size={CONTEXT} --batch_size={ROWS} "
    f"--n_layer={LAYERS} --n_head={HEADS} --n_embd={WIDTH} --lr_decay_iters={STEPS} --dropout=0.0"
).split()


# ---- the gate -------------------------------------------------------------------------------------------------------


def their_model(peers: Path, weights: dict[str, Tensor] | None = None) -> nn.Module:
    sys.path.insert(0, str(peers / "nanoGPT"))
    sys.modules.pop("model", None)  # as train.py left it, from a folder that is gone
    from model import GPT, GPTConfig  # type: ignore[import-not-found]

    torch.manual_seed(0)
    sizes = {"n_layer": LAYERS, "n_head": HEADS, "n_embd": WIDTH, "dropout": 0.0, "bias": False}
    model: nn.Module = GPT(GPTConfig(block_size=CONTEXT, vocab_size=VOCAB, **sizes))
    if weights is not None:
        model.load_state_dict(weights)
    return model


def ours_with_weights_of(theirs: nn.Module) -> GPT2:
    model = GPT2(GPT2Config(context=CONTEXT, layers=LAYERS, heads=HEADS, width=WIDTH, vocab_multiple=1), VOCAB)
    names = {"transformer.wte": "token_embedding", "transformer.wpe": "position_embedding", "transformer.ln_f": "norm"}
    parts = {"ln_1": "attention_norm", "attn.c_attn": "attention.qkv", "attn.c_proj": "attention.project"}
    parts |= {"ln_2": "feedforward_norm", "mlp.c_fc": "feedforward.expand", "mlp.c_proj": "feedforward.project"}
    for layer in range(LAYERS):
        names |= {f"transformer.h.{layer}.{old}": f"blocks.{layer}.{new}" for old, new in parts.items()}
        model.blocks[layer].feedforward.gelu = nn.GELU()
    with torch.no_grad():
        for old, new in names.items():
            model.get_parameter(f"{new}.weight").copy_(theirs.get_parameter(f"{old}.weight"))
    return model


def gate(peers: Path) -> float:
    """How far the two losses are apart, weights several times as large as at the start."""
    theirs = their_model(peers)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    ids_BT = torch.randint(VOCAB, (ROWS, CONTEXT + 1))
    inputs_BT, targets_BT = ids_BT[:, :-1].contiguous(), ids_BT[:, 1:].contiguous()
    loss = Objective(ours_with_weights_of(theirs))(inputs_BT, targets_BT) / targets_BT.numel()
    return abs(loss.item() - theirs(inputs_BT, targets_BT)[1].item())


def whole_loss(nats_of: Callable[[Tensor, Tensor], Tensor], split: AnySplit) -> float:
    """Nats per token over all of a split, in blocks of the context."""
    nats, count = 0.0, 0
    with torch.inference_mode():
        for inputs_BT, targets_BT in in_order(split, rows=128, context=CONTEXT, batches=split.tokens):
            nats += nats_of(inputs_BT, targets_BT).item()
            count += count_targets(targets_BT)
    return nats / count


# ---- turns ----------------------------------------------------------------------------------------------------------


def our_config(name: str, dtype: str, steps: int | None) -> Config:
    quiet = ["run.eval_batches=1", "run.diagnose_every=0", "run.sample_every=0", "run.device=cpu"]
    config = load_config(shipped_configs()[name], [*quiet, f"run.dtype={dtype}"])
    number = steps or config.run.steps
    ends = [f"run.{key}={number}" for key in ("steps", "eval_every", "checkpoint_every")]
    whole = [f"schedule.decay_steps={config.decay_steps}", *ends]
    return load_config(shipped_configs()[name], [*quiet, f"run.dtype={dtype}", *whole])


@dataclass
class Steps:
    """Wall time and processor time of each step, from the end of whatever came before it."""

    seconds: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    before: tuple[float, float] = (0.0, 0.0)

    def ended(self, *, step: bool) -> None:
        now = (time.perf_counter(), time.process_time())
        if step:
            self.seconds.append(now[0] - self.before[0])
            self.processor.append(now[1] - self.before[1])
        self.before = now


def our_turn(name: str, dtype: str, steps: int | None) -> dict[str, Any]:
    """The times of each step; of a whole run the loss too."""
    import safetensors.torch

    from lm.events import StepEvent
    from lm.models import LADDER
    from lm.train import train

    config, clock = our_config(name, dtype, steps), Steps()
    with tempfile.TemporaryDirectory() as folder:
        result = train(
            config, Path(folder) / "run", on_event=lambda event: clock.ended(step=isinstance(event, StepEvent))
        )
        data = open_data(config)
        model = LADDER[config.rung].build(config.model, data.vocabulary.n_vocab)
        model.load_state_dict(safetensors.torch.load_file(result.checkpoint / "model.safetensors"))
    loss = None if steps else whole_loss(Objective(model.eval()), data.val)
    return outcome_of(clock, loss, model.expected_parameters())


def outcome_of(clock: Steps, loss: float | None, parameters: int) -> dict[str, Any]:
    return {"seconds": clock.seconds, "processor": clock.processor, "loss": loss, "parameters": parameters}


class Listener(io.TextIOBase):
    """The standard output of nanoGPT's train.py, which says a line a step."""

    def __init__(self, clock: Steps) -> None:
        self.clock = clock

    def write(self, text: str) -> int:
        if text.startswith("iter "):
            self.clock.ended(step=True)
        return len(text)


def their_turn(peers: Path, steps: int | None) -> dict[str, Any]:
    """The same of nanoGPT's train.py, by the lines that it prints and the checkpoint that it leaves."""
    number, clock, here = steps or STEPS, Steps(), Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lay_out(peers / "nanoGPT", folder)
        # The evaluation after so many steps is what saves the checkpoint; one more step follows it.
        every = [f"--max_iters={number}", f"--eval_interval={number}", "--always_save_checkpoint=True"]
        sys.argv = ["train.py", "config/train_shakespeare_char.py", *SETTINGS, *every, "--out_dir=out"]
        sys.path.insert(0, str(folder))
        os.chdir(folder)
        with contextlib.redirect_stdout(Listener(clock)), warnings.catch_warnings(action="ignore"):
            runpy.run_path("train.py", run_name="__main__")
        os.chdir(here)
        saved = torch.load(folder / "out" / "ckpt.pt", weights_only=True)
    for times in (clock.seconds, clock.processor):
        del times[number:]
        times[0] = statistics.median(times)  # its first step has an evaluation and the start in it
    model = their_model(peers, saved["model"]).eval()
    data = open_data(our_config(SAME, "float32", None))

    def nats_of(inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        mean: Tensor = model(inputs_BT, targets_BT.masked_fill(targets_BT == IGNORE, -1))[1]  # what it leaves out
        return mean * count_targets(targets_BT)

    loss = None if steps else whole_loss(nats_of, data.val)
    return outcome_of(clock, loss, sum(parameter.numel() for parameter in model.parameters()))


def lay_out(nano_gpt: Path, folder: Path) -> None:
    """A folder in which nanoGPT's train.py finds itself and its data, made by its own prepare.py of our text."""
    for name in ("train.py", "model.py", "configurator.py", "config"):
        (folder / name).symlink_to(nano_gpt / name)
    data = folder / "data" / "shakespeare_char"
    data.mkdir(parents=True)
    # A copy in the temporary folder: it writes beside itself.
    (data / "prepare.py").write_bytes((nano_gpt / "data" / "shakespeare_char" / "prepare.py").read_bytes())
    (data / "input.txt").write_bytes(Path(os.environ["BPETOK_DATA"], "tinyshakespeare.txt").read_bytes())
    subprocess.run([sys.executable, "prepare.py"], cwd=data, capture_output=True, check=True)


PATHS: dict[str, tuple[str, str] | None] = {
    "nanoGPT": None,
    "gpt2": (SAME, "float32"),
    "gpt2, bfloat16": (SAME, "bfloat16"),
    "fast": (FAST, "float32"),
    "fast, bfloat16": (FAST, "bfloat16"),
}


def take_turn(path: str, peers: Path, steps: int | None) -> dict[str, Any]:
    ours = PATHS[path]
    return their_turn(peers, steps) if ours is None else our_turn(*ours, steps)


def turn_of(path: str, options: argparse.Namespace, steps: int | None) -> dict[str, Any]:
    command = [sys.executable, __file__, "--turn", path, "--peers", str(options.peers), "--steps", str(steps or 0)]
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    outcome: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return outcome


# ---- tables ---------------------------------------------------------------------------------------------------------


def rounds_of(paths: Sequence[str], options: argparse.Namespace, rounds: int, steps: int | None) -> Iterator[Any]:
    for number in range(rounds):
        shift = number % len(paths)
        order = [*paths[shift:], *paths[:shift]]
        yield {path: turn_of(path, options, steps) for path in order}


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def speed(paths: Sequence[str], options: argparse.Namespace) -> list[Any]:
    measured = list(rounds_of(paths, options, options.rounds, options.steps))
    print(f"\nspeed, {options.rounds} rounds of {options.steps} steps")
    print(f"  {'':24}ms a step   tokens/s   times as fast as nanoGPT   by processor time")
    for path in paths:
        step = statistics.median(mean_step(one[path], "seconds") for one in measured)
        ratios = [
            [mean_step(one["nanoGPT"], clock) / mean_step(one[path], clock) for one in measured]
            for clock in ("seconds", "processor")
        ]
        rate = f"{step * 1e3:9.1f}{CONTEXT * ROWS / step:11,.0f}"
        print(f"  {path:24}{rate}   {spread(ratios[0]):26}{spread(ratios[1])}", flush=True)
    return measured


def mean_step(outcome: dict[str, Any], clock: str) -> float:
    return statistics.mean(outcome[clock][SETTLING:])


def quality(paths: Sequence[str], options: argparse.Namespace) -> list[Any]:
    measured = list(rounds_of(paths, options, options.runs, None))
    print(f"\nquality, {options.runs} whole runs")
    print(f"  {'':24}parameters   steps   nats per token   seconds   share of nanoGPT's     by processor time")
    for path in paths:
        first = measured[0][path]
        shares = [
            [sum(one[path][clock]) / sum(one["nanoGPT"][clock]) for one in measured]
            for clock in ("seconds", "processor")
        ]
        loss = statistics.median(one[path]["loss"] for one in measured)
        seconds = statistics.median(sum(one[path]["seconds"]) for one in measured)
        figures = f"{first['parameters']:10,}{len(first['seconds']):8,}{loss:17.4f}{seconds:10.1f}"
        print(f"  {path:24}{figures}   {spread(shares[0]):23}{spread(shares[1])}", flush=True)
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, default=os.environ.get("BPETOK_PEERS"))
    parser.add_argument("--rounds", type=int, default=5, help="of the speed")
    parser.add_argument("--steps", type=int, default=110, help="of a turn of the speed")
    parser.add_argument("--runs", type=int, default=3, help="whole runs; 0 for none")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--only", default="", help="the paths whose name has this, beside nanoGPT")
    parser.add_argument("--json", type=Path, help="write everything that was measured here too")
    parser.add_argument("--turn", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peers is None or not (options.peers / "nanoGPT" / "train.py").is_file():
        parser.error(f"needs a checkout of karpathy/nanoGPT in the folder of --peers or BPETOK_PEERS: {options.peers}")
    options.peers = options.peers.resolve()
    if options.turn:
        print(json.dumps(take_turn(options.turn, options.peers, options.steps or None)))
        return
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    print(f"{platform.machine()}, {versions}, {options.threads} threads of {os.cpu_count()} processors")
    apart = gate(options.peers)
    if not apart < GATE:
        sys.exit(f"with the same weights the losses are {apart:.1e} apart: no result")
    print(f"with the same weights the losses are the same to {GATE:g}: {apart:.1e} apart")
    paths = ["nanoGPT", *(path for path in PATHS if path != "nanoGPT" and options.only in path)]
    results = {"speed": speed(paths, options), "quality": quality(paths, options) if options.runs else []}
    print(f"\nthe bars: {LEAST_SPEED} times the tokens a second; nanoGPT's loss in {MOST_TIME} of its seconds")
    if options.json:
        options.json.write_text(json.dumps(results) + "\n")


if __name__ == "__main__":
    main()
