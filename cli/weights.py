"""Commands that take a model's weights to another program: export."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.manners import json_option, print_json, quiet_option
from cli.run import best_option, require_torch

if TYPE_CHECKING:
    from lm.export import Format

# ---- export ------------------------------------------------------------------------------------------------------


@click.command(short_help="A trained GPT-2 for transformers or llama.cpp.")
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The folder or file to make.")
@click.option(
    "--format",
    "format_name",
    type=click.Choice(["huggingface", "gguf"]),
    help="Else gguf where the output's name ends in .gguf, and huggingface where not.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    default="float32",
    show_default=True,
    help="What the weights are written as.",
)
@best_option
@click.option("--no-tokenizer", is_flag=True, help="The weights alone.")
@json_option
@quiet_option
def export(
    run: Path,
    output: Path,
    format_name: Format | None,
    dtype: str,
    best: bool,
    no_tokenizer: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write the model of a run, as its latest checkpoint has it, and its tokenizer, for another program. The rung must
    be gpt2.

    huggingface: a folder for AutoModelForCausalLM and AutoTokenizer. gguf: a file for llama.cpp, which has a function
    for the split patterns gpt2, llama3_ascii, qwen2_ascii and qwen3_5_ascii, and for no others. Whatever the format
    cannot hold exactly is refused. Never over what is there.

    \b
    Examples:
      lm export runs/gpt -o exported
      lm export runs/gpt -o half --dtype bfloat16
      lm export runs/gpt -o gpt.gguf --dtype float16 --no-tokenizer
    """
    require_torch()
    from lm.export import export_run

    done = export_run(run, output, format=format_name, dtype=dtype, tokenizer=not no_tokenizer, best=best)
    if as_json:
        print_json({**dataclasses.asdict(done), "output": str(done.output)})
    elif not quiet:
        beside = "its tokenizer" if done.tokenizer else "no tokenizer"
        what = f"{done.format}, {done.parameters:,} parameters in {done.dtype} and {beside}"
        click.echo(f"{done.output}: {what}, {done.bytes:,} bytes", err=True)
