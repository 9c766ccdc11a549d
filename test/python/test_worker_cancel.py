"""Cancellation, the idle probe, order and parallel running."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any, Callable

import grpc
import pytest
from harness import PATIENCE, first, wait_until

# A blocking system call can be interrupted in the main thread only.
LASTING = [
    ("process", "sleeper"),
    ("process", "spinner"),
    ("process", "async_sleeper"),
    ("process", "async_spinner"),
    ("threaded", "spinner"),
    ("threaded", "async_sleeper"),
    ("threaded", "async_spinner"),
]


@pytest.mark.parametrize(("mode", "tool"), LASTING)
def test_cancel_interrupts_the_tool_and_the_worker_goes_on(
    start_worker: Callable[..., Any], mode: str, tool: str
) -> None:
    worker = start_worker("tools", "--mode", mode, "--max-workers", "1")
    stream = worker.stream(tool, call_id="x")
    assert first(stream) == {"started": True}
    stream.cancel()
    assert worker.ping_when_over("x").message == "over"
    assert worker.call("value", {"value": 5}) == 5


def test_except_exception_does_not_swallow_it(
    start_worker: Callable[..., Any], tmp_path: Path
) -> None:
    worker = start_worker("tools")
    started = tmp_path / "started"
    call = worker.start("swallows_exceptions", {"started": str(started)}, call_id="x")
    wait_until(started.exists, "the tool to start")
    call.cancel()
    assert worker.ping_when_over("x").message == "over"
    assert worker.call("log") == []


@pytest.mark.parametrize("tool", ["unary_sleeper", "async_unary_sleeper"])
def test_the_tool_sees_what_happens(
    start_worker: Callable[..., Any], tmp_path: Path, tool: str
) -> None:
    worker = start_worker("tools")
    started = tmp_path / "started"
    call = worker.start(tool, {"started": str(started)}, call_id="x")
    wait_until(started.exists, "the tool to start")
    call.cancel()
    worker.ping_when_over("x")
    [[name, seen]] = worker.call("log")
    assert name == tool
    # A coroutine that waits sees asyncio's own exception.
    assert seen in ("ToolCancelled", "CancelledError")
    assert seen == "ToolCancelled" or tool == "async_unary_sleeper"


def test_a_deadline_interrupts_the_tool(start_worker: Callable[..., Any], tmp_path: Path) -> None:
    worker = start_worker("tools")
    request = worker.request("unary_sleeper", {"started": str(tmp_path / "started")})
    with pytest.raises(grpc.RpcError) as error:
        worker.stub.ExecuteTool(request, timeout=0.5)
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert worker.call("value", {"value": 1}) == 1


def test_many_cancelled_calls_harm_nothing(start_worker: Callable[..., Any]) -> None:
    worker = start_worker("tools")
    for n in range(100):
        call = worker.start("value", {"value": n}, call_id=f"c{n}")
        call.cancel()
        worker.ping_when_over(f"c{n}")
    streams = [worker.stream("many", {"count": 10_000}, call_id=f"s{n}") for n in range(10)]
    for n, stream in enumerate(streams):
        stream.cancel()
        worker.ping_when_over(f"s{n}")
    assert worker.call("value", {"value": "still there"}) == "still there"


def test_the_probe_answers_at_once_for_an_unknown_call(showcase: Any) -> None:
    assert showcase.ping_when_over("never heard of").message == "over"


def test_the_probe_waits_for_a_running_call(start_worker: Callable[..., Any]) -> None:
    worker = start_worker("tools")
    stream = worker.stream("stubborn", call_id="x")
    first(stream)
    probe = worker.stub.Ping.future(
        worker.pb2.PingRequest(), metadata=(("x-snakepit-await-call", "x"),)
    )
    # Other calls are answered while the probe waits.
    worker.stub.Ping(worker.pb2.PingRequest(message="alive"), timeout=PATIENCE)
    assert not probe.done()
    probe.cancel()


def test_pings_are_answered_while_a_tool_computes(start_worker: Callable[..., Any]) -> None:
    worker = start_worker("tools")
    stream = worker.stream("spinner", call_id="x")
    first(stream)
    for n in range(20):
        answer = worker.stub.Ping(worker.pb2.PingRequest(message=str(n)), timeout=PATIENCE)
        assert answer.message == str(n)
    beat = worker.stub.Heartbeat(worker.pb2.HeartbeatRequest(session_id="s"), timeout=PATIENCE)
    assert beat.session_valid
    stream.cancel()


def test_a_queued_call_that_is_cancelled_never_starts(
    start_worker: Callable[..., Any], tmp_path: Path
) -> None:
    worker = start_worker("tools")
    running = worker.stream("sleeper", call_id="running")
    first(running)
    mark = tmp_path / "mark"
    queued = worker.start("write", {"path": str(mark)}, call_id="queued")
    queued.cancel()
    worker.ping_when_over("queued")
    running.cancel()
    assert worker.call("value", {"value": 1}) == 1
    assert not mark.exists()


def test_process_mode_runs_one_tool_at_a_time(start_worker: Callable[..., Any]) -> None:
    worker = start_worker("tools")
    calls = [worker.start("overlap", {"n": n}) for n in range(50)]
    assert all(call.result().success for call in calls)
    log = worker.call("log")
    assert len(log) == 100
    for enter, leave in zip(log[::2], log[1::2]):
        assert enter[0] == "enter"
        assert leave == ["exit", enter[1]]


def test_process_mode_runs_tools_in_the_main_thread(tools: Any) -> None:
    assert tools.call("thread_name") == "MainThread"


def test_threaded_mode_runs_tools_at_the_same_time(start_worker: Callable[..., Any]) -> None:
    worker = start_worker("tools", "--max-workers", "4", script="grpc_server_threaded.py")
    calls = [worker.start("meet", {"name": "four", "parties": 4}) for _ in range(4)]
    assert all(call.result().success for call in calls)


def test_thread_sensitive_calls_run_in_the_main_thread(
    start_worker: Callable[..., Any],
) -> None:
    worker = start_worker("tools", "--mode", "threaded", "--max-workers", "2")
    assert worker.call("thread_name").startswith("tool-")
    assert worker.call("thread_name", metadata={"thread_sensitive": "true"}) == "MainThread"


def test_a_worker_that_leaves_is_gone(start_worker: Callable[..., Any]) -> None:
    worker = start_worker("tools")
    call = worker.start("leaves", {"code": 3})
    assert call.exception().code() == grpc.StatusCode.UNAVAILABLE
    assert worker.process.wait(PATIENCE) == 3


def test_tools_may_start_processes(start_worker: Callable[..., Any]) -> None:
    worker = start_worker("tools")
    assert worker.call("processes", {"count": 20}) == [0] * 20
    assert worker.call("forks") == 7
    # A signal to a child ends the child, and only the child.
    assert worker.call("terminated_child") == signal.SIGTERM
    assert worker.process.poll() is None
    assert worker.call("value", {"value": 1}) == 1
