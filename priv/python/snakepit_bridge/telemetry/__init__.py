"""Events of tools for ``Snakepit.Telemetry`` in Elixir.

    from snakepit_bridge import telemetry

    telemetry.emit("python.memory.sampled", {"rss_bytes": 123_456})

    with telemetry.span("python.call", {"tool": "predict"}):
        ...

Where nothing takes them - outside of a worker - they cost a comparison. Which
events there are and how to let others through is in guides/telemetry.md.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Optional

from .backends.base import TelemetryBackend
from .correlation import (
    CORRELATION_HEADER,
    correlation_filter,
    get_correlation_id,
    new_correlation_id,
    outgoing_metadata,
    reset_correlation_id,
    set_correlation_id,
)

__all__ = [
    "CORRELATION_HEADER",
    "TelemetryBackend",
    "correlation_filter",
    "emit",
    "get_backend",
    "get_correlation_id",
    "is_enabled",
    "new_correlation_id",
    "outgoing_metadata",
    "reset_correlation_id",
    "set_backend",
    "set_correlation_id",
    "span",
]

_backend: Optional[TelemetryBackend] = None


def set_backend(backend: Optional[TelemetryBackend]) -> None:
    """Where events go from now on; None: nowhere."""
    global _backend
    _backend = backend


def get_backend() -> Optional[TelemetryBackend]:
    return _backend


def is_enabled() -> bool:
    """Whether events go anywhere."""
    return _backend is not None


def emit(
    event: str,
    measurements: Mapping[str, Any],
    metadata: Optional[Mapping[str, Any]] = None,
    correlation_id: Optional[str] = None,
) -> None:
    """Tells of ``event``, a dotted name. Never waits, and never raises for a backend.

    The correlation id is that of the call that runs, unless one is given.
    """
    backend = _backend
    if backend is None:
        return
    try:
        backend.emit(event, measurements, metadata, correlation_id or get_correlation_id())
    except Exception:  # a tool does not fail because it is watched
        return


@contextmanager
def span(
    operation: str,
    metadata: Optional[Mapping[str, Any]] = None,
    correlation_id: Optional[str] = None,
) -> Iterator[None]:
    """Tells ``<operation>.start``, and ``.stop`` or ``.exception``, with times in ns."""
    if _backend is None:
        yield
        return
    emit(f"{operation}.start", {"system_time": time.time_ns()}, metadata, correlation_id)
    started = time.perf_counter_ns()
    try:
        yield
    except BaseException as error:
        duration = {"duration": time.perf_counter_ns() - started}
        about = {
            **(metadata or {}),
            "error_type": type(error).__name__,
            "error_message": str(error),
        }
        emit(f"{operation}.exception", duration, about, correlation_id)
        raise
    duration = {"duration": time.perf_counter_ns() - started}
    emit(f"{operation}.stop", duration, metadata, correlation_id)
