"""A worker on shared memory: the extension brings calls, lanes run them."""

from __future__ import annotations

import argparse
import sys
import threading
from typing import TYPE_CHECKING, Any, Optional

from .. import _proto
from ..errors import BridgeError
from ..logging_config import get_logger
from . import failure, local_values, observe, signals
from .announce import announce
from .calls import Reply
from .lanes import INTERRUPT_SIGNAL, Lane, MainLane, ThreadLane, show_name
from .local_calls import LocalCalls
from .local_telemetry import LocalTelemetry
from .options import heartbeat
from .requests import AdapterHost
from .routing import MainQueue, Sensitivity

if TYPE_CHECKING:
    from .._extension import Extension
    from .event_loop import WorkerLoop

_log = get_logger(__name__)

_CANCELLED = '{"type":"cancelled","message":"the call was cancelled"}'


class LocalWorker:
    """Made and run in the main thread, where tools run one at a time.

    With ``--mode threaded`` they run in threads instead, and there only what is
    thread-sensitive; with that or ``--concurrency`` coroutines have a loop.
    """

    def __init__(
        self,
        native: Extension,
        path: str,
        token: str,
        options: argparse.Namespace,
        adapter: Any,
    ) -> None:
        local_values.configure(native)
        _proto.show()
        self._threads = options.max_workers if options.mode == "threaded" else 0
        self._several = self._threads > 0 or options.concurrency > 1
        self._lanes: list[Lane] = [MainLane()]
        self._heartbeat = heartbeat(options)
        try:
            self._link = native.Link(
                path, token, self._several, INTERRUPT_SIGNAL, self._on_cancel
            )
        except (ConnectionError, ValueError) as error:
            raise BridgeError(f"no shared memory with the BEAM: {error}") from error
        self._adapter = adapter
        self._calls = LocalCalls(self._link)
        self._host = AdapterHost(adapter, local=self._calls)
        observe.attach(LocalTelemetry(self._link, native).stream)
        if options.thread_safety_check and self._threads > 0:
            self._host.watch_threads()
        self._sensitivity = Sensitivity()
        self._for_main = MainQueue()
        capacity = max(self._threads, options.concurrency)
        self._loop: Optional[WorkerLoop] = None
        if self._several:
            from .event_loop import WorkerLoop  # large

            self._loop = WorkerLoop(self._host, capacity, _answer)

    def run(self) -> int:
        # The BEAM gives it no calls before.
        announce(self._adapter, self._host, local=self._calls)
        signals.route(self._link.signal_fd)
        if self._heartbeat.enabled and self._heartbeat.dependent:
            self._link.expect_pings(
                self._heartbeat.timeout_ms, self._heartbeat.max_missed_heartbeats
            )
        if self._loop is None:
            self._serve_alone()
        else:
            self._serve_several(self._loop)
        return self._end()

    def _end(self) -> int:
        status: int
        status, why = self._link.ended()
        self._link.close()
        if why is not None:
            print(f"snakepit: {why}", file=sys.stderr)
        return status

    # ---- one at a time ------------------------------------------------------

    def _serve_alone(self) -> None:
        lane, take = self._lanes[0], self._link.take
        while True:
            try:
                call = take(True)
            except Exception:
                _log.exception("a signal handler failed")
                continue
            if call is None:
                break
            self._run(call, lane, None)
        self._host.close(lane)
        lane.close()

    # ---- several ------------------------------------------------------------

    def _serve_several(self, loop: WorkerLoop) -> None:
        if self._threads > 0:
            serve = [(self._serve_thread, f"tool-{n}") for n in range(self._threads)]
        else:
            serve = [(self._distribute, "calls")]
        threads = [
            threading.Thread(target=target, args=(loop,), name=name, daemon=True)
            for target, name in serve
        ]
        for thread in threads:
            thread.start()
        self._serve_main(loop)
        for thread in threads:
            thread.join()
        loop.drain()
        self._host.close(self._lanes[0], loop)
        loop.close()
        self._lanes[0].close()

    def _serve_main(self, loop: WorkerLoop) -> None:
        """What other threads pass on."""
        lane = self._lanes[0]
        while True:
            try:
                call = self._for_main.take()
            except Exception:
                _log.exception("a signal handler failed")
                continue
            if call is None:
                break
            sensitive = self._sensitivity.wants_main(call)
            self._run(call, lane, None if sensitive else loop)

    def _serve_thread(self, loop: WorkerLoop) -> None:
        show_name()
        lane = ThreadLane()
        self._lanes.append(lane)
        while True:
            call = self._link.take(False)
            if call is None:
                break
            if not self._pass_on(call, loop):
                self._run(call, lane, loop)
        self._for_main.stop()
        lane.close()

    def _distribute(self, loop: WorkerLoop) -> None:
        while True:
            call = self._link.take(False)
            if call is None:
                break
            if not self._pass_on(call, loop):
                self._give_main(call)
        self._for_main.stop()

    def _pass_on(self, call: Any, loop: WorkerLoop) -> bool:
        """Whether the call is another thread's from now on."""
        if self._sensitivity.wants_main(call):
            self._give_main(call)
        elif self._host.is_async(call.tool):
            loop.submit(call)
        else:
            return False
        return True

    def _give_main(self, call: Any) -> None:
        self._for_main.put(call)
        if call.cancelled:  # perhaps told before it was there to be found
            self._withdraw(call)

    # ---- calls --------------------------------------------------------------

    def _run(self, call: Any, lane: Lane, loop: Optional[WorkerLoop]) -> None:
        reply: Optional[Reply]
        try:
            reply = self._host.run(call, lane, loop)
        except BaseException as error:  # a bug of ours: the call still ends
            _log.exception("internal error")
            reply = Reply(error=failure.of_call(error, call))
        if reply is not None:
            _answer(call, reply)

    def _withdraw(self, call: Any) -> bool:
        if not self._for_main.withdraw(call):
            return False
        call.fail(_CANCELLED)
        return True

    def _on_cancel(self, number: int) -> None:
        """In a thread of the extension: calls that the main thread has not taken itself."""
        call: Any
        for lane in list(self._lanes):
            call = lane.current
            if call is not None and call.is_call(number):
                lane.interrupt(call)
        if self._loop is None:
            return
        for call in self._for_main.calls():
            if call.is_call(number):
                self._withdraw(call)
        for call in self._loop.calls():
            if call.is_call(number):
                self._loop.interrupt(call)


def _answer(call: Any, reply: Reply) -> None:
    if reply.error is None:
        call.finish()
    else:
        call.fail(_CANCELLED if reply.cancelled else reply.error)
