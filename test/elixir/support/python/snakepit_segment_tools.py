"""Tools for values that go beside the messages."""

from __future__ import annotations

import hashlib
import pathlib
import time
from collections.abc import Iterator
from typing import Any

from snakepit_bridge import BaseAdapter, tool, zero_copy

_KEPT: dict[str, Any] = {}


def _digest(value: Any) -> list[Any]:
    """What it is, how long, and a hash of it."""
    data = value.encode() if isinstance(value, str) else bytes(value)
    kind = "str" if isinstance(value, str) else "bytes"
    return [kind, len(data), hashlib.sha256(data).digest()]


class SegmentTools(BaseAdapter):
    @tool("Returns its argument")
    def echo(self, value: Any = None, **more: Any) -> Any:
        return value

    @tool("Nothing of it comes back")
    def length(self, value: Any) -> int:
        return len(value)

    @tool("A hash of each")
    def digests(self, values: list[Any]) -> list[Any]:
        return [_digest(v) for v in values]

    @tool("Keeps it under a name")
    def keep(self, name: str, value: Any) -> int:
        _KEPT[name] = value
        return len(value)

    @tool("What was kept, as a hash")
    def kept(self, name: str) -> list[Any]:
        return _digest(_KEPT[name])

    @tool("Lets go of it")
    def drop(self, name: str) -> None:
        del _KEPT[name]

    @tool("Bytes of a kind")
    def make(self, size: int, fill: int = 7, kind: str = "bytes") -> Any:
        data = bytes([fill]) * size
        if kind == "bytearray":
            return bytearray(data)
        if kind == "memoryview":
            return memoryview(data)
        if kind == "nested":
            return {"list": [data, {"inner": data}], "tuple": (data, 1)}
        return data

    @tool("Memory that is given again and again")
    def give(self, size: int) -> Any:
        name = f"given {size}"
        if name not in _KEPT:
            _KEPT[name] = zero_copy.empty(size)
        return _KEPT[name]

    @tool("Chunks of bytes")
    def chunks(self, count: int, size: int) -> Iterator[Any]:
        for i in range(count):
            yield {"n": i, "data": bytes([i % 256]) * size}

    @tool("Echoes its inputs")
    def echo_inputs(self, inputs: Any) -> Iterator[Any]:
        for value in inputs:
            yield {"value": value}

    @tool("Says that it has begun, and waits for more than that")
    def hold(self, path: str, value: Any = None) -> None:
        pathlib.Path(path + ".started").write_text("1")
        while not pathlib.Path(path + ".go").exists():
            time.sleep(0.01)
