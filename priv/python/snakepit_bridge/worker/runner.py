"""Queues calls, hands them to lanes, and knows which are not over yet."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Callable, Optional, Union

from ..logging_config import get_logger
from . import failure
from .calls import Call, Reply
from .lanes import Lane, MainLane, ThreadLane, show_name
from .requests import AdapterHost
from .routing import Sensitivity
from .sinks import ReplySink

if TYPE_CHECKING:
    from .event_loop import WorkerLoop

_log = get_logger(__name__)

Job = Callable[[Lane], None]
Place = Union[Lane, "WorkerLoop"]
Jobs = queue.SimpleQueue  # put() is safe in signal handlers


class Runner:
    """Process mode (``threads`` 0): tools run in the main thread, first come first served.

    Threaded mode: in ``threads`` threads; only calls marked thread-sensitive
    run in the main thread. With threads or ``concurrency`` coroutines have a loop.
    """

    def __init__(self, host: AdapterHost, threads: int = 0, concurrency: int = 1) -> None:
        self._host = host
        self._threads = threads
        self._sensitivity = Sensitivity()
        self._loop: Optional[WorkerLoop] = None
        if threads > 0 or concurrency > 1:
            from .event_loop import WorkerLoop  # large

            self._loop = WorkerLoop(host, max(threads, concurrency), self._finish)
        # A handler that runs on a lane keeps it until its call is over.
        self.lends_lanes = self._loop is None or (threads > 0 and not host.offers_async())
        self._main: Jobs[Optional[Job]] = queue.SimpleQueue()
        self._shared: Jobs[Optional[Job]] = self._main if threads == 0 else queue.SimpleQueue()
        self._here = threading.local()  # .lane: the lane of this thread
        # Guards the three below.
        self._lock = threading.Lock()
        self._active: dict[Call, Optional[Place]] = {}  # None: still in a queue
        self._waiting: dict[str, list[Callable[[], None]]] = {}
        self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed

    def submit(self, call: Call) -> None:
        """From any thread. The reply goes to ``call.sink``."""
        if not self._enter(call, None):
            call.sink.finish(_stopping())
        elif self._sensitivity.wants_main(call):
            self._main.put(lambda lane: self._run_queued(call, lane, None))
        elif self._loop is not None and self._host.is_async(call.tool):
            if self._begin(call, self._loop):
                self._loop.submit(call)
        else:
            self._shared.put(lambda lane: self._run_queued(call, lane, self._loop))

    def execute(self, call: Call) -> Reply:
        """Runs it right here if this thread is a lane, else on one; the reply.

        A call that is given to another lane gets its own sink for that.
        """
        lane: Optional[Lane] = getattr(self._here, "lane", None)
        if lane is None or self._is_for_another(call, lane):
            call.sink = sink = ReplySink()
            self.submit(call)
            return sink.wait()
        if not self._enter(call, lane):
            return _stopping()
        # Without the loop, which could not return the reply here.
        reply = self._run(call, lane, None)
        assert reply is not None
        return reply

    def _is_for_another(self, call: Call, lane: Lane) -> bool:
        if isinstance(lane, MainLane):
            return False
        return self._sensitivity.wants_main(call)

    def post(self, job: Callable[[], None]) -> None:
        """From any thread: a lane will run the job, in turn with calls."""
        self._shared.put(lambda _lane: job())

    def cancel(self, call: Call) -> None:
        """From any thread. A queued call is over at once, a running one is interrupted."""
        call.cancelled = True
        call.sink.close()
        with self._lock:
            if call not in self._active:
                return
            place = self._active[call]
            callbacks = self._forget(call) if place is None else []
        if place is None:
            call.sink.finish(Reply(cancelled=True, error="cancelled"))
            _tell(callbacks)
        elif self._loop is None or not self._loop.interrupt(call):
            place.interrupt(call)  # a lane, which may have passed it on to the loop

    def when_over(self, key: str, callback: Callable[[], None]) -> None:
        """Calls back once no call with that key is queued or running; at once if none is."""
        with self._lock:
            if self._is_active(key):
                self._waiting.setdefault(key, []).append(callback)
                return
        callback()

    def close(self) -> None:
        """Takes no more calls, cancels all, and lets ``serve`` return."""
        with self._lock:
            self._closed = True
            calls = list(self._active)
        for call in calls:
            self.cancel(call)
        self._main.put(None)
        for _ in range(self._threads):
            self._shared.put(None)

    def serve(self) -> None:
        """Runs calls in the main thread until ``close``."""
        workers = [
            threading.Thread(target=self.serve_thread, name=f"tool-{i}", daemon=True)
            for i in range(self._threads)
        ]
        for worker in workers:
            worker.start()
        lane = MainLane()
        self._serve_lane(lane, self._main)
        for worker in workers:
            worker.join()
        if self._loop is not None:
            self._loop.drain()
        self._host.close(lane, self._loop)
        if self._loop is not None:
            self._loop.close()
        lane.close()

    def serve_thread(self) -> None:
        """Runs calls in this thread, not the main one, until ``close``."""
        show_name()
        lane = ThreadLane()
        self._serve_lane(lane, self._shared)
        lane.close()

    def _serve_lane(self, lane: Lane, jobs: Jobs[Optional[Job]]) -> None:
        self._here.lane = lane
        while True:
            job = jobs.get()
            if job is None:
                break
            job(lane)
        while not jobs.empty():  # what came late is told so
            job = jobs.get()
            if job is None:
                jobs.put(None)  # another lane's
                break
            job(lane)

    def _begin(self, call: Call, place: Place) -> bool:
        with self._lock:
            if call not in self._active:
                return False  # cancelled in the queue
            self._active[call] = place
            return True

    def _run_queued(self, call: Call, lane: Lane, loop: Optional[WorkerLoop]) -> None:
        if not self._begin(call, lane):
            return
        reply = self._run(call, lane, loop)
        if reply is not None:
            call.sink.finish(reply)

    def _finish(self, call: Call, reply: Reply) -> None:
        """For the loop."""
        with self._lock:
            callbacks = self._forget(call)
        _tell(callbacks)
        call.sink.finish(reply)

    def _run(self, call: Call, lane: Lane, loop: Optional[WorkerLoop]) -> Optional[Reply]:
        reply: Optional[Reply]
        try:
            reply = self._host.run(call, lane, loop)
        except BaseException as error:  # a bug of ours: the call still ends
            _log.exception("internal error")
            reply = Reply(error=failure.of_call(error, call))
        if reply is not None:
            with self._lock:
                callbacks = self._forget(call)
            _tell(callbacks)
        return reply

    def _enter(self, call: Call, lane: Optional[Lane]) -> bool:
        with self._lock:
            if not self._closed:
                self._active[call] = lane
            return not self._closed

    def _forget(self, call: Call) -> list[Callable[[], None]]:
        """With the lock held: who waited for this call."""
        del self._active[call]
        if call.key in self._waiting and not self._is_active(call.key):
            return self._waiting.pop(call.key)
        return []

    def _is_active(self, key: str) -> bool:
        return any(call.key == key for call in self._active)


def _stopping() -> Reply:
    return Reply(cancelled=True, error="the worker is stopping")


def _tell(callbacks: list[Callable[[], None]]) -> None:
    for callback in callbacks:
        callback()
