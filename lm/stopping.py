"""Being asked to stop: Ctrl-C and SIGTERM let the step be finished and a checkpoint be saved."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from lm.errors import Preempted


@contextmanager
def asked_to_stop() -> Iterator[list[signal.Signals]]:
    """A list that the first SIGINT or SIGTERM is put in; the second one acts at once, as it does elsewhere.

    Only the main thread may set handlers; in another one the list stays empty, and the caller has its own
    ways.
    """
    received: list[signal.Signals] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    # None stands for a handler that was not set from Python; the default is the nearest that can be put back.
    before = {kind: signal.getsignal(kind) or signal.SIG_DFL for kind in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(signal.Signals(number))
        put_back()

    def put_back() -> None:
        for kind, handler in before.items():
            signal.signal(kind, handler)

    for kind in before:
        signal.signal(kind, handle)
    try:
        yield received
    finally:
        put_back()


def ending(kind: signal.Signals, step: int) -> BaseException:
    """What a run raises that was asked to stop and has saved its checkpoint after `step` updates."""
    if kind == signal.SIGTERM:
        return Preempted(
            f"train: stopped by SIGTERM after step {step}, checkpoint saved",
            hint="go on with `lm train … --resume`, or with the same `lm quickstart`",
        )
    return KeyboardInterrupt(f"stopped after step {step}, checkpoint saved")
