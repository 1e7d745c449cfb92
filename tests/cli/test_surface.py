"""The command surface is frozen: who changes a command, an option or a default, changes this table with it."""

import sys

import click
import pytest
from click.shell_completion import get_completion_class

import cli.bpetok

GROUP = cli.bpetok.group

# An argument as <name>, an option by its names; `!` must be given, `...` may repeat, `=` the default, of choices all.
SURFACE = """
train
  <files>...
  --counts...
  --vocab-size!
  --pattern
  -o/--output!
  --special...
  --no-specials
  --extend
  --tie-break[smallest|huggingface|largest|first]=smallest
  --min-count=1
  --max-token-bytes
  --field=text
  --memory
  --engine[local|ray]=local
  --address
  --held-out
  --json
  -q/--quiet
count-words
  <files>!...
  --pattern
  -o/--output!
  --field=text
  --memory
  --json
  -q/--quiet
encode
  -t/--tokenizer=bpetok_32k
  --binary
  --allow-special...
  --text
  --json
  <file>
decode
  -t/--tokenizer=bpetok_32k
  --binary
  --document
  --split[train|val]=train
  --json
  <file>=-
count
  -t/--tokenizer=bpetok_32k
  --text
  --json
  <files>...
truncate
  -t/--tokenizer=bpetok_32k
  -n/--max-tokens!
  --keep[start|end|both]=start
  --marker
  --text
  --json
  <file>
tokens
  -t/--tokenizer=bpetok_32k
  --table
  --ids
  --allow-special...
  --color[auto|always|never]=auto
  --text
  --json
  <text_or_file>
merges
  -t/--tokenizer=bpetok_32k
  --id
  --json
  <token>
info
  <what>!
  --text
  --json
compare
  <tokenizers>!...
  <text>!
  --semantics
  --show=5
  --json
report
  <tokenizer>!
  <files>...
  --html
  --json
  -q/--quiet
export
  <what>!
  --to[bpetok|gguf|huggingface|minbpe|tekken|tiktoken|tiktoken-plugin|npy|nanogpt|datatrove|parquet]
  -o/--output!
  --json
  -q/--quiet
import
  <file>!
  --pattern
  --special...
  -o/--output!
  --json
  -q/--quiet
verify
  <what>!
  --against
  --text
  --renumbered
  -t/--tokenizer
  --json
  -q/--quiet
shard
  <files>...
  -t/--tokenizer=bpetok_32k
  -o/--output!
  --shard-tokens
  --val-fraction
  --end-of-text[before|after]=before
  --separator
  --field/--column=text
  --allow-special...
  --on-error[raise|skip]=raise
  --dataset
  --split=train
  --config
  --streaming
  --workers
  --engine[local|ray]=local
  --address
  --num-parts
  --part
  --merge
  --restart
  --dry-run
  --json
  -q/--quiet
env
  --json
completion
  <shell>
  --json
"""


def shown(parameter: click.Parameter) -> str:
    if isinstance(parameter, click.Argument):
        name = f"<{parameter.name}>"
    else:
        name = "/".join(parameter.opts)
        if isinstance(parameter.type, click.Choice):
            name += f"[{'|'.join(map(str, parameter.type.choices))}]"
    repeats = "..." if parameter.nargs == -1 or getattr(parameter, "multiple", False) else ""
    default = parameter.to_info_dict()["default"]
    is_flag = getattr(parameter, "is_flag", False)
    plain = is_flag or default in (None, (), "") or "UNSET" in repr(default).upper()
    return name + "!" * parameter.required + repeats + ("" if plain else f"={default}")


def surface() -> str:
    lines = [[name, *map(shown, command.params)] for name, command in GROUP.commands.items()]
    return "\n".join(line for words in lines for line in [words[0], *(f"  {word}" for word in words[1:])])


def test_the_commands_and_their_options_are_those_of_the_table() -> None:
    assert surface() == SURFACE.strip()


@pytest.mark.parametrize("name", GROUP.commands)
def test_every_command_can_answer_in_json(name: str) -> None:
    assert any("--json" in parameter.opts for parameter in GROUP.commands[name].params)


def test_env_tells_versions(call) -> None:
    about = call("bpetok", "env", "--json").json
    assert about["bpetok"] == cli.bpetok.bpetok.__version__
    assert about["python"] == ".".join(map(str, sys.version_info[:3]))
    assert f"numpy         {about['numpy']}" in call("bpetok", "env").text


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_the_script_that_click_makes(call, shell: str) -> None:
    done = call("bpetok", "completion", shell)
    made = get_completion_class(shell)(GROUP, {}, "bpetok", "_BPETOK_COMPLETE")
    assert (done.code, done.text) == (0, made.source() + "\n")
    assert "_BPETOK_COMPLETE" in done.text
    assert call("bpetok", "completion", shell, "--json").json == {"shell": shell, "script": made.source()}


def test_completion_takes_the_shell_of_the_user(call, monkeypatch) -> None:
    monkeypatch.setenv("SHELL", "/usr/bin/fish")
    assert call("bpetok", "completion", "--json").json["shell"] == "fish"
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    done = call("bpetok", "completion")
    assert done.code == 2 and "shell: must be one of bash, zsh, fish, got 'tcsh'" in done.err


COMPLETED = {
    "bpetok enc": ["plain,encode"],
    "bpetok encode --allow": ["plain,--allow-special"],
    "bpetok count -t cl100k": ["plain,cl100k_base", "file,cl100k"],
    "bpetok info o200k_h": ["plain,o200k_harmony", "file,o200k_h"],
    "bpetok truncate --keep b": ["plain,both"],
}


@pytest.mark.parametrize("words", COMPLETED)
def test_a_shell_that_asks_is_told_what_may_come_next(call, monkeypatch, words: str) -> None:
    monkeypatch.setenv("_BPETOK_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    done = call("bpetok")
    assert (done.code, done.text.split()) == (0, COMPLETED[words])
