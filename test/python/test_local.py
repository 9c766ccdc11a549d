"""A real worker over shared memory; the BEAM's end is in local_peer.py."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import cbor
import local_peer
import pytest
from harness import PACKAGE, PATIENCE, ToolFailed, environment, run_script, wait_until
from local_peer import (
    CALL,
    CHUNK,
    CLAIM_COUNT,
    CREDIT,
    MAGIC,
    PING,
    PONG,
    READ,
    WRITTEN,
    Connection,
    Listener,
    LocalWorker,
    build_extension,
    chunk_value,
    ring_bell,
)

SHOWCASE = "snakepit_bridge.adapters.showcase.ShowcaseAdapter"

Start = Callable[..., LocalWorker]


@pytest.fixture(scope="session")
def extension(tmp_path_factory: pytest.TempPathFactory, proto_path: str) -> str:
    return build_extension(tmp_path_factory.mktemp("extension"))


@pytest.fixture
def start(extension: str, tmp_path: Path) -> Iterator[Start]:
    """Starts workers that end with the test."""
    workers: list[LocalWorker] = []

    def begin(adapter: str, *arguments: str, **options: Any) -> LocalWorker:
        directory = tmp_path / f"w{len(workers)}"
        directory.mkdir()
        workers.append(
            LocalWorker(adapter, directory, arguments, proto_path=extension, **options)
        )
        return workers[-1]

    yield begin
    for worker in workers:
        worker.kill()


@pytest.fixture
def tools(start: Start) -> LocalWorker:
    return start("local_tools:LocalTools")


# ---- calls ---------------------------------------------------------------------


def test_values_come_back_as_they_were(tools: LocalWorker) -> None:
    value = [None, True, 2**100, -1.5, "ü", b"\0", (1, (2,)), {1, 2}, {1: {"k": []}}]
    assert tools.call("value", {"value": value}) == value
    assert tools.call("value") is None
    assert tools.call("kind", {"value": (1,)}) == "tuple:(1,)"


def test_the_context_of_a_call(tools: LocalWorker) -> None:
    metadata = {"correlation_id": "c-1", "other": "x"}
    seen = tools.call("context", {}, session="s_9", metadata=metadata)
    assert seen["session_id"] == seen["own"] == "s_9"
    assert seen["metadata"] == metadata
    assert seen["correlation_id"] == "c-1"
    assert seen["cancelled"] is False
    assert seen["initialized"] is True


def test_every_style_of_tool(tools: LocalWorker) -> None:
    assert tools.call("coroutine", {"value": 1}) == 2
    assert tools.call("old_style", {"a": 1}) == {"old": {"a": 1}}
    assert tools.call("with_ctx", {"batch_size": 3}) == {"batch_size": 3, "session": "session_1"}
    assert tools.call("by_dict", {"b": 1, "a": 2}) == ["a", "b"]
    assert tools.call("plain_list") == ["a", "b"]


def test_binary_results(tools: LocalWorker) -> None:
    response = tools.answer(tools.start("binary", {"data": b"abc"}))
    assert response.binary_result == b"cba"
    assert cbor.loads(response.result_cbor) == {"size": 3}
    response = tools.answer(tools.start("binary_only"))
    assert response.binary_result == b"\x00\x01"
    assert response.result_cbor == b""


@pytest.mark.parametrize(
    ("tool", "arguments", "kind"),
    [
        ("nonsense", {}, "UnknownToolError"),
        ("value", {"other": 1}, "ToolArgumentError"),
        ("raises", {"kind": "chained"}, "RuntimeError"),
        ("raises", {"kind": "exit"}, "SystemExit"),
        ("raises", {"kind": "unprintable"}, "Unprintable"),
        ("raises", {"kind": "surrogate"}, "ValueError"),
        ("surrogate", {}, "EncodeError"),
        ("recursive", {}, "EncodeError"),
        ("many", {"count": 1}, "ToolStreamsError"),
    ],
)
def test_errors(tools: LocalWorker, tool: str, arguments: Any, kind: str) -> None:
    with pytest.raises(ToolFailed) as error:
        tools.call(tool, arguments)
    assert error.value.report["type"] == kind
    assert tools.call("value", {"value": 1}) == 1


@pytest.mark.parametrize("arguments", [[1], {1: 2}, "text", 5])
def test_arguments_that_are_none(tools: LocalWorker, arguments: Any) -> None:
    with pytest.raises(ToolFailed, match="not a map with text keys"):
        tools.call("value", arguments)
    assert tools.call("value", {"value": 1}) == 1


def test_malformed_arguments_cost_only_their_call(tools: LocalWorker) -> None:
    request = tools.request("value")
    tools.send(CALL, 900, request + b"\xa2\x06\x02\xa1\x61")
    with pytest.raises(ToolFailed, match="not CBOR"):
        tools.value(900)
    assert tools.call("value", {"value": 1}) == 1


def test_many_calls_under_way(tools: LocalWorker) -> None:
    calls = [tools.start("value", {"value": n}) for n in range(500)]
    assert [tools.value(call) for call in calls] == list(range(500))


@pytest.mark.parametrize("size", [1000, 131072 - 64, 131072, 131073, 3_000_000])
def test_large_values(start: Start, size: int) -> None:
    # Through the ring; test_segments.py has what goes beside it.
    tools = start("local_tools:LocalTools", env={"SNAKEPIT_ZERO_COPY_THRESHOLD": "0"})
    value = os.urandom(size)
    assert tools.call("value", {"value": value}) == value


def test_a_small_ring(start: Start) -> None:
    worker = start("local_tools:LocalTools", capacity=64)
    value = "x" * 5000
    assert worker.call("value", {"value": value}) == value
    calls = [worker.start("value", {"value": [value, n]}) for n in range(10)]
    assert [worker.value(call)[1] for call in calls] == list(range(10))


def test_what_a_tool_prints_harms_nothing(start: Start) -> None:
    worker = start(SHOWCASE)
    assert worker.call("ping", {"message": "m"})["message"] == "m"
    assert worker.call("echo", {"a": 1}) == {"echoed": {"a": 1}}


# ---- streams --------------------------------------------------------------------


def test_streams(tools: LocalWorker) -> None:
    assert [item["n"] for item in tools.items("many", {"count": 100})] == list(range(100))
    assert tools.items("async_stream", {"count": 3}) == [0, 1, 2]
    assert tools.items("plain_list") == [["a", "b"]]
    assert tools.items("declared_value") == [{"not": "iterated"}]


def test_chunks_of_every_kind(tools: LocalWorker) -> None:
    chunks = list(tools.chunks(tools.start("chunks", {}, stream=True)))
    assert [chunk_value(chunk) for chunk in chunks] == [b"\0raw", b"text", b"", {"last": True}]
    assert chunks[0].metadata == {"n": "1"}
    assert [chunk.is_final for chunk in chunks] == [False, False, False, True]


def test_an_error_after_some_chunks(tools: LocalWorker) -> None:
    chunks = tools.chunks(tools.start("fails_later", {}, stream=True))
    assert chunk_value(next(chunks)) == 1
    with pytest.raises(ToolFailed) as error:
        next(chunks)
    assert error.value.report["type"] == "KeyError"


def test_a_producer_waits_for_credit(tools: LocalWorker) -> None:
    call = tools.start("many", {"count": 40}, stream=True)
    chunks = tools.chunks(call, credit=False)
    first = [chunk_value(next(chunks))["n"] for _ in range(16)]
    assert first == list(range(16))
    tools.ping()  # what was to come before it has come
    assert call not in tools.frames
    tools.credit(call, 5)
    assert [chunk_value(next(chunks))["n"] for _ in range(5)] == list(range(16, 21))
    tools.ping()
    assert call not in tools.frames
    tools.credit(call, 2**32 - 1)
    tools.credit(call, 2**32 - 1)
    assert [chunk.is_final for chunk in chunks] == [False] * 19 + [True]


def test_large_chunks(tools: LocalWorker) -> None:
    items = tools.items("blobs", {"count": 20, "size": 200_000})
    assert [len(item) for item in items] == [200_000] * 20


# ---- cancelling -----------------------------------------------------------------

LASTING = [
    ("process", "sleeper"),
    ("process", "spinner"),
    ("process", "async_sleeper"),
    ("process", "async_spinner"),
    ("threaded", "spinner"),
    ("threaded", "async_sleeper"),
    ("threaded", "async_spinner"),
]


def cancelled(worker: LocalWorker, call: int) -> None:
    """The answer of a call that was cancelled."""
    with pytest.raises(ToolFailed) as error:
        list(worker.chunks(call))
    assert error.value.report["type"] == "cancelled"


@pytest.mark.parametrize(("mode", "tool"), LASTING)
def test_cancel_interrupts_the_tool(start: Start, mode: str, tool: str) -> None:
    worker = start("local_tools:LocalTools", "--mode", mode, "--max-workers", "1")
    call = worker.start(tool, {}, stream=True)
    assert chunk_value(next(worker.chunks(call))) == {"started": True}
    worker.cancel(call)
    cancelled(worker, call)
    assert worker.call("value", {"value": 5}) == 5


@pytest.mark.parametrize("tool", ["unary_sleeper", "swallows_exceptions"])
def test_cancel_of_a_unary_call(tools: LocalWorker, tmp_path: Path, tool: str) -> None:
    started = tmp_path / "started"
    call = tools.start(tool, {"started": str(started)})
    wait_until(started.exists, "the tool to start")
    tools.cancel(call)
    cancelled(tools, call)
    assert "swallowed" not in tools.call("log")


def test_cancel_of_a_queued_call(tools: LocalWorker, tmp_path: Path) -> None:
    started, other = tmp_path / "started", tmp_path / "other"
    running = tools.start("unary_sleeper", {"started": str(started)})
    wait_until(started.exists, "the tool to start")
    queued = [tools.start("write", {"path": str(other)}) for _ in range(3)]
    for call in (queued[1], queued[0], queued[2]):
        tools.cancel(call)
        cancelled(tools, call)  # at once: the other one still runs
    tools.cancel(running)
    cancelled(tools, running)
    assert not other.exists()
    assert tools.call("value", {"value": 1}) == 1


# ---- calls that may be taken back -----------------------------------------------


def test_offers_are_run_by_who_claims_them(tools: LocalWorker) -> None:
    assert tools.listener.takes_offers
    calls = [tools.offer("value", {"value": n}) for n in range(20)]
    for n, call in enumerate(calls):
        assert tools.value(call) == n
        assert not tools.on_offer(call)


def test_what_is_taken_back_is_not_run(tools: LocalWorker, tmp_path: Path) -> None:
    started, other = tmp_path / "started", tmp_path / "other"
    running = tools.start("unary_sleeper", {"started": str(started)})
    wait_until(started.exists, "the tool to start")
    offers = [tools.offer("write", {"path": str(other)}) for _ in range(3)]
    kept = tools.offer("value", {"value": 7})
    for call in offers:
        assert tools.on_offer(call)
        tools.take_back(call)
    tools.cancel(running)
    cancelled(tools, running)
    assert tools.value(kept) == 7
    assert not other.exists()
    assert not any(call in tools.frames for call in offers)


def test_an_old_offer_is_not_taken_for_a_new_one(tools: LocalWorker, tmp_path: Path) -> None:
    started, other = tmp_path / "started", tmp_path / "other"
    running = tools.start("unary_sleeper", {"started": str(started)})
    wait_until(started.exists, "the tool to start")
    old = tools.offer("write", {"path": str(other)})
    tools.take_back(old)
    new = tools.offer("value", {"value": 8}, number=old + CLAIM_COUNT)
    tools.cancel(running)
    cancelled(tools, running)
    assert tools.value(new) == 8
    assert not other.exists()
    assert old not in tools.frames


def test_cancel_of_an_offer(tools: LocalWorker, tmp_path: Path) -> None:
    started, other = tmp_path / "started", tmp_path / "other"
    running = tools.start("unary_sleeper", {"started": str(started)})
    wait_until(started.exists, "the tool to start")
    waiting, gone = (tools.offer("write", {"path": str(other)}) for _ in range(2))
    tools.take_back(gone)
    tools.cancel(waiting)
    tools.cancel(gone)
    cancelled(tools, waiting)  # one answer for what was still on offer, none else
    tools.cancel(running)
    cancelled(tools, running)
    assert tools.call("value", {"value": 9}) == 9
    assert not other.exists()
    assert gone not in tools.frames


def test_a_worker_that_stops_leaves_offers_alone(tools: LocalWorker, tmp_path: Path) -> None:
    started = tmp_path / "started"
    running = tools.start("unary_sleeper", {"started": str(started)})
    wait_until(started.exists, "the tool to start")
    offer = tools.offer("value", {"value": 1})
    tools.ping()  # it has been read
    tools.process.terminate()
    cancelled(tools, running)
    tools.process.wait(PATIENCE)
    tools.pump()
    assert tools.on_offer(offer)
    assert offer not in tools.frames


def test_threads_take_no_offers(start: Start) -> None:
    worker = start("local_tools:LocalTools", "--mode", "threaded", "--max-workers", "2")
    assert not worker.listener.takes_offers
    offer = worker.offer("value", {"value": 1})
    assert worker.call("value", {"value": 2}) == 2
    assert worker.on_offer(offer)
    assert offer not in worker.frames


def test_cancel_of_a_producer_without_credit(tools: LocalWorker) -> None:
    call = tools.start("many", {"count": 1000}, stream=True)
    chunks = tools.chunks(call, credit=False)
    for _ in range(16):
        next(chunks)
    tools.cancel(call)
    cancelled(tools, call)
    assert tools.call("value", {"value": 1}) == 1


def test_cancel_of_what_is_not_there(tools: LocalWorker) -> None:
    call = tools.start("value", {"value": 1})
    assert tools.value(call) == 1
    tools.cancel(call)
    tools.cancel(77777)
    tools.credit(call, 3)
    assert tools.call("value", {"value": 2}) == 2


def test_many_cancelled_calls_harm_nothing(tools: LocalWorker) -> None:
    for n in range(300):
        call = tools.start("value", {"value": n})
        tools.cancel(call)
        response = tools.answer(call)
        assert response.success or "cancelled" in response.error_message
    for _ in range(20):
        call = tools.start("many", {"count": 10_000}, stream=True)
        next(tools.chunks(call))
        tools.cancel(call)
        cancelled(tools, call)
    assert tools.call("value", {"value": "end"}) == "end"


def test_a_stubborn_tool_keeps_its_worker(tools: LocalWorker) -> None:
    call = tools.start("stubborn", {}, stream=True)
    assert chunk_value(next(tools.chunks(call))) == {"started": True}
    tools.cancel(call)
    wait_until(lambda: tools.ping() == 0, "a ping that says nothing")
    assert call not in tools.frames


# ---- life -----------------------------------------------------------------------


def test_pings_are_answered_while_a_tool_holds_the_interpreter(
    tools: LocalWorker, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    call = tools.start("holds_the_interpreter", {"path": str(gate)})
    wait_until(lambda: tools.ping() > 0, "a ping that says so")
    with open(gate, "wb"):
        pass
    assert tools.value(call) == "opened"
    wait_until(lambda: tools.ping() == 0, "a ping that says nothing")


def test_pings_say_nothing_of_a_tool_that_waits(tools: LocalWorker, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    call = tools.start("lets_others_in", {"path": str(gate)})
    wait_until(lambda: tools.ping() == 0, "a ping that says nothing")
    with open(gate, "wb"):
        pass
    assert tools.value(call) == "opened"


HEARTBEAT = {"interval_ms": 10, "timeout_ms": 50, "max_missed_heartbeats": 3}


def heartbeat(**more: Any) -> dict[str, str]:
    return {"SNAKEPIT_HEARTBEAT_CONFIG": json.dumps({**HEARTBEAT, **more})}


def test_a_beam_that_sends_no_pings_any_more_is_left(start: Start, tmp_path: Path) -> None:
    """Also while a tool holds the interpreter."""
    worker = start("local_tools", env=heartbeat())
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    worker.start("holds_the_interpreter", {"path": str(gate)})
    worker.ping()
    assert worker.end() == 0


def test_a_beam_that_never_sent_a_ping_is_not_left(start: Start) -> None:
    worker = start("local_tools", env=heartbeat(timeout_ms=1, max_missed_heartbeats=1))
    assert worker.call("value", {"value": "x"})
    assert worker.process.poll() is None


def test_an_independent_worker_stays(start: Start) -> None:
    worker = start("local_tools", env=heartbeat(timeout_ms=1, dependent=False))
    worker.ping()
    for _ in range(100):
        assert worker.call("value", {"value": "x"})
    assert worker.process.poll() is None


def test_little_is_loaded(start: Start) -> None:
    worker = start("lean")
    loaded = set(worker.call("modules"))
    assert not {"grpc", "google.protobuf", "numpy", "asyncio", "socket"} & loaded


def test_children_do_not_see_the_token(tools: LocalWorker) -> None:
    seen = tools.call("environment")
    assert not any(name.startswith("SNAKEPIT_LOCAL_") for name in seen)


def test_a_forked_child_does_not_keep_the_connection(tools: LocalWorker, tmp_path: Path) -> None:
    pid = tools.call("forks_a_child", {})
    try:
        assert tools.call("value", {"value": 1}) == 1
        os.kill(tools.process.pid, signal.SIGKILL)
        tools.process.wait()
        tools.socket.settimeout(PATIENCE)
        assert tools.socket.recv(1) == b""  # the end, though the child lives
        os.kill(pid, 0)
    finally:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("mode", ["process", "threaded"])
def test_the_end_of_the_beam_ends_the_worker(start: Start, mode: str) -> None:
    worker = start("local_tools:LocalTools", "--mode", mode, "--max-workers", "2")
    call = worker.start("stubborn", {}, stream=True)
    next(worker.chunks(call))
    worker.socket.close()
    assert worker.end() == 0


@pytest.mark.parametrize("mode", ["process", "threaded"])
def test_the_end_of_the_beam_ends_an_idle_worker(start: Start, mode: str) -> None:
    worker = start("local_tools:LocalTools", "--mode", mode)
    assert worker.call("value", {"value": 1}) == 1
    worker.socket.close()
    assert worker.end() == 0
    assert worker.log == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_the_worker(start: Start, number: int) -> None:
    worker = start("local_tools:LocalTools")
    assert worker.call("value", {"value": 1}) == 1
    os.kill(worker.process.pid, number)
    assert worker.end() == 0


def test_a_signal_ends_every_call(tools: LocalWorker, tmp_path: Path) -> None:
    started = tmp_path / "started"
    running = tools.start("unary_sleeper", {"started": str(started)})
    wait_until(started.exists, "the tool to start")
    queued = tools.start("value", {"value": 1})
    tools.ping()  # so it has been read
    os.kill(tools.process.pid, signal.SIGTERM)
    for call in (running, queued):
        cancelled(tools, call)
    assert tools.end() == 0


def test_handlers_of_a_tool_run_while_the_worker_is_idle(
    tools: LocalWorker, tmp_path: Path
) -> None:
    written = tmp_path / "written"
    tools.call("handles_usr1", {"path": str(written)})
    os.kill(tools.process.pid, signal.SIGUSR1)
    wait_until(written.exists, "the handler to run")
    assert tools.call("value", {"value": 1}) == 1


# ---- threads --------------------------------------------------------------------


def test_calls_run_at_the_same_time(start: Start) -> None:
    worker = start("local_tools:LocalTools", "--mode", "threaded", "--max-workers", "4")
    calls = [worker.start("meet", {"name": "m", "parties": 4}) for _ in range(4)]
    names = {worker.value(call) for call in calls}
    assert len(names) == 4
    assert all(name.startswith("tool-") for name in names)


def test_thread_sensitive_calls_run_in_the_main_thread(start: Start) -> None:
    worker = start("local_tools:LocalTools", "--mode", "threaded", "--max-workers", "2")
    metadata = {"thread_sensitive": "true"}
    for _ in range(20):
        assert worker.call("thread_name", {}, metadata=metadata) == "MainThread"
        assert worker.call("thread_name", {}) != "MainThread"


def test_threads_under_load(start: Start) -> None:
    worker = start("local_tools:LocalTools", "--mode", "threaded", "--max-workers", "3")
    calls = [worker.start("value", {"value": n}) for n in range(1000)]
    streams = [worker.start("many", {"count": 5}, stream=True) for _ in range(20)]
    assert [worker.value(call) for call in calls] == list(range(1000))
    for call in streams:
        assert len(list(worker.chunks(call))) == 6


def test_a_thread_of_the_tools_own_sends_chunks(tools: LocalWorker) -> None:
    items = tools.items("sends_from_threads", {"threads": 3, "count": 50})
    assert sorted(items[:-1]) == sorted(n for n in range(50) for _ in range(3))
    assert items[-1] == b"done"


# ---- a BEAM that breaks the rules ------------------------------------------------


def broken(worker: LocalWorker, why: str) -> None:
    assert worker.end() == 1
    lines = worker.log.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("snakepit: the BEAM broke the protocol")
    assert why in lines[0]


def test_frames_that_do_not_exist(tools: LocalWorker) -> None:
    tools.send(99, 1)
    broken(tools, "a frame that this worker does not know")


def test_frames_of_the_other_direction(tools: LocalWorker) -> None:
    tools.send(CHUNK, 1)
    broken(tools, "a frame that this worker does not know")


def test_a_header_that_is_none(tools: LocalWorker) -> None:
    tools.send_raw(struct.pack("<IBBBBQ", 0, CALL, 1, 0, 0, 1))
    broken(tools, "frame header")


def test_a_credit_of_another_size(tools: LocalWorker) -> None:
    tools.send(CREDIT, 1, b"12345")
    broken(tools, "a frame that")


@pytest.mark.parametrize("mode", ["process", "threaded"])
def test_a_request_that_is_none(start: Start, mode: str) -> None:
    worker = start("local_tools:LocalTools", "--mode", mode)
    worker.send(CALL, 1, b"\x0b")
    broken(worker, "no ExecuteToolRequest")


def test_indices_that_cannot_be(tools: LocalWorker) -> None:
    tools.out.set(WRITTEN, 2**63)
    ring_bell(tools.worker_bell)
    broken(tools, "impossible ring indices")


def test_an_index_of_answers_that_cannot_be(tools: LocalWorker) -> None:
    tools.inward.set(READ, 2**40)
    tools.start("value", {"value": 1})
    broken(tools, "impossible ring indices")


def test_a_flood_that_nobody_reads(start: Start) -> None:
    """The worker waits for room, and ends with the BEAM."""
    worker = start("local_tools:LocalTools", capacity=4096)
    for n in range(10):
        request = worker.request("value", {"value": "x" * 100})
        worker.send(CALL, n, request)
    worker.send(CALL, 10, worker.request("value", {"value": "y" * 3000}))
    worker.socket.close()
    assert worker.end() == 0


# ---- handshakes ------------------------------------------------------------------


class Guest:
    """A worker that has connected and waits for its welcome."""

    def __init__(self, extension: str, directory: Path) -> None:
        self.listener = Listener(directory)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "snakepit_bridge", "--adapter", "tools"],
            env=environment(SNAKEPIT_PROTO_PATH=extension, **self.listener.env),
            cwd=PACKAGE,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.socket, _ = self.listener.listener.accept()
        self.socket.settimeout(PATIENCE)

    def refused(self) -> str:
        """What it says at its end."""
        _, text = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == 1
        return str(text)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.process.stderr is not None:
            self.process.stderr.close()
        self.socket.close()
        self.listener.close()


@pytest.fixture
def guest(extension: str, tmp_path: Path) -> Iterator[Guest]:
    one = Guest(extension, tmp_path)
    yield one
    one.close()


def test_a_beam_that_hangs_up(guest: Guest) -> None:
    guest.socket.close()
    assert "the BEAM does not answer the handshake" in guest.refused()


@pytest.mark.parametrize("welcome", [b"snakpit1", MAGIC + b"\0" * 8, b"x" * 24])
def test_a_welcome_without_descriptors(guest: Guest, welcome: bytes) -> None:
    guest.socket.sendall(welcome)
    guest.socket.shutdown(socket.SHUT_WR)
    assert "the BEAM does not answer the handshake" in guest.refused()


@pytest.mark.parametrize("count", [1, 2])
def test_a_welcome_with_too_few_descriptors(guest: Guest, count: int) -> None:
    connection = Connection(guest.socket, 4096, count)
    assert "the BEAM does not answer the handshake" in guest.refused()
    connection.close()


def test_memory_that_is_too_small(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    small = local_peer._memfd
    monkeypatch.setattr(local_peer, "_memfd", lambda size: small(size // 2))
    monkeypatch.setattr(local_peer.mmap, "mmap", lambda *_: bytearray(8192))
    connection = Connection(guest.socket, 4096)
    assert "shared memory cannot be used" in guest.refused()
    connection.close()


def test_nobody_listens(extension: str, tmp_path: Path) -> None:
    result = run_script(
        "--adapter",
        "tools",
        SNAKEPIT_PROTO_PATH=extension,
        SNAKEPIT_LOCAL_SOCKET=str(tmp_path / "none"),
        SNAKEPIT_LOCAL_TOKEN="ab" * 32,
    )
    assert result.returncode == 1
    assert "cannot connect to" in result.stderr


def test_a_token_that_is_none(extension: str, tmp_path: Path) -> None:
    result = run_script(
        "--adapter",
        "tools",
        SNAKEPIT_PROTO_PATH=extension,
        SNAKEPIT_LOCAL_SOCKET=str(tmp_path / "none"),
        SNAKEPIT_LOCAL_TOKEN="xyz",
    )
    assert result.returncode == 1
    assert "the token is not 64 hex digits" in result.stderr


def test_an_adapter_that_fails_is_told_before_the_handshake(
    extension: str, tmp_path: Path
) -> None:
    listener = Listener(tmp_path)
    result = run_script("--adapter", "broken", SNAKEPIT_PROTO_PATH=extension, **listener.env)
    assert result.returncode == 1
    assert "cannot import adapter" in result.stderr
    listener.listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.listener.accept()
    listener.close()


def test_answers_and_pings_interleave(tools: LocalWorker) -> None:
    """Frames of other calls are not lost or mixed up."""
    numbers = []
    for n in range(200):
        numbers.append(tools.start("value", {"value": "z" * (n * 13 % 5000)}))
        tools.send(PING, 10_000 + n)
    for n, call in enumerate(numbers):
        assert len(tools.value(call)) == n * 13 % 5000
        kind, payload = tools.take(10_000 + n)
        assert kind == PONG
        assert len(payload) == 8
