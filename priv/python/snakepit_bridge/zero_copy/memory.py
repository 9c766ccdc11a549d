"""Memory that the other side can map, and bytes of what objects hold."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Optional

from .. import _native

if TYPE_CHECKING:
    from .._extension import Extension

ENABLED_VARIABLE = "SNAKEPIT_ZERO_COPY"
THRESHOLD_VARIABLE = "SNAKEPIT_ZERO_COPY_THRESHOLD"
DEFAULT_THRESHOLD = 65_536

_MODULE = "_snakepit_native"


class Plain(bytearray):
    """Memory of this process alone, where there are no segments: it is copied."""


def alloc(nbytes: int) -> Any:
    """A writable buffer of at least one byte; in a segment where that is of use and possible."""
    # Who talks to the BEAM over shared memory has the extension loaded.
    make = getattr(sys.modules.get(_MODULE), "alloc", None)
    least = threshold()
    if make is not None and least is not None and nbytes >= least:
        try:
            return make(nbytes)
        except (OSError, MemoryError):
            pass  # no descriptor or no memory for a segment: the copy works
    return Plain(max(nbytes, 1))


def is_own(memory: Any) -> bool:
    """Is this a buffer of ``alloc``?"""
    if isinstance(memory, Plain):
        return True
    kind = getattr(sys.modules.get(_MODULE), "Buffer", None)
    return kind is not None and isinstance(memory, kind)


def extension() -> Optional[Extension]:
    """None where there is none."""
    return _native.load()


def enabled() -> bool:
    """Do large arrays and tables go as handles without being asked to?"""
    return os.environ.get(ENABLED_VARIABLE, "").strip().lower() in ("1", "true", "yes", "on")


def threshold() -> Optional[int]:
    """Bytes from which on data goes by segment; None: never."""
    try:
        value = int(os.environ.get(THRESHOLD_VARIABLE, DEFAULT_THRESHOLD))
    except ValueError:
        value = DEFAULT_THRESHOLD
    return value if value > 0 else None
