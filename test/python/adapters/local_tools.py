"""Tools for the tests of the local carrier alone."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from typing import Any

from tools import Tools

from snakepit_bridge import tool


class LocalTools(Tools):
    @tool(supports_streaming=True)
    def blobs(self, count: int, size: int) -> Any:
        for _ in range(count):
            yield b"b" * size

    @tool
    def lets_others_in(self, path: str) -> str:
        with open(path, "rb"):
            return "opened"

    @tool
    def holds_the_interpreter(self, path: str) -> str:
        """Waits in C without giving the interpreter to anybody."""
        descriptor = ctypes.PyDLL(None).open(path.encode(), os.O_RDONLY)
        os.close(descriptor)
        return "opened"

    @tool
    def environment(self) -> list[str]:
        return sorted(os.environ)

    @tool
    def forks_a_child(self) -> int:
        pid = os.fork()
        if pid == 0:
            signal.pause()
            os._exit(0)
        return pid

    @tool
    def handles_usr1(self, path: str) -> None:
        signal.signal(signal.SIGUSR1, lambda *_: self.write(path))

    @tool(supports_streaming=True)
    def sends_from_threads(self, stream: Any, threads: int, count: int) -> str:
        def send() -> None:
            for n in range(count):
                stream.send([n][0])

        workers = [threading.Thread(target=send) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return "done"
