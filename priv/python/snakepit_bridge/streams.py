"""What streaming tools send."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any, Callable, Optional


class StreamChunk:
    """One item of a stream. ``metadata`` reaches the caller as text."""

    __slots__ = ("data", "is_final", "metadata")

    def __init__(
        self,
        data: Any,
        is_final: bool = False,
        metadata: Optional[Mapping[str, Any]] = None,
    ) -> None:
        self.data = data
        self.is_final = is_final
        self.metadata = metadata

    def __repr__(self) -> str:
        return f"StreamChunk(data={self.data!r}, is_final={self.is_final!r})"


class ToolStream:
    """Given to a tool that has a ``stream`` parameter.

    ``send`` waits while the receiver is behind, and raises ``ToolCancelled``
    when it is gone.
    """

    __slots__ = ("_emit", "_emit_async")

    def __init__(
        self, emit: Callable[[Any], None], emit_async: Callable[[Any], Awaitable[None]]
    ) -> None:
        self._emit = emit
        self._emit_async = emit_async

    def send(self, data: Any, metadata: Optional[Mapping[str, Any]] = None) -> None:
        self._emit(_with(data, metadata))

    async def send_async(self, data: Any, metadata: Optional[Mapping[str, Any]] = None) -> None:
        """The same for coroutines: others go on while it waits."""
        await self._emit_async(_with(data, metadata))


def _with(data: Any, metadata: Optional[Mapping[str, Any]]) -> Any:
    return StreamChunk(data, metadata=metadata) if metadata else data
