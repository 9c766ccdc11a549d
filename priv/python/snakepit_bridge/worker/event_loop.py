"""The event loop of a worker that runs several calls at a time.

It has a thread of its own, so that tools that are no coroutines do not hold it
up, and lives as long as the worker. Each call is a task with a context of its
own.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent import futures
from typing import Any, Callable, Optional

from ..logging_config import get_logger
from . import failure
from .async_requests import AsyncRequest
from .calls import Call, Reply
from .lanes import ThreadLane, show_name
from .requests import AdapterHost, Request

_log = get_logger(__name__)

# Threads for what tools do by ``asyncio.to_thread``, beside the waits of each call.
_SPARE_THREADS = 64
# Tasks that a tool left behind get this long after the last call.
_LAST_WORDS_S = 0.5


class WorkerLoop:
    """Started by the first coroutine. ``finish`` is called in the loop's thread."""

    def __init__(
        self, host: AdapterHost, capacity: int, finish: Callable[[Call, Reply], None]
    ) -> None:
        self._host = host
        self._finish = finish
        self._threads = 2 * capacity + _SPARE_THREADS
        # Guards the four below; notified when a call is over.
        self._changed = threading.Condition()
        self._requests: dict[Call, AsyncRequest] = {}
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._lane: Optional[ThreadLane] = None
        self._thread: Optional[threading.Thread] = None

    def submit(self, call: Call) -> None:
        """From any thread: runs the call from its beginning."""
        loop, lane = self._running()
        self._start(loop, AsyncRequest(self._host, call, lane))

    def go_on(self, begun: Request, value: Any) -> None:
        """From any thread: the tool of a request has returned ``value``, to be awaited."""
        loop, lane = self._running()
        request = AsyncRequest(self._host, begun.call, lane)
        request.go_on(begun, value)
        self._start(loop, request)

    def calls(self) -> list[Call]:
        with self._changed:
            return list(self._requests)

    def interrupt(self, call: Call) -> bool:
        """From any thread: cancels the task of a cancelled call; False when it is not here."""
        with self._changed:
            request, loop, lane = self._requests.get(call), self._loop, self._lane
        if request is None or loop is None or lane is None:
            return False
        lane.interrupt_task(call, loop, request.cancel)
        return True

    def future(self, coroutine: Coroutine[Any, Any, Any]) -> futures.Future[Any]:
        """From any other thread: runs something that is no call."""
        loop, _lane = self._running()
        return asyncio.run_coroutine_threadsafe(coroutine, loop)

    def drain(self) -> None:
        """Waits for the calls, which have to be cancelled."""
        with self._changed:
            while self._requests:
                self._changed.wait()

    def close(self) -> None:
        """After ``drain``: ends the loop."""
        with self._changed:
            loop, thread = self._loop, self._thread
        if loop is not None and thread is not None:
            future = asyncio.run_coroutine_threadsafe(_end_tasks(), loop)
            futures.wait((future,), timeout=_LAST_WORDS_S)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(_LAST_WORDS_S)

    def _running(self) -> tuple[asyncio.AbstractEventLoop, ThreadLane]:
        with self._changed:
            if self._loop is None or self._lane is None:
                ready = threading.Event()
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._run, args=(ready,), name="event-loop", daemon=True
                )
                self._thread.start()
                ready.wait()
                assert self._lane is not None
            return self._loop, self._lane

    def _run(self, ready: threading.Event) -> None:
        loop = self._loop
        assert loop is not None
        asyncio.set_event_loop(loop)
        loop.set_default_executor(
            futures.ThreadPoolExecutor(self._threads, thread_name_prefix="async")
        )
        show_name()
        self._lane = ThreadLane()
        ready.set()
        while True:
            try:
                loop.run_forever()
                break
            except BaseException:  # SystemExit in a task that a tool made
                _log.exception("a task of a tool tried to end the event loop")

    def _start(self, loop: asyncio.AbstractEventLoop, request: AsyncRequest) -> None:
        with self._changed:
            self._requests[request.call] = request
        loop.call_soon_threadsafe(self._begin, loop, request)

    def _begin(self, loop: asyncio.AbstractEventLoop, request: AsyncRequest) -> None:
        request.task = loop.create_task(self._serve(request))

    async def _serve(self, request: AsyncRequest) -> None:
        call = request.call
        try:
            reply = await request.run_async()
        except BaseException as error:  # a bug of ours: the call still ends
            _log.exception("internal error")
            reply = Reply(error=failure.of_call(error, call))
        with self._changed:
            del self._requests[call]
            self._changed.notify_all()
        self._finish(call, reply)


async def _end_tasks() -> None:
    loop = asyncio.get_running_loop()
    tasks = asyncio.all_tasks(loop) - {asyncio.current_task(loop)}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await loop.shutdown_asyncgens()
