"""Errors and worse, to show what becomes of them."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

from ....base_adapter import tool

_ERRORS: dict[str, type[BaseException]] = {
    "value": ValueError,
    "runtime": RuntimeError,
    "type": TypeError,
    "key": KeyError,
    "index": IndexError,
    "attribute": AttributeError,
    "import": ImportError,
    "module_not_found": ModuleNotFoundError,
    "not_implemented": NotImplementedError,
    "zero_division": ZeroDivisionError,
    "os": OSError,
    "file_not_found": FileNotFoundError,
    "permission": PermissionError,
    "timeout": TimeoutError,
    "memory": MemoryError,
    "recursion": RecursionError,
    "assertion": AssertionError,
    "unicode": UnicodeError,
    "arithmetic": ArithmeticError,
    "overflow": OverflowError,
    "stop_iteration": StopIteration,
    "system_exit": SystemExit,
}


class OtherDemoError(Exception):
    """An exception that has no counterpart in Elixir."""


class FaultTools:
    @tool("Raises the exception of that kind")
    def error_demo(self, error_type: str = "value", message: str = "") -> None:
        kind = _ERRORS.get(error_type.lower(), OtherDemoError)
        raise kind(message or f"demonstration of {error_type}")

    @tool("Ends this worker: exit, kill, segv or abort")
    def crash(self, how: str = "exit", code: int = 3) -> None:
        if how == "exit":
            os._exit(code)
        signals = {"kill": signal.SIGKILL, "segv": signal.SIGSEGV, "abort": signal.SIGABRT}
        if how not in signals:
            raise ValueError(f"unknown way {how!r}; known: abort, exit, kill, segv")
        os.kill(os.getpid(), signals[how])

    @tool("Gives back something that cannot be sent")
    def unserializable(self, **_ignored: Any) -> Any:
        return {"lock": threading.Lock(), "fine": 1}
