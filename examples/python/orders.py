"""Tools that fail, and objects that have no form in Elixir."""

from __future__ import annotations

import datetime
import decimal
import threading
from typing import Any

from snakepit_bridge import BaseAdapter, tool


class OutOfStock(LookupError):
    def __init__(self, item: str, wanted: int, left: int) -> None:
        super().__init__(f"{item}: {wanted} wanted, {left} left")
        self.item = item
        self.wanted = wanted
        self.left = left


class Money:
    def __init__(self, cents: int) -> None:
        self.cents = cents

    def to_dict(self) -> dict[str, Any]:
        return {"cents": self.cents}


class Connection:
    def __repr__(self) -> str:
        return "Connection(host='db', password='hunter2')"


class Orders(BaseAdapter):
    @tool
    def order(self, item: str, count: int) -> None:
        try:
            {"tea": 1}[item]
        except KeyError as error:
            raise ValueError(f"no such item: {item}") from error
        raise OutOfStock(item, count, 1)

    @tool
    def load(self, module: str) -> None:
        __import__(module)

    @tool
    def objects(self) -> dict[str, Any]:
        return {
            "day": datetime.date(2024, 2, 29),
            "price": decimal.Decimal("1.50"),
            "pair": (1, "x"),
            "bytes": b"\x00\xff",
            "converted": Money(250),
            "lock": threading.Lock(),
            "connection": Connection(),
        }
