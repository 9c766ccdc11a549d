"""The tools of the bench: those of the showcase, and what figures need beside."""

from __future__ import annotations

import collections
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

from snakepit_bridge import zero_copy
from snakepit_bridge.adapters.showcase.adapter import ShowcaseAdapter
from snakepit_bridge.base_adapter import tool

_made: dict[int, Any] = {}
_filled: list[Any] = []


def _kept(key: int, make: Callable[[], Any]) -> Any:
    if key not in _made:
        _made.clear()
        _made[key] = make()
    return _made[key]


class BenchTools(ShowcaseAdapter):
    @tool("Gives bytes back as they came")
    def echo_bytes(self, data: bytes) -> bytes:
        return data

    @tool("Gives any value back")
    def echo_value(self, value: Any) -> Any:
        return value

    @tool("Counts its inputs")
    def count_inputs(self, inputs: Any) -> int:
        return sum(1 for _ in inputs)

    @tool("Gives each input back")
    def echo_inputs(self, inputs: Any) -> Iterator[Any]:
        yield from inputs

    @tool("The size of its argument")
    def take(self, data: Any) -> int:
        return len(data)

    @tool("Memory that was allocated to be handed over")
    def give(self, size: int) -> Any:
        return _kept(size, lambda: zero_copy.empty(size))

    @tool("Fills memory that is to be handed over; the microseconds that it took")
    def fill(self, size: int) -> float:
        memory = zero_copy.empty(size)
        start = time.perf_counter()
        memory[:] = 0x81
        taken = time.perf_counter() - start
        _filled[:] = [memory]
        return taken * 1e6

    @tool("The memory that was filled, once")
    def give_filled(self) -> Any:
        return _filled.pop()

    @tool("Any bytes")
    def give_bytes(self, size: int) -> Any:
        return _kept(-size, lambda: b"\x81" * size)

    @tool("Frames, each in memory of its own", supports_streaming=True)
    def frames(self, count: int, size: int) -> Iterator[dict[str, Any]]:
        for number in range(count):
            frame = zero_copy.empty(size)
            frame[::4096] = number % 256
            yield {"frame": frame}

    @tool("Waits")
    def wait_ms(self, ms: int) -> None:
        time.sleep(ms / 1000)

    @tool("Lets no other bytecode run for about so long")
    def keep_interpreter(self, ms: int) -> None:
        until = time.perf_counter() + ms / 1000
        while time.perf_counter() < until:
            # One call in C, in which nobody can interrupt.
            collections.deque(itertools.repeat(None, 20_000_000), maxlen=0)

    @tool("Calls an Elixir tool many times; the nanoseconds that each call took")
    def time_elixir_tool(self, ctx: Any, name: str, warm_up: int, budget_ms: int) -> list[int]:
        for _ in range(warm_up):
            ctx.call_elixir_tool(name, {})
        times: list[int] = []
        until = time.perf_counter_ns() + budget_ms * 1_000_000
        while not times or time.perf_counter_ns() < until:
            start = time.perf_counter_ns()
            ctx.call_elixir_tool(name, {})
            times.append(time.perf_counter_ns() - start)
        return times
