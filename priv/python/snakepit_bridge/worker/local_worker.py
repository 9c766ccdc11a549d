"""A worker on shared memory: the extension brings calls, lanes run them."""

from __future__ import annotations

import argparse
import sys
import threading
from typing import Any, Optional

from .. import _proto
from ..errors import BridgeError
from ..logging_config import get_logger
from . import failure, local_values, observe, signals
from .calls import Reply
from .lanes import INTERRUPT_SIGNAL, Lane, MainLane, ThreadLane
from .local_calls import LocalCalls
from .local_telemetry import LocalTelemetry
from .options import heartbeat
from .requests import AdapterHost

_log = get_logger(__name__)

_CANCELLED = '{"type":"cancelled","message":"the call was cancelled"}'


class LocalWorker:
    """Made and run in the main thread.

    Process mode: tools run there. Threaded mode: in threads; only calls marked
    thread-sensitive run in the main thread.
    """

    def __init__(
        self, native: Any, path: str, token: str, options: argparse.Namespace, adapter: Any
    ) -> None:
        local_values.configure(native)
        _proto.show()
        self._threads = options.max_workers if options.mode == "threaded" else 0
        self._lanes: list[Lane] = [MainLane()]
        self._heartbeat = heartbeat(options)
        try:
            self._link = native.Link(
                path, token, self._threads > 0, INTERRUPT_SIGNAL, self._on_cancel
            )
        except (ConnectionError, ValueError) as error:
            raise BridgeError(f"no shared memory with the BEAM: {error}") from error
        self._host = AdapterHost(adapter, local=LocalCalls(self._link))
        observe.attach(LocalTelemetry(self._link, native).stream)

    def run(self) -> int:
        signals.route(self._link.signal_fd)
        if self._heartbeat.enabled and self._heartbeat.dependent:
            self._link.expect_pings(
                self._heartbeat.timeout_ms, self._heartbeat.max_missed_heartbeats
            )
        threads = [
            threading.Thread(target=self._serve_thread, name=f"tool-{n}", daemon=True)
            for n in range(self._threads)
        ]
        for thread in threads:
            thread.start()
        self._serve(self._lanes[0], True)
        for thread in threads:
            thread.join()
        self._host.close(self._lanes[0])
        self._lanes[0].close()
        return self._end()

    def _end(self) -> int:
        status: int
        status, why = self._link.ended()
        self._link.close()
        if why is not None:
            print(f"snakepit: {why}", file=sys.stderr)
        return status

    def _serve_thread(self) -> None:
        lane = ThreadLane()
        self._lanes.append(lane)
        self._serve(lane, False)
        lane.close()

    def _serve(self, lane: Lane, main: bool) -> None:
        take, run = self._link.take, self._host.run
        while True:
            try:
                call = take(main)
            except Exception:
                _log.exception("a signal handler failed")
                continue
            if call is None:
                break
            try:
                reply = run(call, lane)
            except BaseException as error:  # a bug of ours: the call still ends
                _log.exception("internal error")
                reply = Reply(error=_internal(call, error))
            if reply.error is None:
                call.finish()
            else:
                call.fail(_CANCELLED if reply.cancelled else reply.error)

    def _on_cancel(self, number: int) -> None:
        """In a thread of the extension: calls in other lanes than the main one."""
        for lane in self._lanes[1:]:
            call: Optional[Any] = lane.current
            if call is not None and call.is_call(number):
                lane.interrupt(call)


def _internal(call: Any, error: BaseException) -> str:
    return failure.to_json(failure.describe(error, call.tool, call.session_id))
