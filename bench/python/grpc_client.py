"""A plain grpcio client of one of our workers: the limit of the gRPC carrier.

grpc_client.py PORT latency MS        prints the nanoseconds of each call
grpc_client.py PORT calls MS DEPTH    prints calls per second, DEPTH in flight

The generated modules are found through SNAKEPIT_PROTO_PATH; the worker wants
SNAKEPIT_GRPC_TOKEN.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
import time
from typing import Any

import grpc

WARM_UP = 50
# Far more than the last answers take.
PATIENCE = 30


class Worker:
    """Calls of ping."""

    def __init__(self, channel: Any) -> None:
        messages = importlib.import_module("snakepit_bridge_pb2")
        services = importlib.import_module("snakepit_bridge_pb2_grpc")
        self._request = messages.ExecuteToolRequest(session_id="bench", tool_name="ping")
        self._call = services.BridgeServiceStub(channel).ExecuteTool
        token = os.environ["SNAKEPIT_GRPC_TOKEN"]
        self._metadata = (("authorization", f"Bearer {token}"),)

    def ping(self) -> None:
        check(self._call(self._request, metadata=self._metadata))

    def start_ping(self) -> Any:
        return self._call.future(self._request, metadata=self._metadata)


def check(reply: Any) -> None:
    if not reply.success:
        raise RuntimeError(f"the worker says: {reply.error_message}")


def latency(worker: Worker, milliseconds: int) -> list[int]:
    for _ in range(WARM_UP):
        worker.ping()
    times: list[int] = []
    until = time.perf_counter_ns() + milliseconds * 1_000_000
    while not times or time.perf_counter_ns() < until:
        start = time.perf_counter_ns()
        worker.ping()
        times.append(time.perf_counter_ns() - start)
    return times


class Flight:
    """Each answer starts the next call, so that as many stay under way."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._lock = threading.Lock()
        self._under_way = 0
        self._over = False
        self._landed = threading.Event()
        self.answers = 0
        self.failure: Exception | None = None

    def start(self) -> None:
        with self._lock:
            self._under_way += 1
        self._worker.start_ping().add_done_callback(self._answered)

    def stop(self) -> None:
        with self._lock:
            self._over = True
        if not self._landed.wait(PATIENCE):
            raise RuntimeError(f"calls were not answered within {PATIENCE} s")

    def _answered(self, future: Any) -> None:
        try:
            check(future.result())
        except Exception as error:
            self.failure = error
        with self._lock:
            self.answers += 1
            self._under_way -= 1
            again = not self._over and self.failure is None
            if not again and self._under_way == 0:
                self._landed.set()
        if again:
            self.start()


def calls(worker: Worker, milliseconds: int, depth: int) -> float:
    flight = Flight(worker)
    for _ in range(depth):
        flight.start()
    time.sleep(milliseconds / 4000)
    first, began = flight.answers, time.perf_counter()
    time.sleep(milliseconds / 1000)
    last, ended = flight.answers, time.perf_counter()
    flight.stop()
    if flight.failure is not None:
        raise flight.failure
    return (last - first) / (ended - began)


def main(arguments: list[str]) -> None:
    port, mode, milliseconds, *depth = arguments
    sys.path.insert(0, os.environ["SNAKEPIT_PROTO_PATH"])
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        worker = Worker(channel)
        if mode == "latency":
            print(*latency(worker, int(milliseconds)), sep="\n")
        elif mode == "calls":
            print(calls(worker, int(milliseconds), int(depth[0])))
        else:
            raise SystemExit(f"unknown mode {mode!r}: latency or calls")


if __name__ == "__main__":
    main(sys.argv[1:])
    # At the interpreter's own end a finalizer of grpcio may wait for ever
    # (grpc/grpc issue 40620).
    sys.stdout.flush()
    os._exit(0)
