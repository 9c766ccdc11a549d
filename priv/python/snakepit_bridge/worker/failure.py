"""The JSON that tells Elixir about an exception."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Optional

from .. import errors
from .exception_facts import bases, facts, text_of

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_OWN_FILES = (
    os.path.join(_PACKAGE, "worker") + os.sep,
    os.path.join(_PACKAGE, "dispatch.py"),
    os.path.join(_PACKAGE, "remote.py"),
)
_CONTEXT_KEYS = ("library", "python_module", "function", "call_type", "payload_version")
_CUT = "... [cut] ..."

# Status details travel in an HTTP/2 header; peers refuse headers above 8 KiB.
MAX_DETAILS = 5 * 1024

# What goes first where there is no room for all, least telling first.
_DROPPED = ("attributes", "exceptions", "frames", "notes", "module")


def describe(
    error: BaseException,
    tool: str,
    session_id: str,
    arguments: Optional[Mapping[str, Any]] = None,
) -> dict[str, Any]:
    """What is known about a failed call. Never raises."""
    frames = _format(error)
    context: dict[str, Any] = {"tool_name": tool, "session_id": session_id}
    for key in _CONTEXT_KEYS:
        if arguments and isinstance(arguments.get(key), (str, int, float, bool)):
            context[key] = arguments[key]
    report: dict[str, Any] = {
        "type": type(error).__name__,
        "message": text_of(error),
        "stacktrace": frames,
        "traceback": "".join(frames),
        "context": context,
        "bases": bases(error),
    }
    try:
        report.update(facts(error, _told))
    except Exception:  # classes of the user's can do anything
        report["notes"] = ["more about this exception could not be read"]
    return report


def to_json(report: Mapping[str, Any], limit: Optional[int] = None) -> str:
    """ASCII JSON; with ``limit`` the long parts are cut in the middle to fit."""
    text = json.dumps(_clean(report))
    if limit is None or len(text) <= limit:
        return text
    report = dict(report)
    if "cause" in report:
        cause = report["cause"]
        report["cause"] = {key: cause[key] for key in ("relation", "type", "message", "bases")}
    for key in _DROPPED:
        report.pop(key, None)
        text = json.dumps(_clean(report))
        if len(text) <= limit:
            return text
    room = limit
    while len(text) > limit and room > 64:
        room = room * 2 // 3
        text = json.dumps(_clean(_shortened(report, room)))
    return text


def of_call(error: BaseException, call: Any) -> str:
    """For what went wrong outside of the tool."""
    return to_json(describe(error, call.tool, call.session_id), MAX_DETAILS)


def _shortened(report: Mapping[str, Any], room: int) -> dict[str, Any]:
    short = dict(report)
    short["message"] = _middle_cut(str(report["message"]), room // 3)
    short["traceback"] = _middle_cut(str(report["traceback"]), room // 3)
    short["stacktrace"] = _middle_cut_list(list(report["stacktrace"]), room // 3)
    short["bases"] = list(report["bases"])[:16]
    short["context"] = {
        key: _middle_cut(value, 256) if isinstance(value, str) else value
        for key, value in report["context"].items()
    }
    if "cause" in report:
        cause = report["cause"]
        short["cause"] = {
            **cause,
            "message": _middle_cut(cause["message"], room // 8),
            "bases": cause["bases"][:16],
        }
    return short


def _middle_cut(text: str, room: int) -> str:
    if len(text) <= room:
        return text
    half = max((room - len(_CUT)) // 2, 8)
    return text[:half] + _CUT + text[-half:]


def _middle_cut_list(lines: list[str], room: int) -> list[str]:
    first, last = lines[:1], lines[1:]
    while last and sum(map(len, first)) + sum(map(len, last)) > room:
        last = last[1:]
    kept = [*first, *last]
    if len(kept) < len(lines):
        kept.insert(1, _CUT + "\n")
    return [_middle_cut(line, room) for line in kept]


def _format(error: BaseException) -> list[str]:
    try:
        return traceback.format_exception(type(error), error, _told(error))
    except Exception:
        return [f"{type(error).__name__}: {text_of(error)}\n"]


def _told(error: BaseException) -> Optional[TracebackType]:
    return _from_tool(error.__traceback__) or _unless_expected(error)


def _from_tool(trace: Optional[TracebackType]) -> Optional[TracebackType]:
    """Leaves out the worker's own frames before the tool's first."""
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OWN_FILES):
        trace = trace.tb_next
    return trace


def _unless_expected(error: BaseException) -> Optional[TracebackType]:
    """Our own frames explain only our own bugs."""
    return None if type(error).__module__ == errors.__name__ else error.__traceback__


def _clean(value: Any) -> Any:
    """Text without lone surrogates, which JSON readers refuse."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {key: _clean(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_clean(item) for item in value]
    return value
