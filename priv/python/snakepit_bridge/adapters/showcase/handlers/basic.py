"""Ping, echo, arithmetic, and what the adapter says of itself."""

from __future__ import annotations

import math
import os
import platform
import sys
import time
from typing import Any, Callable, Union

from .... import telemetry
from ....base_adapter import tool
from ....dispatch import tool_names
from . import usage

Number = Union[int, float]

_OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b,
    "power": lambda a, b: a**b,
    "sqrt": lambda a, _b: math.sqrt(a),
}


class BasicTools:
    @tool("Answers; any arguments are accepted")
    def ping(self, message: str = "pong", **_ignored: Any) -> dict[str, Any]:
        return {"status": "pong", "message": message, "timestamp": int(time.time())}

    @tool("Gives the arguments back")
    def echo(self, **arguments: Any) -> dict[str, Any]:
        return {"echoed": arguments}

    @tool("Adds two numbers")
    def add(self, a: Number, b: Number) -> dict[str, Any]:
        return {"result": a + b}

    @tool("add, subtract, multiply, divide, power or sqrt")
    def compute(self, operation: str, a: Number, b: Number = 0) -> dict[str, Any]:
        function = _OPERATIONS.get(operation)
        if function is None:
            known = ", ".join(sorted(_OPERATIONS))
            raise ValueError(f"unknown operation {operation!r}; known: {known}")
        return {"result": function(a, b)}

    @tool("What this adapter is and can do")
    def adapter_info(self, **_ignored: Any) -> dict[str, Any]:
        handlers = [base.__module__.rpartition(".")[2] for base in type(self).__mro__]
        return {
            "adapter_name": type(self).__name__,
            "version": "2.0.0",
            "capabilities": tool_names(self),
            "handlers": sorted(
                name
                for name in set(handlers)
                if name not in ("adapter", "base_adapter", "builtins")
            ),
        }

    @tool("The interpreter and its process")
    def info(self, **_ignored: Any) -> dict[str, Any]:
        return {
            "python_version": platform.python_version(),
            "implementation": platform.python_implementation(),
            "executable": sys.executable,
            "platform": platform.platform(),
            "pid": os.getpid(),
        }

    @tool("The adapter, and memory and CPU use of its process")
    def get_stats(self, **_ignored: Any) -> dict[str, Any]:
        return {
            "adapter": {
                "name": type(self).__name__,
                "version": "2.0.0",
                "tools": len(tool_names(self)),
            },
            "system": {
                "pid": os.getpid(),
                "python_version": platform.python_version(),
                "cpu_count": os.cpu_count(),
                "memory_mb": usage.memory_mb(),
                "memory_peak_mb": usage.peak_memory_mb(),
                "cpu_seconds": time.process_time(),
                "cpu_percent": usage.cpu_percent(),
                "uptime_seconds": usage.uptime(),
            },
        }

    @tool("Takes a moment, and tells of its memory")
    def telemetry_demo(self, operation: str = "demo", delay_ms: float = 10) -> dict[str, Any]:
        started = time.perf_counter()
        time.sleep(max(delay_ms, 0) / 1000)
        memory = int(usage.memory_mb() * 1024 * 1024)
        telemetry.emit("python.memory.sampled", {"rss_bytes": memory}, {"operation": operation})
        return {
            "operation": operation,
            "delay_ms": delay_ms,
            "duration_ms": (time.perf_counter() - started) * 1000,
            "pid": os.getpid(),
        }
