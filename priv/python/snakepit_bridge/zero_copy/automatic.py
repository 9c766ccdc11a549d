"""What becomes a handle by itself when a tool returns it."""

from __future__ import annotations

import sys
from typing import Any, Optional

from ..errors import DecodeError
from . import memory, pytorch, tables, tensors
from .errors import ZeroCopyError, ZeroCopyUnavailable
from .ref import ZeroCopyRef

_TABLES = ("pyarrow", "polars")


def handle(value: Any) -> Optional[ZeroCopyRef]:
    """The handle of an array of ``empty``'s; with SNAKEPIT_ZERO_COPY=1 that of every large
    array, tensor and table. None: as without handles."""
    numpy = sys.modules.get("numpy")
    try:
        if numpy is not None and isinstance(value, numpy.ndarray):
            return _array(numpy, value)
        if memory.enabled():
            return _other(value)
    except Exception:  # whatever its library has against it: it goes as before
        return None
    return None


def _array(numpy: Any, array: Any) -> Optional[ZeroCopyRef]:
    if type(array) not in (numpy.ndarray, numpy.memmap):
        return None  # a subclass may mean something else by its items
    if _from_empty(numpy, array) or (memory.enabled() and _large(array.nbytes)):
        return tensors.to_dlpack(array)
    return None


def _from_empty(numpy: Any, array: Any) -> bool:
    base = array.base
    while isinstance(base, (numpy.ndarray, memoryview)):
        base = base.base if isinstance(base, numpy.ndarray) else base.obj
    return memory.is_own(base)


def _large(nbytes: Any) -> bool:
    threshold = memory.threshold()
    return threshold is not None and isinstance(nbytes, int) and nbytes >= threshold


def _other(value: Any) -> Optional[ZeroCopyRef]:
    kind = type(value)
    if kind.__module__.partition(".")[0] in _TABLES:
        capsules = hasattr(kind, "__arrow_c_stream__") or hasattr(kind, "__arrow_c_array__")
        return tables.to_arrow(value) if capsules and _large(_table_bytes(value)) else None
    if pytorch.is_tensor(value):
        return tensors.to_dlpack(value) if _large(pytorch.nbytes_of(value)) else None
    if hasattr(kind, "__dlpack__") and _large(getattr(value, "nbytes", None)):
        return tensors.to_dlpack(value)
    return None


def _table_bytes(value: Any) -> Any:
    estimate = getattr(value, "estimated_size", None)
    return estimate() if callable(estimate) else getattr(value, "nbytes", None)


def received(payload: dict[str, Any]) -> Any:
    """What a handle's map is here: a handle, or the array where Elixir sent a tensor as one."""
    ref = ZeroCopyRef.from_payload(payload)
    if ref.kind != "dlpack" or ref.metadata.get("as") != "numpy":
        return ref
    try:
        return tensors.numpy_of(ref)
    except ZeroCopyUnavailable:
        return ref  # without NumPy
    except ZeroCopyError as error:
        raise DecodeError(f"a tensor is not as it says: {error}") from None
