"""Values as JSON, exactly: see c_src/core/sp_value.h for the marker objects.

Plain values (text, numbers, None, booleans, lists, dicts with text keys) take
the fast way; anything else is first turned into plain values and markers.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections import deque
from collections.abc import Mapping, Set
from typing import Any, Callable, Optional

from . import _graceful, _tags
from .errors import DecodeError, EncodeError
from .zero_copy import ZERO_COPY_KEY, ZeroCopyRef, automatic

MARKER = "__snakepit_type__"
PAYLOAD = "d"
MAX_DEPTH = 512

_SCALARS = frozenset((str, int, float, bool, type(None)))
_SEQUENCES = (list, tuple, range, deque)
_TEXT = frozenset((str,))
_MARKER_BYTES = (MARKER.encode(), ZERO_COPY_KEY.encode())

_encode_text = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")
).encode

_Dumps = Callable[[Any], bytes]


def _find_orjson() -> Optional[_Dumps]:
    try:
        import orjson
    except ImportError:
        return None
    dumps: _Dumps = orjson.dumps
    return dumps


_fast_dumps = _find_orjson()


def dumps(value: Any) -> bytes:
    """JSON text of a value. Raises EncodeError."""
    try:
        if not _is_plain(value, 0):
            value = to_wire(value)
    except RecursionError:
        raise _too_deep() from None
    if _fast_dumps is not None:
        try:
            return _fast_dumps(value)
        except (TypeError, ValueError, RecursionError):
            pass  # integers beyond 64 bits, deep nesting: the slow one can
    try:
        return _encode_text(value).encode()
    except UnicodeEncodeError as error:
        raise EncodeError(
            "text with a lone surrogate "
            f"({error.object[error.start : error.start + 1]!a}) cannot be sent as UTF-8; "
            "encode it to bytes first"
        ) from None
    except RecursionError:
        raise _too_deep() from None


def loads(data: bytes) -> Any:
    """The value of JSON text. Raises DecodeError."""
    try:
        text = data.decode()
        if any(marker in data for marker in _MARKER_BYTES):
            return json.loads(text, object_hook=_from_marker)
        return json.loads(text)
    except DecodeError:
        raise
    except RecursionError:
        raise DecodeError("nested too deeply") from None
    except ValueError as error:
        raise DecodeError(f"not JSON: {error}") from None


def to_wire(value: Any, depth: int = 0) -> Any:
    """Plain values and markers for any value."""
    # One frame per level, so that the depth allowed fits the recursion limit.
    while True:
        kind = type(value)
        if kind in _SCALARS:
            return value if kind is not float or math.isfinite(value) else float_text(value)
        if depth >= MAX_DEPTH:
            raise _too_deep()
        depth += 1
        if isinstance(value, (str, int, float)):
            return _plain_scalar(value)
        if isinstance(value, (bytes, bytearray, memoryview)):
            return _marked("bytes", base64.b64encode(value).decode())
        if isinstance(value, Mapping):
            texts = MARKER not in value and all(isinstance(key, str) for key in value)
            pairs = []
            for key, item in value.items():
                name = str.__str__(key) if texts else to_wire(key, depth)
                pairs.append([name, to_wire(item, depth)])
            return dict(pairs) if texts else _marked("map", pairs)
        if isinstance(value, Set):
            return _marked("set", [to_wire(item, depth) for item in ordered(value)])
        if isinstance(value, _SEQUENCES) and not hasattr(value, "_asdict"):
            items = []
            for item in value:
                items.append(to_wire(item, depth))
            return _marked("tuple", items) if isinstance(value, tuple) else items
        tag = _tags.tagged(value)
        if tag is not None and tag.number in _tags.MARKER_OF:
            return _marked(_tags.MARKER_OF[tag.number], tag.payload)
        ref = value if isinstance(value, ZeroCopyRef) else automatic.handle(value)
        value = _graceful.convert(value) if ref is None else ref.to_payload()


def float_text(value: float) -> str:
    """The text JSON carries for a float it has no word for."""
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _is_plain(value: Any, depth: int) -> bool:
    kind = type(value)
    if kind is float:
        return math.isfinite(value)
    if kind in _SCALARS:
        return True
    if depth >= MAX_DEPTH:
        raise _too_deep()
    if kind is dict:
        if MARKER in value or not _TEXT.issuperset(map(type, value)):
            return False
        items = value.values()
    elif kind is list:
        items = value
    else:
        return False
    kinds = set(map(type, items))
    if float in kinds and not _all_finite(items, kinds):
        return False
    kinds -= _SCALARS
    if not kinds:
        return True
    for item in items:
        if type(item) not in _SCALARS and not _is_plain(item, depth + 1):
            return False
    return True


def _all_finite(items: Any, kinds: set[type]) -> bool:
    if len(kinds) == 1:
        return all(map(math.isfinite, items))
    return all(math.isfinite(item) for item in items if type(item) is float)


def _plain_scalar(value: Any) -> Any:
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__index__(value)
    return to_wire(float.__float__(value))


def ordered(value: Set[Any]) -> list[Any]:
    """The members, in their order where they have one."""
    try:
        return sorted(value)
    except TypeError:
        return list(value)


def _marked(kind: str, payload: Any) -> dict[str, Any]:
    return {MARKER: kind, PAYLOAD: payload}


def _too_deep() -> EncodeError:
    return EncodeError(f"nested too deeply (at most {MAX_DEPTH} levels), or contains itself")


def _from_marker(obj: dict[str, Any]) -> Any:
    kind = obj.get(MARKER)
    if kind is None:
        if obj.get(ZERO_COPY_KEY):
            return automatic.received(obj)
        return obj
    payload = obj.get(PAYLOAD)
    if kind == "bytes" and isinstance(payload, str):
        try:
            return base64.b64decode(payload, validate=True)
        except binascii.Error as error:
            raise DecodeError(f"bytes marker: not base64: {error}") from None
    if kind == "tuple" and isinstance(payload, list):
        return tuple(payload)
    if kind == "map" and isinstance(payload, list):
        return _from_pairs(payload)
    if kind in _tags.MARKERS:
        return _tags.untag(_tags.MARKERS[kind], payload)
    raise DecodeError(f"unknown or malformed {MARKER} marker: {kind!r}")


def _from_pairs(pairs: list[Any]) -> dict[Any, Any]:
    result = {}
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2:
            raise DecodeError("map marker: an entry is not a [key, value] pair")
        key = _tags.freeze(pair[0])
        try:
            twice = key in result
        except TypeError:
            raise DecodeError(
                f"a map key of type {type(key).__name__} cannot be a key in Python"
            ) from None
        if twice:
            raise DecodeError(f"a map has the key {key!r} twice")
        result[key] = pair[1]
    return result
