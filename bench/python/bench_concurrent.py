"""The tools of the bench for several calls at a time in one process."""

from __future__ import annotations

import asyncio
import hashlib

from snakepit_bridge import tool
from snakepit_bridge.base_adapter_threaded import ThreadSafeAdapter

_DATA = bytes(1 << 20)


class BenchConcurrent(ThreadSafeAdapter):
    @tool("Answers")
    def ping(self) -> str:
        return "pong"

    @tool("Answers, as a coroutine")
    async def ping_async(self) -> str:
        return "pong"

    @tool("Hashes so many MiB in C, which lets other threads compute")
    def digest(self, megabytes: int) -> str:
        digest = hashlib.sha256()
        for _ in range(megabytes):
            digest.update(_DATA)
        return digest.hexdigest()

    @tool("Sleeps as a coroutine")
    async def sleep_ms(self, ms: int) -> None:
        await asyncio.sleep(ms / 1000)
