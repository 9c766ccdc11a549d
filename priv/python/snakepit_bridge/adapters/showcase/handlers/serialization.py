"""Values of every kind, and what becomes of those that cannot be sent."""

from __future__ import annotations

import datetime
import decimal
from collections import namedtuple
from typing import Any

from ....base_adapter import tool
from ....logging_config import get_logger

_log = get_logger(__name__)

_WHEN = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)
_Point = namedtuple("_Point", "x y")


class _Custom:
    def __repr__(self) -> str:
        return "Custom(api_key='sk-1234567890abcdef')"


class _Convertible:
    def to_dict(self) -> dict[str, Any]:
        return {"name": "convertible", "value": 42}


class SerializationTools:
    @tool("datetime, custom, convertible, mixed_list, complex or all")
    def serialization_demo(self, demo_type: str = "all") -> dict[str, Any]:
        demos: dict[str, Any] = {
            "datetime": _WHEN,
            "custom": _Custom(),
            "convertible": _Convertible(),
            "mixed_list": [1, 2.5, None, True, "text", (1, 2), b"\x00\xff", _WHEN, _Custom()],
            "complex": {
                "point": _Point(1, 2),
                "price": decimal.Decimal("1.50"),
                "nested": {"when": _WHEN.date(), "objects": [_Convertible(), _Custom()]},
            },
        }
        if demo_type == "all":
            return {"demo_type": "all", **demos}
        if demo_type not in demos:
            raise ValueError(
                f"unknown demo_type {demo_type!r}; known: all, {', '.join(sorted(demos))}"
            )
        return {"demo_type": demo_type, "data": demos[demo_type]}

    @tool("Sends bytes, tuples and dicts with other keys as they are")
    def exact_values(self, **_ignored: Any) -> dict[str, Any]:
        return {
            "bytes": b"\x00\xff",
            "tuple": (1, "two", 3.0),
            "map": {1: "one", None: "none"},
            "big": 2**200,
            "set": {3, 1, 2},
        }
