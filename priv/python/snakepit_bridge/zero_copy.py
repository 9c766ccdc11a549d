"""Handles of data that lives on the other side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

ZERO_COPY_KEY = "__snakepit_zero_copy__"


@dataclass
class ZeroCopyRef:
    """The wire map of a zero-copy handle; ``payload`` is kept as it came."""

    payload: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> ZeroCopyRef:
        return cls(dict(payload))

    def to_payload(self) -> dict[str, Any]:
        known = {k: v for k, v in self.payload.items() if v is not None}
        return {**known, ZERO_COPY_KEY: True}

    @property
    def kind(self) -> Optional[str]:
        return self.payload.get("kind")

    @property
    def device(self) -> Optional[str]:
        return self.payload.get("device")

    @property
    def dtype(self) -> Optional[str]:
        return self.payload.get("dtype")

    @property
    def shape(self) -> Any:
        return self.payload.get("shape")

    @property
    def owner(self) -> Optional[str]:
        return self.payload.get("owner")

    @property
    def ref(self) -> Any:
        return self.payload.get("ref")

    @property
    def copy(self) -> bool:
        return bool(self.payload.get("copy", False))

    @property
    def bytes(self) -> Optional[int]:
        return self.payload.get("bytes")

    @property
    def metadata(self) -> dict[str, Any]:
        value = self.payload.get("metadata")
        return dict(value) if isinstance(value, Mapping) else {}
