"""GPT-2 124M on one GPU, beside peers: `python benchmarks/bench_gpu.py [--part NAME] [--smoke]`; `gpu.sh` builds first.

Parts, in the order of their worth, each row in a process of its own with a time of its own, so that one that fails or
hangs loses itself alone:

    gate      our logits, loss and ids are those of transformers, nanoGPT, build-nanogpt with the same weights
    train     tokens a second, MFU, memory: our loop (`lm.train.train`), the peers' models in their own steps
    decode    ids a second at batch 1 and 256
    char      seconds of the char GPT to a validation loss of 1.47
    tests     pytest -m gpu
    ceiling   what the card does in the step's matrix products and attention
    more      other rows of a micro batch, other configurations

A row that did not run stands as unmeasured, with the reason. Results go to `$OUT/gpu.json`, or to
`benchmarks/results/<device>/<date>-gpu.json`; a table for LOG.md is printed. `--smoke` does all of it at tiny sizes on
the CPU, and proves nothing but this program.
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

# Before torch is loaded: its threads would spin on a busy machine until the other one has had its turn.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# A text is looked for in a cache folder, too, which platformdirs would have to name.
os.environ.setdefault("BPETOK_CACHE_DIR", str(Path(tempfile.gettempdir()) / "bpetok-cache"))

import bench_gpu_decode as decode
import bench_gpu_train as train
from bench_gpu_train import FULL, SMOKE, Figures, Scale, Unmeasured

ROOT = Path(__file__).resolve().parents[1]
PEERS = ("nanoGPT", "build-nanogpt", "transformers")


TESTS_SECONDS = 225


def gpu_tests(scale: Scale, peers: Path) -> Figures:
    """`pytest -m gpu` over the files that have such tests; other files may want packages that are not here."""
    missing = [name for name in ("pytest", "hypothesis") if not _is_installed(name)]
    if missing:
        raise Unmeasured(f"{', '.join(missing)} not installed; the gates above are what checked this machine")
    marked = [path for path in (ROOT / "tests").rglob("test_*.py") if "pytest.mark.gpu" in path.read_text("utf-8")]
    files = sorted(str(path.relative_to(ROOT)) for path in marked if path.name != "test_gpu_bench.py")
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-v", "--durations=5", "-p", "no:cacheprovider", *files]
    if scale.device == "cpu":
        command.append("--collect-only")
    with tempfile.TemporaryFile("w+") as output:
        try:
            code = subprocess.run(command, cwd=ROOT, stdout=output, stderr=output, timeout=TESTS_SECONDS).returncode
        except subprocess.TimeoutExpired:
            code = None
        output.seek(0)
        text = output.read()
    print(text)
    figures = Figures({"files": len(files)})
    for word in ("PASSED", "FAILED", "ERROR", "SKIPPED"):
        figures[word.lower()] = len(re.findall(rf"^tests/\S+.* {word}\b", text, re.MULTILINE))
    names = sorted(set(re.findall(r"^(?:FAILED|ERROR) (\S+)", text, re.MULTILINE)))
    figures["not passed"] = names or (["not all were run"] if code is None else [])
    return figures | {"good": code == 0}


def _is_installed(name: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(name) is not None


@dataclass(frozen=True)
class Row:
    """One measurement: what runs it, with which settings, in how many seconds at most."""

    part: str
    name: str
    work: Callable[..., Figures]
    settings: dict[str, Any] = field(default_factory=dict)
    limit: int = 120

    @property
    def title(self) -> str:
        return f"{self.part}: {self.name}"


def rows_of_training(part: str, entries: Sequence[tuple[str, int]]) -> list[Row]:
    made = []
    for name, rows in entries:
        settings: dict[str, Any] = {"name": name, "rows": rows}
        work = train.peer_training
        if name not in PEERS:
            settings, work = {"config": name, "rows": rows}, train.our_training
        made.append(Row(part, f"{name}, {rows} rows", work, settings, 150))
    return made


ROWS = [
    *(Row("gate", name, train.gate, {"name": name}, 60) for name in PEERS),
    Row("gate", "cached ids", decode.gate_decoding, {}, 120),
    *rows_of_training("train", [("09-gpt2-124m", 64), *((name, 64) for name in PEERS)]),
    *(Row("decode", f"ours, batch {batch}", decode.our_graphs, {"batch": batch}, 150) for batch in (1, 256)),
    Row("char", "08-shakespeare-char", train.char_gpt, {"config": "08-shakespeare-char"}, 150),
    *rows_of_training("train", [("09-gpt2-124m-muon", 64), ("10-modern-124m", 64)]),
    Row("tests", "pytest -m gpu", gpu_tests, {}, TESTS_SECONDS + 10),
    Row("ceiling", "this card", train.ceilings, {}, 60),
    *(
        Row(
            "decode",
            f"transformers, {cache}, batch {batch}",
            decode.peer_decoding,
            {"batch": batch, "cache": cache},
            90,
        )
        for cache, batch in (("dynamic", 1), ("dynamic", 256), ("static", 1))
    ),
    *(
        Row("decode", f"ours without graphs, batch {batch}", decode.our_generate, {"batch": batch}, 90)
        for batch in (1, 256)
    ),
    *rows_of_training("more", [("09-gpt2-124m", 128), ("09-gpt2-124m", 32), ("build-nanogpt", 32), ("nanoGPT", 32)]),
]


# ---- a row in a process of its own -----------------------------------------------------------------------------------


def _in_child(row: Row, scale: Scale, peers: Path, log: Path, answer: Connection) -> None:
    os.setsid()  # so that a row that hangs goes with all that it started
    with open(log, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    print(f"== {row.title}", flush=True)
    try:
        figures = row.work(scale, peers, **row.settings)
        good = figures.pop("good", True)
        answer.send({"status": "ok"} if good else {"status": "FAILED", "why": "the check did not hold"})
        answer.send(figures)
    except Unmeasured as reason:
        answer.send({"status": "unmeasured", "why": str(reason)})
        answer.send({})
    except BaseException as error:
        traceback.print_exc()
        text = (str(error).strip().splitlines() or [""])[0][:200]
        answer.send({"status": "FAILED", "why": f"{type(error).__name__}: {text}"})
        answer.send({})
    sys.stdout.flush()


def run_row(row: Row, scale: Scale, peers: Path, log: Path, seconds: float, *, context: Any) -> dict[str, Any]:
    """What came of a row; never raises, never takes much longer than `seconds`."""
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_in_child, args=(row, scale, peers, log, writer))
    begin = time.perf_counter()
    process.start()
    writer.close()
    outcome: dict[str, Any] = {"status": "FAILED", "why": f"took longer than {seconds:.0f} s"}
    figures: Figures = {}
    try:
        if reader.poll(seconds):
            outcome, figures = reader.recv(), reader.recv()
    except EOFError:
        process.join(5)
        outcome = {"status": "FAILED", "why": f"the process ended with exit code {process.exitcode}"}
    _end(process)
    return {**_named(row), **outcome, "figures": figures, "seconds": round(time.perf_counter() - begin, 1)}


def _end(process: Any) -> None:
    """The process gets some seconds to end by itself; then it and what it started are killed."""
    process.join(3)
    if process.is_alive():
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:  # it had no group of its own yet
            process.kill()
        process.join()


def _named(row: Row) -> dict[str, Any]:
    return {"part": row.part, "row": row.name}


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def run_rows(rows: Sequence[Row], scale: Scale, peers: Path, log: Path, deadline: float) -> list[dict[str, Any]]:
    """All rows in order, until the time is over; what had no time stands as unmeasured."""
    begin = time.perf_counter()
    # A fork of a process that has loaded torch saves seconds; CUDA bears none, where it was looked at before.
    context = multiprocessing.get_context("forkserver" if scale.device == "cpu" else "spawn")
    if scale.device == "cpu":
        context.set_forkserver_preload(["torch", "transformers.models.gpt2.modeling_gpt2"])
    results = []
    for row in rows:
        left = deadline - (time.perf_counter() - begin)
        if left < 15:
            results.append({**_named(row), "status": "unmeasured", "why": "no time was left", "figures": {}})
        else:
            results.append(run_row(row, scale, peers, log, min(row.limit, left), context=context))
        result = results[-1]
        say(f"{row.title}: {result['status']} {result.get('why', '')} {result['figures']}")
    return results


# ---- what came of it -------------------------------------------------------------------------------------------------


def about(scale: Scale) -> dict[str, Any]:
    """The machine and the versions."""
    import importlib.metadata as metadata

    import torch

    versions = {}
    for package in ("torch", "triton", "transformers", "tiktoken"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    device = torch.cuda.get_device_name() if scale.device == "cuda" else f"{platform.machine()} CPU"
    return {"device": device, "python": platform.python_version(), "versions": versions, "cores": os.cpu_count()}


def peak_flops(device: str) -> float | None:
    """The dense peak in bfloat16; None where lm does not know it."""
    import torch

    from lm.devices import dense_peak

    return dense_peak(device, torch.bfloat16)


def add_ratios(results: list[dict[str, Any]], scale: Scale, device: str) -> None:
    """MFU, and what each row is of the fastest peer of this call."""
    peak = peak_flops(device)
    trained = [one for one in results if "tokens/s" in one["figures"]]
    for one in trained:
        figures = one["figures"]
        if peak:
            figures["MFU %"] = round(100 * figures["tokens/s"] * scale.flops_per_token / peak, 1)
    best = max((one["figures"]["tokens/s"] for one in trained if one["row"].split(",")[0] in PEERS), default=None)
    for one in trained:
        one["figures"]["of the best peer"] = round(one["figures"]["tokens/s"] / best, 3) if best else None


def goals(results: list[dict[str, Any]]) -> list[tuple[str, float | None, bool | None]]:
    """`(goal, what was measured, whether it is reached)`; None and None where nothing was measured."""
    ours = [one for one in results if one["row"].startswith("09-gpt2-124m,")]
    trained = [one["figures"].get("tokens/s", 0) for one in ours]
    ratios = [one["figures"].get("of the best peer") or 0 for one in ours]
    char = [one["figures"] for one in results if one["part"] == "char" and one["figures"]]
    single = [one["figures"].get("ids/s", 0) for one in results if one["row"] == "ours, batch 1"]
    rate, ratio, ids = (max(figures, default=0) or None for figures in (trained, ratios, single))
    seconds = char[0]["seconds"] if char else None  # None, too, where the run never came to that loss
    return [
        ("train >= 475,000 tokens/s", rate, rate and rate >= 475_000),
        ("train >= 600,000 tokens/s", rate, rate and rate >= 600_000),
        ("train >= 1.3 x the best peer", ratio, ratio and ratio >= 1.3),
        ("char GPT to 1.47 in < 60 s", seconds, bool(seconds and seconds < 60) if char else None),
        ("decode >= 3,000 ids/s at batch 1", ids, ids and ids >= 3_000),
    ]


def table(results: list[dict[str, Any]]) -> str:
    """Everything as Markdown, losing rows too."""
    lines = []
    for part in dict.fromkeys(one["part"] for one in results):
        chosen = [one for one in results if one["part"] == part]
        names = list(dict.fromkeys(name for one in chosen for name in one["figures"]))
        lines += [
            "",
            f"### {part}",
            "",
            f"| {' | '.join(['row', *names, 'status'])} |",
            "|---" * (len(names) + 2) + "|",
        ]
        for one in chosen:
            cells = [one["row"], *(_shown(one["figures"].get(name)) for name in names)]
            lines.append(f"| {' | '.join([*cells, one['status'] + ''.join(f': {why}' for why in _why(one))])} |")
    return "\n".join(lines)


def _why(one: dict[str, Any]) -> list[str]:
    return [one["why"].replace("|", "/")] if one.get("why") else []


def _shown(figure: Any) -> str:
    if figure is None:
        return ""
    if isinstance(figure, list):
        return " to ".join(map(_shown, figure)) if figure and not isinstance(figure[0], str) else ", ".join(figure)
    if isinstance(figure, int):
        return f"{figure:,}"
    return f"{figure:.3g}" if abs(figure) < 0.01 else f"{figure:,}"


def goals_table(results: list[dict[str, Any]]) -> str:
    lines = ["", "| goal | measured | reached |", "|---|---|---|"]
    for goal, measured, reached in goals(results):
        verdict = "unmeasured" if reached is None else "yes" if reached else "no"
        lines.append(f"| {goal} | {_shown(measured)} | {verdict} |")
    return "\n".join(lines)


def results_file(device: str) -> Path:
    """Where results go; `OUT` names a folder, else they have their place in the repository."""
    if out := os.environ.get("OUT"):
        return Path(out) / "gpu.json"
    slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    return ROOT / "benchmarks" / "results" / slug / f"{datetime.date.today()}-gpu.json"


def merged(file: Path, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """These rows in the place of those that an earlier call of the day wrote; what was measured once stays."""
    before = json.loads(file.read_text("utf-8"))["rows"] if file.exists() else []
    rows = {(one["part"], one["row"]): one for one in before}
    for one in results:
        if one["status"] != "unmeasured" or (one["part"], one["row"]) not in rows:
            rows[one["part"], one["row"]] = one
    return list(rows.values())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = list(dict.fromkeys(row.part for row in ROWS))
    parser.add_argument("--part", action="append", choices=parts, help="only this part; may repeat")
    parser.add_argument("--only", metavar="TEXT", help="only rows whose title has this")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, on the CPU")
    parser.add_argument(
        "--peers", type=Path, default=Path(os.environ.get("PEERS", ".peers")), help="folder of checkouts"
    )
    parser.add_argument("--seconds", type=float, default=480, help="for all rows together")
    parser.add_argument("--list", action="store_true", help="the rows, and nothing else")
    options = parser.parse_args(arguments)
    rows = [row for row in ROWS if not options.part or row.part in options.part]
    rows = [row for row in rows if not options.only or options.only in row.title]
    if options.list:
        print("\n".join(row.title for row in rows))
        return 0
    import torch

    if not options.smoke and not torch.cuda.is_available():
        print(
            "bench_gpu: a CUDA device must be there, got none; --smoke runs at tiny sizes on the CPU", file=sys.stderr
        )
        return 2
    scale = SMOKE if options.smoke else FULL
    machine = about(scale)
    file = results_file(machine["device"])
    log = file.with_suffix(".log") if os.environ.get("OUT") else Path(tempfile.gettempdir()) / "bench-gpu.log"
    keeps = not options.smoke or "OUT" in os.environ
    if keeps:
        file.parent.mkdir(parents=True, exist_ok=True)
    results = run_rows(rows, scale, options.peers.resolve(), log, options.seconds)
    add_ratios(results, scale, machine["device"])
    if keeps:
        file.write_text(
            json.dumps({**machine, "smoke": options.smoke, "rows": merged(file, results)}, indent=1) + "\n", "utf-8"
        )
    say(f"log: {log}")
    print(f"## {datetime.date.today()}: {'smoke, ' * options.smoke}{machine['device']}, {machine['versions']}")
    print(table(results))
    print(goals_table(results))
    return 1 if any(one["status"] == "FAILED" for one in results) else 0


if __name__ == "__main__":
    raise SystemExit(main())
