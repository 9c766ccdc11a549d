"""What others do with bytes: JSON text or a pickle through a pipe to another process.

    ways.py json|pickle BYTES MS

prints the nanoseconds of each hand-over: sent, read there, and answered with the length.
"""

from __future__ import annotations

import base64
import json
import multiprocessing
import os
import sys
import time
from multiprocessing.connection import Connection
from typing import Any


def send(way: str, pipe: Connection, data: Any) -> None:
    if way == "pickle":
        pipe.send({"data": data})
    else:
        text = json.dumps({"data": base64.b64encode(data).decode()})
        pipe.send_bytes(text.encode())


def receive(way: str, pipe: Connection) -> bytes:
    if way == "pickle":
        return pipe.recv()["data"]  # type: ignore[no-any-return]
    return base64.b64decode(json.loads(pipe.recv_bytes())["data"])


def serve(way: str, pipe: Connection) -> None:
    try:
        while True:
            pipe.send(len(receive(way, pipe)))
    except EOFError:
        pass


def main() -> None:
    way, size, budget_ms = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    here, there = multiprocessing.Pipe()
    if os.fork() == 0:
        here.close()
        serve(way, there)
        os._exit(0)
    there.close()
    data = os.urandom(min(size, 1 << 20)) * max(size >> 20, 1)
    until = time.perf_counter_ns() + budget_ms * 1_000_000
    times: list[int] = []
    while not times or time.perf_counter_ns() < until:
        start = time.perf_counter_ns()
        send(way, here, data)
        if here.recv() != size:
            sys.exit("it did not arrive whole")
        times.append(time.perf_counter_ns() - start)
    here.close()
    os.wait()
    print("\n".join(map(str, times)))


if __name__ == "__main__":
    main()
