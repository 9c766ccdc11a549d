"""What a worker asks of the BEAM over shared memory; the BEAM's end is local_peer.py."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cbor
import pytest
from harness import ToolFailed, wait_until
from local_peer import Frame, LocalWorker
from segment_peer import Lender
from test_local import Start, extension, heartbeat, start  # noqa: F401

REPLY, REQUEST, REQUEST_CANCEL = 6, 20, 21
EXECUTE_ELIXIR_TOOL = 10

ADAPTER = "asking_tools:AskingTools"


class Asked:
    """A request that has come."""

    def __init__(self, worker: LocalWorker, number: int, payload: Frame) -> None:
        import snakepit_bridge_pb2 as pb2

        self.pb2 = pb2
        self.worker = worker
        self.number = number
        self.frame = payload
        self.method = payload[0]
        self.bytes = payload[1:]

    @property
    def tool(self) -> Any:
        assert self.method == EXECUTE_ELIXIR_TOOL
        return self.pb2.ExecuteElixirToolRequest.FromString(self.bytes)

    def arguments(self) -> Any:
        return cbor.loads(self.tool.arguments_cbor)

    def reply(self, message: Any, entries: bytes = b"") -> None:
        payload = entries + b"\0" + message.SerializeToString()
        self.worker.send(REPLY, self.number, payload, len(entries) // 16)

    def answer(self, value: Any, entries: bytes = b"") -> None:
        response = self.pb2.ExecuteElixirToolResponse(success=True, result_cbor=cbor.dumps(value))
        self.reply(response, entries)

    def fail(self, message: str, **details: Any) -> None:
        metadata = {"error": json.dumps(details)} if details else {}
        self.reply(self.pb2.ExecuteElixirToolResponse(error_message=message, metadata=metadata))

    def refuse(self, status: int, text: str) -> None:
        self.worker.send(REPLY, self.number, bytes((status,)) + text.encode())

    def cancelled(self) -> None:
        """Waits until the worker says that it does not wait."""
        worker, number = self.worker, self.number

        def told() -> bool:
            frames = worker.frames.get(number, [])
            return any(kind == REQUEST_CANCEL for kind, _ in frames)

        worker.wait(told, f"the cancel of request {number}")
        worker.frames[number] = [f for f in worker.frames[number] if f[0] != REQUEST_CANCEL]


def asked(worker: LocalWorker) -> Asked:
    """The next request. Numbers of calls and requests are apart by their kinds."""

    def first() -> Any:
        for number, frames in worker.frames.items():
            for frame in frames:
                if frame[0] == REQUEST:
                    frames.remove(frame)
                    return Asked(worker, number, frame[1])
        return None

    found = worker.wait(first, "a request")
    assert isinstance(found, Asked)
    return found


@pytest.fixture
def worker(start: Start) -> LocalWorker:  # noqa: F811
    return start(ADAPTER)


@pytest.fixture
def threaded(start: Start) -> LocalWorker:  # noqa: F811
    return start("asking_tools:ThreadedAskingTools", "--mode", "threaded", "--max-workers", "4")


# A call's number is far from those of requests.
def begin(worker: LocalWorker, tool: str, arguments: Any = None, **extra: Any) -> int:
    worker._next_call = max(worker._next_call, 1_000_000)
    return worker.start(tool, arguments, **extra)


def test_a_request_says_all(worker: LocalWorker) -> None:
    metadata = {"correlation_id": "c-1", "call_path": "p:2", "other": "x"}
    value = [None, True, 2**100, -1.5, "ü", b"\0", (1, (2,)), {1, 2}, {1: {"k": []}}]
    call = begin(worker, "ask", {"name": "t", "args": {"v": value}}, metadata=metadata)
    request = asked(worker)
    tool = request.tool
    assert (tool.session_id, tool.tool_name) == ("session_1", "t")
    assert dict(tool.metadata) == {"correlation_id": "c-1", "call_path": "p:2"}
    assert tool.time_left_ms == 0
    assert request.arguments() == {"v": value}
    request.answer(value)
    assert worker.value(call) == value


def test_what_is_left_of_the_deadline_goes_along(worker: LocalWorker) -> None:
    import snakepit_bridge_pb2 as pb2

    request = pb2.ExecuteToolRequest.FromString(worker.request("ask", {"name": "t"}))
    request.time_left_ms = 60_000
    worker.send(1, 77_000_000, request.SerializeToString())
    came = asked(worker)
    assert 0 < came.tool.time_left_ms <= 60_001
    came.answer(None)
    assert worker.value(77_000_000) is None


@pytest.mark.parametrize("tool", ["ask", "ask_async"])
def test_failures(worker: LocalWorker, tool: str) -> None:
    call = begin(worker, tool, {"name": "t"})
    asked(worker).fail("bad", type="ArgumentError", kind="error", stacktrace=["a.ex:1"])
    with pytest.raises(ToolFailed, match=r"ElixirToolError: .* ArgumentError: bad"):
        worker.value(call)
    call = begin(worker, tool, {"name": "t"})
    asked(worker).refuse(8, "too many")
    with pytest.raises(ToolFailed, match=r"ElixirToolError: .* RESOURCE_EXHAUSTED: too many"):
        worker.value(call)
    call = begin(worker, tool, {"name": "t"})
    asked(worker).refuse(200, "what")
    with pytest.raises(ToolFailed, match="200: what"):
        worker.value(call)


@pytest.mark.parametrize("tool", ["ask", "ask_async"])
def test_what_cannot_be_read_is_the_calls_alone(worker: LocalWorker, tool: str) -> None:
    for junk in (b"\xff" * 20, b"\x08\x01\xa2\x06\x02\x1a\x00", b"\x08\x01\xa2\x06\x7f"):
        call = begin(worker, tool, {"name": "t"})
        worker.send(REPLY, asked(worker).number, b"\0" + junk)
        with pytest.raises(ToolFailed):
            worker.value(call)
    assert worker.call("pid") == worker.process.pid


def test_replies_that_nobody_waits_for(worker: LocalWorker) -> None:
    for number in (0, 1, 99, 2**64 - 1):
        worker.send(REPLY, number, b"\0")
    call = begin(worker, "ask", {"name": "t"})
    request = asked(worker)
    request.answer(1)
    request.answer(2)
    assert worker.value(call) == 1
    assert worker.call("pid") == worker.process.pid


def test_a_reply_without_a_status_ends_the_worker(worker: LocalWorker) -> None:
    begin(worker, "ask", {"name": "t"})
    worker.send(REPLY, asked(worker).number, b"")
    assert worker.end() == 1
    assert "a reply without a status" in worker.log


@pytest.mark.parametrize("tool", ["ask", "ask_async", "ask_in_thread"])
def test_cancel_while_waiting(worker: LocalWorker, tool: str) -> None:
    for _ in range(3):
        call = begin(worker, tool, {"name": "t"})
        request = asked(worker)
        worker.cancel(call)
        request.cancelled()
        with pytest.raises(ToolFailed):
            worker.value(call)
    # A late reply is no harm.
    request.answer(1)
    assert worker.call("pid") == worker.process.pid


def test_a_cancel_just_before_the_wait_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from snakepit_bridge.errors import ToolCancelled
    from snakepit_bridge.worker import local_calls

    class Request:
        cancelled = False

        def cancel(self) -> None:
            self.cancelled = True

    def interrupted() -> None:
        raise ToolCancelled("the call was cancelled")

    request = Request()
    link = SimpleNamespace(tool_request=lambda *_: request)
    context: Any = SimpleNamespace(
        session_id="s", callback_metadata={}, time_remaining=lambda: None
    )
    monkeypatch.setattr(local_calls, "_replies", interrupted)
    with pytest.raises(ToolCancelled):
        asyncio.run(local_calls.LocalCalls(link).call_async(context, "t", {}))
    assert request.cancelled


@pytest.mark.parametrize("tool", ["ask", "ask_async"])
def test_cancel_in_threads(threaded: LocalWorker, tool: str) -> None:
    calls = [begin(threaded, tool, {"name": str(n)}) for n in range(4)]
    requests = {int(r.tool.tool_name): r for r in (asked(threaded) for _ in calls)}
    threaded.cancel(calls[2])
    requests[2].cancelled()
    for n in (3, 1, 0):
        requests[n].answer(n)
        assert threaded.value(calls[n]) == n
    with pytest.raises(ToolFailed):
        threaded.value(calls[2])


def test_many_at_the_same_time(worker: LocalWorker) -> None:
    call = begin(worker, "gather", {"name": "t", "count": 500})
    requests = [asked(worker) for _ in range(500)]
    for request in reversed(requests):
        request.answer(request.arguments()["i"])
    assert worker.value(call) == list(range(500))


def test_threads_of_the_tools_own(worker: LocalWorker) -> None:
    call = begin(worker, "threads", {"name": "t", "count": 20})
    requests = [asked(worker) for _ in range(20)]
    for request in requests:
        request.answer(request.arguments()["i"])
    assert worker.value(call) == list(range(20))


def test_large_values(start: Start) -> None:  # noqa: F811
    worker = start(ADAPTER, env={"SNAKEPIT_ZERO_COPY_THRESHOLD": "0"})
    big = "x" * 5_000_000
    call = begin(worker, "ask", {"name": "t", "args": {"big": big}})
    request = asked(worker)
    assert request.arguments() == {"big": big}
    request.answer(big)
    assert worker.value(call) == big


def test_large_values_go_beside_the_messages(worker: LocalWorker) -> None:
    lender = Lender(worker)
    big, bigger = b"x" * 100_000, b"y" * 2_000_000
    call = begin(worker, "ask", {"name": "t", "args": {"big": big}})
    request = asked(worker)
    assert len(request.frame) < 1000
    arguments = cbor.loads(request.tool.arguments_cbor)
    assert lender.resolve(arguments, request.frame) == {"big": big}
    segment, (tag,) = lender.lend([bigger])
    request.answer(tag, lender.entries([segment]))
    assert lender.value(call) == bigger
    lender.wait_released(segment)
    # A reply for which nobody waits any more.
    begin(worker, "ask", {"name": "t"})
    request = asked(worker)
    worker.cancel(worker._next_call)
    request.cancelled()
    request.answer(tag, lender.entries([segment]))
    lender.wait_released(segment)
    lender.close()


def test_what_cannot_be_sent_is_not(worker: LocalWorker) -> None:
    call = begin(worker, "ask_itself", {"name": "t"})
    with pytest.raises(ToolFailed, match=r"cyclic|deep"):
        worker.value(call)
    assert worker.call("pid") == worker.process.pid


@pytest.mark.parametrize("tool", ["ask", "ask_async", "ask_in_thread"])
def test_the_beam_goes_while_a_tool_waits(worker: LocalWorker, tool: str) -> None:
    begin(worker, tool, {"name": "t"})
    asked(worker)
    worker.socket.shutdown(2)
    assert worker.end() == 0


def test_the_worker_is_told_to_stop_while_a_tool_waits(worker: LocalWorker) -> None:
    begin(worker, "ask", {"name": "t"})
    asked(worker)
    os.kill(worker.process.pid, signal.SIGTERM)
    assert worker.end() == 0


def test_other_calls_go_on_while_one_waits(threaded: LocalWorker) -> None:
    call = begin(threaded, "ask", {"name": "t"})
    request = asked(threaded)
    for _ in range(20):
        assert threaded.call("pid") == threaded.process.pid
    wait_until(lambda: threaded.ping() == 0, "a ping that says nothing")
    request.answer("late")
    assert threaded.value(call) == "late"


def test_a_context_that_outlives_its_call(worker: LocalWorker, tmp_path: Path) -> None:
    path = str(tmp_path / "asked")
    call = begin(worker, "ask_later", {"name": "t", "path": path})
    assert worker.value(call) is None
    Path(path + ".go").touch()
    request = asked(worker)
    request.answer("later")
    assert worker.call("wait_for", {"path": path}) == "later"


def test_the_stub(worker: LocalWorker) -> None:
    import snakepit_bridge_pb2 as pb2

    call = begin(worker, "ping_by_stub")
    request = asked(worker)
    assert request.method == 1
    assert pb2.PingRequest.FromString(request.bytes).message == "hello"
    request.reply(pb2.PingResponse(message="there"))
    assert worker.value(call) == "there"
    call = begin(worker, "ping_by_stub")
    asked(worker).refuse(5, "not here")
    assert worker.value(call) == "NOT_FOUND: not here"
    call = begin(worker, "ping_by_stub", {"timeout": 0.2})
    asked(worker).cancelled()
    assert str(worker.value(call)).startswith("DEADLINE_EXCEEDED")


def test_a_ping_from_before_any_is_expected_counts(start: Start) -> None:  # noqa: F811
    """One that comes while the worker tells of its tools may be the only one."""
    worker = start("lean", env={**heartbeat(), "SNAKEPIT_WORKER_ID": "w1"})
    told = asked(worker)
    worker.ping()
    told.answer({})
    assert worker.end() == 0
