"""Heartbeats from Python to the BEAM, for programs that depend on it."""

from __future__ import annotations

import asyncio
import inspect
import os
import random
import re
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Callable, Optional

from ._proto import messages
from .logging_config import get_logger

_log = get_logger(__name__)

_TRUE = frozenset(("1", "true", "t", "yes", "y", "on"))
_FALSE = frozenset(("0", "false", "f", "no", "n", "off", ""))
_ALIASES = {"ping_interval_ms": "interval_ms", "max_missed": "max_missed_heartbeats"}


@dataclass(frozen=True)
class HeartbeatConfig:
    """The same keys as the heartbeat map on the Elixir side."""

    enabled: bool = True
    interval_ms: int = 2000
    timeout_ms: int = 10000
    max_missed_heartbeats: int = 3
    initial_delay_ms: int = 0
    jitter_ms: int = 0
    dependent: bool = True

    @classmethod
    def from_mapping(
        cls,
        options: Optional[Mapping[str, Any]],
        defaults: Optional[HeartbeatConfig] = None,
    ) -> HeartbeatConfig:
        """snake_case or camelCase keys; text is read as numbers and booleans.

        Unknown keys are ignored. Raises ValueError for a value of no sense.
        """
        base = defaults if defaults is not None else cls()
        known = {field.name: field for field in fields(cls)}
        changes: dict[str, Any] = {}
        for key, value in (options or {}).items():
            name = re.sub(r"(?<!^)(?=[A-Z])", "_", str(key)).lower()
            name = _ALIASES.get(name, name)
            if name in known and value is not None:
                read = _boolean if isinstance(getattr(base, name), bool) else _milliseconds
                changes[name] = read(name, value)
        return replace(base, **changes)


def _boolean(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f"heartbeat {name}: {value!r} is neither true nor false")


def _milliseconds(name: str, value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        raise ValueError(f"heartbeat {name}: {value!r} is not a whole number") from None
    if number < 0:
        raise ValueError(f"heartbeat {name}: {value!r} is negative")
    return number


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
