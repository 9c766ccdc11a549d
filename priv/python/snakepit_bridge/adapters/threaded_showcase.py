"""Tools for the thread profile: several run at the same time in one process."""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, Optional

from ..base_adapter_threaded import ThreadSafeAdapter, thread_safe_method, tool

_HISTORY: deque[dict[str, Any]] = deque(maxlen=1000)
_CACHE: dict[Any, Any] = {}
_MATRIX = tuple(tuple(1.0 / (1 + i + j) for j in range(16)) for i in range(16))


class ThreadedShowcaseAdapter(ThreadSafeAdapter):
    """Shows the three patterns: shared read-only, thread-local, locked."""

    @tool("Answers, and says which thread it was")
    @thread_safe_method
    def ping(self, message: str = "pong", **_ignored: Any) -> dict[str, Any]:
        return {
            "status": "pong",
            "message": message,
            "thread": threading.current_thread().name,
            "pid": os.getpid(),
        }

    @tool("Computes over the data")
    @thread_safe_method
    def compute_intensive(
        self, data: Optional[list[float]] = None, iterations: int = 1000
    ) -> dict[str, Any]:
        values = tuple(data or (1.0, 2.0, 3.0))
        key = (values, iterations)
        with self.acquire_lock():
            cached = _CACHE.get(key)
        result = cached
        if result is None:
            result = 0.0
            for i in range(iterations):
                result += math.sin(values[i % len(values)] + i)
            with self.acquire_lock():
                _CACHE[key] = result
        self._remember("compute_intensive", iterations=iterations)
        return {"result": result, "cached": cached is not None, **_where()}

    @tool("A fixed matrix times the vector")
    @thread_safe_method
    def matrix_multiply(self, input_vector: list[float]) -> dict[str, Any]:
        size = len(_MATRIX)
        if len(input_vector) > size:
            raise ValueError(f"input_vector has more than {size} numbers")
        vector = [*input_vector, *([0.0] * (size - len(input_vector)))]
        result = [math.fsum(a * b for a, b in zip(row, vector)) for row in _MATRIX]
        self._remember("matrix_multiply", size=len(input_vector))
        return {"result": result, **_where()}

    @tool("One item after the other", supports_streaming=True)
    def batch_process(self, items: list[Any], delay_ms: float = 0.0) -> Iterator[dict[str, Any]]:
        for number, item in enumerate(items, 1):
            if delay_ms > 0:
                time.sleep(delay_ms / 1000)
            yield {"item": item, "progress": 100.0 * number / len(items), **_where()}
        self._remember("batch_process", items=len(items))

    @tool("Counters of this process")
    def get_adapter_stats(self, **_ignored: Any) -> dict[str, Any]:
        with self.acquire_lock():
            own = {"cache_size": len(_CACHE), "history_size": len(_HISTORY)}
        return {**self.get_stats(), **own, **_where()}

    @tool("Keeps one thread busy")
    @thread_safe_method
    def stress_test(self, duration_ms: float = 100, complexity: int = 100) -> dict[str, Any]:
        end = time.perf_counter() + duration_ms / 1000
        operations = 0
        while time.perf_counter() < end:
            math.fsum(math.sqrt(i) for i in range(complexity))
            operations += 1
        self._remember("stress_test", operations=operations)
        return {"operations": operations, "duration_ms": duration_ms, **_where()}

    @tool("Empties cache and history")
    def clear_caches(self, **_ignored: Any) -> dict[str, Any]:
        with self.acquire_lock():
            cleared = {"cache": len(_CACHE), "history": len(_HISTORY)}
            _CACHE.clear()
            _HISTORY.clear()
        return {"cleared": cleared}

    @tool("The last calls")
    def get_history(self, limit: int = 10) -> dict[str, Any]:
        with self.acquire_lock():
            entries = list(_HISTORY)
        return {"history": entries[-limit:] if limit > 0 else [], "total": len(entries)}

    def _remember(self, what: str, **details: Any) -> None:
        calls = self.get_thread_local("calls", 0) + 1
        self.set_thread_local("calls", calls)
        entry = {"tool": what, "calls_in_thread": calls, **details, **_where()}
        with self.acquire_lock():
            _HISTORY.append(entry)


def _where() -> dict[str, str]:
    return {"thread": threading.current_thread().name}
