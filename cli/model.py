"""Commands about models: sample."""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bpetok.errors import DataError
from cli.manners import TextFile, json_option, open_text, print_json
from cli.run import best_option, device_option, require_torch

if TYPE_CHECKING:
    from lm.sample import Sample

# ---- sample ------------------------------------------------------------------------------------------------------


@click.command(short_help="Draw text from a trained model.")
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--prompt", default="", help="What the text begins with.")
@click.option("--prompt-file", type=TextFile(), help="A file that holds it, or -; but for a newline at its end.")
@click.option("--num-samples", type=click.IntRange(min=1), help="Draw as many documents, all at once.")
@click.option("--max-new-tokens", type=int, default=200, show_default=True)
@click.option("--temperature", type=float, default=0.8, show_default=True, help="0 takes the most likely id.")
@click.option("--top-k", type=int, help="Draw from the k most likely ids only.")
@click.option("--top-p", type=float, help="Draw from the fewest ids whose chances sum to p.")
@click.option("--min-p", type=float, help="Draw from ids that have at least p times the highest chance.")
@click.option("--repetition-penalty", type=float, default=1.0, help="Above 1, ids that the text has lose.")
@click.option("--seed", type=int, default=1337, show_default=True)
@click.option("-v", "--verbose", is_flag=True, help="Say how fast it went, also where stderr is no terminal.")
@best_option
@device_option
@json_option
def sample(
    run: Path,
    prompt: str,
    prompt_file: str | None,
    num_samples: int | None,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
    repetition_penalty: float,
    seed: int,
    verbose: bool,
    best: bool,
    device: str,
    as_json: bool,
) -> None:
    """Print text drawn from the latest checkpoint of a run, as it is drawn. Where each line is a document, one line
    follows another; with --num-samples each sample is one document.

    \b
    Examples:
      lm sample runs/quickstart
      lm sample runs/quickstart --prompt 'def ' --temperature 0.5
      lm sample runs/quickstart --num-samples 4 --min-p 0.05 --json
      lm sample runs/quickstart --prompt-file my.txt --max-new-tokens 20
    """
    require_torch()
    from lm.parallel import pick_device
    from lm.sample import load_run, write, write_batch

    prompt = _read_prompt(prompt, prompt_file)
    model, vocabulary, config = load_run(run, pick_device(device), best=best)
    rules: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_k": top_k, "seed": seed}
    rules |= {"top_p": top_p, "min_p": min_p, "repetition_penalty": repetition_penalty}
    rules["lines"] = lines = getattr(config.data, "documents", "") == "lines"
    speed = _Speed()
    if num_samples or as_json:
        samples = write_batch(model, vocabulary, [prompt] * (num_samples or 1), on_step=speed.count, **rules)
        _print_samples(samples, speed, lines=lines, as_json=as_json)
    else:
        for text in write(model, vocabulary, prompt=prompt, on_id=lambda _: speed.count(1), **rules):
            sys.stdout.write(text)
            sys.stdout.flush()
        sys.stdout.write("\n")
    if verbose or sys.stderr.isatty():
        click.echo(f"{speed.ids:,} ids in {speed.seconds:.1f} s, {speed.rate:,.1f} ids/s", err=True)


def _read_prompt(prompt: str, file: str | None) -> str:
    """The prompt that was given, or a file's text; of the newline at a file's end, which editors put there, nothing."""
    if file is None:
        return prompt
    if prompt:
        raise click.UsageError("--prompt and --prompt-file: give one of them")
    with open_text(file) as opened:
        try:
            return opened.read().decode().removesuffix("\n")
        except UnicodeDecodeError as error:
            raise DataError(f"{file}: a prompt must be UTF-8, got {error.object[error.start]:#x}") from None


class _Speed:
    """How many ids were drawn so far, and for how long."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.ids = 0
        self.seconds = 0.0

    def count(self, ids: int) -> None:
        self.ids += ids
        self.seconds = time.monotonic() - self.began

    @property
    def rate(self) -> float:
        return self.ids / self.seconds if self.seconds else 0.0


def _print_samples(samples: list[Sample], speed: _Speed, *, lines: bool, as_json: bool) -> None:
    if as_json:
        drawn = [dataclasses.asdict(one) for one in samples]
        print_json({"samples": drawn, "ids": speed.ids, "seconds": speed.seconds, "ids_per_second": speed.rate})
        return
    for i, one in enumerate(samples, start=1):
        if not lines:
            click.echo(f"--- sample {i} ---")
        click.echo(one.text)
