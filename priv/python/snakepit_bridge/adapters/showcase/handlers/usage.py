"""Memory and CPU time of this process, without other packages."""

from __future__ import annotations

import os
import sys
import time

_STARTED = time.monotonic()
_CPU_AT_START = time.process_time()


def peak_memory_mb() -> float:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024) if sys.platform == "darwin" else peak / 1024


def memory_mb() -> float:
    """Resident now; the peak where the system does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            pages = int(file.read().split()[1])
    except (OSError, ValueError, IndexError):
        return peak_memory_mb()
    return pages * os.sysconf("SC_PAGE_SIZE") / (1024 * 1024)


def uptime() -> float:
    return time.monotonic() - _STARTED


def cpu_percent() -> float:
    """Of one CPU, on average since the adapter was imported."""
    elapsed = uptime()
    return 100.0 * (time.process_time() - _CPU_AT_START) / elapsed if elapsed > 0 else 0.0
