"""What the log of a run shows, as charts: its losses and its steps, and its diagnoses over time."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeVar

from lm.charts import BUCKETS, COLOURS, LARGEST, Chart, Line, Point, thin
from lm.diagnostics import ActivationRow, Diagnosis, ParameterRow, Spread

STEP = "step"
MOST_DOTS = 60
Row = TypeVar("Row", ActivationRow, ParameterRow)
Seen = Sequence[tuple[int, Diagnosis]]


def series(metrics: Iterable[Mapping[str, Any]], event: str, key: str) -> list[tuple[float, float]]:
    """(step, value) of the events that have the value as a number, in the order of the log.

    >>> series([{"event": "eval", "step": 3, "loss": 2.5}, {"event": "eval", "step": 4}], "eval", "loss")
    [(3, 2.5)]
    """
    lines = (line for line in metrics if line.get("event") == event)
    return [(line[STEP], line[key]) for line in lines if isinstance(line.get(key), int | float)]


def diagnoses_in(metrics: Iterable[Mapping[str, Any]]) -> list[tuple[int, Diagnosis]]:
    """The diagnoses of a log, each with its step.

    Raises:
        DataError: if one is not as `Diagnosis.to_json` writes it.
    """
    return [(line[STEP], Diagnosis.from_json(line)) for line in metrics if line.get("event") == "diagnostics"]


def training_charts(metrics: Sequence[Mapping[str, Any]]) -> Iterator[Chart]:
    """The losses, the learning rate, the gradient's norm and the speed, as far as the log has them."""
    train, validation = series(metrics, "step", "loss"), _validation(metrics)
    lines = [
        Line(label="train", points=thin(train)),
        Line(label="validation", points=validation, dots=len(validation) <= MOST_DOTS),
    ]
    notes = []
    if len(train) > BUCKETS:
        notes.append("The curves are means of neighbouring steps, the bands reach from the least to the greatest.")
    if any(point.low < point.high for point in validation) and len(validation) < BUCKETS:
        notes.append("The band of validation is one standard error to either side.")
    if bad := sum(not math.isfinite(loss) for _, loss in train):
        notes.append(f"{bad:,} training losses are not finite and not drawn.")
    if train or validation:
        drawn = [line for line in lines if line.points]
        yield Chart(title="Loss, in nats per token", lines=drawn, x_label=STEP, note=" ".join(notes))
    if rates := series(metrics, "step", "lr"):
        yield _curve("Learning rate", rates, from_zero=True)
    if norms := series(metrics, "step", "grad_norm"):
        yield _curve("Norm of the gradient, before clipping", norms, log=True)
    if speeds := _speeds(metrics):
        yield _curve("Tokens per second", speeds, from_zero=True, note="From one line of the log to the next.")


def _validation(metrics: Sequence[Mapping[str, Any]]) -> list[Point]:
    errors = {step: error for step, error in series(metrics, "eval", "standard_error") if abs(error) < LARGEST}
    losses = series(metrics, "eval", "loss")
    if len(losses) > BUCKETS:  # too many for a band of each
        return thin(losses)
    return [
        Point(x=step, y=loss, low=loss - errors.get(step, 0), high=loss + errors.get(step, 0))
        for step, loss in losses
        if abs(loss) < LARGEST
    ]


def _speeds(metrics: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """Tokens per second between two lines of the log; the seconds begin again when a run is resumed."""
    tokens = dict(series(metrics, "step", "tokens"))
    times = [(step, seconds) for step, seconds in series(metrics, "step", "seconds") if step in tokens]
    return [
        (step, (tokens[step] - tokens[step_before]) / (seconds - seconds_before))
        for (step_before, seconds_before), (step, seconds) in pairwise(times)
        if seconds > seconds_before
    ]


def _curve(title: str, xy: Sequence[tuple[float, float]], **options: Any) -> Chart:
    return Chart(title=title, lines=[Line(label=title, points=thin(xy))], x_label=STEP, **options)


def diagnostic_charts(seen: Seen) -> Iterator[Chart]:
    """The charts of makemore part 3: how activations and gradients lie now, and what became of them over the steps.

    Args:
        seen: diagnoses with their steps, one at least, in order. Of more activations or weights than there are colours
            some are drawn, evenly spaced from the first to the last, and of the parameters only the matrices.
    """
    step, last = seen[-1]
    note = f"At step {step:,}."
    acts, weights = _some(last.activations), _some([row for row in last.parameters if len(row.shape) >= 2])
    if acts:
        yield _histograms("Activations, density", {row.name: row.values for row in acts}, note)
        yield _histograms("Gradients of the activations, density", {row.name: row.gradient for row in acts}, note)
        yield from _shares([(step, diagnosis.activations) for step, diagnosis in seen], acts)
    if weights:
        yield _histograms("Gradients of the weights, density", {row.name: row.gradient for row in weights}, note)
        yield from _ratios([(step, diagnosis.parameters) for step, diagnosis in seen], weights)


def _shares(rows: Sequence[tuple[int, Sequence[ActivationRow]]], acts: Sequence[ActivationRow]) -> Iterator[Chart]:
    yield Chart(
        title="Saturated activations, %",
        lines=_over_time(rows, acts, lambda row: 100 * row.saturated),
        x_label=STEP,
        note="The outputs where the slope is next to nothing, so that no gradient comes back: a tanh beyond .97.",
        from_zero=True,
    )
    yield Chart(
        title="Dead units, %",
        lines=_over_time(rows, acts, lambda row: 100 * row.dead),
        x_label=STEP,
        note="The units that are saturated on every example of the step.",
        from_zero=True,
    )


def _ratios(rows: Sequence[tuple[int, Sequence[ParameterRow]]], weights: Sequence[ParameterRow]) -> Iterator[Chart]:
    yield Chart(
        title="Update : data, log10 of the standard deviations",
        lines=_over_time(rows, weights, lambda row: row.log10_update_to_data),
        x_label=STEP,
        note="About -3, the dashed line, is healthy; far below it the weights learn slowly, far above they jump.",
        mark=-3.0,
    )
    yield Chart(
        title="Gradient : data, of the standard deviations",
        lines=_over_time(rows, weights, lambda row: row.grad_to_data),
        x_label=STEP,
        log=True,
    )


def _some(rows: Sequence[Row]) -> list[Row]:
    """As many rows as there are colours, evenly spaced from the first to the last."""
    if len(rows) <= COLOURS:
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / (COLOURS - 1))] for i in range(COLOURS)]


def _histograms(title: str, spreads: Mapping[str, Spread | None], note: str) -> Chart:
    lines = []
    for name, spread in spreads.items():
        if spread is not None and spread.histogram is not None:
            middles = [(low + high) / 2 for low, high in pairwise(spread.histogram.edges)]
            lines.append(Line(label=name, points=thin(zip(middles, spread.histogram.densities, strict=True))))
    return Chart(title=title, lines=lines, x_label="value", note=note, from_zero=True)


def _over_time(
    rows_at: Sequence[tuple[int, Sequence[Row]]], chosen: Sequence[Row], figure: Callable[[Row], float | None]
) -> list[Line]:
    """One line for each of the chosen rows, of those of its name; where there is no figure there is no point."""
    tables = [(step, {row.name: figure(row) for row in rows}) for step, rows in rows_at]
    return [
        Line(
            label=one.name,
            points=thin((step, value) for step, table in tables if (value := table.get(one.name)) is not None),
        )
        for one in chosen
    ]
