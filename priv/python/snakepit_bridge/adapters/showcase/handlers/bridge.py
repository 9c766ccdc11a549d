"""Calls back into Elixir."""

from __future__ import annotations

from typing import Any

from ....base_adapter import tool


class BridgeTools:
    @tool("Runs an Elixir tool and gives its result")
    def call_elixir_demo(self, ctx: Any, tool_name: str, **arguments: Any) -> dict[str, Any]:
        return {"tool": tool_name, "result": ctx.call_elixir_tool(tool_name, arguments)}

    @tool("The Elixir tools that this session may call")
    def list_elixir_tools(self, ctx: Any) -> dict[str, Any]:
        return {"tools": sorted(ctx.elixir_tools)}
