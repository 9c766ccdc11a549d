"""Tools that do to their own process what a process may suffer."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from typing import Any

from snakepit_test_tools import TestTools

from snakepit_bridge import tool


class FaultTools(TestTools):
    @tool("Its pid as this process sees it, and what holds it")
    def about(self) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "uid": os.getuid(),
            "nice": os.nice(0),
            "files": list(resource.getrlimit(resource.RLIMIT_NOFILE)),
            "cpus": sorted(os.sched_getaffinity(0)),
        }

    @tool("Starts a daemon with a child of its own, which may ignore SIGTERM")
    def daemon(self, stubborn: bool = False) -> list[int]:
        ignore = "trap '' TERM HUP INT;" if stubborn else ""
        script = f"({ignore} setsid sh -c 'echo $$; sleep 1000 & echo $!; wait' &)"
        with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE) as shell:
            assert shell.stdout is not None
            return [int(shell.stdout.readline()) for _ in range(2)]

    @tool("Takes memory and gives it back")
    def allocate(self, bytes: int) -> int:
        return len(bytearray(bytes))

    @tool("Takes processor time without an end")
    def burn(self) -> None:
        while True:
            pass

    @tool("Writes so many bytes to stdout, in lines")
    def flood(self, bytes: int) -> int:
        line = b"x" * 1023 + b"\n"
        for _ in range(bytes // len(line)):
            sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
        return bytes

    @tool("Closes all its descriptors, and waits")
    def close_all(self) -> None:
        os.closerange(0, 4096)
        while True:
            time.sleep(1)

    @tool("Becomes a daemon: this process ends, a detached child goes on")
    def daemonise(self, path: str) -> None:
        if os.fork() == 0:
            os.setsid()
            with open(path + ".tmp", "w", encoding="utf-8") as file:
                file.write(str(os.getpid()))
            os.rename(path + ".tmp", path)
            time.sleep(1000)
        while not os.path.exists(path):
            time.sleep(0.005)
        os._exit(0)

    @tool("Uses up its descriptors; says how many there were")
    def use_files(self) -> int:
        count = 0
        try:
            while True:
                os.dup(2)
                count += 1
        except OSError:
            return count

    @tool("Forks children that fork, all detached")
    def bomb(self, path: str, count: int) -> None:
        for _ in range(count):
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    os.setsid()
                with open(path, "a", encoding="utf-8") as file:
                    file.write(f"{os.getpid()}\n")
                time.sleep(1000)
