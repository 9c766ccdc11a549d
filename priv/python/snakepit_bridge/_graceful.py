"""What becomes of objects that have no JSON form of their own.

Tried in this order: model_dump, to_dict, _asdict, tolist, isoformat. Of what
has none of them an enum's member is its value and a UUID its text; the rest
becomes a marker that names its type.
"""

from __future__ import annotations

import enum
import os
import re
import sys
from collections.abc import Mapping
from typing import Any, Optional

# Types of which the first marker was told; more are not remembered.
_MAX_TOLD = 10_000
_told: set[str] = set()

UNSERIALIZABLE_KEY = "__ffi_unserializable__"
TYPE_KEY = "__type__"
REPR_KEY = "__repr__"

DETAIL_VARIABLE = "SNAKEPIT_UNSERIALIZABLE_DETAIL"
MAXLEN_VARIABLE = "SNAKEPIT_UNSERIALIZABLE_REPR_MAXLEN"
TOLIST_VARIABLE = "SNAKEPIT_TOLIST_MAX_ELEMENTS"

_HIDDEN = "[REDACTED]"
_NAMES = r"(?:api[_-]?key|token|secret|password|passwd)"

_REDACTIONS = (
    (
        re.compile(r"(authorization['\"]?\s*[:=]\s*['\"]?)bearer\s+[^\s'\",}]+", re.I),
        rf"\1{_HIDDEN}",
    ),
    (re.compile(r"\bbearer\s+[A-Za-z0-9._~+/=-]+", re.I), f"Bearer {_HIDDEN}"),
    (re.compile(r"\bsk-[A-Za-z0-9_-]{10,}"), _HIDDEN),
    (
        re.compile(rf"({_NAMES}['\"]?\s*[:=]\s*)(['\"])(?:(?!\2).)*\2", re.I),
        rf"\1\2{_HIDDEN}\2",
    ),
)


def convert(value: Any) -> Any:
    """A simpler value in place of ``value``; never raises an Exception."""
    if isinstance(value, type):
        return marker(value)
    for name in ("model_dump", "to_dict", "_asdict"):
        done, result = _call(value, name)
        if done and isinstance(result, (Mapping, list)):
            return result
    done, result = _to_list(value)
    if done:
        return result
    done, result = _call(value, "isoformat")
    if done and isinstance(result, str):
        return result
    if isinstance(value, enum.Enum):
        return value.value
    uuid = sys.modules.get("uuid")  # who has one has imported it
    if uuid is not None and isinstance(value, uuid.UUID):
        return str(value)
    return marker(value)


def marker(value: Any) -> dict[str, Any]:
    """The map that stands for an object that cannot be sent."""
    kind = type(value)
    type_name = f"{kind.__module__}.{kind.__qualname__}"
    result: dict[str, Any] = {UNSERIALIZABLE_KEY: True, TYPE_KEY: type_name}
    detail = _detail(value, type_name)
    if detail is not None:
        result[REPR_KEY] = detail
    _tell(type_name)
    return result


def _tell(type_name: str) -> None:
    """Once for each type, that something of it could not be sent."""
    if type_name in _told or len(_told) >= _MAX_TOLD:
        return
    from . import telemetry  # only where there is something to tell

    _told.add(type_name)
    telemetry.emit(
        "snakepit.serialization.unserializable_marker", {"first_seen": 1}, {"type": type_name}
    )


def redact(text: str) -> str:
    """Takes what looks like credentials out of a text."""
    for pattern, replacement in _REDACTIONS:
        text = pattern.sub(replacement, text)
    return text


def _detail(value: Any, type_name: str) -> Optional[str]:
    mode = os.environ.get(DETAIL_VARIABLE, "none").strip().lower()
    if mode == "type":
        return f"<{type_name}>"
    if mode not in ("repr_truncated", "repr_redacted_truncated"):
        return None
    try:
        text = repr(value)
    except Exception:
        return f"<unprintable {type_name}>"
    text = text.encode("utf-8", "backslashreplace").decode()
    if mode == "repr_redacted_truncated":
        text = redact(text)
    limit = min(max(_int_variable(MAXLEN_VARIABLE, 500), 0), 2000)
    return text if len(text) <= limit else text[:limit]


def _call(value: Any, name: str) -> tuple[bool, Any]:
    method = getattr(type(value), name, None)
    if not callable(method):
        return False, None
    try:
        result = getattr(value, name)()
    except Exception:
        return False, None
    return type(result) is not type(value), result


def _to_list(value: Any) -> tuple[bool, Any]:
    if not callable(getattr(type(value), "tolist", None)):
        return _sparse_to_list(value)
    limit = _int_variable(TOLIST_VARIABLE, 1_000_000)
    if _size(value) > limit:
        return False, None
    done, result = _call(value, "tolist")
    if not done or (isinstance(result, list) and _count(result, limit) > limit):
        return False, None
    return True, result


def _sparse_to_list(value: Any) -> tuple[bool, Any]:
    """Sparse matrices have ``toarray`` in place of ``tolist``."""
    if not callable(getattr(type(value), "toarray", None)) or not hasattr(value, "shape"):
        return False, None
    if _size(value) > _int_variable(TOLIST_VARIABLE, 1_000_000):
        return False, None
    done, dense = _call(value, "toarray")
    return _to_list(dense) if done and hasattr(dense, "tolist") else (False, None)


def _size(value: Any) -> int:
    try:
        shape = getattr(value, "shape", None)
        if isinstance(shape, tuple):
            total = 1
            for extent in shape:
                total *= int(extent)
            return total
        size = getattr(value, "size", 0)
        return int(size) if not callable(size) else 0
    except Exception:
        return 0


def _count(items: list[Any], limit: int) -> int:
    """Scalars in nested lists; stops counting above ``limit``."""
    total = 0
    stack = [items]
    while stack and total <= limit:
        level = stack.pop()
        inner = [item for item in level if isinstance(item, list)]
        total += len(level) - len(inner)
        stack.extend(inner)
    return total


def _int_variable(name: str, default: int) -> int:
    try:
        return int(os.environ.get(name, default))
    except ValueError:
        return default
