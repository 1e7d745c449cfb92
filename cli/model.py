"""Commands about models: quickstart, train, sample."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bpetok.errors import MissingExtraError
from cli.manners import Advance, json_option, print_json, progress, quiet_option

if TYPE_CHECKING:
    from lm.evaluate import Evaluation
    from lm.quickstart import QuickstartResult

device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")


def _require_torch() -> None:
    try:
        import safetensors  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("lm") from error


# ---- quickstart --------------------------------------------------------------------------------------------------


@click.command(short_help="The whole road: text to samples, in five minutes.")
@click.argument("files", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), help="The run's folder.")
@click.option("--minutes", type=float, default=2.0, show_default=True, help="How long to train the model.")
@device_option
@click.option("--seed", type=int, default=1337, show_default=True)
@json_option
@quiet_option
def quickstart(
    files: tuple[Path, ...], output: Path | None, minutes: float, device: str, seed: int, as_json: bool, quiet: bool
) -> None:
    """Train a tokenizer, write shards, train a small GPT, and sample from it.

    The text is that of the files, or the sources of Python's standard library. If it is stopped, the same command
    goes on where it was.

    \b
    Examples:
      lm quickstart
      lm quickstart shakespeare.txt -o runs/shakespeare
    """
    _require_torch()
    from lm.quickstart import quickstart as run_quickstart

    run_dir = output or Path("runs") / ("-".join(["quickstart", *(path.stem for path in files[:1])]))
    click.echo(f"run folder: {run_dir}", err=True)
    try:
        with _shown_events(quiet) as on_event:
            result = run_quickstart(files, run_dir, minutes=minutes, device=device, seed=seed, on_event=on_event)
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt("nothing is lost: the same command goes on where it was") from interrupt
    if as_json:
        print_json(dataclasses.asdict(result))
    else:
        _print_quickstart(result)


def _print_quickstart(result: QuickstartResult) -> None:
    for i, text in enumerate(result.samples, start=1):
        click.echo(f"--- sample {i} ---\n{text.strip()}\n")
    click.echo("validation      nats per token   bits per byte")
    for name, evaluation in (("before", result.train.before), ("after", result.train.after)):
        click.echo(f"  {name:<12}  {evaluation.loss:>14.4f}  {evaluation.bits_per_byte:>14.4f}")
    if not result.finished:
        click.echo("the machine got slower than measured, so training ended early: the same command goes on with it")
    click.echo(
        f"{result.text_bytes:,} bytes of text, {result.train.steps:,} steps, {result.train.tokens:,} tokens, "
        f"{result.seconds:.0f} s in all\n"
        f"loss curve: {result.curve}\n"
        f"more samples: lm sample {shlex.quote(str(result.run))} --seed 1"
    )


# ---- train -------------------------------------------------------------------------------------------------------


@click.command(short_help="Train a model as a configuration says.")
@click.argument("config", metavar="CONFIG.toml|NAME|RUN", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), help="The run's folder.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Such as model.width=128; may repeat.")
@click.option("--device", help="auto, cpu, cuda or mps, in place of the configuration's.")
@click.option("--resume", is_flag=True, help="Go on with the run in the folder, if there is one.")
@json_option
@quiet_option
def train(
    config: Path,
    output: Path | None,
    overrides: tuple[str, ...],
    device: str | None,
    resume: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train a model. CONFIG.toml describes a run; NAME is one that comes with the package, to be told where the data
    are; a RUN folder has its own, to go on with.

    \b
    Examples:
      lm train gpt.toml -o runs/gpt
      lm train 02-bigram --set data.shards=shards --set data.tokenizer=my.bpetok
      lm train gpt.toml -o runs/wide --set model.width=256 --device cuda
      lm train runs/gpt --resume
    """
    _require_torch()
    from lm.checkpoint import latest
    from lm.config import load_config
    from lm.train import train as run_training

    run_dir = output or (config if config.is_dir() else Path("runs") / config.stem)
    loaded = load_config(_config_file(config), [*overrides, *([f"run.device={device}"] if device else [])])
    go_on = resume and latest(run_dir / "checkpoints") is not None
    click.echo(f"run folder: {run_dir}", err=True)
    try:
        with _shown_events(quiet) as on_event:
            result = run_training(loaded, run_dir, resume=go_on, on_event=on_event)
    except KeyboardInterrupt as interrupt:
        saved = latest(run_dir / "checkpoints") is not None
        raise KeyboardInterrupt(f"go on with: lm train {run_dir} --resume" if saved else "") from interrupt
    if as_json:
        print_json(dataclasses.asdict(result))
    else:
        click.echo(f"{result.steps:,} steps, {result.tokens:,} tokens, {result.seconds:.0f} s; {_shown(result.after)}")


def _config_file(config: Path) -> Path:
    """The file that a run's folder, a shipped name or a path stands for."""
    from lm.config import shipped_configs

    if config.is_dir():
        return config / "config.toml"
    if not config.exists() and str(config) in shipped_configs():
        return shipped_configs()[str(config)]
    if not config.exists():
        names = ", ".join(shipped_configs())
        raise click.UsageError(f"{config}: must be a file, a run's folder or one of {names}")
    return config


def _shown(evaluation: Evaluation) -> str:
    return f"validation {evaluation.loss:.4f} nats per token, {evaluation.bits_per_byte:.4f} bits per byte"


@contextmanager
def _shown_events(quiet: bool) -> Iterator[Callable[[Any], None]]:
    """A bar for each stage and for the steps; a line on stderr for each stage and each evaluation."""
    from lm.quickstart import ProgressEvent, StageEvent
    from lm.train import EvalEvent, StepEvent

    done: dict[str, int] = {}
    bars: dict[str, Advance] = {}

    with ExitStack() as stack:

        def move(stage: str, to: int, total: int, *, unit: str, note: str = "") -> None:
            if stage not in bars:
                stack.close()
                done[stage] = to - 1 if unit == " steps" else 0  # a resumed run's first step is not its first
                bars[stage] = stack.enter_context(progress(stage, total, unit=unit, done=done[stage], quiet=quiet))
            bars[stage](to - done[stage], note=note)
            done[stage] = to

        def show(event: Any) -> None:
            if isinstance(event, ProgressEvent):
                move(event.stage, event.done, event.total, unit="" if event.stage == "merge" else "B")
            elif isinstance(event, StepEvent):
                move("train", event.step, event.steps, unit=" steps", note=f"loss {event.loss:.3f}")
            elif isinstance(event, StageEvent) and not quiet:
                click.echo(f"{event.stage}: {event.detail}", err=True)
            elif isinstance(event, EvalEvent) and not quiet:
                click.echo(f"step {event.step}: {_shown(event.evaluation)}", err=True)

        yield show


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
    _require_torch()
    from lm.parallel import pick_device
    from lm.sample import generate, load_run

    model, tok, _ = load_run(run, pick_device(device))
    ids = generate(
        model,
        [tok.eot_token, *tok.encode_ordinary(prompt)],
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        stop_id=tok.eot_token,
        seed=seed,
    )
    sys.stdout.write(prompt)
    for text in tok.decode_stream(ids):
        sys.stdout.write(text)
        sys.stdout.flush()
    sys.stdout.write("\n")
