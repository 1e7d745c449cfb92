"""Reports of a run: its page, and pictures drawn from its log."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bpetok.errors import DataError, MissingExtraError
from bpetok.files import write_atomically
from lm.charts import COLOURS, Chart
from lm.curves import diagnoses_in, diagnostic_charts
from lm.diagnostics import Diagnosis
from lm.reportpage import report_page
from lm.run import RunFolder, read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def write_report(run_dir: str | Path, output: Path | None = None) -> Path:
    """Writes the page of a run, from its log, its settings and its latest checkpoint.

    Args:
        run_dir: a folder that `lm.train` fills; the run may still be under way.
        output: where the page goes; `report.html` in the run's folder when left out.

    Returns:
        the page's path.

    Raises:
        CheckpointError: if the folder has no log, or a damaged one.
        DataError: if a diagnosis in the log is not as `Diagnosis.to_json` writes it.
    """
    folder = RunFolder(Path(run_dir))
    page = report_page(folder, read_metrics(folder))
    path = folder.path / "report.html" if output is None else output
    write_atomically(path, page.encode("utf-8", "backslashreplace"))  # a lone surrogate is no UTF-8
    return path


def loss_curve(run_dir: str | Path) -> Path:
    """Draws the training and validation losses over the steps into `loss.png` in the run's folder.

    Returns:
        the picture's path.

    Raises:
        CheckpointError: if the folder has no log, or a damaged one.
        DataError: if the log is empty.
        MissingExtraError: if matplotlib is not installed.
    """
    folder = RunFolder(Path(run_dir))
    metrics = read_metrics(folder)
    if not metrics:
        raise DataError(f"{folder.metrics}: the log must have a line or more, got none", hint="train the run first")
    figure = _figure(8, 5)
    axes = figure.add_subplot()
    for event, label, style in (("step", "train", "-"), ("eval", "validation", "o-")):
        points = [(metric["step"], metric["loss"]) for metric in metrics if metric["event"] == event]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label, markersize=4, linewidth=1)
    axes.set_xlabel("step (updates of the weights)")
    axes.set_ylabel("loss (nats per token)")
    axes.set_title(folder.path.resolve().name)
    axes.grid(alpha=0.3)
    axes.legend()
    path = folder.path / "loss.png"
    figure.savefig(path, dpi=120)
    return path


def write_pictures(run_dir: str | Path) -> list[Path]:
    """Draws `loss.png` and, where the run was diagnosed, `diagnostics.png` into the run's folder.

    Returns:
        the pictures' paths.

    Raises:
        CheckpointError: if the folder has no log, or a damaged one.
        DataError: if the log is empty, or a diagnosis in it is not as `Diagnosis.to_json` writes it.
        MissingExtraError: if matplotlib is not installed.
    """
    folder = RunFolder(Path(run_dir))
    pictures = [loss_curve(run_dir)]
    if seen := diagnoses_in(read_metrics(folder)):
        pictures.append(draw_diagnostics(seen, folder.path / "diagnostics.png"))
    return pictures


def draw_diagnostics(seen: Sequence[tuple[int, Diagnosis]], path: Path) -> Path:
    """Draws diagnoses as a PNG: the histograms of the last one, the shares and ratios over the steps.

    Args:
        seen: the diagnoses with their steps, in order; `lm.curves.diagnoses_in` finds them in a log.
        path: where the picture goes.

    Returns:
        the path.

    Raises:
        DataError: if there is no diagnosis, or it has neither activations nor weight matrices.
        MissingExtraError: if matplotlib is not installed.
    """
    charts = list(diagnostic_charts(seen)) if seen else []
    if not charts:
        raise DataError(
            "draw_diagnostics: seen must have a diagnosis of weights, got none", hint="--set run.diagnose_every=100"
        )
    rows = -(-len(charts) // 2)
    figure = _figure(13, 3.6 * rows)
    for i, chart in enumerate(charts, start=1):
        _draw(chart, figure.add_subplot(rows, 2, i))
    figure.savefig(path, dpi=110)
    return path


def _figure(width: float, height: float) -> "Figure":
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("lm") from error
    # Figure and canvas by themselves: pyplot would keep global state and choose a window system.
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _draw(chart: Chart, axes: "Axes") -> None:
    # matplotlib leaves what is not above 0 off a logarithmic axis, as the page does.
    for i, line in enumerate(chart.lines):
        xs, ys = [point.x for point in line.points], [point.y for point in line.points]
        axes.plot(xs, ys, label=line.label, linewidth=1, color=f"C{i % COLOURS}")
    if chart.mark is not None:
        axes.axhline(chart.mark, color="black", linestyle="--", linewidth=1)
    if chart.log and any(point.y > 0 for line in chart.lines for point in line.points):
        axes.set_yscale("log")
    if chart.from_zero:
        axes.set_ylim(bottom=0)
    axes.set_title(chart.title, fontsize=10)
    axes.set_xlabel(chart.x_label)
    axes.grid(alpha=0.3)
    if chart.lines:
        axes.legend(fontsize=7)
