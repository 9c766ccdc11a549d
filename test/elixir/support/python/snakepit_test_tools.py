"""Tools that tests steer by files: no test depends on how long anything takes."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import ctypes
import hashlib
import itertools
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from snakepit_bridge import BaseAdapter, Inputs, telemetry, tool

_counter = 0
_held: list[bytes] = []
_importer = os.getpid()
# What keeps a process from being forked, kept until its end.
_unfit: list[Any] = []


def _become_unfit(how: str) -> None:
    if how == "thread":
        thread = threading.Thread(target=threading.Event().wait, daemon=True)
        thread.start()
        _unfit.append(thread)
    elif how == "socket":
        _unfit.append(socket.socket())
    elif how == "child":
        _unfit.append(subprocess.Popen(["sleep", "1000"]))
    elif how == "hang":
        print("about to hang", file=sys.stderr, flush=True)
        threading.Event().wait()


_become_unfit(os.environ.get("SNAKEPIT_TEST_UNFIT", ""))


def _touch(path: str) -> None:
    with open(path, "a", encoding="utf-8"):
        pass


def _wait_for(path: str) -> None:
    while not os.path.exists(path):
        time.sleep(0.005)


def _die_once(path: str, number: int, say: str) -> None:
    """A file remembers that it has happened; each call adds its process to it."""
    first = not os.path.exists(path)
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"{os.getpid()}\n")
    if first:
        # No core file is left.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        print(say, file=sys.stderr, flush=True)
        os.kill(os.getpid(), number)
        time.sleep(60)


class TestTools(BaseAdapter):
    @tool("The number of this process")
    def pid(self) -> int:
        return os.getpid()

    @tool("The process that imported this module: not this one when it was forked")
    def importer(self) -> int:
        return _importer

    @tool("Random numbers of all kinds")
    def random(self) -> dict[str, Any]:
        numbers = {"random": random.random(), "uuid": uuid.uuid4().hex, "os": os.urandom(8).hex()}
        numpy = sys.modules.get("numpy")
        if numpy is not None:
            numbers["numpy"] = float(numpy.random.random())
        return numbers

    @tool("Prints a line")
    def say(self, text: str) -> None:
        print(text)

    @tool("Whether a module has been imported")
    def imported(self, name: str) -> bool:
        return name in sys.modules

    @tool("Starts a daemon in a session of its own; its number")
    def daemon(self) -> int:
        script = "setsid sh -c 'trap \"\" TERM HUP; echo $$; exec sleep 1000 >&- 2>&-' &"
        return int(
            subprocess.run(["sh", "-c", script], stdout=subprocess.PIPE, check=True).stdout
        )

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

    @tool("Makes <path>.started, and stops for nothing but <path>.go")
    def stubborn(self, path: str) -> int:
        told = False
        while True:
            # All of it in here: nothing stops it once it has told.
            try:
                if not told:
                    _touch(path + ".started")
                    told = True
                elif os.path.exists(path + ".go"):
                    break
                time.sleep(0.005)
            except BaseException:
                pass
        return os.getpid()

    @tool("Makes <path>.started, then keeps the interpreter to itself for ever")
    def seize(self, path: str) -> None:
        # In C from there on: no exception comes in between.
        started = map(os.mkdir, [path + ".started"])
        collections.deque(itertools.chain(started, itertools.repeat(None)), maxlen=0)

    @tool("Appends to a file that it ran")
    def note(self, path: str, text: str) -> None:
        with open(path, "a", encoding="utf-8") as file:
            file.write(text + "\n")

    @tool("Tells of an event, so many times")
    def emit(
        self, event: str, measurements: Any = None, metadata: Any = None, times: int = 1
    ) -> None:
        for _ in range(times):
            telemetry.emit(event, measurements or {"count": 1}, metadata)

    @tool("The same from a span, which may fail")
    def spanned(self, operation: str, fail: bool = False) -> Any:
        with telemetry.span(operation, {"model": "m"}):
            if fail:
                raise ValueError("spanned")
        return telemetry.get_correlation_id()

    @tool("The share of these events that is sent")
    def rate_of(self, event: str) -> float:
        backend: Any = telemetry.get_backend()
        return float(backend.stream.rate_of(event))

    @tool("What was emitted while there was no room")
    def dropped(self) -> int:
        backend: Any = telemetry.get_backend()
        return int(backend.stream.dropped_count)

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

    @tool(
        "Makes <path>.started, counts for ever; makes <path>.closed when it is stopped",
        supports_streaming=True,
    )
    def endless(self, path: str, size: int = 0) -> Iterator[dict[str, Any]]:
        i = 0
        try:
            _touch(path + ".started")
            while True:
                yield {"n": i, "more": " " * size}
                i += 1
        finally:
            _touch(path + ".closed")

    @tool("Computes in C, without letting another thread in, for at least so long")
    def compute(self, seconds: float) -> int:
        n, took = 1_000_000, 0.0
        while took < 0.05:  # how much is much
            began = time.monotonic()
            sum(itertools.repeat(1, n))
            took = time.monotonic() - began
            n *= 2
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            n = int(n * max(seconds / took, 1) * 1.5)
            began = time.monotonic()
            sum(itertools.repeat(1, n))
            took = time.monotonic() - began
        return os.getpid()

    @tool("Waits in C for who writes to a FIFO, without letting another thread in")
    def wait_in_c(self, path: str) -> int:
        library = ctypes.PyDLL(None)
        os.close(library.open(path.encode(), os.O_RDONLY))
        return os.getpid()

    @tool("Makes <path>.started, and computes in C, letting others in, until <path>.go is there")
    def hash_until(self, path: str) -> int:
        _touch(path + ".started")
        while not os.path.exists(path + ".go"):
            hashlib.pbkdf2_hmac("sha256", b"x" * 64, b"salt", 20_000)
        return os.getpid()

    @tool("Waits for itself, in C, without letting another thread in")
    def deadlock(self, path: str) -> None:
        library = ctypes.PyDLL(None)
        mutex = ctypes.create_string_buffer(256)
        with open(path + ".started", "w", encoding="utf-8") as file:
            file.write(str(os.getpid()))
        while True:
            library.pthread_mutex_lock(mutex)

    @tool("Holds so much memory from now on")
    def hold_memory(self, megabytes: int) -> int:
        _held.append(b"x" * (megabytes * 1024 * 1024))
        return os.getpid()

    @tool("Ends this process", supports_streaming=False)
    def end(self, status: int) -> None:
        os._exit(status)

    @tool("One chunk, then the end of this process", supports_streaming=True)
    def end_in_stream(self, status: int, path: str) -> Iterator[dict[str, int]]:
        yield {"n": 0}
        _wait_for(path + ".go")
        os._exit(status)

    @tool("The first call ends this process by a signal, the others say its number")
    def die_once(
        self, path: str, number: int, say: str = "", idempotent: bool = False, inputs: Any = None
    ) -> int:
        _die_once(path, number, say)
        return os.getpid()

    @tool("Ends this process for the first of these files that is not there yet")
    def die_each(self, paths: list[str], number: int, idempotent: bool = False) -> int:
        for path in paths:
            if not os.path.exists(path):
                _die_once(path, number, "")
        return os.getpid()

    @tool("As die_once, after so many chunks", supports_streaming=True)
    def die_once_in_stream(
        self, path: str, number: int, chunks: int, idempotent: bool = False
    ) -> Iterator[dict[str, int]]:
        for n in range(chunks):
            yield {"n": n}
        if chunks:
            _wait_for(path + ".go")
        _die_once(path, number, "")
        yield {"n": os.getpid()}

    # ---- inputs -----------------------------------------------------------

    @tool("Adds its inputs")
    def sum_all(self, inputs: Any) -> Any:
        return sum(inputs)

    @tool("Adds its inputs, as a coroutine")
    async def sum_async(self, inputs: Any) -> Any:
        total = 0
        async for value in inputs:
            total += value
        return total

    @tool("Each input as it comes")
    def echo_inputs(self, inputs: Any, extra: Any = None) -> Iterator[Any]:
        for value in inputs:
            yield {"value": value, "extra": extra}

    @tool("The same as a coroutine")
    async def echo_async(self, inputs: Any) -> Any:
        async for value in inputs:
            yield {"value": value}

    @tool("Reads by the context", inputs=True)
    def count_by_context(self, ctx: Any) -> list[Any]:
        return [ctx.session_id, sum(1 for _ in ctx.inputs)]

    @tool("Its parameter has another name")
    def annotated(self, rows: Inputs) -> list[Any]:
        return list(rows)

    @tool("Reads one input after <path>.go is there, and says how many it read")
    def read_some(self, path: str, count: int, inputs: Any) -> list[Any]:
        _touch(path + ".started")
        _wait_for(path + ".go")
        return [next(inputs) for _ in range(count)]

    @tool("Reads for ever; <path>.closed says how that ended")
    def read_all(self, path: str, inputs: Any) -> int:
        count = 0
        try:
            for _ in inputs:
                count += 1
                _touch(path + f".{count}")
        except BaseException as error:
            with open(path + ".tmp", "w", encoding="utf-8") as file:
                file.write(type(error).__name__)
            os.rename(path + ".tmp", path + ".closed")
            raise
        return count

    @tool("The same as a coroutine")
    async def read_all_async(self, path: str, inputs: Any) -> int:
        count = 0
        try:
            async for _ in inputs:
                count += 1
                _touch(path + f".{count}")
        except BaseException as error:
            with open(path + ".tmp", "w", encoding="utf-8") as file:
                file.write(type(error).__name__)
            os.rename(path + ".tmp", path + ".closed")
            raise
        return count

    @tool("Raises at the third input")
    def fail_at_third(self, inputs: Any) -> Iterator[Any]:
        for n, value in enumerate(inputs):
            if n == 2:
                raise ValueError("no third")
            yield {"value": value}

    @tool("Reads, and stays at the end")
    def read_on(self, inputs: Any) -> list[Any]:
        values = list(inputs)
        return [values, list(inputs), next(inputs, "none")]

    @tool("The size of each")
    def sizes(self, inputs: Any) -> list[int]:
        return [len(value) for value in inputs]

    @tool("Two threads of its own read")
    def shared(self, inputs: Any) -> list[Any]:
        found: list[Any] = []
        threads = [threading.Thread(target=lambda: found.extend(inputs)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sorted(found)

    @tool("Waits for inputs beside other work")
    async def patient(self, inputs: Any) -> Any:
        ticks = 0
        pending = asyncio.ensure_future(inputs.__anext__())
        while not pending.done():
            ticks += 1
            await asyncio.sleep(0)
        return [await pending, ticks > 0]

    @tool("Gives up waiting, and loses nothing")
    async def impatient(self, path: str, inputs: Any) -> list[Any]:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(inputs.__anext__(), 0.01)
        _touch(path + ".started")
        return [value async for value in inputs]


class ThreadedTestTools(TestTools):
    __thread_safe__ = True


if os.environ.get("SNAKEPIT_TEST_STUBBORN"):
    # Blocked, not ignored: whatever the worker installs, it never arrives.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
