from pathlib import Path

import pytest

from lm.errors import CheckpointError
from lm.run import RunFolder, append_metric, cut_metrics, read_metrics


def test_lines_are_read_back_in_order_and_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for step in (0, 5, 10):
        append_metric(folder, {"event": "step", "step": step, "loss": step / 3})
    with folder.metrics.open("a", encoding="utf-8") as file:
        file.write('{"event": "st')
    assert [metric["step"] for metric in read_metrics(folder)] == [0, 5, 10]
    assert read_metrics(folder)[1]["loss"] == 5 / 3


def test_a_cut_log_ends_at_the_step_and_is_otherwise_byte_for_byte_the_same(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    append_metric(folder, {"event": "step", "step": 5, "loss": 0.1})
    before = folder.metrics.read_bytes()
    append_metric(folder, {"event": "step", "step": 6, "loss": 0.1})
    cut_metrics(folder, 5)
    assert folder.metrics.read_bytes() == before
    assert list(tmp_path.iterdir()) == [folder.metrics]


def test_a_missing_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"metrics.jsonl: the log must be there, got no file\nhint: is this"):
        read_metrics(RunFolder(tmp_path))


@pytest.mark.parametrize("line", ["{oops", "[1]", '{"event": "step"}', '{"step": "a"}'])
def test_a_damaged_line_is_refused_by_its_number(tmp_path: Path, line: str) -> None:
    folder = RunFolder(tmp_path)
    append_metric(folder, {"step": 1})
    with folder.metrics.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    with pytest.raises(CheckpointError, match=r"line 2 must be a JSON object with a step, got "):
        read_metrics(folder)
