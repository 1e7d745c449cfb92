"""How many threads a call may use."""

from __future__ import annotations

import os
from typing import SupportsIndex


def checked_threads(num_threads: int) -> int:
    """The number itself.

    Raises:
        TypeError: it is no integer.
        ValueError: it is under 1.
    """
    if not isinstance(num_threads, SupportsIndex):
        raise TypeError(f"num_threads must be an int, got {num_threads!r}")
    if num_threads < 1:
        raise ValueError(f"num_threads must be at least 1, got {num_threads}")
    return num_threads


def threads_or_all(num_threads: int | None) -> int:
    """As `checked_threads`; where it is None, how many processors this process may use."""
    if num_threads is not None:
        return checked_threads(num_threads)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
