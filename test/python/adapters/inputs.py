"""Tools that read inputs."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

from snakepit_bridge import BaseAdapter, tool

_ended: list[str] = []


def _reads() -> bool:
    """Whether the thread that waits for an input has been made."""
    return any(thread.name.startswith("asyncio") for thread in threading.enumerate())


class Tools(BaseAdapter):
    @tool
    def total(self, inputs: Any) -> Any:
        try:
            return sum(inputs)
        except BaseException as error:
            _ended.append(type(error).__name__)
            raise

    @tool
    def each(self, inputs: Any) -> Iterator[Any]:
        yield from inputs

    @tool
    def ignores(self, inputs: Any) -> None:
        return None

    @tool
    def plain(self) -> None:
        return None

    @tool
    def plain_wait(self, inputs: Any) -> Iterator[Any]:
        yield 1
        while True:
            time.sleep(0.01)

    @tool
    def asks(self, inputs: Any) -> Any:
        value = next(inputs)
        while True:
            time.sleep(0.01)
        return value

    @tool
    async def leaves_a_wait(self, inputs: Any) -> str:
        """Nobody ever takes what another thread waits for."""
        task = asyncio.ensure_future(inputs.__anext__())
        while not task.done() and not _reads():
            await asyncio.sleep(0)
        return "left"

    @tool
    def last_end(self) -> str:
        return _ended[-1] if _ended else "none"
