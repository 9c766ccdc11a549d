"""An adapter whose description cannot be sent."""

from __future__ import annotations

from snakepit_bridge import BaseAdapter, tool


class Odd(BaseAdapter):
    @tool(description="a lone \ud800 surrogate")
    def one(self) -> int:
        return 1
