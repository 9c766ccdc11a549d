"""Tools for an interpreter whose threads run at the same time."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any

from snakepit_bridge import tool
from snakepit_bridge.base_adapter_threaded import ThreadSafeAdapter

_arrived: set[int] = set()


class Tools(ThreadSafeAdapter):
    @tool
    def has_lock(self) -> bool:
        return bool(getattr(sys, "_is_gil_enabled", lambda: True)())

    @tool
    def spin_together(self, parties: int) -> int:
        """With a global lock the first one would spin for hours: nothing takes it away."""
        sys.setswitchinterval(10_000.0)
        _arrived.add(threading.get_ident())
        while len(_arrived) < parties:
            pass
        return threading.get_ident()

    @tool
    def echo(self, value: Any) -> Any:
        return value

    @tool
    def ask(self, ctx: Any, value: Any) -> Any:
        return ctx.call_elixir_tool("same", value=value)

    @tool
    def count(self, to: int) -> Iterator[int]:
        yield from range(to)

    @tool
    def total(self, inputs: Any) -> int:
        return sum(inputs)

    @tool
    def spin(self, path: str) -> None:
        with open(path, "w", encoding="utf-8"):
            pass
        while True:
            pass
