"""Pictures of a run, drawn from its log."""

from pathlib import Path

from bpetok.errors import DataError, MissingExtraError
from lm.run import RunFolder, read_metrics


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
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("lm") from error
    # Figure and canvas by themselves: pyplot would keep global state and choose a window system.
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
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
