"""Finds adapters that are less thread-safe than they say.

At run time a checker sees which methods several threads are in at once
(``track_execution``); from the code alone ``check_common_pitfalls`` finds state
that a class shares without a lock. Both can only warn: what is a race, only the
author knows. The worker does both with ``--thread-safety-check``, which is the
pool's option ``thread_safety_checks: true``.
"""

from __future__ import annotations

import dis
import functools
import inspect
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType, ModuleType
from typing import Any, Callable, Optional, TypeVar

from .base_adapter_threaded import validate_thread_safety
from .logging_config import get_logger

__all__ = [
    "ThreadSafetyChecker",
    "ThreadSafetyError",
    "check_common_pitfalls",
    "check_thread_safe",
    "disable_checking",
    "enable_checking",
    "get_global_checker",
    "print_thread_safety_report",
    "require_thread_safe_adapter",
    "validate_adapter_thread_safety",
]

_F = TypeVar("_F", bound=Callable[..., Any])

log = get_logger(__name__)

UNSAFE_LIBRARIES = {
    "matplotlib": "its figures and the pyplot state are shared by all threads",
    "sqlite3": "a connection belongs to the thread that opened it",
    "pandas": "a DataFrame must not be changed while another thread reads it",
}

_MUTABLE = (list, dict, set, bytearray, deque)
_MAX_WARNINGS = 1000


class ThreadSafetyError(RuntimeError):
    """What a strict checker raises in place of a warning."""


class ThreadSafetyChecker:
    """Counts which threads are in which methods. Each warning is issued once."""

    def __init__(self, enabled: bool = True, strict_mode: bool = False) -> None:
        self.enabled = enabled
        self.strict_mode = strict_mode
        self._lock = threading.Lock()  # guards all below
        self._inside: dict[str, dict[int, int]] = {}
        self._calls: dict[str, int] = {}
        self._most: dict[str, int] = {}
        self._threads: dict[str, set[int]] = {}
        self._concurrent: dict[str, int] = {}
        self._warned: dict[str, str] = {}

    def check_method_access(self, method_name: str, thread_safe: bool = False) -> bool:
        """Notes an access; False when other threads are in a method that is not safe."""
        if not self.enabled:
            return True
        thread = threading.get_ident()
        with self._lock:
            self._calls[method_name] = self._calls.get(method_name, 0) + 1
            self._threads.setdefault(method_name, set()).add(thread)
            others = len([t for t in self._inside.get(method_name, ()) if t != thread])
            self._most[method_name] = max(self._most.get(method_name, 0), others + 1)
            if others:
                self._concurrent[method_name] = self._concurrent.get(method_name, 0) + 1
        if not others or thread_safe:
            return True
        self._warn(
            f"method:{method_name}",
            f"{method_name} runs in {others + 1} threads at once, and is not marked "
            "@thread_safe_method: guard what it shares with acquire_lock(), then mark it",
        )
        return False

    def check_library_safety(self, library_name: str) -> bool:
        """False, and a warning, for a library that is known not to be thread-safe."""
        why = UNSAFE_LIBRARIES.get(library_name.partition(".")[0].lower())
        if why is None or not self.enabled:
            return why is None
        self._warn(
            f"library:{library_name}",
            f"{library_name} is not thread-safe: {why}; use it under a lock, in calls with "
            "thread_sensitive: true, or in the process profile",
        )
        return False

    @contextmanager
    def track_execution(self, method_name: str, thread_safe: bool = False) -> Iterator[None]:
        """While it lasts this thread is in the method."""
        if not self.enabled:
            yield
            return
        self.check_method_access(method_name, thread_safe)
        thread = threading.get_ident()
        with self._lock:
            inside = self._inside.setdefault(method_name, {})
            inside[thread] = inside.get(thread, 0) + 1
        try:
            yield
        finally:
            with self._lock:
                left = inside[thread] - 1
                if left:
                    inside[thread] = left
                else:
                    del inside[thread]

    def add_warning(self, text: str) -> None:
        if self.enabled:
            self._warn(text, text)

    def get_report(self) -> dict[str, Any]:
        with self._lock:
            return {
                "enabled": self.enabled,
                "strict_mode": self.strict_mode,
                "tracked_methods": len(self._calls),
                "warnings_issued": len(self._warned),
                "concurrent_accesses": dict(self._concurrent),
                "warnings": list(self._warned.values()),
                "methods": {
                    name: {
                        "calls": calls,
                        "threads": len(self._threads[name]),
                        "most_at_once": self._most[name],
                        "concurrent_accesses": self._concurrent.get(name, 0),
                    }
                    for name, calls in self._calls.items()
                },
            }

    def reset(self) -> None:
        """Forgets all but who is in which method now."""
        with self._lock:
            for counts in (self._calls, self._most, self._concurrent):
                counts.clear()
            self._threads.clear()
            self._warned.clear()

    def _warn(self, key: str, text: str) -> None:
        with self._lock:
            new = key not in self._warned and len(self._warned) < _MAX_WARNINGS
            if new:
                self._warned[key] = text
        if self.strict_mode:
            raise ThreadSafetyError(text)
        if new:
            log.warning("thread safety: %s", text)


_checker = ThreadSafetyChecker(enabled=False)


def get_global_checker() -> ThreadSafetyChecker:
    """The one that ``check_thread_safe`` and the worker use; off until it is enabled."""
    return _checker


def enable_checking(strict_mode: bool = False) -> ThreadSafetyChecker:
    _checker.enabled = True
    _checker.strict_mode = strict_mode
    return _checker


def disable_checking() -> None:
    _checker.enabled = False


def check_thread_safe(function: _F) -> _F:
    """Has the global checker track the calls of a function."""
    name = getattr(function, "__qualname__", repr(function))
    safe = is_marked(function)

    @functools.wraps(function)
    def tracked(*args: Any, **kwargs: Any) -> Any:
        with _checker.track_execution(name, safe):
            return function(*args, **kwargs)

    return tracked  # type: ignore[return-value]


def is_marked(function: Any) -> bool:
    return getattr(function, "__thread_safe__", None) is True


def require_thread_safe_adapter(adapter_class: type) -> type:
    """A class decorator: ValueError for one that does not declare itself thread-safe."""
    if not validate_thread_safety(adapter_class):
        raise ValueError(
            f"{adapter_class.__name__} is not thread-safe: set __thread_safe__ = True or "
            "derive it from ThreadSafeAdapter"
        )
    return adapter_class


def validate_adapter_thread_safety(adapter: Any) -> list[str]:
    """What speaks against running the adapter in threads; empty when nothing does."""
    kind = _class_of(adapter)
    found = []
    if not validate_thread_safety(kind):
        found.append(
            f"{kind.__name__} does not declare itself thread-safe: set __thread_safe__ = True "
            "or derive it from ThreadSafeAdapter"
        )
    return found + check_common_pitfalls(adapter)


def check_common_pitfalls(adapter: Any) -> list[str]:
    """State that all threads share and no lock guards, as far as the code shows it."""
    kind = _class_of(adapter)
    found = []
    for owner in _own_classes(kind):
        for name, value in vars(owner).items():
            if isinstance(value, _MUTABLE) and not name.startswith("__"):
                found.append(
                    f"{owner.__name__}.{name} is a {type(value).__name__} that all requests "
                    "share: change it under acquire_lock()"
                )
        for name, value in vars(owner).items():
            function = inspect.unwrap(getattr(value, "__func__", value))
            if isinstance(function, FunctionType):
                found.extend(_in_function(f"{owner.__name__}.{name}", function))
    return found


def print_thread_safety_report(checker: Optional[ThreadSafetyChecker] = None) -> None:
    """To stderr."""
    report = (checker or _checker).get_report()
    lines = [f"thread safety: {report['tracked_methods']} methods tracked"]
    for name, method in sorted(report["methods"].items()):
        lines.append(
            f"  {name}: {method['calls']} calls, {method['threads']} threads, "
            f"at most {method['most_at_once']} at once"
        )
    lines.extend(f"  warning: {text}" for text in report["warnings"])
    print("\n".join(lines), file=sys.stderr)


# ---- in the code ----------------------------------------------------------------------


def _class_of(adapter: Any) -> Any:
    return adapter if isinstance(adapter, (type, ModuleType)) else type(adapter)


def _own_classes(kind: Any) -> list[Any]:
    """The class and its bases but ours; a module stands for itself."""
    if isinstance(kind, ModuleType):
        return [kind]
    return [
        base
        for base in kind.__mro__
        if base is not object
        and base.__module__
        not in (
            "snakepit_bridge.base_adapter",
            "snakepit_bridge.base_adapter_threaded",
        )
    ]


def _in_function(where: str, function: FunctionType) -> Iterator[str]:
    names = function.__code__.co_names
    if any("lock" in name.lower() or "mutex" in name.lower() for name in names):
        return  # it thinks of it
    instructions = list(dis.get_instructions(function))
    for name in sorted({str(i.argval) for i in instructions if i.opname == "STORE_GLOBAL"}):
        yield f"{where} sets the global {name!r} without a lock: use acquire_lock()"
    loaded = {str(i.argval) for i in instructions if i.opname == "LOAD_GLOBAL"}
    for name in sorted(loaded):
        value = function.__globals__.get(name)
        if isinstance(value, _MUTABLE):
            yield (
                f"{where} uses the global {name!r}, a {type(value).__name__} that all threads "
                "share, without a lock: use acquire_lock()"
            )
