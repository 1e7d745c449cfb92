"""The log of a run as TensorBoard reads it, beside `metrics.jsonl`, which stays the truth."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from bpetok.errors import MissingExtraError


@final
class TensorBoardWriter:
    """Writes the lines of a run's log as TensorBoard's scalars and texts.

    A line `{"event": "step", "step": 7, "loss": 3.2, ...}` becomes the scalars `step/loss`, ... at step 7; a text
    becomes a text. Close it, or use it in a `with`.

    Args:
        folder: where the event files go, `run/tensorboard`; made if it is not there.
        step: updates made before. What a call before wrote of later steps is then no longer shown, so that a resumed
            run's curves are an unbroken run's.

    Raises:
        MissingExtraError: if tensorboard is not installed.
    """

    def __init__(self, folder: Path, *, step: int = 0) -> None:
        """Begins a new event file."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError("lm", hint="or leave it out: --set run.tensorboard=false") from error
        # Lines of the step itself are kept; those behind it come again.
        purge_step = step + 1 if folder.exists() else None
        self._writer: Any = SummaryWriter(str(folder), purge_step=purge_step)

    def __enter__(self) -> "TensorBoardWriter":
        """Itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Closes the file."""
        self.close()

    def write(self, metric: Mapping[str, object]) -> None:
        """Adds a line of the log, as `lm.run.append_metric` takes it; what is neither number nor text is left out."""
        event, step = metric["event"], metric["step"]
        for key, value in metric.items():
            if key in ("event", "step") or isinstance(value, bool):
                continue
            if isinstance(value, int | float):
                self._writer.add_scalar(f"{event}/{key}", value, step)
            elif isinstance(value, str):
                # TensorBoard reads Markdown; indented, a text stands as it is.
                self._writer.add_text(f"{event}/{key}", "\n".join(f"    {line}" for line in value.split("\n")), step)

    def flush(self) -> None:
        """Puts all lines so far on disk; to be called with each checkpoint, and before a run ends."""
        self._writer.flush()

    def close(self) -> None:
        """Flushes, and ends the file."""
        self._writer.close()
