"""An adapter that inherits nothing, as written for the published package."""

from __future__ import annotations

from typing import Any

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
