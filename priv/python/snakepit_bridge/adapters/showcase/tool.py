"""Names that published adapters import from here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable

from ...streams import StreamChunk

__all__ = ["StreamChunk", "Tool"]


@dataclass(frozen=True)
class Tool:
    """A function with a name, for adapters that keep tables of tools."""

    name: str
    function: Callable[..., Any]
    description: str = ""
    supports_streaming: bool = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)
