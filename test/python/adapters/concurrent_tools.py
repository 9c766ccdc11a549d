"""Tools for several calls at a time in one process."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import os
import signal
import threading
import time
from collections import deque
from typing import Any

from snakepit_bridge import BaseAdapter, tool
from snakepit_bridge.base_adapter_threaded import ThreadSafeAdapter, thread_safe_method

LOG: list[Any] = []
_here: dict[str, int] = {}
_who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")
_background: set[Any] = set()
_loops: set[int] = set()


def plain(function: Any) -> Any:
    """A decorator that hides that a function is a coroutine."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return call


class ConcurrentTools(BaseAdapter):
    __thread_safe__ = True

    def initialize(self) -> None:
        self.initialized_in = threading.current_thread().name

    def cleanup(self) -> None:
        LOG.append("cleanup")

    @tool
    def value(self, value: Any = None) -> Any:
        return value

    @tool
    def log(self) -> list[Any]:
        return list(LOG)

    @tool
    def thread_name(self) -> str:
        return threading.current_thread().name

    @tool
    async def loop_thread(self) -> list[str]:
        return [self.initialized_in, threading.current_thread().name]

    @tool
    async def same_loop(self) -> int:
        await asyncio.sleep(0)
        _loops.add(id(asyncio.get_running_loop()))
        return len(_loops)

    @tool
    async def meet(self, name: str, parties: int) -> str:
        _here[name] = _here.get(name, 0) + 1
        while _here[name] < parties:
            await asyncio.sleep(0.001)
        return name

    @tool
    @plain
    async def meet_hidden(self, name: str, parties: int) -> str:
        return await self.meet(name, parties)

    @tool
    async def who(self, name: str, parties: int, me: str) -> str:
        _who.set(me)
        await self.meet(name, parties)
        return _who.get()

    @tool
    def hold(self, path: str) -> str:
        """Not a coroutine; returns when the file is there."""
        self._touch(path + ".started")
        while not os.path.exists(path):
            time.sleep(0.001)
        return threading.current_thread().name

    @tool
    async def sleeps(self, path: str) -> None:
        self._touch(path)
        try:
            await asyncio.sleep(3600)
        except BaseException as error:
            LOG.append(type(error).__name__)
            raise

    @tool
    async def hangs(self, path: str) -> None:
        """Keeps the loop to itself."""
        self._touch(path)
        try:
            while True:
                pass
        except BaseException as error:
            LOG.append(type(error).__name__)
            raise

    @tool
    async def ends_late(self, path: str) -> str:
        """Takes its time when it is cancelled, and awaits meanwhile."""
        self._touch(path)
        try:
            await asyncio.sleep(3600)
        finally:
            for _ in range(3):
                await asyncio.sleep(0)
            LOG.append("ended late")
        return "not reached"

    @tool
    async def exits(self) -> None:
        raise SystemExit(7)

    @tool
    async def child_exits(self) -> str:
        async def leave() -> None:
            raise SystemExit(7)

        task = asyncio.ensure_future(leave())
        await asyncio.wait([task])
        return type(task.exception()).__name__

    @tool
    async def cancels_itself(self) -> None:
        raise asyncio.CancelledError

    @tool
    async def leaves_a_task(self, path: str) -> None:
        async def work() -> None:
            await asyncio.sleep(0.01)
            self._touch(path)

        task = asyncio.ensure_future(work())
        _background.add(task)
        task.add_done_callback(_background.discard)

    @tool(supports_streaming=True)
    async def many(self, count: int) -> Any:
        for n in range(count):
            yield {"n": n}

    @tool(supports_streaming=True)
    async def sends(self, stream: Any, count: int) -> Any:
        for n in range(count):
            await stream.send_async({"n": n})
        return {"sent": count}

    @tool(supports_streaming=True)
    @plain
    async def sends_hidden(self, stream: Any, count: int) -> Any:
        return await self.sends(stream, count)

    @tool(supports_streaming=True)
    async def gives_generator(self, count: int) -> Any:
        await asyncio.sleep(0)
        return ({"n": n} for n in range(count))

    @tool(supports_streaming=True)
    async def endless(self, path: str) -> Any:
        try:
            while True:
                yield {"text": "x" * 1000}
        finally:
            self._touch(path)

    @tool
    async def add_inputs(self, inputs: Any) -> int:
        total = 0
        async for value in inputs:
            total += value
        return total

    @tool
    async def ask(self, ctx: Any, name: str) -> Any:
        return await ctx.call_elixir_tool_async(name)

    @tool
    def python_call(self, python_module: str = "", function: str = "") -> str:
        return threading.current_thread().name

    @tool
    def terminate(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    @staticmethod
    def _touch(path: str) -> None:
        with open(path, "w", encoding="utf-8"):
            pass


class AsyncHooks(ConcurrentTools):
    async def initialize(self) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        self.initialized_in = threading.current_thread().name

    async def cleanup(self) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        LOG.append("async cleanup")

    @tool
    def hook_thread(self) -> str:
        return self.initialized_in


class Dispatches(BaseAdapter):
    """Brings its own way to its tools, which is a coroutine."""

    __thread_safe__ = True

    async def execute_tool(  # type: ignore[override]
        self, tool_name: str, arguments: dict[str, Any], context: Any
    ) -> Any:
        return await ConcurrentTools().meet(tool_name, arguments["parties"])


_seen: deque[int] = deque()


class Unsafe(ThreadSafeAdapter):
    """Says that it is thread-safe, and is not."""

    shared: list[int] = []

    @tool
    def meet(self, parties: int) -> int:
        _seen.append(1)
        while len(_seen) < parties:
            time.sleep(0.001)
        return len(_seen)

    @tool
    @thread_safe_method
    def declared(self) -> str:
        with self.acquire_lock():
            return str(len(_seen))


class Kept(ConcurrentTools):
    """One object for all calls of the process."""

    lifetime = "process"

    def __init__(self) -> None:
        self.begun = 0

    async def initialize(self) -> None:  # type: ignore[override]
        await asyncio.sleep(0.01)
        self.begun += 1

    async def cleanup(self) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        self._touch(os.environ["CLEANED_UP"])

    @tool
    async def session(self, name: str, parties: int) -> list[Any]:
        await self.meet(name, parties)
        return [self.begun, self.session_id]

    @tool
    def session_of_sync(self) -> list[Any]:
        return [self.begun, self.session_id]
