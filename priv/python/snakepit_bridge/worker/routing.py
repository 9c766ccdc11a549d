"""Which calls are the main thread's, and how they get there."""

from __future__ import annotations

import os
import queue
import threading
from typing import Any, Optional

from .calls import Call

SENSITIVE_VARIABLE = "SNAKEPIT_THREAD_SENSITIVE"

_TRUE = frozenset(("1", "true", "t", "yes", "y", "on"))
_MODULE_KEYS = ("module_path", "python_module", "library")
_FUNCTION_KEYS = ("function", "method")


class Sensitivity:
    """Calls marked thread-sensitive, or that call what the environment names.

    That is a list of ``module`` and ``module.function`` with commas between.
    """

    def __init__(self, names: Optional[str] = None) -> None:
        text = os.environ.get(SENSITIVE_VARIABLE, "") if names is None else names
        self._names = frozenset(name.strip() for name in text.split(",") if name.strip())

    def wants_main(self, call: Call) -> bool:
        if call.metadata.get("thread_sensitive", "").strip().lower() in _TRUE:
            return True
        return bool(self._names) and self._is_named(call)

    def _is_named(self, call: Call) -> bool:
        try:
            arguments = call.parameters()
        except Exception:  # who runs the call says what is wrong with them
            return False
        functions = _texts(arguments, _FUNCTION_KEYS)
        for module in _texts(arguments, _MODULE_KEYS):
            if module in self._names or any(f"{module}.{f}" in self._names for f in functions):
                return True
        return False


def _texts(arguments: dict[str, Any], keys: tuple[str, ...]) -> list[str]:
    return [arguments[key] for key in keys if isinstance(arguments.get(key), str)]


class MainQueue:
    """Calls that other threads pass on to the main one."""

    def __init__(self) -> None:
        # Its wait runs signal handlers.
        self._jobs: queue.SimpleQueue[Optional[Call]] = queue.SimpleQueue()
        # Guards those that are not begun.
        self._lock = threading.Lock()
        self._waiting: set[Call] = set()

    def put(self, call: Call) -> None:
        with self._lock:
            self._waiting.add(call)
        self._jobs.put(call)

    def take(self) -> Optional[Call]:
        """The next one; None after ``stop``."""
        while True:
            call = self._jobs.get()
            if call is None or self.withdraw(call):
                return call

    def withdraw(self, call: Call) -> bool:
        """False when the call has been begun, or was withdrawn before."""
        with self._lock:
            found = call in self._waiting
            self._waiting.discard(call)
            return found

    def calls(self) -> list[Call]:
        with self._lock:
            return list(self._waiting)

    def stop(self) -> None:
        self._jobs.put(None)
