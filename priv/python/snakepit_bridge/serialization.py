"""Typed values in ``google.protobuf.Any``, as adapters and the wire use them."""

from __future__ import annotations

import json
import math
import os
import sys
from array import array
from collections.abc import Mapping
from typing import Any, Optional

from . import _graceful, _values
from ._graceful import REPR_KEY, TYPE_KEY, UNSERIALIZABLE_KEY
from .errors import DecodeError
from .zero_copy import ZERO_COPY_KEY, ZeroCopyRef

__all__ = [
    "BINARY_THRESHOLD",
    "REPR_KEY",
    "TYPE_KEY",
    "UNSERIALIZABLE_KEY",
    "BinaryResult",
    "GracefulJSONEncoder",
    "TypeSerializer",
]

BINARY_THRESHOLD = 10240
PICKLE_VARIABLE = "SNAKEPIT_ALLOW_PICKLE"
TYPE_PREFIX = "type.googleapis.com/snakepit."

_SPECIAL_FLOATS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_KINDS = {
    b"n": "null",
    b"t": "boolean",
    b"f": "boolean",
    b'"': "string",
    b"[": "list",
    b"{": "map",
}
_LIST_TYPES = ("embedding", "tensor")


class BinaryResult:
    """Returned by a tool: bytes that go to Elixir as ``{:binary, bytes[, meta]}``."""

    __slots__ = ("data", "metadata")

    def __init__(self, data: Any, metadata: Any = None) -> None:
        self.data = bytes(data)
        self.metadata = metadata


class GracefulJSONEncoder(json.JSONEncoder):
    """For ``json.dumps(..., cls=GracefulJSONEncoder)``: objects become data or markers."""

    def default(self, o: Any) -> Any:
        if isinstance(o, (set, frozenset)):
            return _values.ordered(o)
        if isinstance(o, (bytes, bytearray, memoryview, ZeroCopyRef)):
            return _values.to_wire(o)
        return _graceful.convert(o)


def pickle_allowed() -> bool:
    return os.environ.get(PICKLE_VARIABLE, "").strip().lower() in ("1", "true", "yes", "on")


def unpickle(data: bytes, what: str) -> Any:
    """Runs whatever the sender put into the pickle, hence off by default."""
    if not pickle_allowed():
        raise DecodeError(
            f"{what} is pickled, which can run any code of the sender; set "
            f"{PICKLE_VARIABLE}=1 in the worker's environment to allow it"
        )
    import pickle  # seldom allowed

    return pickle.loads(data)


def wire_type(value: Any, text: bytes) -> str:
    """The name after ``snakepit.`` in the type URL of a value and its JSON text."""
    if isinstance(value, float):
        return "float"  # also where the text is "NaN"
    first = text[:1]
    if first in _KINDS:
        return _KINDS[first]
    return "float" if b"." in text or b"e" in text else "integer"


class TypeSerializer:
    """Values with a declared type, in both directions."""

    @staticmethod
    def encode_any(value: Any, var_type: str) -> tuple[Any, Optional[bytes]]:
        """An Any, and bytes that travel beside it where the value is large."""
        from google.protobuf.any_pb2 import Any as AnyMessage

        value = _checked(value, var_type)
        if var_type in _LIST_TYPES:
            shape, flat = _flatten(value)
            if _outer_length(value) * 8 > BINARY_THRESHOLD:
                header = {
                    "shape": shape,
                    "dtype": "float64",
                    "binary_format": "raw",
                    "type": var_type,
                }
                url = f"{TYPE_PREFIX}{var_type}.binary"
                return AnyMessage(type_url=url, value=_values.dumps(header)), _pack(flat)
            if var_type == "tensor":
                value = {"shape": shape, "data": flat}
        return AnyMessage(type_url=TYPE_PREFIX + var_type, value=_values.dumps(value)), None

    @staticmethod
    def decode_any(any_value: Any, binary_data: Optional[bytes] = None) -> Any:
        url: str = any_value.type_url
        kind = url.rpartition("/")[2]
        if kind == "google.protobuf.Struct":
            return _decode_struct(any_value)
        if url.endswith(".binary") and binary_data is not None:
            return _decode_binary(any_value.value, binary_data)
        value = any_value.value
        return _typed(_values.loads(value), kind.rpartition(".")[2]) if value else None

    @staticmethod
    def validate_constraints(value: Any, var_type: str, constraints: Mapping[str, Any]) -> None:
        """Raises ValueError for a value outside its declared limits."""
        _check_range(value, constraints, "min", "max", "value")
        if any(key in constraints for key in ("min_length", "max_length")):
            length = {"min_length": "min", "max_length": "max"}
            limits = {length[k]: v for k, v in constraints.items() if k in length}
            _check_range(len(value), limits, "min", "max", "length")
        for key in ("choices", "allowed_modules"):
            if key in constraints and value not in constraints[key]:
                raise ValueError(f"{var_type} {value!r} is not one of {list(constraints[key])!r}")
        if "dimensions" in constraints and len(value) != constraints["dimensions"]:
            raise ValueError(
                f"{var_type} has {len(value)} dimensions, not {constraints['dimensions']}"
            )
        if "shape" in constraints:
            shape = _shape_of(value)
            if shape != list(constraints["shape"]):
                raise ValueError(
                    f"{var_type} has shape {shape}, not {list(constraints['shape'])}"
                )


def _check_range(value: Any, limits: Mapping[str, Any], low: str, high: str, noun: str) -> None:
    if limits.get(low) is not None and value < limits[low]:
        raise ValueError(f"{noun} {value!r} is below the minimum {limits[low]!r}")
    if limits.get(high) is not None and value > limits[high]:
        raise ValueError(f"{noun} {value!r} is above the maximum {limits[high]!r}")


def _checked(value: Any, var_type: str) -> Any:
    try:
        if var_type == "float":
            return float(value)
        if var_type == "integer":
            if isinstance(value, bool) or int(value) != value:
                raise ValueError
            return int(value)
        if var_type == "boolean" and not isinstance(value, bool):
            raise ValueError
        if var_type in _LIST_TYPES:
            return value.tolist() if hasattr(value, "tolist") else list(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{value!r} is not of type {var_type}") from None
    return value


def _flatten(value: list[Any]) -> tuple[list[int], list[float]]:
    shape = _shape_of(value)
    flat: list[Any] = value
    for _ in shape[1:]:
        flat = [item for row in flat for item in row]
    total = 1
    for extent in shape:
        total *= extent
    try:
        numbers = [item if isinstance(item, int) else float(item) for item in flat]
    except (TypeError, ValueError):
        raise ValueError("a tensor or embedding holds numbers only") from None
    if len(numbers) != total:
        raise ValueError("the rows of a tensor differ in length")
    return shape, numbers


def _shape_of(value: Any) -> list[int]:
    if hasattr(value, "shape"):
        return [int(extent) for extent in value.shape]
    shape = []
    while isinstance(value, (list, tuple)):
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return shape


def _outer_length(value: Any) -> int:
    shape = _shape_of(value)
    total = 1
    for extent in shape:
        total *= extent
    return total


def _pack(numbers: list[float]) -> bytes:
    packed = array("d", numbers)
    if sys.byteorder != "little":
        packed.byteswap()
    return packed.tobytes()


def _decode_binary(header: bytes, data: bytes) -> Any:
    described = _values.loads(header) if header else {}
    if not isinstance(described, dict):
        raise DecodeError("the header of a binary value is not a map")
    if described.get("binary_format") != "raw":
        return unpickle(data, "a binary value")
    if described.get("dtype") != "float64" or len(data) % 8:
        raise DecodeError("a raw binary value must be float64")
    numbers = array("d")
    numbers.frombytes(data)
    if sys.byteorder != "little":
        numbers.byteswap()
    return _reshape(list(numbers), described.get("shape") or [len(numbers)])


def _reshape(flat: list[Any], shape: list[int]) -> list[Any]:
    for extent in reversed(shape[1:]):
        if extent <= 0 or len(flat) % extent:
            raise DecodeError(f"{len(flat)} numbers do not fill the shape {shape}")
        flat = [flat[i : i + extent] for i in range(0, len(flat), extent)]
    return flat


def _decode_struct(any_value: Any) -> Any:
    from google.protobuf.json_format import MessageToDict
    from google.protobuf.message import DecodeError as ProtobufError
    from google.protobuf.struct_pb2 import Struct

    if any_value.value.startswith(b"{"):  # JSON under the wrong name
        return _values.loads(any_value.value)
    message = Struct()
    try:
        message.ParseFromString(any_value.value)
    except ProtobufError as error:
        raise DecodeError(f"not a google.protobuf.Struct: {error}") from None
    return MessageToDict(message)


def _typed(value: Any, kind: str) -> Any:
    if kind == "float":
        if isinstance(value, str) and value in _SPECIAL_FLOATS:
            return _SPECIAL_FLOATS[value]
        return float(value) if isinstance(value, (int, float)) else value
    if kind == "integer" and isinstance(value, float):
        return int(value)
    if kind == "tensor" and isinstance(value, dict) and {"data", "shape"} <= value.keys():
        return _tensor(value["data"], value["shape"])
    if isinstance(value, dict) and value.get(ZERO_COPY_KEY):
        return ZeroCopyRef.from_payload(value)
    return value


def _tensor(data: Any, shape: Any) -> Any:
    try:
        import numpy
    except ImportError:
        raise DecodeError(
            "a tensor parameter needs numpy in the worker: pip install 'numpy>=1.24,<3'"
        ) from None
    return numpy.array(data).reshape(shape)
