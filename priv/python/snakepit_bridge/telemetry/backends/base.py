"""What takes events."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Optional


class TelemetryBackend(ABC):
    """Called by any thread that emits; it should not wait."""

    @abstractmethod
    def emit(
        self,
        event: str,
        measurements: Mapping[str, Any],
        metadata: Optional[Mapping[str, Any]] = None,
        correlation_id: Optional[str] = None,
    ) -> None: ...

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Nothing more comes."""
