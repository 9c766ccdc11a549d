"""Tools that send many chunks."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Generator, Iterator
from typing import Any

from ....base_adapter import tool


class StreamingTools:
    @tool("Counted chunks, a delay (seconds) after each", supports_streaming=True)
    def stream_data(self, count: int = 5, delay: float = 0.0) -> Iterator[dict[str, Any]]:
        for index in range(count):
            yield {"index": index, "count": count, "value": index * index}
            _pause(delay)

    @tool("Heartbeat messages", supports_streaming=True)
    def ping_stream(self, count: int = 5, delay: float = 0.0) -> Iterator[dict[str, Any]]:
        for number in range(1, count + 1):
            yield {"message": f"ping {number}", "sequence": number, "timestamp": time.time()}
            _pause(delay)

    @tool("Progress of some steps", supports_streaming=True)
    def stream_progress(self, steps: int = 10, delay_ms: float = 0.0) -> Iterator[dict[str, Any]]:
        for step in range(1, steps + 1):
            _pause(delay_ms / 1000)
            yield {
                "step": step,
                "total": steps,
                "progress": 100.0 * step / steps,
                "message": f"step {step} of {steps}",
            }

    @tool("Fibonacci numbers", supports_streaming=True)
    def stream_fibonacci(self, count: int = 10) -> Iterator[dict[str, Any]]:
        a, b = 0, 1
        for index in range(count):
            yield {"index": index, "value": a}
            a, b = b, a + b

    @tool("Rows in chunks", supports_streaming=True)
    def generate_dataset(
        self, rows: int = 1000, chunk_size: int = 100
    ) -> Iterator[dict[str, Any]]:
        _check_chunk_size(chunk_size)
        source = random.Random(rows)
        for start in range(0, rows, chunk_size):
            end = min(start + chunk_size, rows)
            batch = [
                {"id": i, "x": source.random(), "y": source.random()} for i in range(start, end)
            ]
            yield {"rows": batch, "generated": end, "total": rows}

    @tool("Chunks until the caller stops", supports_streaming=True)
    def infinite_stream(self, delay_ms: float = 0.0) -> Iterator[dict[str, Any]]:
        for index in itertools.count():
            yield {"index": index, "timestamp": time.time()}
            _pause(delay_ms / 1000)

    @tool("Progress over a large number of rows", supports_streaming=True)
    def process_large_dataset(
        self,
        stream: Any,
        total_rows: int = 1000,
        chunk_size: int = 100,
        file_path: str = "",
        delay: float = 0.0,
    ) -> Any:
        from ....streams import StreamChunk

        _check_chunk_size(chunk_size)
        if file_path:
            total_rows = count_lines(file_path)
        started = time.perf_counter()
        for done in range(chunk_size, total_rows + chunk_size, chunk_size):
            done = min(done, total_rows)
            stream.send(
                {
                    "processed_rows": done,
                    "total_rows": total_rows,
                    "progress_percent": 100.0 * done / total_rows,
                }
            )
            _pause(delay)
        seconds = time.perf_counter() - started
        final = {"total_rows": total_rows, "processed_rows": total_rows, "seconds": seconds}
        stream.send(StreamChunk({"final_stats": final}, is_final=True))

    @tool("Progress over the records of a file", supports_streaming=True)
    def process_dataset(
        self, file_path: str = "", chunk_size: int = 100, total_records: int = 1000
    ) -> Generator[dict[str, Any], None, dict[str, Any]]:
        _check_chunk_size(chunk_size)
        total = count_lines(file_path) if file_path else total_records
        for start in range(0, total, chunk_size):
            done = min(start + chunk_size, total)
            yield {
                "progress": 100.0 * done / total,
                "records_processed": done,
                "total_records": total,
            }
        return {"total_processed": total}

    @tool("One item after the other", supports_streaming=True)
    def batch_process(self, stream: Any, items: list[Any]) -> dict[str, Any]:
        for number, item in enumerate(items, 1):
            stream.send({"progress": 100.0 * number / len(items), "item": item})
        return {"total": len(items)}

    @tool("Counts and findings of a log, in blocks of lines", supports_streaming=True)
    def tail_and_analyze(
        self, file_path: str = "", lines: Any = None, block: int = 100
    ) -> Generator[dict[str, Any], None, dict[str, Any]]:
        _check_chunk_size(block)
        source = iter(lines or ())
        if file_path:
            source = _lines_of(file_path)
        counts = {"error": 0, "warning": 0, "info": 0, "other": 0}
        number = 0
        while True:
            batch = list(itertools.islice(source, block))
            if not batch:
                break
            found = []
            for line in batch:
                number += 1
                level = _level_of(str(line))
                counts[level] += 1
                if level == "error":
                    found.append({"line": number, "text": str(line).rstrip("\n")})
            yield {"lines_read": number, "counts": dict(counts), "errors": found}
        return {"lines_read": number, "counts": counts}


def count_lines(path: str) -> int:
    with open(path, "rb") as file:
        return sum(1 for _ in file)


def _lines_of(path: str) -> Iterator[str]:
    with open(path, encoding="utf-8", errors="replace") as file:
        yield from file


def _level_of(line: str) -> str:
    lowered = line.lower()
    if "error" in lowered or "fatal" in lowered:
        return "error"
    if "warn" in lowered:
        return "warning"
    return "info" if "info" in lowered else "other"


def _pause(seconds: float) -> None:
    if seconds > 0:
        time.sleep(seconds)


def _check_chunk_size(size: int) -> None:
    if size < 1:
        raise ValueError(f"the chunk size must be positive, not {size}")
