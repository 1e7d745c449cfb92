"""The page of a run: one HTML file with charts, which asks for nothing from elsewhere and runs no script.

All that comes from the run is escaped: a sample may hold `</script>`. What the log does not have is left out.
"""

import html
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

import bpetok
import bpetok.shards
from bpetok.errors import BpetokError
from bpetok.report import readable
from lm import charts, predictions
from lm.alphabet import Vocabulary
from lm.batches import IGNORE, in_order
from lm.charts import Chart
from lm.config import Config, DataConfig
from lm.curves import STEP, diagnoses_in, diagnostic_charts, series, training_charts
from lm.data import open_data
from lm.diagnostics import Diagnosis
from lm.predictions import Prediction, heat_map, visible
from lm.run import RunFolder
from lm.sample import load_run

STRETCH = 64
"""Ids of the validation text in the heat map."""
LONGEST_OPEN = 20  # rows of a table
MOST_SAMPLES, LONGEST_SAMPLE = 20, 2000  # texts, characters

_STYLE = (
    """
:root { color-scheme: light dark; --ink: #1b1f24; --faint: #667079; --paper: #fff; --card: #f1f4f7 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --faint: #98a1ab; --paper: #14171a; --card: #1f2429 } }
* { box-sizing: border-box }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 66rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; overflow-wrap: anywhere } h2 { font-size: 1.15rem; margin: 2.6rem 0 .6rem }
p, figcaption, small { color: var(--faint) }
nav { margin-top: 1rem; display: flex; flex-wrap: wrap; gap: .2rem 1rem } a { color: var(--c0) }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: .7rem }
.cards div { background: var(--card); border-radius: .5rem; padding: .6rem .8rem; color: var(--faint) }
.cards b { display: block; font-size: 1.2rem; line-height: 1.3; font-variant-numeric: tabular-nums; color: var(--ink) }
.scroll { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-size: .85rem }
th, td { text-align: right; padding: .2rem .55rem; border-bottom: 1px solid var(--card); white-space: nowrap }
td { font-variant-numeric: tabular-nums } th { color: var(--faint); font-weight: 600 }
th:first-child, td:first-child { text-align: left }
pre { background: var(--card); border-radius: .5rem; padding: .7rem .9rem; overflow-x: auto; white-space: pre-wrap;
      overflow-wrap: anywhere; font: .82rem/1.45 ui-monospace, monospace; margin: .4rem 0 1rem }
.samples { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 18rem), 1fr)); gap: 0 1.2rem }
.samples pre { max-height: 18rem; overflow-y: auto }
details { margin: .8rem 0 } summary { cursor: pointer }
"""
    + charts.STYLE
    + predictions.STYLE
)
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def report_page(folder: RunFolder, metrics: Sequence[Mapping[str, Any]]) -> str:
    """The whole page, as text of an HTML file.

    Args:
        folder: of the run, for its settings and its latest checkpoint.
        metrics: the lines of its log.

    Raises:
        DataError: if a diagnosis in the log is not as `Diagnosis.to_json` writes it.
    """
    name = html.escape(folder.path.resolve().name)
    sections = {
        "Training": _charts(training_charts(metrics)),
        "Diagnostics": _diagnostics(metrics),
        "Samples": _samples(metrics),
        "Next-token probabilities": _heat(folder),
        "Settings": _settings(folder),
    }
    shown = {title: (title.lower().replace(" ", "-"), body) for title, body in sections.items() if body}
    links = "".join(f'<a href="#{slug}">{title}</a>' for title, (slug, _) in shown.items())
    bodies = "".join(f'<section id="{slug}"><h2>{title}</h2>{body}</section>' for title, (slug, body) in shown.items())
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>'
        f"<body><h1>{name}</h1>{_cards(metrics)}<nav>{links}</nav>{bodies}</body></html>\n"
    )


# ---- figures and tables from the log ---------------------------------------------------------------------------------


def _cards(metrics: Sequence[Mapping[str, Any]]) -> str:
    facts = {"steps": (f"{max((line[STEP] for line in metrics), default=0):,}", "")}
    for key in ("tokens", "seconds"):
        if figures := series(metrics, "step", key):
            facts[key] = (f"{figures[-1][1]:,.0f}", "")
    if train := series(metrics, "step", "loss"):
        facts["train loss"] = (f"{train[-1][1]:.4f}", "of the last step")
    if evaluations := series(metrics, "eval", "loss"):
        errors = dict(series(metrics, "eval", "standard_error"))
        step, loss = evaluations[-1]
        facts["validation loss"] = (f"{loss:.4f}", f"± {errors[step]:.4f}" if step in errors else "")
        if best := min(((loss, step) for step, loss in evaluations if math.isfinite(loss)), default=None):
            facts["best validation loss"] = (f"{best[0]:.4f}", f"at step {best[1]:,}")
    if bits := series(metrics, "eval", "bits_per_byte"):
        facts["bits per byte"] = (f"{bits[-1][1]:.4f}", "of validation")
    cards = "".join(f"<div>{name}<b>{value}</b><small>{note}</small></div>" for name, (value, note) in facts.items())
    return f'<div class="cards">{cards}</div>'


def _charts(drawn: Iterable[Chart]) -> str:
    pictures = "".join(map(charts.svg, drawn))
    return f'<div class="charts">{pictures}</div>' if pictures else ""


# ---- diagnostics -----------------------------------------------------------------------------------------------------


def _diagnostics(metrics: Iterable[Mapping[str, Any]]) -> str:
    seen = diagnoses_in(metrics)
    if not seen:
        return ""
    last = seen[-1][1]
    note = (
        f"{len(last.activations):,} activations and {len(last.parameters):,} parameters. The charts show "
        f"{charts.COLOURS} at most, from the first to the last, and of the parameters the matrices."
    )
    return f"<p>{note}</p>{_charts(diagnostic_charts(seen))}{_activation_table(last)}{_parameter_table(last)}"


def _activation_table(last: Diagnosis) -> str:
    if not last.activations:
        return ""
    heads = ("activation", "kind", "mean", "std", "saturated", "dead units", "gradient mean", "std", "not finite")
    rows = [
        (
            row.name,
            row.kind,
            _number(row.values.mean),
            _number(row.values.std),
            f"{100 * row.saturated:.2f} %",
            f"{100 * row.dead:.2f} %",
            *((_number(row.gradient.mean), _number(row.gradient.std)) if row.gradient else ("–", "–")),
            f"{row.values.nonfinite + (row.gradient.nonfinite if row.gradient else 0):,}",
        )
        for row in last.activations
    ]
    return _table("Activations of the last diagnosis", heads, rows)


def _parameter_table(last: Diagnosis) -> str:
    heads = ("parameter", "shape", "std", "gradient std", "gradient : data", "update : data", "log10", "not finite")
    rows = [
        (
            row.name,
            " × ".join(map(str, row.shape)) or "scalar",
            _number(row.data_std),
            _number(row.gradient.std if row.gradient else None),
            _number(row.grad_to_data),
            _number(row.update_to_data),
            _number(row.log10_update_to_data),
            f"{row.gradient.nonfinite:,}" if row.gradient else "–",
        )
        for row in last.parameters
    ]
    return _table("Parameters of the last diagnosis", heads, rows)


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table to fold; folded up where it is long."""
    head = "".join(f"<th>{html.escape(one)}</th>" for one in heads)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f"<details{' open' if len(rows) <= LONGEST_OPEN else ''}><summary>{html.escape(title)}</summary>"
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></details>'
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


# ---- samples, probabilities, settings --------------------------------------------------------------------------------


def _samples(metrics: Iterable[Mapping[str, Any]]) -> str:
    seen = [line for line in metrics if line.get("event") == "sample" and isinstance(line.get("text"), str)]
    if not seen:
        return ""
    places = sorted({round(i * (len(seen) - 1) / (MOST_SAMPLES - 1)) for i in range(MOST_SAMPLES)})
    left_out = f"<p>{len(places)} of {len(seen):,} samples, evenly spaced.</p>" if len(places) < len(seen) else ""
    texts = "".join(
        f"<figure><small>step {seen[i][STEP]:,}</small><pre>{html.escape(_cut(seen[i]['text']))}</pre></figure>"
        for i in places
    )
    return f'{left_out}<div class="samples">{texts}</div>'


def _cut(text: str) -> str:
    text = text.replace("\0", "\ufffd")  # which no HTML may hold
    return text if len(text) <= LONGEST_SAMPLE else f"{text[:LONGEST_SAMPLE]} …"


def _heat(folder: RunFolder) -> str:
    """The heat map, or why there is none: the run may have no checkpoint yet, or its data may be elsewhere now."""
    try:
        model, vocabulary, config = load_run(folder.path, torch.device("cpu"))
        inputs_BT, targets_BT = _stretch(config)
    except (BpetokError, OSError) as error:
        return f"<p>Not drawn: {html.escape(str(error))}</p>"
    predicted = predictions.predictions(model, inputs_BT, targets_BT)[:STRETCH]
    name_of = _names(vocabulary)
    losses = [-math.log(one.chance) if one.chance > 0 else math.inf for one in predicted]
    loss = math.fsum(losses) / len(losses) if losses else math.nan
    note = (
        "The beginning of the validation text by the latest checkpoint: on top what came, under it what the model held "
        "for likeliest; the likelier, the deeper the colour, and outlined where it came. "
        f"The mean loss here is {loss:.3f} nats per token."
    )
    return f"<p>{note}</p>{heat_map(predicted, name_of)}{_probability_table(predicted, name_of)}"


def _probability_table(predicted: Sequence[Prediction], name_of: Callable[[int], str]) -> str:
    rows = [
        (
            visible(name_of(one.target)),
            f"{one.chance:.1%}",
            *(f"{visible(name_of(token_id))} {chance:.1%}" for token_id, chance in one.top),
        )
        for one in predicted
    ]
    likeliest = max((len(one.top) for one in predicted), default=0)
    heads = ("came", "its probability", "likeliest", *("next" for _ in range(likeliest - 1)))
    return _table("The same in figures", heads, rows)


def _stretch(config: Config) -> tuple[Tensor, Tensor]:
    """The first rows of the validation split, as many as have `STRETCH` targets."""
    # Opened without reading all of it, as a run does to verify it: it may be large.
    shards = bpetok.shards.open(config.data.shards) if isinstance(config.data, DataConfig) else None
    split = open_data(config).val if shards is None else shards.val
    inputs_BT, targets_BT = next(in_order(split, rows=STRETCH, context=config.model.context, batches=1))
    counts_B = (targets_BT != IGNORE).sum(dim=1)
    rows = int(((counts_B.cumsum(dim=0) - counts_B) < STRETCH).sum())
    if targets_BT.shape[1] > 1:  # what is before the last target wanted is all that a causal model needs
        inputs_BT, targets_BT = inputs_BT[:, :STRETCH], targets_BT[:, :STRETCH]
    return inputs_BT[:rows], targets_BT[:rows]


def _names(vocabulary: Vocabulary) -> Callable[[int], str]:
    if isinstance(vocabulary, bpetok.Tokenizer):  # whose tokens may be half a character
        return lambda token_id: readable(vocabulary.decode_single_token_bytes(token_id))
    return lambda token_id: vocabulary.decode([token_id])


def _settings(folder: RunFolder) -> str:
    try:
        text = folder.config.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return f"<pre>{html.escape(text)}</pre>"
