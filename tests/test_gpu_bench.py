"""The GPU benchmark's own logic, on the CPU: rows that fail lose themselves alone, and nothing is reported as reached
that was not measured.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """benchmarks/bench_gpu.py, which finds its siblings as it does when it is run."""
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    import bench_gpu

    yield bench_gpu
    for name in set(sys.modules) - before:
        if name.startswith("bench_gpu"):
            del sys.modules[name]


def row(part: str, name: str, status: str = "ok", **figures: Any) -> dict[str, Any]:
    return {"part": part, "row": name, "status": status, "figures": figures}


def test_the_flops_of_gpt2_124m_are_those_of_nanogpts_formula(bench: ModuleType) -> None:
    assert bench.FULL.flops_per_token == 854_438_400
    assert bench.FULL.step_tokens == 524_288


def test_flops_and_peaks_are_those_of_lm(bench: ModuleType) -> None:
    from lm.flops import flops_per_token
    from lm.models.gpt2 import GPT2, SIZES

    with torch.device("meta"):
        model = GPT2(SIZES["gpt2-124m"], 50_257)
    assert flops_per_token(model, 1024) == bench.FULL.flops_per_token
    assert bench.peak_flops("NVIDIA H200") == bench.peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert bench.peak_flops("x86_64 CPU") is None


def test_mfu_and_ratios_are_of_this_calls_rows(bench: ModuleType) -> None:
    rows = [
        row("train", "09-gpt2-124m, 64 rows", **{"tokens/s": 500_000}),
        row("train", "nanoGPT, 64 rows", **{"tokens/s": 300_000}),
        row("train", "transformers, 64 rows", **{"tokens/s": 250_000}),
        row("train", "build-nanogpt, 64 rows", "FAILED"),
    ]
    bench.add_ratios(rows, bench.FULL, "NVIDIA H200")
    assert rows[0]["figures"]["of the best peer"] == 1.667
    assert rows[0]["figures"]["MFU %"] == round(100 * 500_000 * 854_438_400 / 989e12, 1) == 43.2
    bench.add_ratios(rows, bench.FULL, "some other card")
    assert rows[3]["figures"] == {}
    reached = {goal: reached for goal, _, reached in bench.goals(rows)}
    assert reached["train >= 475,000 tokens/s"] and not reached["train >= 600,000 tokens/s"]
    assert reached["train >= 1.3 x the best peer"]
    assert reached["char GPT to 1.47 in < 60 s"] is None and reached["decode >= 3,000 ids/s at batch 1"] is None


def test_without_a_peer_there_is_no_ratio_and_on_an_unknown_card_no_mfu(bench: ModuleType) -> None:
    rows = [row("train", "09-gpt2-124m, 64 rows", **{"tokens/s": 500_000})]
    bench.add_ratios(rows, bench.FULL, "some other card")
    assert rows[0]["figures"] == {"tokens/s": 500_000, "of the best peer": None}
    assert {goal: measured for goal, measured, _ in bench.goals(rows)}["train >= 1.3 x the best peer"] is None


def test_a_char_run_that_never_got_there_is_no_time(bench: ModuleType) -> None:
    rows = [row("char", "08-shakespeare-char", seconds=None, loss=1.52)]
    assert ("char GPT to 1.47 in < 60 s", None, False) in bench.goals(rows)
    assert "| char GPT to 1.47 in < 60 s |  | no |" in bench.goals_table(rows)
    assert ("char GPT to 1.47 in < 60 s", None, None) in bench.goals([row("char", "x", "unmeasured")])
    rows = [row("char", "08-shakespeare-char", seconds=59.0, loss=1.46)]
    assert ("char GPT to 1.47 in < 60 s", 59.0, True) in bench.goals(rows)


def test_the_table_has_every_row_also_those_that_lost(bench: ModuleType) -> None:
    rows = [
        row("train", "a", **{"tokens/s": 1234, "range": [1200, 1300]}),
        {**row("train", "b", "FAILED"), "why": "RuntimeError: x | y"},
        {**row("decode", "c", "unmeasured"), "why": "no time was left"},
    ]
    lines = bench.table(rows).splitlines()
    assert "| row | tokens/s | range | status |" in lines and "| a | 1,234 | 1,200 to 1,300 | ok |" in lines
    assert "| b |  |  | FAILED: RuntimeError: x / y |" in lines and "| c | unmeasured: no time was left |" in lines
    assert all(goal.endswith("unmeasured |") for goal in bench.goals_table([]).splitlines()[3:])


def test_a_later_call_of_the_day_adds_its_rows_and_takes_none_away(bench: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    assert bench.merged(file, [row("a", "x", "unmeasured")]) == [row("a", "x", "unmeasured")]
    file.write_text(json.dumps({"rows": [row("a", "x", n=1), row("a", "y", n=2), row("a", "z", "unmeasured")]}))
    later = [row("a", "x", "unmeasured"), row("a", "y", n=3), row("a", "z", "FAILED")]
    assert bench.merged(file, later) == [row("a", "x", n=1), row("a", "y", n=3), row("a", "z", "FAILED")]


def test_of_build_nanogpt_only_the_classes_run(bench: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "build-nanogpt"
    folder.mkdir()
    (folder / "train_gpt2.py").write_text(
        "import math\nimport package_that_is_nowhere\nfrom hellaswag_too import x\n"
        "from dataclasses import dataclass\n"
        "@dataclass\nclass GPTConfig:\n    n_layer: int = 2\n"
        "class GPT:\n    def __init__(self, config):\n        self.layers = config.n_layer * int(math.sqrt(4))\n"
        "def load():\n    pass\n"
        "raise SystemExit('the training began')\n"
    )
    module = bench.train.build_nanogpt_module(tmp_path)
    assert module.GPT(module.GPTConfig()).layers == 4 and not hasattr(module, "load")
    with pytest.raises(bench.Unmeasured, match="PEERS names the folder"):
        bench.train.nanogpt_module(tmp_path)


def test_the_clock_tells_the_median_of_the_steps_behind_the_warm_ones(bench: ModuleType) -> None:
    clock = bench.train.Clock(bench.SMOKE)
    clock.begun, clock.first_loss = 10.0, 5.0
    clock.ticks = [50.0, 51.0, 53.0, 56.0]  # one warm step, three to be timed: 1, 2 and 3 seconds
    assert clock.figures()["tokens/s"] == bench.SMOKE.step_tokens // 2
    assert clock.figures()["range"] == [round(bench.SMOKE.step_tokens / 3), bench.SMOKE.step_tokens]
    assert clock.figures()["first step s"] == 40.0


ROWS = """
import json, multiprocessing, os, subprocess, sys, time
from pathlib import Path
import bench_gpu
from bench_gpu import Row, Unmeasured, SMOKE

def good(scale, peers, **settings): return {"x": settings["x"]}
def wrong(scale, peers): return {"good": False, "distance": 3.0}
def raises(scale, peers): raise ValueError("first line\\nsecond line")
def dies(scale, peers): os._exit(7)
def absent(scale, peers): raise Unmeasured("nothing is here")
def hangs(scale, peers):
    child = subprocess.Popen(["sleep", "60"])
    Path(os.environ["PID_FILE"]).write_text(str(child.pid))
    time.sleep(60)

rows = [Row("p", "good", good, {"x": 1})]
rows += [Row("p", f.__name__, f, limit=2 if f is hangs else 30) for f in (wrong, raises, dies, absent, hangs)]
bench_gpu.multiprocessing.get_context = lambda kind: multiprocessing.context.ForkContext()
seconds = float(sys.argv[1])
print(json.dumps(bench_gpu.run_rows(rows, SMOKE, Path("."), Path(os.environ["LOG"]), seconds)))
"""


def run_some_rows(folder: Path, seconds: float) -> list[dict[str, Any]]:
    environment = {**os.environ, "PYTHONPATH": str(FOLDER), "PID_FILE": str(folder / "pid"), "LOG": str(folder / "log")}
    command = [sys.executable, "-c", ROWS, str(seconds)]
    if os.name != "posix":
        pytest.skip("rows run in process groups, which only POSIX has")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def test_a_row_that_fails_or_hangs_loses_itself_alone(tmp_path: Path) -> None:
    rows = {one["row"]: one for one in run_some_rows(tmp_path, 300)}
    assert rows["good"]["status"] == "ok" and rows["good"]["figures"] == {"x": 1}
    assert (rows["wrong"]["status"], rows["wrong"]["why"]) == ("FAILED", "the check did not hold")
    assert rows["wrong"]["figures"]["distance"] == 3.0
    assert (rows["raises"]["status"], rows["raises"]["why"]) == ("FAILED", "ValueError: first line")
    assert (rows["dies"]["status"], rows["dies"]["why"]) == ("FAILED", "the process ended with exit code 7")
    assert (rows["absent"]["status"], rows["absent"]["why"]) == ("unmeasured", "nothing is here")
    assert (rows["hangs"]["status"], rows["hangs"]["why"]) == ("FAILED", "took longer than 2 s")
    assert rows["hangs"]["seconds"] < 20
    assert "second line" in (tmp_path / "log").read_text(), "the log keeps what the row said"
    child = Path(f"/proc/{(tmp_path / 'pid').read_text()}/stat")
    assert not child.exists() or child.read_text().split()[2] == "Z", "what it started is gone with it"


def test_rows_for_which_no_time_is_left_stand_as_unmeasured(tmp_path: Path) -> None:
    rows = run_some_rows(tmp_path, 1)
    assert {(one["status"], one["why"]) for one in rows} == {("unmeasured", "no time was left")}


@pytest.mark.slow  # a minute: 23 rows, a process each
def test_the_whole_script_at_tiny_sizes_fails_no_row(tmp_path: Path) -> None:
    environment = {**os.environ, "OUT": str(tmp_path), "PYTHON": sys.executable}
    environment["PEERS"] = os.environ.get("BPETOK_PEERS", str(tmp_path / "none"))
    command = ["bash", str(FOLDER / "gpu.sh"), "--smoke"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert len(rows) >= 20 and not [one for one in rows if one["status"] == "FAILED"]
    unmeasured = {one["row"].split(",")[0] for one in rows if one["status"] == "unmeasured"}
    absent = set() if "BPETOK_PEERS" in os.environ else {"nanoGPT", "build-nanogpt"}
    if "BPETOK_DATA" not in os.environ:
        absent |= {"08-shakespeare-char"}
    assert unmeasured == absent, done.stdout
    assert "| goal | measured | reached |" in done.stdout


def test_without_a_card_it_says_so_and_runs_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "OUT": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(FOLDER / "bench_gpu.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "a CUDA device must be there, got none" in done.stderr
    assert not list(tmp_path.iterdir())
