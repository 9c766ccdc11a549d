"""How long adapters live: for one request, for a session, or as long as the process."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, Callable, Optional

from ..base_adapter import LIFETIMES, BaseAdapter
from ..errors import BridgeError

_DEFAULT_TTL_S = 3600.0
_DEFAULT_SESSIONS = 1000

# Who waits for another's initialize() looks so often whether it is cancelled.
_LOOK_S = 0.1


def lifetime_of(adapter: Any) -> str:
    """What the class declares. Raises BridgeError for what nothing is known of."""
    if not isinstance(adapter, type):
        return "request"
    declared = getattr(adapter, "lifetime", "request")
    if declared in LIFETIMES:
        return str(declared)
    if isinstance(declared, str) and issubclass(adapter, BaseAdapter):
        allowed = ", ".join(repr(name) for name in LIFETIMES)
        raise BridgeError(
            f"cannot use adapter {adapter.__name__}: its lifetime is {declared!r}; "
            f"it has to be one of {allowed}"
        )
    return "request"  # an attribute of the user's own, of another meaning


class Held:
    """An adapter that serves more than one request."""

    def __init__(self, key: str) -> None:
        self.key = key
        # None until its initialize() has returned.
        self.adapter: Any = None
        # Guards the owner: the request that makes the adapter.
        self._changed = threading.Condition()
        self._owner: Any = None
        # Guarded by the lock of Lifetimes.
        self.users = 0
        self.used_at = 0.0
        self.ended = False  # its session has, while it was in use

    def claim(self, request: Any, is_cancelled: Callable[[], bool]) -> None:
        """Returns when there is an adapter, or when ``request`` is the one to make it."""
        with self._changed:
            while self.adapter is None and self._owner not in (None, request):
                if is_cancelled():
                    return
                self._changed.wait(_LOOK_S)
            if self.adapter is None:
                self._owner = request

    def keep(self, adapter: Any) -> None:
        with self._changed:
            self.adapter = adapter
            self._changed.notify_all()

    def disown(self, request: Any) -> None:
        with self._changed:
            if self._owner is request:
                self._owner = None
                self._changed.notify_all()


class Lifetimes:
    """The adapters of one worker that are kept, by session or under one key.

    ``enter`` and ``leave`` are called where nothing interrupts.
    """

    def __init__(self, kind: type, lifetime: str) -> None:
        self.by_session = lifetime == "session"
        self._ttl = _number(kind, "session_ttl", _DEFAULT_TTL_S)
        self._most = _number(kind, "max_sessions", _DEFAULT_SESSIONS)
        # Guards what follows, and ``users`` and ``used_at`` of each.
        self._lock = threading.Lock()
        self._held: OrderedDict[str, Held] = OrderedDict()  # the last used at the end

    def enter(self, session_id: str) -> Held:
        key = session_id if self.by_session else ""
        with self._lock:
            held = self._held.get(key)
            if held is None:
                held = self._held[key] = Held(key)
            held.users += 1
            self._held.move_to_end(key)
        return held

    def leave(self, held: Held, request: Any) -> list[Any]:
        """Adapters that are not kept any more, to be cleaned up."""
        held.disown(request)
        now = time.monotonic()
        with self._lock:
            held.users -= 1
            held.used_at = now
            if held.ended:
                return [held.adapter] if held.users == 0 and held.adapter is not None else []
            if held.adapter is None and held.users == 0:
                self._held.pop(held.key, None)
            return self._expired(now) if self.by_session else []

    def end(self, session_ids: Iterable[str]) -> list[Any]:
        """Those of sessions that are over, to be cleaned up; one in use goes with its user."""
        unused: list[Any] = []
        with self._lock:
            for session_id in session_ids:
                held = self._held.pop(session_id, None) if self.by_session else None
                if held is None:
                    continue
                held.ended = True
                if held.users == 0 and held.adapter is not None:
                    unused.append(held.adapter)
        return unused

    def _expired(self, now: float) -> list[Any]:
        ended: list[Held] = []
        for held in self._held.values():
            over = len(self._held) - len(ended) > self._most
            if not over and now - held.used_at < self._ttl:
                break
            if held.users == 0:
                ended.append(held)
        for held in ended:
            del self._held[held.key]
        return [held.adapter for held in ended]

    def close(self) -> list[Any]:
        """All of them, when no request is served any more."""
        with self._lock:
            adapters = [h.adapter for h in self._held.values() if h.adapter is not None]
            self._held.clear()
        return adapters


def lifetimes(adapter: Any) -> Optional[Lifetimes]:
    """None where every request gets an adapter of its own."""
    lifetime = lifetime_of(adapter)
    return None if lifetime == "request" else Lifetimes(adapter, lifetime)


def _number(kind: type, name: str, default: float) -> float:
    value = getattr(kind, name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise BridgeError(
            f"cannot use adapter {kind.__name__}: its {name} is {value!r}; "
            "it has to be a number above 0"
        )
    return value
