"""Tools that tests steer by files: no test depends on how long anything takes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

from snakepit_bridge import BaseAdapter, tool

_counter = 0


def _touch(path: str) -> None:
    with open(path, "a", encoding="utf-8"):
        pass


def _wait_for(path: str) -> None:
    while not os.path.exists(path):
        time.sleep(0.005)


class TestTools(BaseAdapter):
    @tool("The number of this process")
    def pid(self) -> int:
        return os.getpid()

    @tool("Returns its argument")
    def echo(self, value: Any = None) -> Any:
        return value

    @tool("Says its number in <path>.started, and returns when <path>.go is there")
    def hold(self, path: str) -> int:
        with open(path + ".tmp", "w", encoding="utf-8") as file:
            file.write(str(os.getpid()))
        os.rename(path + ".tmp", path + ".started")
        _wait_for(path + ".go")
        return os.getpid()

    @tool("Appends to a file that it ran")
    def note(self, path: str, text: str) -> None:
        with open(path, "a", encoding="utf-8") as file:
            file.write(text + "\n")

    @tool("Counts its calls in this process")
    def count(self) -> int:
        global _counter
        _counter += 1
        return _counter

    @tool("What the environment says")
    def env(self, name: str) -> Any:
        return os.environ.get(name)

    @tool("Counts from 0, and raises at fail_at", supports_streaming=True)
    def numbers(self, count: int, fail_at: int = -1) -> Iterator[dict[str, int]]:
        for i in range(count):
            if i == fail_at:
                raise ValueError(f"no {i}")
            yield {"n": i}

    @tool("Counts for ever; makes <path>.closed when it is stopped", supports_streaming=True)
    def endless(self, path: str) -> Iterator[dict[str, int]]:
        i = 0
        try:
            while True:
                yield {"n": i}
                i += 1
        finally:
            _touch(path + ".closed")

    @tool("Ends this process", supports_streaming=False)
    def end(self, status: int) -> None:
        os._exit(status)

    @tool("One chunk, then the end of this process", supports_streaming=True)
    def end_in_stream(self, status: int, path: str) -> Iterator[dict[str, int]]:
        yield {"n": 0}
        _wait_for(path + ".go")
        os._exit(status)


class ThreadedTestTools(TestTools):
    __thread_safe__ = True


if os.environ.get("SNAKEPIT_TEST_STUBBORN"):
    # Blocked, not ignored: whatever the worker installs, it never arrives.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
