"""Tools of every style, for the tests."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from snakepit_bridge import BaseAdapter, BinaryResult, StreamChunk, ToolCancelled, tool

LOG: list[Any] = []
GATES: dict[str, threading.Event] = {}
_LOCK = threading.Lock()


def note(entry: Any) -> None:
    with _LOCK:
        LOG.append(entry)


class Tools(BaseAdapter):
    __thread_safe__ = True

    def initialize(self) -> None:
        self.initialized = True

    def cleanup(self) -> None:
        self.cleaned = True

    @tool
    def value(self, value: Any = None) -> Any:
        return value

    @tool
    def kind(self, value: Any) -> str:
        return f"{type(value).__name__}:{value!r}"

    @tool
    def log(self) -> list[Any]:
        return list(LOG)

    @tool
    def write(self, path: str) -> None:
        with open(path, "w") as file:
            file.write("written")

    @tool
    def by_dict(self, params: dict[str, Any]) -> Any:
        return sorted(params)

    @tool
    def context(self, ctx: Any) -> dict[str, Any]:
        return {
            "session_id": ctx.session_id,
            "own": self.session_id,
            "metadata": ctx.request_metadata,
            "correlation_id": ctx.correlation_id,
            "cancelled": ctx.cancelled,
            "has_deadline": ctx.deadline is not None,
            "initialized": self.initialized,
        }

    @tool
    async def coroutine(self, value: int) -> int:
        await asyncio.sleep(0)
        return value + 1

    async def execute_old_style(self, args: dict[str, Any]) -> Any:
        return {"old": args}

    def with_ctx(self, ctx: Any, batch_size: int) -> Any:
        return {"batch_size": batch_size, "session": ctx.session_id}

    def not_a_tool(self) -> str:
        return "must not be called"

    # ---- streams ----------------------------------------------------------

    @tool
    async def async_stream(self, count: int) -> Any:
        for n in range(count):
            await asyncio.sleep(0)
            yield n

    @tool
    def plain_list(self) -> Any:
        return ["a", "b"]

    @tool
    def reader(self) -> Any:
        """Data that happens to be an iterator."""
        return Reader()

    @tool
    def made_generator(self) -> Any:
        return (n for n in range(2))

    @tool(supports_streaming=True)
    def declared_iterator(self) -> Any:
        return iter([1, 2])

    @tool(supports_streaming=True)
    def declared_value(self) -> Any:
        return {"not": "iterated"}

    @tool(supports_streaming=True)
    def chunks(self) -> Any:
        yield StreamChunk(b"\x00raw", metadata={"n": 1})
        yield "text"
        yield None
        yield StreamChunk({"last": True}, is_final=True)
        note("after final")

    @tool(supports_streaming=True)
    def unserializable_chunk(self) -> Any:
        yield {"lock": threading.Lock()}

    @tool(supports_streaming=True)
    def fails_later(self) -> Any:
        yield 1
        raise KeyError("later" * 5000)

    @tool(supports_streaming=True)
    def many(self, count: int) -> Any:
        for n in range(count):
            yield {"n": n, "text": "x" * 100}

    # ---- things that last ---------------------------------------------------

    @tool(supports_streaming=True)
    def sleeper(self) -> Any:
        """Says that it runs, then sleeps in a system call."""
        yield {"started": True}
        time.sleep(3600)

    @tool(supports_streaming=True)
    def spinner(self) -> Any:
        yield {"started": True}
        while True:
            pass

    @tool(supports_streaming=True)
    async def async_sleeper(self) -> Any:
        yield {"started": True}
        await asyncio.sleep(3600)

    @tool(supports_streaming=True)
    async def async_spinner(self) -> Any:
        yield {"started": True}
        while True:
            pass

    @tool(supports_streaming=True)
    def stubborn(self) -> Any:
        """Does not give in."""
        yield {"started": True}
        while True:
            try:
                time.sleep(3600)
            except BaseException:
                note("stubborn")

    @tool
    def unary_sleeper(self, started: str) -> None:
        try:
            self.write(started)
            time.sleep(3600)
        except BaseException as error:
            note(["unary_sleeper", type(error).__name__])
            raise

    @tool
    async def async_unary_sleeper(self, started: str) -> None:
        try:
            self.write(started)
            await asyncio.sleep(3600)
        except BaseException as error:
            note(["async_unary_sleeper", type(error).__name__])
            raise

    @tool
    def swallows_exceptions(self, started: str) -> None:
        self.write(started)
        while True:
            try:
                time.sleep(3600)
            except Exception:
                note("swallowed")

    @tool(supports_streaming=True)
    def gated(self, name: str) -> Any:
        """Runs until ``open_gate``; one thread is enough to hold a lane."""
        gate = GATES.setdefault(name, threading.Event())
        yield {"started": True}
        gate.wait(60)
        note(["gate", name])

    @tool
    def overlap(self, n: int) -> Any:
        note(["enter", n])
        sum(range(20000))
        note(["exit", n])
        return n

    @tool
    def meet(self, name: str, parties: int) -> Any:
        """Returns only when that many calls run at the same time."""
        with _LOCK:
            barrier = _BARRIERS.setdefault(name, threading.Barrier(parties))
        barrier.wait(60)
        return threading.current_thread().name

    @tool
    def thread_name(self) -> str:
        return threading.current_thread().name

    @tool
    def processes(self, count: int) -> list[int]:
        command = [sys.executable, "-S", "-c", ""]
        return [subprocess.run(command, check=False).returncode for _ in range(count)]

    @tool
    def forks(self) -> int:
        child = os.fork()
        if child == 0:
            os._exit(7)
        return os.waitpid(child, 0)[1] >> 8

    @tool
    def terminated_child(self) -> Any:
        child = os.fork()
        if child == 0:
            time.sleep(3600)
            os._exit(0)
        os.kill(child, signal.SIGTERM)
        return os.waitpid(child, 0)[1]

    # ---- errors -------------------------------------------------------------

    @tool
    def raises(self, kind: str) -> None:
        if kind == "unprintable":
            raise Unprintable
        if kind == "chained":
            try:
                raise KeyError("inner")
            except KeyError as error:
                raise RuntimeError("outer") from error
        if kind == "exit":
            raise SystemExit(7)
        if kind == "surrogate":
            raise ValueError("bad \udc80 text")
        if kind == "cancelled":
            raise ToolCancelled("not really")
        raise ModuleNotFoundError("no module", name="none")

    @tool
    def leaves(self, code: int) -> None:
        os._exit(code)

    @tool
    def binary(self, data: bytes) -> Any:
        return BinaryResult(data[::-1], {"size": len(data)})

    @tool
    def binary_only(self) -> Any:
        return BinaryResult(b"\x00\x01")

    @tool
    def surrogate(self) -> str:
        return "\udc80"

    @tool
    def recursive(self) -> Any:
        value: list[Any] = []
        value.append(value)
        return value


_BARRIERS: dict[str, threading.Barrier] = {}


class Reader:
    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        raise AssertionError("must not be read")

    def to_dict(self) -> dict[str, Any]:
        return {"rows": 3}


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__
