"""Tools for the tests of memory beside the ring."""

from __future__ import annotations

import copy
import ctypes
import gc
import hashlib
import mmap
import multiprocessing
import os
import pickle
import subprocess
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from local_tools import LocalTools

from snakepit_bridge import _native, tool

native: Any = _native.load()


def digest(data: Any) -> str:
    return hashlib.sha256(data).hexdigest()


class SegmentTools(LocalTools):
    kept: list[Any] = []
    programs: list[Any] = []

    # ---- what comes -----------------------------------------------------------

    @tool
    def look(self, data: Any) -> dict[str, Any]:
        return {
            "type": type(data).__name__,
            "bytes": isinstance(data, bytes),
            "shared": native.is_shared(data) if isinstance(data, bytes) else None,
            "size": len(data),
            "digest": digest(data.encode() if isinstance(data, str) else data),
        }

    @tool
    def look_at_all(self, items: list[Any]) -> list[Any]:
        return [[native.is_shared(i), digest(i)] for i in items]

    @tool
    def look_at_inputs(self, inputs: Any) -> list[Any]:
        return [[native.is_shared(i), digest(i)] for i in inputs]

    @tool
    def first_input(self, inputs: Any) -> str:
        return digest(next(iter(inputs)))

    @tool
    def same(self, first: Any, second: Any) -> bool:
        return first is second

    @tool
    def behaves(self, data: bytes) -> dict[str, Any]:
        """What may be done with bytes, beside the same with plain ones."""
        plain = bytes(data)
        view = memoryview(data)
        pickled = pickle.dumps(data)
        try:
            type(data)()
            made = True
        except TypeError:
            made = False
        return {
            "plain": type(plain).__name__,
            "equal": data == plain and hash(data) == hash(plain) and {data: 1}[plain] == 1,
            "slice": type(data[1:9]).__name__ + str(data[1:9] == plain[1:9]),
            "add": data + b"x" == plain + b"x" and data * 2 == plain * 2,
            "methods": data.find(b"z") == plain.find(b"z") and data.hex() == plain.hex(),
            "view": view.readonly and view == memoryview(plain),
            "ends_with_0": ctypes.string_at(ctypes.c_char_p(data), len(data) + 1)
            == plain + b"\0",
            "pickle": pickle.loads(pickled) == plain and len(pickled) < len(plain) + 100,
            "pickled_type": type(pickle.loads(pickled)).__name__,
            "copy": copy.copy(data) == plain and copy.deepcopy([data]) == [plain],
            "made": made,
            "size": data.__sizeof__() == plain.__sizeof__(),
            "format": b"%b" % data == plain,
        }

    # ---- keeping -----------------------------------------------------------------

    @tool
    def keep(self, data: Any) -> int:
        self.kept.append(data)
        return len(self.kept)

    @tool
    def kept_digests(self) -> list[str]:
        return [digest(d) for d in self.kept]

    @tool
    def drop(self) -> None:
        self.kept.clear()
        gc.collect()

    @tool
    def drop_on_a_thread(self) -> None:
        thread = threading.Thread(target=self.kept.clear)
        thread.start()
        thread.join()

    @tool
    def echo_kept(self) -> list[Any]:
        return self.kept

    @tool
    def stats(self) -> dict[str, int]:
        return dict(native.segment_stats())

    @tool
    def usage(self) -> dict[str, int]:
        """What is not to grow."""
        gc.collect()
        with open("/proc/self/maps", "rb") as maps:
            shared = sum(b"memfd:snakepit" in line for line in maps)
        return {
            "maps": shared,
            "descriptors": len(os.listdir("/proc/self/fd")),
            **native.segment_stats(),
        }

    # ---- what goes -----------------------------------------------------------------

    @tool
    def echo(self, data: Any) -> Any:
        return data

    @tool
    def make(self, kind: str, size: int) -> Any:
        data = bytes(range(256)) * (size // 256) + bytes(range(size % 256))
        if kind == "memoryview":
            return memoryview(b"...." + data)[4:]
        if kind == "strided":
            doubled = bytearray(2 * size)
            doubled[::2] = data
            return memoryview(doubled)[::2]
        if kind == "cast":
            return memoryview(data).cast("I")
        if kind == "mmap":
            memory = mmap.mmap(-1, size)
            memory.write(data)
            return memoryview(memory)
        if kind == "str":
            return data.decode("latin-1")
        return {"bytes": bytes, "bytearray": bytearray}[kind](data)

    @tool
    def make_many(self, count: int, size: int) -> list[bytes]:
        return [bytes([n % 251]) * size for n in range(count)]

    @tool
    def fails_late(self, size: int) -> Any:
        return [b"x" * size, object.__subclasses__, "\ud800"]

    @tool(supports_streaming=True)
    def frames(self, count: int, size: int) -> Any:
        for n in range(count):
            yield {"n": n, "pixels": bytes([n % 256]) * size}

    @tool
    def buffer(self, size: int, value: int, views: int = 1) -> Any:
        buffer = native.alloc(size)
        memoryview(buffer)[:] = bytes([value]) * size
        self.kept.append(buffer)
        return buffer if views == 1 else [memoryview(buffer) for _ in range(views)]

    @tool
    def part_of_buffer(self, size: int, start: int, end: int) -> Any:
        buffer = native.alloc(size)
        memoryview(buffer)[:] = bytes(n % 256 for n in range(size))
        return memoryview(buffer)[start:end]

    @tool
    def write_kept(self, value: int) -> dict[str, Any]:
        buffer = self.kept[-1]
        sealed = buffer.sealed
        memoryview(buffer)[:4] = bytes([value]) * 4
        return {"sealed": sealed, "nbytes": buffer.nbytes, "start": bytes(memoryview(buffer)[:8])}

    @tool
    def return_kept(self) -> Any:
        return self.kept[-1]

    @tool
    def temporary_buffers(self, count: int, size: int) -> list[Any]:
        """Each is gone before the next is made."""
        return [Temporary(n, size) for n in range(count)]

    # ---- forks ---------------------------------------------------------------------

    @tool
    def in_a_child(self, data: bytes) -> dict[str, Any]:
        """A forked child reads it, drops it and ends as usual."""
        context = multiprocessing.get_context("fork")
        receiver, sender = context.Pipe(False)

        def run() -> None:
            nonlocal data
            buffer = native.alloc(100_000)
            seen = {"digest": digest(data), "size": len(memoryview(buffer))}
            data = b""
            gc.collect()
            sender.send({**seen, **native.segment_stats()})

        process = context.Process(target=run)
        process.start()
        result: dict[str, Any] = receiver.recv()
        process.join()
        return {**result, "status": process.exitcode}

    @tool
    def child_that_stays(self, data: bytes, path: str) -> int:
        """A child that has inherited the bytes, and ends when ``path`` is opened."""
        pid = os.fork()
        if pid == 0:
            with open(path, "rb") as go:
                go.read()
            with open(path + ".seen", "w") as out:
                out.write(digest(data))
            os._exit(0)
        return pid

    @tool
    def program_that_stays(self, data: bytes) -> int:
        """A program that was started by a fork, as there is something to do before."""
        program = subprocess.Popen(["cat"], stdin=subprocess.PIPE, preexec_fn=lambda: None)
        self.programs.append(program)
        return len(data)

    @tool
    def end_program(self) -> int:
        program = self.programs.pop()
        program.communicate(b"")
        return program.wait()

    @tool
    def reap(self, pid: int) -> int:
        return os.waitpid(pid, 0)[1]


class Temporary(Mapping[str, Any]):
    """Its items are made when they are asked for."""

    def __init__(self, n: int, size: int) -> None:
        self.n = n
        self.size = size

    def __getitem__(self, key: str) -> Any:
        buffer = native.alloc(self.size)
        memoryview(buffer)[:] = bytes([self.n]) * self.size
        return buffer

    def __iter__(self) -> Iterator[str]:
        return iter(["data"])

    def __len__(self) -> int:
        return 1
