"""State of sessions: kept in the process, by session id."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

from ....base_adapter import tool


class SessionStore:
    """A dict per session, behind one lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions: dict[str, dict[str, Any]] = {}

    def update(self, session_id: str, values: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            state = self._sessions.setdefault(session_id, {})
            state.update(values)
            return dict(state)

    def add(self, session_id: str, key: str, amount: int) -> Any:
        with self._lock:
            state = self._sessions.setdefault(session_id, {})
            state[key] = state.get(key, 0) + amount
            return state[key]

    def get(self, session_id: str) -> dict[str, Any]:
        with self._lock:
            return dict(self._sessions.get(session_id, {}))

    def drop(self, session_id: str) -> bool:
        with self._lock:
            return self._sessions.pop(session_id, None) is not None


SESSIONS = SessionStore()


class SessionTools:
    @tool("Starts the state of this session afresh")
    def init_session(self, ctx: Any, **values: Any) -> dict[str, Any]:
        SESSIONS.drop(ctx.session_id)
        SESSIONS.update(ctx.session_id, {"counter": 0, "started_at": time.time(), **values})
        return {
            "status": "initialized",
            "session_id": ctx.session_id,
            "worker_pid": str(os.getpid()),
        }

    @tool("Forgets the state of this session")
    def cleanup(self, ctx: Any = None, **_ignored: Any) -> Any:
        """Also the adapter hook of that name, which is called without a context."""
        if ctx is None:
            return None
        existed = SESSIONS.drop(ctx.session_id)
        return {"status": "cleaned_up", "session_id": ctx.session_id, "existed": existed}

    @tool("Sets the counter of this session")
    def set_counter(self, ctx: Any, value: int = 0) -> dict[str, Any]:
        state = SESSIONS.update(ctx.session_id, {"counter": value})
        return {"value": state["counter"], "session_id": ctx.session_id}

    @tool("The counter of this session")
    def get_counter(self, ctx: Any) -> dict[str, Any]:
        value = SESSIONS.get(ctx.session_id).get("counter", 0)
        return {"value": value, "session_id": ctx.session_id}

    @tool("Adds to the counter of this session")
    def increment_counter(self, ctx: Any, amount: int = 1) -> dict[str, Any]:
        value = SESSIONS.add(ctx.session_id, "counter", amount)
        return {"value": value, "session_id": ctx.session_id}

    @tool("Stores a value under a name in this session")
    def set_variable(self, ctx: Any, name: str, value: Any = None) -> dict[str, Any]:
        SESSIONS.update(ctx.session_id, {f"variable:{name}": value})
        return {"name": name, "value": value}

    @tool("The value stored under a name in this session")
    def get_variable(self, ctx: Any, name: str) -> Any:
        state = SESSIONS.get(ctx.session_id)
        if f"variable:{name}" not in state:
            raise KeyError(f"session {ctx.session_id!r} has no variable {name!r}")
        return state[f"variable:{name}"]

    @tool("Which worker this is")
    def get_worker_info(self, ctx: Any, call_number: Any = None) -> dict[str, Any]:
        return {
            "worker_pid": str(os.getpid()),
            "call_number": call_number,
            "session_id": ctx.session_id,
        }
