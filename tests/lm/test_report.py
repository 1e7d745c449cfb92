import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from bpetok.errors import DataError, MissingExtraError
from lm.diagnostics import Diagnosis, watch
from lm.report import draw_diagnostics, loss_curve, write_pictures
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


@pytest.fixture
def seen() -> list[tuple[int, Diagnosis]]:
    """Two diagnoses of a network in which one unit in four is dead."""
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    nn.init.constant_(model[0].weight[0], 0.0)
    nn.init.constant_(model[0].bias, -1.0)
    nn.init.eye_(model[0].weight[1:])
    diagnoses = []
    for step in (10, 20):
        with watch(model) as watching:
            model(torch.full((3, 4), 5.0)).sum().backward()
        diagnoses.append((step, watching.diagnose()))
    return diagnoses


def test_diagnoses_are_drawn_as_a_png(seen: list[tuple[int, Diagnosis]], tmp_path: Path) -> None:
    assert draw_diagnostics(seen, tmp_path / "diagnostics.png") == tmp_path / "diagnostics.png"
    assert (tmp_path / "diagnostics.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_of_diagnoses_has_histograms_shares_and_ratios_over_the_steps(
    seen: list[tuple[int, Diagnosis]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, dpi: drawn.append(self))
    draw_diagnostics(seen, tmp_path / "diagnostics.png")
    axes = {one.get_title().split(",")[0]: one for one in drawn[0].axes}
    assert list(axes) == [
        "Activations",
        "Gradients of the activations",
        "Saturated activations",
        "Dead units",
        "Gradients of the weights",
        "Update : data",
        "Gradient : data",
    ]
    (dead,) = axes["Dead units"].lines
    assert (list(dead.get_xdata()), list(dead.get_ydata())) == ([10, 20], [25, 25])
    # No update was made, so the mark alone is there.
    assert [list(line.get_ydata()) for line in axes["Update : data"].lines] == [[], [], [-3.0, -3.0]]
    assert axes["Gradient : data"].get_yscale() == "log"


def test_without_a_diagnosis_there_is_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="seen must have a diagnosis of weights, got none"):
        draw_diagnostics([], tmp_path / "diagnostics.png")


def test_the_pictures_of_a_run_lie_in_its_folder(folder: RunFolder, seen: list[tuple[int, Diagnosis]]) -> None:
    assert write_pictures(folder.path) == [folder.path / "loss.png"]
    for step, diagnosis in seen:
        append_metric(folder, {"event": "diagnostics", "step": step, **diagnosis.to_json()})
    assert write_pictures(folder.path) == [folder.path / "loss.png", folder.path / "diagnostics.png"]
    assert (folder.path / "diagnostics.png").read_bytes().startswith(b"\x89PNG")
