"""Work that takes time, in one thread or several."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ....base_adapter import tool
from . import usage


class ConcurrencyTools:
    @tool("Runs tasks in threads of this worker")
    def concurrent_demo(self, task_count: int = 4, work: int = 20_000) -> dict[str, Any]:
        if not 1 <= task_count <= 256:
            raise ValueError(f"task_count must be 1 to 256, not {task_count}")
        started = time.perf_counter()
        with ThreadPoolExecutor(max_workers=min(task_count, 16)) as pool:
            results = list(pool.map(lambda task: _task(task, work), range(task_count)))
        return {
            "task_count": task_count,
            "results": results,
            "threads_used": len({result["thread"] for result in results}),
            "total_ms": (time.perf_counter() - started) * 1000,
        }

    @tool("Computes for a while")
    def cpu_bound_task(self, task_id: Any = None, duration_ms: float = 100) -> dict[str, Any]:
        started = time.perf_counter()
        end = started + duration_ms / 1000
        iterations = 0
        while time.perf_counter() < end:
            iterations += 1
            sum(i * i for i in range(200))
        return {
            "task_id": task_id,
            "iterations": iterations,
            "duration_ms": (time.perf_counter() - started) * 1000,
            "worker_pid": str(os.getpid()),
        }

    @tool("Sleeps for a while")
    def sleep_task(self, duration_ms: float = 100, task_number: Any = None) -> dict[str, Any]:
        time.sleep(max(duration_ms, 0) / 1000)
        return {
            "task_number": task_number,
            "duration_ms": duration_ms,
            "worker_pid": str(os.getpid()),
        }

    @tool("A moment's work")
    def lightweight_task(self, iteration: int = 0) -> dict[str, Any]:
        return {"iteration": iteration, "result": sum(range(100)) + iteration}

    @tool("Memory and CPU of this worker")
    def get_pool_stats(self, **_ignored: Any) -> dict[str, Any]:
        return {
            "worker_pid": str(os.getpid()),
            "memory_mb": usage.memory_mb(),
            "cpu_percent": usage.cpu_percent(),
        }


def _task(task: int, work: int) -> dict[str, Any]:
    total = sum(i * i for i in range(work))
    return {"task": task, "result": total, "thread": threading.current_thread().name}
