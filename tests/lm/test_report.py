import sys
from pathlib import Path

import pytest

from bpetok.errors import DataError, MissingExtraError
from lm.report import loss_curve
from lm.run import RunFolder, append_metric


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path)
    append_metric(folder, {"event": "eval", "step": 0, "loss": 5.0})
    append_metric(folder, {"event": "step", "step": 1, "loss": 4.0})
    return folder


def test_the_curve_is_a_png_in_the_runs_folder(folder: RunFolder) -> None:
    path = loss_curve(folder.path)
    assert path == folder.path / "loss.png"
    assert path.read_bytes().startswith(b"\x89PNG")


def test_both_losses_and_both_axes_are_drawn(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    seen: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, dpi: seen.append(self))
    loss_curve(folder.path)
    (axes,) = seen[0].axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step (updates of the weights)", "loss (nats per token)")
    lines = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}
    assert lines == {"train": ([1], [4.0]), "validation": ([0], [5.0])}


def test_an_empty_log_is_refused(tmp_path: Path) -> None:
    RunFolder(tmp_path).metrics.write_text("", encoding="utf-8")
    with pytest.raises(DataError, match=r"the log must have a line or more, got none"):
        loss_curve(tmp_path)


def test_without_matplotlib_the_extra_is_named(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"bpetok\[lm\]"):
        loss_curve(folder.path)
