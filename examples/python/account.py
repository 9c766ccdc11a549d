"""Tools that use their session: its variables, and tools written in Elixir."""

from __future__ import annotations

import asyncio
from typing import Any

from snakepit_bridge import BaseAdapter, tool


class Account(BaseAdapter):
    @tool("Declares what the session keeps")
    def begin(self, ctx: Any) -> str:
        ctx.register_variable("rate", "float", 0.5, {"min": 0.0, "max": 1.0})
        ctx["note"] = {"by": "Python"}
        return str(ctx.session_id)

    @tool("Reads and changes it")
    def raise_rate(self, ctx: Any, by: float) -> float:
        ctx["rate"] = ctx["rate"] + by
        return float(ctx["rate"])

    @tool("Calls Elixir in every form")
    async def convert(self, ctx: Any, cents: int) -> dict[str, Any]:
        one = ctx.call_elixir_tool("exchange", {"cents": cents, "to": "usd"})
        two = ctx.call_elixir_tool("exchange", cents=cents, to="gbp")
        three = ctx.elixir.exchange(cents=cents, to="jpy")
        both = await asyncio.gather(
            ctx.call_elixir_tool_async("exchange", cents=cents, to="usd"),
            ctx.elixir.exchange.call_async(cents=cents, to="gbp"),
        )
        return {"one by one": [one, two, three], "at once": both}

    @tool("What this call is")
    def about(self, ctx: Any) -> dict[str, Any]:
        ctx.logger.info("asked what this call is")
        return {
            "tools": sorted(ctx.elixir_tools),
            "variables": dict(ctx.variables),
            "correlation_id": ctx.correlation_id,
            "seconds left": round(ctx.remaining() or 0),
            "cancelled": ctx.cancelled,
        }
