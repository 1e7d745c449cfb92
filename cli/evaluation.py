"""Commands about how good a model is: eval."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.manners import Advance, json_option, print_facts, print_json, progress, quiet_option
from cli.run import best_option, device_option, require_torch

if TYPE_CHECKING:
    from lm.assessment import RunEvaluation

OnProgress = Callable[[int, int], None]


# ---- eval --------------------------------------------------------------------------------------------------------


@click.command("eval", short_help="Measure a trained model: loss, bits per byte, HellaSwag.")
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("data", metavar="[TEXT|SHARDS]", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--split", default="val", show_default=True, help="val, train, or test where a run has one.")
@click.option("--batches", type=int, help="Read so many batches only; else the whole split.")
@click.option("--rows", type=int, help="Rows in a batch; else as many as fit easily.")
@click.option("--stride", type=int, help="Targets per row; fewer than the context let each see more of the past.")
@click.option("--hellaswag", metavar="FILE|download", help="Ask HellaSwag's items (.jsonl, .jsonl.xz) instead.")
@click.option("--tasks", metavar="NAME,...", help="Run these tasks of lm-evaluation-harness instead.")
@click.option("--limit", type=int, help="The first so many items only, of HellaSwag and of each task.")
@best_option
@device_option
@click.option("--dtype", default="auto", show_default=True, help="Of matrix products: auto, float32 or bfloat16.")
@json_option
@quiet_option
def evaluate(
    run: Path,
    data: Path | None,
    split: str,
    batches: int | None,
    rows: int | None,
    stride: int | None,
    hellaswag: str | None,
    tasks: str | None,
    limit: int | None,
    best: bool,
    device: str,
    dtype: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Print what the latest checkpoint of a run makes of the whole of its validation text, or of another text or folder
    of shards. The text is named and hashed: two losses compare where ids and vocabulary are the same, bits per byte
    where the text is.

    With --hellaswag it answers HellaSwag's 10,042 items; "download" fetches them once. --tasks wants
    lm-evaluation-harness (pip install "bpetok[eval]"), and the network, unless its data are here.

    \b
    Examples:
      lm eval runs/gpt
      lm eval runs/gpt my.txt --json
    """
    require_torch()
    asked = [name for name, given in (("--hellaswag", hellaswag), ("--tasks", tasks)) if given]
    others = {"TEXT or SHARDS": data, "--batches": batches, "--stride": stride, "--split": split != "val" or None}
    clash = [*asked, *(name for name, given in others.items() if asked and given is not None)]
    if len(clash) > 1:
        raise click.UsageError(f"{' and '.join(clash)} do not go together: give one of them")
    if rows is not None and rows < 1:
        raise click.UsageError(f"--rows: must be at least 1, got {rows}")
    if limit is not None and not asked:
        raise click.UsageError("--limit is for --hellaswag and --tasks; --batches makes an evaluation shorter")
    if hellaswag:
        about = _ask_hellaswag(run, hellaswag, limit, rows=rows, best=best, device=device, dtype=dtype, quiet=quiet)
        about = about if as_json else _told_hellaswag(about)
    elif tasks:
        about = _run_tasks(run, tasks.split(","), limit, rows=rows, best=best, device=device, dtype=dtype)
    else:
        from lm.assessment import evaluate_run

        settings: dict[str, Any] = {
            "split": split,
            "batches": batches,
            "rows": rows,
            "stride": stride,
            "device": device,
            "best": best,
        }
        with _bar("evaluate", " tokens", quiet) as on_progress:
            found = evaluate_run(run, data, **settings, dtype=dtype, on_progress=on_progress)
        about = _flat(found) if as_json else _told(found)
    print_json(about) if as_json else print_facts(about)


def _flat(found: RunEvaluation) -> dict[str, Any]:
    fields = dataclasses.asdict(found)
    figures = fields.pop("evaluation")
    return {**figures, "perplexity": found.evaluation.perplexity, **fields}


def _told(found: RunEvaluation) -> dict[str, str]:
    figures = found.evaluation
    error = "" if figures.standard_error is None else f" ± {figures.standard_error:.4f}"
    return {
        "loss": f"{figures.loss:.4f}{error} nats per token",
        "perplexity": f"{figures.perplexity:.2f}",
        "bits per byte": f"{figures.bits_per_byte:.4f}",
        "read": f"{figures.tokens:,} tokens, {figures.bytes:,} bytes of text",
        "split": f"{found.split} of {found.source}",
        "in": f"{found.rows_are}, context {found.context:,}, stride {found.stride:,}",
        "ids sha256": found.ids_sha256,
        "text sha256": found.text_sha256,
        "vocabulary": found.vocabulary,
        "checkpoint": f"{found.run}, {found.checkpoint}; {found.dtype} on {found.device}",
    }


def _ask_hellaswag(
    run: Path, source: str, limit: int | None, *, rows: int | None, best: bool, device: str, dtype: str, quiet: bool
) -> dict[str, Any]:
    from lm.assessment import fitting_tokens
    from lm.hellaswag import ask, find, read
    from lm.parallel import pick_device, pick_dtype
    from lm.sample import load_run

    items = read(find() if source == "download" else source, limit)
    on = pick_device(device)
    model, vocabulary, config = load_run(run, on, best=best)
    tokens = rows * model.context if rows else fitting_tokens(model, config.batch.rows)
    product_dtype = pick_dtype(dtype, on)
    started = time.perf_counter()
    with _bar("hellaswag", " endings", quiet) as on_progress:
        found = ask(model, vocabulary, items.items, tokens=tokens, dtype=pick_dtype(dtype, on), on_progress=on_progress)
    about = {"file": items.path, "sha256": items.sha256, "of_items": items.total, "run": run, "device": on.type}
    about["dtype"] = str(product_dtype).removeprefix("torch.")
    return {**dataclasses.asdict(found), **about, "seconds": time.perf_counter() - started}


def _told_hellaswag(about: dict[str, Any]) -> dict[str, str]:
    divided_by = {"acc": "log-likelihood", "acc_norm": "that per token", "acc_norm_bytes": "that per byte"}
    told = {
        name: f"{about[name]:.4f}" + ("" if about[f"{name}_error"] is None else f" ± {about[f'{name}_error']:.4f}")
        for name in divided_by
    }
    return {
        **{name: f"{told[name]}  by {what}" for name, what in divided_by.items()},
        "asked": f"{about['items']:,} of {about['of_items']:,} items, {about['items'] / about['seconds']:.1f} a second",
        "cut": f"{about['cut']:,} items, whose context was too long for the model's",
        "file": about["file"],
        "sha256": about["sha256"],
    }


def _run_tasks(
    run: Path, tasks: list[str], limit: int | None, *, rows: int | None, best: bool, device: str, dtype: str
) -> dict[str, Any]:
    from lm.harness import HarnessModel, run_tasks

    model = HarnessModel.of_run(run, rows=rows, device=device, dtype=dtype, best=best)
    return run_tasks(model, [name.strip() for name in tasks], limit=limit)


@contextmanager
def _bar(what: str, unit: str, quiet: bool) -> Iterator[OnProgress]:
    """A bar whose total is known once the work has begun."""
    with ExitStack() as stack:
        bar: Advance | None = None
        before = 0

        def on_progress(done: int, total: int) -> None:
            nonlocal bar, before
            if bar is None:
                bar = stack.enter_context(progress(what, total, unit=unit, quiet=quiet))
            bar(done - before)
            before = done

        yield on_progress
