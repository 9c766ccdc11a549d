"""Tools that run at the same time, in threads or in one event loop."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from snakepit_bridge import BaseAdapter, tool
from snakepit_bridge.base_adapter_threaded import ThreadSafeAdapter

# Nobody waits for longer than this for the others.
PATIENCE_S = 60


class Threads(ThreadSafeAdapter):
    """One for the process; several threads are in it at a time."""

    lifetime = "process"

    def __init__(self) -> None:
        super().__init__()
        self.meeting = threading.Barrier(4)
        self.count = 0

    @tool("Returns when four calls are here")
    def meet(self, name: str) -> str:
        self.meeting.wait(PATIENCE_S)
        return name

    @tool("Counts, and no two at a time")
    def add(self) -> int:
        with self.acquire_lock():
            self.count += 1
            return self.count


class Coroutines(BaseAdapter):
    """The same without threads: while one waits, others go on."""

    lifetime = "process"

    def __init__(self) -> None:
        self.here: list[str] = []
        self.complete = asyncio.Event()

    @tool("Returns when four calls are here")
    async def meet(self, ctx: Any, name: str) -> list[str]:
        self.here.append(name)
        if len(self.here) == 4:
            self.complete.set()
        await asyncio.wait_for(self.complete.wait(), PATIENCE_S)
        return [name, str(ctx.correlation_id)]
