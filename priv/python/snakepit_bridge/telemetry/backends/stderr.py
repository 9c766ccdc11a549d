"""Events as lines, for a look without a BEAM."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import Any, Optional

from .base import TelemetryBackend

PREFIX = "TELEMETRY:"


class StderrBackend(TelemetryBackend):
    """``TELEMETRY:`` and JSON."""

    def emit(
        self,
        event: str,
        measurements: Mapping[str, Any],
        metadata: Optional[Mapping[str, Any]] = None,
        correlation_id: Optional[str] = None,
    ) -> None:
        line = {
            "event": event,
            "measurements": dict(measurements),
            "metadata": dict(metadata or {}),
            "timestamp_ns": time.time_ns(),
            "correlation_id": correlation_id or "",
        }
        sys.stderr.write(f"{PREFIX}{json.dumps(line, default=str)}\n")
        sys.stderr.flush()
