"""Tools that several calls run at a time: as threads, and as coroutines of one loop."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

from snakepit_bridge import BaseAdapter, tool
from snakepit_bridge.base_adapter_threaded import ThreadSafeAdapter

_lock = threading.Lock()
_here: dict[str, int] = {}
_most = 0
_running = 0
_who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")


def _arrive(name: str) -> None:
    with _lock:
        _here[name] = _here.get(name, 0) + 1


def _count(change: int) -> None:
    global _most, _running
    with _lock:
        _running += change
        _most = max(_most, _running)


def _touch(path: str) -> None:
    with open(path, "a", encoding="utf-8"):
        pass


class _Common:
    @tool("The number of this process")
    def pid(self) -> int:
        return os.getpid()

    @tool("The most calls that ran at a time")
    def most(self) -> int:
        return _most


class Threads(_Common, ThreadSafeAdapter):
    @tool("Returns when so many calls have come")
    def meet(self, name: str, parties: int) -> str:
        _count(1)  # before others see that it has come, and leave
        _arrive(name)
        while _here[name] < parties:
            threading.Event().wait(0.002)
        _count(-1)
        return threading.current_thread().name

    @tool("Items, each when so many calls have come", supports_streaming=True)
    def meet_in_stream(self, name: str, parties: int, count: int) -> Iterator[Any]:
        _arrive(name)
        for n in range(count):
            while _here[name] < parties:
                threading.Event().wait(0.002)
            yield {"n": n}

    @tool("Arrives, and fails when so many have")
    def fail(self, name: str, parties: int) -> None:
        self.meet(name, parties)
        raise ValueError("one of them")

    @tool("Makes <path>.started, lasts until it is cancelled, and makes <path>.cancelled")
    def last(self, name: str, path: str) -> None:
        _arrive(name)
        try:
            _touch(path + ".started")
            while True:
                threading.Event().wait(0.002)
        finally:
            _touch(path + ".cancelled")


class Coroutines(_Common, BaseAdapter):
    @tool("Returns when so many calls have come")
    async def meet(self, name: str, parties: int) -> str:
        _arrive(name)
        _count(1)
        while _here[name] < parties:
            await asyncio.sleep(0.002)
        _count(-1)
        return threading.current_thread().name

    @tool("Items, each when so many calls have come")
    async def meet_in_stream(self, name: str, parties: int, count: int) -> AsyncIterator[Any]:
        _arrive(name)
        for n in range(count):
            while _here[name] < parties:
                await asyncio.sleep(0.002)
            yield {"n": n}

    @tool("Arrives, and fails when so many have")
    async def fail(self, name: str, parties: int) -> None:
        await self.meet(name, parties)
        raise ValueError("one of them")

    @tool("Makes <path>.started, lasts until it is cancelled, and makes <path>.cancelled")
    async def last(self, name: str, path: str) -> None:
        _arrive(name)
        try:
            _touch(path + ".started")
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            _touch(path + ".cancelled")
            raise

    @tool("What the context says after so many calls have set theirs")
    async def who(self, name: str, parties: int, me: str) -> str:
        _who.set(me)
        await self.meet(name, parties)
        return _who.get()

    @tool("Elixir's answer, asked for when so many calls have come")
    async def ask(self, ctx: Any, name: str, parties: int, value: Any) -> Any:
        await self.meet(name, parties)
        return await ctx.call_elixir_tool_async("meet_again", value=value)

    @tool("Holds the main thread until so many calls have come")
    def hold_main(self, name: str, parties: int) -> str:
        while _here.get(name, 0) < parties:
            threading.Event().wait(0.002)
        return threading.current_thread().name

    @tool("Chunks for ever", supports_streaming=True)
    async def endless(self) -> AsyncIterator[Any]:
        n = 0
        while True:
            yield {"n": n, "text": "x" * 1000}
            n += 1
