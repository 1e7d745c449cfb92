"""How much memory this process takes, in bytes."""

from __future__ import annotations

import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")  # of Linux; its ru_maxrss may be that of the program that started this one


def in_use() -> int:
    """What the process takes now; where the system does not tell, the most that it took so far."""
    return _status("VmRSS") if tells_now() else peak()


def tells_now() -> bool:
    """Whether the system tells what the process takes now, and not only the most that it took."""
    return _STATUS.exists()


def peak() -> int:
    """The most that the process took so far; 0 where the system does not tell (Windows)."""
    if _STATUS.exists():
        return _status("VmHWM")
    try:
        import resource
    except ImportError:
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def give_back() -> None:
    """Gives the system what was freed and is kept for later, where the C library can (glibc).

    It keeps what was freed in small pieces; a limit on the memory of a process counts that too.
    """
    import ctypes

    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # another C library; Windows
        return


def _status(name: str) -> int:
    lines = _STATUS.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
