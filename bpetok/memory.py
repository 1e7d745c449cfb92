"""How much memory this process takes, in bytes."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def in_use() -> int:
    """What the process takes now; where the system does not tell, the most that it took so far."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return peak()


def peak() -> int:
    """The most that the process took so far; 0 where the system does not tell (Windows)."""
    try:
        import resource
    except ImportError:
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
