"""The fast path beside the lectures' loop: `python benchmarks/bench_ladder.py [--only TEXT] [--rounds N]`.

For the MLP (makemore part 2), BatchNorm (part 3) and WaveNet (part 5) rungs at the lectures' sizes, on names.txt where
`BPETOK_DATA` has it and on random windows of the same number where not. In a round each path takes its turn at some
steps, one after the other in one process, in an order that rotates:

    lecture    plain tensors and the loop of the lecture, in our words; what the others are held against
    readable   the same loop over the rung's own file
    fast       `lm.fast`, for each number of seeds and of threads

A path counts only if its losses over the first steps are the lecture's. What counts is a ratio within a round: its
median over the rounds and its range. Steps of the fast path are counted once, whatever the number of seeds. The lecture
and the readable path run on one thread, which is their best.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

# Before torch is loaded: its threads would spin on a busy machine until the other one has had its turn.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import torch
import torch.nn.functional as F
from torch import Tensor

from lm import fast
from lm.examples import split_lines, windows
from lm.models.batchnorm import BatchNormMLP, BatchNormMLPConfig
from lm.models.contract import WindowModel
from lm.models.mlp import MLP, MLPConfig
from lm.models.wavenet import WaveNet, WaveNetConfig

VOCAB, BATCH, RATE, SEED = 27, 32, 0.1, 2147483647
WHOLE = 200_000  # the lectures' number of steps
GATE, CLOSE = 30, 1e-3  # part 2's MLP blows up rounding: see tests/lm/test_fast.py, which holds it in double precision

RUNGS: dict[str, Callable[[], WindowModel]] = {
    "mlp": lambda: MLP(MLPConfig(context=16, window=3, embedding=10, hidden=200), VOCAB),
    "batchnorm": lambda: BatchNormMLP(BatchNormMLPConfig(context=16, window=3, embedding=10, hidden=200), VOCAB),
    "wavenet": lambda: WaveNet(WaveNetConfig(context=16, levels=3, embedding=24, hidden=128), VOCAB),
}

Path_ = Callable[[int], Tensor]
"""A path to train by: steps -> the losses of these steps; each call goes on where the last ended."""


# ---- the lectures' loops --------------------------------------------------------------------------------------------


def loop(
    parameters: Sequence[Tensor],
    logits: Callable[[Tensor], Tensor],
    data: tuple[Tensor, Tensor],
    draws: torch.Generator,
) -> Path_:
    """Plain gradient descent as the notebooks have it, with the loss kept as its logarithm."""
    inputs_NW, targets_N = data
    for parameter in parameters:
        parameter.requires_grad = True

    def train(steps: int) -> Tensor:
        losses = []
        for _ in range(steps):
            at_B = torch.randint(0, inputs_NW.shape[0], (BATCH,), generator=draws)
            loss = F.cross_entropy(logits(inputs_NW[at_B]), targets_N[at_B])
            for parameter in parameters:
                parameter.grad = None
            loss.backward()
            for parameter in parameters:
                assert parameter.grad is not None
                parameter.data += -RATE * parameter.grad
            losses.append(loss.log10().item())
        return 10 ** torch.tensor(losses)

    return train


def lecture_mlp(model: WindowModel, data: tuple[Tensor, Tensor], draws: torch.Generator) -> Path_:
    table, hidden, hidden_bias, head, head_bias = parameters = [p.detach().clone() for p in model.parameters()]

    def logits(inputs_BW: Tensor) -> Tensor:
        h = torch.tanh(table[inputs_BW].view(-1, hidden.shape[0]) @ hidden + hidden_bias)
        return h @ head + head_bias

    return loop(parameters, logits, data, draws)


def lecture_batchnorm(model: WindowModel, data: tuple[Tensor, Tensor], draws: torch.Generator) -> Path_:
    table, hidden, gain, bias, head, head_bias = parameters = [p.detach().clone() for p in model.parameters()]
    running = {"mean": torch.zeros_like(gain), "std": torch.ones_like(gain)}

    def logits(inputs_BW: Tensor) -> Tensor:
        x = table[inputs_BW].view(-1, hidden.shape[0]) @ hidden
        mean, std = x.mean(0, keepdim=True), x.std(0, keepdim=True)
        h = torch.tanh(gain * (x - mean) / std + bias)
        with torch.no_grad():
            running["mean"] = 0.999 * running["mean"] + 0.001 * mean
            running["std"] = 0.999 * running["std"] + 0.001 * std
        return h @ head + head_bias

    return loop(parameters, logits, data, draws)


LECTURES = {"mlp": lecture_mlp, "batchnorm": lecture_batchnorm}


# ---- the paths ------------------------------------------------------------------------------------------------------


def readable(model: WindowModel, data: tuple[Tensor, Tensor], draws: torch.Generator) -> Path_:
    return loop(list(model.parameters()), model.next_logits, data, draws)


def fast_path(rung: str, data: tuple[Tensor, Tensor], seeds: int, threads: int) -> Path_:
    models, generators = zip(*(fast.seeded(RUNGS[rung], SEED + seed) for seed in range(seeds)), strict=True)

    def train(steps: int) -> Tensor:
        torch.set_num_threads(threads)
        try:
            losses_KS = fast.train(models, *data, generators=generators, steps=steps, rate=lambda _: RATE)
        finally:
            torch.set_num_threads(1)
        return losses_KS[:, 0]

    return train


def paths(rung: str, seeds: Sequence[int], threads: Sequence[int]) -> dict[str, Path_]:
    data = names_or_random(RUNGS[rung]().window)
    # WaveNet's notebook is a list of modules already: there the rung's own file is the lecture's loop.
    slow = {"lecture": LECTURES[rung], "readable": readable} if rung in LECTURES else {"lecture": readable}
    found: dict[str, Path_] = {}
    for name, make in slow.items():
        model, draws = fast.seeded(RUNGS[rung], SEED)
        found[name] = make(model, data, draws)
    for number in seeds:
        for count in threads:
            label = f"fast, {number} seed{'s' * (number > 1)}, {count} thread{'s' * (count > 1)}"
            found[label] = fast_path(rung, data, number, count)
    return found


def names_or_random(window: int) -> tuple[Tensor, Tensor]:
    path = Path(os.environ.get("BPETOK_DATA", "")) / "names.txt"
    if path.is_file():
        names = [[ord(letter) - 96 for letter in name] for name in split_lines(path.read_text().split()).train]
        return windows(names, window, separator=0)
    generator = torch.Generator().manual_seed(0)
    rows = 182_625
    return torch.randint(VOCAB, (rows, window), generator=generator), torch.randint(VOCAB, (rows,), generator=generator)


# ---- rounds ---------------------------------------------------------------------------------------------------------


def measure(rung: str, args: argparse.Namespace) -> dict[str, list[float]]:
    """Microseconds a step by path, one figure a round."""
    turns = paths(rung, args.seeds, args.threads)
    first = {name: train(GATE) for name, train in turns.items()}
    for name, losses in first.items():
        difference = ((losses - first["lecture"]) / first["lecture"]).abs().max().item()
        if not difference < CLOSE:
            raise SystemExit(f"{rung}, {name}: not the lecture's losses, {difference:.1e} off within {GATE} steps")
    steps = args.steps if rung != "wavenet" else args.steps // 4
    found: dict[str, list[float]] = {name: [] for name in turns}
    for round_ in range(args.rounds):
        order = list(turns)
        shift = round_ % len(order)
        for name in order[shift:] + order[:shift]:
            began = time.perf_counter()
            turns[name](steps)
            found[name].append((time.perf_counter() - began) / steps * 1e6)
    return found


def ratios(found: dict[str, list[float]], over: str, under: str) -> list[float]:
    return [one / other for one, other in zip(found[over], found[under], strict=True)]


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def show(rung: str, found: dict[str, list[float]]) -> None:
    one = next((name for name in found if name.startswith("fast, 1 seed,")), None)
    print(
        f"\n{rung:32}{'us/step':>9}{'200,000 steps':>15}   times as fast as the lecture   cost in fast runs of one seed"
    )
    for name, figures in found.items():
        step = statistics.median(figures)
        cost = spread(ratios(found, name, one)) if one and name.startswith("fast") else ""
        line = f"  {name:30}{step:9.1f}{step * WHOLE / 1e6:13.1f} s   {spread(ratios(found, 'lecture', name)):29}{cost}"
        print(line.rstrip(), flush=True)


def numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--only", default="", help="the rungs whose name has this")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=2000, help="of a turn; a quarter of it for WaveNet")
    parser.add_argument("--seeds", type=numbers, default=[1, 8], help="how many at once, such as 1,8")
    parser.add_argument("--threads", type=numbers, default=[1], help="of the fast path, such as 1,2")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    print(f"{versions}, {os.cpu_count()} processors, {args.rounds} rounds")
    results = {}
    for rung in RUNGS:
        if args.only in rung:
            results[rung] = measure(rung, args)
            show(rung, results[rung])
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
