"""Notices that the BEAM does not answer any more, whatever tools do meanwhile."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any, Callable, Optional

from .._heartbeat_config import HeartbeatConfig
from .._proto import messages
from ..logging_config import get_logger

_log = get_logger(__name__)


class BeamWatch:
    """Pings the BEAM from a thread of its own.

    After ``max_missed_heartbeats`` pings in a row without an answer it calls
    ``on_lost``, by default SIGTERM to this process, if the worker is dependent;
    else it says so and goes on.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        config: HeartbeatConfig,
        on_lost: Optional[Callable[[], None]] = None,
    ) -> None:
        self._connect = connect
        self._config = config
        self._on_lost = on_lost if on_lost is not None else _terminate
        self._stopped = threading.Event()
        self._thread: Optional[threading.Thread] = None
        self.missed = 0

    def start(self) -> bool:
        """False when heartbeats are off."""
        if not self._config.enabled:
            return False
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()
        return True

    def stop(self) -> None:
        self._stopped.set()

    def join(self) -> None:
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        pause = self._config.initial_delay_ms / 1000
        while not self._stopped.wait(pause):
            pause = self._config.interval_ms / 1000
            self.missed = 0 if self._ping() else self.missed + 1
            if self.missed >= max(self._config.max_missed_heartbeats, 1) and self._lost():
                return

    def _ping(self) -> bool:
        request = messages().PingRequest(message="heartbeat")
        try:
            # A connection that is refused or broken gets its time too.
            self._connect().Ping(
                request, timeout=self._config.timeout_ms / 1000, wait_for_ready=True
            )
        except Exception as error:
            if not self._stopped.is_set():
                _log.warning("the BEAM does not answer a heartbeat: %s", error)
            return False
        return True

    def _lost(self) -> bool:
        """True when there is nothing more to ask for."""
        if self._stopped.is_set():
            return True
        _log.error("the BEAM answered none of %d heartbeats", self.missed)
        if self._config.dependent:
            self._on_lost()
            return True
        self.missed = 0
        return False


def _terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
