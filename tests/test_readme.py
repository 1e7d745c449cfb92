"""The README is true: its examples run, its commands are those that CI runs, its links lead somewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lm.figures import read_rows, table

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON_EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.S)
SHELL_EXAMPLES = re.findall(r"```sh\n(.*?)```", README, re.S)


def run_python(source: str, folder: Path) -> str:
    (folder / "README.md").write_text(README, encoding="utf-8")
    done = subprocess.run([sys.executable, "-c", source], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_first_example_has_twelve_lines_and_runs_without_any_network(tmp_path: Path) -> None:
    lines = [line for line in PYTHON_EXAMPLES[0].splitlines() if line.strip()]
    assert len(lines) <= 12
    assert re.fullmatch(r"\d+ tokens, 601 ids, [0-9a-f]{12}\n", run_python(PYTHON_EXAMPLES[0], tmp_path))


@pytest.mark.parametrize("number", range(1, len(PYTHON_EXAMPLES)))
def test_every_further_example_runs(
    number: int, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "cl100k_base" in PYTHON_EXAMPLES[number] or "names.txt" in PYTHON_EXAMPLES[number]:
        folder = request.getfixturevalue("data")  # OpenAI's files and the lectures' texts are there
        monkeypatch.setenv("BPETOK_DATA", str(folder))
    run_python(PYTHON_EXAMPLES[number], tmp_path)


def test_the_two_commands_are_those_that_ci_takes_from_here() -> None:
    commands = [line for block in SHELL_EXAMPLES for line in block.splitlines() if line.startswith("pip install")]
    assert commands == ['pip install -e ".[lm]" && lm quickstart', 'pip install -e ".[test]" && pytest']
    assert "grep '^pip install -e' README.md" in (ROOT / ".ci" / "run").read_text()


def test_the_commands_of_the_road_run(tmp_path: Path) -> None:
    road = next(block for block in SHELL_EXAMPLES if block.startswith("bpetok train"))
    assert "lm train shakespeare-bpe-cpu " in road
    road = road.replace("-o runs/gpt", "-o runs/gpt --set run.steps=20 --set schedule.warmup_steps=5")
    out = run_shell(road, tmp_path)
    assert "hello world\n" in out and "Once upon a time" in out


@pytest.mark.slow
def test_the_commands_for_long_runs_run(tmp_path: Path) -> None:
    road = next(block for block in SHELL_EXAMPLES if block.startswith("bpetok train"))
    made = "\n".join(line for line in road.splitlines() if line.startswith(("bpetok train", "bpetok shard")))
    runs = next(block for block in SHELL_EXAMPLES if block.startswith("lm estimate"))
    short = " --set run.steps=20 --set schedule.warmup_steps=5 --set run.eval_batches=2"
    runs = re.sub(r"(?m)^(lm estimate.*|.*lm train.*)$", rf"\1{short}", runs)
    out = run_shell(f"{made}\n{runs}", tmp_path)
    assert out.count("Once upon a time") == 3
    assert (tmp_path / "exported" / "tokenizer.json").exists()


def test_the_commands_of_the_ladder_run(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BPETOK_DATA", str(data))
    (tmp_path / "corpus.txt").write_text(README)
    ladder = next(block for block in SHELL_EXAMPLES if block.startswith("lm train"))
    out = run_shell(ladder.replace("run.steps=2000", "run.steps=100"), tmp_path)
    assert "report.html\n" in out and "| bigram (counts) | 729 | 2.4540 |" in out


def test_the_table_of_the_ladder_is_that_of_its_results() -> None:
    found = re.search(r"<!-- the ladder's table: (\S+) -->\n(.*?)\n<!-- end of the table -->", README, re.S)
    assert found
    assert found[2] == table(read_rows(ROOT / found[1]))


def run_shell(script: str, tmp_path: Path) -> str:
    folder = tmp_path / "bin"
    folder.mkdir()
    for program in ("bpetok", "lm"):
        (folder / program).write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {program} "$@"\n')
        (folder / program).chmod(0o755)
    (tmp_path / "corpus.txt").write_text("\n".join(README.splitlines() * 3))
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("document", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_and_named_files_exist(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target
    for name in re.findall(r"`((?:bpetok|lm|cli|tests|benchmarks)/[\w/.]+)(?:::\w+)?`", text):
        assert (ROOT / name).exists(), name


def test_every_invariant_names_a_test_that_exists() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    invariants = text.split("## Invariants")[1].split("\n## ")[0].split("\n- ")[1:]
    for invariant in invariants:
        assert re.search(r"`tests/[\w/]+\.py", invariant), invariant
    for path, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text):
        assert f"def {name}(" in (ROOT / path).read_text(), name


def test_the_changelog_and_the_package_name_one_version() -> None:
    import bpetok

    assert f"## {bpetok.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert f'version = "{bpetok.__version__}"' in (ROOT / "pyproject.toml").read_text()
