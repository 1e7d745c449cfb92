"""The `bpetok` command line, its commands in the order of the road; and those about the program itself."""

from __future__ import annotations

import os
from typing import NoReturn

import click

import bpetok
from cli import dataset, exchange, manners, tokenizer, training, vocabulary

_SHELLS = ("bash", "zsh", "fish")


@click.group("bpetok", cls=manners.Road, context_settings=manners.CONTEXT)
@click.version_option(bpetok.__version__)
def group() -> None:
    """Byte-level BPE: train a tokenizer, encode and decode text, look into vocabularies and take them to other
    programs, prepare shards of tokens. Without -t, bpetok_32k is used, which comes with the package.

    \b
    Examples:
      bpetok train corpus.txt --vocab-size 32768 -o my.bpetok
      bpetok encode -t my.bpetok < text.txt
      bpetok encode -t gpt2 --binary < text.txt | bpetok decode -t gpt2 --binary
      bpetok count -t my.bpetok *.txt
      bpetok tokens text.txt -t my.bpetok
      bpetok shard corpus.txt -t my.bpetok -o shards
    """


@click.command(short_help="Versions, for a report of a fault.")
@manners.json_option
def env(as_json: bool) -> None:
    """Print the versions of bpetok and of what it works with, and what was chosen for this machine.

    \b
    Examples:
      bpetok env
      bpetok env --json
    """
    import platform
    from importlib import metadata

    from bpetok import _core

    about: dict[str, str | None] = {
        "bpetok": bpetok.__version__,
        "instructions": _core.tier_in_use(),
        "unicode": _core.unicode_version,
        "processors": str(os.cpu_count()),
        "python": platform.python_version(),
        "system": platform.platform(),
    }
    for name in ("numpy", "regex", "click", "tiktoken", "tokenizers", "transformers", "gguf", "torch"):
        try:
            about[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            about[name] = None
    if as_json:
        manners.print_json(about)
    else:
        manners.print_facts({name: value or "not installed" for name, value in about.items()})


@click.command(short_help="What makes a shell complete commands.")
@click.argument("shell", type=click.Choice(_SHELLS), required=False)
@manners.json_option
def completion(shell: str | None, as_json: bool) -> None:
    """Print a script that completes bpetok's commands and options; without an argument for the shell in $SHELL.

    \b
    Examples:
      bpetok completion bash > bpetok-completion.bash      (and in ~/.bashrc: source it)
      bpetok completion fish
    """
    from click.shell_completion import get_completion_class

    name = shell or os.path.basename(os.environ.get("SHELL", ""))
    if name not in _SHELLS:
        raise click.UsageError(f"shell: must be one of {', '.join(_SHELLS)}, got {name!r}")
    made_by = get_completion_class(name)
    assert made_by is not None
    script = made_by(group, {}, str(group.name), manners.completion_variable(str(group.name))).source()
    if as_json:
        manners.print_json({"shell": name, "script": script})
    else:
        click.echo(script)


for command in (
    training.train,
    training.count_words,
    tokenizer.encode,
    tokenizer.decode,
    tokenizer.count,
    tokenizer.truncate,
    tokenizer.tokens,
    vocabulary.merges,
    vocabulary.info,
    vocabulary.compare,
    vocabulary.report,
    exchange.export,
    exchange.import_,
    exchange.verify,
    dataset.shard,
    env,
    completion,
):
    group.add_command(command)


def main() -> NoReturn:
    """The entry point."""
    manners.run(group)
