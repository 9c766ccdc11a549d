"""One adapter, and every way to write a tool."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

from snakepit_bridge import BaseAdapter, tool

PRICES = {"tea": 250, "cup": 900, "pot": 2400}


class Shop(BaseAdapter):
    @tool("Named parameters")
    def price(self, item: str, count: int = 1) -> int:
        return PRICES[item] * count

    @tool("All parameters as one dict")
    def total(self, params: dict[str, Any]) -> int:
        return sum(PRICES[item] for item in params["items"])

    @tool("A coroutine")
    async def quote(self, item: str) -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"item": item, "price": PRICES[item]}

    async def execute_refund(self, args: dict[str, Any]) -> str:
        """A command in the style of the first versions."""
        return f"{PRICES[args['item']]} back"

    def greet(self, ctx: Any, name: str) -> str:
        """A tool because its first parameter is ``ctx``."""
        return f"{name}, in session {ctx.session_id}"

    @tool("A generator: one chunk for each item")
    def list_items(self) -> Iterator[dict[str, str]]:
        for item in PRICES:
            yield {"item": item}

    @tool("An asynchronous generator")
    async def list_prices(self) -> AsyncIterator[int]:
        for price in PRICES.values():
            await asyncio.sleep(0)
            yield price

    @tool("Sends chunks, and returns the last", supports_streaming=True)
    def pack(self, stream: Any, items: list[str]) -> dict[str, int]:
        for n, item in enumerate(items, 1):
            stream.send({"packed": item, "progress": 100 * n // len(items)})
        return {"parcels": 1}


class Model(BaseAdapter):
    """One instance for the process: what is loaded once stays."""

    lifetime = "process"

    def initialize(self) -> None:
        self.squares = {n: n * n for n in range(1000)}
        self.asked = 0

    @tool
    def square(self, n: int) -> dict[str, int]:
        self.asked += 1
        return {"square": self.squares[n], "asked": self.asked}


class Basket(BaseAdapter):
    """One instance for each session."""

    lifetime = "session"

    def __init__(self) -> None:
        self.items: list[str] = []

    @tool
    def put(self, item: str) -> list[str]:
        self.items.append(item)
        return self.items
