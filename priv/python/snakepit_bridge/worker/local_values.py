"""What the extension leaves to Python when it encodes and decodes values."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Set
from typing import TYPE_CHECKING, Any

from .. import _graceful, _tags
from ..errors import DecodeError, EncodeError, ToolCancelled
from ..serialization import BinaryResult
from ..zero_copy import ZERO_COPY_KEY, ZeroCopyRef, automatic
from .calls import Reply

if TYPE_CHECKING:
    from .._extension import Extension

_SEQUENCES = (list, range, deque)


def configure(native: Extension) -> None:
    """Once per process, before the extension is used."""
    native.configure(
        EncodeError,
        DecodeError,
        ToolCancelled,
        simplify,
        handle,
        BinaryResult,
        Reply(),
        _tags.Tagged,
        _tags.untag,
        _tags.freeze,
    )


def simplify(value: Any) -> Any:
    """One level of an object closer to what the extension encodes by itself."""
    if isinstance(value, Mapping):
        return dict(value.items())
    if isinstance(value, Set):
        return frozenset(value)
    if not hasattr(value, "_asdict"):
        if isinstance(value, _SEQUENCES):
            return list(value)
        if isinstance(value, tuple):
            return tuple(value)
    tag = _tags.tagged(value)
    if tag is not None:
        return tag
    ref = value if isinstance(value, ZeroCopyRef) else automatic.handle(value)
    return _graceful.convert(value) if ref is None else ref.to_payload()


def handle(payload: dict[str, Any]) -> Any:
    """A map that came with the key of handles."""
    return automatic.received(payload) if payload.get(ZERO_COPY_KEY) else payload
