"""Adapters as written for the published package: with an execute_tool of their own."""

from __future__ import annotations

from typing import Any

from snakepit_bridge import BaseAdapter, tool

CALLS: list[str] = []


class PublishedAdapter:
    def __init__(self) -> None:
        CALLS.clear()
        CALLS.append("__init__")
        self.context: Any = None

    def set_session_context(self, context: Any) -> None:
        CALLS.append("set_session_context")
        self.context = context

    async def initialize(self) -> None:
        CALLS.append("initialize")

    def execute_tool(self, tool_name: str, arguments: dict[str, Any], context: Any) -> Any:
        CALLS.append("execute_tool")
        assert context is self.context
        if tool_name == "calls":
            return list(CALLS)
        if tool_name == "generator":
            return (n for n in range(arguments["count"]))
        if tool_name == "text":
            return "abc"
        raise ValueError(f"Unknown tool: {tool_name}")

    def cleanup(self) -> None:
        CALLS.append("cleanup")


class OverridingAdapter(BaseAdapter):
    """Adds to the dispatch of the base class."""

    def execute_tool(self, tool_name: str, arguments: dict[str, Any], context: Any) -> Any:
        if tool_name == "own":
            return {"own": True}
        return super().execute_tool(tool_name, arguments, context)

    @tool
    async def later(self, x: int) -> int:
        return x

    @tool(supports_streaming=True)
    def sends(self, stream: Any, n: int) -> Any:
        for i in range(n):
            stream.send(i)
        return "done"
