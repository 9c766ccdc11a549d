"""What a worker itself tells of its calls, when Elixir says that somebody listens."""

from __future__ import annotations

import json
import os
import time
from typing import Any, Optional

from .. import telemetry
from ..telemetry.backends.grpc import GrpcBackend
from ..telemetry.stream import TelemetryStream
from .calls import Call, Reply

# In a call's metadata, by letter.
_SPANS = {"c": "python.call", "t": "tool.execution"}


def attach(stream: TelemetryStream) -> None:
    """Events go there from now on; not those of processes that a tool forks."""
    telemetry.set_backend(GrpcBackend(stream))
    os.register_at_fork(after_in_child=lambda: telemetry.set_backend(None))


class Span:
    """The events around one call."""

    __slots__ = ("_about", "_names", "_started")

    def __init__(self, call: Call, wanted: str) -> None:
        self._names = [name for letter, name in _SPANS.items() if letter in wanted]
        self._about = {"tool": call.tool, "command": call.tool, "session_id": call.session_id}
        for name in self._names:
            telemetry.emit(f"{name}.start", {"system_time": time.time_ns()}, self._about)
        self._started = time.perf_counter_ns()

    def end(self, reply: Reply) -> None:
        duration = {"duration": time.perf_counter_ns() - self._started}
        how = "stop"
        if reply.error is not None:
            how = "exception"
            self._about.update(_failure(reply))
        for name in reversed(self._names):
            telemetry.emit(f"{name}.{how}", duration, self._about)


def begin(call: Call) -> Optional[Span]:
    """None when nobody listens."""
    wanted = call.metadata.get("telemetry")
    return Span(call, wanted) if wanted else None


def _failure(reply: Reply) -> dict[str, str]:
    if reply.cancelled or reply.error is None:
        return {"error_type": "cancelled", "error_message": "the call was cancelled"}
    try:
        report: Any = json.loads(reply.error)
        return {"error_type": str(report["type"]), "error_message": str(report["message"])}
    except (ValueError, KeyError, TypeError):
        return {"error_type": "error", "error_message": reply.error}
