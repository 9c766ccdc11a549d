"""Events for the BEAM, over whichever carrier the worker has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

from ..stream import TelemetryStream
from .base import TelemetryBackend


class GrpcBackend(TelemetryBackend):
    """Puts events into a stream, from which the BEAM gets them."""

    def __init__(self, stream: TelemetryStream) -> None:
        self.stream = stream

    def emit(
        self,
        event: str,
        measurements: Mapping[str, Any],
        metadata: Optional[Mapping[str, Any]] = None,
        correlation_id: Optional[str] = None,
    ) -> None:
        self.stream.emit(event, measurements, metadata, correlation_id)

    def close(self) -> None:
        self.stream.close()
