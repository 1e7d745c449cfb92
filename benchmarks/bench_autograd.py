"""The scalar engine beside micrograd: `python benchmarks/bench_autograd.py [--peers FOLDER] [--rounds N]`.

What is timed is a step of micrograd's demo: 100 points forward through 337 parameters, loss, backward, update. Every
turn is a fresh process of 10 steps; its time is the median of theirs, in processor time. In a round each engine takes
its turn, and what counts is micrograd's time divided by ours within a round: the median of the rounds, and their range.
The losses of both must be the same to 1e-9 at each step, or there is no result.

FOLDER holds a checkout of karpathy/micrograd as `micrograd`; without it, BPETOK_PEERS names the folder. micrograd runs
as it is shipped; the points come to it as Python floats (the demo's numpy floats make it slower). The row without the
collector shows how much of its time Python's garbage collector takes; ours runs with it.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lm import moons

STEPS = 10
LEAST_TIMES = 8.0
TOLERANCE = 1e-9
ENGINES = ("bpetok", "micrograd", "micrograd, no collector")


# ---- one turn -------------------------------------------------------------------------------------------------------


def bpetok_losses() -> Iterator[float]:
    # As many steps as the demo has, of which the turn takes the first: the learning rate depends on their number.
    yield from (step.loss for step in moons.train(moons.demo_model(), moons.make_moons(), steps=100))


def micrograd_losses() -> Iterator[float]:
    from micrograd.engine import Value  # type: ignore[import-not-found]
    from micrograd.nn import MLP  # type: ignore[import-not-found]

    random.seed(moons.SEED)
    model, data = MLP(2, [16, 16, 1]), moons.make_moons()
    for step in range(100):
        scores = [model([Value(x) for x in point]) for point in data.points]
        margins = [(1 + -side * score).relu() for score, side in zip(scores, data.sides, strict=True)]
        loss = sum(margins) * (1.0 / len(margins)) + moons.DECAY * sum(p * p for p in model.parameters())
        model.zero_grad()
        loss.backward()
        for p in model.parameters():
            p.data -= (1.0 - 0.9 * step / 100) * p.grad
        yield loss.data


def take_turn(engine: str) -> dict[str, Any]:
    if engine == "micrograd, no collector":
        gc.disable()
    losses, seconds = [], []
    steps = bpetok_losses() if engine == "bpetok" else micrograd_losses()
    for _ in range(STEPS):
        began = time.process_time()
        losses.append(next(steps))
        seconds.append(time.process_time() - began)
    return {"losses": losses, "seconds": statistics.median(seconds)}


def turn_of(engine: str, peers: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--turn", engine]
    environment = os.environ | {"PYTHONPATH": str(peers / "micrograd")}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    outcome: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return outcome


# ---- the table ------------------------------------------------------------------------------------------------------


def measure(peers: Path, rounds: int) -> list[dict[str, Any]]:
    measured = []
    for i in range(rounds):
        order = ENGINES[i % len(ENGINES) :] + ENGINES[: i % len(ENGINES)]
        outcomes = {engine: turn_of(engine, peers) for engine in order}
        for engine in ENGINES[1:]:
            pairs = zip(outcomes["bpetok"]["losses"], outcomes[engine]["losses"], strict=True)
            worst = max(abs(ours - theirs) for ours, theirs in pairs)
            if worst > TOLERANCE:
                sys.exit(f"the losses differ from those of {engine} by {worst:g}: no result")
        measured.append({engine: outcomes[engine]["seconds"] for engine in ENGINES})
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, default=os.environ.get("BPETOK_PEERS"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write everything that was measured here too")
    parser.add_argument("--turn", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.turn:
        print(json.dumps(take_turn(options.turn)))
        return
    if options.peers is None or not (options.peers / "micrograd" / "micrograd" / "engine.py").is_file():
        parser.error(
            f"needs a checkout of karpathy/micrograd in the folder of --peers or BPETOK_PEERS: {options.peers}"
        )
    print(f"{platform.machine()}, Python {platform.python_version()}, {options.rounds} rounds of {STEPS} steps")
    measured = measure(options.peers.resolve(), options.rounds)
    print(f"the losses are the same to {TOLERANCE:g}")
    for engine in ENGINES:
        ratios = [one[engine] / one["bpetok"] for one in measured]
        spread = f"{statistics.median(ratios):5.1f} times ours ({min(ratios):.1f} to {max(ratios):.1f})"
        print(f"  {engine:<25}{statistics.median(one[engine] for one in measured) * 1e3:8.1f} ms a step   {spread}")
    times = statistics.median(one["micrograd"] / one["bpetok"] for one in measured)
    print(f"  times as fast {times:.1f} {'>=' if times >= LEAST_TIMES else '<'} {LEAST_TIMES:g}")
    if options.json:
        options.json.write_text(json.dumps(measured, indent=1))


if __name__ == "__main__":
    main()
