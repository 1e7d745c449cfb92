"""Commands about runs: quickstart, train, find-lr, report."""

from __future__ import annotations

import dataclasses
import difflib
import os
import shlex
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

best_option = click.option("--best", is_flag=True, help="The checkpoint of the lowest validation loss, not the latest.")
device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")


def require_torch() -> None:
    """Nothing, where the packages are installed that models need.

    Raises:
        MissingExtraError: if they are not.
    """
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
    require_torch()
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
@click.option("--init-from", metavar="FOLDER|gpt2", help="Begin with GPT-2's weights, as Hugging Face has them.")
@click.option(
    "--resume",
    is_flag=False,
    flag_value="auto",
    type=click.Choice(["auto", "never"]),
    default="never",
    help="Go on with the run in the folder, if there is one.",
)
@json_option
@quiet_option
def train(
    config: Path,
    output: Path | None,
    overrides: tuple[str, ...],
    device: str | None,
    init_from: str | None,
    resume: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train a model. CONFIG.toml describes a run; NAME is one that comes with the package: the rungs of the ladder know
    their text, the others are to be told where the data are; a RUN folder has its own, to go on with.

    \b
    Examples:
      lm train gpt.toml -o runs/gpt
      lm train 03-mlp
      lm train 03-mlp -o runs/other --set data.text=my.txt
      lm train 02-bigram --set data.shards=shards --set data.tokenizer=my.bpetok
      lm train gpt.toml -o runs/wide --set model.width=256 --device cuda
      lm train runs/gpt --resume
      lm train gpt.toml --init-from pretrained -o runs/fine-tuned
      torchrun --standalone --nproc-per-node=8 -m lm train gpt2-124m -o runs/gpt2 --resume auto

    A run that was stopped by SIGTERM has saved itself and exits with 75; torchrun then exits with 1, whatever its
    processes do.
    """
    require_torch()
    from lm.checkpoint import latest
    from lm.config import load_config
    from lm.opening import begin_with
    from lm.train import train as run_training

    run_dir = output or (config if config.is_dir() else Path("runs") / config.stem)
    loaded = load_config(config_file(config), [*overrides, *([f"run.device={device}"] if device else [])])
    if init_from:
        fixed = [
            one for one in overrides if one.startswith(("model.layers", "model.heads", "model.width", "model.size"))
        ]
        if fixed:
            raise click.UsageError(
                f"--set {fixed[0]} must be left out: the weights of {init_from} have their own sizes"
            )
        loaded = begin_with(loaded, init_from)
    main = os.environ.get("RANK", "0") == "0"  # of torchrun's processes one speaks for all
    if main:
        click.echo(f"run folder: {run_dir}", err=True)
    try:
        with _shown_events(quiet or not main) as on_event:
            result = run_training(loaded, run_dir, resume="auto" if resume == "auto" else False, on_event=on_event)
    except KeyboardInterrupt as interrupt:
        saved = latest(run_dir / "checkpoints") is not None
        raise KeyboardInterrupt(f"go on with: lm train {run_dir} --resume" if saved else "") from interrupt
    if not main:
        return
    if as_json:
        print_json(dataclasses.asdict(result))
    else:
        click.echo(f"{result.steps:,} steps, {result.tokens:,} tokens, {result.seconds:.0f} s; {_shown(result.after)}")
    if result.after.loss > result.before.loss:
        click.echo(
            "the loss is above that of the untrained model: lower optimizer.lr (lm find-lr tries some)", err=True
        )


def config_file(config: Path) -> Path:
    """The file that a run's folder, a shipped name or a path stands for."""
    from lm.config import shipped_configs

    if config.is_dir():
        return config / "config.toml"
    if not config.exists() and str(config) in shipped_configs():
        return shipped_configs()[str(config)]
    if not config.exists():
        names = ", ".join(shipped_configs())
        close = [name for name in shipped_configs() if str(config).lower() in name]
        if exact := [name for name in close if name.partition("-")[2] == str(config)]:
            return shipped_configs()[exact[0]]
        short = {name.partition("-")[2] if name[:1].isdigit() else name: name for name in shipped_configs()}
        close += difflib.get_close_matches(str(config), short, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise click.UsageError(f"{config}: must be a file, a run's folder or one of {names}{hint}")
    return config


def _shown(evaluation: Evaluation) -> str:
    return (
        f"validation {evaluation.loss:.4f} nats per token, {evaluation.bits_per_byte:.4f} bits per byte, "
        f"over {evaluation.tokens:,} tokens"
    )


@contextmanager
def _shown_events(quiet: bool) -> Iterator[Callable[[Any], None]]:
    """A bar for each stage and for the steps; a line on stderr for each stage and each evaluation."""
    from lm.events import EvalEvent, StartEvent, StepEvent
    from lm.flops import progress_note
    from lm.quickstart import ProgressEvent, StageEvent

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
                note = progress_note(event, event.tokens_per_second, event.mfu)
                move("train", event.step, event.steps, unit=" steps", note=note)
            elif isinstance(event, StartEvent) and not quiet:
                click.echo(
                    f"{event.rung}: {event.parameters:,} parameters, {event.vocab_size:,} ids in the vocabulary, "
                    f"{event.train_tokens:,} to learn from, {event.val_tokens:,} to validate",
                    err=True,
                )
                several = f", {event.processes} processes" if event.processes > 1 else ""
                where = f"goes on after step {event.step:,}" if event.step else "begins"
                click.echo(
                    f"{where}, on {event.device}, {event.dtype}{', compiled' * event.compiled}{several}", err=True
                )
            elif isinstance(event, StageEvent) and not quiet:
                click.echo(f"{event.stage}: {event.detail}", err=True)
            elif isinstance(event, EvalEvent) and not quiet:
                click.echo(f"step {event.step}: {_shown(event.evaluation)}", err=True)

        yield show


# ---- find-lr -----------------------------------------------------------------------------------------------------


@click.command("find-lr", short_help="Try a range of learning rates in one short run.")
@click.argument("config", metavar="CONFIG.toml|NAME", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Such as model.width=128; may repeat.")
@click.option("--low", type=float, default=1e-3, show_default=True, help="The first rate.")
@click.option("--high", type=float, default=1.0, show_default=True, help="The last rate.")
@click.option("--steps", type=int, default=1000, show_default=True, help="How many steps the search takes.")
@json_option
@quiet_option
def find_lr(
    config: Path, overrides: tuple[str, ...], low: float, high: float, steps: int, as_json: bool, quiet: bool
) -> None:
    """Train for some steps with a rate that grows from step to step, and print the loss at each. A good rate lies
    somewhat before the lowest loss.

    \b
    Examples:
      lm find-lr 03-mlp
      lm find-lr gpt.toml --low 1e-5 --high 1e-1 --steps 200
    """
    require_torch()
    from lm.config import load_config
    from lm.find_lr import find_learning_rate, smoothed

    loaded = load_config(config_file(config), overrides)
    with progress("search", steps, unit=" steps", quiet=quiet) as advance:
        trials = find_learning_rate(loaded, low=low, high=high, steps=steps, on_step=lambda done: advance(1))
    if as_json:
        print_json({"trials": [dataclasses.asdict(trial) for trial in trials]})
        return
    points = smoothed(trials)
    best = min(points, key=lambda point: point.loss, default=None)
    for point in points:
        click.echo(f"rate {point.rate:.2e}  loss {point.loss:.4f}" + ("  the lowest" if point is best else ""))
    if len(trials) < steps:
        click.echo(f"the loss ceased to be a number after {len(trials)} steps", err=True)


# ---- report ------------------------------------------------------------------------------------------------------


@click.command(short_help="Write a page about a run.")
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Else report.html in the run.")
@click.option("--png", is_flag=True, help="Also draw loss.png and diagnostics.png in the run.")
def report(run: Path, output: Path | None, png: bool) -> None:
    """Write one HTML page that opens without a network: losses, learning rate, diagnostics, samples, and what the model
    expects of a stretch of validation text. Prints the paths of what it wrote.

    \b
    Examples:
      lm report runs/gpt
      lm report runs/gpt -o gpt.html --png
    """
    require_torch()
    from lm.report import write_pictures, write_report

    click.echo(write_report(run, output))
    for picture in write_pictures(run) if png else ():
        click.echo(picture)
