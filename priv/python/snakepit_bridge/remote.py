"""Any Python, called from Elixir without an adapter: guides/python.md.

Reached by commands of their own, before any adapter, and only where the pool
allows it: then the environment holds a key, which each of them must show. What
goes to and fro is in lib/snakepit/python/wire.ex.
"""

from __future__ import annotations

import builtins
import datetime
import hmac
import importlib
import inspect
import os
import sys
import threading
from array import array
from collections import deque
from collections.abc import Coroutine, Iterable
from types import ModuleType
from typing import Any, Callable, Optional, Protocol

from .errors import EncodeError, ToolCancelled
from .logging_config import get_logger
from .zero_copy import ZeroCopyRef

PREFIX = "snakepit.python."
KEY_VARIABLE = "SNAKEPIT_PYTHON_KEY"
WORKER_VARIABLE = "SNAKEPIT_WORKER_ID"

_MARKER = "__snakepit_ref__"
# Of so many it is still known that they were there.
_REMEMBERED = 4096

_TIMES = (datetime.date, datetime.datetime, datetime.time)
_SCALARS = frozenset((str, int, float, bool, type(None), bytes, bytearray, array, *_TIMES))
_CONTAINERS = frozenset((list, tuple, dict, set, frozenset))


class RunningCall(Protocol):
    """What is needed of a call of either carrier."""

    tool: str
    cancelled: bool

    def parameters(self) -> dict[str, Any]: ...

    def result(self, value: Any) -> Any: ...


class RunningLane(Protocol):
    def disarm(self) -> None: ...

    def run_coroutine(self, coroutine: Coroutine[Any, Any, Any]) -> Any: ...


class _Refusal(Exception):
    """Not an error of the code that was called; the text is for Wire.refused."""


_REFUSALS = {
    "released": "the Python object was released, or its session has ended",
    "unknown": "the worker has no such Python object: the ref is not one that it gave, "
    "or was released long ago",
    "process": "the process that held the Python object has ended; make the object again",
}


class RefRefused(LookupError):
    """An object among the arguments of an adapter's tool is not there."""

    def __init__(self, reason: str, worker: str) -> None:
        super().__init__(_REFUSALS[reason])
        self.reason = reason
        self.worker = worker


class _Entry:
    """An object that stays, and the session that it stays for."""

    __slots__ = ("error", "session", "value")

    def __init__(self, value: Any, session: Optional[str]) -> None:
        self.value = value
        self.session = session
        self.error: Optional[Exception] = None  # of an iterator, for the next question


class Remote:
    """The objects of one worker process, and what may be done with them."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()
        self._worker = os.environ.get(WORKER_VARIABLE, "")
        # Names of a process that has ended mean nothing to the next one.
        self._process = os.urandom(8).hex()
        # Guards the three below; no object is let go of while it is held.
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}
        self._namespaces: dict[str, ModuleType] = {}
        self._released: deque[str] = deque(maxlen=_REMEMBERED)
        self._commands: dict[str, Callable[[dict[str, Any]], Any]] = {
            "call": self._call,
            "eval": self._eval,
            "exec": self._exec,
            "value": self._value,
            "iter": self._iter,
        }

    def resolve(self, process: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Arguments of a tool, with the objects that are named in them. Raises RefRefused."""
        try:
            if process != self._process:
                raise _Refusal("process")
            return {key: self._resolved(value) for key, value in arguments.items()}
        except _Refusal as refusal:
            raise RefRefused(str(refusal), self._worker) from None

    def run(self, call: RunningCall, lane: RunningLane) -> Any:
        """The reply of the carrier. Raises what the code that is called raises."""
        arguments = call.parameters()
        shown = arguments.get("key")
        if not isinstance(shown, str) or not hmac.compare_digest(shown.encode(), self._key):
            raise not_allowed(call.tool)
        command = call.tool[len(PREFIX) :]
        try:
            if arguments.get("process") not in (None, self._process):
                raise _Refusal("process")
            if command == "release":
                return call.result({"value": self._release(arguments, lane)})
            if arguments.get("refs"):
                for name in ("target", "args", "kwargs", "vars", "in"):
                    if name in arguments:
                        arguments[name] = self._resolved(arguments[name])
            if command == "next":
                return self._next(call, lane, arguments)
            if command not in self._commands:
                raise not_allowed(call.tool)
            value = self._commands[command](arguments)
            if command != "iter" and inspect.isawaitable(value):
                value = lane.run_coroutine(_await(value))
            return self._reply(call, lane, arguments, value)
        except _Refusal as refusal:
            return call.result({"refused": str(refusal)})

    # ---- commands ---------------------------------------------------------

    def _call(self, arguments: dict[str, Any]) -> Any:
        name = arguments.get("name")
        function = arguments["target"] if name is None else find(name)
        for part in filter(None, arguments.get("method", "").split(".")):
            function = getattr(function, part)
        return function(*arguments["args"], **arguments["kwargs"])

    def _eval(self, arguments: dict[str, Any]) -> Any:
        code = compile(arguments["code"].strip(), "<eval>", "eval", dont_inherit=True)
        names = vars(self._namespace(arguments))
        if arguments["vars"]:
            names = {**names, **arguments["vars"]}
        return eval(code, names)

    def _exec(self, arguments: dict[str, Any]) -> Any:
        code = compile(arguments["code"], "<exec>", "exec", dont_inherit=True)
        namespace = self._namespace(arguments)
        names = vars(namespace)
        names.update(arguments["vars"])
        exec(code, names)
        return namespace

    def _value(self, arguments: dict[str, Any]) -> Any:
        return arguments["target"]

    def _iter(self, arguments: dict[str, Any]) -> Any:
        target = arguments["target"]
        if hasattr(type(target), "__aiter__") and not hasattr(type(target), "__iter__"):
            return target.__aiter__()
        return iter(target)

    def _release(self, arguments: dict[str, Any], lane: RunningLane) -> int:
        tokens, sessions = arguments["tokens"], frozenset(arguments["sessions"])
        gone: list[Any] = []
        with self._lock:
            if sessions:
                gone += [self._namespaces.pop(name, None) for name in sessions]
                tokens = tokens + [
                    token for token, entry in self._entries.items() if entry.session in sessions
                ]
            entries = [(token, self._entries.pop(token, None)) for token in tokens]
            self._released.extend(token for token, entry in entries if entry is not None)
        gone += [entry for _token, entry in entries if entry is not None]
        for _token, entry in entries:
            if entry is not None and _is_last(entry):
                _close(entry.value, lane)
        return len(gone)

    def _next(self, call: RunningCall, lane: RunningLane, arguments: dict[str, Any]) -> Any:
        """The next items of an iterator; an error after some comes with the next question."""
        entry = self._entry(arguments["iterator"][_MARKER])
        if entry.error is not None:
            error, entry.error = entry.error, None
            raise error
        items: list[Any] = []
        more = True
        for _ in arguments["as"]:
            try:
                items.append(_advance(entry.value, lane))
            except (StopIteration, StopAsyncIteration):
                more = False
                break
            except Exception as error:
                if not items:
                    raise
                entry.error = error
                break
        lane.disarm()
        answers = []
        for token, item in zip(arguments["as"], items):
            if self._copies(call, arguments, item):
                answers.append({"value": item})
            else:
                answers.append(self._keep(call, arguments, token, item))
        return call.result({"items": answers, "more": more})

    # ---- results ----------------------------------------------------------

    def _reply(
        self, call: RunningCall, lane: RunningLane, arguments: dict[str, Any], value: Any
    ) -> Any:
        how = arguments["return"]
        if how == "value" or (how == "auto" and is_data(value)):
            answer = {"value": value}
            if arguments.get("session") in self._namespaces:
                answer["worker"] = self._worker
            try:
                return call.result(answer)
            except EncodeError:
                if how == "value":
                    raise
        # What is kept from here on, its ref gets to Elixir.
        lane.disarm()
        return call.result(self._keep(call, arguments, arguments["as"][0], value))

    def _copies(self, call: RunningCall, arguments: dict[str, Any], value: Any) -> bool:
        how = arguments["return"]
        if how == "auto" and is_data(value):
            try:
                call.result(value)
            except EncodeError:
                return False
            return True
        return bool(how == "value")

    def _keep(
        self, call: RunningCall, arguments: dict[str, Any], token: str, value: Any
    ) -> dict[str, Any]:
        kind = type(value)
        module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
        with self._lock:
            # Elixir lets what it does not wait for go before it hears of it.
            if call.cancelled:
                raise ToolCancelled(f"the call of {call.tool!r} was cancelled")
            self._entries[token] = _Entry(value, arguments.get("session"))
        ref = {
            "type": f"{module}{kind.__qualname__}",
            "worker": self._worker,
            "process": self._process,
            "token": token,
        }
        return {"ref": ref, "worker": self._worker}

    # ---- objects ----------------------------------------------------------

    def _entry(self, token: Any) -> _Entry:
        with self._lock:
            entry = self._entries.get(token)
            if entry is None:
                raise _Refusal("released" if token in self._released else "unknown")
            return entry

    def _resolved(self, value: Any) -> Any:
        """With the objects in place of their names."""
        kind = type(value)
        if kind is dict:
            if _MARKER in value:
                return self._entry(value[_MARKER]).value
            return {key: self._resolved(item) for key, item in value.items()}
        if kind is list:
            return [self._resolved(item) for item in value]
        return tuple(map(self._resolved, value)) if kind is tuple else value

    def _namespace(self, arguments: dict[str, Any]) -> Any:
        if "in" in arguments:
            return arguments["in"]
        session = arguments.get("session")
        if session is None:
            return ModuleType("snakepit_exec")
        with self._lock:
            return self._namespaces.setdefault(session, ModuleType("snakepit_session"))


async def _await(value: Any) -> Any:
    return await value


def _advance(iterator: Any, lane: RunningLane) -> Any:
    if hasattr(type(iterator), "__anext__") and not hasattr(type(iterator), "__next__"):
        return lane.run_coroutine(_await(iterator.__anext__()))
    return next(iterator)


def _is_last(entry: _Entry) -> bool:
    """Of an asynchronous generator: whether nobody but the entry holds it."""
    return inspect.isasyncgen(entry.value) and sys.getrefcount(entry.value) <= 2


def _close(generator: Any, lane: RunningLane) -> None:
    """What an asynchronous generator has open is closed here, where a loop can run."""
    try:
        lane.run_coroutine(_await(generator.aclose()))
    except Exception as error:
        get_logger(__name__).error("closing a generator failed: %s", type(error).__name__)


def take_key() -> Optional[Remote]:
    """What the pool allows. Children of the worker must not see the key."""
    key = os.environ.pop(KEY_VARIABLE, "")
    return Remote(key) if key else None


def not_allowed(tool: str) -> PermissionError:
    return PermissionError(
        f"{tool!r} is for Snakepit.Python, where the pool allows it: python_calls: true"
    )


def find(name: str) -> Any:
    """What a full name stands for; modules on the way to it are imported."""
    first, *rest = name.split(".")
    if not rest:
        if hasattr(builtins, name):
            return getattr(builtins, name)
        raise AttributeError(f"there is no builtin {name!r}; other names begin with their module")
    value: Any = importlib.import_module(first)
    path = first
    for part in rest:
        path = f"{path}.{part}"
        if isinstance(value, ModuleType) and not hasattr(value, part) and part:
            value = _submodule(value, path, part)
        else:
            value = getattr(value, part)
    return value


def _submodule(module: ModuleType, path: str, part: str) -> Any:
    if not hasattr(module, "__path__"):
        return getattr(module, part)
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name != path:
            raise
        return getattr(module, part)


def is_data(value: Any) -> bool:
    """Whether a copy in Elixir is as good as the value."""
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        item = waiting.pop()
        kind = type(item)
        if kind in _CONTAINERS:
            if id(item) in seen:
                continue
            seen.add(id(item))
            inner: Iterable[Any] = (*item.keys(), *item.values()) if kind is dict else item
            if not _SCALARS.issuperset(map(type, inner)):
                waiting.extend(each for each in inner if type(each) not in _SCALARS)
        elif kind not in _SCALARS and not _is_scalar(item):
            return False
    return True


def _is_scalar(value: Any) -> bool:
    """Texts, bytes and numbers of derived classes, handles, decimals, and numpy's numbers."""
    if isinstance(value, (str, int, float, bytes, ZeroCopyRef)):
        return True
    decimal = sys.modules.get("decimal")
    if decimal is not None and type(value) is decimal.Decimal:
        return True
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, (numpy.bool_, numpy.integer, numpy.floating))
