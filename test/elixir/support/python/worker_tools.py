"""Adapters whose tools are known by themselves, and that live as long as sessions."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from snakepit_bridge import BaseAdapter, tool
from snakepit_bridge.base_adapter_threaded import ThreadSafeAdapter


class Shop(BaseAdapter):
    def __init__(self) -> None:
        self.made = True

    def __del__(self) -> None:
        assert self.made  # nobody looks at its tools by making half of one

    @tool(description="Adds")
    def sum_up(self, a: int, b: int = 1) -> list[int]:
        return [a + b, os.getpid()]

    @tool(supports_streaming=True)
    def countdown(self, n: int) -> Iterator[int]:
        yield from range(n, 0, -1)

    def execute_old(self, args: dict[str, Any]) -> dict[str, Any]:
        return args

    @tool
    def zählen(self) -> int:
        return 1


class Dispatches:
    """Published adapters are like that: what they have is not known."""

    def set_session_context(self, context: Any) -> None:
        pass

    def execute_tool(self, tool_name: str, arguments: dict[str, Any], context: Any) -> Any:
        return tool_name


_LOCK = threading.Lock()


class _Kept:
    session_id: Any

    def __init__(self) -> None:
        self.calls = 0

    def _note(self, what: str) -> None:
        with _LOCK, open(os.environ["KEPT_LOG"], "a") as file:
            file.write(f"{what}\n")

    @tool
    def count(self) -> int:
        self.calls += 1
        self.name = str(self.session_id)
        return self.calls

    @tool
    def hold(self, path: str) -> int:
        """Until there is a file ``path``.go."""
        self.name = str(self.session_id)
        Path(f"{path}.started").touch()
        while not Path(f"{path}.go").exists():
            time.sleep(0.002)
        return self.calls


class Kept(_Kept, BaseAdapter):
    lifetime = "session"

    def cleanup(self) -> None:
        self._note(self.name)


class KeptThreads(_Kept, ThreadSafeAdapter):
    lifetime = "session"

    def cleanup(self) -> None:
        self._note(self.name)


class KeptCoroutines(_Kept, BaseAdapter):
    lifetime = "session"

    @tool
    async def count_async(self) -> int:
        await asyncio.sleep(0)
        self.name = str(self.session_id)
        return 1

    async def cleanup(self) -> None:
        await asyncio.sleep(0)
        self._note(self.name)


class KeptDispatches(_Kept):
    """With its own dispatch, in coroutines."""

    lifetime = "session"

    def set_session_context(self, context: Any) -> None:
        self.session_id = context.session_id

    async def execute_tool(self, tool_name: str, arguments: dict[str, Any], context: Any) -> Any:
        await asyncio.sleep(0)
        return self.count()

    async def cleanup(self) -> None:
        self._note(self.name)
