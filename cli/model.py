"""Commands about models: sample."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cli.run import device_option, require_torch

# ---- sample ------------------------------------------------------------------------------------------------------


@click.command(short_help="Draw text from a trained model.")
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--prompt", default="", help="What the text begins with.")
@click.option("--max-new-tokens", type=int, default=200, show_default=True)
@click.option("--temperature", type=float, default=0.8, show_default=True, help="0 takes the most likely id.")
@click.option("--top-k", type=int, help="Draw from the k most likely ids only.")
@click.option("--top-p", type=float, help="Draw from the fewest ids whose chances sum to p.")
@click.option("--seed", type=int, default=1337, show_default=True)
@device_option
def sample(
    run: Path,
    prompt: str,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int,
    device: str,
) -> None:
    """Print text drawn from the latest checkpoint of a run, as it is drawn.

    \b
    Examples:
      lm sample runs/quickstart
      lm sample runs/quickstart --prompt 'def ' --temperature 0.5
    """
    require_torch()
    from lm.parallel import pick_device
    from lm.sample import load_run, write

    model, vocabulary, config = load_run(run, pick_device(device))
    drawn = write(
        model,
        vocabulary,
        prompt=prompt,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        lines=getattr(config.data, "documents", "") == "lines",
        seed=seed,
    )
    for text in drawn:
        sys.stdout.write(text)
        sys.stdout.flush()
    sys.stdout.write("\n")
