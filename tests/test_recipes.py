"""The recipes: their commands exist, and the whole road of each is walked, small, on the CPU, without a network."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

import cli.bpetok
import cli.lm
from lm.config import load_config, shipped_configs

RECIPES = sorted(Path(str(files("lm") / "recipes")).glob("*.sh"))
GROUPS = {"bpetok": cli.bpetok.group, "lm": cli.lm.group}


def code(recipe: Path) -> str:
    """Without comments, with continued lines joined and arrays put in where they are used.

    An array stands for all that it may hold, one that is a command for the last that it may be.
    """
    text = re.sub(r"^\s*#.*\n", "", recipe.read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    arrays: dict[str, str] = {}
    for name, words in re.findall(r"^\s*(\w+)\+?=\((.*?)\)$", text, flags=re.MULTILINE | re.DOTALL):
        is_command = re.match(r"(lm|bpetok|torchrun) ", words)
        arrays[name] = " ".join([arrays.get(name, "") if not is_command else "", words.replace("\n", " ")])
    return re.sub(r'"\$\{(\w+)\[@\]\}"', lambda found: arrays.get(found[1], ""), text)


def commands(recipe: Path) -> list[tuple[str, str, list[str]]]:
    """`(program, command, the words behind it)`, for each call in a recipe."""
    calls = re.findall(r"(?:^|[\s(])(lm|bpetok) ([a-z-]+)\b([^\n;|)]*)", code(recipe), flags=re.MULTILINE)
    return [(program, command, words.split()) for program, command, words in calls]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_command_and_option_of_a_recipe_exists(recipe: Path) -> None:
    found = commands(recipe)
    assert {"train", "eval", "sample", "report"} <= {command for program, command, _ in found if program == "lm"}
    for program, command, words in found:
        assert command in GROUPS[program].commands, (program, command)
        known = {name for one in GROUPS[program].commands[command].params for name in one.opts}
        options = {word for word in words if re.fullmatch(r"-{1,2}[a-z][a-z-]*", word)}
        assert options <= known, (program, command, options - known)


def test_the_calls_of_the_big_recipe_are_seen_with_their_options() -> None:
    found = {(program, command): words for program, command, words in commands(RECIPES[0])}
    assert "--dataset" in found["bpetok", "shard"] and "--hellaswag" in found["lm", "eval"]
    assert "--resume" in found["lm", "train"] and "--vocab-size" in found["bpetok", "train"]
    assert {("bpetok", "export"), ("lm", "export")} <= found.keys()


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_setting_and_every_configuration_that_a_recipe_names_exists(recipe: Path) -> None:
    text = recipe.read_text(encoding="utf-8")
    names = set(re.findall(r"\b\d\d-[\w-]+?(?=[;\s,}])", text)) - {"08-shakespeare-char"}
    missing = names - shipped_configs().keys()
    assert names and not missing
    settings = [one for one in re.findall(r"--set (\w+\.\w+=[\w.]+)", text) if not one.startswith("data.")]
    for name in names:
        overrides = ["data.shards=s", "data.tokenizer=t"] if name > "09" else []
        load_config(shipped_configs()[name], [*settings, *overrides])


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_a_script_that_stops_at_the_first_error(recipe: Path) -> None:
    assert os.access(recipe, os.X_OK) and "set -euo pipefail" in recipe.read_text(encoding="utf-8")
    assert subprocess.run(["bash", "-n", str(recipe)], check=False).returncode == 0


# ---- walked ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def walk(tmp_path: Path, small_text: str):
    """`walk("gpt2-124m", SMALL="1")` runs a recipe in a folder that has `my.txt`, with the commands of this tree."""
    if not shutil.which("bash"):
        pytest.skip("needs bash, which is not there")
    (tmp_path / "my.txt").write_text(small_text[:40_000], encoding="utf-8")
    (tmp_path / "bin").mkdir()
    for program in GROUPS:
        file = tmp_path / "bin" / program
        file.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m {program} "$@"\n')
        file.chmod(0o755)

    def run(name: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        recipe = next(path for path in RECIPES if path.stem == name)
        environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
        command = ["bash", str(recipe), *arguments]
        environment |= variables
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    return run


@pytest.mark.slow  # 40 s: nine programs that load torch
def test_the_small_walk_of_the_big_recipe_makes_everything_and_goes_on_where_it_was_stopped(
    tmp_path: Path, walk
) -> None:
    first = walk("gpt2-124m", "my.txt", SMALL="1", OUT="out")
    assert first.returncode == 0, first.stderr
    out = tmp_path / "out"
    made = {path.name for path in out.iterdir()}
    wanted = {"tokenizer.bpetok", "shards", "run", "validation.json", "huggingface", "model.gguf", "samples.txt"}
    assert wanted | {"report.html"} == made
    assert (out / "huggingface" / "model.safetensors").exists() and (out / "huggingface" / "tokenizer.json").exists()
    weights = (out / "run" / "checkpoints" / "step_000020" / "model.safetensors").read_bytes()
    # As if it had been stopped after step 10.
    shutil.rmtree(out / "run" / "checkpoints" / "step_000020")
    for name in ("validation.json", "model.gguf", "samples.txt", "report.html"):
        (out / name).unlink()
    shutil.rmtree(out / "huggingface")
    shards = (out / "shards" / "manifest.json").stat().st_mtime_ns
    again = walk("gpt2-124m", "my.txt", SMALL="1", OUT="out")
    assert again.returncode == 0, again.stderr
    assert {path.name for path in out.iterdir()} == made
    assert (out / "run" / "checkpoints" / "step_000020" / "model.safetensors").read_bytes() == weights
    assert (out / "shards" / "manifest.json").stat().st_mtime_ns == shards


@pytest.mark.slow  # 15 s
def test_the_char_recipe_takes_any_text(tmp_path: Path, walk) -> None:
    settings = {"model.width": 32, "schedule.warmup_steps": 5, "run.sample_every": 0}
    settings |= {"run.steps": 20, "run.eval_every": 10, "run.eval_batches": 2}
    sets = " ".join(f"--set {name}={value}" for name, value in settings.items())
    done = walk("shakespeare-char", TEXT="my.txt", OUT="out", SETS=sets)
    assert done.returncode == 0, done.stderr
    assert "--- sample 2 ---" in done.stdout and (tmp_path / "out" / "report.html").exists()
    assert "loss" in done.stdout


def test_the_small_walk_wants_a_text(tmp_path: Path, walk) -> None:
    done = walk("gpt2-124m", SMALL="1", OUT="out")
    assert done.returncode == 2 and "SMALL=1 must have text files, got none" in done.stderr
