"""Being asked to stop: Ctrl-C, SIGTERM and SIGHUP let the step be finished and a checkpoint be saved."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from lm.errors import Preempted


@contextmanager
def asked_to_stop() -> Iterator[list[signal.Signals]]:
    """A list that SIGINT, SIGTERM and SIGHUP are put in, in the order that they come.

    A second SIGINT acts at once, as it does elsewhere: somebody is impatient. Other signals after the first do nothing
    more, since whoever ends a job, Slurm, systemd or torchrun, often sends them twice. A signal that was ignored stays
    so (nohup).

    Only the main thread may set handlers; in another one the list stays empty, and the caller has its own
    ways.
    """
    received: list[signal.Signals] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    # None stands for a handler that was not set from Python; the default is the nearest that can be put back.
    before = {kind: signal.getsignal(kind) or signal.SIG_DFL for kind in _KINDS}

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(signal.Signals(number))
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, before[signal.SIGINT])

    for kind, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(kind, handle)
    try:
        yield received
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


# Windows has no SIGHUP.
_KINDS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]  # no HUP on Windows


def ending(kind: signal.Signals, step: int) -> BaseException:
    """What a run raises that was asked to stop and has saved its checkpoint after `step` updates."""
    if kind == signal.SIGINT:
        return KeyboardInterrupt(f"stopped after step {step}, checkpoint saved")
    return Preempted(
        f"train: stopped by {kind.name} after step {step}, checkpoint saved",
        hint="the same command with --resume goes on (lm quickstart does so by itself)",
    )
