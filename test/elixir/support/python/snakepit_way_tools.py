"""Tools of zero_copy_ways_test.exs."""

from __future__ import annotations

import contextlib
import json
import resource
from collections.abc import AsyncIterator, Iterator
from typing import Any

from snakepit_bridge import BaseAdapter, BinaryResult, tool
from snakepit_bridge.base_adapter_threaded import ThreadSafeAdapter


def _data(kind: str, size: int) -> Any:
    data = b"\x81" * size
    if kind == "bytearray":
        return bytearray(data)
    if kind == "memoryview":
        return memoryview(data)
    if kind == "stepped":
        return memoryview(b"\x81\x00" * size)[::2]
    if kind == "str":
        return "ü" * (size // 2)
    if kind == "json":
        return json.dumps({"text": "x" * size})
    return data


@contextlib.contextmanager
def _without_descriptors(really: bool) -> Iterator[None]:
    """None is left to be opened."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if really:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


class WayTools(BaseAdapter):  # type: ignore[misc]
    @tool("Chunks that are nothing but bytes or text", supports_streaming=True)
    def raw(self, kinds: list[str], size: int, short: bool = False) -> Iterator[Any]:
        with _without_descriptors(short):
            for kind in kinds:
                yield _data(kind, size)

    @tool("What came, as chunks", supports_streaming=True)
    def back(self, values: list[bytes]) -> Iterator[Any]:
        yield from values

    @tool("The same as a coroutine", supports_streaming=True)
    async def back_async(self, values: list[bytes]) -> AsyncIterator[Any]:
        for value in values:
            yield value

    @tool("Bytes by themselves")
    def binary(self, size: int, metadata: Any = None) -> BinaryResult:
        return BinaryResult(b"\x81" * size, metadata)

    @tool("The argument by itself")
    def binary_of(self, value: bytes) -> BinaryResult:
        return BinaryResult(value)

    @tool("How long it is")
    def length(self, value: bytes) -> int:
        return len(value)

    @tool("What an Elixir tool makes of the argument")
    def through(self, ctx: Any, name: str, value: Any = None, times: int = 1) -> Any:
        results = [ctx.call_elixir_tool(name, {"value": value}) for _ in range(times)]
        return [[type(r).__mro__[-2].__name__, r] for r in results]

    @tool("The same of bytes that are made here: a number, or how long it is")
    def ask(self, ctx: Any, name: str, size: int, short: bool = False) -> int:
        value = b"\x81" * size
        with _without_descriptors(short):
            result = ctx.call_elixir_tool(name, {"value": value})
        return result if isinstance(result, int) else len(result)


class ThreadedWayTools(WayTools, ThreadSafeAdapter):  # type: ignore[misc]
    pass
