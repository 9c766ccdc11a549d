"""Tools that show values and make some that Elixir has no word for."""

from __future__ import annotations

import array
import datetime
import decimal
import enum
import math
import uuid
from collections.abc import Iterator
from typing import Any

from snakepit_bridge import BaseAdapter, tool


class Colour(enum.Enum):
    RED = "red"
    ODD = (1, None)


_TOKYO = datetime.timezone(datetime.timedelta(hours=9))
_LOOP: list[Any] = []
_LOOP.append(_LOOP)
_DEEP: list[Any] = []
for _ in range(600):
    _DEEP = [_DEEP]

MADE: dict[str, Any] = {
    "array_f": array.array("f", [1.5, math.inf, -2.0]),
    "array_q": array.array("q", [-(2**63), 2**63 - 1]),
    "array_B": array.array("B", [0, 255]),
    "complex": 1 + 2j,
    "duplicate": {"a": 1, b"a": 2},
    "enum": [Colour.RED, Colour.ODD],
    "loop": _LOOP,
    "deep": _DEEP,
    "surrogate": "\ud800",
    "nan": [math.nan, math.inf, -math.inf],
    "timedelta": datetime.timedelta(seconds=1),
    "tokyo": datetime.datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=_TOKYO),
    "tokyo_time": datetime.time(1, 2, 3, tzinfo=_TOKYO),
    "uuid": uuid.UUID("12345678-1234-5678-1234-567812345678"),
    "decimal": decimal.Decimal("1.50"),
}


class ValueTools(BaseAdapter):
    @tool("Returns its argument")
    def echo(self, value: Any = None) -> Any:
        return value

    @tool("How Python shows its argument")
    def show(self, value: Any = None) -> str:
        return repr(value)

    @tool("One of the values above")
    def make(self, name: str) -> Any:
        return MADE[name]

    @tool("Returns its arguments")
    def all(self, **values: Any) -> Any:
        return values

    @tool("Each item as a chunk", supports_streaming=True)
    def chunks(self, items: list[Any]) -> Iterator[Any]:
        yield from items
