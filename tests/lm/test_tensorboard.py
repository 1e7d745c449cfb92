import sys
from pathlib import Path
from typing import Any

import pytest

from bpetok.errors import MissingExtraError
from lm.tensorboard import TensorBoardWriter


def read(folder: Path) -> Any:
    """What TensorBoard itself reads of a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    return events


def step(number: int, loss: float) -> dict[str, object]:
    return {"event": "step", "step": number, "loss": loss, "lr": 1e-3, "compiled": True, "note": None}


def test_tensorboard_reads_the_numbers_and_texts_of_the_log(tmp_path: Path) -> None:
    with TensorBoardWriter(tmp_path / "tensorboard") as board:
        for number in (1, 2, 3):
            board.write(step(number, 4.0 / number))
        board.write({"event": "eval", "step": 3, "loss": 2.5, "tokens": 100, "standard_error": None})
        board.write({"event": "sample", "step": 3, "text": "To be,\nor # not"})
        board.write({"event": "diagnostics", "step": 3, "activations": [{"name": "x", "mean": 0.5}]})
    events = read(tmp_path / "tensorboard")
    assert sorted(events.Tags()["scalars"]) == ["eval/loss", "eval/tokens", "step/loss", "step/lr"]
    assert [(event.step, event.value) for event in events.Scalars("step/loss")] == [
        (1, 4.0),
        (2, 2.0),
        (3, pytest.approx(4 / 3)),
    ]
    assert events.Scalars("eval/tokens")[0].value == 100
    text = events.Tensors("sample/text/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text == "    To be,\n    or # not"


def test_a_resumed_runs_curve_is_an_unbroken_runs(tmp_path: Path) -> None:
    folder = tmp_path / "tensorboard"
    first = TensorBoardWriter(folder)
    for number in range(1, 6):
        first.write(step(number, 10.0 + number))
    first.flush()  # stopped here, two steps after the checkpoint of step 3
    with TensorBoardWriter(folder, step=3) as second:
        for number in range(4, 8):
            second.write(step(number, 20.0 + number))
    values = [(event.step, event.value) for event in read(folder).Scalars("step/loss")]
    assert values == [(1, 11.0), (2, 12.0), (3, 13.0), (4, 24.0), (5, 25.0), (6, 26.0), (7, 27.0)]
    first.close()


def test_what_was_flushed_can_be_read_while_the_run_goes_on(tmp_path: Path) -> None:
    board = TensorBoardWriter(tmp_path)
    board.write(step(1, 3.0))
    board.flush()
    assert [event.value for event in read(tmp_path).Scalars("step/loss")] == [3.0]
    board.close()


def test_without_tensorboard_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"bpetok\[lm\]: an optional package must be installed"):
        TensorBoardWriter(tmp_path)
