"""Events for the BEAM over shared memory.

A stream is a row of requests there: with the first byte 0 the worker asks what
the BEAM wants of it, and gets the answer when that is not what it knows; with 1
it sends events, and the next when those have been taken. All is CBOR.

The thread that does this starts with the first event: a worker that has none
is none the heavier.
"""

from __future__ import annotations

import os
import struct
import threading
from typing import TYPE_CHECKING, Any, Optional

from ..logging_config import get_logger
from ..telemetry.stream import Control, TelemetryStream

if TYPE_CHECKING:
    from .._extension import Extension, Link

_log = get_logger(__name__)

STREAM_TELEMETRY = 11  # its place in the service
_WANTED, _EVENTS = b"\0", b"\1"
_AT_A_TIME = 256
_VERSION = struct.Struct("<Q")


class LocalTelemetry:
    """The pump between a stream and the link."""

    def __init__(self, link: Link, native: Extension) -> None:
        self._link = link
        self._native = native
        self._lock = threading.Lock()  # guards _thread
        self._thread: Optional[threading.Thread] = None
        self._woken = False
        self._writer = -1
        self.stream = TelemetryStream(on_event=self._wake)

    def _wake(self) -> None:
        if self._thread is None:
            self._start()
        if not self._woken:
            self._woken = True
            self._ring()

    def _ring(self) -> None:
        try:
            os.write(self._writer, b"\0" * 8)
        except BlockingIOError:
            return  # enough is there to wake it

    def _start(self) -> None:
        with self._lock:
            if self._thread is not None:
                return
            reader, self._writer = os.pipe()
            os.set_blocking(self._writer, False)
            thread = threading.Thread(
                target=self._run, args=(reader,), name="telemetry", daemon=True
            )
            thread.start()
            self._thread = thread

    def _run(self, reader: int) -> None:
        try:
            self._pump(reader)
        except ConnectionError:
            pass  # the worker is about to end
        except Exception:
            _log.exception("no more telemetry from this worker")
        self.stream.close()

    def _pump(self, reader: int) -> None:
        wanted, version = self._ask(0), 0
        sending: Any = None
        while True:
            os.read(reader, 4096)
            self._woken = False  # before looking: what comes after it rings again
            if wanted.done:
                version = self._apply(_reply(wanted))
                wanted = self._ask(version)
            if sending is not None and sending.done:
                _reply(sending)
                sending = None
            if sending is None and version > 0:
                events = self.stream.take(_AT_A_TIME)
                if events:
                    data = self._native.encode([list(event) for event in events])
                    sending = self._request(_EVENTS + data)

    def _ask(self, version: int) -> Any:
        return self._request(_WANTED + _VERSION.pack(version))

    def _request(self, data: bytes) -> Any:
        request = self._link.request(STREAM_TELEMETRY, data)
        request.notify(self._writer)
        return request

    def _apply(self, reply: tuple[int, bytes]) -> int:
        status, data = reply
        if status != 0:
            raise RuntimeError(f"the BEAM takes no events: {data.decode('utf-8', 'replace')}")
        said = self._native.decode(data)
        rates = [(str(glob), float(rate)) for glob, rate in said["rates"]]
        self.stream.set_control(
            Control(said["enabled"], float(said["rate"]), rates, said["allow"], said["deny"])
        )
        version: int = said["version"]
        return version


def _reply(request: Any) -> Any:
    """Of a request that is done: ConnectionError when there will be none."""
    request.wait(None, 0)
    return request.reply()
