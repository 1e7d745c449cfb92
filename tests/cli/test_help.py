"""The examples in the help texts are commands that work."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

import bpetok
import cli.bpetok
import cli.lm
from bpetok import shards
from lm.huggingface import save_pretrained
from lm.models.gpt2 import GPT2, GPT2Config

IN_CI = {"lm quickstart"}  # .ci/run runs it, as the README prints it
GROUPS = {"bpetok": cli.bpetok.group, "lm": cli.lm.group}


def commands() -> list[tuple[str, click.Command]]:
    found = []
    for name, group in GROUPS.items():
        found.append((name, group))
        found += [(f"{name} {one}", command) for one, command in group.commands.items()]
    return found


def examples() -> list[str]:
    lines = [line.strip() for _, command in commands() for line in (command.help or "").splitlines()]
    found = [re.split(r"\s{3,}", line)[0] for line in lines if re.match(r"(bpetok|lm|echo) ", line)]
    return sorted(set(found) - IN_CI)


@pytest.mark.parametrize(("name", "command"), commands())
def test_every_command_has_a_summary_and_examples(name: str, command: click.Command) -> None:
    assert command.help and "Examples:" in command.help
    assert command.get_short_help_str()
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.name not in ("version", "help", "seed", "max_new_tokens"):
            assert parameter.help, (name, parameter.name)


def test_the_help_of_every_command_prints(run) -> None:
    for name, command in commands():
        if name in GROUPS:
            done = run(name, "--help")
            assert done.code == 0 and done.text.startswith(f"Usage: {name}"), name
        else:
            assert command.get_help(click.Context(command, info_name=name)).startswith(f"Usage: {name}"), name


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory, furnish, tok, data) -> Path:
    """Everything that the examples name, in one folder for all of them."""
    folder: Path = furnish(tmp_path_factory.mktemp("workshop"))
    for name in ("my.txt", "shakespeare.txt", "big.txt"):
        shutil.copy(folder / "corpus.txt", folder / name)
    (folder / "big.ids").write_bytes(tok.encode_to_numpy((folder / "big.txt").read_bytes()).tobytes())
    shards.write([(folder / "corpus.txt").read_bytes()], tok, folder / "shards")
    (folder / "stories.txt").write_text("One.\n<|endoftext|>\nTwo.\n")
    for part in (0, 1):
        shards.build([folder / "rows.jsonl"], tok, folder / f"part-{part}", part=(part, 2))
        counts = bpetok.PretokenCounts("gpt4")
        counts.add_file(folder / "corpus.txt")
        counts.save(folder / f"part{part}.counts")
    shutil.copy(folder / "my.bpetok", folder / "tokenizer.bpetok")
    tok.save(folder / "ranks.tiktoken")
    tok.save(folder / "minbpe.model")
    bigram = (Path(cli.__file__).parents[1] / "lm" / "configs" / "02-bigram.toml").read_text()
    gpt = bigram.replace('"bigram"', '"gpt2"\nlayers = 1\nheads = 2\nwidth = 16')
    (folder / "gpt.toml").write_text(gpt.replace('"tinyshakespeare.txt"', '"my.txt"\nalphabet = "bytes"'))
    pretrained = GPT2(GPT2Config(context=64, layers=1, heads=2, width=16, vocab_multiple=1), 256)
    save_pretrained(pretrained, folder / "pretrained")
    (folder / "bin").mkdir()
    for program in ("bpetok", "lm"):
        (folder / "bin" / program).write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {program} "$@"\n')
        (folder / "bin" / program).chmod(0o755)
    return folder


SHORT = {
    "lm quickstart": " --minutes 0.01",
    "lm train": " --set run.steps=20 --set run.eval_batches=2",
    "lm find-lr": " --steps 20",
    "lm ladder": " --only counts",
}


def shortened(example: str) -> str:
    """The example with less training, and on a machine that surely is there."""
    for start, more in SHORT.items():
        if example.startswith(start) and "--resume" not in example:
            example += more
    return example.replace("--device cuda", "--device cpu")


def before(example: str, workshop: Path) -> list[str]:
    """What has to be done for the example to find what it names, and no more than that."""
    steps = []
    if example.startswith("lm sample runs/quickstart") and not (workshop / "runs/quickstart").exists():
        steps.append("lm quickstart my.txt -o runs/quickstart --minutes 0.01")
    if "runs/gpt" in example and not (workshop / "runs/gpt").exists() and not example.startswith("lm train gpt.toml"):
        steps.append(shortened("lm train gpt.toml -o runs/gpt"))
    if example.startswith("lm train gpt.toml -o runs/gpt"):
        steps.append("rm -rf runs/gpt")
    return steps


def needs_a_shell(example: str) -> bool:
    """Whether a line is more than one command of bpetok: has a pipe, files to read or write, a pattern of names.

    What limits memory needs a process of its own: that of the tests has much in use.
    """
    if "--memory" in example:
        return True
    return not example.startswith("bpetok ") or bool(set("|<>*") & set(re.sub("'[^']*'", "", example)))


@pytest.mark.parametrize("example", [one for one in examples() if not needs_a_shell(one)])
def test_the_examples_of_one_command_run(example: str, workshop: Path, tmp_path: Path, call) -> None:
    workshop = Path(shutil.copytree(workshop, tmp_path / "workshop"))
    for made in ("shards", "part-0", "part-1"):  # what other examples need of it
        if f"-o {made}" in example:
            shutil.rmtree(workshop / made)
    done = call(*shlex.split(example), cwd=workshop)
    assert done.code == 0, done.err
    assert done.out or "-o " in example


LONG = (
    "lm quickstart",
    "lm sample",
    "lm train",
    "lm report",
    "lm find-lr",
    "lm ladder --only",
)  # tests/test_readme.py walks the same road every time


def by_shell() -> list[object]:
    found = [one for one in examples() if needs_a_shell(one)]
    return [pytest.param(one, marks=pytest.mark.slow) if one.startswith(LONG) else one for one in found]


@pytest.mark.parametrize("example", by_shell())
def test_the_examples_in_the_help_run(
    example: str,
    workshop: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if example.startswith(("lm find-lr 03", "lm train 03", "lm ladder")):
        monkeypatch.setenv("BPETOK_DATA", str(request.getfixturevalue("data")))
    if not example.startswith("lm "):  # these write over what others read; those are slow, and share their runs
        workshop = Path(shutil.copytree(workshop, tmp_path / "workshop"))
    path = f"{workshop / 'bin'}:{os.environ['PATH']}"
    script = "\n".join(["set -euo pipefail", *before(example, workshop), shortened(example)])
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=workshop,
        env={**os.environ, "PATH": path},
        input="hello from standard input\n",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    script = (
        "import sys, cli.bpetok, cli.lm; print([m for m in ('torch', 'numpy', 'rich', 'regex') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
