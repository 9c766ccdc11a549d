"""Many calls of all kinds at the same time, in the threads of one worker.

Most is to be learned from it on an interpreter without a global lock, and one
that is built with ThreadSanitizer: see guides/building.md.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Iterator
from typing import Any, Callable

import cbor
import pytest
from harness import ToolFailed
from local_peer import ANSWER, CHUNK, INPUT_CREDIT, LocalWorker, chunk_value
from test_local import Start, extension, start  # noqa: F401

REPLY, REQUEST, REQUEST_CANCEL = 6, 20, 21

CALLS = int(os.environ.get("SNAKEPIT_TEST_STRESS_CALLS", "800"))
IN_FLIGHT = 12
NESTED = {"list": [1, (2, "ü"), None], "key": {"a": {1, 2}, "b": b"\0" * 300, "c": 2**80}}


class Run:
    """One call, from its start to its answer. ``check`` gets the value or ToolFailed."""

    def __init__(
        self, tool: str, arguments: Any, check: Callable[[Any], None], **extra: Any
    ) -> None:
        self.tool = tool
        self.arguments = arguments
        self.check = check
        self.extra = extra
        self.chunks: list[Any] = []
        self.inputs: Iterator[int] = iter(())
        self.inputs_ended = False
        self.cancel = False


def _equals(expected: Any) -> Callable[[Any], None]:
    def check(value: Any) -> None:
        assert value == expected

    return check


def _changed_or_whole(value: Any) -> None:
    if isinstance(value, ToolFailed):
        assert value.report["type"] == "EncodeError", value.report
        assert "changed" in value.report["message"]
    else:
        assert set(value) == {"list", "map", "set"}


def _cancelled(value: Any) -> None:
    assert isinstance(value, ToolFailed), value
    assert value.report["type"] == "cancelled"


def _plan(dice: random.Random, n: int) -> Run:
    kind = dice.choice(
        ["value", "changes", "ask", "ask_async", "total", "count", "threads", "spins", "looks"]
    )
    if kind == "value":
        value = {**NESTED, f"name{dice.randrange(500)}": n}
        return Run("value", {"value": value}, _equals(value))
    if kind == "changes":
        return Run("changes", {"n": n}, _changed_or_whole)
    if kind in ("ask", "ask_async"):
        return Run(kind, {"value": [n, NESTED]}, _equals([n, NESTED]))
    if kind == "total":
        run = Run("total", {}, _equals(sum(range(40))), inputs=True)
        run.inputs = iter(range(40))
        return run
    if kind == "count":
        run = Run("count", {"to": 30}, lambda _: None, stream=True)
        run.check = lambda _: _equals(list(range(30)))([c["n"] for c in run.chunks])
        return run
    if kind == "threads":
        run = Run("sends_from_threads", {"count": 10}, lambda _: None, stream=True)
        run.check = lambda _: _equals(sorted(list(range(10)) * 3))(
            sorted(c["n"] for c in run.chunks if isinstance(c, dict))
        )
        return run
    run = Run(kind, {}, _cancelled if kind == "spins" else lambda _: None)
    run.cancel = True
    return run


class Beam:
    """Keeps several calls under way, and answers what they ask."""

    def __init__(self, worker: LocalWorker, dice: random.Random) -> None:
        import snakepit_bridge_pb2 as pb2

        self.pb2 = pb2
        self.worker = worker
        self.dice = dice
        self.running: dict[int, Run] = {}
        worker._next_call = 1_000_000  # far from the numbers of requests

    def run(self, count: int) -> None:
        started = 0
        while started < count or self.running:
            while started < count and len(self.running) < IN_FLIGHT:
                self._start(_plan(self.dice, started))
                started += 1
            self.worker.wait(lambda: self.worker.frames, "anything")
            frames, self.worker.frames = self.worker.frames, {}
            for number, of_number in frames.items():
                for kind, payload in of_number:
                    self._take(number, kind, payload)

    def _start(self, run: Run) -> None:
        number = self.worker.start(run.tool, run.arguments, **run.extra)
        self.running[number] = run
        if run.cancel:  # in the queue, at its start, or in its midst
            for _ in range(self.dice.randrange(3)):
                self.worker.ping()
            self.worker.cancel(number)

    def _take(self, number: int, kind: int, payload: bytes) -> None:
        if kind == REQUEST:
            self._reply(number, payload)
        elif kind == CHUNK:
            chunk = self.pb2.ToolChunk.FromString(payload)
            if chunk.data_cbor:
                self.running[number].chunks.append(chunk_value(chunk))
            self.worker.credit(number, 1)
        elif kind == INPUT_CREDIT:
            self._feed(number, int.from_bytes(payload, "little"))
        elif kind == ANSWER:
            self._end(self.running.pop(number), payload)
        else:
            assert kind == REQUEST_CANCEL

    def _reply(self, number: int, payload: bytes) -> None:
        asked = self.pb2.ExecuteElixirToolRequest.FromString(payload[1:])
        value = cbor.loads(asked.arguments_cbor)["value"]
        answer = self.pb2.ExecuteElixirToolResponse(success=True, result_cbor=cbor.dumps(value))
        self.worker.send(REPLY, number, b"\0" + answer.SerializeToString())

    def _feed(self, number: int, count: int) -> None:
        run = self.running.get(number)
        if run is None or run.inputs_ended:
            return
        for _ in range(count):
            value = next(run.inputs, None)
            if value is None:
                run.inputs_ended = True
                self.worker.end_inputs(number)
                return
            self.worker.input(number, value)

    def _end(self, run: Run, payload: bytes) -> None:
        response = self.pb2.ExecuteToolResponse.FromString(payload)
        if not response.success:
            run.check(ToolFailed(response.error_message))
        else:
            run.check(cbor.loads(response.result_cbor) if response.result_cbor else None)


def _threaded(start: Start, count: int) -> LocalWorker:  # noqa: F811
    arguments = ("--mode", "threaded", "--max-workers", str(count))
    return start("stress_tools:StressTools", *arguments)


@pytest.mark.parametrize("seed", [1, 2])
def test_everything_at_once(start: Start, seed: int) -> None:  # noqa: F811
    worker = _threaded(start, 4)
    Beam(worker, random.Random(seed)).run(CALLS // 2)
    worker.process.send_signal(signal.SIGTERM)
    assert worker.end() == 0, worker.log
    assert "Traceback" not in worker.log


def test_it_stops_in_the_midst(start: Start) -> None:  # noqa: F811
    worker = _threaded(start, 4)
    assert worker.call("value", {"value": 1}) == 1
    for tool in ("spins", "looks", "spins", "looks") * 2:
        worker.start(tool, {})
    worker.ping()  # they have come
    worker.process.send_signal(signal.SIGTERM)
    assert worker.end() == 0, worker.log


def test_what_the_handshake_says_of_the_lock(start: Start) -> None:  # noqa: F811
    worker = _threaded(start, 2)
    assert worker.call("gil") is not worker.listener.no_gil
    assert worker.listener.no_gil == ("t" in sys.abiflags)
