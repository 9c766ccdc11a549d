"""What a worker itself tells of its calls, when Elixir says that somebody listens."""

from __future__ import annotations

import json
import os
import time
from typing import Any, Callable

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


def run(execute: Callable[[], Reply], call: Call, wanted: str) -> Reply:
    """The reply, with events around it."""
    spans = [name for letter, name in _SPANS.items() if letter in wanted]
    about = {"tool": call.tool, "command": call.tool, "session_id": call.session_id}
    for name in spans:
        telemetry.emit(f"{name}.start", {"system_time": time.time_ns()}, about)
    started = time.perf_counter_ns()
    reply = execute()
    duration = {"duration": time.perf_counter_ns() - started}
    how = "stop"
    if reply.error is not None:
        how = "exception"
        about.update(_failure(reply))
    for name in reversed(spans):
        telemetry.emit(f"{name}.{how}", duration, about)
    return reply


def _failure(reply: Reply) -> dict[str, str]:
    if reply.cancelled or reply.error is None:
        return {"error_type": "cancelled", "error_message": "the call was cancelled"}
    try:
        report: Any = json.loads(reply.error)
        return {"error_type": str(report["type"]), "error_message": str(report["message"])}
    except (ValueError, KeyError, TypeError):
        return {"error_type": "error", "error_message": reply.error}
