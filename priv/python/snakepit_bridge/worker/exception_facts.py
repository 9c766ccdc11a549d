"""What an exception carries besides its class and its text, bounded in size."""

from __future__ import annotations

import linecache
import math
import os
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Callable, Optional

MAX_CHAIN = 8
MAX_FRAMES = 48
MAX_GROUP = 8
MAX_NOTES = 16
MAX_TEXT = 2048
MAX_ITEMS = 256

# Attributes of built-in classes that are not in the instance's __dict__.
_SLOTS: tuple[tuple[type[BaseException], tuple[str, ...]], ...] = (
    (OSError, ("errno", "strerror", "filename", "filename2")),
    (ImportError, ("name", "path")),
    (SyntaxError, ("filename", "lineno", "offset", "text")),
    (UnicodeError, ("encoding", "start", "end", "reason")),
    (AttributeError, ("name",)),
    (NameError, ("name",)),
    (SystemExit, ("code",)),
    (StopIteration, ("value",)),
)

_LEFT_OUT = object()

Trace = Callable[[BaseException], Optional[TracebackType]]


def text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return f"<{type(error).__name__} whose text cannot be had>"


def facts(error: BaseException, trace: Trace) -> dict[str, Any]:
    """Frames, notes, attributes, causes and the members of a group, where there are any.

    ``trace`` gives what is to be told of an exception's traceback.
    """
    return _facts(error, trace, {id(error)}, 0)


def _facts(error: BaseException, trace: Trace, seen: set[int], depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {"module": type(error).__module__}
    _put(found, "frames", _frames(trace(error)))
    _put(found, "notes", _notes(error))
    _put(found, "attributes", _attributes(error))
    if depth < MAX_CHAIN:
        relation, cause = _cause(error)
        if cause is not None and id(cause) not in seen:
            found["cause"] = {"relation": relation, **_inner(cause, trace, seen, depth)}
        _put(found, "exceptions", _members(error, trace, seen, depth))
    return found


def _inner(error: BaseException, trace: Trace, seen: set[int], depth: int) -> dict[str, Any]:
    seen.add(id(error))
    return {
        "type": type(error).__name__,
        "message": clipped(text_of(error)),
        "bases": bases(error),
        **_facts(error, trace, seen, depth + 1),
    }


def bases(error: BaseException) -> list[str]:
    """From near to far, without ``object``."""
    return [base.__name__ for base in type(error).__mro__[1:-1]]


def _cause(error: BaseException) -> tuple[str, Optional[BaseException]]:
    if error.__cause__ is not None:
        return "cause", error.__cause__
    return "context", None if error.__suppress_context__ else error.__context__


def _members(error: BaseException, trace: Trace, seen: set[int], depth: int) -> list[Any]:
    """Of an ExceptionGroup, also of the one that was made for older Pythons."""
    members = getattr(error, "exceptions", None)
    if not isinstance(members, tuple):
        return []
    found = []
    for member in members[:MAX_GROUP]:
        if isinstance(member, BaseException) and id(member) not in seen:
            found.append(_inner(member, trace, seen, depth))
    return found


def _frames(trace: Optional[TracebackType]) -> list[dict[str, Any]]:
    """As tracebacks have them: the innermost last. What is left out is in the middle."""
    places = []
    while trace is not None:
        places.append((trace.tb_frame.f_code, trace.tb_lineno, trace.tb_frame.f_globals))
        trace = trace.tb_next
    if len(places) > MAX_FRAMES:
        places = places[: MAX_FRAMES // 4] + places[-(MAX_FRAMES - MAX_FRAMES // 4) :]
    found = []
    for code, line, names in places:
        text = linecache.getline(code.co_filename, line, names).strip()
        frame = {
            "file": clipped(code.co_filename),
            "line": line,
            "function": getattr(code, "co_qualname", code.co_name),
        }
        found.append({**frame, "code": clipped(text)} if text else frame)
    return found


def _notes(error: BaseException) -> list[str]:
    notes = getattr(error, "__notes__", None)
    if not isinstance(notes, (list, tuple)):
        return []
    return [clipped(note) for note in notes[:MAX_NOTES] if isinstance(note, str)]


def _attributes(error: BaseException) -> dict[str, Any]:
    """Those that are data; what is private, or an object, is left out."""
    given = dict(getattr(error, "__dict__", {}))
    for kind, names in _SLOTS:
        if isinstance(error, kind):
            for name in names:
                given.setdefault(name, getattr(error, name, None))
            break
    else:
        if error.args != (text_of(error),):
            given.setdefault("args", error.args)
    room = [MAX_ITEMS]
    found = {}
    for name, value in given.items():
        if not isinstance(name, str) or name.startswith("_") or value is None or value == ():
            continue
        copy = _plain(value, room, 0)
        if copy is not _LEFT_OUT:
            found[clipped(name)] = copy
    return found


def _plain(value: Any, room: list[int], depth: int) -> Any:
    """A copy of what is text, numbers, lists and maps of them, within the room."""
    room[0] -= 1
    if room[0] < 0 or depth > 8:
        return _LEFT_OUT
    kind = type(value)
    if value is None or kind is bool:
        return value
    if isinstance(value, str):
        return clipped(str.__str__(value))
    if isinstance(value, int):
        return int(value) if value.bit_length() <= 1024 else _LEFT_OUT
    if kind is float:
        return value if math.isfinite(value) else str(value)
    if isinstance(value, os.PathLike):
        return _path(value)
    if kind in (list, tuple):
        return _plain_list(value, room, depth)
    if kind is dict:
        return _plain_map(value, room, depth)
    return _LEFT_OUT


def _plain_list(value: Any, room: list[int], depth: int) -> Any:
    if len(value) > room[0]:
        return _LEFT_OUT
    copies = [_plain(item, room, depth + 1) for item in value]
    # A list that lacks items would say something else.
    return _LEFT_OUT if any(copy is _LEFT_OUT for copy in copies) else copies


def _plain_map(value: Mapping[Any, Any], room: list[int], depth: int) -> Any:
    if len(value) > room[0] or not all(isinstance(key, str) for key in value):
        return _LEFT_OUT
    copies = {clipped(key): _plain(item, room, depth + 1) for key, item in value.items()}
    return _LEFT_OUT if any(copy is _LEFT_OUT for copy in copies.values()) else copies


def _path(value: Any) -> Any:
    try:
        return clipped(os.fsdecode(value))
    except Exception:
        return _LEFT_OUT


def clipped(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "..."


def _put(found: dict[str, Any], key: str, value: Any) -> None:
    if value:
        found[key] = value
