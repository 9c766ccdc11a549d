"""Tools that take objects of their own worker."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any

from snakepit_bridge import BaseAdapter, tool
from snakepit_bridge.base_adapter_threaded import ThreadSafeAdapter


class _Tools:
    @tool
    def kind(self, value: Any) -> list[Any]:
        return [type(value).__name__, os.getpid()]

    @tool
    def total(self, model: Any, more: list[Any], named: dict[str, Any]) -> int:
        return int(model["a"] + sum(each["a"] for each in more) + named["deep"][0]["a"])

    @tool
    def same(self, a: Any, b: Any) -> bool:
        return a is b

    @tool(supports_streaming=True)
    def keys(self, model: Any) -> Iterator[dict[str, str]]:
        for key in sorted(model):
            yield {"data": key}

    @tool
    async def kind_async(self, value: Any) -> str:
        await asyncio.sleep(0)
        return type(value).__name__

    @tool
    def raw(self, **arguments: Any) -> Any:
        return arguments


class RefTools(_Tools, BaseAdapter):
    pass


class ThreadedRefTools(_Tools, ThreadSafeAdapter):
    pass
