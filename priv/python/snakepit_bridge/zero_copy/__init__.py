"""Tensors and tables that go to Elixir and to other workers without being copied.

Needs none of the libraries that it works with until one is used: see
``guides/zero_copy.md``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import ZeroCopyError, ZeroCopyUnavailable
from .ref import ZERO_COPY_KEY, ZeroCopyRef

if TYPE_CHECKING:
    from .cuda import release
    from .tables import from_arrow, to_arrow
    from .tensors import empty, from_dlpack, to_dlpack

_LATER = {
    "empty": "tensors",
    "from_arrow": "tables",
    "from_dlpack": "tensors",
    "release": "cuda",
    "to_arrow": "tables",
    "to_dlpack": "tensors",
}

__all__ = [
    "ZERO_COPY_KEY",
    "ZeroCopyError",
    "ZeroCopyRef",
    "ZeroCopyUnavailable",
    "empty",
    "from_arrow",
    "from_dlpack",
    "release",
    "to_arrow",
    "to_dlpack",
]


def __getattr__(name: str) -> Any:
    module = _LATER.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{module}", __name__), name)
    globals()[name] = value
    return value
