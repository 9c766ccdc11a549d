"""Lanes, queues and sinks without gRPC."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Optional

from snakepit_bridge import BaseAdapter, tool
from snakepit_bridge.errors import ToolCancelled
from snakepit_bridge.worker.calls import Call, Reply
from snakepit_bridge.worker.lanes import ThreadLane
from snakepit_bridge.worker.requests import AdapterHost
from snakepit_bridge.worker.runner import Runner
from snakepit_bridge.worker.sinks import MAX_BYTES, MAX_CHUNKS, StreamSink

PATIENCE = 60


class Sink:
    def __init__(self) -> None:
        self.over = threading.Event()
        self.reply: Any = None
        self.chunks: list[bytes] = []

    def put(
        self,
        data: bytes,
        final: bool,
        metadata: Optional[Mapping[str, str]],
        wait: bool = True,
    ) -> bool:
        self.chunks.append(data)
        return True

    def finish(self, reply: Reply) -> None:
        assert not self.over.is_set(), "two replies"
        self.reply = reply
        self.over.set()

    def close(self) -> None:
        pass

    def wait(self) -> Reply:
        assert self.over.wait(PATIENCE)
        reply: Reply = self.reply
        return reply


class Order(BaseAdapter):
    def __init__(self) -> None:
        self.seen = SEEN

    @tool
    def note(self, n: int) -> int:
        self.seen.append(n)
        return n

    @tool
    def block(self) -> None:
        STARTED.set()
        assert RELEASE.wait(PATIENCE)

    @tool
    def spin(self) -> None:
        STARTED.set()
        while True:
            pass


SEEN: list[int] = []
STARTED = threading.Event()
RELEASE = threading.Event()


@contextmanager
def running(threads: int = 1) -> Iterator[Runner]:
    """Only the thread lanes: the main lane belongs to a worker's main thread."""
    SEEN.clear()
    STARTED.clear()
    RELEASE.clear()
    runner = Runner(AdapterHost(Order), threads)
    workers = [threading.Thread(target=runner.serve_thread) for _ in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield runner
    finally:
        RELEASE.set()
        runner.close()
        for worker in workers:
            worker.join(PATIENCE)
        assert not any(worker.is_alive() for worker in workers)


def call_of(tool_name: str, key: str = "", **arguments: Any) -> Call:
    return Call(tool_name, "s", {}, lambda: arguments, Sink(), key=key)


def sink_of(call: Call) -> Sink:
    assert isinstance(call.sink, Sink)
    return call.sink


def test_first_come_first_served() -> None:
    with running() as runner:
        blocker = call_of("block")
        runner.submit(blocker)
        assert STARTED.wait(PATIENCE)
        calls = [call_of("note", n=n) for n in range(50)]
        for call in calls:
            runner.submit(call)
        RELEASE.set()
        assert [sink_of(call).wait().value for call in calls] == [b"%d" % n for n in range(50)]
    assert list(range(50)) == SEEN


def test_a_cancelled_queued_call_is_over_at_once_and_never_starts() -> None:
    with running() as runner:
        runner.submit(call_of("block"))
        assert STARTED.wait(PATIENCE)
        queued, other = call_of("note", key="k", n=1), call_of("note", n=2)
        runner.submit(queued)
        runner.submit(other)
        over = threading.Event()
        runner.when_over("k", over.set)
        assert not over.is_set()
        runner.cancel(queued)
        assert over.is_set()
        assert sink_of(queued).wait().cancelled
        RELEASE.set()
        sink_of(other).wait()
    assert SEEN == [2]


def test_when_over_waits_for_all_calls_of_the_key() -> None:
    with running() as runner:
        over = threading.Event()
        runner.when_over("unknown", over.set)
        assert over.is_set()
        over.clear()
        first, second = call_of("block", key="k"), call_of("note", key="k", n=1)
        runner.submit(first)
        runner.submit(second)
        runner.when_over("k", over.set)
        RELEASE.set()
        assert over.wait(PATIENCE)
        assert sink_of(first).over.is_set()
        assert sink_of(second).over.is_set()


def test_close_cancels_what_runs_and_refuses_more() -> None:
    with running() as runner:
        spinning = call_of("spin")
        runner.submit(spinning)
        assert STARTED.wait(PATIENCE)
        runner.close()
        assert sink_of(spinning).wait().cancelled
        late = call_of("note", n=1)
        runner.submit(late)
        assert sink_of(late).wait().cancelled


def test_cancel_at_any_moment_leaves_the_lane_whole() -> None:
    """Hits the edges of a call: every call ends once, the thread goes on."""
    source = random.Random(3)
    with running() as runner:
        for n in range(3000):
            call = call_of("note", n=n)
            runner.submit(call)
            for _ in range(source.randrange(200)):
                pass
            runner.cancel(call)
            reply = sink_of(call).wait()
            assert reply.cancelled or reply.value == b"%d" % n
        after = call_of("note", n=-1)
        runner.submit(after)
        assert sink_of(after).wait().value == b"-1"


def test_interrupt_raises_in_armed_code_only() -> None:
    results: list[str] = []
    lanes: list[ThreadLane] = []
    ready, go = threading.Event(), threading.Event()
    call = call_of("x")

    def work() -> None:
        lane = ThreadLane()
        lanes.append(lane)
        try:
            try:
                lane.arm(call)
                ready.set()
                while True:
                    pass
            finally:
                lane.disarm()
        except ToolCancelled:
            lane.disarm()
            results.append("cancelled")
        ready.set()
        assert go.wait(PATIENCE)
        results.append("whole")

    thread = threading.Thread(target=work)
    thread.start()
    assert ready.wait(PATIENCE)
    ready.clear()
    call.cancelled = True
    lanes[0].interrupt(call)
    assert ready.wait(PATIENCE)
    lanes[0].interrupt(call)  # not armed any more
    go.set()
    thread.join(PATIENCE)
    assert results == ["cancelled", "whole"]


# ---- the sink of streams ------------------------------------------------------


def test_a_full_sink_waits_for_the_reader() -> None:
    sink = StreamSink()
    for n in range(MAX_CHUNKS):
        sink.put(b"%d" % n, False, None)
    assert sink.is_full(1)
    writer = threading.Thread(target=sink.put, args=(b"last", True, None))
    writer.start()
    taken = [sink.take() for _ in range(MAX_CHUNKS + 1)]
    writer.join(PATIENCE)
    assert taken[-1] == (b"last", True, None)
    sink.finish(Reply())
    assert sink.take() == Reply()


def test_large_chunks_count_by_their_bytes() -> None:
    sink = StreamSink()
    sink.put(b"x" * (2 * MAX_BYTES), False, None)
    assert sink.is_full(1)
    sink.take()
    assert not sink.is_full(2 * MAX_BYTES)


def test_a_closed_sink_lets_writer_and_reader_go() -> None:
    sink = StreamSink()
    for _ in range(MAX_CHUNKS):
        sink.put(b"", False, None)
    writer = threading.Thread(target=sink.put, args=(b"", False, None))
    writer.start()
    sink.close()
    writer.join(PATIENCE)
    assert not writer.is_alive()
    for _ in range(MAX_CHUNKS):
        sink.take()
    left = sink.take()
    assert isinstance(left, Reply)
    assert left.cancelled


def test_execute_runs_on_the_lane_it_is_called_on_or_on_another() -> None:
    with running() as runner:
        elsewhere = call_of("note", n=1)
        assert runner.execute(elsewhere).value == b"1"
        replies: list[Reply] = []
        over = threading.Event()

        def job() -> None:
            replies.append(runner.execute(Call("note", "s", {}, lambda: {"n": 2})))
            over.set()

        runner.post(job)
        assert over.wait(PATIENCE)
        assert replies[0].value == b"2"


def test_an_adapter_object_serves_one_request() -> None:
    made: list[Any] = []

    class Counting(BaseAdapter):
        def __init__(self) -> None:
            made.append(self)

        @tool
        def me(self) -> int:
            return len(made)

    host = AdapterHost(Counting)
    results: list[Any] = []

    def work() -> None:
        lane = ThreadLane()
        results.extend(host.run(call_of("me"), lane).value for _ in range(3))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(PATIENCE)
    assert results == [b"1", b"2", b"3"]
