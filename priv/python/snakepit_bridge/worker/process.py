"""A serving worker: lanes in front, gRPC beside, signals to end it."""

from __future__ import annotations

import argparse
import os
import socket
import threading
from contextlib import suppress
from functools import partial
from typing import Any

from ..errors import BridgeError
from ..logging_config import get_logger
from ..telemetry.stream import TelemetryStream
from . import observe, signals
from .announce import announce
from .beam import BeamLink
from .beam_watch import BeamWatch
from .grpc_server import GrpcServer, LanePool
from .grpc_service import BridgeService
from .options import heartbeat
from .requests import AdapterHost
from .runner import Runner

_log = get_logger(__name__)

# A BEAM that does not listen now looks at the file later.
_BELL_TIMEOUT_S = 0.1

# Tools that do not yield to cancellation get this long after SIGTERM.
_EXIT_GRACE_S = 1.5


class WorkerProcess:
    """Made and run in the main thread."""

    def __init__(self, options: argparse.Namespace, adapter: Any) -> None:
        self._beam = BeamLink(options.elixir_address)
        known_beam = bool(options.elixir_address)
        host = AdapterHost(adapter, self._beam.stub if known_beam else None)
        self._announce = partial(announce, adapter, host, connect=self._beam.stub)
        threads = options.max_workers if options.mode == "threaded" else 0
        if options.thread_safety_check and threads > 0:
            host.watch_threads()
        self._runner = Runner(host, threads, options.concurrency)
        telemetry = TelemetryStream()
        observe.attach(telemetry)
        service = BridgeService(self._runner, self._beam.stub, known_beam, telemetry)
        lanes = LanePool(self._runner) if self._runner.lends_lanes else None
        handler = service.handler(lanes)
        self._server = GrpcServer(handler, options.host, options.port, options.concurrency)
        self._watch = BeamWatch(self._beam.stub, heartbeat(options)) if known_beam else None

    def run(self) -> int:
        if self._watch is not None:
            self._announce()
        port = self._server.start()
        signals.watch(self._stop)
        _write_ready_file(os.environ.get("SNAKEPIT_READY_FILE", ""), port)
        _ring_bell(os.environ.get("SNAKEPIT_READY_BELL", ""))
        _log.info("serving on port %d", port)
        if self._watch is not None:
            self._watch.start()
        self._runner.serve()
        if self._watch is not None:
            self._watch.stop()
        self._server.stop(timeout=1.0)
        self._beam.close()
        return 0

    def _stop(self) -> None:
        timer = threading.Timer(_EXIT_GRACE_S, _leave)
        timer.daemon = True
        timer.start()
        self._runner.close()


def _leave() -> None:
    """A tool did not yield: nothing of the interpreter's own end can be waited for."""
    os._exit(0)


def _write_ready_file(path: str, port: int) -> None:
    """All at once: whoever reads it finds a whole number or nothing."""
    if not path:
        return
    temporary = f"{path}.tmp"
    try:
        with open(temporary, "w", encoding="ascii") as file:
            file.write(str(port))
        os.replace(temporary, path)
    except OSError as error:
        raise BridgeError(
            f"cannot write the ready file {path}: {error.strerror} - free space there, or set "
            "TMPDIR for the VM to another directory"
        ) from error


def _ring_bell(path: str) -> None:
    """Tells the BEAM to look at the ready file now."""
    if not path:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bell:
        bell.settimeout(_BELL_TIMEOUT_S)
        bell.sendto(os.environ.get("SNAKEPIT_WORKER_ID", "").encode(), path)
