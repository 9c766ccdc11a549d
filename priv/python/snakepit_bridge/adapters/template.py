"""A skeleton to start an adapter from: copy it and replace the tools."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..base_adapter import BaseAdapter, tool


class TemplateAdapter(BaseAdapter):
    """One object per request, unless ``lifetime`` is "session" or "process"."""

    def initialize(self) -> None:
        """Before the tool: open what it needs."""

    def cleanup(self) -> None:
        """After the tool, also when it failed: release what it used."""

    @tool("Answers")
    def ping(self, message: str = "pong", **_ignored: Any) -> dict[str, Any]:
        return {"status": "pong", "message": message}

    @tool("Gives the arguments back")
    def echo(self, params: dict[str, Any]) -> dict[str, Any]:
        return {"echoed": params}

    @tool("Says which session calls")
    def whoami(self, ctx: Any) -> dict[str, Any]:
        return {"session_id": ctx.session_id}

    @tool("Counts, one chunk for each number", supports_streaming=True)
    def count(self, to: int = 3) -> Iterator[dict[str, Any]]:
        for number in range(1, to + 1):
            yield {"number": number}
