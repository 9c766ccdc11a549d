"""Heartbeats from Python to the BEAM, for programs that depend on it."""

from __future__ import annotations

import asyncio
import inspect
import os
import random
import signal
import sys
import time
from typing import Any, Callable, Optional

from ._heartbeat_config import HeartbeatConfig
from ._proto import messages
from .logging_config import get_logger

__all__ = ["HeartbeatClient", "HeartbeatConfig"]

_log = get_logger(__name__)


class HeartbeatClient:
    """Asks the BEAM at intervals whether a session is still valid.

    After ``max_missed_heartbeats`` failures in a row it calls
    ``on_threshold_exceeded``, by default SIGTERM to this process when
    ``dependent``. The stub may be synchronous or that of ``grpc.aio``.
    """

    def __init__(
        self,
        stub: Any,
        session_id: str,
        config: Optional[HeartbeatConfig] = None,
        *,
        loop: Optional[asyncio.AbstractEventLoop] = None,
        on_threshold_exceeded: Optional[Callable[[], Any]] = None,
    ) -> None:
        self._stub = stub
        self._session_id = session_id
        self._config = config if config is not None else HeartbeatConfig()
        self._loop = loop
        self._on_threshold_exceeded = on_threshold_exceeded
        self._task: Optional[asyncio.Task[None]] = None
        self._missed = 0
        self._last_ping: Optional[float] = None
        self._last_success: Optional[float] = None

    def start(self) -> bool:
        """True when it beats; False when disabled or started before."""
        if not self._config.enabled or (self._task is not None and not self._task.done()):
            return False
        loop = self._loop if self._loop is not None else asyncio.get_running_loop()
        self._task = loop.create_task(self._beat())
        return True

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is None or task is asyncio.current_task():
            return
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def status(self) -> dict[str, Any]:
        return {
            "enabled": self._config.enabled,
            "missed_heartbeats": self._missed,
            "last_ping_monotonic": self._last_ping,
            "last_success_monotonic": self._last_success,
            "running": self._task is not None and not self._task.done(),
            "dependent": self._config.dependent,
        }

    async def ping_once(self) -> bool:
        """One heartbeat; whether the BEAM answered and knows the session."""
        self._last_ping = time.monotonic()
        try:
            valid = await asyncio.wait_for(self._ask(), self._config.timeout_ms / 1000)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            _log.warning("heartbeat of session %s failed: %s", self._session_id, error)
            valid = False
        if valid:
            self._missed = 0
            self._last_success = time.monotonic()
        else:
            self._missed += 1
        return valid

    async def _ask(self) -> bool:
        request = messages().HeartbeatRequest(session_id=self._session_id)
        request.client_time.GetCurrentTime()
        method, timeout = self._stub.Heartbeat, self._config.timeout_ms / 1000
        if _is_asynchronous(method):
            response = await method(request, timeout=timeout)
        else:  # must not hold up the loop
            loop = asyncio.get_running_loop()
            response = await loop.run_in_executor(None, lambda: method(request, timeout=timeout))
        return bool(response.session_valid)

    async def _beat(self) -> None:
        await asyncio.sleep(self._config.initial_delay_ms / 1000)
        while True:
            await self.ping_once()
            if self._missed >= max(self._config.max_missed_heartbeats, 1):
                if await self._threshold_exceeded():
                    return
                self._missed = 0
            jitter = random.uniform(0, self._config.jitter_ms)
            await asyncio.sleep((self._config.interval_ms + jitter) / 1000)

    async def _threshold_exceeded(self) -> bool:
        """True when there is nothing more to beat for."""
        _log.error("session %s: %d heartbeats missed", self._session_id, self._missed)
        if self._on_threshold_exceeded is not None:
            result = self._on_threshold_exceeded()
            if inspect.isawaitable(result):
                await result
        elif self._config.dependent:
            os.kill(os.getpid(), signal.SIGTERM)
        return self._config.dependent


def _is_asynchronous(method: Any) -> bool:
    aio = sys.modules.get("grpc.aio")
    if aio is not None and isinstance(method, aio.UnaryUnaryMultiCallable):
        return True
    return inspect.iscoroutinefunction(method)
