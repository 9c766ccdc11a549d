"""Tools that threads of one process run at the same time, on objects that they share."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any

from snakepit_bridge import tool
from snakepit_bridge.base_adapter_threaded import ThreadSafeAdapter

_shared: dict[str, Any] = {"list": [], "map": {}, "set": set()}


class StressTools(ThreadSafeAdapter):
    @tool
    def gil(self) -> bool:
        return bool(getattr(sys, "_is_gil_enabled", lambda: True)())

    @tool
    def value(self, value: Any) -> Any:
        return value

    @tool
    def changes(self, n: int) -> dict[str, Any]:
        """Others change what is being encoded."""
        _shared["list"].extend(str(i) for i in range(n % 7))
        _shared["map"][str(n)] = [n] * (n % 5)
        _shared["set"].add(n)
        if n % 3 == 0:
            del _shared["list"][: n % 50]
            _shared["map"].pop(next(iter(list(_shared["map"])), ""), None)
            _shared["set"].discard(n - 1)
        return _shared

    @tool
    def ask(self, ctx: Any, value: Any) -> Any:
        return ctx.call_elixir_tool("same", value=value)

    @tool
    async def ask_async(self, ctx: Any, value: Any) -> Any:
        return await ctx.call_elixir_tool_async("same", value=value)

    @tool
    def total(self, inputs: Any) -> int:
        return sum(inputs)

    @tool
    def count(self, to: int) -> Iterator[dict[str, Any]]:
        for n in range(to):
            yield {"n": n, "key": f"k{n}"}

    @tool(supports_streaming=True)
    def sends_from_threads(self, stream: Any, count: int) -> str:
        def send() -> None:
            for n in range(count):
                stream.send({"n": n})

        threads = [threading.Thread(target=send) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return "done"

    @tool
    def spins(self) -> None:
        while True:
            pass

    @tool
    def looks(self, ctx: Any) -> str:
        while not ctx.cancelled:
            pass
        return "seen"
