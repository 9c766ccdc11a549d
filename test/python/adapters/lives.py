"""Adapters of every lifetime; what their hooks do is written to a file."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any, Optional

from snakepit_bridge import BaseAdapter, tool
from snakepit_bridge.base_adapter_threaded import ThreadSafeAdapter

_LOCK = threading.Lock()
_COUNT = [0]
_BARRIERS: dict[str, threading.Barrier] = {}
_WAITING: dict[str, list[asyncio.Future[None]]] = {}


def note(what: str) -> None:
    with _LOCK, open(os.environ["LIVES_LOG"], "a") as file:
        file.write(what + "\n")


class _Life:
    session_id: Optional[str]

    def __init__(self) -> None:
        with _LOCK:
            _COUNT[0] += 1
            self.number = _COUNT[0]
        self.calls = 0
        note(f"init {self.number}")

    def initialize(self) -> None:
        if os.path.exists(os.environ["LIVES_LOG"] + ".fail"):
            raise RuntimeError("no model")
        note(f"initialize {self.number}")

    async def cleanup(self) -> None:
        await asyncio.sleep(0)
        note(f"cleanup {self.number}")

    @tool
    def count(self) -> list[Any]:
        self.calls += 1
        return [self.number, self.calls, self.session_id]

    @tool
    def fail(self) -> None:
        raise ValueError("failed")

    @tool
    def together(self, name: str, parties: int) -> list[Any]:
        """Of calls that run at the same time, each has a context of its own."""
        with _LOCK:
            barrier = _BARRIERS.setdefault(name, threading.Barrier(parties))
        before = self.session_id
        barrier.wait(60)
        return [self.number, before, self.session_id]

    @tool
    async def later(self, ctx: Any) -> bool:
        await asyncio.sleep(0)
        return self.session_id == str(ctx.session_id)


class _Coroutines(_Life):
    async def initialize(self) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        _Life.initialize(self)

    @tool
    async def together_async(self, name: str, parties: int) -> list[Any]:
        before = self.session_id
        waiting = _WAITING.setdefault(name, [])
        waiting.append(asyncio.get_running_loop().create_future())
        if len(waiting) == parties:
            for future in waiting:
                future.set_result(None)
        await waiting[-1]
        return [self.number, before, self.session_id]


class AsyncProcess(_Coroutines, BaseAdapter):
    lifetime = "process"


class AsyncSession(_Coroutines, BaseAdapter):
    lifetime = "session"


class Request(_Life, BaseAdapter):
    pass


class Session(_Life, BaseAdapter):
    lifetime = "session"
    max_sessions = 2


class ShortSession(_Life, BaseAdapter):
    lifetime = "session"
    session_ttl = 1e-9


class Process(_Life, BaseAdapter):
    lifetime = "process"


class Threads(_Life, ThreadSafeAdapter):
    lifetime = "process"


class Plain:
    """Inherits nothing."""

    lifetime = "process"

    def __init__(self) -> None:
        self.context: Any = None
        self.seen: list[str] = []

    def set_session_context(self, context: Any) -> None:
        self.context = context

    def execute_tool(self, tool_name: str, arguments: dict[str, Any], context: Any) -> Any:
        assert context is self.context
        self.seen.append(context.session_id)
        return self.seen


class Unknown(BaseAdapter):
    lifetime = "forever"


class OtherMeaning:
    lifetime = 30

    def execute_tool(self, tool_name: str, arguments: dict[str, Any], context: Any) -> Any:
        return tool_name


class BadLimit(BaseAdapter):
    lifetime = "session"
    max_sessions = 0
